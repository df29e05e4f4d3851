"""Every request gets its one reply, even where the daemon fails at what a worker said."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from apex_exec.core import events as ev
from apex_exec.core.actions import Verdict
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler.breaker import BreakerPolicy
from apex_exec.core.scheduler.pool import Pool, PoolLimits
from apex_exec.daemon import absent
from apex_exec.daemon.hosts import pending_table, verdicts
from apex_exec.daemon.hosts import requests as under_test
from apex_exec.daemon.hosts.connections import Peer
from apex_exec.daemon.hosts.dispatch_runs import DispatchRuns
from apex_exec.daemon.hosts.pending_table import Pending, PendingTable
from apex_exec.daemon.hosts.replies import Replies
from apex_exec.daemon.hosts.requests import Requests
from apex_exec.daemon.hosts.verdicts import Verdicts
from apex_exec.daemon.plugin_settings import PluginSettings
from apex_exec.daemon.tenants import Tenants
from apex_exec.errors import WireError
from apex_exec.executor.guard import raise_it
from apex_exec.executor.links.overhead import Used
from apex_exec.observe.logs import Logs
from apex_exec.observe.metrics import Metrics
from apex_exec.wire import hooks
from apex_exec.wire import messages as msg
from tests.support.daemon import USER
from workers import wire as inner


class Sent:
    """Connections that keep what is sent to them."""

    def __init__(self) -> None:
        self.replies: list[dict[str, Any]] = []

    def reply(self, _peer: Peer, _frames: list[bytes], body: bytes) -> None:
        self.replies.append(msgspec.msgpack.decode(body))

    def peer(self, name: bytes) -> Peer:
        return Peer(name, 3, self)  # type: ignore[arg-type]  # of all that connections do, requests only reply


class Bugs(Logs):
    """Logs that keep what the daemon says it failed at."""

    def __init__(self) -> None:
        super().__init__(level="error", format="text", plugin_lines_per_second=1, folder=Path("/nowhere"))
        self.bugs: list[str] = []

    def bug(self, what: str, error: BaseException) -> None:
        self.bugs.append(what)


class Rig:
    """Requests to plugins whose workers never come. ``pool`` is the core; ``step`` may be another's."""

    def __init__(self, per_host: int = 10, pool: Pool | None = None) -> None:
        self.pool = pool or Pool(PoolLimits(), BreakerPolicy(), random.random)
        self.pool.step(ev.PluginSet(
            PluginSpec("echo", "1.0.0", "d", "plugin.py", ("onActionExecute", "onDashboardLoad"))), 0)
        self.connections, self.logs, self.metrics = Sent(), Bugs(), Metrics()
        self.invoked: list[ev.InvokeRequested] = []
        audit, api, self.table = absent.NoTrail(), absent.NoApiCalls(), PendingTable()
        replies = Replies(self.table, audit)
        configured = PluginSettings(is_known=True)
        tenants = Tenants(has_any=False)
        dispatches = DispatchRuns(self.pool, self.table, replies, self.step, configured, tenants)
        self.verdicts = Verdicts(
            self.pool, self.table, replies, dispatches, used=lambda _plugin, _call, _run_ns: Used(), audit=audit,
            api=api, checks=absent.NoChecks(), places=absent.NoPlaces(), metrics=self.metrics, logs=self.logs,
            failed=raise_it, plugin_settings=configured)
        self.requests = Requests(
            self.pool, self.table, replies, dispatches, step=self.step, per_host=per_host, audit=audit, api=api,
            welcome=lambda _id: None,  # type: ignore[arg-type,return-value]  # nobody says hello
            metrics=self.metrics, plugin_settings=configured, tenants=tenants)
        self.sent = self.connections.replies
        self.peer = self.connections.peer(b"\0host")

    def step(self, event: ev.Event, now_ns: int) -> None:
        if isinstance(event, ev.InvokeRequested):
            self.invoked.append(event)
        for action in self.pool.step(event, now_ns):
            if isinstance(action, Verdict):
                self.verdicts.verdict(action)


def invoke(id_: int) -> msg.Invoke:
    return msg.Invoke(id=id_, plugin="echo", action="onActionExecute", user_id=USER,
                      payload=msgspec.Raw(msgspec.msgpack.encode({"action": "x", "context": {}})))


def test_what_is_held_of_large_requests_is_bounded_and_free_with_their_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_table, "LARGE_BYTES_MAX", 1_000_000)
    rig = Rig(per_host=3)
    requests, sent, peer = rig.requests, rig.sent, rig.peer
    requests.serve_large(peer, [], invoke(1), 400_000)
    requests.serve_large(peer, [], invoke(2), 400_000)
    with pytest.raises(WireError) as refused:
        requests.serve_large(peer, [], invoke(3), 400_000)
    assert refused.value.code == "OVERLOADED"
    requests.serve(peer, [], invoke(4))  # a small one is still taken
    for again, code in ((1, "DUPLICATE_ID"), (5, "OVERLOADED")):
        with pytest.raises(WireError) as refused:
            requests.serve_large(peer, [], invoke(again), 100_000)
        assert refused.value.code == code
    assert rig.table.large_bytes == 800_000
    requests.serve(peer, [], msg.Cancel(id=9, target=1))
    assert rig.table.large_bytes == 400_000 and sent[0]["code"] == "CANCELLED"
    dashboard = msg.Dispatch(id=6, action="onDashboardLoad", user_id=USER,
                             payload=msgspec.Raw(msgspec.msgpack.encode({"userId": USER, "dashboardId": "d"})))
    with pytest.raises(WireError):
        requests.serve_large(peer, [], dashboard, 100_000)  # it is held decoded
    requests.serve_large(peer, [], dashboard, 50_000)
    assert rig.table.large_bytes == 800_000
    requests.peer_gone(peer)
    while requests.left:
        requests.cancel_left()  # a millisecond's worth
    assert rig.table.large_bytes == 0 and not peer.pending


def test_what_a_connection_leaves_is_cancelled_in_parts_the_latest_first(
        monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(per_host=300)
    requests, sent, peer = rig.requests, rig.sent, rig.peer
    other = rig.connections.peer(b"\0other")
    for id_ in range(200):
        requests.serve(peer, [], msgspec.structs.replace(invoke(id_), user_id=f"{USER[:-3]}{id_:03}"))
    requests.serve(other, [], invoke(1000))
    requests.peer_gone(peer)
    requests.peer_gone(other)
    rounds = 0
    clock = iter(range(0, 10**12, 300_000))  # a cancel takes 0.3 ms
    monkeypatch.setattr(under_test, "_clock_ns", lambda: next(clock))
    while requests.left:
        before = len(sent)
        more = requests.cancel_left()
        rounds += 1
        assert len(sent) - before <= 5 and more == bool(requests.left)
    assert rounds >= 40 and not len(requests)
    assert [reply["id"] for reply in sent] == [*range(199, -1, -1), 1000]
    assert {reply["code"] for reply in sent} == {"CANCELLED"}


@pytest.mark.parametrize(("code", "users"), [("OVERLOADED", 1), ("OVERLOADED", 2000), ("QUARANTINED", 1)])
def test_a_call_that_is_refused_by_the_short_way_has_the_cores_own_answer(code: str, users: int) -> None:
    rig = Rig(per_host=5000)
    requests, sent, peer = rig.requests, rig.sent, rig.peer
    if code == "QUARANTINED":
        rig.pool.slots["echo"].breaker.open_until_ns = 1 << 62
    for id_ in range(1 if code == "QUARANTINED" else 1200):
        requests.serve(peer, [], msgspec.structs.replace(invoke(id_), user_id=f"{USER[:-4]}{id_ % users:04}"))
    told = [a for a in rig.pool.step(ev.InvokeRequested(10**9, "echo", "onActionExecute", f"{USER[:-4]}0000",
                                                    msgspec.Raw(b"\x80"), 1 << 62), 0) if isinstance(a, Verdict)]
    assert sent and {reply["code"] for reply in sent} == {code} == {told[0].code}
    assert sent[-1]["message"] == told[0].message and sent[-1].get("details", {}).keys() == told[0].details.keys()
    assert all(r["retryable"] and not r["started"] and r["plugin"] == "echo" and r["usage"] for r in sent)
    assert rig.metrics.get("invocations_total", ("echo", "onActionExecute", code)) == len(sent)
    assert not rig.table.calls.keys() & {reply["id"] for reply in sent} or code != "QUARANTINED"


def test_a_dispatch_is_encoded_once_for_all_who_get_the_same() -> None:
    rig = Rig()
    requests, peer, pool = rig.requests, rig.peer, rig.pool
    for number in range(20):
        pool.step(ev.PluginSet(PluginSpec(f"p{number}", "1.0.0", "d", "plugin.py", ("onDashboardLoad",))), 0)
    payload = {"userId": USER, "dashboardId": "d", "more": "x" * 100_000}
    requests.serve(peer, [], msg.Dispatch(id=1, action="onDashboardLoad", user_id=USER,
                                          payload=msgspec.Raw(msgspec.msgpack.encode(payload))))
    events = rig.invoked
    assert len(events) == 21 and len({id(event.params) for event in events}) == 1
    assert msgspec.msgpack.decode(events[0].params) == payload


def test_what_an_older_version_renders_is_held_to_its_own_grants() -> None:
    rig = Rig()
    requests, peer, pool = rig.requests, rig.peer, rig.pool
    requests.serve(peer, [], invoke(1))  # a worker of version d is on its way
    newer = PluginSpec("echo", "2.0.0", "e", "plugin.py", ("onActionExecute", "onDashboardLoad"), ("ui:render",))
    pool.step(ev.PluginSet(newer), 1)
    found = [rig.verdicts.rendering(Verdict(
        9, "echo", "onDashboardLoad", "u", "", "", None, {}, True, 0, 0, False, worker)) for worker in (1, 2)]
    assert "ui:render" in found[0].denied and not found[1].denied


def test_a_result_that_the_daemon_fails_at_still_has_its_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    peer = rig.peer
    peer.pending[7] = 1
    rig.table.calls[1] = Pending(peer, [], 7)

    def fails(*_: Any) -> None:
        raise AttributeError("a bug")

    monkeypatch.setattr(verdicts, "settle", fails)
    reply = inner.Reply(0, msgspec.Raw(b"\xc0"), 0)
    rig.verdicts.verdict(Verdict(1, "p", "onActionExecute", "u", "", "", reply, {}, True, 0, 0, False))
    (answer,) = rig.sent
    assert len(rig.logs.bugs) == 1
    assert answer["id"] == 7 and answer["code"] == "INTERNAL" and answer["started"] is True
    assert not peer.pending and not rig.table.calls


@pytest.mark.parametrize("fails_late", [False, True])
def test_a_part_of_a_dispatch_whose_verdict_fails_does_not_hold_the_dispatch_up(
        monkeypatch: pytest.MonkeyPatch, fails_late: bool) -> None:
    def fails(*_: Any) -> None:
        raise AttributeError("a bug")

    rig = Rig()
    rig.requests.serve(rig.peer, [], msg.Dispatch(id=1, action="onDashboardLoad", user_id=USER,
                                                  payload=msgspec.Raw(msgspec.msgpack.encode({"dashboardId": "d"}))))
    (event,) = rig.invoked
    reply = inner.Reply(0, msgspec.Raw(msgspec.msgpack.encode({"customWidgets": []})), 0)
    verdict = Verdict(event.call, "echo", "onDashboardLoad", USER, "", "", reply, {}, True, 0, 0, False)
    if fails_late:  # when the dispatch has it already
        monkeypatch.setattr(hooks, "parts_of", fails)
        with pytest.raises(AttributeError):
            rig.verdicts.verdict(verdict)
    rig.verdicts.untold(verdict)  # as ``CoreDriver`` does for a verdict at which it has failed
    (answer,) = rig.sent
    assert answer["id"] == 1 and answer["partial"] and answer["outcomes"][0]["error"]["code"] == "INTERNAL"


def test_a_call_of_the_daemons_own_whose_verdict_fails_has_its_outcome() -> None:
    rig, seen = Rig(), []
    rig.verdicts.watch(5, lambda _, outcome, effects: seen.append((outcome.code, effects)))
    for _ in range(2):
        rig.verdicts.untold(Verdict(5, "echo", "onDashboardLoad", USER, "", "", None, {}, True, 0, 0, False))
    assert seen == [("INTERNAL", [])]
