"""A query on PostgreSQL is one round trip, a write is two, and whatever ends them leaves the connection as it was."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from apex_exec.catalogue.methods import Delete, Insert, Update, Upsert
from apex_exec.gateway import postgres_read
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.postgres import CONNECTIONS_MAX
from apex_exec.gateway.postgres import Postgres as PostgresBackend
from apex_exec.gateway.sql.tables import read_tables
from tests.gateway.conftest import ROLE, SECONDS, TABLES, A, B, Data, postgres_data
from tests.support.postgres import Postgres
from tests.support.watched_wire import WatchedWire

BY_KEY = "SELECT id, text FROM notes WHERE id = $1"


@pytest.fixture
def wired(postgres: Postgres) -> Iterator[tuple[Data, WatchedWire]]:
    """A database, and a wire on which what goes there is seen."""
    data = postgres_data(postgres, "round_trips")
    with WatchedWire(postgres.folder) as wire:
        own = data.backend
        data.backend = PostgresBackend(f"postgresql://{ROLE}@/round_trips?host={wire.folder}", read_tables(TABLES), "t")
        yield data, wire
        data.run(own.close())
        data.close()


def test_a_query_is_one_round_trip_and_is_prepared_when_it_is_used_often(wired: tuple[Data, WatchedWire]) -> None:
    data, wire = wired
    assert data.query(BY_KEY, [2]) == [{"id": 2, "text": "item note"}]
    before = wire.requests
    for number in range(20):
        user, rows = ((A, [{"id": 2, "text": "item note"}]), (B, []))[number % 2]
        assert data.query(BY_KEY, [2], user=user) == rows
    assert wire.requests == before + 20 and wire.unanswered_max == 1
    assert len(wire.names) == 2, "the settings and the query"


def test_a_query_that_was_prepared_is_asked_again_when_its_columns_have_other_types(
        wired: tuple[Data, WatchedWire]) -> None:
    data, _ = wired
    text = "SELECT item FROM orders WHERE id = 2"
    for _ in range(10):
        assert data.query(text) == [{"item": "item 2"}]
    data.execute("ALTER TABLE orders ALTER item TYPE varchar(100)")
    for _ in range(10):
        assert data.query(text) == [{"item": "item 2"}]


def test_statements_beyond_a_bound_are_given_up(wired: tuple[Data, WatchedWire], monkeypatch: pytest.MonkeyPatch
                                                ) -> None:
    monkeypatch.setattr(postgres_read, "PREPARED_MAX", 3)
    data, wire = wired
    for turn in range(60):
        assert data.query(f"SELECT {turn % 6} AS n") == [{"n": turn % 6}]
    assert len(wire.names) == 7, "six queries and the settings, some of them several times"


@pytest.mark.parametrize("text", ["SELECT count(*) AS n FROM " + ", ".join(f"orders o{n}" for n in range(14)),
                                  "SELECT a.id FROM " + ", ".join(f"orders {n}" for n in "abcdef")],
                         ids=["computes", "has many rows"])
def test_a_query_that_is_cancelled_or_has_too_many_rows_leaves_its_connection_to_others(
        wired: tuple[Data, WatchedWire], text: str) -> None:
    data, _ = wired
    compiled = data.compiled(text)

    async def play() -> list[Any]:
        found: list[Any] = []
        for number in range(12):
            due_ns = time.monotonic_ns() + 30 * SECONDS
            task = asyncio.ensure_future(data.backend.query(compiled, compiled.values([], A), A, due_ns))
            await asyncio.sleep(0.02 * number)
            task.cancel()
            found += await asyncio.gather(task, return_exceptions=True)
        return found

    for one in data.run(play()):
        assert isinstance(one, asyncio.CancelledError) or isinstance(one, ApiFailure) and one.code == "row_limit", one
    assert data.query(BY_KEY, [2]) == [{"id": 2, "text": "item note"}]


def test_a_query_cannot_write_and_its_settings_end_with_it(wired: tuple[Data, WatchedWire]) -> None:
    data, _ = wired
    writes = data.compiled("SELECT 1 AS n")
    writes.text = "INSERT INTO notes VALUES (70, $1::uuid, 'x', NULL) RETURNING id"
    with pytest.raises(ApiFailure, match="read-only"):
        data.run(data.backend.query(writes, [A], A, time.monotonic_ns() + 5 * SECONDS))
    shows = data.compiled("SELECT 1 AS n")
    shows.text = "SELECT coalesce(current_setting('request.jwt.claims', true), '') AS n"

    async def bare() -> Any:
        async with data.backend._pool.connection() as connection:
            return await (await connection.execute(shows.text)).fetchone()

    assert data.run(bare()) == ("",)


def test_a_write_is_two_round_trips_and_more_only_if_something_is_looked_up(
        wired: tuple[Data, WatchedWire]) -> None:
    data, wire = wired
    data.write(Insert("notes", {"id": 900, "text": "the outbox is there"}))
    for request, count in (
            (Insert("notes", {"id": 901, "text": "x"}), 2), (Update("notes", {"text": "y"}, {"id": 901}), 2),
            (Delete("notes", {"id": 901}), 2), (Upsert("notes", {"id": 900, "text": "z"}, on="id"), 4)):
        before = wire.requests
        assert data.write(request)[0] == 1
        assert wire.requests == before + count, request
    assert data.query("SELECT text FROM notes WHERE id >= 900") == [{"text": "z"}] and wire.unanswered_max == 1


@pytest.mark.parametrize(("request_", "code"), [
    (Insert("notes", {"id": 1, "text": "another's"}), "constraint"),
    (Insert("notes", {"id": "no number"}), "sql_parameters"),
    (Update("notes", {"text": "x" * 300_000}, {}, returning=True), "too_large")],
    ids=["a constraint", "an error", "more bytes than may be returned"])
def test_a_write_that_fails_leaves_nothing_behind_and_its_connection_to_others(
        wired: tuple[Data, WatchedWire], request_: Any, code: str) -> None:
    data, wire = wired
    before = data.query("SELECT id, text FROM notes ORDER BY id")
    data.write(Insert("notes", {"id": 900, "text": "the outbox is there"}))
    records = data.run(data.backend.waiting(1000))
    for _ in range(CONNECTIONS_MAX + 2):
        with pytest.raises(ApiFailure) as failed:
            data.write(request_)
        assert failed.value.code == code, failed.value
    assert data.run(data.backend.waiting(1000)) == records
    data.write(Delete("notes", {"id": 900}))
    assert data.query("SELECT id, text FROM notes ORDER BY id") == before and wire.unanswered_max == 1
