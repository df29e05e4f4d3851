"""PostgreSQL's functions on SQLite run in the gateway's own interpreter: what they make is bounded before it is made,
and only its own caller learns why one refused."""

from __future__ import annotations

import asyncio
import contextlib
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.sqlite_functions import VALUE_BYTES_MAX
from tests.gateway.conftest import NAMED, SECONDS, A, B, Data, sqlite_data

MADE_BYTES_MAX = 8 * VALUE_BYTES_MAX
"""Python has a text of one wide character in four bytes for each."""
WIDE = "x" * 12_600 + "\U0001F600"
NO_UTF8 = b"\xff\xfe"


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Data]:
    made = sqlite_data(tmp_path_factory.mktemp("functions") / "data.db")
    yield made
    made.close()


def failure(data: Data, text: str, params: list[Any] | None = None, user: str = A) -> ApiFailure:
    with pytest.raises(ApiFailure) as caught:
        data.query(text, params, user)
    return caught.value


@pytest.mark.parametrize(("text", "params"), [
    ("SELECT lower(CAST($1 AS text)) AS x", [NO_UTF8]), ("SELECT md5(CAST($1 AS text)) AS x", [NO_UTF8]),
    ("SELECT concat(CAST($1 AS text), 'a') AS x", [NO_UTF8]), ("SELECT CAST(CAST($1 AS text) AS int) AS x", [NO_UTF8]),
    ("SELECT greatest(CAST($1 AS text), 1) AS x", [NO_UTF8]),
    ("SELECT CAST($1 AS date) AS x", ["0001-01-01T00:00:00+23:59"]),
    ("SELECT CAST($1 AS date) AS x", ["9999-12-31T23:59:59-23:59"])])
def test_why_a_function_refused_is_for_its_own_caller(lite: Data, text: str, params: list[Any]) -> None:
    """The reason quotes a row. A connection is everybody's, one after another, and where a function fails in a way of
    its own there is no new reason."""
    own = failure(lite, "SELECT CAST(item AS int) AS x FROM orders", user=B)
    assert "SECRET" in own.message, "its own caller learns it"
    got = failure(lite, text, params)
    assert got.code in ("sql_not_on_sqlite", "sql_parameters") and "SECRET" not in got.message


def test_nor_is_the_reason_of_a_call_that_was_cancelled(lite: Data) -> None:
    compiled = lite.compiler.compile("SELECT CAST(item AS int) AS x FROM orders", NAMED)

    async def cancelled() -> None:
        due_ns = time.monotonic_ns() + 10 * SECONDS
        task = asyncio.ensure_future(lite.backend.query(compiled, compiled.values([], B), B, due_ns))
        await asyncio.sleep(0.002)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ApiFailure):
            await task

    for _ in range(20):
        lite.run(cancelled())
        assert "SECRET" not in failure(lite, "SELECT lower(CAST($1 AS text)) AS x", [NO_UTF8]).message


@pytest.mark.parametrize(("text", "params"), [
    ("SELECT length(repeat($1, 10000)) AS x", [WIDE]), ("SELECT length(upper(repeat($1, 1000))) AS x", [WIDE]),
    ("SELECT length(replace($1, 'x', '" + "y" * 9000 + "')) AS x", [WIDE]),
    ("SELECT length(concat(" + ", ".join(["$1"] * 60) + ")) AS x", ["x" * 120_000]),
    ("SELECT length(concat_ws('" + "-" * 8 + "', " + ", ".join(["$1"] * 60) + ")) AS x", ["x" * 80_000])])
def test_no_function_makes_a_text_that_sqlite_would_refuse(lite: Data, text: str, params: list[Any]) -> None:
    """It was made first: half a gigabyte, while the gateway answered nobody for seconds."""
    tracemalloc.start()
    try:
        got = failure(lite, text, params)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert got.code == "sql_not_on_sqlite" and "4 MiB" in got.message
    assert peak < MADE_BYTES_MAX, peak


@pytest.mark.parametrize(("text", "params", "expected"), [
    ("SELECT length(repeat($1, 4)) AS x", ["x" * 1_000_000], 4_000_000),
    ("SELECT length(replace($1, 'x', 'yy')) AS x", ["x" * 1_000_000], 2_000_000),
    ("SELECT replace($1, '', 'y') AS x", ["x"], "x"), ("SELECT replace($1, 'xx', '') AS x", ["axxb"], "ab"),
    ("SELECT repeat($1, 0) AS x", ["a"], ""), ("SELECT concat_ws('-', $1, NULL, $2) AS x", ["a", "b"], "a-b")])
def test_what_fits_is_made(lite: Data, text: str, params: list[Any], expected: Any) -> None:
    assert lite.query(text, params) == [{"x": expected}]


def test_a_number_is_written_in_the_digits_that_postgresql_reads(lite: Data) -> None:
    for digits in ("\u0663", "\uff13"):
        assert failure(lite, "SELECT CAST($1 AS int) AS x", [digits]).code == "sql_parameters"
        assert failure(lite, "SELECT CAST(lower($1) AS int) AS x", [digits]).code == "sql_not_on_sqlite"
        assert failure(lite, f"SELECT 1{digits} AS x").code in ("sql_forbidden", "sql_syntax")


def test_json_that_is_too_deep_to_read_is_a_text(lite: Data) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    lite.execute(f"INSERT INTO things (user_id, a_json) VALUES ('{A}', '{deep}')")
    try:
        assert lite.query("SELECT a_json AS x FROM things") == [{"x": deep}]
    finally:
        lite.execute("DELETE FROM things")


@pytest.mark.parametrize("stored", ["'infinity'", "7"])
def test_a_stored_moment_that_is_none_is_refused_by_name(lite: Data, stored: str) -> None:
    lite.execute(f"INSERT INTO things (user_id, a_stamp) VALUES ('{A}', {stored})")
    try:
        got = failure(lite, "SELECT a_stamp AS x FROM things")
        assert got.code == "sql_not_on_sqlite" and "timestamptz" in got.message
    finally:
        lite.execute("DELETE FROM things")
