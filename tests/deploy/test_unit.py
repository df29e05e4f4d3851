"""The unit for systemd: what systemd says of it, and that daemon and jail work behind the walls that it puts up."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from apex_exec.deploy import files
from apex_exec.sandbox import bpf
from tests.support import RUN_FOLDER, has_landlock, has_namespaces, need

pytestmark = pytest.mark.system
EXPOSURE_MAX = 4.0
SIMULATED = Path(__file__).parents[1] / "sandbox" / "simulated.py"
EPERM = 1


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    need(shutil.which("systemd-analyze"), "systemd-analyze (Debian's systemd)")
    path = tmp_path / "apex-exec.service"
    path.write_text(files.systemd())
    return path


def analyzed(*arguments: str) -> str:
    done = subprocess.run(["systemd-analyze", "--no-pager", *arguments], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "SYSTEMD_COLORS": "0"})
    said = [line for line in done.stderr.splitlines() if not line.startswith("#")]  # comments of its own
    assert not said, said
    return done.stdout


def service(unit: Path) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys have case
    parser.read(unit)
    return parser["Service"]


def allowed_calls(unit: Path) -> set[str]:
    """The system calls that the unit's filter lets through, by systemd's own groups."""
    groups: dict[str, list[str]] = {}
    for line in analyzed("syscall-filter").splitlines():
        if line.startswith("@"):
            members = groups.setdefault(line.strip(), [])
        elif line.startswith("    ") and not line.strip().startswith("#"):
            members.append(line.strip())
    waiting, found = service(unit)["SystemCallFilter"].split(), set()
    while waiting:
        name = waiting.pop()
        if name.startswith("@"):
            waiting += groups[name]
        else:
            found.add(name)
    return found


def test_systemd_finds_nothing_to_say_and_its_exposure_is_low(unit: Path) -> None:
    assert not analyzed("verify", str(unit))
    found = re.search(r"Overall exposure level for apex-exec.service: ([0-9.]+)",
                      analyzed("security", "--offline=true", str(unit)))
    assert found and float(found[1]) <= EXPOSURE_MAX


def test_behind_the_units_walls_everything_works_at_the_level_of_root(unit: Path) -> None:
    """Its capabilities, its filter and its read-only file system, put up one inside the other."""
    need(os.geteuid() == 0 and has_namespaces() and has_landlock(), "root, with namespaces and Landlock")
    allowed, numbers = allowed_calls(unit), bpf.numbers(os.uname().machine)
    refused = {name: EPERM for name in numbers if name not in allowed}
    assert {"setns", "unshare", "mount", "pivot_root"} <= allowed and refused, "the filter is read wrongly"
    kept = service(unit)["CapabilityBoundingSet"].lower().replace("cap_", "").split()
    walls = ["setpriv", "--bounding-set", ",".join(["-all", *(f"+{name}" for name in kept)]), "--inh-caps", "-all",
             "--no-new-privs", sys.executable, str(SIMULATED), json.dumps({"errno": refused})]
    private = tempfile.mkdtemp(prefix="w", dir=os.environ[RUN_FOLDER])  # a short path: sockets lie below it
    script = (f"mount --bind {private} {private} && mount -o remount,ro,bind / && export TMPDIR={private} && "
              f"cd {private} && ! touch /written && exec \"$@\"")
    for arguments, wanted in ((["doctor"], "isolation level L"), (["demo"], "")):
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *walls,
             sys.executable, "-m", "apex_exec", *arguments], capture_output=True, text=True, timeout=110,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONDONTWRITEBYTECODE": "1"})
        assert done.returncode == 0 and wanted in done.stdout, (done.stdout[-3000:], done.stderr[-3000:])
        if wanted:
            level = re.search(r"isolation level L(\d)", done.stdout)
            assert level and int(level[1]) >= 3, done.stdout
