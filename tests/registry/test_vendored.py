"""``plugin add``: wheels that pip chose become files of the bundle, locked by hash; what cannot work is refused in one
line. Real pip, on folders and indexes that are made here."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from apex_exec.config import load_settings
from apex_exec.errors import Refusal
from apex_exec.executor.blocking import BlockingExecutor
from apex_exec.market.review.coverage import measurable
from apex_exec.registry.bundles.bundle import make_bundle, pack, read_folder, unpack
from apex_exec.registry.scan.scanner import scan
from apex_exec.registry.trials.one_shot_worker import import_failure, jailed
from apex_exec.registry.trials.packages import by_its_own_maps
from apex_exec.registry.vendored.adding import Added, Folder, add, check, modules_of
from apex_exec.registry.vendored.index import Source
from apex_exec.registry.vendored.lock import LOCK_NAME, facts, read_lock
from apex_exec.registry.vendored.wheel import read_wheel
from tests.support.bundles import files, write_folder
from tests.support.wheels import make_index, make_sdist, make_wheel

GREET = {"greet/__init__.py": "from greet.words import WORD\nimport shout\n\ndef hello():\n    return shout.up(WORD)\n",
         "greet/words.py": "WORD = 'hello'\n", "greet/tests/test_x.py": "raise SystemExit\n", "greet/py.typed": ""}
SHOUT = {"shout.py": "def up(text):\n    return text.upper()\n"}


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    make_wheel(folder, "greet", "1.0", GREET, ["shout>=1"], licence="BSD-3-Clause")
    make_wheel(folder, "shout", "1.2", SHOUT)
    return folder


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    write_folder(tmp_path / "plugin", files())
    return tmp_path / "plugin"


@pytest.fixture(scope="module")
def executor() -> Iterator[BlockingExecutor]:
    with jailed(load_settings(None)) as made:
        yield made


def run(plugin: Path, names: list[str], wheels: Path | None, executor: BlockingExecutor | None = None,
        remove: list[str] | None = None, index: str = "") -> Added:
    source = Source(index, "" if wheels is None else str(wheels), wheels is not None)
    trial = None if executor is None else (
        lambda modules, vendor: import_failure(executor, load_settings(None), modules, vendor))
    return add(Folder(plugin), names, remove or [], source, trial)


def refused(plugin: Path, names: list[str], wheels: Path | None, executor: BlockingExecutor | None = None,
            index: str = "") -> Refusal:
    before = {path: path.read_bytes() for path in plugin.rglob("*") if path.is_file()}
    with pytest.raises(Refusal) as caught:
        run(plugin, names, wheels, executor, index=index)
    assert {path: path.read_bytes() for path in plugin.rglob("*") if path.is_file()} == before
    assert "\n" not in f"{caught.value}" and caught.value.hint
    return caught.value


def test_a_write_that_fails_leaves_the_folder_as_it_was(plugin: Path, wheels: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    run(plugin, ["shout"], wheels)
    before = {path: path.read_bytes() for path in plugin.rglob("*") if path.is_file()}
    rename = Path.rename

    def full(self: Path, target: Path) -> Path:
        if Path(target).name == "vendor" and not self.name.endswith(".old"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space"):
        run(plugin, ["greet"], wheels)
    assert {path: path.read_bytes() for path in plugin.rglob("*") if path.is_file()} == before


def test_what_python_keeps_beside_a_package_is_not_taken_for_a_change(plugin: Path, wheels: Path) -> None:
    run(plugin, ["shout"], wheels)
    (plugin / "vendor" / "__pycache__").mkdir()
    (plugin / "vendor" / "__pycache__" / "shout.cpython-311.pyc").write_bytes(b"x")
    assert check(Folder(plugin), Source("", str(wheels), True)) == []


def test_a_package_comes_with_what_it_needs_and_is_the_wheels_own(plugin: Path, wheels: Path,
                                                                  executor: BlockingExecutor) -> None:
    done = run(plugin, ["greet"], wheels, executor)
    assert done.changed == ["+ greet 1.0", "+ shout 1.2"] and done.tried
    assert json.loads((plugin / "manifest.json").read_text())["dependencies"] == ["greet==1.0"]
    made = read_folder(plugin)
    assert {path for path in made.vendored if path.endswith(".py")} == {
        "vendor/greet/__init__.py", "vendor/greet/words.py", "vendor/shout.py"}
    shown = {one["name"]: one for one in facts(read_lock(made.files), made.files)}
    assert shown["greet"]["licence"] == "BSD-3-Clause" and shown["greet"]["requires"] == ["shout"]
    wheel = wheels / "shout-1.2-py3-none-any.whl"
    assert shown["shout"]["sha256"] == hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert unpack(pack(made))[0].digest == made.digest
    assert check(Folder(plugin), Source("", str(wheels), True)) == []
    (plugin / "vendor" / "shout.py").write_text("def up(text):\n    return 'mine'\n")
    assert check(Folder(plugin), Source("", str(wheels), True)) == ["vendor/shout.py: it differs from the wheel's"]


@pytest.fixture
def vendored(tmp_path: Path) -> dict[str, bytes]:
    """The files of a bundle with a package, made without pip."""
    from apex_exec.registry.bundles.bundle import is_native
    from apex_exec.registry.vendored.lock import Lock

    wheel = read_wheel(make_wheel(tmp_path / "w", "loud", "2.0", {
        "loud/__init__.py": "import os\nos.system('x')\nvalue = eval('1')\n", "loud/_fast.so": b"\x7fELF",
        "loud/latin.py": "# -*- coding: latin-1 -*-\nname = '\xe9'\n".encode("latin-1")}), is_native)
    assert wheel.native == ("loud/_fast.so",) and modules_of(wheel) == ["loud"]
    lock = Lock(requires=("loud",), packages=(wheel.package,))
    return {**files(dependencies=["loud"]), LOCK_NAME: lock.encoded(),
            **{f"vendor/{path}": body for path, body in wheel.files.items()}}


def problems(given: dict[str, bytes]) -> set[str]:
    with pytest.raises(Refusal) as caught:
        make_bundle(given, "x")
    return {problem["code"] for problem in caught.value.problems}


def test_files_in_vendor_are_the_lock_s_or_the_bundle_is_refused(vendored: dict[str, bytes]) -> None:
    made = make_bundle(vendored, "x")
    assert len(made.vendored) == 5 and "vendor/loud/latin.py" in made.loaded
    assert problems({**vendored, "vendor/loud/__init__.py": b"mine = 1\n"}) == {"vendor_changed"}
    assert problems({**vendored, "vendor/mine.py": b"mine = 1\n"}) == {"vendor_unknown"}
    assert problems({path: body for path, body in vendored.items() if path != "vendor/loud/latin.py"}) == {
        "vendor_changed"}
    assert problems({path: body for path, body in vendored.items() if path != LOCK_NAME}) >= {"not_vendored"}
    assert problems({**vendored, LOCK_NAME: b"{}x"}) == {"lock_malformed"}
    lock = json.loads(vendored[LOCK_NAME])
    assert problems({**vendored, LOCK_NAME: json.dumps({**lock, "packages": lock["packages"] * 2}).encode()}) == {
        "vendored_twice"}
    lock["packages"][0]["record"] = "0" * 64
    assert "vendor_changed" in problems({**vendored, LOCK_NAME: json.dumps(lock).encode()})
    asks = json.loads(vendored["manifest.json"]) | {"dependencies": ["loud<2", "other"]}
    assert problems({**vendored, "manifest.json": json.dumps(asks).encode()}) == {"not_vendored"}


def forged(given: dict[str, bytes], record: bytes, count: int = 1, **package: str) -> dict[str, bytes]:
    """``given`` with a lock that names ``count`` packages of one list of files."""
    one = {"name": "loud", "version": "2.0", "licence": "MIT", "wheel": "loud.whl", "sha256": "0" * 64, "info": "info",
           "record": hashlib.sha256(record).hexdigest(), **package}
    packages = [{**one, "name": f"loud{number or ''}"} for number in range(count)]
    return {**{path: body for path, body in given.items() if not path.startswith("vendor/")},
            "vendor/info/RECORD": record,
            LOCK_NAME: json.dumps({"version": 1, "requires": ["loud"], "packages": packages}).encode()}


NAMES = b"".join(b"%x,,\n" % number for number in range(50_000))
LYING = {
    "a field without an end": ((b"a" * 200_000 + b",sha256=x,1\n",), {}, "vendor_changed"),
    "a quote without an end": ((b'"' + b"a" * 200_000,), {}, "vendor_changed"),
    "a carriage return": ((b"a\rb,sha256=x,1\n",), {}, "vendor_changed"),
    "a byte of NUL": ((b"a\0b,sha256=x,1\n",), {}, "vendor_changed"),
    "a version of 5,000 digits": ((b"",), {"version": "1" * 5000}, "lock_malformed"),
    "a version that is none": ((b"",), {"version": "not a version"}, "vendor_unknown"),
    "50,000 files": ((NAMES,), {}, "vendor_too_many"),
    "a way out": ((b"../plugin.py,,\ninfo/RECORD,,\n",), {"info": "info"}, "vendor_changed"),
    "two hundred packages of one list": ((NAMES[:100_000], 200), {}, "vendored_twice"),
}


@pytest.mark.parametrize("name", LYING)
def test_a_lock_that_lies_is_refused_and_costs_little(vendored: dict[str, bytes], name: str) -> None:
    arguments, package, code = LYING[name]
    made = forged(vendored, *arguments, **package)
    begun = time.process_time()
    with pytest.raises(Refusal) as caught:
        make_bundle(made, "x")
    assert code in {problem["code"] for problem in caught.value.problems}
    assert len(caught.value.problems) <= 210 and time.process_time() - begun < 5


def test_the_entry_point_is_the_authors_own_file(vendored: dict[str, bytes]) -> None:
    manifest = json.loads(vendored["manifest.json"])
    manifest["manifest"]["entrypoint"] = "vendor/loud/__init__.py"
    assert problems({**vendored, "manifest.json": json.dumps(manifest).encode()}) == {"entrypoint_vendored"}


def test_findings_in_a_package_weigh_less_and_own_code_counts_alone(vendored: dict[str, bytes]) -> None:
    made = make_bundle({**vendored, "own.py": b"import os\nos.system('x')\n"}, "x")
    found = {(one.rule, one.path): one for one in scan(made.files, made.manifest, with_bandit=False).findings}
    assert found["process-start", "own.py"].severity == "error"
    inside = found["process-start", "vendor/loud/__init__.py"]
    assert inside.severity == "warning" and inside.message.startswith("loud 2.0: ")
    left_out = by_its_own_maps(made, ())
    assert left_out.packages == ["loud 2.0"]
    assert set(measurable(made.files, (), left_out)) == {"plugin.py", "own.py"}


def test_a_javascript_bundle_gains_nothing_by_a_lock(vendored: dict[str, bytes]) -> None:
    code = b"export default { id: 'sample', version: '1.0.0', permissions: [], hooks: { onDashboardLoad() {} } };"
    given = {path: body for path, body in vendored.items() if path != "plugin.py"}
    manifest = json.loads(given["manifest.json"]) | {"manifest": {"entrypoint": "vendor/loud/index.js",
                                                                  "hooks": ["onDashboardLoad"]}}
    del manifest["dependencies"]
    made = make_bundle({**given, "vendor/loud/index.js": code, "manifest.json": json.dumps(manifest).encode()}, "x")
    assert made.vendored == {} and by_its_own_maps(made, ()).files == []


BAD = {
    "native": ("fast", {"fast/__init__.py": "from fast import _core\n", "fast/_core.so": b"\x7fELF"}, "native_code",
               "fast/_core.so"),
    "sockets": ("netty", {"netty.py": "import socket\n"}, "unusable_package", "context.api.fetch"),
    "threads": ("thready", {"thready.py": "import threading\nthreading.Thread(target=print).start()\n"},
                "unusable_package", "has no threads"),
    "file": ("filey", {"filey.py": "open('/etc/passwd').read()\n"}, "unusable_package", "has no files"),
}


@pytest.mark.slow_after(2)
@pytest.mark.parametrize("kind", BAD)
def test_a_package_that_cannot_work_in_a_plugin_is_refused_with_the_reason(
        plugin: Path, tmp_path: Path, executor: BlockingExecutor, kind: str) -> None:
    name, body, reason, words = BAD[kind]
    make_wheel(tmp_path / "w", name, "1.0", body)
    caught = refused(plugin, [name], tmp_path / "w", executor)
    assert caught.reason == reason and words in f"{caught}" and name in f"{caught}"


@pytest.mark.slow
def test_a_package_whose_compiled_part_is_a_speed_up_comes_without_it(plugin: Path, tmp_path: Path,
                                                                      executor: BlockingExecutor) -> None:
    make_wheel(tmp_path / "w", "maybe", "1.0", {
        "maybe.py": "try:\n    import _maybe\nexcept ImportError:\n    _maybe = None\n", "_maybe.so": b"\x7fELF"})
    done = run(plugin, ["maybe"], tmp_path / "w", executor)
    assert "left out its compiled parts (_maybe.so)" in done.notes[0]
    assert not (plugin / "vendor" / "_maybe.so").exists() and read_folder(plugin).vendored


@pytest.mark.slow
def test_what_pip_says_becomes_one_line_that_says_what_to_do(plugin: Path, wheels: Path, tmp_path: Path) -> None:
    make_sdist(wheels, "sourced", "1.0")
    assert refused(plugin, ["sourced"], wheels).reason == "sdist_only"
    assert refused(plugin, ["nothing-like-it"], wheels).reason == "no_such_package"
    assert refused(plugin, ["greet==9"], wheels).reason == "no_such_version"
    assert refused(plugin, ["greet", "shout==0.9"], wheels).reason in ("conflict", "no_such_version")
    assert refused(plugin, ["greet==1.0", "greet==2.0"], wheels).reason == "conflict"
    assert refused(plugin, ["greet @ https://example.com/greet.whl"], wheels).reason == "bad_requirement"
    assert refused(plugin, ["greet"], None, index="http://127.0.0.1:9/simple").reason == "index_unreachable"
    make_wheel(wheels, "shout", "0.9", SHOUT)
    caught = refused(plugin, ["greet", "shout==0.9"], wheels)
    assert caught.reason == "conflict" and "shout" in f"{caught}"


@pytest.mark.slow
def test_a_yanked_release_is_refused_and_a_replaced_wheel_found_out(plugin: Path, wheels: Path, tmp_path: Path) -> None:
    listed = sorted(wheels.glob("*.whl"))
    address = make_index(tmp_path / "simple", listed, yanked=["shout-1.2-py3-none-any.whl"])
    assert refused(plugin, ["shout==1.2"], None, index=address).reason == "yanked"
    run(plugin, ["shout"], wheels)
    make_wheel(wheels, "shout", "1.2", {"shout.py": "def up(text):\n    return 'stolen'\n"})
    assert refused(plugin, [], wheels).reason == "hash_changed"
    with pytest.raises(Refusal) as caught:
        check(Folder(plugin), Source("", str(wheels), True))
    assert caught.value.reason == "hash_changed"


@pytest.mark.slow
def test_a_package_is_exchanged_put_back_and_taken_out(plugin: Path, wheels: Path) -> None:
    run(plugin, ["greet"], wheels)
    make_wheel(wheels, "shout", "1.3", SHOUT)
    (plugin / "vendor" / "shout.py").unlink()
    assert run(plugin, [], wheels).changed == []
    assert (plugin / "vendor" / "shout.py").exists()
    assert run(plugin, ["shout==1.3"], wheels).changed == ["~ shout 1.2 -> 1.3"]
    assert run(plugin, [], wheels, remove=["greet"]).changed == ["- greet 1.0"]
    assert run(plugin, [], wheels, remove=["shout"]).changed == ["- shout 1.3"]
    assert not (plugin / "vendor").exists() and not (plugin / LOCK_NAME).exists()
    assert "dependencies" not in json.loads((plugin / "manifest.json").read_text())
