"""What a reviewer reads of a submission: the difference, findings in place, and what a version asks for anew."""

from __future__ import annotations

from pathlib import Path

from apex_exec.market.review import reading
from apex_exec.registry.bundles.bundle import make_bundle
from apex_exec.registry.vendored.lock import LOCK_NAME, Lock
from apex_exec.registry.vendored.wheel import read_wheel
from tests.support.bundles import files
from tests.support.wheels import make_wheel


def test_the_difference_is_of_the_authors_own_files_and_packages_are_named(tmp_path: Path) -> None:
    wheel = read_wheel(make_wheel(tmp_path, "loud", "2.0", {"loud.py": "value = 1\n"}), lambda *_: False)
    vendored = {LOCK_NAME: Lock(requires=("loud",), packages=(wheel.package,)).encoded(),
                **{f"vendor/{path}": body for path, body in wheel.files.items()}}
    before = make_bundle({**files("old"), "gone.txt": b"a\n", "picture.bin": b"\0"}, "x")
    after = make_bundle({**files("new", permissions=["ui:render", "data:read"], dependencies=["loud"]), **vendored,
                         "picture.bin": b"\0\0"}, "x")
    lines = list(reading.difference(before, after))
    assert "--- a/gone.txt" in lines and "+++ /dev/null" in lines and "binary picture.bin: 1 -> 2 bytes" in lines
    assert any(line.startswith("-") and "old" in line for line in lines)
    assert any(line.startswith("+") and "new" in line for line in lines)
    assert not any("vendor/" in line or "sha256" in line for line in lines)
    assert reading.changes(before, after) == ["+ permission data:read", "+ package loud 2.0"]
    assert "- permission data:read" in reading.changes(after, before)
    assert "+ permission ui:render" in reading.changes(None, after)


def test_a_finding_stands_below_its_line() -> None:
    made = make_bundle(files(code="import os\nos.system('x')\nplugin = None\n"), "x")
    found = reading.findings_by_line(
        ["plugin.py:2: os.system starts a process: do not", "plugin.py:0: odd", "no place"])
    assert list(reading.source(made, "plugin.py", found["plugin.py"])) == [
        "      >>> odd", "    1 import os", "    2 os.system('x')", "      >>> os.system starts a process: do not",
        "    3 plugin = None"]


def vendored(folder: Path, body: str) -> dict[str, bytes]:
    """The files of a package ``loud 2.0`` with this code, and its lock."""
    wheel = read_wheel(make_wheel(folder, "loud", "2.0", {"loud.py": body}), lambda *_: False)
    return {LOCK_NAME: Lock(requires=("loud",), packages=(wheel.package,)).encoded(),
            **{f"vendor/{path}": body for path, body in wheel.files.items()}}


def test_a_package_with_other_files_under_the_same_version_is_a_change(tmp_path: Path) -> None:
    before, after = (make_bundle({**files("x", dependencies=["loud"]), **vendored(tmp_path / name, f"{name} = 1\n")},
                                 "x") for name in ("good", "evil"))
    assert list(reading.difference(before, after)) == []
    assert reading.changes(before, after) == ["~ package loud 2.0: its files are others than before, under the same "
                                              "version"]
    assert reading.changes(before, before) == []


def test_a_file_that_was_a_packages_is_the_authors_once_the_lock_is_gone(tmp_path: Path) -> None:
    before = make_bundle({**files("x", dependencies=["loud"]), **vendored(tmp_path, "value = 1\n")}, "x")
    after = make_bundle({**files("x"), "vendor/loud.py": b"evil = 1\n"}, "x")
    assert {"-value = 1", "+evil = 1"} <= set(reading.difference(before, after))
    assert "- package loud 2.0" in reading.changes(before, after)


def test_code_behind_many_spaces_is_said_to_be_there() -> None:
    hidden = f"value = 1{' ' * 500}; import os\n"
    before, after = make_bundle(files(code="plugin = None\n"), "x"), make_bundle(files(code=hidden), "x")
    for line in (next(reading.source(after, "plugin.py", {})),
                 next(line for line in reading.difference(before, after) if line.startswith("+value"))):
        assert "more characters" in line and len(line) < 500


def test_bytes_that_are_no_text_are_a_change_too() -> None:
    before, after = (make_bundle({**files(), "data.bin": body}, "x") for body in (b"\xff\xfe", b"\xfd\xfc"))
    assert list(reading.difference(before, after)) == ["binary data.bin: 2 -> 2 bytes"]


def test_lines_are_counted_as_the_scan_counts_them() -> None:
    made = make_bundle(files(code="a = '\x0b'\x0c\nb = 2\n"), "x")
    assert list(reading.source(made, "plugin.py", {2: ["here"]})) == [
        "    1 a = '\x0b'\x0c", "    2 b = 2", "      >>> here"]
