"""What plugin code could find in its own memory, and in the zygote's that it was copied from: nothing of the daemon."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from apex_exec.client import Client
from tests.support import need, other_user
from tests.support.daemon import ECHO, ROOT, USER, Daemon, write_plugin

PIECE = 16 << 20
KEY = b"the-daemons-own-authkey-" + bytes(range(8))
WITH_KEY = f"""
import os, sys
os.chdir(os.environ.pop("APEX_TEST_START"))
from multiprocess import process
process.current_process().authkey = {KEY!r}
sys.argv = sys.argv[3:]
from apex_exec.__main__ import main
main()
"""
"""Starts the daemon in a folder and with a key that the test knows; both look as they usually do to it."""


def found_in(pid: int, needles: dict[str, bytes]) -> set[str]:
    """The names of the ``needles`` that are anywhere in the memory of ``pid``."""
    found = set()
    overlap = max(map(len, needles.values()))
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for row in maps:
            span, rights, *_ = row.split()
            if rights[0] != "r" or "[v" in row:
                continue
            at, end = (int(part, 16) for part in span.split("-"))
            while at < end:
                memory.seek(at)
                data = memory.read(min(PIECE + overlap, end - at))
                found |= {name for name, needle in needles.items() if needle in data}
                at += PIECE
    return found


@pytest.fixture(scope="module")
def plugins() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="apx"))
    folder.chmod(0o755)
    write_plugin(folder, "one", ECHO)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("user", ["root", pytest.param("unprivileged", marks=pytest.mark.slow)])
def test_neither_zygote_nor_worker_holds_a_key_a_path_or_an_argument_of_the_daemon(user: str, plugins: Path) -> None:
    need(os.geteuid() == 0, "another process's memory is root's to read")
    start = Path(tempfile.mkdtemp(prefix="the-folder-it-was-started-in"))
    start.chmod(0o755)
    uid = other_user.UID if user == "unprivileged" else None
    daemon = Daemon(plugins=plugins, uid=uid, wrapper=[other_user.python() if uid else sys.executable, "-c", WITH_KEY],
                    env={"APEX_TEST_SECRET": "value-of-a-secret", "APEX_TEST_START": str(start),
                         **({} if uid else {"PYTHONPATH": str(ROOT)})})
    with daemon, Client(daemon.endpoint) as client:
        client.invoke("one", "onActionExecute", USER, {"action": "x", "context": {}})
        needles = {
            "the multiprocess key": KEY, "the start folder": os.fsencode(start), "the secret": b"value-of-a-secret",
            "the configuration's path": os.fsencode(daemon.config_file),
            "the runtime folder": os.fsencode(daemon.runtime), "the state folder": os.fsencode(daemon.state),
            "the plugins' folder": os.fsencode(plugins)}
        assert found_in(daemon.pid, needles) == needles.keys(), "the control: the supervisor has them all"
        for pid in (daemon.zygote().pid, daemon.pids("one")[-1]):
            assert not found_in(pid, needles)
    shutil.rmtree(start)


@pytest.mark.slow
def test_the_zygote_of_tests_holds_none_either(tmp_path: Path) -> None:
    need(os.geteuid() == 0, "another process's memory is root's to read")
    script = f"""
import sys
from multiprocess import process
process.current_process().authkey = {KEY!r}
from apex_exec.registry.trials.testing import Request
from apex_exec.registry.trials.testing_child import Zygote
zygote = Zygote(Request("p", "1.0.0", "plugin.py", {{}}, 1 << 27, [], [], "L0", 65534, 5.0))
print(zygote.pid, flush=True)
sys.stdin.read()
zygote.close()
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "APEX_TEST_SECRET": "value-of-a-secret"}
    with subprocess.Popen([sys.executable, "-c", script, "an-argument-of-the-daemon"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=env) as child:
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        needles = {"the multiprocess key": KEY, "the start folder": os.fsencode(tmp_path),
                   "an argument": b"an-argument-of-the-daemon", "the secret": b"value-of-a-secret"}
        assert found_in(child.pid, needles) == needles.keys()
        assert not found_in(pid, needles)
        child.communicate("")
