"""The same daemon without root: it serves, kills on time, drains, and leaves nothing."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from pathlib import Path

import psutil

from tests.support import need
from tests.support.daemon import ECHO, ROOT, SLEEP, Daemon, write_plugin
from tests.support.host import Host

NOBODY = 65532


def reachable(path: str) -> bool:
    """True where another user can get at ``path``."""
    return all(os.stat(folder).st_mode & stat.S_IXOTH for folder in Path(path).resolve().parents)


def test_an_unprivileged_daemon_keeps_its_promises(tmp_path: Path) -> None:
    need(os.geteuid() == 0 and shutil.which("setpriv"), "becoming another user needs root and setpriv")
    need(reachable(sys.executable) and reachable(str(ROOT / "x")), "the interpreter or the checkout is private")
    plugins = Path(f"/tmp/apx-plugins-{os.getpid()}")
    try:
        write_plugin(plugins, "echo", ECHO)
        write_plugin(plugins, "sleeper", SLEEP)
        with Daemon(plugins=plugins, uid=NOBODY) as daemon:
            family = [psutil.Process(daemon.pid), *daemon.family()]
            assert {process.uids().effective for process in family} == {NOBODY}
            with Host(daemon.endpoint) as host:
                assert host.invoke("echo", {"n": 1})["result"]["result"] == {"n": 1}
                late = host.invoke("sleeper", {"seconds": 9}, deadlineMs=300)
                assert late["code"] == "TIMEOUT"
                assert host.invoke("echo", {"n": 2})["type"] == "result"
                assert host.ask({"type": "hello", "protocol": [1]})["isolation"] >= "L2"
            family = daemon.family()
            assert daemon.stop() == 0
            _, alive = psutil.wait_procs(family, timeout=2)
            assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    finally:
        shutil.rmtree(plugins, ignore_errors=True)
