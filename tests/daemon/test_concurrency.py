"""Many users, one plugin: calls that wait do not block each other, and one that ends takes no other with it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from apex_exec.client import CallError
from apex_exec.client.aio import AsyncClient
from tests.support.daemon import USER, Daemon, wait_for, write_plugin

HOOKS = ("onActionExecute", "onDataFetch")
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
    context.api.emit("plain", {"user": context.user_id})
    return {"transformedData": None}
'''


def user(number: int) -> str:
    return f"{USER[:-6]}{number:06x}"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    plugins = tmp_path_factory.mktemp("plugins")
    for name, places, timeout_ms in (("many8", 8, 5000), ("many32", 32, 5000), ("short", 32, 700),
                                     ("fragile", 32, 700), ("stubborn", 32, 700), ("blamed", 32, 400)):
        write_plugin(plugins, name, CODE, HOOKS, permissions=("events:emit",),
                     limits={"concurrency": places, "timeoutMs": timeout_ms})
    with Daemon(plugins=plugins, config={"limits.cpu_percent": 100, "breaker.backoff_min_seconds": 0.01,
                                         "breaker.backoff_max_seconds": 0.02}) as running:
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
            late = [asyncio.create_task(call(client, "fragile", 60 + n, "wait", seconds=0.01, name=n))
                    for n in range(4)]
            return await asyncio.gather(*waiting, spinning, *late)

    answers = asyncio.run(play())
    assert [code for code, *_ in answers[:4]] == ["TIMEOUT"] * 4, "they were past their deadlines, and not to blame"
    assert answers[4][0] == "WORKER_CRASHED" and "bystander" not in answers[4][1], "it kept the worker from answering"
    assert [(code, given) for code, given, _ in answers[5:]] == [
        ("", {"seconds": 0.01, "name": n}) for n in range(4)], "what had not begun runs in the next worker"


def test_a_call_that_swallows_its_cancellation_costs_the_worker_and_is_charged_for_it(daemon: Daemon) -> None:
    async def play() -> list[tuple[str, Any, float]]:
        async with AsyncClient(daemon.endpoint) as client:
            await call(client, "stubborn", 999, "none")
            swallowing = asyncio.create_task(call(client, "stubborn", 1, "swallow"))
            await asyncio.sleep(0.45)
            others = [asyncio.create_task(call(client, "stubborn", 2 + n, "wait", seconds=0.65)) for n in range(3)]
            return await asyncio.gather(swallowing, *others)

    before = daemon.metric('apex_exec_bystanders_total{plugin="stubborn"}')
    swallowed, *others = asyncio.run(play())
    assert swallowed[0] == "TIMEOUT" and 0.65 < swallowed[2] < 1.0, "its caller does not wait for its end"
    assert [(code, details.get("bystander")) for code, details, _ in others] == [("WORKER_CRASHED", True)] * 3
    daemon.wait_metric('bystanders_total{plugin="stubborn"}', before + 3)


def test_who_blocks_the_loop_is_charged_and_not_who_was_at_the_deadline(daemon: Daemon) -> None:
    async def play() -> list[tuple[str, Any, float]]:
        async with AsyncClient(daemon.endpoint) as client:
            found: list[tuple[str, Any, float]] = []
            while not found or found[-1][0] == "WORKER_CRASHED":  # five times, or once more if it could not be asked
                await call(client, "blamed", 999, "none")
                innocent = asyncio.create_task(call(client, "blamed", 1, "wait", seconds=3600))
                await asyncio.sleep(0.25)
                guilty = asyncio.create_task(call(client, "blamed", 2, "spin"))
                found.append(await guilty)
                assert (await innocent)[0] == "TIMEOUT"
            assert (await call(client, "blamed", 1, "none"))[0] == ""
            return found

    found = asyncio.run(play())
    assert 5 <= len(found) - 1 <= 6 and found[-1][0] == "QUARANTINED"
    assert found[-1][1]["scope"] == "user"


def test_a_hook_that_blocks_the_loop_for_a_while_costs_nobody_a_worker(daemon: Daemon) -> None:
    before = daemon.pids("many32")
    answers = asyncio.run(together(daemon, *(
        lambda client, n=number: call(client, "many32", n, "block" if n == 7 else "wait", seconds=0.3, name=n)
        for number in range(32))))
    assert [code for code, *_ in answers] == [""] * 32 and daemon.pids("many32") == before


def test_what_a_call_leaves_behind_ends_with_it_and_acts_for_nobody(daemon: Daemon) -> None:
    async def play() -> Any:
        async with AsyncClient(daemon.endpoint) as client:
            waiting = asyncio.create_task(client.invoke(
                "many8", "onActionExecute", user(1), {"action": "wait", "context": {"seconds": 0.3}}))
            for number in range(2, 8):
                await call(client, "many8", number, "leave")
            return (await waiting)["effects"]

    assert asyncio.run(play()) == []
    assert "too late" not in daemon.log


def test_effects_and_lines_are_those_of_their_own_call(daemon: Daemon) -> None:
    async def play() -> list[Any]:
        async with AsyncClient(daemon.endpoint) as client:
            return await asyncio.gather(*(
                client.invoke("many8", "onActionExecute", user(n), {"action": "emit", "context": {}})
                for n in range(8)),
                *(call(client, "many8", 20 + n, "say", name=f"n{n}") for n in range(8)))

    for number, reply in enumerate(asyncio.run(play())[:8]):
        assert [effect["payload"] for effect in reply["effects"]] == [
            {"user": user(number), "number": n} for n in range(20)]
    for number in range(8):
        line = re.compile(rf"plugin many8: \[onActionExecute \d+\] begin n{number} end n{number}\n")
        wait_for(lambda found=line: found.search(daemon.log), 5, "its line")


def test_calls_of_one_user_keep_their_order_and_those_of_others_do_not_wait(daemon: Daemon) -> None:
    async def play() -> tuple[list[float], float]:
        async with AsyncClient(daemon.endpoint) as client:
            begun = time.monotonic()
            mine = [asyncio.create_task(call(client, "many8", 1, "wait", seconds=0.2)) for _ in range(4)]
            other = await call(client, "many8", 2, "wait", seconds=0.01)
            ends = []
            for task in mine:
                await task
                ends.append(time.monotonic() - begun)
            return ends, other[2]

    ends, other = asyncio.run(play())
    assert all(end >= 0.2 * (number + 1) for number, end in enumerate(ends)) and other < 0.2


def test_a_plain_function_runs_alone(daemon: Daemon) -> None:
    async def play() -> float:
        async with AsyncClient(daemon.endpoint) as client:
            begun = time.monotonic()
            payload = {"query": "q", "filters": {}}
            replies = await asyncio.gather(*(
                client.invoke("many8", "onDataFetch", user(n), payload) for n in range(8)))
            assert [reply["effects"][0]["payload"] for reply in replies] == [{"user": user(n)} for n in range(8)]
            return time.monotonic() - begun

    assert asyncio.run(play()) >= 8 * 0.02
