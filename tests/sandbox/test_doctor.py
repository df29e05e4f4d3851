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
from tests.support import has_landlock, need, other_user

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


def run(*blocked: str, arguments: list[str], unprivileged: bool = False) -> subprocess.CompletedProcess[str]:
    """One command. ``blocked``: a program (and its arguments) that takes rights away and executes the rest."""
    python, who, env = sys.executable, {"cwd": ROOT}, {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    if unprivileged:
        python, who, env = other_user.python(), other_user.become(), other_user.environment()
    command = [part.replace("PYTHON", python) for part in blocked]
    return subprocess.run([*command, python, "-m", "apex_exec", *arguments], timeout=60, capture_output=True, text=True,
                          env=env, **who)


def doctor(*blocked: str, waive: str = "[]", folder: Path, min_level: str = "L2",
           unprivileged: bool = False) -> tuple[int, dict[str, Any]]:
    """(status, answer) of ``doctor``, with ``blocked`` as ``run`` has it."""
    config = folder / "c.toml"
    config.write_text(f'[sandbox]\nmin_level = "{min_level}"\nwaive = {waive}\n')
    done = run(*blocked, arguments=["doctor", "--json", "--config", str(config)], unprivileged=unprivileged)
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
    assert [row["layer"] for row in found["layers"]] == [*LAYERS, "kill"]
    need(found["level"] >= "L3", f"this machine reaches {found['level']} only")
    assert status == 0 and found["ok"] and found["governor"] in ("sampled", "enforced")


def test_an_unprivileged_daemon_shares_one_uid_and_says_so(readable: Path) -> None:
    need(os.geteuid() == 0, "changing the user takes root")
    _, found = doctor(unprivileged=True, folder=readable)
    assert state(found, "identity") == "degraded"
    need(state(found, "namespaces") == "active", "user namespaces are not allowed here")
    assert found["level"] == "L3"


@pytest.mark.parametrize("unprivileged", [False, True], ids=["root", "unprivileged"])
@pytest.mark.slow_after(1)
def test_a_container_without_namespaces_gets_l2_and_says_what_to_change(unprivileged: bool, readable: Path) -> None:
    need(os.geteuid() == 0 and has_landlock(), "changing the user takes root, and L2 without namespaces takes Landlock")
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


def test_a_capability_that_namespaces_need_is_named(readable: Path) -> None:
    need(os.geteuid() == 0, "dropping capabilities takes root")
    need(shutil.which("setpriv"), "setpriv (Debian's util-linux)")
    _, found = doctor("setpriv", "--bounding-set=-sys_chroot", "--inh-caps=-all", folder=readable)
    assert state(found, "namespaces") == "absent" and "CAP_SYS_CHROOT" in changes(found, "namespaces")


@pytest.mark.slow
def test_a_level_below_the_minimum_is_refused_by_doctor_and_serve_alike(readable: Path) -> None:
    need(os.geteuid() == 0, "changing the user takes root")
    status, found = doctor(*BLOCKED, NO_UNSHARE, folder=readable, min_level="L3")
    assert status == 1 and not found["ok"]
    done = run(*BLOCKED, NO_UNSHARE, arguments=["serve", "--config", str(readable / "c.toml"), "--runtime-dir",
                                                str(readable / "run")])
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


SIMULATED = "tests/sandbox/simulated.py"
"""Below the folder in which a command runs."""
CONTAINER = dict.fromkeys((
    "unshare", "mount", "umount2", "setns", "pivot_root", "sethostname", "bpf", "perf_event_open", "fsopen", "fsmount",
    "fsconfig", "move_mount", "open_tree", "mount_setattr", "keyctl", "userfaultfd"), 1)
DOCKER = {**CONTAINER, "clone3": 38}
"""What Docker's default profile and containerd's (Kubernetes' RuntimeDefault) refuse without CAP_SYS_ADMIN."""
OLD_DOCKER = {**DOCKER, **dict.fromkeys(("pidfd_open", "pidfd_send_signal", "landlock_create_ruleset",
                                         "landlock_add_rule", "landlock_restrict_self"), 1)}
"""Before they knew calls newer than 5.1: what a profile does not name is EPERM."""
PODMAN = {"sethostname": 1, "setns": 1, "bpf": 1, "perf_event_open": 1, "userfaultfd": 1,
          **dict.fromkeys(("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"), 38)}
"""A default profile of Podman's that does not name Landlock: it allows mounts and no host name; the rest is ENOSYS."""
CAPABILITIES = ("chown,dac_override,fsetid,fowner,mknod,net_raw,setgid,setuid,setfcap,setpcap,net_bind_service,"
                "sys_chroot,kill,audit_write")
IN_CONTAINER = ["setpriv", "--bounding-set", f"-all,{','.join('+' + name for name in CAPABILITIES.split(','))}",
                "--inh-caps", "-all"]


def simulated(unprivileged: bool, folder: Path, *, contained: bool = False, waive: str = "[]",
              **asked: Any) -> tuple[int, dict[str, Any]]:
    """``doctor`` where the kernel answers as ``asked``; as root with what a container leaves of it if ``contained``."""
    other_user.need_root()
    first = IN_CONTAINER if contained and not unprivileged else []
    if first:
        need(shutil.which("setpriv"), "setpriv (Debian's util-linux)")
    return doctor(*first, "PYTHON", SIMULATED, json.dumps(asked), waive=waive, folder=folder, unprivileged=unprivileged)


def changes(found: dict[str, Any], layer: str) -> str:
    return next(str(row["change"]) for row in found["layers"] if row["layer"] == layer)


@pytest.mark.parametrize("unprivileged", [False, True], ids=["root", "unprivileged"])
@pytest.mark.slow_after(1)
def test_docker_and_kubernetes_give_l2(unprivileged: bool, readable: Path) -> None:
    need(has_landlock(), "this kernel has no Landlock")
    status, found = simulated(unprivileged, readable, contained=True, errno=DOCKER)
    assert (found["level"], status) == ("L2", 0), found
    assert state(found, "kill") == state(found, "landlock") == "active" and state(found, "namespaces") == "absent"


@pytest.mark.slow
def test_a_kubernetes_pod_without_a_profile_gives_what_its_user_may(readable: Path) -> None:
    need(has_landlock(), "this kernel has no Landlock")
    _, found = simulated(False, readable, contained=True)
    assert found["level"] == "L2" and state(found, "namespaces") == "absent", found
    _, found = simulated(True, readable)
    assert found["level"] == "L3" and state(found, "namespaces") == "active", found


@pytest.mark.slow
@pytest.mark.parametrize("unprivileged", [False, True], ids=["root", "unprivileged"])
def test_podman_without_landlock_gives_l1_and_says_what_to_change(unprivileged: bool, readable: Path) -> None:
    status, found = simulated(unprivileged, readable, contained=True, errno=PODMAN)
    assert (found["level"], status) == ("L1", 1), found
    assert "sandbox.waive" in changes(found, "landlock") and changes(found, "namespaces")


def test_ubuntus_user_namespace_that_may_not_mount_is_none(readable: Path) -> None:
    need(has_landlock(), "this kernel has no Landlock")
    status, found = simulated(True, readable, errno={"mount": 13})
    assert (found["level"], status) == ("L2", 0), found
    assert state(found, "namespaces") == "absent" and "apparmor_restrict" in changes(found, "namespaces")


@pytest.mark.parametrize("answers", [
    {"pidfd_open": 38, "pidfd_send_signal": 38}, {"pidfd_open": 1}, {"pidfd_send_signal": 1}, OLD_DOCKER],
    ids=["a kernel before 5.3", "pidfd_open refused", "pidfd_send_signal refused", "an old Docker"])
@pytest.mark.parametrize("unprivileged", [False, True], ids=["root", "unprivileged"])
@pytest.mark.slow
def test_where_nothing_can_be_killed_doctor_says_so_and_serve_refuses(
        unprivileged: bool, answers: dict[str, int], readable: Path) -> None:
    status, found = simulated(unprivileged, readable, errno=answers)
    assert (found["level"], found["ok"], status) == (None, False, 1), found
    row = next(row for row in found["layers"] if row["layer"] == "kill")
    assert row["state"] == "absent" and "pidfd_" in row["detail"] and "seccomp profile" in row["change"]
    if unprivileged and answers is not OLD_DOCKER:
        return
    done = run("PYTHON", SIMULATED, json.dumps({"errno": answers}), unprivileged=unprivileged, arguments=[
        "serve", "--config", str(readable / "c.toml"), "--runtime-dir", str(readable / "run")])
    assert done.returncode == 2 and "no deadline would hold" in done.stderr and "pidfd_" in done.stderr, done.stderr


@pytest.mark.slow
def test_a_root_that_may_not_signal_other_users_cannot_kill(readable: Path) -> None:
    need(os.geteuid() == 0, "dropping capabilities takes root")
    need(shutil.which("setpriv"), "setpriv (Debian's util-linux)")
    _, found = doctor("setpriv", "--bounding-set=-kill", "--inh-caps=-kill", folder=readable)
    assert found["level"] is None and "CAP_KILL" in changes(found, "kill"), found


@pytest.mark.parametrize("answer", [38, 95], ids=["ENOSYS", "EOPNOTSUPP"])
@pytest.mark.parametrize("unprivileged", [False, True], ids=["root", "unprivileged"])
@pytest.mark.slow_after(1)
def test_without_landlock_the_empty_root_is_the_second_wall(unprivileged: bool, answer: int, readable: Path) -> None:
    refused = {"errno": {"landlock_create_ruleset": answer}}
    status, found = simulated(unprivileged, readable, **refused)
    need(state(found, "namespaces") == "active", "namespaces are not allowed here")
    assert (found["level"], status) == ("L2", 0), found
    assert state(found, "landlock") == "absent" and 'sandbox.waive = ["landlock"]' in changes(found, "landlock")
    _, found = simulated(unprivileged, readable, waive='["landlock"]', **refused)
    assert found["level"] == "L2" and found["ok"] and found["waived"] == ["landlock"]


@pytest.mark.parametrize(("unprivileged", "abi"), [*((False, abi) for abi in range(1, 6)), (True, 4)])
@pytest.mark.slow_after(1)
def test_an_old_landlock_is_degraded_and_says_what_it_lacks(unprivileged: bool, abi: int, readable: Path) -> None:
    need(has_landlock(), "this kernel has no Landlock")
    status, found = simulated(unprivileged, readable, abi=abi)
    row = next(row for row in found["layers"] if row["layer"] == "landlock")
    assert row["state"] == "degraded" and f"ABI {abi}" in row["detail"] and ("TCP" in row["detail"]) == (abi < 4), row
    assert (found["level"], status) == ("L2", 0), found


@pytest.mark.parametrize("verb", ["doctor", "serve"])
def test_too_few_open_files_is_one_line_that_says_so(verb: str, tmp_path: Path) -> None:
    env = {**os.environ, "APEX_EXEC_RUNTIME_DIR": str(tmp_path / "run"), "APEX_EXEC_STATE_DIR": str(tmp_path / "state")}
    command = [sys.executable, "-m", "apex_exec", verb]
    done = subprocess.run(["bash", "-c", 'ulimit -n 64; exec "$@"', "bash", *command], cwd=ROOT, env=env, text=True,
                          capture_output=True, timeout=60)
    said = [line for line in (done.stdout + done.stderr).splitlines() if line]
    assert done.returncode not in (0, None) and len(said) == 1, said
    assert "64 files" in said[0] and "RLIMIT_NOFILE" in said[0] and "ulimit -n" in said[0]
