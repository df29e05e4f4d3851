"""Operators' verbs on a daemon that works: drain and undrain, restart, breaker, reload; no call is lost by any."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client import Busy, CallError, Client
from apex_exec.ledger.reading import Event, Filter, read_events
from tests.cli.test_framework import run
from tests.support.daemon import ECHO, SLEEP, USER, Daemon, wait_for, write_plugin
from tests.support.host import Host, action

FRAGILE = '''
import os

@plugin.hook("onActionExecute")
def act(context, params):
    if params["context"].get("die"):
        os._exit(3)
    return {"result": os.getpid(), "metadata": {}}
'''


FETCH = '''
import time

@plugin.hook("onDataFetch")
def fetch(context, params):
    time.sleep(0.8)
    return {"transformedData": [*params["data"], context.plugin_id]}
'''


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    plugins = tmp_path_factory.mktemp("plugins")
    write_plugin(plugins, "echo", ECHO)
    write_plugin(plugins, "sleeper", SLEEP)
    write_plugin(plugins, "fragile", FRAGILE)
    for name in ("fetch-a", "fetch-b"):
        write_plugin(plugins, name, FETCH, hooks=("onDataFetch",))
    with Daemon(plugins=plugins, config={"breaker.open_seconds": 600, "breaker.backoff_min_seconds": 20}) as running:
        yield running


def at(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(*arguments, "--runtime-dir", str(daemon.runtime))


def events(daemon: Daemon, action_: str, count: int = 1) -> list[Event]:
    found: list[Event] = []

    def there() -> bool:
        found[:] = [event for event in read_events(daemon.state / "audit.db", Filter(
            event_types=frozenset(("admin.action",)))) if event.action == action_]
        return len(found) >= count

    wait_for(there, 10, f"{count} records of {action_}")
    return found


@contextmanager
def load(daemon: Daemon, plugin: str = "echo") -> Iterator[tuple[Counter[str], list[Any]]]:
    """Two hosts that call ``plugin`` again and again: what came of all calls, by code, and the results."""
    ended, found, results = threading.Event(), Counter[str](), list[Any]()

    def call() -> None:
        with Client(daemon.endpoint) as host:
            number = 0
            while not ended.is_set():
                number += 1
                try:
                    done = host.invoke(plugin, "onActionExecute", USER, {"action": "x", "context": {"n": number}})
                    assert plugin != "echo" or done["result"]["result"] == {"n": number}
                    results.append(done["result"]["result"])
                    found["ok"] += 1
                except CallError as error:
                    assert not error.started and error.retryable, error
                    found[error.code] += 1
                    time.sleep(0.01)

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: found["ok"] > 5, 20, "calls")
        yield found, results
    finally:
        ended.set()
        for thread in threads:
            thread.join(20)
    assert not any(thread.is_alive() for thread in threads), "a call got no answer"


@pytest.mark.slow
def test_a_drained_daemon_answers_what_it_has_takes_nothing_new_and_goes_on_when_undrained(daemon: Daemon) -> None:
    with load(daemon) as (found, _), Host(daemon.endpoint) as host:
        slow = host.send(action("sleeper", {"seconds": 1.5}))
        wait_for(lambda: daemon.pids("sleeper"), 10)
        drained = at(daemon, "drain", "--json")
        assert drained.returncode == 0 and json.loads(drained.stdout)["draining"] is True
        assert host.invoke("echo")["code"] == "SHUTTING_DOWN"
        refused = host.ask({"type": "dispatch", "action": "onActionExecute", "userId": USER,
                            "payload": {"action": "x", "context": {}}})
        assert (refused["code"], refused["retryable"]) == ("SHUTTING_DOWN", True)
        status = daemon.operate("daemon.status")
        assert status["draining"] and not status["ending"] and "drained" in status["health"]["drain"]
        wait_for(lambda: daemon.get("/readyz")[0] == 503, 5, "/readyz says so")
        assert daemon.get("/livez")[0] == 200
        daemon.wait_metric("draining", 1)
        assert "draining" in at(daemon, "status").stdout
        waited = at(daemon, "drain", "--wait")
        assert waited.returncode == 0 and "nothing is pending" in waited.stdout
        assert host.reply(slow)["type"] == "result"
        before = found["ok"]
        time.sleep(0.2)
        assert found["ok"] == before and found["SHUTTING_DOWN"]
        assert at(daemon, "undrain").returncode == 0
        wait_for(lambda: found["ok"] > before + 5, 10, "calls again")
        assert host.invoke("echo")["type"] == "result"
        daemon.wait_metric("draining", 0)
        wait_for(lambda: daemon.get("/readyz")[0] == 200, 5)
    assert set(found) == {"ok", "SHUTTING_DOWN"}
    assert [event.result for event in events(daemon, "daemon.drain", 2)] == ["success"] * 2
    assert events(daemon, "daemon.undrain")


def test_a_dispatch_that_was_taken_goes_through_all_its_plugins_although_the_daemon_is_drained(daemon: Daemon) -> None:
    with Host(daemon.endpoint) as host:
        id_ = host.send({"type": "dispatch", "action": "onDataFetch", "userId": USER, "deadlineMs": 5000,
                         "payload": {"query": "q", "filters": {}, "data": []}})
        wait_for(lambda: daemon.pids("fetch-a"), 10)
        daemon.operate("daemon.drain", stop=False)
        try:
            done = host.reply(id_)
            assert not done["partial"] and done["result"] == {"transformedData": ["fetch-a", "fetch-b"]}, done
            assert host.invoke("echo")["code"] == "SHUTTING_DOWN"
        finally:
            daemon.operate("daemon.undrain")


@pytest.mark.slow
def test_drain_wait_says_with_its_status_that_calls_are_still_pending(daemon: Daemon) -> None:
    with Host(daemon.endpoint) as host:
        slow = host.send(action("sleeper", {"seconds": 4}))
        wait_for(lambda: daemon.operate("daemon.status")["pending"] == 1, 10)
        try:
            waited = at(daemon, "drain", "--wait", "--timeout", "0.2")
            assert waited.returncode == 1 and "1 calls are pending" in waited.stdout
        finally:
            at(daemon, "undrain")
        assert host.reply(slow)["type"] == "result"


@pytest.mark.slow
def test_a_restart_replaces_the_worker_and_loses_no_call(daemon: Daemon) -> None:
    with load(daemon, "fragile") as (found, results):
        for _ in range(3):
            (old,) = daemon.pids("fragile")
            done = at(daemon, "restart", "fragile")
            assert done.returncode == 0 and str(old) in done.stdout, done
            count = len(results)
            wait_for(lambda count=count: len(results) > count + 10, 20)
            assert results[-1] != old and old not in daemon.pids("fragile")
    assert set(found) == {"ok"}
    assert len({event.metadata["outcome"]["id"] for event in events(daemon, "plugin.restart", 3)}) == 1
    assert daemon.plugin("fragile")["breaker"] == "closed", "a restart is nobody's failure"


def test_a_running_call_is_answered_by_the_worker_that_is_restarted(daemon: Daemon) -> None:
    with Host(daemon.endpoint) as host:
        slow = host.send(action("sleeper", {"seconds": 1}))
        waits = host.send(action("sleeper", {"seconds": 0}))
        wait_for(lambda: daemon.pids("sleeper"), 10)
        assert daemon.operate("plugin.restart", id="sleeper")["restarted"]
        assert host.reply(slow)["type"] == host.reply(waits)["type"] == "result"


@pytest.mark.slow
def test_resetting_a_breaker_lets_the_plugin_be_called_at_once(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as host:
        def call(die: bool, user: int = 0) -> Any:
            return host.invoke("fragile", "onActionExecute", f"{USER[:-2]}{user:02x}",
                               {"action": "x", "context": {"die": die}})

        for user in range(20):  # one user's calls alone pause the plugin for that user only
            try:
                call(True, user)
            except Busy:
                if daemon.plugin("fragile")["breaker"] == "open":
                    break
                assert at(daemon, "restart", "fragile").returncode == 0, "its backoff of 20 s is over with it"
            except CallError as error:
                assert error.code == "WORKER_CRASHED"
        assert daemon.plugin("fragile")["breaker"] == "open"
        done = at(daemon, "breaker", "reset", "fragile")
        assert done.returncode == 0 and "was open" in done.stdout
        assert call(False)["result"]["result"]
        assert daemon.plugin("fragile")["breaker"] == "closed"
        daemon.wait_metric('breaker_state{plugin="fragile",state="closed"}', 1)
    assert events(daemon, "breaker.reset")[-1].resource == "fragile"


@pytest.mark.slow
def test_reload_tells_what_was_applied_and_a_bad_file_is_one_line(daemon: Daemon) -> None:
    daemon.write_config({"limits.memory_mb": 49})
    done = at(daemon, "reload")
    assert done.returncode == 0 and done.stdout == "reloaded: limits.memory_mb\n"
    assert json.loads(at(daemon, "reload", "--json").stdout) == {"applied": [], "restart": []}
    good = daemon.config_file.read_text()
    try:
        daemon.config_file.write_text("limits = 3")
        done = at(daemon, "reload")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert done.stderr.startswith("apex-exec: INVALID_INPUT")
    finally:
        daemon.config_file.write_text(good)


@pytest.mark.parametrize("verb", [("restart",), ("breaker", "reset")])
def test_a_plugin_that_is_not_served_is_one_line(daemon: Daemon, verb: tuple[str, ...]) -> None:
    done = at(daemon, *verb, "nobody")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("apex-exec: NOT_FOUND: no plugin 'nobody' is served")


@pytest.mark.slow
def test_drain_stop_ends_the_daemon_and_cannot_be_undone(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "sleeper", SLEEP)
    with Daemon(plugins=tmp_path / "plugins") as daemon, Host(daemon.endpoint) as host:
        slow = host.send(action("sleeper", {"seconds": 2}))
        wait_for(lambda: daemon.pids("sleeper"), 10)
        assert daemon.operate("daemon.drain") == {"draining": True, "pending": 1}
        with Host(daemon.admin) as admin:
            refused = admin.ask({"type": "admin", "op": "daemon.undrain"})
        assert (refused["code"], refused["details"]["reason"]) == ("CONFLICT", "ending")
        assert host.reply(slow)["type"] == "result"
        assert daemon.process.wait(10) == 0
        daemon.start()
        with Host(daemon.endpoint) as again:
            slow = again.send(action("sleeper", {"seconds": 1}))
            wait_for(lambda: daemon.pids("sleeper"), 10)
            ended = at(daemon, "drain", "--stop", "--wait")
            assert ended.returncode == 0 and "nothing is pending" in ended.stdout, ended
            assert again.reply(slow)["type"] == "result"
        assert daemon.process.wait(10) == 0
