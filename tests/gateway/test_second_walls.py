"""Behind the rewriting stands a second wall of each database's own: shown by statements that never were rewritten."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apex_exec.catalogue.methods import Delete, Insert, Update
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.postgres import Postgres as PostgresBackend
from apex_exec.gateway.sql.compiler import Compiled
from apex_exec.gateway.sql.tables import read_tables
from apex_exec.gateway.sqlite import Sqlite
from tests.gateway.conftest import ROLE, SECONDS, TABLES, A, B, Data, postgres_again, postgres_data, sqlite_data
from tests.support.postgres import Postgres


def raw(data: Data, text: str, user: str = A) -> Any:
    """``text`` as it is, past the compiler."""
    due_ns = time.monotonic_ns() + 5 * SECONDS
    rows, _ = data.run(data.backend.query(Compiled(text, 0, [], [], []), [], user, due_ns))
    return msgspec.msgpack.decode(rows)


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Data]:
    made = sqlite_data(tmp_path_factory.mktemp("walls") / "data.db")
    yield made
    made.close()


@pytest.fixture(scope="module")
def great(postgres: Postgres) -> Iterator[Data]:
    made = postgres_data(postgres, "walls")
    yield made
    made.close()


@pytest.mark.parametrize("text", [
    "SELECT word FROM secrets", "SELECT password FROM users", "SELECT * FROM sqlite_master",
    "SELECT name FROM pragma_table_info('x')",
    "PRAGMA table_info(users)", "ATTACH 'x' AS y", "DELETE FROM notes", "UPDATE notes SET text = 'x'",
    "INSERT INTO notes (id) VALUES (1)", "DROP TABLE notes", "CREATE TABLE x (a)", "CREATE TEMP TABLE x (a)", "VACUUM",
    "SELECT load_extension('x')", "SELECT randomblob(10)", "SELECT sqlite_version()", "PRAGMA query_only = OFF",
    "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT count(*) FROM r",
    "SELECT hex(zeroblob(10))",
    "BEGIN IMMEDIATE", "REINDEX", "ANALYZE", "SELECT * FROM apex_exec_outbox"])
def test_sqlite_itself_refuses_what_is_not_shown(lite: Data, text: str) -> None:
    before = lite.contents()
    with pytest.raises(ApiFailure):
        raw(lite, text)
    assert lite.contents() == before


@pytest.mark.parametrize("text", [
    "DELETE FROM notes", "UPDATE notes SET text = 'x'", "INSERT INTO notes VALUES (99, NULL, 'x', 'y')",
    "DROP TABLE notes",
    "CREATE TABLE x (a int)", "SELECT id FROM notes FOR UPDATE", "TRUNCATE notes", "SELECT nextval('x')",
    "COMMIT; SELECT 1",
    "COPY notes TO PROGRAM 'id'", "SELECT pg_read_file('/etc/passwd')", "SELECT lo_import('/etc/passwd')",
    "SELECT pg_sleep(60)",
    "SET TRANSACTION READ WRITE"])
def test_postgres_itself_changes_nothing_and_shows_nothing_of_others(great: Data, text: str) -> None:
    before = great.contents()
    with pytest.raises(ApiFailure):
        raw(great, text)
    assert great.contents() == before
    assert {row["user_id"] for row in raw(great, "SELECT user_id::text FROM orders")} == {A}
    assert {row["user_id"] for row in raw(great, "SELECT user_id::text FROM orders", B)} == {B}


def test_a_view_that_the_operator_shows_is_a_table_and_opens_nothing_else(data: Data) -> None:
    lite = data.backend.backend == "sqlite"
    data.execute("CREATE VIEW spent AS SELECT o.id, o.user_id, abs(o.n) AS n, s.word FROM orders o "
                 "JOIN secrets s ON s.id = o.id")
    data.execute("CREATE VIEW hidden AS SELECT * FROM secrets")
    try:
        if not lite:
            data.execute("GRANT SELECT ON spent, hidden TO plugins")
        data.show({"spent": {"owner": "user_id", "columns": ["id", "n"]}})
        named = ("spent", "orders")
        rows = data.query("SELECT id, n FROM spent ORDER BY id", named=named)
        assert rows == [{"id": number, "n": abs(number - 3)} for number in (2, 4, 6, 8)]
        assert data.query("WITH spent AS (SELECT id FROM spent) SELECT count(*) FROM spent, orders o WHERE "
                          "o.id = spent.id", named=named) == [{"count": 4}]
        for text in ("SELECT word FROM spent", "SELECT * FROM hidden", "SELECT * FROM secrets",
                     "SELECT s.word FROM spent s", "WITH spent AS (SELECT * FROM secrets) SELECT * FROM spent"):
            with pytest.raises(ApiFailure):
                data.query(text, named=named)
        if lite:
            for text in ("SELECT word FROM spent", "SELECT * FROM hidden", "SELECT word FROM secrets",
                         "SELECT (SELECT word FROM secrets) FROM spent", "SELECT * FROM spent, secrets",
                         "WITH spent AS (SELECT * FROM secrets) SELECT * FROM spent",
                         "SELECT * FROM (SELECT * FROM secrets) AS spent", "SELECT s.word FROM secrets AS spent, "
                         "secrets AS s"):
                with pytest.raises(ApiFailure) as failed:
                    raw(data, text)
                assert failed.value.code in ("sql_forbidden", "sql_error", "column_not_allowed"), text
    finally:
        data.show({})
        data.execute("DROP VIEW spent")
        data.execute("DROP VIEW hidden")


def test_a_role_beyond_row_level_security_is_refused(postgres: Postgres, great: Data) -> None:
    url = f"postgresql://postgres@/walls?host={postgres.folder}"
    backend = PostgresBackend(url, read_tables(TABLES), "test")
    with pytest.raises(ApiFailure) as failed:
        great.run(backend.query(great.compiler.compile("SELECT 1", ()), [], A, time.monotonic_ns() + 5 * SECONDS))
    assert failed.value.code == "data_unavailable" and "BYPASSRLS" in failed.value.message
    great.run(backend.close())


def test_a_role_that_owns_a_table_is_refused_unless_its_row_level_security_is_forced(postgres: Postgres) -> None:
    made = postgres_data(postgres, "owned")
    try:
        made.query("SELECT id FROM orders")
    finally:
        made.close()
    for member in (False, True):  # the owner, and one who may act as the owner
        postgres.execute(
            "DO $$ BEGIN CREATE ROLE keeper; EXCEPTION WHEN duplicate_object THEN END $$",
            f"REVOKE keeper FROM {ROLE}" if not member else f"GRANT keeper TO {ROLE}",
            "ALTER TABLE orders NO FORCE ROW LEVEL SECURITY",
            f"ALTER TABLE orders OWNER TO {'keeper' if member else ROLE}", database="owned")
        for forced in (False, True):
            if forced:
                postgres.execute("ALTER TABLE orders FORCE ROW LEVEL SECURITY", database="owned")
            owned = postgres_again(postgres, "owned")
            try:
                if forced:
                    assert owned.query("SELECT id FROM orders")
                else:
                    with pytest.raises(ApiFailure) as failed:
                        owned.query("SELECT id FROM users")
                    assert failed.value.code == "data_unavailable", failed.value.message
                    assert "owns orders" in failed.value.message and "FORCE ROW LEVEL" in failed.value.message
            finally:
                owned.close()
    postgres.execute("DROP OWNED BY keeper", f"REVOKE keeper FROM {ROLE}", database="owned")


def test_a_database_that_is_not_there_is_said_to_be_so_in_time(lite: Data, tmp_path: Any) -> None:
    for backend in (PostgresBackend(f"postgresql+psycopg://x@/none?host={tmp_path}", {}, "t"),
                    Sqlite(tmp_path / "none/data.db", {}, "t")):
        begun = time.monotonic()
        with pytest.raises(ApiFailure) as failed:
            lite.run(backend.query(lite.compiler.compile("SELECT 1", ()), [], A, time.monotonic_ns() + SECONDS))
        assert failed.value.code in ("data_unavailable", "deadline_exceeded") and time.monotonic() - begun < 4
        lite.run(backend.close())


def test_a_damaged_database_fails_its_calls_only(lite: Data, tmp_path: Any) -> None:
    (tmp_path / "data.db").write_bytes(b"this is no database" * 1000)
    backend = Sqlite(tmp_path / "data.db", read_tables(TABLES), "t")
    with pytest.raises(ApiFailure):
        lite.run(backend.query(Compiled("SELECT `id` FROM `orders`", 0, [], [], []), [], A,
                               time.monotonic_ns() + SECONDS))
    lite.run(backend.close())


words = st.sampled_from(["id", "text", "tag", "user_id", "password", "rowid", "ctid", 'id" = 1 OR "id', "text --",
    "ID"])
things = st.one_of(st.integers(-3, 12), st.sampled_from([A, B, "SECRET note", "tag1", "item note", "%", "' OR 1=1 --"]),
                   st.none(), st.booleans(), st.binary(max_size=3), st.just([1]), st.just({"a": 1}), st.floats())
maps = st.dictionaries(words, things, max_size=3)
tables = st.sampled_from(["notes", "notes", "notes", "orders", "secrets", "users", "things", "Notes",
    "apex_exec_outbox"])
requests = st.one_of(st.builds(Insert, tables, maps), st.builds(Update, tables, maps, maps),
    st.builds(Delete, tables, maps))


@pytest.mark.slow
@given(request=requests)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_no_write_of_one_user_touches_anothers_rows(data: Data, request: Any) -> None:
    before = _others(data)
    try:
        data.write(request)
    except ApiFailure as failure:
        assert failure.code != "data_unavailable"
    assert _others(data) == before


def _others(data: Data) -> Any:
    """B's rows, and every table that nobody may write."""
    return [data.query(f"SELECT * FROM {table} ORDER BY 1", user=B) for table in ("notes", "orders", "users", "things")]

