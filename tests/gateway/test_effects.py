"""Effects on a real daemon: refused in place, decided at the reply, on record as they were made."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client import CallError, Client, protocol
from apex_exec.ledger.reading import read_events
from tests.gateway.bundles import bundle
from tests.gateway.conftest import TABLES, A, sqlite_data
from tests.support.daemon import Daemon, wait_for
from tests.support.javascript import write_actions

NAMED = {"tables": ["users"]}
EFFECTS = ["data:read", "ui:render", "events:emit"]
JAVASCRIPT = {"x": """async (c) => { const out = [];
  for (const { api, args = {}, raise } of c.context.steps)
    try {
      out.push(await (api === "query" ? c.api.query(args.sql) : api === "emit" ? c.api.emit(args.event, args.payload)
        : c.api.renderWidget({ component: args.component, props: args.props })));
    } catch (e) { if (raise) throw e; out.push({ code: e.code, message: e.message, kind: e.name }) }
  return out }"""}
WAITS = '''
import os
import time

from workers import Plugin

plugin = Plugin(id="{id}", version="1.0.0", permissions=["events:emit", "data:read"])


@plugin.hook("onActionExecute")
def run(context, params):
    """Emits, asks if it is to, emits again, and waits until it is released or killed."""
    context.api.emit("before")
    if params["action"] == "asks":
        context.api.query("SELECT 1")
    context.api.emit("after")
    time.sleep(params["context"].get("seconds", 0))
    return {{"result": os.getpid(), "metadata": {{}}}}
'''
PLUGINS = ["sync", "async", "looped", "many", "js-one", "js-many"]


@pytest.fixture(scope="module")
def daemon(folder: Path) -> Iterator[Daemon]:
    plugins = folder / "plugins"
    for name, permissions in (("", EFFECTS), ("poor-", [])):
        bundle(plugins, f"{name}sync", permissions, data=NAMED)
        bundle(plugins, f"{name}async", permissions, is_async=True, data=NAMED)
        for id_, limits in ((f"{name}looped", {}), (f"{name}many", {"concurrency": 4})):
            path = bundle(plugins, id_, permissions, is_async=True, data=NAMED, limits=limits)
            code = path / "plugin.py"
            code.write_text("import asyncio\n" + code.read_text())
        for id_, limits in ((f"{name}js-one", {}), (f"{name}js-many", {"concurrency": 4})):
            write_actions(plugins, id_, JAVASCRIPT, permissions=tuple(permissions), data=NAMED, limits=limits)
    for id_ in ("revoked", "killed"):
        bundle(plugins, id_, ["events:emit", "data:read"], WAITS.format(id=id_), data=NAMED)
    (folder / "policy.toml").write_text("")
    sqlite_data(folder / "data.db").close()
    with Daemon(folder / "d", plugins, {
            "data.url": f"sqlite:///{folder}/data.db", "data.tables": TABLES, "ui.components": ["Chart"],
            "security.policy_file": folder / "policy.toml", "breaker.ends": 100, "limits.timeout_ms": 60_000,
            "limits.cpu_percent": 100}) as running:
        yield running


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.endpoint) as made:
        yield made


def run(client: Client, plugin: str, *steps: tuple[str, Any], **more: Any) -> Any:
    made = [{"api": name, "args": args} for name, args in steps]
    return client.invoke(plugin, "onActionExecute", A, {"action": "x", "context": {"steps": made}}, 30_000, **more)


def of(daemon: Daemon, plugin: str, count: int) -> list[tuple[str, str, str, str]]:
    """(type, action, result, code) of what the plugin asked for, once there are ``count``."""
    def found() -> list[tuple[str, str, str, str]]:
        return [(event.event_type, event.action, event.result, event.metadata.get("code", ""))
                for event in read_events(daemon.state / "audit.db")
                if event.resource == plugin and event.event_type not in ("plugin.execution", "plugin.cpu")]

    wait_for(lambda: len(found()) >= count, 10, f"{count} records of {plugin}")
    return found()


@pytest.mark.parametrize("plugin", PLUGINS)
def test_effects_keep_their_order_and_each_is_on_record_where_it_was_made(
        daemon: Daemon, client: Client, plugin: str) -> None:
    reply = run(client, plugin, ("emit", {"event": "a", "payload": [1]}), ("query", {"sql": "SELECT name FROM users"}),
                ("render_widget", {"component": "Chart", "props": {"n": 1}}), ("emit", {"event": "b"}))
    assert reply["effects"] == [{"kind": "emit", "event": f"{plugin}/a", "payload": [1]},
                                {"kind": "render", "component": "Chart", "props": {"n": 1}},
                                {"kind": "emit", "event": f"{plugin}/b", "payload": None}]
    assert of(daemon, plugin, 4) == [
        ("plugin.api", "emit", "success", ""), ("data.access", "query", "success", ""),
        ("plugin.api", "renderWidget", "success", ""), ("plugin.api", "emit", "success", "")]


@pytest.mark.parametrize("plugin", PLUGINS)
def test_what_breaks_a_rule_is_refused_in_place_and_on_record(daemon: Daemon, client: Client, plugin: str) -> None:
    before = len(of(daemon, plugin, 4))
    steps = [("render_widget", {"component": "Pie"}), ("emit", {"event": "a b"}),
             ("emit", {"event": "x", "payload": "y" * 262_120}), ("emit", {"event": "x", "payload": "fits"}),
             ("emit", {"event": "x", "payload": [[[]] * 5000]})]
    codes = ["component_not_allowed", "invalid_params", "effect_limit", None, "effect_limit"]
    reply = run(client, plugin, *steps)
    got = reply["result"]["result"]
    assert [one and one["code"] for one in got] == codes
    assert [effect["payload"] for effect in reply["effects"]] == ["fits"]
    rows = of(daemon, plugin, before + 5)[before:]
    assert rows == [("plugin.api", "renderWidget" if not number else "emit", "failure" if code else "success",
                     code or "") for number, code in enumerate(codes)]


@pytest.mark.parametrize("plugin", PLUGINS)
def test_without_a_permission_every_try_counts_and_eight_have_a_record_each(
        daemon: Daemon, client: Client, plugin: str) -> None:
    poor = f"poor-{plugin}"
    got = run(client, poor, *[("emit", {"event": "x"})] * 20, ("render_widget", {"component": "Chart"}))
    assert {(one["code"], one["kind"]) for one in got["result"]["result"]} == {
        ("permission_denied", "PermissionDenied")}
    rows = of(daemon, poor, 10)
    one = ("access.denied", "emit", "denied", "permission_denied")
    assert [row for row in rows if row[1] == "emit"] == [one] * 8 + [(*one[:3], "")], "the last says how many more"
    (rest,) = [event.metadata for event in read_events(daemon.state / "audit.db")
               if event.resource == poor and "count" in event.metadata]
    assert rest == {"count": 12, "codes": {"permission_denied": 12}}
    first = next(event.metadata for event in read_events(daemon.state / "audit.db")
                 if event.resource == poor and event.action == "emit")
    assert first["permission"] == "events:emit" and "its manifest must ask for it" in first["reason"]
    daemon.wait_metric(f'api_calls_total{{method="emit",outcome="permission_denied",plugin="{poor}"}}', 20.0)
    payload = {"action": "x", "context": {"steps": [{"api": "emit", "args": {"event": "x"}, "raise": True}]}}
    with pytest.raises(CallError) as failed:
        client.invoke(poor, "onActionExecute", A, payload)
    assert failed.value.code == "PERMISSION_DENIED" and failed.value.reply["details"]["method"] == "emit"


def test_a_permission_that_is_withdrawn_while_a_hook_runs_fails_it_and_one_that_is_given_counts_at_once(
        daemon: Daemon, client: Client, folder: Path) -> None:
    def begin(seconds: float, action: str = "x") -> Any:
        return client.start(protocol.invoke("revoked", "onActionExecute", A, {
            "action": action, "context": {"seconds": seconds}}, 30_000, None))

    first = client.wait(begin(0), 30_000)
    assert [effect["event"] for effect in first["effects"]] == ["revoked/before", "revoked/after"]
    pending = begin(1.5)
    time.sleep(0.5)
    (folder / "policy.toml").write_text('[plugin.revoked]\nallow = ["data:read"]\n')
    daemon.reload()
    with pytest.raises(CallError) as failed:
        client.wait(pending, 30_000)
    assert failed.value.code == "PERMISSION_DENIED", failed.value.reply
    assert failed.value.reply["details"]["apiCode"] == "permission_denied" and "effects" not in failed.value.reply
    rows = of(daemon, "revoked", 3)[1:]
    assert rows == [("access.denied", "emit", "denied", "permission_denied")] * 2
    with pytest.raises(CallError) as failed:
        client.wait(begin(0), 30_000)
    assert failed.value.code == "PERMISSION_DENIED"
    assert "in run" in failed.value.reply["details"]["traceback"], "the worker has heard of it, and raises in place"
    (folder / "policy.toml").write_text("")
    daemon.reload()
    again = client.wait(begin(0), 30_000)
    assert len(again["effects"]) == 2
    assert again["result"]["result"] == first["result"]["result"], "in the same process"


@pytest.mark.parametrize(("action", "kept"), [("x", 0), ("asks", 1)])
def test_a_kill_loses_what_no_api_call_has_taken_along(daemon: Daemon, client: Client, action: str, kept: int) -> None:
    assert client.invoke("killed", "onActionExecute", A, {"action": "x", "context": {}})["effects"]
    before: list[Any] = [None]
    while before != (rows := [row for row in of(daemon, "killed", 1) if row[1] == "emit"]):  # records follow answers
        before = rows
        time.sleep(0.5)
    pending = client.start(protocol.invoke("killed", "onActionExecute", A, {
        "action": action, "context": {"seconds": 20}}, 30_000, None))
    time.sleep(1.0)
    os.kill(daemon.pids("killed")[0], signal.SIGKILL)
    with pytest.raises(CallError) as failed:
        client.wait(pending, 30_000)
    assert failed.value.code == "WORKER_CRASHED"
    time.sleep(0.2)
    after = [row for row in of(daemon, "killed", 1) if row[1] == "emit"]
    assert len(after) - len(before) == kept
