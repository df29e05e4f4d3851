"""Many users of one plugin: how many are answered if its hook waits, and what one user's bad inputs cost another.

The first part has 60 users call a hook that waits 300 ms, all at once, with different numbers of places. In the second,
user B calls the plugin again and again, alone and then beside user A, who sends 12 inputs that hang and 100 that make
an HTTP request, in turn: with a user's calls in order, and ("any order") with a manifest that lets all of A's calls
begin at once. In the third, 64 users call a hook that makes one query, with one place and with eight;
``python -m benchmarks ab 9250b91 . "SQLite, one plugin's users"`` compares that with what was before.
"""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from apex_exec.client import CallError
from apex_exec.client.aio import AsyncClient
from benchmarks.daemon import HOOK, serving, write_bundle
from benchmarks.lab import Lab

TITLE = "Users of one plugin"
USERS = 60
WAIT_SECONDS = 0.3
PLACES = (32, 8, 1)
HANGING, FETCHING = 12, 100
QUERYING = 64
CALLS_OF_B = 120
ORDERS = {"in order": "at-once-32", "any order": "any-order"}
TARGETS_S = {32: 1.2, 8: 3.0}
"""When the last of USERS is to be answered, by the number of places."""
CODE = '''
import asyncio
from workers import ApiError, Plugin

plugin = Plugin(id="{id}", version="1.0.0", permissions=["network:fetch", "data:read"])


@plugin.hook("onActionExecute")
async def run(context, params):
    asked = params["context"]
    if "wait" in asked:
        await asyncio.sleep(asked["wait"])
    if asked.get("fetch"):
        try:
            await context.api.fetch("https://elsewhere.example/")
        except ApiError as error:
            if error.code != "host_not_allowed" and asked.get("strict"):
                raise
    if asked.get("query"):
        await context.api.query("SELECT id, text FROM notes WHERE id = $1", [1])
    return {{"result": None, "metadata": {{}}}}
'''
TABLES = {"notes": {"owner": "user_id", "columns": ["id", "text"], "write": False}}


def user(number: int) -> str:
    """The id of one of the users."""
    return f"11111111-1111-4111-8111-{number:012}"


async def _call(client: AsyncClient, plugin: str, number: int, deadline_ms: int = 5000,
                **asked: Any) -> tuple[str, float]:
    """Returns the code of one call ("" for a result) and how many seconds it took."""
    begun = time.perf_counter()
    try:
        await client.invoke(plugin, HOOK, user(number), {"action": "a", "context": asked}, deadline_ms)
    except CallError as error:
        return error.code, time.perf_counter() - begun
    return "", time.perf_counter() - begun


async def _all_at_once(endpoint: str, plugin: str) -> tuple[int, float]:
    """Returns how many of USERS calls were answered, and when the last one was."""
    async with AsyncClient(endpoint) as client:
        await _call(client, plugin, 999)
        answers = await asyncio.gather(*(_call(client, plugin, number, wait=WAIT_SECONDS) for number in range(USERS)))
    return sum(not code for code, _ in answers), max(took for _, took in answers)


async def _beside(endpoint: str, plugin: str, *, bad: bool) -> tuple[list[float], int]:
    """Returns how long each of user B's calls took (ms), and how many failed, alone or beside user A."""
    async with AsyncClient(endpoint) as client, AsyncClient(endpoint) as other:
        await _call(client, plugin, 1)
        floods = [asyncio.create_task(_call(other, plugin, 2, wait=3600)) for _ in range(HANGING if bad else 0)]
        floods += [asyncio.create_task(_call(other, plugin, 2, fetch=True)) for _ in range(FETCHING if bad else 0)]
        took, failed = [], 0
        await asyncio.sleep(0.1)  # A's calls are with the daemon: their sender is this process
        for number in range(CALLS_OF_B):
            code, seconds = await _call(client, plugin, 1, wait=0.02, fetch=number % 60 == 0, strict=True)
            took.append(seconds * 1000)
            failed += bool(code)
        for task in floods:
            task.cancel()
        await asyncio.gather(*floods, return_exceptions=True)
    return took, failed


async def _querying(endpoint: str, plugin: str, calls: int) -> float:
    """Returns calls per second of QUERYING users, one after another each."""
    async with AsyncClient(endpoint) as client:
        while (await _call(client, plugin, 999, query=True))[0]:  # the process that compiles SQL takes time to start
            await asyncio.sleep(0.1)
        begun = time.perf_counter()

        async def one(number: int) -> None:
            for _ in range(calls):
                code, _ = await _call(client, plugin, number, 30_000, query=True)
                if code:
                    raise SystemExit(f"a call failed: {code}")

        await asyncio.gather(*(one(number) for number in range(QUERYING)))
        return QUERYING * calls / (time.perf_counter() - begun)


def run(lab: Lab) -> None:
    """Adds the rows, and says of each target whether it was reached."""
    with tempfile.TemporaryDirectory(prefix="apxu") as name:
        folder = Path(name)
        for id_, places, order in (*((f"at-once-{places}", places, "user") for places in PLACES),
                                   ("any-order", 32, "none")):
            write_bundle(folder / "plugins", id_, CODE.format(id=id_), permissions=["network:fetch", "data:read"],
                         limits={"concurrency": places}, ordering=order, network={"allow": ["allowed.example"]},
                         data={"tables": ["notes"]})
        with closing(sqlite3.connect(folder / "data.db")) as database:
            database.executescript("CREATE TABLE notes (id bigint PRIMARY KEY, user_id text NOT NULL, text text)")
        with serving(folder / "plugins", limits__cpu_percent=100, fetch__allow=["allowed.example"],
                     data__tables=TABLES, data__url=f"sqlite:///{folder}/data.db",
                     limits__api_calls_per_second=100_000, limits__network_per_minute=1_000,
                     limits__timeout_ms=60_000) as daemon:
            lab.interleave({
                **{f"{places} at once": partial(_wait, lab, daemon.endpoint, places) for places in PLACES},
                **{f"user B {'beside user A' if bad else 'alone'}, {order}": partial(
                    _share, lab, daemon.endpoint, order, bad=bad) for order in ORDERS for bad in (False, True)},
                **{f"one query, {places} at once": partial(_query, lab, daemon.endpoint, places) for places in (1, 8)}})
    for places, target in TARGETS_S.items():
        answered = lab.value(f"{places} at once", "answered") == USERS
        last = lab.value(f"{places} at once", "the last answer") or 0.0
        lab.note(f"{USERS} users, {places} at once, all answered within {target} s: {last:.2f} s, "
                 f"{'reached' if answered and last <= target else 'missed'}")
    for order in ORDERS:
        alone, beside = (lab.value(f"user B {what}, {order}", "p99") or 1.0 for what in ("alone", "beside user A"))
        failed = lab.value(f"user B beside user A, {order}", "failed")
        lab.note(f"{order}: user B's p99 beside user A is {beside / alone:.2f} × that alone, and {failed:.0f} calls "
                 f"failed; at most 2 × and none: {'reached' if beside <= 2 * alone and not failed else 'missed'}")
    lab.note("the host that plays the users is one process of asyncio, on the same two cores")


def _wait(lab: Lab, endpoint: str, places: int) -> None:
    answered, last = asyncio.run(_all_at_once(endpoint, f"at-once-{places}"))
    lab.add(f"{places} at once", "answered", f"of {USERS}", answered)
    lab.add(f"{places} at once", "the last answer", "s", last)


def _share(lab: Lab, endpoint: str, order: str, *, bad: bool) -> None:
    took, failed = asyncio.run(_beside(endpoint, ORDERS[order], bad=bad))
    who = f"user B {'beside user A' if bad else 'alone'}, {order}"
    lab.add(who, "p50", "ms", statistics.median(took))
    lab.add(who, "p99", "ms", sorted(took)[int(len(took) * 0.99) - 1])
    lab.add(who, "failed", "calls", failed)


def _query(lab: Lab, endpoint: str, places: int) -> None:
    rate = asyncio.run(_querying(endpoint, f"at-once-{places}", max(3, lab.scaled(20))))
    lab.add(f"one query, {places} at once", "rate", "calls/s", rate)
