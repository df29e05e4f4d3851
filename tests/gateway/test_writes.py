"""``insert``, ``update``, ``delete``: own rows and allowed columns only, each with its record or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest

from apex_exec.catalogue.methods import Delete, Insert, Update
from apex_exec.errors import ConfigError
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.outbox import Outbox
from apex_exec.gateway.postgres import Postgres as PostgresBackend
from apex_exec.gateway.sql.tables import OUTBOX, read_tables
from apex_exec.gateway.sql.writes import compile_write
from tests.gateway.conftest import NAMED, ROLE, SECONDS, TABLES, A, B, Data, postgres_data


def notes(data: Data, user: str) -> list[Any]:
    return [tuple(row.values()) for row in data.query("SELECT id, text, tag FROM notes ORDER BY id", user=user)]


def outbox(data: Data) -> list[Any]:
    return data.run(data.backend.waiting(100))


def test_a_write_reaches_the_callers_rows_alone_and_leaves_its_record(fresh: Data) -> None:
    others = notes(fresh, B)
    assert fresh.write(Insert("notes", {"id": 100, "text": "new"})) == (1, {"id": 100, "text": "new", "tag": None})
    assert fresh.write(Update("notes", {"text": "changed"}, {"id": 100})) == (1, None)
    assert fresh.write(Update("notes", {"text": "taken"}, {"id": 1})) == (0, None)  # B's
    assert fresh.write(Delete("notes", {"id": 1})) == (0, None)
    assert fresh.write(Update("notes", {"text": "null"}, {"tag": None})) == (1, None)
    assert fresh.write(Delete("notes", {"id": 2})) == (1, None)
    assert notes(fresh, B) == others and (100, "null", None) in notes(fresh, A)
    records = outbox(fresh)
    assert [(one.event_type, one.action, one.row_count, one.columns) for one in records] == [
        ("data.modification", "insert", 1, ["id", "text"]), ("data.modification", "update", 1, ["text"]),
        ("data.modification", "update", 0, ["text"]), ("data.deletion", "delete", 0, []),
        ("data.modification", "update", 1, ["text"]), ("data.deletion", "delete", 1, [])]
    assert len({one.id for one in records}) == 6 and {one.user_id for one in records} == {A}
    fresh.run(fresh.backend.forget([one.id for one in records[:5]]))
    assert [one.id for one in outbox(fresh)] == [records[5].id]


@pytest.mark.parametrize(("request_", "code"), [
    (Insert("orders", {"id": 50}), "table_not_allowed"), (Insert("secrets", {"id": 50}), "table_not_allowed"),
    (Insert(OUTBOX, {"id": "x"}), "table_not_allowed"), (Insert("public.notes", {"id": 1}), "table_not_allowed"),
    (Insert('notes" (id) VALUES (1); --', {"id": 1}), "table_not_allowed"),
    (Insert("Notes", {"id": 1}), "table_not_allowed"),
    (Insert("notes", {"password": "x"}), "column_not_allowed"), (Insert("notes", {'id") --': 1}), "column_not_allowed"),
    (Insert("notes", {"id": 50, "user_id": B, "text": "x"}), "column_not_allowed"),
    (Update("notes", {"user_id": B}, {"id": 2}), "column_not_allowed"),
    (Update("notes", {"user_id": A}, {"id": 2}), "invalid_params"),
    (Update("notes", {"text": "x"}, {"user_id": B}), "column_not_allowed"),
    (Update("notes", {"text": "x"}, {"id": [1, 2]}), "invalid_params"),
    (Update("notes", {"text": "x"}, {"id = 1 OR 1": 1}), "column_not_allowed"),
    (Delete("notes", {"user_id": B}), "column_not_allowed"), (Delete("orders", {"id": 1}), "table_not_allowed"),
    (Insert("notes", {"id": 1, "text": "mine now"}), "constraint"), (Insert("notes", {"id": 50}), "constraint"),
    (Insert("notes", {"id": 50, "text": None}), "constraint"),
    (Insert("notes", {"id": 2**70, "text": "x"}), "sql_parameters"),
    (Update("notes", {"tag": "tag4"}, {"id": 2}), "constraint"),
    (Insert("notes", {"id": 50, "text": "a\0b"}), "sql_parameters"),
])
def test_a_write_that_is_not_allowed_changes_nothing_and_leaves_no_record(data: Data, request_: Any, code: str) -> None:
    with contextlib.suppress(ApiFailure):
        data.write(Insert("notes", {"id": 1}))  # refused; it makes the outbox where there is none yet
    before = data.contents()
    with pytest.raises(ApiFailure) as failed:
        data.write(request_)
    assert failed.value.code == code
    assert outbox(data) == [] and data.contents() == before
    with pytest.raises(ApiFailure):
        data.write(request_, named=tuple(name for name in NAMED if name != "notes"))


def test_more_rows_than_one_call_may_change_are_not_changed(fresh: Data) -> None:
    ten = "(SELECT 1 AS x UNION ALL " + " UNION ALL ".join(["SELECT 1"] * 9) + ")"
    kind = "text" if fresh.backend.backend == "sqlite" else "uuid"
    fresh.execute(f"INSERT INTO notes SELECT 1000 + row_number() OVER (), CAST('{A}' AS {kind}), 'many', NULL "
                  f"FROM {ten} a, {ten} b, {ten} c, (SELECT 1 UNION ALL SELECT 2) d")
    for request in (Delete("notes", {"text": "many"}), Update("notes", {"text": "x"}, {"text": "many"})):
        with pytest.raises(ApiFailure) as failed:
            fresh.write(request)
        assert failed.value.code == "row_limit"
    assert fresh.query("SELECT count(*) FROM notes WHERE text = 'many'") == [{"count": 2000}]
    assert outbox(fresh) == []


def test_a_write_whose_record_cannot_be_kept_is_not_made(fresh: Data) -> None:
    fresh.write(Insert("notes", {"id": 500, "text": "x"}))
    fresh.execute(f"DROP TABLE {OUTBOX}")
    before = notes(fresh, A)
    for request in (Insert("notes", {"id": 501, "text": "x"}), Update("notes", {"text": "y"}, {"id": 500}),
                    Delete("notes", {"id": 500})):
        with pytest.raises(ApiFailure):
            fresh.write(request)
    assert notes(fresh, A) == before


def test_a_cancelled_write_is_whole_or_not_there(fresh: Data) -> None:
    async def cancelled(number: int, after: float) -> None:
        write = compile_write(Insert("notes", {"id": number, "text": "x"}), fresh.tables, NAMED, A)
        record = Outbox.record(write, A, "p")
        task = asyncio.ensure_future(fresh.backend.write(write, record, A, time.monotonic_ns() + 10 * SECONDS))
        await asyncio.sleep(after)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    fresh.write(Insert("notes", {"id": 500, "text": "x"}))
    for number in range(60):
        fresh.run(cancelled(1000 + number, number / 20_000))
    written = sum(row[1] == "x" for row in notes(fresh, A))
    assert 1 <= written == len(outbox(fresh)) <= 61


def test_the_operators_configuration_may_name_no_table_of_ours_and_no_odd_name() -> None:
    good = TABLES["notes"]
    assert read_tables({"notes": good})["notes"].write
    for name in (OUTBOX, "APEX_EXEC_OUTBOX", "pg_user", "sqlite_master", "information_schema", "a b", 'a"b', "",
                 "a.b.c", "a.", ".b", f"app.{OUTBOX}", "pg_catalog.orders", "information_schema.tables", "x" * 64):
        with pytest.raises(ConfigError):
            read_tables({name: good})
    for entry in ({"owner": 'x"', "columns": ["a"]}, {"owner": "x", "columns": ["a;"]}):
        with pytest.raises(ConfigError):
            read_tables({"t": entry})


def test_the_first_writes_of_several_gateways_make_one_outbox(postgres: Any) -> None:
    """CREATE TABLE IF NOT EXISTS does not do that: of two at once, one fails."""
    made = postgres_data(postgres, "first_writes")
    url = f"postgresql://{ROLE}@/first_writes?host={postgres.folder}"

    async def first(gateway: PostgresBackend, number: int) -> None:
        write = compile_write(Insert("notes", {"id": number, "text": "x"}), made.tables, NAMED, A)
        await gateway.write(write, Outbox.record(write, A, "p"), A, time.monotonic_ns() + 20 * SECONDS)

    async def all_at_once(numbers: range) -> None:
        gateways = [PostgresBackend(url, made.tables, "test") for _ in numbers]
        try:
            await asyncio.gather(*map(first, gateways, numbers))
        finally:
            for gateway in gateways:
                await gateway.close()

    try:
        for turn in range(5):
            made.execute(f"DROP TABLE IF EXISTS {OUTBOX}")
            made.run(all_at_once(range(1000 + 6 * turn, 1006 + 6 * turn)))
        assert sum(row[1] == "x" for row in notes(made, A)) == 30
    finally:
        made.close()


WALLED = """
CREATE TABLE parents (id integer PRIMARY KEY, user_id uuid NOT NULL);
CREATE TABLE walled (id integer PRIMARY KEY, user_id uuid NOT NULL, shown text NOT NULL, one text UNIQUE, n integer,
  hidden_need text, parent integer, hidden_one integer,
  CONSTRAINT hidden_check CHECK (n < 100), CONSTRAINT hidden_pair UNIQUE (n, hidden_one),
  CONSTRAINT hidden_link FOREIGN KEY (parent) REFERENCES parents (id));
INSERT INTO parents VALUES (1, 'aaaaaaaa-0000-4000-8000-000000000001');
INSERT INTO walled VALUES (1, 'aaaaaaaa-0000-4000-8000-000000000001', 'x', 'first', 1, 'x', 1, 1)
"""


@pytest.mark.parametrize(("need", "request_", "said"), [
    (False, Insert("walled", {"id": 2}), "shown needs a value"),
    (True, Insert("walled", {"id": 2, "shown": "x"}), "a column that is not visible to plugins needs a value"),
    (False, Insert("walled", {"id": 2, "shown": "x", "one": "first"}), "another row already has this one"),
    (False, Insert("walled", {"id": 1, "shown": "x"}), "another row already has this id"),
    (False, Insert("walled", {"id": 2, "shown": "x", "n": 100}), "a check of the table refuses these values"),
    (False, Insert("walled", {"id": 2, "shown": "x", "parent": 7}), "refers to"),
    (False, Update("walled", {"n": 100}, {"id": 1}), "a check of the table refuses these values"),
    (False, Update("walled", {"n": 1}, {"id": 3}), "another row already has these values"),
    (False, Delete("parents", {"id": 1}), "refers to")])
def test_a_constraint_that_is_hurt_names_nothing_that_is_hidden(fresh: Data, need: bool, request_: Any,
                                                                said: str) -> None:
    for statement in WALLED.strip().split(";"):
        fresh.execute(statement.replace("hidden_need text", f"hidden_need text {'NOT NULL' if need else ''}"))
    fresh.execute(f"INSERT INTO walled VALUES (3, '{A}', 'x', NULL, 2, 'x', NULL, 1)")
    if fresh.backend.backend != "sqlite":
        fresh.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON walled, parents TO plugins")
    named = ("walled", "parents")
    fresh.show({"walled": {"owner": "user_id", "columns": ["id", "shown", "one", "n", "parent"], "write": True},
                "parents": {"owner": "user_id", "columns": ["id"], "write": True}})
    with pytest.raises(ApiFailure) as failed:
        fresh.write(request_, named=named)
    assert failed.value.code == "constraint" and said in failed.value.message, failed.value.message
    assert "hidden" not in failed.value.message and "_pkey" not in failed.value.message
