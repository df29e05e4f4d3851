"""Hostile plugins in JavaScript: each try has a verdict that is right for it, and the next calls, of that plugin and of
its neighbour, are served."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from apex_exec.client import CallError, Client
from tests.javascript.hostile import HOSTILE, TIME
from tests.support.daemon import Daemon, wait_for
from tests.support.javascript import write_actions

USER = "11111111-2222-4333-8444-555555555555"
SERVED = "(c) => [typeof c.api.query, typeof c.remainingMs, c.userId, c.context.number]"
ENDLESS_MS, PATIENCE_MS = 700, 60_000
FAST = 3
"""One in three runs by default; the others are slow."""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    folder = Path(tempfile.mkdtemp(prefix="apx"))
    actions = {name: code for name, (_, code) in HOSTILE.items()} | {"served": SERVED}
    for plugin in ("hostile", "neighbour", "crowded"):
        write_actions(folder / "plugins", plugin, actions, permissions=("data:read", "events:emit"),
                      limits={"concurrency": 8 if plugin == "crowded" else 1})
    with Daemon(folder / "d", folder / "plugins", {
            "breaker.ends": 1000, "breaker.backoff_min_seconds": 0.01, "breaker.backoff_max_seconds": 0.02,
            "limits.timeout_ms": PATIENCE_MS, "limits.cpu_percent": 100}) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


def served(client: Client, plugin: str, number: int) -> bool:
    try:
        return ask(client, plugin, "served", number=number) == ["function", "function", USER, number]
    except CallError as error:
        print(f"{plugin}: {error}")  # pytest shows it if the test fails
        return False


def ask(client: Client, plugin: str, action: str, ms: int = PATIENCE_MS, **context: object) -> object:
    reply = client.invoke(plugin, "onActionExecute", USER, {"action": action, "context": context}, ms)
    result: object = reply["result"]["result"]
    return result


def outcome_of(client: Client, plugin: str, name: str) -> str:
    try:
        ask(client, plugin, name, ENDLESS_MS if TIME in HOSTILE[name][0] else PATIENCE_MS)
    except CallError as error:
        return error.code
    return "ok"


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.slow] if at % FAST else []) for at, name in enumerate(HOSTILE)])
def test_a_hostile_hook_has_one_right_verdict_and_the_next_call_is_served(daemon: Daemon, name: str) -> None:
    with Client(daemon.endpoint) as client:
        assert outcome_of(client, "hostile", name) in HOSTILE[name][0]
        assert served(client, "neighbour", 7)
        # What a plugin did to its own realm is its own: where it broke its own hooks, a new worker heals them.
        if not served(client, "hostile", 8):
            daemon.operate("plugin.restart", id="hostile")
            wait_for(lambda: served(client, "hostile", 9), 15, "a new worker")


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_the_same_where_calls_run_at_once(daemon: Daemon, name: str) -> None:
    with Client(daemon.endpoint) as client:
        assert outcome_of(client, "crowded", name) in HOSTILE[name][0]
        if not served(client, "crowded", 8):
            daemon.operate("plugin.restart", id="crowded")
            wait_for(lambda: served(client, "crowded", 9), 15, "a new worker")


def test_there_are_enough_of_them() -> None:
    assert len(HOSTILE) >= 80
