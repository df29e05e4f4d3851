"""Bad input for workers that run several calls at once: forged messages, upgrades, drains, limits, many users."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client import CallError
from apex_exec.client.aio import AsyncClient
from tests.support.daemon import USER, Daemon, wait_for, write_plugin

CODE = '''
import asyncio
import time

@plugin.hook("onActionExecute")
async def act(context, params):
    action, given = params["action"], params["context"]
    if action == "wait":
        await asyncio.sleep(given["seconds"])
    elif action == "hoard":
        kept = []
        for _ in range(1000):
            kept.append(bytes(1 << 20))
            await asyncio.sleep(0)
    elif action == "compute":
        until = time.monotonic() + given["seconds"]
        while time.monotonic() < until:
            await asyncio.sleep(0)
    return {"result": {**given, "version": VERSION}, "metadata": {}}
'''
FORGER = '''
import asyncio
import os
import sys

runtime = sys.modules["workers.python.concurrent"]
serve = sys.modules["workers.runtime.serve"]
wire = sys.modules["workers.wire"]
msgspec = sys.modules["msgspec"]
zmtp = sys.modules["workers.zmtp"]

def say(message):
    os.write(3, zmtp.encode(msgspec.msgpack.encode(message)))

@plugin.hook("onActionExecute")
async def act(context, params):
    what, seq = params["action"], runtime._call.get()
    good = msgspec.Raw(msgspec.msgpack.encode({"result": "forged", "metadata": {}}))
    if what == "answers twice":
        say(wire.Reply(seq, good, 0))
    elif what == "answers for another":
        say(wire.Reply(seq - 1, good, 0))
    elif what == "answers out of the future":
        say(wire.Reply(seq + 5, good, 0))
    elif what == "marks more than it was sent":
        for fd in range(3, 8):
            try:
                os.write(fd, b"\\1" * 9 if fd != 3 else b"")
            except OSError:
                continue
    elif what == "ends what nobody cancelled":
        say(wire.Ended(seq, 0))
    elif what == "skips with time left":
        say(wire.Skipped(seq))
    elif what == "says unasked what it runs":
        say(wire.Blocked(seq))
    elif what == "answers a probe that nobody sent":
        say(wire.Pong(1 << 32 | 1))
    elif what == "asks in the name of a call to come":
        say(wire.ApiCall(seq + 1, 77, "query", msgspec.Raw(b"\\x80")))
    elif what == "wait":
        await asyncio.sleep(params["context"]["seconds"])
    await asyncio.sleep(0.2)
    return {"result": "honest", "metadata": {}}
'''
FORGERIES = ("answers twice", "answers for another", "answers out of the future", "marks more than it was sent",
             "ends what nobody cancelled", "skips with time left", "says unasked what it runs",
             "answers a probe that nobody sent", "asks in the name of a call to come")


def user(number: int) -> str:
    return f"{USER[:-6]}{number:06x}"


async def call(client: AsyncClient, plugin: str, number: int, action: str, **given: Any) -> tuple[str, Any]:
    """(code, the result or the error itself) of one call."""
    try:
        reply = await client.invoke(plugin, "onActionExecute", user(number), {"action": action, "context": given})
    except CallError as error:
        return error.code, error
    return "", reply["result"]["result"]


def crowd(folder: Path, version: int = 1, **limits: Any) -> None:
    write_plugin(folder, "crowd", CODE.replace("VERSION", str(version)), limits={"concurrency": 32, **limits})


@pytest.mark.slow
@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_message_is_a_violation_and_no_other_plugin_feels_it(forgery: str, tmp_path: Path) -> None:
    write_plugin(tmp_path, "forger", FORGER, limits={"concurrency": 8, "timeoutMs": 1500})
    crowd(tmp_path)

    async def play() -> list[tuple[str, Any]]:
        async with AsyncClient(daemon.endpoint) as client:
            other = asyncio.create_task(call(client, "crowd", 1, "wait", seconds=0.5))
            before = asyncio.create_task(call(client, "forger", 1, "wait", seconds=1))
            await asyncio.sleep(0.3)
            forged = await call(client, "forger", 2, forgery)
            return [forged, await before, await other]

    with Daemon(plugins=tmp_path, config={"limits.cpu_percent": 100}) as daemon:
        forged, before, other = asyncio.run(play())
        assert other == ("", {"seconds": 0.5, "version": 1})
        wait_for(lambda: daemon.plugin("forger")["breaker"] == "open", 5, "its breaker")
        assert {forged[0], before[0]} <= {"", "WORKER_VIOLATION"} and (
            "WORKER_VIOLATION" in (forged[0], before[0]) or forgery == "answers for another")


@pytest.mark.slow
def test_an_upgrade_with_32_at_once_loses_and_doubles_nothing(tmp_path: Path) -> None:
    crowd(tmp_path)

    async def play() -> list[tuple[str, Any]]:
        async with AsyncClient(daemon.endpoint) as client:
            await call(client, "crowd", 99, "none")
            old = [asyncio.create_task(call(client, "crowd", n, "wait", seconds=0.6, name=n)) for n in range(32)]
            await asyncio.sleep(0.2)
            crowd(tmp_path, version=2)
            await asyncio.to_thread(daemon.reload)
            new = [asyncio.create_task(call(client, "crowd", n, "wait", seconds=0.1, name=n)) for n in range(32)]
            return await asyncio.gather(*old, *new)

    with Daemon(plugins=tmp_path, config={"limits.cpu_percent": 100}) as daemon:
        answers = asyncio.run(play())
    assert [code for code, _ in answers] == [""] * 64
    assert [(result["name"], result["version"]) for _, result in answers] == [
        *((n, 1) for n in range(32)), *((n, 2) for n in range(32))]


@pytest.mark.slow
def test_fewer_calls_at_once_by_a_reload_hold_from_the_next_call_on(tmp_path: Path) -> None:
    crowd(tmp_path)

    async def play() -> tuple[list[tuple[str, Any]], int]:
        async with AsyncClient(daemon.endpoint) as client:
            await call(client, "crowd", 99, "none")
            tasks = [asyncio.create_task(call(client, "crowd", n, "wait", seconds=0.5, name=n)) for n in range(40)]
            await asyncio.sleep(0.2)
            assert daemon.plugin("crowd")["inFlight"] == 32
            daemon.configure({"limits.concurrency": 4})
            await asyncio.to_thread(daemon.reload)
            most = 0
            while not all(task.done() for task in tasks):
                row = await asyncio.to_thread(daemon.plugin, "crowd")
                if not tasks[31].done() or row["concurrency"] != 4:
                    continue
                most = max(most, row["inFlight"])
            return await asyncio.gather(*tasks), most

    with Daemon(plugins=tmp_path, config={"limits.cpu_percent": 100}) as daemon:
        before = daemon.pids("crowd")
        answers, most = asyncio.run(play())
        assert [code for code, _ in answers] == [""] * 40
        assert 0 < most <= 4 and len(daemon.pids("crowd")) == 1, (before, most)


@pytest.mark.slow
def test_a_drain_with_32_at_once_answers_each_of_them(tmp_path: Path) -> None:
    crowd(tmp_path)

    async def play() -> list[tuple[str, Any]]:
        async with AsyncClient(daemon.endpoint) as client:
            await call(client, "crowd", 99, "none")
            tasks = [asyncio.create_task(call(client, "crowd", n, "wait", seconds=0.5 if n % 2 else 60, name=n))
                     for n in range(32)]
            await asyncio.sleep(0.2)
            daemon.process.send_signal(signal.SIGTERM)
            return await asyncio.gather(*tasks)

    with Daemon(plugins=tmp_path, config={"limits.cpu_percent": 100, "drain_seconds": 1.5}) as daemon:
        answers = asyncio.run(play())
    assert [code for code, _ in answers[1::2]] == [""] * 16
    assert [code for code, _ in answers[::2]] == ["SHUTTING_DOWN"] * 16


@pytest.mark.slow
def test_a_memory_limit_with_32_at_once_is_the_greedy_calls_or_all_of_theirs_and_the_next_worker_serves(
        tmp_path: Path) -> None:
    crowd(tmp_path, timeoutMs=3000)

    async def play() -> tuple[list[tuple[str, Any]], tuple[str, Any]]:
        async with AsyncClient(daemon.endpoint) as client:
            await call(client, "crowd", 99, "none")
            tasks = [asyncio.create_task(call(client, "crowd", n, "hoard" if n == 9 else "wait", seconds=1, name=n))
                     for n in range(32)]
            return await asyncio.gather(*tasks), await call(client, "crowd", 50, "none")

    with Daemon(plugins=tmp_path, config={"limits.cpu_percent": 100}) as daemon:
        answers, after = asyncio.run(play())
    assert answers[9][0] == "MEMORY_LIMIT" and after[0] == ""
    assert {code for n, (code, _) in enumerate(answers) if n != 9} <= {"", "MEMORY_LIMIT"}


@pytest.mark.slow
def test_a_throttled_worker_is_not_killed_for_a_probe_and_each_call_says_how_long_it_was_held(tmp_path: Path) -> None:
    crowd(tmp_path, timeoutMs=1500, cpuPercent=1)

    async def play() -> list[tuple[str, Any]]:
        async with AsyncClient(daemon.endpoint) as client:
            await call(client, "crowd", 99, "none")
            tasks = [asyncio.create_task(call(client, "crowd", n, "compute", seconds=60, name=n)) for n in range(8)]
            return await asyncio.gather(*tasks)

    with Daemon(plugins=tmp_path, config={"sandbox.governor": "psutil", "limits.cpu_burst_seconds": 0.02}) as daemon:
        before = daemon.pids("crowd")
        answers = asyncio.run(play())
        assert [code for code, _ in answers] == ["TIMEOUT"] * 8
        assert min(error.usage["throttledMs"] for _, error in answers) > 500
        wait_for(lambda: not daemon.plugin("crowd")["inFlight"], 10, "the end of the cancelled calls")
        assert not before or daemon.pids("crowd") == before, "it only had no CPU time"


@pytest.mark.slow
def test_a_cancel_ends_one_of_32_and_its_place_is_free_at_once(tmp_path: Path) -> None:
    crowd(tmp_path)

    async def play() -> tuple[list[tuple[str, Any]], tuple[str, Any]]:
        async with AsyncClient(daemon.endpoint) as client:
            await call(client, "crowd", 99, "none")
            tasks = [asyncio.create_task(call(client, "crowd", n, "wait", seconds=60 if n == 5 else 1, name=n))
                     for n in range(32)]
            await asyncio.sleep(0.3)
            tasks[5].cancel()
            next_one = await asyncio.wait_for(call(client, "crowd", 77, "wait", seconds=0.01), 0.6)
            del tasks[5]
            return await asyncio.gather(*tasks), next_one

    with Daemon(plugins=tmp_path, config={"limits.cpu_percent": 100}) as daemon:
        answers, next_one = asyncio.run(play())
        assert [code for code, _ in answers] == [""] * 31 and next_one[0] == ""
        assert "was killed" not in daemon.log


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_thousand_users_are_each_served_once(tmp_path: Path) -> None:
    crowd(tmp_path)

    async def play() -> list[int]:
        async with AsyncClient(daemon.endpoint) as client:
            served: list[int] = []

            async def some(first: int) -> None:
                for number in range(first, first + 100):
                    code, result = await call(client, "crowd", number, "none", name=number)
                    assert code == "", (number, code)
                    served.append(result["name"])

            await asyncio.gather(*(some(first) for first in range(0, 10_000, 100)))
            return served

    with Daemon(plugins=tmp_path, config={"limits.cpu_percent": 100}) as daemon:
        assert sorted(asyncio.run(play())) == list(range(10_000))
