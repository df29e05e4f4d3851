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
