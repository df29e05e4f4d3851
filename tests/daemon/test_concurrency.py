"""Many users, one plugin: calls that wait do not block each other, and one that ends takes no other with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from apex_exec.client import CallError
from apex_exec.client.aio import AsyncClient
from tests.support.daemon import USER, Daemon, write_plugin

CODE = '''
import asyncio
import time

@plugin.hook("onActionExecute")
async def act(context, params):
    action, given = params["action"], params["context"]
    if action == "wait":
        await asyncio.sleep(given["seconds"])
    elif action == "block":
        time.sleep(given["seconds"])
    elif action == "spin":
        while True:
            pass
    elif action == "swallow":
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass
    elif action == "leave":
        async def late():
            await asyncio.sleep(0.05)
            print("too late")
            await context.api.emit("late", {})
        asyncio.create_task(late())
    elif action == "emit":
        for number in range(20):
            context.api.emit("e", {"user": context.user_id, "number": number})
        await asyncio.sleep(0.01)
    elif action == "say":
        print("begin", given["name"], end="")
        await asyncio.sleep(0.05)
        print(" end", given["name"])
    return {"result": given, "metadata": {}}

@plugin.hook("onDataFetch")
def fetch(context, params):
    time.sleep(0.02)
    return {"transformedData": params["data"]}
'''


def user(number: int) -> str:
    return f"{USER[:-6]}{number:06x}"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    plugins = tmp_path_factory.mktemp("plugins")
    for name, places, timeout_ms in (("many8", 8, 5000), ("many32", 32, 5000), ("short", 32, 700), ("fragile", 32, 700)):
        write_plugin(plugins, name, CODE, ("onActionExecute", "onDataFetch"), permissions=("events:emit",),
                     limits={"concurrency": places, "timeoutMs": timeout_ms})
    with Daemon(plugins=plugins, config={"limits.cpu_percent": 100}) as running:
        yield running


async def call(client: AsyncClient, plugin: str, number: int, action: str, **given: Any) -> tuple[str, Any, float]:
    """(code, the result or the details, seconds) of one call."""
    begun = time.monotonic()
    try:
        reply = await client.invoke(plugin, "onActionExecute", user(number), {"action": action, "context": given})
    except CallError as error:
        return error.code, error.details, time.monotonic() - begun
    return "", reply["result"]["result"], time.monotonic() - begun


async def together(daemon: Daemon, *calls: Any) -> list[tuple[str, Any, float]]:
    async with AsyncClient(daemon.endpoint) as client:
        return await asyncio.gather(*(one(client) for one in calls))


@pytest.mark.parametrize(("places", "seconds"), [(32, 1.2), (8, 3.0)])
def test_sixty_users_of_a_hook_that_waits_are_all_answered(daemon: Daemon, places: int, seconds: float) -> None:
    async def play() -> list[tuple[str, Any, float]]:
        async with AsyncClient(daemon.endpoint) as client:
            await call(client, f"many{places}", 999, "none")  # the worker is there
            return await asyncio.gather(*(call(client, f"many{places}", number, "wait", seconds=0.3, name=number)
                                          for number in range(60)))

    answers = asyncio.run(play())
    assert [code for code, _, _ in answers if code] == []
    assert [result["name"] for _, result, _ in answers] == list(range(60)), "each has its own answer"
    assert max(took for *_, took in answers) < seconds


def test_a_call_at_its_deadline_ends_alone_and_the_others_go_on(daemon: Daemon) -> None:
    asyncio.run(together(daemon, lambda client: call(client, "short", 3, "none")))
    before = daemon.pids("short")
    answers = asyncio.run(together(daemon, *(
        lambda client, n=number: call(client, "short", n, "wait", seconds=5 if n == 3 else 0.4, name=n)
        for number in range(32))))
    assert [(number, code) for number, (code, _, _) in enumerate(answers) if code] == [(3, "TIMEOUT")]
    assert 0.65 < answers[3][2] < 1.2
    assert asyncio.run(together(daemon, lambda client: call(client, "short", 3, "none")))[0][0] == ""
    assert daemon.pids("short") == before, "the worker lives"


def test_a_call_that_cannot_be_ended_costs_the_worker_and_the_others_are_bystanders(daemon: Daemon) -> None:
    async def play() -> list[tuple[str, Any, float]]:
        async with AsyncClient(daemon.endpoint) as client:
            await call(client, "fragile", 999, "none")
            waiting = [asyncio.create_task(call(client, "fragile", n, "wait", seconds=3600)) for n in range(4)]
            await asyncio.sleep(0.3)
            spinning = asyncio.create_task(call(client, "fragile", 50, "spin"))
            await asyncio.sleep(0.05)
            late = [asyncio.create_task(call(client, "fragile", 60 + n, "wait", seconds=0.01, name=n)) for n in range(4)]
            return await asyncio.gather(*waiting, spinning, *late)

    answers = asyncio.run(play())
    assert [code for code, *_ in answers[:4]] == ["TIMEOUT"] * 4, "they were past their deadlines, whoever was to blame"
    assert answers[4][0] == "WORKER_CRASHED" and "bystander" not in answers[4][1], "it kept the worker from answering"
    assert [(code, given) for code, given, _ in answers[5:]] == [
        ("", {"seconds": 0.01, "name": n}) for n in range(4)], "what had not begun runs in the next worker"
