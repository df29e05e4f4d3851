"""The governor on real workers of a real daemon, in both of its ways."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from apex_exec.client import Client
from apex_exec.client.errors import CallError
from apex_exec.sandbox.cgroup import CgroupError, Cgroups
from tests.support import need, other_user
from tests.support.daemon import ECHO, USER, Daemon, wait_for, write_plugin

SPIN = '''
@plugin.hook("onActionExecute")
def act(context, params):
    while params["context"].get("spin"):
        pow(3, 9999)
    return {"result": params["context"], "metadata": {}}
'''


@pytest.fixture(params=["psutil", "cgroup"])
def way(request: pytest.FixtureRequest) -> str:
    if request.param == "cgroup":
        try:
            Cgroups("test").close()
        except CgroupError as error:
            need(False, f"no writable cgroup: {error}")
    return str(request.param)


@pytest.fixture
def daemon(way: str, tmp_path: Path) -> Iterator[Daemon]:
    plugins = tmp_path / "plugins"
    write_plugin(plugins, "spin", SPIN)
    write_plugin(plugins, "echo", ECHO)
    with Daemon(plugins=plugins, config={
            "sandbox.governor": way, "limits.cpu_burst_seconds": 0.1, "breaker.ends": 100,
            "breaker.backoff_min_seconds": 0.01, "breaker.backoff_max_seconds": 0.01}) as made:
        yield made


def invoke(client: Client, plugin: str, deadline_ms: int = 5000, **context: object) -> dict[str, object]:
    return client.invoke(plugin, "onActionExecute", USER, {"action": "a", "context": context}, deadline_ms=deadline_ms)


@pytest.mark.slow_after(1)
def test_a_plugin_over_its_share_is_held_back_and_says_so_and_others_do_not_notice(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        invoke(client, "spin", spin=False)
        with pytest.raises(CallError) as caught:
            invoke(client, "spin", 2500, spin=True)
        assert caught.value.code == "TIMEOUT"
        reply = caught.value.reply
        assert reply["usage"]["throttledMs"] > 100, reply
        for _ in range(20):
            assert invoke(client, "echo", n=1)["usage"]["throttledMs"] == 0
        begun = time.monotonic()
        usage = invoke(client, "spin", spin=False)["usage"]
        assert isinstance(usage, dict)
        assert usage["throttledMs"] <= (time.monotonic() - begun) * 1000, "it says more than this call alone"
    wait_for(lambda: daemon.metric('worker_throttled_seconds_total{plugin="spin"}') > 0.1, 10, "the metric")
    cpu = daemon.metric('worker_cpu_seconds_total{plugin="spin"}')
    assert 0.1 < cpu < 1.2  # of at least 2.5 s
    assert daemon.metric('worker_throttled_seconds_total{plugin="echo"}') == 0


@pytest.mark.slow
def test_a_held_worker_dies_with_its_supervisor(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        invoke(client, "echo", n=1)

        def spin() -> None:
            with Client(daemon.endpoint) as other, pytest.raises(Exception):  # noqa: B017 - the daemon is killed meanwhile
                invoke(other, "spin", spin=True)

        thread = threading.Thread(target=spin)
        thread.start()
        wait_for(lambda: daemon.metric('worker_throttled_seconds_total{plugin="spin"}') > 0.2, 10, "throttling")
        living = daemon.workers()
        assert len(living) == 2
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.process.wait()
        wait_for(lambda: not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE
                                 for worker in living), 10, "the workers' end")
        thread.join()


@pytest.mark.slow
def test_usage_carries_the_workers_memory(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        for _ in range(5):  # the first call of a worker, however soon it ends
            usage = invoke(client, "echo", n=1)["usage"]
            assert isinstance(usage, dict) and usage["cold"] and 0 < usage["memoryUsedMb"] < 50, usage
            (pid,) = daemon.pids("echo")
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not daemon.pids("echo"), 5, "its end")

        def used() -> float:
            usage = invoke(client, "echo", n=1)["usage"]
            assert isinstance(usage, dict)
            return float(usage["memoryUsedMb"])

        wait_for(lambda: 0 < used() < 50, 10, "a sample")
    wait_for(lambda: daemon.metric('worker_memory_bytes{plugin="echo"}') > 0, 10, "the metric")


@pytest.mark.slow
def test_an_unprivileged_daemon_reads_and_holds_its_workers_too() -> None:
    other_user.need_root()
    plugins = other_user.new_folder()
    try:
        write_plugin(plugins, "spin", SPIN)
        with Daemon(plugins=plugins, uid=other_user.UID, config={"limits.cpu_burst_seconds": 0.1}) as daemon:
            with Client(daemon.endpoint) as client, pytest.raises(CallError) as caught:
                invoke(client, "spin", 2500, spin=True)
            assert caught.value.code == "TIMEOUT" and caught.value.usage["throttledMs"] > 100
            assert 0 < caught.value.usage["memoryUsedMb"] < 12, "the unique size, not what is shared with the zygote"
    finally:
        shutil.rmtree(plugins, ignore_errors=True)


@pytest.mark.slow
def test_an_ended_daemon_leaves_no_group_behind(way: str, tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "echo", ECHO)
    with Daemon(plugins=tmp_path / "plugins", config={"sandbox.governor": way}) as daemon:
        pid = daemon.pid
        with Client(daemon.endpoint) as client:
            invoke(client, "echo", n=1)
        assert bool(groups_of(pid)) == (way == "cgroup")
    assert not groups_of(pid)


def groups_of(pid: int) -> list[Path]:
    """The control groups that the daemon ``pid`` has made."""
    return [path for root, folders, _ in os.walk("/sys/fs/cgroup") for path in
            (Path(root, name) for name in folders) if path.match(f"apex-exec-*-{pid}-*")]
