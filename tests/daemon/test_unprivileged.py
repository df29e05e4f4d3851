"""The same daemon without root: it serves, kills on time, drains, and leaves nothing."""

from __future__ import annotations

import shutil

import psutil

from tests.support import has_landlock, other_user
from tests.support.daemon import ECHO, SLEEP, Daemon, write_plugin
from tests.support.host import Host


def test_an_unprivileged_daemon_keeps_its_promises() -> None:
    other_user.need_root()
    plugins = other_user.new_folder()
    try:
        write_plugin(plugins, "echo", ECHO)
        write_plugin(plugins, "sleeper", SLEEP)
        with Daemon(plugins=plugins, uid=other_user.UID) as daemon:
            family = [psutil.Process(daemon.pid), *daemon.family()]
            assert {process.uids().effective for process in family} == {other_user.UID}
            with Host(daemon.endpoint) as host:
                assert host.invoke("echo", {"n": 1})["result"]["result"] == {"n": 1}
                late = host.invoke("sleeper", {"seconds": 9}, deadlineMs=300)
                assert late["code"] == "TIMEOUT"
                assert host.invoke("echo", {"n": 2})["type"] == "result"
                assert host.ask({"type": "hello", "protocol": [1]})["isolation"] >= ("L2" if has_landlock() else "L1")
            family = daemon.family()
            assert daemon.stop() == 0
            _, alive = psutil.wait_procs(family, timeout=2)
            assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    finally:
        shutil.rmtree(plugins, ignore_errors=True)
