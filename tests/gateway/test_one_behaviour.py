"""One behaviour on both databases: what SQLite answers is PostgreSQL's answer, types included, or it refuses by name.

Statements are made from the one table of what is allowed (``from_the_table``). A difference is a row that is another
one, a value of another type, or rows where PostgreSQL reports an error. Double precision may differ in the last digits,
since the order of additions is the databases' own.
"""

from __future__ import annotations

import json
import math
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.values import array_text, to_sqlite
from tests.gateway import from_the_table
from tests.gateway.conftest import ROLE, Data, postgres_data, sqlite_data
from tests.gateway.from_the_table import Statement
from tests.support.postgres import Postgres

STATEMENTS = int(os.environ.get("APEX_TEST_SQL_STATEMENTS", "20000"))
FEW = 300
PARTS = 8
NAMED = tuple(from_the_table.TABLES)
DATABASE = "one_behaviour"


def _stored(value: Any) -> Any:
    return value.isoformat() if type(value) is date else to_sqlite(value)


def _typed(value: Any) -> Any:
    return array_text(value) if isinstance(value, list) else json.dumps(value) if isinstance(value, dict) else value


@pytest.fixture(scope="module")
def both(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Data, Data]]:
    """(SQLite, PostgreSQL) with the same rows."""
    import psycopg

    lite, pg = sqlite_data(tmp_path_factory.mktemp("one") / "data.db"), postgres_data(postgres, DATABASE)
    for data in (lite, pg):
        for statement in from_the_table.SCHEMA:
            data.execute(statement)
    pg.execute(f"GRANT SELECT ON facts, more TO {ROLE}")
    with (psycopg.connect(f"host={postgres.folder} dbname={DATABASE} user=postgres", autocommit=True) as great,
          sqlite3.connect(lite.path) as small):
        for table, values in from_the_table.rows():
            great.execute(f"INSERT INTO {table} VALUES ({', '.join(['%s'] * len(values))})", list(map(_typed, values)))
            small.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", list(map(_stored, values)))
    for data in (lite, pg):
        data.show(from_the_table.TABLES)
    yield lite, pg
    for data in (lite, pg):
        data.close()


def same(one: Any, other: Any) -> bool:
    """Whether two results are equal, with their types and the names and the order of their columns."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    if isinstance(one, float) and isinstance(other, float):
        return one == other or math.isclose(one, other, rel_tol=1e-12, abs_tol=1e-12)
    return type(one) is type(other) and bool(one == other)


def answer(data: Data, statement: Statement) -> Any:
    try:
        return data.query(statement.text, statement.params, named=NAMED, seconds=20)
    except ApiFailure as failure:
        return failure


OF_A_ROW = re.compile("division by zero|out of range")
"""Errors of one row's values. PostgreSQL may compute rows that LIMIT then leaves out, and does not promise which."""


def compared(both: tuple[Data, Data], seeds: range) -> Counter[str]:
    """How often SQLite gave the same answer, or refused, and by which code. Raises AssertionError for a difference."""
    counts: Counter[str] = Counter()
    for seed in seeds:
        statement = Statement(seed)
        lite, pg = (answer(data, statement) for data in both)
        if isinstance(lite, ApiFailure):
            counts[lite.code] += 1
            # what the text alone shows to be wrong is an error in both; whatever else PostgreSQL answers is refused
            assert isinstance(pg, ApiFailure) or lite.code == "sql_not_on_sqlite", (seed, statement.text, lite.message)
            continue
        if isinstance(pg, ApiFailure) and " LIMIT " in statement.text and OF_A_ROW.search(pg.message):
            counts["a row beyond the limit"] += 1
            continue
        assert not isinstance(pg, ApiFailure), (seed, statement.text, statement.params, pg.message)
        assert same(lite, pg), (seed, statement.text, statement.params, [
            (one, other) for one, other in zip(lite, pg, strict=False) if not same(one, other)][:2])
        counts["same"] += 1
    return counts


@pytest.mark.timeout(600)
def test_a_few_statements_have_one_answer(both: tuple[Data, Data]) -> None:
    counts = compared(both, range(FEW))
    assert counts["same"] > FEW // 5, counts


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_many_statements_have_one_answer(both: tuple[Data, Data], part: int) -> None:
    size = STATEMENTS // PARTS
    counts = compared(both, range(FEW + part * size, FEW + (part + 1) * size))
    assert counts["same"] > size // 5, counts


ONCE = [  # (the statement, what SQLite answered or where it did not refuse)
    "SELECT id, total AS t FROM facts ORDER BY id", "SELECT sum(total) AS s, max(rate) AS m FROM facts",
    "SELECT id, total * rate AS p, total + 1 AS q, - total AS r FROM facts ORDER BY id",
    "SELECT id, 0.1 + 0.2 = 0.3 AS e FROM facts ORDER BY id", "SELECT sum(big) AS s, sum(n) AS t FROM facts",
    "SELECT extract(year FROM at) AS y, extract(second FROM at) AS s FROM facts ORDER BY id",
    "SELECT id, round(1.005, 2) AS r, round(x, 1) AS s FROM facts ORDER BY id",
    "SELECT upper('straße') AS a, lower('İΣΑΣ') AS b, initcap('ß a') AS c",
    "SELECT id, CASE WHEN ok THEN n ELSE x END AS v FROM facts ORDER BY id",
    "SELECT g, avg(total) AS a, sum(total) FILTER (WHERE ok) AS s FROM facts GROUP BY g ORDER BY g",
    "SELECT id, sum(total) OVER (ORDER BY id ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) AS s FROM facts ORDER BY id",
    "SELECT id, avg(x) OVER (ORDER BY id ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) AS a, sum(x) OVER (ORDER BY id ROWS "
    "BETWEEN 1 PRECEDING AND 1 FOLLOWING) AS s FROM facts ORDER BY id",
    "SELECT coalesce(n) AS c FROM facts ORDER BY id",
    # PostgreSQL could not say which type a text in another script has there
    "SELECT id, concat_ws('a', name, 'ÄPFEL') AS c FROM facts ORDER BY id",
    "SELECT id FROM facts WHERE ('ÄPFEL' IS NOT NULL) ORDER BY id"]


@pytest.mark.parametrize("text", ONCE)
def test_what_was_answered_otherwise_has_one_answer(both: tuple[Data, Data], text: str) -> None:
    lite, pg = (data.query(text, named=NAMED) for data in both)
    assert same(lite, pg), [(one, other) for one, other in zip(lite, pg, strict=True) if not same(one, other)][:2]


REFUSED = [
    ("SELECT id, x / m AS q FROM facts", []), ("SELECT m / (n - n) FROM facts", []),
    ("SELECT m * m * m FROM facts", []),
    ("SELECT CAST(m AS smallint) FROM facts", []), ("SELECT min(ok) FROM facts", []),
    ("SELECT CASE WHEN ok THEN total ELSE rate END FROM facts", []), ("SELECT id FROM facts WHERE n", []),
    ("SELECT CASE WHEN ok THEN day ELSE at END FROM facts", []), ("SELECT id FROM facts WHERE n = word", []),
    ("SELECT $1 FROM facts", [True]), ("SELECT n / 0 FROM facts", []), ("SELECT id FROM facts LIMIT $1", [-1]),
    ("SELECT id FROM facts ORDER BY 'x'", []), ("SELECT length(ok) FROM facts", []), ("SELECT -day FROM facts", []),
    ("SELECT total || word FROM facts", []), ("SELECT id FROM facts ORDER BY props", []),
    ("SELECT id FROM facts WHERE big = x", []), ("SELECT lag(n, m) OVER (ORDER BY id) FROM facts", [])]


@pytest.mark.parametrize(("text", "params"), REFUSED, ids=range(len(REFUSED)))
def test_what_was_answered_otherwise_is_refused_by_name(both: tuple[Data, Data], text: str, params: list[Any]) -> None:
    with pytest.raises(ApiFailure) as caught:
        both[0].query(text, params, named=NAMED)
    assert caught.value.code == "sql_not_on_sqlite", caught.value.message
