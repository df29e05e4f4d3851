"""Readers and writers of SQLite get their turn, even while others write without a pause."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from apex_exec.catalogue import methods as api
from apex_exec.gateway.lock_turns import HOLD_SECONDS, Turns
from apex_exec.gateway.outbox import Outbox
from apex_exec.gateway.sql.compiler import Compiler
from apex_exec.gateway.sql.parser import Parser
from apex_exec.gateway.sql.tables import read_tables
from apex_exec.gateway.sql.writes import compile_write
from apex_exec.gateway.sqlite import Sqlite
from tests.support.daemon import USER

TABLES = read_tables({"notes": {"owner": "user_id", "columns": ["id", "user_id", "n"], "write": True}})
SECOND_NS = 1_000_000_000


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_queries_are_answered_beside_four_plugins_that_insert_without_a_pause(tmp_path: Path, journal: str) -> None:
    with closing(sqlite3.connect(tmp_path / "data.db")) as database:
        database.execute(f"PRAGMA journal_mode = {journal}")
        database.execute("CREATE TABLE notes (id integer PRIMARY KEY, user_id text, n integer)")

    async def play() -> Counter[str]:
        backend = Sqlite(tmp_path / "data.db", TABLES, "here")
        text = Compiler("sqlite", TABLES).compile("SELECT n FROM notes LIMIT 3", ("notes",))
        written: Counter[str] = Counter()
        over = asyncio.Event()

        async def insert(plugin: str) -> None:
            while not over.is_set():
                write = compile_write(api.Insert("notes", {"n": 1}), TABLES, ("notes",), USER)
                await backend.write(write, Outbox.record(write, USER, plugin), USER, time.monotonic_ns() + SECOND_NS)
                written[plugin] += 1

        writers = [asyncio.ensure_future(insert(f"p{n}")) for n in range(4)]
        await asyncio.sleep(0.2)
        try:
            async with asyncio.timeout(5):
                for _ in range(20):
                    await backend.query(text, text.values([], USER), USER, time.monotonic_ns() + SECOND_NS)
        finally:
            over.set()
            await asyncio.gather(*writers)
            await backend.close()
        return written

    written = asyncio.run(play())
    assert len(written) == 4, f"somebody never wrote: {written}"


def test_who_writes_least_is_next_and_readers_come_between() -> None:
    async def play() -> list[str]:
        turns, order = Turns(), list[str]()

        async def write(owner: str, seconds: float = 0.0) -> None:
            async with turns.writing(owner):
                order.append(owner)
                await asyncio.sleep(seconds)

        async def read() -> None:
            async with turns.reading():
                order.append("reader")
                await asyncio.sleep(0)

        first = asyncio.ensure_future(write("greedy", 0.02))
        await asyncio.sleep(0)
        more = [asyncio.ensure_future(one) for one in (
            write("greedy"), write("greedy"), write("modest"), read(), read())]
        await asyncio.gather(first, *more)
        return order

    assert asyncio.run(play()) == ["greedy", "reader", "reader", "modest", "greedy", "greedy"]


def test_a_long_reader_delays_writers_and_not_other_readers() -> None:
    async def play() -> float:
        turns = Turns()
        over = asyncio.Event()

        async def read_long() -> None:
            async with turns.reading():
                await over.wait()

        async def write() -> None:
            async with turns.writing("p"):
                assert over.is_set()

        tasks = [asyncio.ensure_future(read_long())]
        await asyncio.sleep(0)
        tasks.append(asyncio.ensure_future(write()))
        await asyncio.sleep(0)
        begun = time.monotonic()
        async with asyncio.timeout(2), turns.reading():
            waited = time.monotonic() - begun
        over.set()
        await asyncio.gather(*tasks)
        return waited

    assert HOLD_SECONDS / 2 < asyncio.run(play()) < 1


def test_a_turn_that_nobody_waits_for_any_longer_is_passed_on() -> None:
    async def play() -> bool:
        turns = Turns()
        async with turns.writing("a"):
            gone = [asyncio.ensure_future(_hold(turns, kind)) for kind in ("write", "read") for _ in range(3)]
            await asyncio.sleep(0)
            for task in gone:
                task.cancel()
            await asyncio.gather(*gone, return_exceptions=True)
        async with asyncio.timeout(2):
            async with turns.writing("b"):
                late = asyncio.ensure_future(_hold(turns, "read"))
                await asyncio.sleep(0)
            late.cancel()  # its turn has come in this very moment
            await asyncio.gather(late, return_exceptions=True)
            async with turns.writing("c"), asyncio.timeout(2):
                pass
            async with turns.reading():
                return True

    assert asyncio.run(play()), "the next one has its turn"


async def _hold(turns: Turns, kind: str) -> None:
    async with turns.reading() if kind == "read" else turns.writing("x"):
        await asyncio.sleep(60)


def test_a_text_that_is_cancelled_as_its_turn_comes_leaves_the_turn_to_the_next() -> None:
    async def main() -> list[object]:
        parser = Parser("sqlite", {})
        try:
            calls = [asyncio.ensure_future(parser.compile("p", 1.0, "SELECT 1", ())) for _ in range(3)]
            while not parser._tasks:
                await asyncio.sleep(0)
            compiling, = parser._tasks
            compiling.add_done_callback(lambda _: calls[1].cancel())  # after the callback that gives it the turn
            async with asyncio.timeout(30):
                return list(await asyncio.gather(*calls, return_exceptions=True))
        finally:
            parser.close()

    first, second, third = asyncio.run(main())
    assert isinstance(second, asyncio.CancelledError)
    assert isinstance(first, list) and third == first
