"""A worker that writes effects to its link itself gains nothing: what it may have done is decided by the supervisor."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.ledger.reading import read_events
from apex_exec.ledger.report import review
from apex_exec.market.money.metering import meter
from tests.support.daemon import ECHO, Daemon, wait_for, write_plugin
from tests.support.host import Host
from workers.effect_rules import CALLS_MAX, TRIES_AT_ONCE, TRIES_AT_ONCE_BYTES

LIAR = '''
import os
import time

import msgspec


def write(message):
    body = msgspec.msgpack.encode(message)
    data = b"\\x02" + len(body).to_bytes(8, "big") + body
    while data:
        data = data[os.write(3, data):]


@plugin.hook("onActionExecute")
def act(context, params):
    given = params["context"]
    for _ in range(given.get("times", 1)):
        for kind, seq, *rest in given["messages"]:
            write([kind, context.api._seq + seq, *rest])
    time.sleep(given.get("seconds", 0))
    return {"result": "done", "metadata": {}}
'''
DENIED = ["raised", 0, "E", "m", "", 0, "permission_denied", "emit"]


def effects(*tries: list[Any], seq: int = 0) -> list[Any]:
    return ["effects", seq, list(tries)]


def one(name: str = "x", payload: Any = None) -> list[Any]:
    return ["emit", name, payload]


def claim(code: str, count: int = 1, method: str = "emit") -> list[Any]:
    return [method, "", None, code, count]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    plugins: Path = tmp_path_factory.mktemp("plugins")
    write_plugin(plugins, "liar", LIAR, permissions=("events:emit",))
    write_plugin(plugins, "poor-liar", LIAR)
    write_plugin(plugins, "forger", LIAR)  # no test before its own leaves it a worker that is about to be ended
    write_plugin(plugins, "echo", ECHO)
    with Daemon(plugins=plugins, config={
            "breaker.open_seconds": 0.2, "breaker.backoff_min_seconds": 0.01, "breaker.backoff_max_seconds": 0.02,
            "limits.timeout_ms": 60_000, "limits.cpu_percent": 100, "ui.components": ["Chart"]}) as running:
        yield running


def say(daemon: Daemon, *messages: Any, plugin: str = "liar", **more: Any) -> dict[str, Any]:
    """The reply to a call whose worker writes ``messages``, their numbers relative to its own."""
    with Host(daemon.endpoint) as host:
        for _ in range(100):
            reply = host.invoke(plugin, {"messages": list(messages), **more}, 60)
            if reply.get("code") != "QUARANTINED":
                return reply
            time.sleep(0.1)
    raise AssertionError("it stays quarantined")


def of(daemon: Daemon, plugin: str) -> list[Any]:
    return [event for event in read_events(daemon.state / "audit.db") if event.resource == plugin]


def test_an_honest_message_is_taken(daemon: Daemon) -> None:
    """The control of all others."""
    reply = say(daemon, effects(one("a", [1]), one("liar/b")), effects(one("c")))
    assert [(effect["event"], effect["payload"]) for effect in reply["effects"]] == [
        ("liar/a", [1]), ("liar/b", None), ("liar/c", None)]


@pytest.mark.parametrize("message", [
    effects(*[one()] * (TRIES_AT_ONCE + 1)), effects(), ["effects", 0, 5], ["effects", 0, ["emit"]],
    effects(["emit"]), effects(["emit", 5, None]), effects(one("x" * 101)), effects(one("x" * 1_000_000)),
    effects(["query", "x", None]), effects(["call", "admin.users.list", {}]), effects(["", "", None]),
    effects(*[one("x", "y" * (TRIES_AT_ONCE_BYTES // 2))] * 3),
    effects(claim("rate_limited")), effects(claim("not_provided")), effects(claim("x" * 100_000)),
    effects(claim("effect_limit", 0)), effects(claim("effect_limit", -5)), effects(claim("effect_limit", 2**31)),
    effects(claim("effect_limit", 4 * CALLS_MAX + 1)), effects(*[claim("effect_limit", CALLS_MAX)] * 5),
    effects(claim("effect_limit", method="fetch")),
    effects(one(), seq=1), effects(one(), seq=1000), effects(one(), seq=-100_000),
], ids=lambda message: str(message)[:40])
def test_what_no_worker_says_ends_it(daemon: Daemon, message: Any) -> None:
    reply = say(daemon, message, seconds=5)
    assert reply["code"] == "WORKER_VIOLATION", reply


def test_effects_without_end_end_the_worker(daemon: Daemon) -> None:
    assert say(daemon, effects(*[one()] * TRIES_AT_ONCE), times=400, seconds=5)["code"] == "WORKER_VIOLATION"
    with Host(daemon.endpoint) as host:
        assert host.invoke("echo", {"n": 1})["result"]["result"] == {"n": 1}


@pytest.mark.parametrize(("messages", "code", "api_code"), [
    ([effects(["renderWidget", "Chart", {}])], "PERMISSION_DENIED", "permission_denied"),
    ([effects(one("other/x"))], "PLUGIN_ERROR", "invalid_params"),
    ([effects(one("a b"))], "PLUGIN_ERROR", "invalid_params"),
    ([effects(one("x", "y" * 300_000))], "PLUGIN_ERROR", "effect_limit"),
    ([effects(one("x", "y" * 900_000))], "PLUGIN_ERROR", "effect_limit"),
    ([effects(one("x", [[]] * 5000))], "PLUGIN_ERROR", "effect_limit"),
    ([effects(*[one()] * TRIES_AT_ONCE)] * 7, "PLUGIN_ERROR", "effect_limit"),
    ([effects(*[one()] * TRIES_AT_ONCE)] * 70, "PLUGIN_ERROR", "effect_limit"),
    ([effects(one("x", float("inf")))], "INVALID_OUTPUT", None),
    ([effects(one("x", {"a": {"__proto__": 1}}))], "INVALID_OUTPUT", None),
    ([effects(one("x", {"a": 2**60}))], "INVALID_OUTPUT", None),
], ids=str)
def test_what_only_the_supervisor_refuses_fails_the_hook_with_its_code(
        daemon: Daemon, messages: Any, code: str, api_code: str | None) -> None:
    reply = say(daemon, effects(one("good")), *messages)
    assert (reply["type"], reply["code"]) == ("error", code), reply
    assert reply["details"].get("apiCode") == api_code and "effects" not in reply
    if code == "INVALID_OUTPUT":
        assert reply["details"]["path"].startswith("$.payload"), reply


def test_a_refusal_that_nobody_gave_is_no_denial(daemon: Daemon) -> None:
    before = len([event for event in of(daemon, "liar") if event.result == "denied"])
    reply = say(daemon, effects(claim("permission_denied", 20)), DENIED)
    assert reply["code"] == "PLUGIN_ERROR" and reply["details"]["claimed"] is True, reply
    time.sleep(0.3)
    executed = [event for event in of(daemon, "liar") if event.event_type == "plugin.execution"]
    assert "denied" not in {event.result for event in executed[-1:]}
    denied = [event for event in of(daemon, "liar") if event.result == "denied" and event.event_type == "access.denied"]
    assert len(denied) - before <= 1, "only the number of those beyond the first eight, as a worker's own word"
    reply = say(daemon, effects(claim("permission_denied")), DENIED, plugin="poor-liar")
    assert reply["code"] == "PERMISSION_DENIED", "where it is true, it may be said"


def test_a_forged_number_of_refusals_costs_a_handful_of_records(daemon: Daemon) -> None:
    def mine() -> list[Any]:
        return [event for event in of(daemon, "forger") if event.event_type == "access.denied"]

    reply = say(daemon, effects(claim("permission_denied", 900)), plugin="forger")
    assert reply["type"] == "result", reply
    rest = {"count": 892, "codes": {"permission_denied": 892}}  # at once after a rest: more would be read later
    wait_for(lambda: any(event.metadata == rest for event in mine()), 10)
    assert len(mine()) == 9, "eight, and one for the rest"


def test_effects_that_came_together_share_a_record_and_each_counts(daemon: Daemon) -> None:
    def mine() -> list[Any]:
        return [event for event in of(daemon, "liar") if event.event_type == "plugin.api"]

    def ok() -> float:
        return daemon.metric('api_calls_total{method="emit",outcome="ok",plugin="liar"}')

    before, counted = len(mine()), ok()
    refused = [effects(one("x"), one("y"), claim("invalid_params"), one("z"))]
    assert len(say(daemon, effects(*[one()] * TRIES_AT_ONCE), effects(one()), *refused)["effects"]) == 20
    wait_for(lambda: len(mine()) >= before + 5, 10)
    assert [(event.result, event.metadata.get("effects", 1)) for event in mine()[before:]] == [
        ("success", TRIES_AT_ONCE), ("success", 1), ("success", 2), ("failure", 1), ("success", 1)]
    wait_for(lambda: ok() == counted + 20, 10)
    (row,) = review(mine()[before:])
    (usage,) = meter(mine()[before:]).values()
    assert row.api_calls == usage.api_calls == 20, "reports and bills count each"


def test_effects_of_an_answered_call_are_nobodys(daemon: Daemon) -> None:
    """The worker forges its answer, and then effects in the name of that call and of the next."""
    answer = ["reply", 0, {"result": "mine", "metadata": {}}, 0]
    reply = say(daemon, answer, effects(one("late")))
    assert reply["effects"] == []
    after = say(daemon, effects(one("own")))
    if after["type"] == "result":  # the worker may have ended for its second answer
        assert [effect["event"] for effect in after["effects"]] == ["liar/own"]
