"""What dashboards ask is answered as PostgreSQL itself answers over the user's rows, or refused by name on SQLite."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import msgspec
import pytest

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.postgres import _LOADERS
from apex_exec.gateway.sql.allowed import FORMS
from apex_exec.gateway.sql.values import Rows, array_text, as_json
from tests.gateway import dashboards
from tests.gateway.conftest import ROLE, A, Data, postgres_data, sqlite_data
from tests.gateway.dashboards import ALL
from tests.gateway.sql_grammar import Maker
from tests.support.postgres import Postgres

STATEMENTS = int(os.environ.get("APEX_TEST_SQL_EXAMPLES", "500"))
NAMED = tuple(dashboards.TABLES)
FLOATED = re.compile(r"\b(" + "|".join(name for name, form in FORMS.items() if "DOUBLE" in form.postgres)
                     + r")\(|\^")
"""The functions that are double precision here and may be numeric in PostgreSQL; the README lists them."""


class Reference:
    """PostgreSQL itself, with views that have the user's rows only."""

    def __init__(self, server: Postgres, name: str) -> None:
        import psycopg

        server.execute("CREATE SCHEMA plain", *(
            f"CREATE VIEW plain.{table} AS SELECT {', '.join(entry['columns'])} FROM public.{table} "
            f"WHERE {entry['owner']} = '{A}'" for table, entry in dashboards.TABLES.items()), database=name)
        self._connection = psycopg.connect(f"host={server.folder} dbname={name} user=postgres", autocommit=True,
                                           cursor_factory=psycopg.RawCursor)
        for kind, loader in _LOADERS.items():
            self._connection.adapters.register_loader(kind, loader)
        self._connection.execute("SET search_path = plain")
        self._connection.execute("SET timezone = 'UTC'")

    def rows(self, text: str, params: list[Any]) -> list[list[Any]]:
        values = [array_text(one) if isinstance(one, list) else as_json(one) for one in params]
        cursor = self._connection.execute(text, values)
        found = Rows([str(number) for number in range(len(cursor.description or ()))])
        for row in cursor:
            found.add(row)
        return [list(row.values()) for row in msgspec.msgpack.decode(found.encoded())]

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def pg(postgres: Postgres) -> Iterator[Data]:
    made = postgres_data(postgres, "dashboards")
    postgres.execute(*dashboards.SCHEMA, *dashboards.rows_of(),
                     *(f"GRANT SELECT ON {table} TO {ROLE}" for table in NAMED), database="dashboards")
    made.show(dashboards.TABLES)
    yield made
    made.close()


@pytest.fixture(scope="module")
def reference(pg: Data, postgres: Postgres) -> Iterator[Reference]:
    made = Reference(postgres, "dashboards")
    yield made
    made.close()


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Data]:
    path: Path = tmp_path_factory.mktemp("dashboards") / "data.db"
    made = sqlite_data(path)
    for statement in [*dashboards.SCHEMA, *dashboards.rows_of()]:
        made.execute(statement)
    made.show(dashboards.TABLES)
    yield made
    made.close()


def number_of(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(Decimal(value))
    except InvalidOperation:
        return None


def same(got: Any, wanted: Any, *, loose: bool) -> bool:
    """Whether two values are equal, types included; ``loose``: a numeric may be a double precision."""
    if isinstance(got, list) and isinstance(wanted, list):
        return len(got) == len(wanted) and all(same(a, b, loose=loose) for a, b in zip(got, wanted, strict=True))
    if type(got) is type(wanted) and got == wanted:
        return True
    if isinstance(got, float) and isinstance(wanted, float):
        return math.isclose(got, wanted, rel_tol=1e-12, abs_tol=1e-12)
    numbers = number_of(got), number_of(wanted)
    if not loose or numbers[0] is None or numbers[1] is None:
        return False
    return math.isclose(numbers[0], numbers[1], rel_tol=1e-9, abs_tol=1e-9)


def answered(data: Data, text: str, params: list[Any]) -> list[list[Any]]:
    return [list(row.values()) for row in data.query(text, params, named=NAMED)]


@pytest.mark.parametrize(("kind", "text", "params"), ALL, ids=range(len(ALL)))
def test_postgres_answers_as_it_does_without_us(pg: Data, reference: Reference, kind: str, text: str,
                                                params: list[Any]) -> None:
    got, wanted = answered(pg, text, params), reference.rows(text, params)
    loose = FLOATED.search(text) is not None
    assert len(got) == len(wanted) and all(
        same(a, b, loose=loose) for a, b in zip(got, wanted, strict=True)), (kind, text, got, wanted)
    assert "SECRET" not in str(got) and "HIDDEN" not in str(got)


@pytest.mark.parametrize(("kind", "text", "params"), ALL, ids=range(len(ALL)))
def test_sqlite_answers_as_postgres_or_says_that_it_does_not(lite: Data, reference: Reference, kind: str, text: str,
                                                             params: list[Any]) -> None:
    """A numeric is a number there: the README says so."""
    try:
        got = answered(lite, text, params)
    except ApiFailure as failure:
        assert failure.code == "sql_not_on_sqlite", (text, failure.code, failure.message)
        return
    wanted = reference.rows(text, params)
    assert len(got) == len(wanted) and all(
        same(a, b, loose=True) for a, b in zip(got, wanted, strict=True)), (kind, text, got, wanted)
    assert "SECRET" not in str(got) and "HIDDEN" not in str(got)


@pytest.mark.slow
def test_what_a_grammar_makes_has_one_answer_on_both_databases(postgres: Postgres, tmp_path: Path) -> None:
    """Whatever SQLite answers at all is what PostgreSQL answers, types included but for numerics."""
    both = postgres_data(postgres, "both_answer"), sqlite_data(tmp_path / "data.db")
    answers: Counter[str] = Counter()
    try:
        for seed in range(STATEMENTS):
            maker = Maker(seed)
            maker.odd = False
            text, rows = maker.text(), []
            for data in both:
                try:
                    rows.append(sorted((list(row.values()) for row in data.query(text, maker.params)), key=_order))
                except ApiFailure as failure:
                    answers[failure.code] += 1
            if len(rows) == 2:
                answers["same"] += 1
                assert len(rows[0]) == len(rows[1]) and all(
                    same(a, b, loose=True) for a, b in zip(*rows, strict=True)), (text, rows)
    finally:
        for data in both:
            data.close()
    assert answers["same"] > STATEMENTS // 6, answers


def _order(row: list[Any]) -> str:
    """Numbers of any type sort alike."""
    return repr([str(number_of(value)) if number_of(value) is not None else str(value) for value in row])


def test_there_are_enough_of_each_kind_and_all_are_accepted(pg: Data) -> None:
    kinds = Counter(kind for kind, _, _ in ALL)
    assert len(ALL) >= 150 and len(kinds) == 10 and min(kinds.values()) >= 10
    for _, text, _ in ALL:
        pg.compiler.compile(text, NAMED)


def test_a_table_that_is_made_later_has_its_types_then(tmp_path: Path) -> None:
    """What was compiled before the platform had made its tables is not kept."""
    made = sqlite_data(tmp_path / "data.db")
    try:
        made.show(dashboards.TABLES)
        text = "SELECT max(created) AS last, max(total) / 2 AS half FROM sales"
        assert made.compiler.compile("SELECT max(created) AS last FROM sales", NAMED).kinds == [""]
        made.compiler.compile(text, NAMED)
        for statement in [*dashboards.SCHEMA, *dashboards.rows_of()]:
            made.execute(statement)
        assert made.query("SELECT max(created) AS last FROM sales", named=NAMED)[0]["last"].tzinfo is not None
        with pytest.raises(ApiFailure, match="/ with a numeric"):
            made.query(text, named=NAMED)
    finally:
        made.close()


@pytest.mark.parametrize(("text", "params", "words"), [
    ("SELECT total / 2 FROM sales", [], "/ with a numeric"), ("SELECT sum(total) / sum(qty) FROM sales", [], "numeric"),
    ("SELECT 5.5 % 2", [], "% with a numeric"), ("SELECT created - day FROM sales", [], "a timestamptz"),
    ("SELECT day + 1 FROM sales", [], "arithmetic with a date"), ("SELECT paid::text FROM sales", [], "a boolean"),
    ("SELECT total::text FROM sales", [], "a numeric"), ("SELECT price::int FROM sales", [], "with a fraction"),
    ("SELECT 'yes'::boolean", [], "a cast to boolean"), ("SELECT item::date FROM sales", [], "a cast to date"),
    ("SELECT id FROM sales WHERE created > '2026-03-01'", [], "a comparison of a timestamptz"),
    ("SELECT id FROM sales WHERE day = item", [], "a comparison of a date"),
    ("SELECT item || paid FROM sales", [], "||"),
    ("SELECT max(created) - min(created) FROM sales", [], "arithmetic with a timestamptz"),
    ("SELECT x.t / 3 FROM (SELECT sum(total) AS t FROM sales) x", [], "/ with a numeric"),
    ("WITH m AS (SELECT created AS c FROM sales) SELECT c::text FROM m", [], "a timestamptz"),
    ("SELECT concat(id, 'x') FROM sales", [], "concat"), ("SELECT greatest(item, 'x') FROM sales", [], "greatest"),
    ("SELECT round(price) FROM sales", [], "round with one argument")])
def test_sqlite_refuses_by_name_what_it_would_answer_otherwise(lite: Data, text: str, params: list[Any],
                                                               words: str) -> None:
    with pytest.raises(ApiFailure) as failed:
        lite.query(text, params, named=NAMED)
    assert failed.value.code == "sql_not_on_sqlite" and words in failed.value.message, failed.value.message


def test_moments_in_any_notation_are_found_on_sqlite(lite: Data) -> None:
    """What JavaScript's toISOString gives was compared as a text: a row of that day was not found."""
    first = lite.query("SELECT min(created) AS c FROM sales", named=NAMED)[0]["c"]
    for given in (first, first.isoformat(), first.strftime("%Y-%m-%dT%H:%M:%SZ"), first.isoformat(" ")):
        assert lite.query("SELECT count(*) AS n FROM sales WHERE created = $1", [given], named=NAMED) == [{"n": 1}]
        assert lite.query("SELECT count(*) AS n FROM sales WHERE created > $1", [given], named=NAMED) == [{"n": 59}]
