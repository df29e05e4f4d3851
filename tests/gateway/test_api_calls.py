"""API calls on a real daemon: whose they are, what is refused, what is on record, what ends with the invocation."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client import CallError, Client, protocol
from apex_exec.errors import ApexError
from apex_exec.ledger.reading import read_events
from tests.gateway.bundles import ALL, bundle, gateway_of, ledger_of
from tests.gateway.conftest import TABLES, A, B, sqlite_data
from tests.support.daemon import Daemon, wait_for

NAMED = {"tables": ["users", "orders", "notes"]}

LEFTOVER = '''
import asyncio
from workers import ApiError, Plugin

plugin = Plugin(id="leftover", version="1.0.0", permissions=["data:read"])
seen = []


@plugin.hook("onActionExecute")
async def run(context, params):
    """Leaves a task behind that asks in the name of the hook that made it."""
    async def later():
        await asyncio.sleep(0)
        try:
            seen.append(await context.api.query("SELECT name FROM users"))
        except ApiError as error:
            seen.append(error.code)
    if params["action"] == "leave":
        asyncio.get_running_loop().call_later(0.001, lambda: asyncio.ensure_future(later()))
    elif params["action"] == "gather":
        got = await asyncio.gather(*(context.api.query("SELECT $1::int AS n", [n]) for n in range(20)),
                                   context.api.query("SELECT * FROM secrets"), return_exceptions=True)
        return {"result": [r[0]["n"] if isinstance(r, list) else r.code for r in got], "metadata": {}}
    else:
        await asyncio.sleep(0.05)
    return {"result": list(seen), "metadata": {}}
'''

RAW = '''
import sys
from workers import Plugin, wire
import msgspec

plugin = Plugin(id="raw", version="1.0.0", permissions=["data:read"])


@plugin.hook("onActionExecute")
def run(context, params):
    """Sends API calls of its own making over the worker's link."""
    worker = context.api._ask.__self__
    for seq, api_id in params["context"]["calls"]:
        raw = msgspec.Raw(msgspec.msgpack.encode({"sql": "SELECT 1"}))
        worker._host.send(wire.ApiCall(context.api._seq + seq, api_id, "query", raw))
    return {"result": context.api.query("SELECT 1 AS one"), "metadata": {}}
'''


SLEEPER = '''
import time
from workers import ApiError, Plugin

plugin = Plugin(id="sleeper", version="1.0.0", permissions=["events:emit"])


@plugin.hook("onActionExecute")
def run(context, params):
    """Emits, waits, and emits again."""
    out = []
    for _ in range(2):
        try:
            out.append(context.api.emit("tick"))
        except ApiError as error:
            out.append(error.code)
        time.sleep(0.8)
    return {"result": out, "metadata": {}}
'''


@pytest.fixture(scope="module")
def daemon(folder: Path) -> Iterator[Daemon]:
    plugins = folder / "plugins"
    bundle(plugins, "caller", ALL, data=NAMED, network={"allow": ["app.localhost"]}, limits={"networkPerMinute": 3})
    bundle(plugins, "paced", ALL, data=NAMED, network={"allow": ["app.localhost"]}, limits={"networkPerMinute": 3})
    bundle(plugins, "awaiter", ALL, is_async=True, data=NAMED)
    bundle(plugins, "poor", [], data=NAMED)
    bundle(plugins, "writer", ["data:write"], data=NAMED)
    bundle(plugins, "leftover", ["data:read"], LEFTOVER, data=NAMED)
    bundle(plugins, "raw", ["data:read"], RAW, data=NAMED)
    bundle(plugins, "raw2", ["data:read"], RAW.replace('id="raw"', 'id="raw2"'), data=NAMED)
    bundle(plugins, "sleeper", ["events:emit"], SLEEPER)
    bundle(plugins, "poor2", [], data=NAMED)
    bundle(plugins, "caller2", ALL, data=NAMED, network={"allow": ["app.localhost"]})
    bundle(plugins, "flooder", ["events:emit"], FLOODER)
    sqlite_data(folder / "data.db").close()
    with Daemon(folder / "d", plugins, {
            "data.url": f"sqlite:///{folder}/data.db", "data.tables": TABLES, "ui.components": ["Chart"],
            "fetch.allow": ["app.localhost:9"], "fetch.allow_private": True, "sandbox.min_level": "L0",
            "breaker.ends": 100}) as running:
        yield running


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.endpoint) as made:
        yield made


def run(client: Client, plugin: str, *steps: Any, user: str = A, **more: Any) -> Any:
    made = [{"api": name, "args": args} for name, args in steps]
    reply = client.invoke(plugin, "onActionExecute", user, {"action": "x", "context": {"steps": made}}, **more)
    return reply["result"]["result"]


def records(daemon: Daemon, resource: str, event_type: str = "") -> list[Any]:
    """Audit events about ``resource`` as (type, user, action, result, metadata), oldest first."""
    return [(event.event_type, event.user_id, event.action, event.result, event.metadata)
            for event in read_events(daemon.state / "audit.db")
            if event.resource == resource and event_type in ("", event.event_type)]


@pytest.mark.parametrize("plugin", ["caller", "awaiter"])
def test_a_hook_reads_and_writes_the_callers_data(client: Client, plugin: str) -> None:
    number = 700 if plugin == "caller" else 800
    got = run(client, plugin,
              ("query", {"sql": "SELECT * FROM users WHERE id = $1", "params": [A]}),
              ("insert", {"table": "notes", "values": {"id": number, "text": "hello"}}),
              ("update", {"table": "notes", "values": {"text": "changed"}, "where": {"id": number}}),
              ("query", {"sql": "SELECT text FROM notes WHERE id = $1", "params": [number]}),
              ("upsert", {"table": "notes", "on": "id", "returning": ["text", "id"],
                          "values": [{"id": number, "text": "again"}, {"id": number + 1, "text": "new"}]}),
              ("delete", {"table": "notes", "where": {"id": number + 1}, "returning": True}),
              ("delete", {"table": "notes", "where": {"id": number}}))
    assert got == [[{"id": A, "name": "Ann", "email": "ann@a"}],
                   {"rowCount": 1, "row": {"id": number, "text": "hello", "tag": None}}, {"rowCount": 1},
                   [{"text": "changed"}],
                   {"rowCount": 2, "rows": [{"text": "again", "id": number}, {"text": "new", "id": number + 1}]},
                   {"rowCount": 1, "rows": [{"id": number + 1, "text": "new", "tag": None}]}, {"rowCount": 1}]
    assert run(client, plugin, ("query", {"sql": "SELECT name FROM users"}), user=B) == [[{"name": "SECRET Bob"}]]


def test_effects_come_with_the_reply_and_are_gone_where_the_hook_fails(client: Client) -> None:
    steps = [{"api": "render_widget", "args": {"component": "Chart", "props": {"a": 1}}},
             {"api": "emit", "args": {"event": "custom-event", "payload": {"x": [1]}}},
             {"api": "render_widget", "args": {"component": "Other"}}]
    payload = {"action": "x", "context": {"steps": steps}}
    reply = client.invoke("caller", "onActionExecute", A, payload)
    assert reply["effects"] == [{"kind": "render", "component": "Chart", "props": {"a": 1}},
                                {"kind": "emit", "event": "caller/custom-event", "payload": {"x": [1]}}]
    assert reply["result"]["result"][:2] == [None, None]
    assert reply["result"]["result"][2]["code"] == "component_not_allowed"
    steps[2]["raise"] = True
    with pytest.raises(CallError) as failed:
        client.invoke("caller", "onActionExecute", A, payload)
    assert failed.value.code == "PLUGIN_ERROR" and "effects" not in failed.value.reply
    assert failed.value.reply["details"]["apiCode"] == "component_not_allowed"
    again = client.invoke("caller", "onActionExecute", A, {"action": "x", "context": {"steps": []}})
    assert again["effects"] == []


FLOODER = '''
from workers import ApiError, Plugin

plugin = Plugin(id="flooder", version="1.0.0", permissions=["events:emit"])


@plugin.hook("onActionExecute")
def run(context, params):
    """Emits a quarter of a megabyte, again and again."""
    out = []
    payload = [1] * 250_000 if params["action"] == "numbers" else "x" * 250_000
    for _ in range(5):
        try:
            out.append(context.api.emit("x", payload))
        except ApiError as error:
            out.append(str(error))
    return {"result": out, "metadata": {}}
'''


def test_effects_that_are_refused_are_not_looked_through_without_end(client: Client) -> None:
    """Each took the loop a fifth of a second, and 64 of them fitted into one invocation."""
    got = client.invoke("flooder", "onActionExecute", A, {"action": "x", "context": {}})["result"]["result"]
    assert got[0] is None and "262144 bytes" in got[1]
    assert all("tries 524288 bytes" in one for one in got[2:])
    got = client.invoke("flooder", "onActionExecute", A, {"action": "numbers", "context": {}})["result"]["result"]
    assert all("more than 1000 values" in one for one in got[:2])


def test_the_loop_decodes_no_parameters_that_the_gateway_decodes(client: Client) -> None:
    """Permission comes first, and what is wrong with the rest is the gateway's to say: its time is not the loop's."""
    calls = [("query", {"sql": 5}), ("fetch", {"url": [1]}), ("insert", {"table": "notes", "values": 1})]
    assert [one["code"] for one in run(client, "poor2", *calls)] == ["permission_denied"] * 3
    assert [one["code"] for one in run(client, "caller2", *calls)] == ["invalid_params"] * 3


CALLS = [("query", {"sql": "SELECT 1"}), ("insert", {"table": "notes", "values": {"id": 1}}),
         ("upsert", {"table": "notes", "values": {"id": 1}, "on": "id"}),
         ("update", {"table": "notes", "values": {"text": "x"}, "where": {"id": 2}}),
         ("delete", {"table": "notes", "where": {"id": 2}}), ("render_widget", {"component": "Chart"}),
         ("emit", {"event": "x"}), ("fetch", {"url": "http://app.localhost:9/"}),
         ("call", {"method": "admin.users.list"})]


def test_without_a_permission_every_call_is_denied_and_on_record(daemon: Daemon, client: Client) -> None:
    got = run(client, "poor", *CALLS)
    assert [(one["code"], one["kind"]) for one in got] == [("permission_denied", "PermissionDenied")] * len(CALLS)
    wait_for(lambda: len(records(daemon, "poor", "access.denied")) == len(CALLS), 5)
    denied = records(daemon, "poor", "access.denied")
    assert {row[2] for row in denied} == {"query", "insert", "upsert", "update", "delete", "renderWidget", "emit",
                                          "fetch", "admin.users.list"}
    assert all(row[1] == A and row[3] == "denied" for row in denied)
    payload = {"action": "x", "context": {"steps": [{"api": "query", "args": {"sql": "SELECT 1"}, "raise": True}]}}
    with pytest.raises(CallError) as failed:
        client.invoke("poor", "onActionExecute", A, payload)
    assert failed.value.code == "PERMISSION_DENIED" and failed.value.reply["details"]["method"] == "query"


def test_a_plugin_that_may_not_read_gets_no_rows_back_that_were_there_before(daemon: Daemon, client: Client) -> None:
    new = {"table": "notes", "values": {"id": 950, "text": "x"}, "returning": ["id"]}
    got = run(client, "writer", ("insert", new), ("upsert", {**new, "on": "id"}),
              ("update", {**new, "where": {"id": 950}}), ("delete", {"table": "notes", "where": {"id": 950},
                                                                     "returning": True}),
              ("delete", {"table": "notes", "where": {"id": 950}}))
    assert (got[0], got[4]) == ({"rowCount": 1, "row": {"id": 950}}, {"rowCount": 1})
    assert [(one["code"], one["kind"]) for one in got[1:4]] == [("permission_denied", "PermissionDenied")] * 3
    wait_for(lambda: len(records(daemon, "writer", "access.denied")) == 3, 5)
    assert {row[4]["permission"] for row in records(daemon, "writer", "access.denied")} == {"data:read"}


def test_the_rate_is_the_plugins_and_refused_tries_are_on_record(daemon: Daemon, client: Client) -> None:
    got = run(client, "paced", *[("fetch", {"url": "http://app.localhost:9/"})] * 5)
    assert [one["code"] for one in got] == ["fetch_failed"] * 3 + ["rate_limited"] * 2
    assert 0 < got[4]["retry"] <= 60_000 and got[4]["kind"] == "RateLimited"
    payload = {"action": "x", "context": {"steps": [
        {"api": "fetch", "args": {"url": "http://app.localhost:9/"}, "raise": True}]}}
    with pytest.raises(CallError) as failed:
        client.invoke("paced", "onActionExecute", B, payload)  # another user of the same plugin
    assert failed.value.code == "RATE_LIMITED" and 0 < failed.value.reply["details"]["retryAfterMs"] <= 60_000
    wait_for(lambda: len(records(daemon, "paced", "security.rate_limit")) == 3, 5)
    text = daemon.metrics()
    assert 'rate_limited_total{limit="network",plugin="paced"} 3.0' in text or wait_for(
        lambda: 'rate_limited_total{limit="network",plugin="paced"} 3.0' in daemon.metrics(), 5) is None


def test_every_call_is_one_event(daemon: Daemon, client: Client) -> None:
    mine = lambda: [row for row in records(daemon, "awaiter") if row[0] != "plugin.execution"]  # noqa: E731 - one expression, for this test alone
    time.sleep(0.1)
    before = len(mine())
    run(client, "awaiter", ("query", {"sql": "SELECT id FROM orders"}), ("emit", {"event": "seen"}),
        ("insert", {"table": "notes", "values": {"id": 901, "text": "x"}}),
        ("delete", {"table": "notes", "where": {"id": 901}}), ("query", {"sql": "SELECT * FROM secrets"}),
        ("query", {"sql": "SELECT version()"}), ("insert", {"table": "notes", "values": {"id": 1, "text": "x"}}))
    wait_for(lambda: len(mine()) >= before + 7, 5)
    got = [(row[0], row[2], row[3], row[4].get("rowCount"), row[4].get("code")) for row in mine()[-7:]]
    assert sorted(got, key=str) == sorted([
        ("data.access", "query", "success", 4, None), ("plugin.api", "emit", "success", None, None),
        ("data.modification", "insert", "success", 1, None), ("data.deletion", "delete", "success", 1, None),
        ("access.denied", "query", "denied", None, "table_not_allowed"),
        ("data.access", "query", "failure", None, "sql_forbidden"),
        ("data.modification", "insert", "failure", None, "constraint")], key=str)
    with sqlite3.connect(daemon.folder.parent / "data.db") as database:
        wait_for(lambda: database.execute("SELECT count(*) FROM apex_exec_outbox").fetchone() == (0,), 5)


def test_a_task_left_behind_speaks_for_nobody_else(client: Client) -> None:
    def act(action: str, user: str) -> Any:
        reply = client.invoke("leftover", "onActionExecute", user, {"action": action, "context": {}})
        return reply["result"]["result"]

    assert act("leave", A) == []
    assert act("stay", B) == ["cancelled"]  # B's hook runs while A's task asks
    assert act("gather", A) == [*range(20), "table_not_allowed"]


@pytest.mark.parametrize("calls", [[[1, 90]], [[5, 90]], [[0, 90], [0, 90]]])
def test_a_call_for_a_hook_that_does_not_run_costs_the_worker(daemon: Daemon, calls: list[Any]) -> None:
    with Client(daemon.endpoint) as client:
        with pytest.raises(CallError) as failed:
            client.invoke("raw", "onActionExecute", A, {"action": "x", "context": {"calls": calls}})
        assert failed.value.code in ("WORKER_VIOLATION", "QUARANTINED")
    wait_for(lambda: any(row[2] == "api" for row in records(daemon, "raw", "security.anomaly")), 5)


def test_calls_at_once_and_in_all_are_bounded(daemon: Daemon, client: Client) -> None:
    many = {"action": "x", "context": {"calls": [[0, 1000 + n] for n in range(60)]}}

    gateway = gateway_of(daemon)
    gateway.suspend()  # nothing is answered meanwhile: 8 are open, and all others are refused, its own last query too
    try:
        pending = client.start(protocol.invoke("raw2", "onActionExecute", A, many, 5000, None))
        wait_for(lambda: sum(row[4].get("code") == "too_many_calls" for row in records(daemon, "raw2")) >= 8, 4)
    finally:
        gateway.resume()
    with pytest.raises(CallError) as refused:
        client.wait(pending, 10_000)
    assert refused.value.code == "PLUGIN_ERROR"
    assert refused.value.reply["details"]["apiCode"] == "too_many_calls"
    wait_for(lambda: records(daemon, "raw2", "access.denied"), 4)
    alone = [row for row in records(daemon, "raw2") if row[4].get("code") == "too_many_calls"]
    assert len(alone) == 8, "the first eight of a method have a record each"
    assert [row[1:] for row in records(daemon, "raw2", "access.denied")] == [
        (A, "query", "denied", {"count": 45, "codes": {"too_many_calls": 45}})], "and all others one"
    got = run(client, "awaiter", *[("emit", {"event": "x"})] * 1005)
    assert [one and one["code"] for one in got] == [None] * 100 + ["effect_limit"] * 900 + ["too_many_calls"] * 5


def test_a_hook_can_still_answer_when_a_call_took_all_its_time(client: Client) -> None:
    slow = "SELECT count(*) FROM " + ", ".join(f"orders a{n}" for n in range(16))
    for _ in range(5):  # on a busy machine the 20 ms between the two ends may not be enough
        with contextlib.suppress(CallError):
            got = run(client, "awaiter", ("query", {"sql": slow}), deadline_ms=500)
            assert got[0]["code"] == "deadline_exceeded" and got[0]["kind"] == "DeadlineExceeded"
            return
    raise AssertionError("no hook had the time to answer")


def test_an_effect_that_cannot_be_recorded_fails_its_hook(daemon: Daemon, client: Client) -> None:
    client.invoke("sleeper", "onActionExecute", A, {"action": "x", "context": {}})  # a warm worker
    ledger = ledger_of(daemon)
    ledger.suspend()
    try:
        pending = client.start(protocol.invoke("sleeper", "onActionExecute", A, {"action": "x", "context": {}}, 5000,
                                               None))
        run(client, "caller")  # whose record waits for the ledger
        time.sleep(2.0)
    finally:
        ledger.resume()
    with pytest.raises(CallError) as failed:
        client.wait(pending, 5000)
    assert failed.value.code == "PLUGIN_ERROR" and "effects" not in failed.value.reply
    assert failed.value.reply["details"]["apiCode"] == "audit_unavailable"
    mine = lambda: [row[4].get("code") for row in records(daemon, "sleeper", "plugin.api")]  # noqa: E731 - one expression, for this test alone
    wait_for(lambda: len(mine()) == 3, 5)
    assert mine() == [None, "audit_unavailable", "audit_unavailable"], "refused, and on record once that can be"


def test_the_gateways_death_fails_its_calls_and_nothing_else(daemon: Daemon, client: Client) -> None:
    slow = "SELECT count(*) FROM " + ", ".join(f"orders a{n}" for n in range(16))
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.extend(_with_own_client(daemon, ("query", {"sql": slow}))))
    thread.start()
    time.sleep(0.5)
    gateway_of(daemon).kill()
    thread.join(10)
    assert got and got[0]["code"] == "gateway_lost"

    def works() -> bool:
        with contextlib.suppress(ApexError):
            return bool(run(client, "caller", ("query", {"sql": "SELECT 1 AS one"})) == [[{"one": 1}]])
        return False

    wait_for(works, 20)


def _with_own_client(daemon: Daemon, *steps: Any) -> Any:
    with Client(daemon.endpoint) as client:
        return run(client, "awaiter", *steps)


def test_the_daemons_metrics_count_calls_by_outcome(daemon: Daemon) -> None:
    wait_for(lambda: 'apex_exec_api_calls_total{method="query",outcome="ok",plugin="caller"}' in daemon.metrics(), 5)
    text = daemon.metrics()
    assert 'method="insert",outcome="permission_denied",plugin="poor"' in text
    assert 'apex_exec_api_call_duration_seconds_count{method="query"}' in text
