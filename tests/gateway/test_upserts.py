"""Upserts, batches and returned rows: the caller's rows only, whole or not at all, alike on both databases."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import pytest

from apex_exec.catalogue.methods import Delete, Insert, Update, Upsert
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.values import RESULT_BYTES_MAX
from apex_exec.gateway.sql.writes import ROWS_CHANGED_MAX, VALUES_MAX, compile_write
from tests.gateway.conftest import ROLE, A, B, Data, postgres_data, sqlite_data

OURS = ("notes", "settings", "typed", "walled")
SHOWN = {
    "settings": {"owner": "user_id", "columns": ["key", "value", "n"], "write": True},
    "typed": {"owner": "user_id", "columns": ["id", "b", "s", "j", "d", "x"], "write": True},
    "walled": {"owner": "user_id", "columns": ["id", "shown"], "write": True}}
MADE = (
    "CREATE TABLE settings (user_id uuid NOT NULL, key text NOT NULL, value text, n integer, hidden text DEFAULT "
    "'HIDDEN', UNIQUE (user_id, key))",
    "CREATE TABLE typed (id integer PRIMARY KEY, user_id uuid NOT NULL, b boolean, s timestamptz, j jsonb, d date, "
    "x double precision)",
    "CREATE TABLE walled (id integer PRIMARY KEY, user_id uuid NOT NULL, shown text, hidden_one integer DEFAULT 7, "
    "part text, CONSTRAINT hidden_pair UNIQUE (shown, hidden_one))",
    "CREATE UNIQUE INDEX only_some ON walled (shown) WHERE hidden_one > 7")
WALLS = ("ALTER TABLE settings ENABLE ROW LEVEL SECURITY",
         "CREATE POLICY own ON settings USING (user_id::text = "
         "current_setting('request.jwt.claims', true)::json->>'sub')",
         f"GRANT SELECT, INSERT, UPDATE, DELETE ON settings, typed, walled TO {ROLE}")


def furnished(data: Data, users: str = "AB") -> Data:
    """``data`` with the tables of this file. B has settings under the keys that A uses."""
    for statement in MADE if data.backend.backend == "sqlite" else (*MADE, *WALLS):
        data.execute(statement)
    if "B" in users:
        for key in "abc":
            data.execute(f"INSERT INTO settings (user_id, key, value, n) VALUES ('{B}', '{key}', 'SECRET', 1)")
        data.execute(f"INSERT INTO walled (id, user_id, shown) VALUES (1, '{B}', 'SECRET')")
    data.show(SHOWN)
    return data


@pytest.fixture
def full(fresh: Data) -> Data:
    """A database of its own, with the tables of this file."""
    return furnished(fresh)


def write(data: Data, request: Any, user: str = A) -> Any:
    return data.write(request, user, OURS)


def refused(data: Data, request: Any, user: str = A) -> ApiFailure:
    """The failure of a write, which has changed nothing and has left no record."""
    before, records = data.contents(), len(data.run(data.backend.waiting(1000)))
    with pytest.raises(ApiFailure) as failed:
        write(data, request, user)
    assert len(data.run(data.backend.waiting(1000))) == records
    assert data.contents() == before
    assert "HIDDEN" not in failed.value.message and "SECRET" not in failed.value.message
    return failed.value


def settings(data: Data, user: str) -> list[Any]:
    return [tuple(row.values()) for row in data.query("SELECT key, value, n FROM settings ORDER BY key", user=user,
                                                      named=OURS)]


def test_an_upsert_inserts_or_changes_the_callers_row_and_no_other(full: Data) -> None:
    others = settings(full, B)
    new = {"key": "a", "value": "one", "n": 1}
    assert write(full, Upsert("settings", new, "key", returning=True)) == (1, new)
    assert write(full, Upsert("settings", {"key": "a", "value": "two", "n": 5}, ["key"], ["value"])) == (1, None)
    assert settings(full, A) == [("a", "two", 1)]
    assert write(full, Upsert("settings", {"key": "a", "value": "three"}, "key", [], ["value"])) == (0, None)
    assert write(full, Upsert("settings", {"key": "a"}, ["user_id", "key"], returning=["n", "value"])) == (
        1, {"n": 1, "value": "two"})
    assert settings(full, A) == [("a", "two", 1)] and settings(full, B) == others
    records = full.run(full.backend.waiting(100))
    assert [(one.event_type, one.action, one.table, one.row_count, one.columns) for one in records] == [
        ("data.modification", "upsert", "settings", 1, ["key", "value", "n"]),
        ("data.modification", "upsert", "settings", 1, ["key", "value", "n"]),
        ("data.modification", "upsert", "settings", 0, ["key", "value"]),
        ("data.modification", "upsert", "settings", 1, ["key"])]
    assert {one.user_id for one in records} == {A}


def test_rows_of_one_call_are_written_together_and_returned_in_their_order(full: Data) -> None:
    rows = [{"key": f"k{number}", "n": number} for number in (3, 1, 2)]
    assert write(full, Insert("settings", rows)) == (3, None)
    assert write(full, Insert("settings", [{"key": "x", "n": 9}, {"key": "w", "n": 8}], ["n", "key"])) == (
        2, [{"n": 9, "key": "x"}, {"n": 8, "key": "w"}])
    assert write(full, Insert("settings", {"key": "y"}, False)) == (1, None)
    again = [{"n": 30, "key": "k3"}, {"n": 40, "key": "k4"}]
    assert write(full, Upsert("settings", again, "key", returning=True)) == (2, [
        {"key": "k3", "value": None, "n": 30}, {"key": "k4", "value": None, "n": 40}])
    assert write(full, Update("settings", {"value": "v"}, {"n": 30}, ["key", "value"])) == (1, [
        {"key": "k3", "value": "v"}])
    assert write(full, Update("settings", {"value": "v"}, {"n": -1}, True)) == (0, [])
    assert write(full, Delete("settings", {"key": "k3"}, ["value"])) == (1, [{"value": "v"}])
    records = full.run(full.backend.waiting(100))
    assert [(one.action, one.row_count) for one in records] == [
        ("insert", 3), ("insert", 2), ("insert", 1), ("upsert", 2), ("update", 1), ("update", 0), ("delete", 1)]


def test_an_upsert_that_meets_another_users_row_is_told_what_an_insert_is_told(full: Data) -> None:
    """A key without the owner's column: another user's row may have it. Nothing of that row changes or comes back."""
    mine = {"id": 100, "text": "mine"}
    assert write(full, Upsert("notes", mine, "id", returning=["id"])) == (1, {"id": 100})
    for request in (Upsert("notes", {"id": 1, "text": "stolen"}, "id", returning=True),
                    Upsert("notes", [mine, {"id": 1, "text": "stolen"}], "id", returning=True),
                    Upsert("notes", {"id": 1, "text": "stolen"}, "id", ["text"]),
                    Upsert("notes", {"id": 200, "text": "stolen", "tag": "tag1"}, "tag", returning=True)):
        failure = refused(full, request)
        column = "tag" if request.on == "tag" else "id"
        assert (failure.code, failure.message) == ("constraint", f"another row already has this {column}")
        inserted = refused(full, Insert("notes", request.values))
        assert inserted.code == "constraint"
    failure = refused(full, Upsert("notes", {"id": 100, "text": "mine", "tag": "tag1"}, "id"))
    assert failure.code == "constraint" and "another row already has" in failure.message
    assert write(full, Upsert("notes", {"id": 1, "text": "stolen"}, "id", [], True)) == (0, None)
    assert full.query("SELECT text FROM notes WHERE id = 1", user=B) == [{"text": "SECRET note"}]
    assert full.query("SELECT text FROM notes WHERE id = 100") == [{"text": "mine"}]


@pytest.mark.parametrize(("request_", "code", "said"), [
    (Upsert("settings", {"key": "a", "value": "x"}, "value"), "invalid_params", "no unique key of value"),
    (Upsert("settings", {"key": "a"}, ["key", "n"]), "invalid_params", "every row needs a value for n"),
    (Upsert("settings", {"key": "a", "n": 1}, ["key", "n"]), "invalid_params", "no unique key of key, n"),
    (Upsert("settings", {"key": "a"}, "hidden"), "column_not_allowed", "no visible column 'hidden'"),
    (Upsert("settings", {"key": "a"}, "user_id"), "invalid_params", "no unique key of user_id"),
    (Upsert("settings", {"key": "a"}, 'key") DO NOTHING --'), "column_not_allowed", "no visible column"),
    (Upsert("settings", {"key": "a", "n": 1}, "key", ["value"]), "invalid_params", "update: value is not among"),
    (Upsert("settings", {"key": "a", "n": 1}, "key", ["user_id"]), "invalid_params", "update: user_id is not among"),
    (Upsert("settings", {"key": "a", "user_id": B}, "key"), "column_not_allowed", "must be the caller's id"),
    (Upsert("settings", {"key": "a"}, "key", returning=["hidden"]), "column_not_allowed", "no visible column"),
    (Upsert("settings", {"key": "a"}, "key", returning=["*"]), "column_not_allowed", "no visible column"),
    (Insert("settings", {"key": "a"}, ["user_id"]), "column_not_allowed", "no visible column"),
    (Update("settings", {"n": 1}, {"key": "a"}, ["hidden"]), "column_not_allowed", "no visible column"),
    (Delete("settings", {"key": "a"}, ["n FROM users --"]), "column_not_allowed", "no visible column"),
    (Upsert("settings", [{"key": "a"}, {"key": "a"}], "key"), "invalid_params",
     "two rows of this call have the same key"),
    (Upsert("typed", [{"id": 1, "x": 0.5}, {"id": "1", "x": 1.5}], "id"), "invalid_params", "have the same id"),
    (Insert("settings", [{"key": "a"}, {"key": "b", "n": 1}]), "invalid_params", "values[1]"),
    (Insert("settings", [{"key": "a"}, {"key": "b", "user_id": B}]), "column_not_allowed", "must be the caller's id"),
    (Insert("settings", [{"key": "a"}, {"key": "a"}]), "constraint", "another row already has"),
    (Insert("settings", [{"key": "a"}, {"key": None}]), "constraint", "key needs a value"),
    (Upsert("walled", {"id": 9, "shown": "SECRET"}, "id"), "constraint", "another row already has these values"),
    (Upsert("walled", {"id": 9, "shown": "x"}, "shown"), "invalid_params", "no unique key of shown"),
    (Upsert("orders", {"id": 1}, "id"), "table_not_allowed", "may not write"),
    (Insert("settings", [{"key": str(number)} for number in range(ROWS_CHANGED_MAX + 1)]), "row_limit", "at most 1000"),
])
def test_what_may_not_be_written_is_refused_whole(full: Data, request_: Any, code: str, said: str) -> None:
    write(full, Insert("settings", {"key": "first"}))
    failure = refused(full, request_)
    assert (failure.code, said in failure.message) == (code, True), failure.message
    assert "part" not in failure.message and "_pair" not in failure.message


def test_the_bounds_of_rows_and_bytes_are_looked_at_before_the_commit(full: Data) -> None:
    many = [{"key": str(number), "value": "x" * 200, "n": 7} for number in range(ROWS_CHANGED_MAX)]
    assert write(full, Insert("settings", many)) == (ROWS_CHANGED_MAX, None)
    count, rows = write(full, Upsert("settings", many, "key", returning=["key"]))
    assert (count, [row["key"] for row in rows]) == (ROWS_CHANGED_MAX, [row["key"] for row in many])
    wide = [{**row, "value": "y" * 400} for row in many]
    for request in (Upsert("settings", wide, "key", returning=True),
                    Update("settings", {"value": "z" * 400}, {"n": 7}, True)):
        failure = refused(full, request)
        assert failure.code == "too_large" and str(RESULT_BYTES_MAX) in failure.message
    write(full, Insert("settings", {"key": "one more", "n": 7}))
    for request in (Delete("settings", {"n": 7}, ["key"]), Update("settings", {"value": ""}, {"n": 7}, True)):
        assert refused(full, request).code == "row_limit"
    row = {f"c{number}": 1 for number in range(100)}
    full.show({"wide": {"owner": "user_id", "columns": list(row), "write": True}})
    with pytest.raises(ApiFailure) as failed:
        compile_write(Insert("wide", [row] * (VALUES_MAX // 100 + 1)), full.tables, ("wide",), A)
    assert failed.value.code == "too_large" and "30,000 values" in failed.value.message


def test_returned_values_have_the_types_that_a_query_gives_them(full: Data) -> None:
    row = {"id": 1, "b": True, "s": "2026-03-02T20:00:00+00:00", "j": {"a": [1]}, "d": "2026-03-02", "x": 1.5}
    _, made = write(full, Upsert("typed", row, "id", returning=True))
    (read,) = full.query("SELECT * FROM typed", named=OURS)
    assert made == read and (made["b"], made["j"], made["s"]) == (
        True, {"a": [1]}, datetime(2026, 3, 2, 20, tzinfo=UTC))


def random_write(draw: random.Random) -> Any:
    """A write to ``settings``, with keys that the other user has, too."""
    def row(names: list[str]) -> dict[str, Any]:
        values = {"key": draw.choice("abcdef"), "value": draw.choice(["x", "mine", None]), "n": draw.randrange(3)}
        return {name: values[name] for name in names}

    names = draw.choice([["key"], ["key", "value"], ["key", "n", "value"], ["n", "key"]])
    rows: Any = [row(names) for _ in range(draw.randrange(1, 4))] if draw.random() < 0.6 else row(names)
    asked = draw.choice([None, True, False, ["n"], ["key", "value"]])
    where = {name: row([name])[name] for name in draw.sample(["key", "value", "n"], draw.randrange(1, 3))}
    kind = draw.randrange(6)
    if kind < 3:
        changed = None if draw.random() < 0.6 else draw.sample(names, draw.randrange(len(names) + 1))
        return Upsert("settings", rows, draw.choice(["key", ["key", "user_id"]]), changed, asked)
    if kind == 3:
        return Insert("settings", rows, asked)
    return Update("settings", row(["n"]), where, asked) if kind == 4 else Delete("settings", where, asked)


def outcome(data: Data, request: Any) -> Any:
    try:
        return write(data, request)
    except ApiFailure as failure:
        return failure.code, failure.message


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "postgres without its row-level security"])
def test_what_a_write_answers_does_not_depend_on_the_others_rows(request: pytest.FixtureRequest, kind: str,
                                                                 tmp_path: Any) -> None:
    """Noninterference, as for queries: two databases that differ in B's rows alone answer every write of A alike,
    errors included, and B's rows stay as they are. The keys have the owner's column: those without it tell that a value
    exists, as an insert does."""
    if kind == "sqlite":
        both, alone = sqlite_data(tmp_path / "both.db"), sqlite_data(tmp_path / "alone.db", "A")
    else:
        server = request.getfixturevalue("postgres")
        secured = kind == "postgres"
        both = postgres_data(server, "both_written", secured=secured)
        alone = postgres_data(server, "alone_written", "A", secured=secured)
    furnished(both)
    furnished(alone, "")
    others = settings(both, B)
    draw = random.Random(kind)
    seen: dict[str, int] = {}
    for _ in range(60 if kind == "sqlite" else 120):
        tried = random_write(draw)
        got = outcome(both, tried)
        assert got == outcome(alone, tried), tried
        key = got[0] if isinstance(got[0], str) else "ok"
        seen[key] = seen.get(key, 0) + 1
        assert "SECRET" not in str(got), tried
    assert settings(both, B) == others and settings(both, A) == settings(alone, A)
    assert min(seen["ok"], seen["constraint"], seen["invalid_params"]) > 2, seen
    both.close()
    alone.close()
