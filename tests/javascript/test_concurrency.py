"""Several calls at once of a JavaScript plugin, behind the real daemon: nobody waits for another's wait, each sees its
own rows, and one that cannot be ended costs the others at most their worker."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import pytest

from apex_exec.client import CallError
from apex_exec.client.aio import AsyncClient
from apex_exec.registry.bundles.manifest import check_manifest
from tests.support.daemon import Daemon
from tests.support.javascript import write_actions

MS = 30_000
ACTIONS = {
    "none": "(c) => 1",
    "nap": "async (c) => { await new Promise((go) => setTimeout(go, c.context.ms)); return c.context.name ?? null }",
    "query": "(c) => c.api.query('SELECT total FROM orders')",
    "rows": """async (c) => {
      cached ??= (async () => (await plugin.api.query('SELECT total FROM orders')).length)();
      await cached; await null;
      const first = await plugin.api.query('SELECT total FROM orders');
      await new Promise((go) => setTimeout(go, 20 * Math.random()));
      const second = await c.api.query('SELECT total FROM orders');
      console.log('rows of ' + c.userId);
      return [first, second] }""",
    "spin": "() => { for (;;); }",
    "block": "(c) => { const end = performance.now() + c.context.ms; while (performance.now() < end); return 1 }",
    "emits": """async (c) => { for (let i = 0; i < 12; i++) c.api.emit('e', { payload: { name: c.context.name, i } });
      await new Promise((go) => setTimeout(go, 10)); return c.context.name }""",
    "leaves": """(c) => { setInterval(() => { globalThis.ticks = (globalThis.ticks ?? 0) + 1 }, 5);
      globalThis.kept = c; new Promise(() => {}).then(() => 1); return 1 }""",
    "uses what was left": """async () => {
      const before = globalThis.ticks ?? 0; await new Promise((go) => setTimeout(go, 60));
      try { await kept.api.emit('stolen', 1) } catch (e) { return [(globalThis.ticks ?? 0) - before, e.code] }
      return 'leaked' }""",
}


def user(number: int) -> str:
    return f"11111111-2222-4333-8444-{number:012x}"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("concurrency")
    with sqlite3.connect(folder / "app.db") as db:
        db.execute("CREATE TABLE orders (id INTEGER, user_id TEXT, total INTEGER)")
        db.executemany("INSERT INTO orders VALUES (?, ?, ?)", [(n, user(n), n) for n in range(40)])
    for name, places, timeout_ms in (("many", 32, 20_000), ("short", 32, 700), ("fragile", 32, 700)):
        write_actions(folder / "plugins", name, ACTIONS, head="let cached = null;", data={"tables": ["orders"]},
                      permissions=("data:read", "events:emit"), limits={"concurrency": places, "timeoutMs": timeout_ms})
    config = {"limits.cpu_percent": 100, "limits.timeout_ms": 30_000, "data.url": f"sqlite:///{folder}/app.db",
              "data.tables": {"orders": {"owner": "user_id", "columns": ["id", "total"]}}}
    with Daemon(plugins=folder / "plugins", config=config) as running:
        yield running


async def call(client: AsyncClient, plugin: str, number: int, action: str, **given: Any) -> tuple[str, Any, float]:
    """(code, the result or the details, seconds) of one call."""
    begun = time.monotonic()
    try:
        reply = await client.invoke(plugin, "onActionExecute", user(number), {"action": action, "context": given},
                                    deadline_ms=MS)
    except CallError as error:
        return error.code, error.details, time.monotonic() - begun
    return "", reply["result"]["result"], time.monotonic() - begun


def together(daemon: Daemon, plugin: str, *calls: tuple[int, str, dict[str, Any]]) -> list[tuple[str, Any, float]]:
    """The answers to calls that are made at once, when a worker of the plugin is there."""

    async def play() -> list[tuple[str, Any, float]]:
        async with AsyncClient(daemon.endpoint) as client:
            await call(client, plugin, 999, "none")
            return await asyncio.gather(*(call(client, plugin, number, action, **given)
                                          for number, action, given in calls))

    return asyncio.run(play())


def test_sixty_users_of_a_hook_that_waits_are_all_answered(daemon: Daemon) -> None:
    answers = together(daemon, "many", *((n, "nap", {"ms": 300, "name": n}) for n in range(60)))
    assert [(code, name) for code, name, _ in answers] == [("", n) for n in range(60)], "each has its own answer"
    assert max(took for *_, took in answers) < 60 * 0.3 / 3, "they wait at once"


def test_each_user_sees_its_own_rows_whoever_settled_what_it_waits_for(daemon: Daemon) -> None:
    together(daemon, "many", (0, "query", {}))  # the gateway is there
    answers = together(daemon, "many", *((n, "rows", {}) for n in range(32)))
    assert [(code, rows) for code, rows, _ in answers] == [("", [[{"total": n}]] * 2) for n in range(32)]
    calls = [line.partition("[onActionExecute ")[2].partition("]")[0] for line in daemon.log.splitlines()
             if "rows of" in line]
    assert len(set(calls)) == len(calls) > 0 and all(calls), "each line carries its call"


@pytest.mark.slow
def test_effects_belong_to_their_calls(daemon: Daemon) -> None:
    async def play() -> list[Any]:
        async with AsyncClient(daemon.endpoint) as client:
            return await asyncio.gather(*(client.invoke("many", "onActionExecute", user(n), {
                "action": "emits", "context": {"name": n}}, deadline_ms=MS) for n in range(20)))

    for number, reply in enumerate(asyncio.run(play())):
        assert [effect["payload"] for effect in reply["effects"]] == [{"name": number, "i": i} for i in range(12)]


@pytest.mark.slow
def test_a_call_at_its_deadline_ends_alone_and_the_others_go_on(daemon: Daemon) -> None:
    together(daemon, "short")
    before = daemon.pids("short")
    answers = together(daemon, "short", *((n, "nap", {"ms": 5000 if n == 3 else 400}) for n in range(32)))
    assert [(number, code) for number, (code, *_) in enumerate(answers) if code] == [(3, "TIMEOUT")]
    together(daemon, "short")
    assert daemon.pids("short") == before, "the worker lives"


@pytest.mark.slow
def test_what_a_call_left_behind_ends_with_it_while_others_run(daemon: Daemon) -> None:
    together(daemon, "many", (1, "leaves", {}))
    answers = together(daemon, "many", (2, "uses what was left", {}), *((n, "nap", {"ms": 80}) for n in range(3, 9)))
    assert answers[0][:2] == ("", [0, "cancelled"]) and not any(code for code, *_ in answers)


@pytest.mark.slow
def test_a_hook_that_blocks_the_loop_delays_the_others_and_ends_none(daemon: Daemon) -> None:
    answers = together(daemon, "many", (0, "block", {"ms": 300}),
                       *((n, "nap", {"ms": 50, "name": n}) for n in range(1, 32)))
    assert [code for code, *_ in answers if code] == []


def test_a_call_that_cannot_be_ended_costs_the_worker_and_is_to_blame(daemon: Daemon) -> None:
    async def play() -> list[tuple[str, Any, float]]:
        async with AsyncClient(daemon.endpoint) as client:
            await call(client, "fragile", 999, "none")
            waiting = [asyncio.create_task(call(client, "fragile", n, "nap", ms=3600_000)) for n in range(4)]
            await asyncio.sleep(0.3)
            spinning = asyncio.create_task(call(client, "fragile", 50, "spin"))
            await asyncio.sleep(0.05)
            late = [asyncio.create_task(call(client, "fragile", 60 + n, "nap", ms=1, name=n)) for n in range(4)]
            return await asyncio.gather(*waiting, spinning, *late)

    answers = asyncio.run(play())
    assert [code for code, *_ in answers[:4]] == ["TIMEOUT"] * 4, "they were past their deadlines, whoever was to blame"
    assert answers[4][0] == "WORKER_CRASHED" and "bystander" not in answers[4][1], "it kept the worker from answering"
    assert [(code, name) for code, name, _ in answers[5:]] == [("", n) for n in range(4)], "in the next worker"


def test_a_fresh_engine_for_each_call_is_refused_beside_several_calls_at_once() -> None:
    manifest = {"id": "both", "name": "both", "version": "1.0.0", "author": "tests", "permissions": [],
                "isolation": "call", "manifest": {"entrypoint": "index.js", "hooks": ["onActionExecute"]}}
    for places, problems in ((1, []), (2, [("isolation_unsupported", "$.limits.concurrency")])):
        found = check_manifest(json.dumps({**manifest, "limits": {"concurrency": places}}).encode())[1]
        assert [(problem["code"], problem["path"]) for problem in found] == problems
