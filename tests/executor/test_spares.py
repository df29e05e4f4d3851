"""Spares: jailed ahead and given to whichever plugin comes next, with that plugin's limits; their loss costs nobody."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.daemon import ECHO, Daemon, wait_for, write_plugin
from tests.support.host import Host

PLUGINS = ("one", "two", "three")
SPIN = '''
import time

held = []

@plugin.hook("onActionExecute")
def act(context, params):
    wanted = params["context"]
    if wanted.get("mb"):
        held.append(bytearray(wanted["mb"] * 1024 * 1024))
    until = time.process_time() + wanted.get("spin", 0)
    while time.process_time() < until:
        pass
    return {"result": {}, "metadata": {}}
'''


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    for name in PLUGINS:
        write_plugin(tmp_path / "plugins", name, ECHO)
    write_plugin(tmp_path / "plugins", "spin", SPIN)
    return tmp_path / "plugins"


@pytest.fixture(params=["psutil", "auto"])
def daemon(request: Any, tmp_path: Path, plugins: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "d", plugins=plugins, config={"sandbox.governor": request.param}) as running:
        running.wait_spares(2)
        yield running


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def call(daemon: Daemon, plugin: str, **context: Any) -> dict[str, Any]:
    with Host(daemon.endpoint) as host:
        return host.invoke(plugin, context)


@pytest.mark.slow_after(1)
def test_a_cold_call_takes_a_spare_and_another_comes_in_its_place(daemon: Daemon) -> None:
    served_by = []
    for index, name in enumerate(PLUGINS):
        before = daemon.wait_spares(2)
        assert call(daemon, name, n=index)["type"] == "result"
        served_by.append(daemon.pids(name))
        assert len(served_by[-1]) == 1 and served_by[-1][0] in before
    daemon.wait_spares(2)
    assert not set(daemon.spares()) & {pids[0] for pids in served_by}
    uids = [psutil.Process(pid).uids().real for pid in [*daemon.spares(), *(pids[0] for pids in served_by)]]
    assert len(set(uids)) == (len(uids) if os.geteuid() == 0 else 1), "each has a uid of its own"


@pytest.mark.slow
def test_a_killed_spare_is_nobodys_failure_and_is_replaced(daemon: Daemon) -> None:
    victims = daemon.spares()
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(map(runs, victims)), 5, "their end")
    assert call(daemon, "one")["type"] == "result", "without a spare a worker is forked as ever"
    assert not set(victims) & set(daemon.wait_spares(2))
    assert "worker_exits_total{" not in daemon.metrics()
    assert 'breaker_state{plugin="one",state="open"} 0.0' in daemon.metrics()


@pytest.mark.slow
def test_the_zygotes_death_takes_the_spares_and_the_next_one_makes_others(daemon: Daemon) -> None:
    before = daemon.spares()
    daemon.zygote().kill()
    wait_for(lambda: not any(map(psutil.pid_exists, before)), 5, "their end")
    assert not set(before) & set(daemon.wait_spares(2))
    assert call(daemon, "two")["type"] == "result"


@pytest.mark.slow
def test_an_adopted_spare_has_its_plugins_limits(daemon: Daemon) -> None:
    spares = daemon.spares()
    reply = call(daemon, "spin", mb=80)
    assert (reply["type"], reply["code"]) == ("error", "MEMORY_LIMIT"), reply
    assert call(daemon, "spin", spin=0.2)["type"] == "result"
    assert daemon.pids("spin")[0] in spares, "the second spare, after the first was killed"
    replies = [call(daemon, "spin", spin=0.6) for _ in range(2)]  # a burst of half a second, then ten percent
    throttled = daemon.metric('worker_throttled_seconds_total{plugin="spin"}')
    assert throttled > 1 or any(reply.get("code") == "TIMEOUT" for reply in replies), (throttled, replies)


@pytest.mark.slow
def test_none_are_kept_where_none_are_wanted_and_a_reload_changes_it(tmp_path: Path, plugins: Path) -> None:
    with Daemon(tmp_path / "d", plugins=plugins, config={"pool.spare_workers": 0}) as daemon:
        assert call(daemon, "one")["type"] == "result"
        assert daemon.spares() == [] and len(daemon.workers()) == 1
        daemon.write_config({"pool.spare_workers": 3})
        assert daemon.operate("daemon.reload")["applied"] == ["pool.spare_workers"]
        assert len(daemon.wait_spares(3)) == 3
