"""Who goes before whom: the loop before the hooks that it must stop, and no plugin ever with the loop's rank."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from apex_exec.daemon.niceness import LOOP_NICE
from apex_exec.ledger.process import NICE as LEDGER_NICE
from apex_exec.observe.exporter import NICE as EXPORTER_NICE
from tests.support import need
from tests.support.daemon import ECHO, Daemon, wait_for, write_plugin
from tests.support.host import Host


def nice(pid: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, pid)


@pytest.mark.parametrize("started_with", [0, 3])
def test_the_loop_goes_first_and_workers_stay_where_the_daemon_was_started(tmp_path: Path, started_with: int) -> None:
    need(os.geteuid() == 0, "only root may go below its own niceness")
    write_plugin(tmp_path / "plugins", "echo", ECHO)
    before = nice(0)
    os.setpriority(os.PRIO_PROCESS, 0, before + started_with)
    try:
        daemon = Daemon(plugins=tmp_path / "plugins")
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)
    base = before + started_with
    with daemon, Host(daemon.endpoint) as host:
        assert host.invoke("echo")["type"] == "result"
        wait_for(lambda: nice(daemon.pid) == base + LOOP_NICE, 5, "the loop's niceness")
        old = next(p for p in psutil.Process(daemon.pid).children() if p.name() == "apex-exporter")
        old.kill()  # the next one is started by the loop as it is now
        wait_for(lambda: any(p.name() == "apex-exporter" and p.pid != old.pid and nice(p.pid) == base + EXPORTER_NICE
                             for p in psutil.Process(daemon.pid).children()), 10, "the new exporter's niceness")
        zygote = daemon.zygote()
        zygote.kill()
        zygote.wait(10)
        wait_for(lambda: host.invoke("echo")["type"] == "result", 15, "a call by the new zygote's worker")
        ranks = {"apex-exporter": base + EXPORTER_NICE, "apex-ledger": base + LEDGER_NICE}
        family = psutil.Process(daemon.pid).children(recursive=True)
        assert {"apex-exporter", "apex-ledger", "apex-registrar"} <= {p.name() for p in family}
        assert [(p.name(), nice(p.pid)) for p in family if nice(p.pid) != ranks.get(p.name(), base)] == []
        assert {nice(pid) for pid in [*daemon.pids("echo"), *daemon.wait_spares(2)]} == {base}
