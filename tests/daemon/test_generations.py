"""Workers that are replaced under load, by recycling or by another version: no call is lost, doubled or overtaken."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, wait_for, write_plugin
from tests.support.host import Host, action

COUNTER = '''
ran = []

@plugin.hook("onActionExecute")
def act(context, params):
    ran.append(params["context"]["n"])
    return {{"result": {{"n": params["context"]["n"], "version": {version}, "nth": len(ran)}}, "metadata": {{}}}}
'''
IN_FLIGHT = 16


def flow(host: Host, first: int, last: int) -> list[dict[str, object]]:
    """Calls ``first`` to ``last`` with IN_FLIGHT at once; their results in the order of the replies."""
    results: list[dict[str, object]] = []
    sent = first
    while len(results) < last - first:
        while sent < last and sent - first - len(results) < IN_FLIGHT:
            host.send(action("counter", {"n": sent}))
            sent += 1
        reply = host.receive()
        assert reply["type"] == "result", reply
        results.append(reply["result"]["result"])
    return results


@pytest.mark.slow
def test_recycling_under_load_loses_doubles_and_overtakes_nothing(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "counter", COUNTER.format(version=1))
    with Daemon(plugins=tmp_path / "plugins", config={"recycle.after_calls": 100, "limits.cpu_percent": 100}) as daemon:
        with Host(daemon.endpoint) as host:
            results = flow(host, 0, 3000)
        assert [result["n"] for result in results] == list(range(3000))
        assert max(int(str(result["nth"])) for result in results) <= 100 + IN_FLIGHT
        wait_for(lambda: daemon.metric('worker_exits_total{plugin="counter",reason="recycled"}') >= 20, 5, "recycling")
        done = 'invocations_total{hook="onActionExecute",outcome="ok",plugin="counter"}'
        wait_for(lambda: daemon.metric(done) == 3000, 5, "the count")


def test_another_version_under_load_takes_over_between_two_calls(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    write_plugin(plugins, "counter", COUNTER.format(version=0))
    with Daemon(plugins=plugins, config={"limits.cpu_percent": 100}) as daemon, Host(daemon.endpoint) as host:
        results = flow(host, 0, 200)
        for version in range(1, 6):
            write_plugin(plugins, "counter", COUNTER.format(version=version))
            daemon.process.send_signal(signal.SIGHUP)
            begin = len(results)
            while results[-1]["version"] != version:
                results += flow(host, len(results), len(results) + 200)
                assert len(results) < begin + 40_000, "the new version never came"
        assert [result["n"] for result in results] == list(range(len(results)))
        versions = [int(str(result["version"])) for result in results]
        assert versions == sorted(versions) and len(Counter(versions)) == 6
        wait_for(lambda: daemon.metric('worker_exits_total{plugin="counter",reason="drained"}') == 5, 5, "their ends")
