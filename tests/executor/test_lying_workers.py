"""A plugin that writes to its link itself harms nobody but itself, and is believed in nothing that it cannot know."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.ledger.reading import read_events
from apex_exec.market.money.metering import meter
from tests.support.daemon import ECHO, Daemon, wait_for, write_plugin
from tests.support.host import Host

FORGER = '''
import os

FRAMES = {
    "boots again": b"\\x93\\xa6booted\\x91\\x94\\xa7seccomp\\xa5waved\\x00\\xa0\\x00",
    "is ready again": b"\\x96\\xa5ready\\xa6forger\\xa51.0.0\\x90\\x90\\xc2",
    "answers what it was not asked": b"\\x94\\xa5reply\\x07\\xc0\\x00",
    "pongs unasked": b"\\x92\\xa4pong\\x05",
    "speaks no MessagePack": b"\\xc1",
    "waits for ever": b"\\x99\\xa6raised\\x00\\xa1E\\xa1m\\xa0\\x00\\xacrate_limited\\xa5fetch\\xcf" + b"\\xff" * 8,
    "was refused": b"\\x99\\xa6raised\\x00\\xa1E\\xa1m\\xa0\\x00\\xb1permission_denied\\xa5query\\x00",
    "was out of time": b"\\x99\\xa6raised\\x00\\xa1E\\xa1m\\xa0\\x00\\xb1deadline_exceeded\\xa5query\\x00",
    "found no provider": b"\\x99\\xa6raised\\x00\\xa1E\\xa1m\\xa0\\x00\\xacnot_provided\\xa4call\\x00",
    "used CPU for ever": b"\\x94\\xa5reply\\x00\\x82\\xa6result\\xc0\\xa8metadata\\x80\\xcf" + b"\\xff" * 8,
    "used negative CPU": b"\\x94\\xa5reply\\x00\\x82\\xa6result\\xc0\\xa8metadata\\x80\\xd3\\x80" + bytes(7),
    "fails its jail": b"\\x96\\xa6failed\\xa4jail\\xa7seccomp\\xa1x\\xa1y\\xa0",
}

@plugin.hook("onActionExecute")
def act(context, params):
    frame = FRAMES[params["context"]["frame"]]
    for fd in range(3, 16):
        try:
            os.write(fd, bytes((0, len(frame))) + frame)  # the link among them, and the marks
        except OSError:
            continue
    while params["context"].get("stay"):
        pass
    return {"result": "done", "metadata": {}}
'''


RUNS_ON = '''
import os
import sys
import time

OWN = b"\\x94\\xa5reply\\x00\\x82\\xa6result\\xa4mine\\xa8metadata\\x80\\x00"

@plugin.hook("onActionExecute")
def act(context, params):
    what = params["context"].get("what", "")
    if what.endswith("after its own answer"):
        os.write(3, bytes((0, len(OWN))) + OWN)
        while what.startswith("spin"):
            pass
        if what.startswith("watch the link"):
            poll = sys.modules["workers.runtime.link"].select.poll()
            poll.register(3, 1)
            poll.poll()
        time.sleep(3600)
    if what == "spin between calls":
        module = sys.modules["workers.runtime.link"]

        def busy(self):
            poll = module.select.poll()
            poll.register(self.fileno(), module.select.POLLIN)
            while not poll.poll(0):
                pass

        module.Link._wait = property(lambda self: lambda: busy(self))
    return {"result": "honest", "metadata": {}}
'''
DENIED = '''
@plugin.hook("onActionExecute")
def act(context, params):
    if params["context"].get("first"):
        try:
            context.api.query("SELECT 1")
        except Exception as error:
            globals()["kept"] = error
        return {"result": None, "metadata": {}}
    if params["context"].get("kept"):
        raise kept
    context.api.query("SELECT 1")
'''
HOARDER = '''
@plugin.hook("onActionExecute")
def act(context, params):
    if params["context"].get("claim"):
        raise MemoryError
    return {"result": len([bytes(1 << 20) for _ in range(1000)]), "metadata": {}}
'''


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    plugins: Path = tmp_path_factory.mktemp("plugins")
    write_plugin(plugins, "forger", FORGER, limits={"timeoutMs": 1000})
    write_plugin(plugins, "patient", FORGER, limits={"timeoutMs": 1000})
    for name in ("overrun", "spinner", "sleeper", "link-watcher", "called-at-once", "dormant", "busy-wait"):
        write_plugin(plugins, name, RUNS_ON)
    write_plugin(plugins, "denied", DENIED)
    write_plugin(plugins, "hoarder", HOARDER)
    write_plugin(plugins, "echo", ECHO)
    with Daemon(plugins=plugins, config={
            "breaker.open_seconds": 0.2, "breaker.backoff_min_seconds": 0.01, "breaker.backoff_max_seconds": 0.02,
            "limits.cpu_percent": 100}) as running:
        yield running


@pytest.mark.parametrize("frame", ["boots again", "is ready again", "answers what it was not asked", "pongs unasked",
                                   "speaks no MessagePack"])
def test_a_forged_frame_is_a_violation(daemon: Daemon, frame: str) -> None:
    with Host(daemon.endpoint) as host:
        layers = daemon.operate("daemon.status")["layers"]
        reply = host.invoke("forger", {"frame": frame, "stay": True})
        for _ in range(50):
            if reply["code"] != "QUARANTINED":
                break
            time.sleep(0.1)
            reply = host.invoke("forger", {"frame": frame, "stay": True})
        assert (reply["code"], reply["started"]) == ("WORKER_VIOLATION", True), reply
        assert host.invoke("forger", {"frame": frame})["code"] == "QUARANTINED"
        assert host.invoke("echo", {"n": 1})["result"]["result"] == {"n": 1}
        after = daemon.operate("daemon.status")["layers"]
        assert not layers or after == layers


def test_a_layer_is_not_said_to_be_missing_because_a_plugin_says_so(daemon: Daemon) -> None:
    before = [line for line in daemon.metrics().splitlines() if "sandbox_layer_active{" in line]
    with Host(daemon.endpoint) as host:
        for _ in range(50):
            reply = host.invoke("forger", {"frame": "fails its jail"})
            if reply.get("code") != "QUARANTINED":
                break
            time.sleep(0.1)
        time.sleep(1.2)
    assert [line for line in daemon.metrics().splitlines() if "sandbox_layer_active{" in line] == before


def fresh(daemon: Daemon, host: Host, frame: str) -> dict[str, Any]:
    """The reply to a call that a new worker answers by ``frame``: it can forge the answer to its first call only."""
    for pid in daemon.pids("patient"):
        with contextlib.suppress(ProcessLookupError):  # it broke the protocol in the call before, and has just ended
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not daemon.pids("patient"), 5, "its end")
    for _ in range(50):
        reply = host.invoke("patient", {"frame": frame})
        if reply.get("code") != "QUARANTINED":
            return reply
        time.sleep(0.05)
    raise AssertionError("it stays quarantined")


@pytest.mark.parametrize("frame", ["waits for ever", "was refused", "was out of time", "found no provider"])
def test_a_worker_cannot_claim_a_refusal_that_nobody_gave(daemon: Daemon, frame: str) -> None:
    with Host(daemon.endpoint) as host:
        reply = fresh(daemon, host, frame)
    assert reply["code"] == "PLUGIN_ERROR" and reply["details"]["claimed"] is True, reply
    assert "retryAfterMs" not in reply["details"]
    told = [event.result for event in read_events(daemon.state / "audit.db")
            if event.event_type == "plugin.execution" and event.resource == "patient"]
    assert "denied" not in told, "nothing was denied"


def test_a_refusal_that_was_given_counts_in_its_own_invocation_only(daemon: Daemon) -> None:
    with Host(daemon.endpoint) as host:
        reply = host.invoke("denied", {})
        assert reply["code"] == "PERMISSION_DENIED" and "claimed" not in reply["details"], reply
        assert host.invoke("denied", {"first": True})["type"] == "result"
        reply = host.invoke("denied", {"kept": True})
        assert reply["code"] == "PLUGIN_ERROR" and reply["details"]["claimed"] is True, reply


@pytest.mark.parametrize("frame", ["used CPU for ever", "used negative CPU"])
def test_the_cpu_that_a_worker_claims_is_cut_to_the_time_that_its_call_took(daemon: Daemon, frame: str) -> None:
    with Host(daemon.endpoint) as host:
        usage = fresh(daemon, host, frame)["usage"]
    assert 0 <= usage["cpuMs"] <= usage["executionTimeMs"], usage


def test_memory_without_evidence_is_said_to_be_a_claim_and_counts_for_nothing(daemon: Daemon) -> None:
    with Host(daemon.endpoint) as host:
        for _ in range(7):  # more than open a breaker
            reply = host.invoke("hoarder", {"claim": True})
            assert reply["code"] == "MEMORY_LIMIT" and reply["details"]["claimed"] is True, reply
        (pid,) = daemon.pids("hoarder")
    assert daemon.plugin("hoarder")["breaker"] == "closed" and daemon.pids("hoarder") == [pid]
    assert 'worker_exits_total{plugin="hoarder"' not in daemon.metrics()


@pytest.mark.parametrize(("plugin", "what"), [
    ("overrun", "spin after its own answer"), ("spinner", "spin between calls")])
@pytest.mark.slow_after(1)
def test_code_that_goes_on_after_its_answer_ends_the_worker_and_the_breaker_does_not_count_it(
        daemon: Daemon, plugin: str, what: str) -> None:
    with Host(daemon.endpoint) as host:
        for count in range(1, 7):  # more than open a breaker
            assert host.invoke(plugin, {"what": what})["type"] == "result"
            (pid,) = daemon.pids(plugin)
            wait_for(lambda pid=pid: pid not in daemon.pids(plugin), 3, "its end")
            daemon.wait_metric(f'worker_exits_total{{plugin="{plugin}",reason="overrun"}}', float(count))
        assert host.invoke(plugin, {})["type"] == "result"
        time.sleep(0.6)
        assert len(daemon.pids(plugin)) == 1, "an honest worker stays"
    assert daemon.plugin(plugin)["breaker"] == "closed"


@pytest.mark.parametrize(("plugin", "what"), [
    ("sleeper", "sleep after its own answer"), ("link-watcher", "watch the link after its own answer"),
    ("called-at-once", "spin after its own answer")])
def test_a_worker_that_does_not_begin_its_next_call_is_replaced_and_the_call_is_answered_in_time(
        daemon: Daemon, plugin: str, what: str) -> None:
    """Code that still runs after its answer does not cost the plugin's next call, nor open its breaker."""
    with Host(daemon.endpoint) as host:
        for count in range(1, 4):
            assert host.invoke(plugin, {"what": what})["result"]["result"] == "mine"
            (pid,) = daemon.pids(plugin)
            begun = time.monotonic()
            reply = host.invoke(plugin, {})
            took = time.monotonic() - begun
            assert reply["type"] == "result" and reply["result"]["result"] == "honest", reply
            assert took < 2.5, "half of its deadline is more than it takes to notice and to start another worker"
            assert pid not in daemon.pids(plugin)
            daemon.wait_metric(f'worker_exits_total{{plugin="{plugin}",reason="overrun"}}', float(count))
            assert daemon.operate("plugin.restart", id=plugin)["restarted"]  # it can forge its first answer only
            wait_for(lambda: not daemon.pids(plugin), 5, "its end")
    assert daemon.plugin(plugin)["breaker"] == "closed"


@pytest.mark.slow
def test_code_that_sleeps_on_after_its_answer_is_found_without_another_call(daemon: Daemon) -> None:
    with Host(daemon.endpoint) as host:
        assert host.invoke("dormant", {"what": "sleep after its own answer"})["type"] == "result"
        (pid,) = daemon.pids("dormant")
        wait_for(lambda: pid not in daemon.pids("dormant"), 14, "its end")
        assert host.invoke("dormant", {})["type"] == "result"
        (pid,) = daemon.pids("dormant")
        time.sleep(14)
        assert daemon.pids("dormant") == [pid], "an honest worker answers the ping and stays"
    assert daemon.plugin("dormant")["breaker"] == "closed"


def test_cpu_time_with_an_empty_link_is_on_record_and_metered(daemon: Daemon) -> None:
    """A worker that waits in a loop instead of a poll, called again before that ends it."""
    with Host(daemon.endpoint) as host:
        for _ in range(10):
            assert host.invoke("busy-wait", {"what": "spin between calls"})["type"] == "result"
            time.sleep(0.15)
        (pid,) = daemon.pids("busy-wait")
        wait_for(lambda: pid not in daemon.pids("busy-wait"), 3, "its end")
    daemon.wait_metric('worker_exits_total{plugin="busy-wait",reason="overrun"}', 1.0)
    used = daemon.metric('worker_cpu_seconds_total{plugin="busy-wait"}')

    def metered() -> float:
        usage = meter(read_events(daemon.state / "audit.db"))
        return sum(one.cpu_us for (plugin, _, _), one in usage.items() if plugin == "busy-wait") / 1e6

    assert used > 0.4
    wait_for(lambda: metered() > 0.8 * used, 5, "that what was used is metered")
    assert metered() < 1.05 * used


LOADED = '''
import os
import time

frame = FRAME
whole = (bytes((0, len(frame))) + frame) * 200
end = time.monotonic() + 5
try:
    while time.monotonic() < end:
        os.write(3, whole)
except OSError:
    pass
''' + ECHO
UNCALLED = {
    "an API call": b"\x95\xa3api\x00\x01\xa4emit\x80", "a reply": b"\x94\xa5reply\x00\xc0\x00",
    "a pong": b"\x92\xa4pong\x01", "a skip": b"\x92\xa7skipped\x00",
    "bad input": b"\x94\xa9bad_input\x00\xa0\x00", "bad output": b"\x95\xaabad_output\x00\xa0\xa0\x00",
    "an error": b"\x99\xa6raised\x00\xa1E\xa1m\xa0\x00\xa0\xa0\x00\xc2",
    "a second boot": b"\x93\xa6booted\x90\x00", "nothing known": b"\x91\xa4root",
}


@pytest.mark.parametrize("what", UNCALLED)
@pytest.mark.slow_after(1)
def test_a_bundle_that_is_only_loaded_says_nothing_to_the_daemon(daemon: Daemon, tmp_path: Path, what: str) -> None:
    """It is looked at before it is installed: its worker has no call, and the core does not know it."""
    name = "loaded-" + what.replace(" ", "-").lower()
    bundle = write_plugin(tmp_path, name, LOADED.replace("FRAME", repr(UNCALLED[what])))
    with pytest.raises(AssertionError, match="broke the inner protocol"):
        daemon.operate("plugin.install", path=str(bundle))
    assert daemon.log.count(f"plugin {name}: its worker broke") == 1, "one line for one violation"
    assert not [event for event in read_events(daemon.state / "audit.db")
                if (event.event_type, event.resource) == ("security.anomaly", name)]
    with Host(daemon.endpoint) as host:
        assert host.invoke("echo", {"n": 1})["type"] == "result"


ONCE = '''
import os
import time

@plugin.hook("onActionExecute")
def act(context, params):
    frame = FRAME
    os.write(3, (bytes((0, len(frame))) + frame) * 5000)
    time.sleep(5)
'''


@pytest.mark.parametrize("what", [
    what if what == "an API call" else pytest.param(what, marks=pytest.mark.slow)
    for what in UNCALLED])
@pytest.mark.slow
def test_what_follows_a_violation_is_not_looked_at(tmp_path: Path, what: str) -> None:
    """Thousands of messages that break the protocol are one line and one event, as the first of them is."""
    frame = UNCALLED[what] if what == "a second boot" else UNCALLED[what].replace(b"\x00", b"\x07", 1)  # of no call
    write_plugin(tmp_path / "plugins", "once", ONCE.replace("FRAME", repr(frame)))
    with Daemon(plugins=tmp_path / "plugins") as running, Host(running.endpoint) as host:
        assert host.invoke("once")["code"] == "WORKER_VIOLATION"
        wait_for(lambda: "ended, violation" in running.log, 5)
        time.sleep(0.3)
        assert running.log.count("broke the inner protocol") <= 2, "the violation, and the worker's end"
        events = [event for event in read_events(running.state / "audit.db") if event.event_type == "security.anomaly"]
        assert len(events) <= 3
