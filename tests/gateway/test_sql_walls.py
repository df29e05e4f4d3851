"""Ways around the rewriting of SQL that are none: a row as a function, a server's settings, endless comparisons."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from apex_exec.catalogue.methods import Delete, Insert, Update
from apex_exec.errors import ConfigError
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.outbox import Outbox
from apex_exec.gateway.sql.long_numbers import too_long_a_number
from apex_exec.gateway.sql.parser import Parser
from apex_exec.gateway.sql.tables import read_tables
from apex_exec.gateway.sql.writes import compile_write
from tests.gateway.conftest import NAMED, SECONDS, TABLES, A, Data, postgres_data
from tests.support.postgres import Postgres


@pytest.mark.parametrize("text", [
    "SELECT o.to_json FROM orders o", "SELECT o.pg_typeof FROM orders o", "SELECT o.concat FROM orders o",
    "SELECT o.hash_record FROM orders o", "SELECT o.text FROM orders o", "SELECT o FROM orders o",
    "SELECT count(o) FROM orders o", "SELECT id FROM orders ORDER BY orders",
    "SELECT o FROM orders _o", "SELECT x.row_to_json FROM (SELECT 1 a) x",
    "WITH c AS (SELECT id FROM orders) SELECT c.quote_nullable FROM c", "SELECT orders.pg_column_size FROM orders",
    "SELECT rowid FROM orders", "SELECT o.oid FROM orders o", "SELECT ctid FROM orders",
    "SELECT o.tableoid FROM orders o"])
def test_a_row_is_no_function_and_no_value_and_hidden_columns_are_none(data: Data, text: str) -> None:
    """In PostgreSQL ``o.f`` is also f(o), for any function that takes a row; in SQLite a subquery has a rowid."""
    with pytest.raises(ApiFailure) as caught:
        data.query(text)
    assert caught.value.code == "column_not_allowed"
    assert "__" not in caught.value.message and "@" not in caught.value.message


def test_names_of_results_and_errors_are_the_plugins_own(data: Data) -> None:
    rows = data.query("SELECT x.count, x.n AS m FROM (SELECT count(*), 1 AS n FROM orders) x ORDER BY m")
    assert rows == [{"count": 4, "m": 1}]
    assert list(data.query("SELECT * FROM notes LIMIT 1")[0]) == ["id", "text", "tag"]
    with pytest.raises(ApiFailure, match="no such column: nothing|column \"nothing\""):
        data.query("SELECT nothing FROM orders")


@pytest.mark.parametrize("text", ["SELECT id FROM orders ORDER BY (*)", "SELECT id FROM orders WHERE (*) IS NULL",
                                  "SELECT (*) FROM orders", "SELECT id FROM orders GROUP BY orders.*",
                                  "SELECT lower(*) FROM orders"])
def test_a_star_is_no_value(data: Data, text: str) -> None:
    """It was written where the database's own parser had to refuse it."""
    with pytest.raises(ApiFailure) as caught:
        data.compiler.compile(text, NAMED)
    assert caught.value.code in ("sql_syntax", "sql_forbidden")


@pytest.mark.parametrize("join", ["LEFT JOIN", "RIGHT OUTER JOIN", "FULL JOIN", "INNER JOIN"])
def test_a_join_needs_its_condition(data: Data, join: str) -> None:
    """PostgreSQL reads none without; SQLite took it for a cross join."""
    with pytest.raises(ApiFailure, match="needs ON or USING"):
        data.compiler.compile(f"SELECT count(*) FROM orders {join} notes", NAMED)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("opened", "closed"), [
    ("ARRAY[", "]"), ("date(", ")"), ("int(", ")"), ("struct(", ")"), ("decimal(", ")"), ("[", "]"), ("{", "}"),
    ("interval(", ")"), ("map(", ")"), ("char(", ")"), ("timestamp(", ")"), ("x -> (", ")"), ("row(", ")")])
def test_no_nesting_takes_the_parser_long(data: Data, opened: str, closed: str) -> None:
    """The gateway has one thread: 85 bytes of ARRAY[ARRAY[… held every plugin's calls for half an hour."""
    text = f"SELECT {opened * 24}1{closed * 24}"
    begun = time.process_time()
    try:
        data.compiler.compile(text, NAMED)
    except ApiFailure as failure:
        assert failure.code in ("sql_forbidden", "sql_syntax", "sql_not_on_sqlite")
    else:
        assert opened == "x -> ("
    assert time.process_time() - begun < 1
    with pytest.raises(ApiFailure):
        data.compiler.compile("SELECT id" + "[1]" * 480, NAMED)
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("text", [
    "SELECT $1 LIKE $2", "SELECT $1 ILIKE '%' || lower($2)", "SELECT $1 LIKE '%' || CAST($2 AS text) || 'b'",
    "SELECT id FROM orders WHERE NOT $1 LIKE $2"])
def test_a_pattern_that_would_be_compared_for_seconds_is_refused(data: Data, text: str) -> None:
    """Length times length, and no look at the clock: 27 s of a thread, or of a server, for a call that had one."""
    begun = time.monotonic()
    with pytest.raises(ApiFailure) as caught:
        data.query(text, ["a" * 60_000, "%" + "a" * 20_000 + "b"], seconds=1)
    assert caught.value.code == "too_large" and time.monotonic() - begun < 1


@pytest.mark.parametrize("text", [
    "SELECT id FROM orders WHERE $1 LIKE item", "SELECT id FROM orders WHERE 'a' LIKE (SELECT $1)",
    "SELECT $1 LIKE coalesce($1, 'a')", "SELECT $1 || $1 || $1 || $1 || $1 LIKE 'a%'"])
def test_a_pattern_of_unknown_length_and_a_text_that_grows_are_refused(data: Data, text: str) -> None:
    with pytest.raises(ApiFailure) as caught:
        data.query(text, ["a"])
    assert caught.value.code == "sql_forbidden"


def test_many_patterns_count_together(data: Data) -> None:
    some = " OR ".join("item LIKE $1" for _ in range(10))
    assert data.query(f"SELECT id FROM orders WHERE {some}", ["%" * 24 + "z"]) == []
    with pytest.raises(ApiFailure, match="million are allowed"):
        data.query(f"SELECT id FROM orders WHERE {some} OR item LIKE $1", ["%" * 24 + "z"])
    cut = some.replace("item", "substr(item, 1, 90)")
    assert data.query(f"SELECT id FROM orders WHERE {cut}", ["%" * 99 + "z"]) == []
    with pytest.raises(ApiFailure, match="1000 characters"):
        data.query(f"SELECT id FROM orders WHERE {some} OR item LIKE $1", ["%" * 99 + "z"])


@pytest.fixture(scope="module")
def old_fashioned(postgres: Postgres) -> Iterator[Data]:
    made = postgres_data(postgres, "old_fashioned", secured=False)
    made.execute("ALTER DATABASE old_fashioned SET standard_conforming_strings = off")
    yield made
    made.close()


def test_a_server_whose_strings_have_backslashes_takes_no_text_for_sql(old_fashioned: Data) -> None:
    attack = " OR TRUE --"
    rows: Any = old_fashioned.query(f"SELECT id FROM orders WHERE item LIKE 'x' AND item <> '{attack}'")
    assert rows == []
    assert old_fashioned.query("SELECT id FROM orders WHERE item LIKE 'item 2' ") == [{"id": 2}]


def test_columns_that_differ_in_case_alone_are_refused(data: Data) -> None:
    """SQLite takes them for one: an update of the one that is not called owner would give a row away."""
    for columns in (["id", "USER_ID"], ["id", "ID"]):
        with pytest.raises(ConfigError, match="only in case"):
            read_tables({"notes": {"owner": "user_id", "columns": columns, "write": True}})
    with pytest.raises(ApiFailure) as caught:
        data.write(Update("notes", {"USER_ID": "bbbbbbbb-0000-4000-8000-000000000002"}, {"id": 2}), A)
    assert caught.value.code == "column_not_allowed"


@pytest.mark.parametrize("request_", [
    Delete("notes", {"ghost": "ghost"}), Update("notes", {"text": "x"}, {"ghost": "ghost"}),
    Insert("notes", {"id": 99, "text": "x"})])
def test_a_column_that_the_operator_names_and_the_table_lacks_is_no_text(data: Data, request_: Any) -> None:
    """SQLite takes "ghost" for a text if no column has that name: the condition was true of all the caller's rows."""
    before = data.contents()
    shown = {"notes": {"owner": "user_id", "columns": ["id", "text", "ghost"], "write": True}}
    write = compile_write(request_, read_tables(shown), ("notes",), A)
    with pytest.raises(ApiFailure) as caught:
        data.run(data.backend.write(write, Outbox.record(write, A, "p"), A, time.monotonic_ns() + 10 * SECONDS))
    assert caught.value.code == "column_not_allowed"
    after = data.contents()
    assert [row for row in after if "outbox" not in str(row)] == [row for row in before if "outbox" not in str(row)]


def test_no_text_of_a_plugin_is_written_to_the_daemons_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    """The parser's library warns of what it does not know, and quotes it."""
    texts = ["CREATE \x1b[31m nonsense", "SET x\n2026-11-30T00:00:00.000Z ERROR forged", "EXPLAIN SELECT 1",
             "SELECT 1::nonsense(x)", "ALTER USING {", "SELECT CAST(1 AS STRUCT<a int>)", "SELECT JSON_TABLE(1, '$[?')"]

    async def compile_all() -> None:
        parser = Parser("postgres", read_tables(TABLES))
        try:
            for text in texts:
                await parser.compile("p", 0.1, text, NAMED)
        finally:
            parser.close()

    asyncio.run(compile_all())
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("text", [" " * 250_000 + "x", "1" * 250_000 + "x", " " * 120_000 + "1" + " " * 120_000 + "x",
                                  "1e" + "_" * 250_000 + "x", "1e1000" + " " * 240_000 + "x"])
def test_no_text_that_may_be_a_number_keeps_the_gateway_busy(text: str) -> None:
    """Spaces that two parts of an expression fit on can be divided in a billion ways."""
    begun = time.thread_time()
    assert not too_long_a_number(text)
    assert time.thread_time() - begun < 1
    assert too_long_a_number(f" {'1' * 1001} ") and too_long_a_number("1e1000") and not too_long_a_number("1e99")
