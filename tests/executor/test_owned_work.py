"""What the daemon does for a plugin has a bound and an owner: however a worker writes, others hardly notice it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.catalogue.hooks import WIDGETS_MAX
from apex_exec.core.plugin import PluginSpec
from apex_exec.executor.links.overhead import Overhead
from apex_exec.executor.links.worker_link import WorkerLink
from apex_exec.observe.metrics import Metrics
from tests.support.daemon import ECHO, USER, Daemon, wait_for, write_plugin
from tests.support.host import Host, action
from workers.zmtp import Zmtp, encode

GREETING_AND_READY = Zmtp(frame_bytes_max=0).greeting()
WRITER = '''
import os
import time

FRAMES = {
    "ping": b"\\x04\\x07\\x04PING\\0\\0",
    "huge line": b"\\x02" + (1_000_015).to_bytes(8, "big") + b"\\x93\\xa3log\\xa4info\\xdb"
                 + (1_000_000).to_bytes(4, "big") + b"x" * 1_000_000,
}


def marks():
    """The descriptor of the marks pipe: the only one of a worker that takes a byte and is no link."""
    for fd in range(4, 16):
        try:
            os.write(fd, b"m" * 100)
            return
        except OSError:
            continue


@plugin.hook("onActionExecute")
def act(context, params):
    asked = params["context"]
    if asked.get("marks"):
        marks()
    frame = FRAMES.get(asked.get("frame"))
    if frame is not None:
        for _ in range(asked["times"]):
            os.write(3, frame)
    time.sleep(asked.get("seconds", 0))
    return {"result": "done", "metadata": {}}
'''
QUICK_BREAKER = {"breaker.open_seconds": 0.2, "breaker.backoff_min_seconds": 0.01, "breaker.backoff_max_seconds": 0.02}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    plugins: Path = tmp_path_factory.mktemp("plugins")
    for name in ("pinger", "marker", "shouter"):
        write_plugin(plugins, name, WRITER, limits={"timeoutMs": 2000})
    write_plugin(plugins, "echo", ECHO)
    write_plugin(plugins, "big", BIG)
    write_plugin(plugins, "talker", TALKER)
    write_plugin(plugins, "beggar", TALKER)
    for name in ("many-a", "many-b"):
        write_plugin(plugins, name, WIDGETS, hooks=("onDashboardLoad",), permissions=("ui:render",))
    with Daemon(plugins=plugins, config={**QUICK_BREAKER, "limits.cpu_percent": 100}) as running:
        yield running


def test_a_command_after_the_handshake_is_a_violation(daemon: Daemon) -> None:
    with Host(daemon.endpoint) as host:
        reply = host.invoke("pinger", {"frame": "ping", "times": 1, "seconds": 1})
        assert reply["code"] == "WORKER_VIOLATION", reply
        assert host.invoke("echo", {"n": 1})["type"] == "result"


def test_more_marks_than_calls_are_a_violation(daemon: Daemon) -> None:
    """Marks are looked at where a call expires behind another one."""
    with Host(daemon.endpoint) as host:
        assert host.invoke("marker")["type"] == "result"
        first = host.send({"type": "invoke", "plugin": "marker", "action": "onActionExecute", "userId": USER,
                           "payload": {"action": "x", "context": {"marks": True, "seconds": 1.5}}})
        time.sleep(0.3)
        behind = host.send({"type": "invoke", "plugin": "marker", "action": "onActionExecute", "userId": USER,
                            "deadlineMs": 100, "payload": {"action": "x", "context": {}}})
        assert host.reply(first)["code"] == "WORKER_VIOLATION"
        assert host.reply(behind)["type"] == "error"
        assert "marked more calls than it was sent" in daemon.log


def test_marks_are_read_once_and_no_further_than_calls_were_sent() -> None:
    link = WorkerLink(1, PluginSpec("p", "1.0.0", "d", "p.py", ()), 0)
    try:
        link.sent = 5
        os.write(link.marks_write, b"m" * 3)
        assert link.drain_marks() == 3 and not link.overmarked
        os.set_blocking(link.marks_write, False)
        os.write(link.marks_write, b"m" * 65_000)
        assert link.drain_marks() == 5 and link.overmarked
        left = os.read(link._marks, 1 << 20)
        assert len(left) == 65_000 - 3, "more was read than can be true"
    finally:
        link.close()


WIDGETS = '''
@plugin.hook("onDashboardLoad")
def load(context, params):
    many = int(params["dashboardId"])
    return {"customWidgets": [{"id": f"w{n}", "component": "C", "props": {"n": n}, "more": [n]} for n in range(many)]}
'''


def test_a_dispatch_takes_so_many_widgets_of_a_plugin_and_no_more(daemon: Daemon) -> None:
    def dispatch(many: int) -> dict[str, Any]:
        with Host(daemon.endpoint) as host:
            return host.ask({"type": "dispatch", "action": "onDashboardLoad", "userId": USER,
                             "payload": {"dashboardId": str(many)}})

    reply = dispatch(WIDGETS_MAX)
    found = reply["result"]["customWidgets"]
    assert [one["id"] for one in found] == [f"{name}/w{n}" for name in ("many-a", "many-b") for n in range(WIDGETS_MAX)]
    assert found[7] == {"id": "many-a/w7", "component": "C", "props": {"n": 7}, "more": [7]}
    assert all(one["ok"] and len(one["result"]["customWidgets"]) == WIDGETS_MAX for one in reply["outcomes"])
    reply = dispatch(WIDGETS_MAX + 1)
    assert reply["partial"] and reply["result"]["customWidgets"] == []
    assert {one["error"]["code"] for one in reply["outcomes"]} == {"INVALID_OUTPUT"}


BIG = '''
@plugin.hook("onActionExecute")
def act(context, params):
    values = params["context"]["values"]
    return {"result": [0.5] * values if values else [[]] * 20_000 + [1e999], "metadata": {}}
'''


def test_a_dear_result_is_checked_beside_the_loop_and_charged(daemon: Daemon) -> None:
    with Host(daemon.endpoint) as host:
        reply = host.invoke("big", {"values": 30_000})
        assert len(reply["result"]["result"]) == 30_000
        assert reply["usage"]["hostCpuMs"] > 0
        assert host.invoke("big", {"values": 0})["code"] == "INVALID_OUTPUT"
        assert host.invoke("big", {"values": 70_000})["code"] == "INVALID_OUTPUT"
        pending = [host.send({"type": "invoke", "plugin": "big", "action": "onActionExecute", "userId": USER,
                              "payload": {"action": "x", "context": {"values": n}}}) for n in range(20_000, 20_012)]
        assert [len(host.reply(one)["result"]["result"]) for one in pending] == list(range(20_000, 20_012))
    wait_for(lambda: daemon.metric('plugin_overhead_seconds_total{plugin="big",where="checks"}') > 0, 5)
    wait_for(lambda: daemon.metric('plugin_overhead_seconds_total{plugin="big",where="supervisor"}') > 0, 5)


def test_when_the_checking_process_dies_its_results_are_answered_and_the_next_are_checked(daemon: Daemon) -> None:
    with Host(daemon.endpoint) as host:
        assert host.invoke("big", {"values": 30_000})["type"] == "result", "the process starts when it is first needed"
        (checks,) = (process for process in daemon.family() if process.name() == "apex-checks")
        checks.suspend()
        pending = host.send({"type": "invoke", "plugin": "big", "action": "onActionExecute", "userId": USER,
                             "payload": {"action": "x", "context": {"values": 30_000}}})
        time.sleep(0.3)
        assert host.invoke("echo", {"n": 1})["type"] == "result", "nobody else waits for it"
        checks.kill()
        assert host.reply(pending)["code"] == "INTERNAL"
        wait_for(lambda: host.invoke("big", {"values": 30_000})["type"] == "result", 10)


def test_a_line_over_its_bound_is_a_violation(daemon: Daemon) -> None:
    with Host(daemon.endpoint) as host:
        assert host.invoke("shouter", {"frame": "huge line", "times": 1, "seconds": 1})["code"] == "WORKER_VIOLATION"


TALKER = '''
@plugin.hook("onActionExecute")
def act(context, params):
    for _ in range(params["context"].get("lines", 0)):
        print("é\\x00" * 2000)
    for _ in range(params["context"].get("refused", 0)):
        try:
            context.api.query("SELECT 1")
        except Exception:
            pass
    return {"result": None, "metadata": {}}
'''


def test_what_the_ledger_and_the_log_threads_do_for_a_plugin_is_counted(daemon: Daemon) -> None:
    def spent(plugin: str, where: str) -> float:
        return daemon.metric(f'plugin_overhead_seconds_total{{plugin="{plugin}",where="{where}"}}')

    with Host(daemon.endpoint) as host:
        for _ in range(5):
            assert host.invoke("talker", {"lines": 20})["type"] == "result"
            assert host.invoke("beggar", {"refused": 8})["type"] == "result"
    wait_for(lambda: spent("talker", "log") > 0 and spent("beggar", "ledger") > 0, 10, "that it is counted")
    wait_for(lambda: spent("beggar", "ledger") > spent("talker", "ledger") > 0, 10, "nine records a call against one")
    assert spent("beggar", "log") < spent("talker", "log")


class Charged:
    """Stands where the governor stands: notes what is taken out of plugins' buckets."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, int]] = []

    def charge_host(self, plugin: str, cost_ns: int, now_ns: int) -> None:
        self.taken.append((plugin, cost_ns))


def test_the_record_of_a_call_is_counted_and_every_record_that_a_plugin_causes_is_charged() -> None:
    charged = Charged()
    metrics = Metrics()
    overhead = Overhead(metrics)
    overhead.governing = charged  # type: ignore[assignment]  # as much of it as is asked for
    overhead.tune(PluginSpec("p", "1.0.0", "d", "p.py", ()), 0)
    overhead.records("p", 3000, 0)
    assert charged.taken == []
    overhead.records("p", 3000, 500)
    overhead.records("removed", 3000, 500)
    assert charged.taken == [("p", 500)]
    assert metrics.get("plugin_overhead_seconds_total", ("p", "ledger")) == pytest.approx(6500 / 1e9)


ASKERS = {
    "asker": '''
from workers import ApiError

@plugin.hook("onActionExecute")
def act(context, params):
    try:
        context.api.query("SELECT 1")
    except ApiError:
        return {"result": None, "metadata": {}}
''',
    "emitter": '''
@plugin.hook("onActionExecute")
def act(context, params):
    for n in range(params["context"].get("n", 1)):
        context.api.emit("x")
        if n % 50 == 0:
            context.api.render_widget("Chart")
    return {"result": None, "metadata": {}}
''',
    "splitter": '''
import os

import msgspec

@plugin.hook("onActionExecute")
def act(context, params):
    for _ in range(params["context"].get("n", 1)):  # the SDK would put them into one message
        body = msgspec.msgpack.encode(["effects", context.api._seq, [["emit", "x", None]]])
        os.write(3, b"\\x02" + len(body).to_bytes(8, "big") + body)
    return {"result": None, "metadata": {}}
'''}


@pytest.fixture
def slow_pace(tmp_path: Path) -> Iterator[tuple[Daemon, Host]]:
    """A daemon whose plugins may make a thousand API calls at once, and a hundred a second after that."""
    for id_, code in ASKERS.items():
        write_plugin(tmp_path / "plugins", id_, code, permissions=("events:emit", "ui:render"))
    with Daemon(plugins=tmp_path / "plugins", config={
            "limits.api_calls_per_second": 100, "limits.cpu_percent": 100}) as running, Host(running.endpoint) as host:
        yield running, host


def asks(host: Host, plugin: str, calls: int, **context: int) -> float:
    """How many seconds ``calls`` calls take, eight at once."""
    assert host.invoke(plugin)["type"] == "result"
    begun = time.monotonic()
    for _ in range(0, calls, 8):
        for id_ in [host.send(action(plugin, context)) for _ in range(8)]:
            reply = host.reply(id_)
            assert reply["type"] == "result", reply
    return time.monotonic() - begun


@pytest.mark.slow
def test_the_pace_of_api_calls_holds_across_invocations(slow_pace: tuple[Daemon, Host]) -> None:
    """One API call an invocation costs no more than an ordinary answer may; its plugin has a rate all the same."""
    assert asks(slow_pace[1], "asker", 1200) > 1.8, "1,000 at once, and 100 a second after that"


@pytest.mark.slow
def test_effects_that_a_worker_sends_one_by_one_have_the_pace_of_their_records(slow_pace: tuple[Daemon, Host]) -> None:
    assert asks(slow_pace[1], "splitter", 64, n=20) > 1.8, "1,216 records beyond the first of each call"


def test_effects_that_ride_with_the_answer_wait_for_no_rate_of_round_trips(slow_pace: tuple[Daemon, Host]) -> None:
    """2,400 effects, for which the rate alone would take fourteen seconds."""
    assert asks(slow_pace[1], "emitter", 1600, n=1) < 12
    assert asks(slow_pace[1], "emitter", 80, n=10) < 12


def test_messages_that_wait_for_their_turn_keep_their_order() -> None:
    link = WorkerLink(1, PluginSpec("p", "1.0.0", "d", "p.py", ()), 0)
    try:
        link.theirs.sendall(GREETING_AND_READY + b"".join(encode(bytes([n])) for n in range(40)))
        got: list[bytes] = []
        while len(got) < 40:
            bodies, ended = link.receive()
            assert not ended
            got += bodies[:3]
            link.put_back(bodies[3:])
            assert link.more == (len(got) < 40)
        assert got == [bytes([n]) for n in range(40)]
    finally:
        link.close()


LARGE = '''
@plugin.hook("onDashboardLoad")
def load(context, params):
    return {"customWidgets": [{"id": f"w{n}", "component": "C", "props": {f"k{k}": None for k in range(55)}}
                              for n in range(1000)]}
'''


@pytest.mark.slow
def test_large_results_that_come_together_are_all_checked(tmp_path: Path) -> None:
    """Each is larger than what the link to the process that checks them takes at once, and is handed over while the
    answer to another one is taken in."""
    for n in range(4):
        write_plugin(tmp_path / "plugins", f"large-{n}", LARGE, hooks=("onDashboardLoad",), permissions=("ui:render",))
    with Daemon(plugins=tmp_path / "plugins") as running, Host(running.endpoint) as host:
        for _ in range(3):
            reply = host.ask({"type": "dispatch", "action": "onDashboardLoad", "userId": USER,
                              "payload": {"dashboardId": "x"}})
            assert [outcome["ok"] for outcome in reply["outcomes"]] == [True] * 4
