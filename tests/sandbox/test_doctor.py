"""``doctor`` and ``serve`` say what this machine gives: as root, unprivileged, and in a container that forbids much."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.sandbox.plan import LAYERS
from tests.support import need, other_user

ROOT = Path(__file__).parents[2]
BLOCKED = ("PYTHON", "-c")
NO_UNSHARE = """
import ctypes, os, sys
from apex_exec.sandbox import bpf
machine = os.uname().machine
number = bpf.numbers(machine)["unshare"]
code = bpf.Program([(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, bpf.RET_ERRNO | 1),
                    (0x06, 0, 0, bpf.RET_ALLOW)], []).packed()
buffer = ctypes.create_string_buffer(code, len(code))
class P(ctypes.Structure):
    _fields_ = [("n", ctypes.c_ushort), ("f", ctypes.c_void_p)]
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(P(len(code) // 8, ctypes.addressof(buffer)))) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""


def doctor(*blocked: str, waive: str = "[]", folder: Path, min_level: str = "L2",
           unprivileged: bool = False) -> tuple[int, dict[str, Any]]:
    """(status, answer). ``blocked``: a program (and its arguments) that takes rights away and executes the rest."""
    config = folder / "c.toml"
    config.write_text(f'[sandbox]\nmin_level = "{min_level}"\nwaive = {waive}\n')
    python, who, env = sys.executable, {"cwd": ROOT}, {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    if unprivileged:
        python, who, env = other_user.python(), other_user.become(), other_user.environment()
    command = [part.replace("PYTHON", python) for part in blocked]
    done = subprocess.run([*command, python, "-m", "apex_exec", "doctor", "--json", "--config", str(config)],
                          timeout=60, capture_output=True, text=True, env=env, **who)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def state(found: dict[str, Any], layer: str) -> str:
    return next(str(row["state"]) for row in found["layers"] if row["layer"] == layer)


@pytest.fixture
def readable() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_every_layer_has_a_row_and_the_level_is_told(readable: Path) -> None:
    status, found = doctor(folder=readable)
    assert [row["layer"] for row in found["layers"]] == list(LAYERS)
    need(found["level"] >= "L3", f"this machine reaches {found['level']} only")
    assert status == 0 and found["ok"] and found["governor"] in ("sampled", "enforced")


def test_an_unprivileged_daemon_shares_one_uid_and_says_so(readable: Path) -> None:
    need(os.geteuid() == 0, "changing the user takes root")
    _, found = doctor(unprivileged=True, folder=readable)
    assert state(found, "identity") == "degraded"
    need(state(found, "namespaces") == "active", "user namespaces are not allowed here")
    assert found["level"] == "L3"


@pytest.mark.parametrize("unprivileged", [False, True], ids=["root", "unprivileged"])
def test_a_container_without_namespaces_gets_l2_and_says_what_to_change(unprivileged: bool, readable: Path) -> None:
    need(os.geteuid() == 0, "changing the user takes root")
    _, found = doctor(*BLOCKED, NO_UNSHARE, unprivileged=unprivileged, folder=readable)
    row = next(row for row in found["layers"] if row["layer"] == "namespaces")
    assert (row["state"], row["errno"]) == ("absent", "EPERM") and row["change"]
    assert found["level"] == "L2" and found["ok"]


def test_a_root_without_capabilities_is_found_out(readable: Path) -> None:
    need(os.geteuid() == 0, "dropping capabilities takes root")
    need(shutil.which("setpriv"), "setpriv (Debian's util-linux)")
    _, found = doctor("setpriv", "--bounding-set=-all", "--inh-caps=-all", folder=readable)
    assert state(found, "namespaces") == "absent" and state(found, "identity") == "degraded"
    assert found["level"] == "L2"


def test_a_level_below_the_minimum_is_refused_by_doctor_and_serve_alike(readable: Path) -> None:
    need(os.geteuid() == 0, "changing the user takes root")
    status, found = doctor(*BLOCKED, NO_UNSHARE, folder=readable, min_level="L3")
    assert status == 1 and not found["ok"]
    done = subprocess.run([sys.executable, "-c", NO_UNSHARE, sys.executable, "-m", "apex_exec", "serve", "--config",
                           str(readable / "c.toml"), "--runtime-dir", str(readable / "run")], cwd=ROOT, timeout=60,
                          capture_output=True, text=True)
    assert done.returncode == 2 and "sandbox.min_level = L3" in done.stderr and "namespaces" in done.stderr
    status, found = doctor(*BLOCKED, NO_UNSHARE, folder=readable, min_level="L3", waive='["namespaces"]')
    assert status == 0 and found["level"] == "L2" and found["waived"] == ["namespaces"]


DROPS = """
import os, sys
import apex_exec.cli
os.setgroups([]); os.setgid({uid}); os.setuid({uid})
sys.argv = ["apex-exec", {verb!r}, *{arguments!r}]
apex_exec.cli.main()
"""


@pytest.mark.parametrize("verb", ["doctor", "serve"])
def test_a_user_who_cannot_start_the_interpreter_again_is_told_so_in_one_line(verb: str, readable: Path) -> None:
    other_user.need_root()
    private = readable / "private"
    private.mkdir(mode=0o700)
    (private / "python3").symlink_to(other_user.python())
    packages = next(Path(other_user.python()).parents[1].glob("lib/*/site-packages"))
    os.chown(readable, other_user.UID, other_user.UID)
    arguments = [] if verb == "doctor" else ["--runtime-dir", f"{readable}/run", "--state-dir", f"{readable}/state"]
    code = DROPS.format(uid=other_user.UID, verb=verb, arguments=arguments)
    done = subprocess.run([private / "python3", "-c", code], capture_output=True, text=True, timeout=60,
                          env={**other_user.environment(), "PYTHONPATH": str(packages)}, cwd=other_user.become()["cwd"])
    assert done.returncode in (1, 2) and not done.stdout, done
    said = done.stderr.strip().splitlines()
    assert len(said) == 1 and f"uid {other_user.UID} cannot execute the interpreter {private}/python3" in said[0], said
    assert "install apex-exec where this user can read it" in said[0]
