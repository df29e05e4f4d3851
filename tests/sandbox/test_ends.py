"""How a worker ends where the machine decides: before its daemon if memory runs out, and leaving no core anywhere."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from apex_exec.client import CallError, Client
from tests.support import need
from tests.support.daemon import ECHO, USER, Daemon, wait_for, write_plugin

HOARD = '''
held = []

@plugin.hook("onActionExecute")
def act(params):
    for _ in range(params["context"]["mb"]):
        held.append(bytearray(1 << 20))
    return {"result": len(held), "metadata": {}}
'''
def core_limits(pid: int) -> list[str]:
    (row,) = (row for row in Path(f"/proc/{pid}/limits").read_text().splitlines() if "core file" in row)
    return row.split()[4:6]


CAP_SYS_RESOURCE = 24
HOARDERS, HOARD_MB, ROOM_MB = 10, 30, 150
"""Each holds less than the supervisor does, and together they hold more than there is room for."""


@pytest.fixture(scope="module")
def plugins() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="apx"))
    folder.chmod(0o755)
    write_plugin(folder, "one", ECHO)
    for n in range(HOARDERS):
        write_plugin(folder, f"hoarder-{n}", HOARD)
    yield folder
    shutil.rmtree(folder)


def invoke(client: Client, plugin: str, **context: int) -> object:
    return client.invoke(plugin, "onActionExecute", USER, {"action": "x", "context": context})["result"]["result"]


def score(pid: int, what: str) -> int:
    return int(Path(f"/proc/{pid}/{what}").read_text())


@pytest.mark.parametrize("user", ["root", "unprivileged"])
@pytest.mark.parametrize("own", [0, 700])
@pytest.mark.slow_after(1)
def test_the_kernel_prefers_a_worker_to_its_daemon_and_no_core_is_left(user: str, own: int, plugins: Path) -> None:
    need(user == "root" or os.geteuid() == 0, "changing the user takes root")
    wrapper = ["sh", "-c", f'echo {own} > /proc/$$/oom_score_adj && exec "$@"', "sh"]
    with (Daemon(plugins=plugins, uid=None if user == "root" else 65532, wrapper=wrapper) as daemon,
          Client(daemon.endpoint) as client):
        assert invoke(client, "one", n=1) == {"n": 1}
        workers = [daemon.pids("one")[-1], *daemon.spares()]
        assert score(daemon.pid, "oom_score_adj") == own
        for pid in workers:
            assert score(pid, "oom_score_adj") == min(1000, own + 500)
            assert score(pid, "oom_score") > max(score(one, "oom_score") for one in (daemon.pid, daemon.zygote().pid))
            wait_for(lambda pid=pid: core_limits(pid) == ["1", "1"], 5, "the jail of a spare that is just forked")


@pytest.mark.parametrize("user", ["root", "unprivileged"])
@pytest.mark.slow
def test_a_daemon_that_may_leave_no_core_has_workers_that_may_leave_none(user: str, plugins: Path) -> None:
    need(os.geteuid() == 0, "changing the user takes root")
    held = int(Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0], 16)
    limit = "1" if user == "root" and held >> CAP_SYS_RESOURCE & 1 else "0"
    wrapper = ["sh", "-c", 'ulimit -c 0 && exec "$@"', "sh"]
    with (Daemon(plugins=plugins, uid=None if user == "root" else 65532, wrapper=wrapper) as daemon,
          Client(daemon.endpoint) as client):
        assert invoke(client, "one", n=1) == {"n": 1}
        assert core_limits(daemon.pids("one")[-1]) == [limit, limit]


@pytest.fixture
def group() -> Iterator[Path]:
    """A memory group (cgroup v1) for a whole daemon."""
    root = Path("/sys/fs/cgroup/memory")
    need(os.access(root, os.W_OK) and (root / "memory.limit_in_bytes").exists(), "no writable memory cgroup (v1)")
    folder = Path(tempfile.mkdtemp(prefix="apx-oom-", dir=root))
    yield folder
    wait_for(lambda: not (folder / "cgroup.procs").read_text(), 10, "the end of all in the group")
    folder.rmdir()


@pytest.mark.slow
def test_a_group_that_runs_out_of_memory_loses_workers_and_keeps_the_daemon(group: Path, plugins: Path) -> None:
    config = {"sandbox.governor": "psutil", "pool.spare_workers": 0, "limits.cpu_percent": 100,
              "limits.timeout_ms": 30_000}
    wrapper = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
    with Daemon(plugins=plugins, config=config, wrapper=wrapper) as daemon, Client(daemon.endpoint) as client:
        family = {daemon.pid, *(process.pid for process in daemon.family())}
        (used,) = (int(row.split()[1]) for row in (group / "memory.stat").read_text().splitlines()
                   if row.startswith("rss "))
        (group / "memory.limit_in_bytes").write_text(str(used + (ROOM_MB << 20)))
        for n in range(HOARDERS):
            with contextlib.suppress(CallError):  # its own worker may be the one that the kernel chose
                invoke(client, f"hoarder-{n}", mb=HOARD_MB)
        told = dict(row.split() for row in (group / "memory.oom_control").read_text().splitlines())
        assert int(told["oom_kill"]) > 0, "the group never ran out of memory"
        assert family <= {daemon.pid, *(process.pid for process in daemon.family())}, "not a worker was killed"
        assert invoke(client, "one", n=2) == {"n": 2}
