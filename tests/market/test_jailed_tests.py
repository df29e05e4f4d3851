"""A bundle's tests in the real jail: bounded, with nothing to write to, and no report is believed for its own sake."""

from __future__ import annotations

import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from apex_exec.config import Settings, load_settings
from apex_exec.errors import Refusal
from apex_exec.market.review import checks
from apex_exec.registry.bundles.bundle import Bundle, read_folder
from apex_exec.registry.trials.testing import Run, prove, run_tests
from apex_exec.sandbox.probe import probe
from tests.market.shops import write_bundle
from tests.support import need

PLUGIN = b'''"""Sums."""

from __future__ import annotations

from workers import Plugin

plugin = Plugin(id="sums", version="1.0.0", permissions=[])


@plugin.hook("onDataFetch")
def total(params):
    """One sum."""
    values = params.get("values")
    if not values:
        return {"transformedData": 0}
    elif values == [7]:
        return {"transformedData": "seven"}
    return {"transformedData": sum(values)}


def never_tested(x):  # pragma: no cover
    if x:
        x += 1
        x += 2
        x += 3
    return x
'''
GOOD = '''
import pytest
from plugin import never_tested, total

@pytest.fixture
def seven():
    return [7]

@pytest.mark.parametrize(("values", "expected"), [([], 0), ([1, 2], 3)])
def test_sums(values, expected):
    assert total({"values": values})["transformedData"] == expected

def test_seven(seven):
    assert total({"values": seven})["transformedData"] == "seven"

def test_the_other_one():
    assert never_tested(0) == 0 and never_tested(1) == 7
'''
POOR = "from plugin import total\n\ndef test_sums():\n    assert total({'values': [1]})['transformedData'] == 1\n"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    need(find_spec("coverage"), "coverage is not installed")
    found = load_settings(None, {"sandbox.min_level": "L2"})
    try:
        run_tests(bundle_of(tmp_path_factory.mktemp("poor"), POOR), found)
    except Refusal as error:
        need(False, error.message)
    return found


def bundle_of(folder: Path, tests: str, plugin: bytes = PLUGIN, **files: str) -> Bundle:
    if folder.parent.exists():
        write_bundle(folder, {"plugin.py": plugin, "tests/test_sums.py": tests.encode(),
                              **{f"tests/{name}.py": body.encode() for name, body in files.items()}})
        return read_folder(folder)
    from apex_exec.registry.bundles.bundle import make_bundle

    manifest = (b'{"id": "sums", "name": "Sums", "version": "1.0.0", "author": "A", "permissions": [], '
                b'"manifest": {"entrypoint": "plugin.py", "hooks": ["onDataFetch"]}}')
    return make_bundle({"manifest.json": manifest, "plugin.py": plugin, "tests/test_sums.py": tests.encode()}, "here")


def judge(bundle: Bundle, settings: Settings, seconds: float = 20.0) -> dict[str, checks.Check]:
    found = checks.check(
        bundle, now_ns=0, scan=lambda _: ([], []), run_tests=lambda one: run_tests(one, settings, run_seconds=seconds),
        prove=lambda one, lines: prove(one, settings, lines), contact="", response_hours=0, scaffold="")
    return {check.name: check for check in found.checks}


def test_good_tests_pass_in_the_jail_and_their_coverage_is_proven_line_by_line(tmp_path: Path,
                                                                               settings: Settings) -> None:
    found = judge(bundle_of(tmp_path / "sums", GOOD), settings)
    assert found["tests"].passed and found["tests"].detail["passed"] == 4
    assert found["coverage"].passed
    assert found["coverage"].detail == {
        "lines": 17, "linesRun": 17, "branches": 6, "branchesRun": 6, "percent": "100.00", "files": ["plugin.py"],
        "run": {"plugin.py": "3,5,7,10-11,13-18,21-26"}, "missed": {},
        "proven": 17, "provenPercent": "100.00", "claimed": 0, "claimedBranches": 6, "limit": "", "packages": []}


@pytest.mark.slow
def test_too_little_is_named_with_its_lines_whatever_the_pragma_says(tmp_path: Path, settings: Settings) -> None:
    found = judge(bundle_of(tmp_path / "sums", POOR), settings)
    assert found["tests"].passed and not found["coverage"].passed
    assert any("not run: 15, 17, 22, 23, 24, 25, 26" in line for line in found["coverage"].problems), found["coverage"]


def test_a_failing_test_says_what_was_compared(tmp_path: Path, settings: Settings) -> None:
    run = run_tests(bundle_of(tmp_path / "sums", POOR.replace("== 1\n", "== 2\n")), settings)
    assert (run.passed, run.failed) == (0, 1) and "assert 1 == 2" in run.failures[0]


@pytest.mark.parametrize(("body", "says"), [
    ("import os\n    os._exit(0)", "ended their own process before their report (status 0)"),
    ("import os, signal\n    signal.raise_signal(signal.SIGKILL)", ""),
    ("raise SystemExit(0)", ""),
    ("import pytest\n    pytest.exit('enough', 0)", ""),
    ("while True:\n        pass", "ran longer than 2 s"),
    ("import sys\n    sys.settrace(None)", "took the tracer away"),
    ("x = [bytearray(10**6) for _ in range(10**6)]", ""),
    ("open('/x', 'w')", ""),
    ("import os\n    os.write(3, b'\\\\0' * 500)\n    os._exit(0)", "cannot be read"),
    ("import os\n    os.write(3, b'\\2' + bytes(7) + b'\\x09\\x92\\xa6placed\\x80')", "places were reported twice"),
])
@pytest.mark.slow_after(1)
def test_a_test_that_kills_hangs_or_leaves_fails(tmp_path: Path, settings: Settings, body: str, says: str) -> None:
    found = judge(bundle_of(tmp_path / "sums", f"{GOOD}\ndef test_evil():\n    {body}\n"), settings, seconds=2.0)
    assert not found["tests"].passed
    assert any(says in line for line in found["tests"].problems), found["tests"]


FOLDER = GOOD + '''
import os, shutil, tempfile
from pathlib import Path

@pytest.mark.parametrize("again", range(40))
def test_a_folder_of_its_own_that_others_left_empty(tmp_path, again):
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "notes" / "deep").mkdir(parents=True)
    (tmp_path / "notes" / "deep" / "a.txt").write_bytes(b"x" * 1_000_000)  # 40 of them are more than the folder holds
    os.rename(tmp_path / "notes", tmp_path / "kept")
    assert (tmp_path / "kept" / "deep" / "a.txt").stat().st_size == 1_000_000

def test_the_standard_library_finds_it(monkeypatch, tmp_path):
    with tempfile.TemporaryDirectory() as name:
        Path(name, "b").write_text("b")
        shutil.copy(Path(name, "b"), tmp_path / "c")
        os.utime(Path(name, "b"), (10**9, 10**9))
        shutil.copytree(name, tmp_path / "tree")
        assert (tmp_path / "tree" / "b").stat().st_mtime == 10**9
        shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "tree")
        os.truncate(tmp_path / "tree" / "b", 0)
        shutil.move(tmp_path / "tree" / "b", tmp_path / "moved")
    assert not os.path.exists(name)
    monkeypatch.chdir(tmp_path)
    assert open("c").read() == "b" and os.getcwd() == str(tmp_path)

def test_nothing_is_left_of_another_run_and_nothing_else_is_there():
    assert os.listdir("/tmp") in ([], ["pytest"])
    for path in ("/etc/passwd", "/proc/self/environ", "/dev/null", "/plugin.py"):
        with pytest.raises(FileNotFoundError):
            open(path)
    for refused in (lambda: os.listdir("/"), lambda: open("/x", "w"), lambda: os.mkdir("/y"),
                    lambda: os.rename("/tmp/pytest", "/pytest"), lambda: os.symlink("/etc", "/tmp/link"),
                    lambda: os.link("/tmp/a", "/tmp/b"), lambda: os.mkfifo("/tmp/fifo"), lambda: os.fchmod(0, 0o777),
                    lambda: os.utime(0), lambda: os.utime(3, (1, 1)),
                    lambda: os.truncate("/tmp", 0), lambda: os.utime("/", (1, 1)), lambda: os.mknod("/tmp/node")):
        with pytest.raises(OSError):
            refused()

def test_it_is_bounded_in_bytes_and_in_files():
    names = []
    with pytest.raises(OSError, match="No space left"):
        while len(names) < 3000:
            names.append(f"/tmp/{len(names)}")
            open(names[-1], "w").close()
    for name in names:
        if os.path.exists(name):
            os.unlink(name)
    assert len(names) < 1100
    with pytest.raises(OSError), open("/tmp/big", "wb") as file:
        for _ in range(40):
            file.write(bytes(1 << 20))
    assert os.path.getsize("/tmp/big") <= 16 << 20
    os.unlink("/tmp/big")
'''


@pytest.mark.slow
def test_tests_have_a_temporary_folder_and_nothing_else_that_can_be_written(tmp_path: Path, settings: Settings) -> None:
    need(probe(scratch=True).level >= "L3", "this machine makes no namespaces")
    found = judge(bundle_of(tmp_path / "sums", FOLDER), settings, seconds=40.0)
    assert found["tests"].passed, found["tests"]
    assert found["coverage"].passed and found["coverage"].detail["proven"] >= 12, found["coverage"]


@pytest.mark.slow
def test_without_an_empty_root_there_is_no_folder_and_no_machine_file_either(tmp_path: Path) -> None:
    lower = load_settings(None, {"sandbox.min_level": "L2", "sandbox.waive": ["namespaces"]})
    tests = POOR + "\ndef test_folder(tmp_path):\n    pass\n\ndef test_file():\n    open('/tmp/x', 'w')\n"
    try:
        run = run_tests(bundle_of(tmp_path / "sums", tests), lower)
    except Refusal as error:
        need(False, error.message)
    assert (run.passed, run.failed) == (1, 2), run
    assert "gives tests no temporary folder" in run.failures[0] and "a plugin has no files but" in run.failures[1]


@pytest.mark.slow
def test_a_leaver_leaves_nothing_in_the_machine(tmp_path: Path, settings: Settings) -> None:
    name = f"/tmp/{uuid.uuid4()}"
    tests = f"import os\n\ndef test_it():\n    open('{name}', 'w').write('x' * 1000)\n    os._exit(0)\n"
    assert "ended their own process" in run_tests(bundle_of(tmp_path / "sums", tests), settings).ended
    assert not Path(name).exists()


FORGED_FRAME = '''
import os
import msgspec
from workers import wire

def test_forges():
    arcs = {"plugin.py": [[-1, 1]] + [[a, a + 1] for a in range(1, 26)] + [[14, 16], [22, 26]]}
    body = msgspec.msgpack.encode(["tested", 9, 0, [], arcs, False])
    os.write(3, b"\\x02" + len(body).to_bytes(8, "big") + body)
    os._exit(0)
'''
FORGED_DATA = '''
import gc
from plugin import total

def test_forges():
    assert total({"values": [1]})
    for thing in gc.get_objects():
        if type(thing).__name__ == "PyTracer":
            thing.data["plugin.py"] = {(a, a + 1) for a in range(1, 26)} | {(14, 16), (22, 26), (-1, 1)}
'''


@pytest.mark.parametrize("tests", [FORGED_FRAME, FORGED_DATA])
@pytest.mark.slow
def test_a_forged_report_is_caught_by_a_line_that_does_not_run(tmp_path: Path, settings: Settings, tests: str) -> None:
    coverage = judge(bundle_of(tmp_path / "sums", tests), settings)["coverage"]
    assert not coverage.passed and "the report is forged" in coverage.problems[0]


@pytest.mark.slow
def test_a_second_report_after_the_first_is_no_report(tmp_path: Path, settings: Settings) -> None:
    twice = FORGED_FRAME.replace("    os._exit(0)\n", "")
    assert "after the report" in run_tests(bundle_of(tmp_path / "sums", twice), settings).ended


@pytest.mark.slow
def test_no_tests_and_tests_that_find_nothing_fail(tmp_path: Path, settings: Settings) -> None:
    found = judge(bundle_of(tmp_path / "sums", "x = 1\n"), settings)
    assert found["tests"].problems == ["no test was found: name files test_*.py and functions test_*"]
    assert not found["coverage"].passed


@pytest.mark.slow
def test_conftest_and_helpers_of_the_bundle_are_found(tmp_path: Path, settings: Settings) -> None:
    run = run_tests(bundle_of(
        tmp_path / "sums", "from tests.helpers import two\n\ndef test_it(one):\n    assert one + 1 == two()\n",
        conftest="import pytest\n\n@pytest.fixture\ndef one():\n    return 1\n",
        helpers="def two():\n    return 2\n"), settings)
    assert (run.passed, run.failed, run.ended) == (1, 0, ""), run


@pytest.mark.slow
def test_async_hooks_prints_and_the_exact_boundary(tmp_path: Path, settings: Settings) -> None:
    plugin = b"""import asyncio
async def hook(n):
    await asyncio.sleep(0)
    return n
plugin = {"id": "sums", "version": "1.0.0", "permissions": [], "hooks": {"onDataFetch": hook}}
def idle():
    a = 1
    b = 2
    return a + b
"""
    tests = "import asyncio\nfrom plugin import hook\n\ndef test_it():\n    print('hello')\n" \
            "    assert asyncio.run(hook(3)) == 3\n"
    run = run_tests(bundle_of(tmp_path / "sums", tests, plugin), settings)
    assert run.output == ["hello"]
    found: Any = judge(bundle_of(tmp_path / "sums", tests, plugin), settings)["coverage"]
    assert found.detail["percent"] == "66.66" and not found.passed
    shorter = plugin.replace(b"    b = 2\n    return a + b\n", b"    return a\n")
    exact = judge(bundle_of(tmp_path / "exact", tests, shorter + b"x = 1\ny = 2\n"), settings)["coverage"]
    assert exact.detail["percent"] == "80.00" and exact.passed


def test_a_machine_below_the_wanted_level_runs_no_tests(tmp_path: Path, settings: Settings) -> None:
    other = load_settings(None, {"sandbox.min_level": "L4", "sandbox.waive": ["landlock"]})
    with pytest.raises(Refusal) as caught:
        run: Run = run_tests(bundle_of(tmp_path / "sums", POOR), other)
        need(run.level < "L4", "this machine reaches L4 without Landlock")
    assert caught.value.reason == "tests_not_jailed"
