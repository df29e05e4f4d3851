"""Writes that wait for SQLite share a commit, and nothing else: what becomes of one is nothing to the others."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from apex_exec.catalogue.methods import Insert, Request, Update
from apex_exec.gateway import sqlite_writer
from apex_exec.gateway.costs import COST, Cost
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.outbox import Outbox
from apex_exec.gateway.sql.tables import OUTBOX, read_tables
from apex_exec.gateway.sql.writes import compile_write
from apex_exec.gateway.sql.written import Written
from apex_exec.gateway.sqlite import Sqlite
from apex_exec.gateway.write_groups import GROUP_MAX
from tests.gateway.conftest import SECONDS, A

TABLES = read_tables({"notes": {"owner": "user_id", "columns": ["id", "text", "other"], "write": True}})
ENDLESS = "(WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n)"
WORK = ENDLESS.replace("SELECT x + 1 FROM n", "SELECT x + 1 FROM n WHERE x < 30000")
"""Some milliseconds."""
SCHEMA = f"""
CREATE TABLE others (id integer PRIMARY KEY);
CREATE TABLE notes (id integer PRIMARY KEY, user_id text NOT NULL, text text NOT NULL UNIQUE,
    other integer REFERENCES others (id) DEFERRABLE INITIALLY DEFERRED);
CREATE TRIGGER ruins BEFORE INSERT ON notes WHEN new.text = 'ruins' BEGIN SELECT raise(ROLLBACK, 'not this'); END;
CREATE TRIGGER works BEFORE INSERT ON notes WHEN new.text LIKE 'works%' BEGIN SELECT {WORK}; END;
CREATE TRIGGER lasts BEFORE INSERT ON notes WHEN new.text LIKE 'lasts%' BEGIN SELECT {ENDLESS}; END;
INSERT INTO notes VALUES (1, '{A}', 'taken', NULL);
"""


class Site:
    """A database and a backend before it. ``texts`` are the statements that ran on its writer. ``pages``: how many the
    database may have, so that its disk is full."""

    pages = 0

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        with closing(sqlite3.connect(path)) as database:
            database.executescript(SCHEMA)
        self.texts: list[str] = []
        opened = sqlite_writer.open_theirs

        def traced(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            database = opened(*args, **kwargs)
            database.set_trace_callback(self.texts.append)
            if self.pages:
                database.execute(f"PRAGMA max_page_count = {self.pages}")
            return database

        monkeypatch.setattr(sqlite_writer, "open_theirs", traced)
        self.backend = Sqlite(path, TABLES, "here")

    async def write(self, request: Request, plugin: str = "p", seconds: float = 30, cost: Cost | None = None) -> Any:
        """The number of rows, or the failure."""
        COST.set(cost or COST.get())
        write = compile_write(request, TABLES, ("notes",), A)  # type: ignore[arg-type]  # those of the tests are writes
        try:
            return (await self.backend.write(write, Outbox.record(write, A, plugin), A,
                                             time.monotonic_ns() + int(seconds * SECONDS)))[0]
        except ApiFailure as failure:
            return failure.code

    def together(self, *requests: Request, seconds: float = 30, stop: int = 0, after: float = 0.0,
                 costs: Sequence[Cost | None] = ()) -> list[Any]:
        """What becomes of the requests, of one plugin each, that come while the first one is being written. Request
        ``stop`` is cancelled ``after`` seconds. ``costs``: where what each of them has used is counted."""
        async def play() -> list[Any]:
            first = asyncio.ensure_future(self.write(Insert("notes", {"id": 100, "text": "first"})))
            await asyncio.sleep(0)  # it has begun, alone
            tasks = [asyncio.ensure_future(self.write(request, f"p{number}", seconds, cost))
                     for number, (request, cost) in enumerate(itertools.zip_longest(requests, costs), 1)]
            if stop:
                await asyncio.sleep(after)
                tasks[stop - 1].cancel()
            found = await asyncio.gather(first, *tasks, return_exceptions=True)
            assert found[0] == 1
            return ["cancelled" if isinstance(one, asyncio.CancelledError) else one for one in found[1:]]

        return asyncio.run(play())

    def rows(self) -> set[str]:
        return {text for text, in self.read("SELECT text FROM notes")} - {"taken", "first"}

    def records(self) -> int:
        """Audit records beside that of the first write."""
        return int(self.read(f"SELECT count(*) FROM {OUTBOX}")[0][0]) - 1

    def commits(self) -> int:
        """Transactions that stand, beside those of the first write and of the outbox."""
        return self.texts.count("COMMIT") - 1

    def read(self, text: str) -> list[Any]:
        with closing(sqlite3.connect(self.path)) as database:
            return database.execute(text).fetchall()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path / "data.db", monkeypatch)
    yield made
    asyncio.run(made.backend.close())


def insert(text: str, **more: Any) -> Insert:
    return Insert("notes", {"text": text, **more})


def deep(levels: int) -> Any:
    """A list in a list in a list."""
    made: Any = []
    for _ in range(levels):
        made = [made]
    return made


GOOD = [insert(f"good {n}") for n in range(6)]


def test_what_waits_is_one_transaction_with_a_record_for_each(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "GROUP_NS", 30 * SECONDS)  # on a busy machine, too
    assert site.together(*GOOD) == [1] * 6
    assert site.commits() == 1 and len(site.rows()) == site.records() == 6


@pytest.mark.parametrize(("bad", "code"), [
    (insert("taken"), "constraint"), (insert("ruins"), "sql_error"), (insert("x", other=7), "constraint"),
    (Update("notes", {"text": "good 1"}, {"id": 1}), "constraint"), (insert("lasts", id=9), "deadline_exceeded"),
    (Insert("notes", {"text": {b"no text": 1}}), "sql_parameters"),
    (Insert("notes", {"text": deep(20_000)}), "sql_parameters")],
    ids=["a constraint", "a trigger that rolls all of it back", "a constraint that is checked at the commit",
         "a row of the same group", "a statement that outlasts its call", "a map that is no JSON",
         "a list too deep for JSON"])
def test_one_that_fails_takes_no_other_with_it(site: Site, bad: Request, code: str) -> None:
    found = site.together(*GOOD[:3], bad, *GOOD[3:], seconds=1.5)
    assert found == [1, 1, 1, "constraint" if code == "sql_error" else code, 1, 1, 1]
    assert site.rows() == {f"good {n}" for n in range(6)} and site.records() == 6


def test_one_that_fills_the_disk_takes_no_other_with_it(site: Site) -> None:
    site.pages = 40
    found = site.together(*GOOD[:3], insert("x" * 300_000), *GOOD[3:])
    assert found == [1, 1, 1, "data_unavailable", 1, 1, 1]
    assert site.rows() == {f"good {n}" for n in range(6)} and site.records() == 6


def test_what_is_no_error_of_the_database_takes_no_other_with_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has no memory left for what a statement returns, or there is a bug of ours."""
    adds = Written.add

    def fails(written: Written, row: Any) -> None:
        if "needs memory" in row:
            raise MemoryError
        adds(written, row)

    monkeypatch.setattr(Written, "add", fails)
    found = site.together(*GOOD[:3], insert("needs memory"), *GOOD[3:])
    assert [type(one) for one in found] == [int] * 3 + [MemoryError] + [int] * 3
    assert site.rows() == {f"good {n}" for n in range(6)} and site.records() == 6


def test_one_that_is_refused_at_the_commit_costs_the_others_few_commits(
        site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "GROUP_NS", 30 * SECONDS)
    good = [insert(f"good {n}") for n in range(31)]
    found = site.together(*good[:20], insert("x", other=7), *good[20:])
    assert found == [1] * 20 + ["constraint"] + [1] * 11 and site.records() == 31
    assert site.texts.count("BEGIN IMMEDIATE") - 1 <= 11, "halves of halves, and not each for itself"


@pytest.mark.parametrize("bad", [insert("ruins"), insert("x", other=7)], ids=["at once", "at the commit"])
def test_who_takes_the_others_work_with_it_pays_for_it(
        site: Site, bad: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "GROUP_NS", 30 * SECONDS)
    costs = [Cost() for _ in range(7)]
    site.together(*(insert(f"works {n}") for n in range(6)), bad, costs=costs)
    *good, guilty = (cost.cpu_ns for cost in costs)
    assert guilty > 3 * max(good), "six statements of others were run in vain"


@pytest.mark.parametrize(("word", "limit_ns", "plugins", "most"), [
    ("works", 1_000_000, 12, 2), ("quick", 30 * SECONDS, 150, GROUP_MAX)], ids=["time", "number"])
def test_more_than_one_transaction_may_hold_is_several(
        site: Site, monkeypatch: pytest.MonkeyPatch, word: str, limit_ns: int, plugins: int, most: int) -> None:
    monkeypatch.setattr(sqlite_writer, "GROUP_NS", limit_ns)
    assert site.together(*(insert(f"{word} {n}") for n in range(plugins))) == [1] * plugins
    sizes = [part.count("SAVEPOINT one") for part in ";".join(site.texts).split("BEGIN IMMEDIATE")]
    assert len(site.rows()) == plugins and max(sizes) <= 2 * most, "each savepoint is named again at its end"


KILLED = """
import asyncio, os, signal, sqlite3, sys, time
from contextlib import closing

from apex_exec.gateway.outbox import Outbox
from apex_exec.gateway.sql.writes import compile_write
from apex_exec.gateway.sqlite import Sqlite
from tests.gateway.test_write_groups import TABLES, A, insert

backend = Sqlite(sys.argv[1], TABLES, "here")


async def write(text):
    made = compile_write(insert(text), TABLES, ("notes",), A)
    await backend.write(made, Outbox.record(made, A, text), A, time.monotonic_ns() + 30 * 10**9)
    os.write(1, text.encode() + b"\\n")


def stand():
    with sqlite3.connect(sys.argv[1]) as database:
        return database.execute("SELECT count(*) FROM notes WHERE text LIKE 'later%'").fetchone()[0]


def begun():
    try:
        with closing(sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return True
    return False


async def play():
    first = asyncio.ensure_future(write("first"))
    await asyncio.sleep(0)
    later = [asyncio.ensure_future(write(f"later {n}")) for n in range(8)]
    await first
    while not begun() and not stand():
        await asyncio.sleep(0)
    while not stand():  # the thread commits, and this loop, which would answer, does not turn
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)


asyncio.run(play())
"""


def test_what_a_kill_leaves_between_the_commit_and_the_answer_is_whole_and_on_record(site: Site) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, site.path], stdout=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL and done.stdout == "first\n", "nothing of the group is answered"
    assert site.rows() == {f"later {n}" for n in range(8)} and site.records() == 8
    left = asyncio.run(site.backend.waiting(100))
    assert {record.plugin for record in left} == {"first", *(f"later {n}" for n in range(8))}


@pytest.mark.parametrize("after", [0.0, 0.001, 0.3])
def test_one_that_is_cancelled_takes_no_other_with_it(site: Site, after: float) -> None:
    found = site.together(*GOOD[:3], insert("lasts"), *GOOD[3:], stop=4, after=after)
    assert found == [1, 1, 1, "cancelled", 1, 1, 1]
    assert site.rows() == {f"good {n}" for n in range(6)} and site.records() == 6


def test_a_slow_one_delays_those_before_it_by_a_bound(site: Site) -> None:
    async def play() -> tuple[list[float], Any]:
        ends: list[float] = []

        async def timed(request: Request, plugin: str) -> None:
            assert await site.write(request, plugin) == 1
            ends.append(time.monotonic())

        await site.write(Insert("notes", {"id": 100, "text": "first"}))
        begun = time.monotonic()
        good = [asyncio.ensure_future(timed(request, f"p{number}")) for number, request in enumerate(GOOD)]
        slow = asyncio.ensure_future(site.write(insert("lasts"), "slow", 4))
        await asyncio.gather(*good)
        answered = [end - begun for end in ends]
        return answered, await slow

    answered, slow = asyncio.run(play())
    assert slow == "deadline_exceeded" and max(answered) < 3, "they waited for the slow one's four seconds"


def test_what_is_answered_is_what_the_table_holds_however_calls_end(site: Site) -> None:
    async def play() -> list[Any]:
        tasks = [asyncio.ensure_future(site.write(insert(f"w{n}"), f"p{n % 9}")) for n in range(120)]
        for number, task in enumerate(tasks):
            if number % 3 == 0:
                await asyncio.sleep(0.0003)
                task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    told = {f"w{number}" for number, one in enumerate(asyncio.run(play())) if one == 1}
    assert 80 <= len(told) and site.rows() == told
    assert int(site.read(f"SELECT count(*) FROM {OUTBOX}")[0][0]) == len(told)


def test_plugins_take_turns_and_each_pays_its_part_of_the_commit(site: Site) -> None:
    costs = [Cost() for _ in range(8)]

    async def play() -> list[str]:
        order: list[str] = []

        async def one(plugin: str, text: str, cost: Cost) -> None:
            COST.set(cost)
            assert await site.write(insert(text), plugin) == 1
            order.append(text)

        await site.write(Insert("notes", {"id": 100, "text": "first"}))
        greedy = [asyncio.ensure_future(one("greedy", f"g{n}", costs[n])) for n in range(7)]
        await asyncio.gather(*greedy, asyncio.ensure_future(one("modest", "m", costs[7])))
        with contextlib.closing(sqlite3.connect(site.path)) as database:
            return [text for text, in database.execute("SELECT text FROM notes WHERE id > 100 ORDER BY rowid")]

    order = asyncio.run(play())
    assert order.index("m") < 3, "seven writes that came before went before"
    spent = sorted(cost.cpu_ns for cost in costs)
    assert spent[0] > 0 and spent[-2] < 20 * spent[0]


def test_a_file_that_we_make_has_a_write_ahead_log_and_the_platforms_has_it_if_asked(tmp_path: Path) -> None:
    def journal(name: str, *, log_ahead: bool) -> str:
        async def play() -> None:
            backend = Sqlite(tmp_path / name, TABLES, "here", log_ahead=log_ahead)
            await backend.forget([])
            await backend.close()

        asyncio.run(play())
        with closing(sqlite3.connect(tmp_path / name)) as database:
            return str(database.execute("PRAGMA journal_mode").fetchone()[0])

    for name in ("kept", "asked"):
        with closing(sqlite3.connect(tmp_path / name)) as database:
            database.executescript(SCHEMA)
    assert journal("ours", log_ahead=False) == "wal"
    assert journal("kept", log_ahead=False) == "delete"
    assert journal("asked", log_ahead=True) == "wal"
