"""The order of priority: the loop before the hooks that it must stop, and no plugin ever with the loop's rank."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import psutil
import pytest

from apex_exec.executor.scheduling_priority import LOOP_NICE
from apex_exec.ledger.process import NICE as LEDGER_NICE
from apex_exec.observe.exporter import NICE as EXPORTER_NICE
from tests.support import need
from tests.support.daemon import ECHO, Daemon, wait_for, write_plugin
from tests.support.host import Host


def nice(pid: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, pid)


def family(daemon: Daemon) -> dict[int, tuple[str, int]]:
    """Name and niceness of every process below the daemon; without those that end while it is being asked."""
    found = {}
    for process in psutil.Process(daemon.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            found[process.pid] = (process.name(), nice(process.pid))
    return found


@pytest.mark.parametrize("started_with", [0, 3])
@pytest.mark.slow
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
        daemon.start_registrar()
        wait_for(lambda: nice(daemon.pid) == base + LOOP_NICE, 5, "the loop's niceness")
        exporter = ("apex-exporter", base + EXPORTER_NICE)
        assert daemon.get("/livez")[0] == 200  # which starts it
        daemon.operate("plugin.list")  # and this the registrar
        old = next(pid for pid, (name, _) in family(daemon).items() if name == exporter[0])
        os.kill(old, signal.SIGKILL)  # the next one is started by the loop as it is now
        wait_for(lambda: any(pid != old and row == exporter for pid, row in family(daemon).items()), 10,
                 "the new exporter's niceness")
        zygote = daemon.zygote()
        zygote.kill()
        zygote.wait(10)
        wait_for(lambda: host.invoke("echo")["type"] == "result", 15, "a call by the new zygote's worker")
        ranks = {exporter[0]: exporter[1], "apex-ledger": base + LEDGER_NICE}
        rows = family(daemon).values()
        assert {"apex-exporter", "apex-ledger", "apex-registrar"} <= {name for name, _ in rows}
        assert [(name, rank) for name, rank in rows if rank != ranks.get(name, base)] == []
        assert {nice(pid) for pid in [*daemon.pids("echo"), *daemon.wait_spares(2)]} == {base}
