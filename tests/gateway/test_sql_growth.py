"""What one row of a statement may cost: no plugin takes the database's memory, nor a core after its time."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.catalogue.methods import Insert
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.compiler import Compiler
from apex_exec.gateway.sql.growth import HAS_A_RULE
from apex_exec.gateway.sql.rules import RULES
from apex_exec.gateway.sql.tables import read_tables
from tests.gateway.conftest import NAMED, TABLES, A, Data, postgres_data, sqlite_data
from tests.support.postgres import Postgres

LONG = "A" * 240_000
PLANNED_SECONDS_MAX = 2.0
"""On a busy machine. One that is planned without a bound takes a minute."""
MEGABYTES_MAX = 300
"""Of one backend's own memory, with what the server itself takes."""
OVERDUE_SECONDS = 1.0
"""How long after its call's end a statement may still be at work."""


def doubled(times: int, grow: str = "x || x") -> str:
    """A chain of CTEs; each makes of x something longer."""
    chain = [f"a{number} AS (SELECT {grow} AS x FROM a{number - 1})" for number in range(1, times + 1)]
    return f"WITH a0 AS (SELECT $1::text AS x){''.join(f', {one}' for one in chain)} "


def columns(expression: str, count: int) -> str:
    return ", ".join(f"{expression} AS c{number}" for number in range(count))


def letters(depth: int, of: str) -> str:
    return "lower(upper(" * depth + of + "))" * depth


ENDLESS = [
    (doubled(8) + f"SELECT {columns('length(x)', 1)} FROM a8", [LONG]),
    (doubled(8) + f"SELECT {columns('length(x)', 10)} FROM a8", [LONG]),
    (doubled(8) + f"SELECT {columns('length(x)', 150)} FROM a8", [LONG]),
    (doubled(6) + f"SELECT {columns('length(x)', 60)} FROM a6", [LONG]),
    (doubled(8) + f"SELECT {columns('length(' + letters(10, 'x') + ')', 1)} FROM a8", [LONG]),
    (doubled(3) + f"SELECT {columns('length(' + letters(10, 'x') + ')', 4)} FROM a3", [LONG]),
    (doubled(8) + f"SELECT x, {columns('x', 20)} FROM a8", ["A" * 20_000]),
    ("SELECT " + columns("length(y)", 40) + " FROM (SELECT x || x AS y FROM (SELECT x || x AS x FROM "
     "(SELECT x || x || x || x AS x FROM (SELECT $1::text || $1::text AS x) q) q) q) q", [LONG]),
    ("WITH a AS (SELECT $1::text || $1 AS x, 1 AS k), b AS (SELECT p.x || q.x || r.x AS x FROM a p, a q, a r), "
     "c AS (SELECT p.x || q.x || r.x AS x FROM b p, b q, b r) SELECT " + columns("length(x)", 30) + " FROM c", [LONG]),
    ("SELECT " + columns("length((SELECT max(upper(x)) FROM (SELECT $1::text || $1 AS x) q))", 8) + ", "
     + columns("length((SELECT max(upper(lower(upper(lower(x))))) FROM (SELECT $1::text AS x) q))", 20), [LONG]),
    ("SELECT " + columns("length(trim(CASE WHEN $2 = 1 THEN $1::text ELSE lower(upper(lower($1))) END))", 40),
     [LONG, 1]),
    ("SELECT count(*) FROM orders WHERE " + " OR ".join(f"lower(upper($1)) = upper(lower($1 || '{number}'))"
                                                       for number in range(8)), ["A" * 1_000_000]),
    (f"SELECT {columns('$1::numeric % $2::numeric', 8)}", ["9" * 120_000, "7" * 60_000]),
    ("SELECT total * $1 * $1 FROM orders", ["9" * 60_000]),
    ("SELECT ($1 + total) % ($2 + total) FROM orders", ["1e131000", "1e65000"]),
    ("SELECT sum(total + $1) FROM orders", ["1e131000"]),
    ("SELECT ('1e131000'::numeric + 1) % 7.5", []),
    ("SELECT total + '1e131000' FROM orders", []),
    ("SELECT (('1e' || '131000')::numeric + 1) % (('1e' || '65000')::numeric + 1) FROM orders", []),
    ("SELECT (upper($1)::numeric + 1) % 1.7 FROM orders", ["1e131000"]),
    ("SELECT (substr($1, 1)::numeric + 1) % 1.7 FROM orders", ["9" * 120_000]),
    ("SELECT (coalesce(item, 'x') || $1)::numeric FROM orders", ["9" * 120_000]),
    ("WITH a0 AS (SELECT 1e999 + total AS x FROM orders)" + "".join(
        f", a{n} AS (SELECT x * x AS x FROM a{n - 1})" for n in range(1, 8))
     + f" SELECT {columns('x % 7.3', 8)} FROM a7", []),
    ("WITH a0 AS (SELECT 1e999 + total AS x FROM orders)" + "".join(
        f", a{n} AS (SELECT x * x AS x FROM a{n - 1})" for n in range(1, 7)) + f" SELECT {columns('x / (x + 3)', 40)} "
     "FROM a6", []),
]


COMPARED = [
    ("SELECT ($1 || $1 || $1 || $1) LIKE $2", ["A" * 240_000, "%" + "A" * 900 + "B"]),
    ("SELECT ($1 || $1) ILIKE $2", ["A" * 240_000, "%" + "A" * 900 + "B"]),
    ("SELECT id FROM notes WHERE text LIKE $1", ["%" + "a" * 400 + "B"]),
    ("SELECT id FROM notes WHERE text || text LIKE $1 OR text LIKE $1", ["%" + "a" * 90 + "B"])]


def private_megabytes(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(found) for found in re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.M)) / 1024


class Watch:
    """The backends of one database: the most private memory that one took, and whether one is at work."""

    def __init__(self, server: Postgres, name: str) -> None:
        import psycopg

        self._asking = psycopg.connect(f"host={server.folder} dbname=postgres user=postgres", autocommit=True)
        self._name = name
        self.most = 0.0
        self._ended = False
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended:
            for pid, _ in self.backends():
                with contextlib.suppress(OSError):
                    self.most = max(self.most, private_megabytes(pid))
            time.sleep(0.02)

    def backends(self) -> list[tuple[int, str]]:
        return self._asking.execute(
            "SELECT pid, state FROM pg_stat_activity WHERE datname = %s", (self._name,)).fetchall()

    def close(self) -> None:
        self._ended = True
        self._thread.join()
        self._asking.close()

    def busy(self) -> bool:
        return any(state == "active" for _, state in self.backends())


@pytest.fixture(scope="module")
def pg(postgres: Postgres) -> Iterator[Data]:
    made = postgres_data(postgres, "growth")
    yield made
    made.close()


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Data]:
    made = sqlite_data(tmp_path_factory.mktemp("growth") / "data.db")
    yield made
    made.close()


@pytest.mark.parametrize(("text", "params"), ENDLESS, ids=range(len(ENDLESS)))
def test_no_statement_takes_a_servers_memory_or_its_core_after_its_time(
        pg: Data, postgres: Postgres, text: str, params: list[Any]) -> None:
    """505 bytes of SQL took 6 GB in 5 s; 492 others were at work for 42 s after their call's end."""
    watch = Watch(postgres, "growth")
    begun = time.monotonic()
    try:
        with contextlib.suppress(ApiFailure):
            pg.query(text, params, seconds=1)
        took = time.monotonic() - begun
        due = begun + 1 + OVERDUE_SECONDS
        while watch.busy() and time.monotonic() < due:
            time.sleep(0.01)
        assert not watch.busy(), "the backend is still at work"
    finally:
        watch.close()
    assert watch.most < MEGABYTES_MAX and took < 1 + OVERDUE_SECONDS


@pytest.mark.parametrize(("text", "params"), ENDLESS[:9], ids=range(9))
def test_what_grows_without_end_is_refused_on_either_database(
        lite: Data, pg: Data, text: str, params: list[Any]) -> None:
    for data in (lite, pg):
        with pytest.raises(ApiFailure, match="128 MiB are allowed") as caught:
            data.query(text, params, seconds=1)
        assert caught.value.code in ("too_large", "sql_forbidden")


@pytest.mark.parametrize(("text", "params"), COMPARED, ids=range(len(COMPARED)))
def test_no_row_is_compared_with_patterns_for_seconds(lite: Data, pg: Data, text: str, params: list[Any]) -> None:
    """A text's length times its pattern's: the first was at work for 2.5 s after its call's end."""
    for data in (lite, pg):
        with pytest.raises(ApiFailure, match="million are allowed") as caught:
            data.query(text, params, seconds=1)
        assert caught.value.code == "too_large"


def test_every_kind_of_value_that_is_written_has_a_bound() -> None:
    from sqlglot import exp
    queries = {exp.Select, exp.Union, exp.Except, exp.Intersect}
    around = {exp.Tuple}
    assert set(RULES) - queries - around <= HAS_A_RULE


HONEST = [
    "SELECT substr(item, 1, 7) AS month, count(*), sum(total), avg(total), max(total) FROM orders "
    "GROUP BY substr(item, 1, 7) ORDER BY month",
    "SELECT " + ", ".join(f"sum(CASE WHEN n >= {k} AND n < {k + 1} THEN total ELSE 0 END) AS m{k}" for k in range(24))
    + " FROM orders",
    "SELECT " + ", ".join(f"upper(item) || ' ' || lower(item) AS c{k}" for k in range(4)) + " FROM orders",
    "SELECT id FROM orders WHERE " + " OR ".join("item ILIKE '%' || $1 || '%'" for _ in range(8)),
    "SELECT round(total * 1.19, 2) AS gross, round(total / nullif(n, 0), 2) AS each FROM orders WHERE total > $1",
    "WITH m AS (SELECT substr(item, 1, 4) AS k, total::numeric AS t FROM orders), "
    "s AS (SELECT k, sum(t) AS t FROM m GROUP BY k) "
    "SELECT m.k, sum(m.t) / max(s.t) AS share FROM m JOIN s ON s.k = m.k GROUP BY m.k",
    "SELECT total::numeric * n * 3 - total * 0.5 + total * total / 7 AS x, item::text, id::text FROM orders",
    "SELECT id, ($1::text || $1::text) AS long FROM orders WHERE id = 2",
]


def read_twice(depth: int, step: str, how: str = "") -> str:
    """A query of CTEs, each of which reads the one before it as ``step`` does."""
    steps = "".join(f", a{n} AS {how} ({step.format(f'a{n - 1}')})" for n in range(1, depth))
    return f"WITH a0 AS {how} (SELECT id FROM orders){steps} SELECT count(*) AS x FROM a{depth - 1}"


PLANNED_WITHOUT_END = [
    read_twice(16, "SELECT x.id FROM {0} x, {0} y"), read_twice(20, "SELECT x.id FROM {0} x, {0} y"),
    read_twice(16, "SELECT x.id FROM {0} x JOIN {0} y ON x.id = y.id", "NOT MATERIALIZED"),
    read_twice(14, "SELECT id FROM {0} UNION ALL SELECT id FROM {0}"),
    read_twice(14, "SELECT id FROM {0} WHERE id IN (SELECT id FROM {0})"),
    read_twice(14, "SELECT (SELECT max(id) FROM {0}) AS id FROM {0}"),
    "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 2), "
    + read_twice(16, "SELECT x.id FROM {0} x, {0} y").removeprefix("WITH ")]


@pytest.mark.parametrize("text", PLANNED_WITHOUT_END, ids=range(len(PLANNED_WITHOUT_END)))
@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
def test_no_query_is_planned_for_seconds(backend: str, text: str) -> None:
    """800 bytes of CTEs that read each other twice: SQLite was preparing them for a minute, in 700 MB of the gateway's
    memory, and PostgreSQL's planner heard of the cancellation after 8 s."""
    with pytest.raises(ApiFailure) as caught:
        Compiler(backend, read_tables(TABLES)).compile(text, NAMED)
    lacking = backend == "sqlite" and "RECURSIVE" in text
    assert caught.value.code == ("sql_not_on_sqlite" if lacking else "sql_forbidden")
    assert lacking or "comes to more than 500 tables" in caught.value.message


def test_what_is_just_within_the_bound_is_planned_at_once(lite: Data, pg: Data) -> None:
    text = read_twice(6, "SELECT x.id FROM {0} x JOIN {0} y ON x.id = y.id")
    for data in (lite, pg):
        begun = time.monotonic()
        assert data.query(text) == [{"x": 4}]
        assert time.monotonic() - begun < PLANNED_SECONDS_MAX


@pytest.mark.parametrize("text", HONEST, ids=range(len(HONEST)))
def test_what_dashboards_ask_is_answered(lite: Data, pg: Data, text: str) -> None:
    params = ["1"] if "$1" in text else []
    rows = len(pg.query(text, params))
    try:
        assert len(lite.query(text, params)) == rows
    except ApiFailure as failure:  # a quotient of numerics
        assert failure.code == "sql_not_on_sqlite" and re.search("a numeric|digits after the point", failure.message)


def test_numbers_of_ordinary_length_are_cast_as_before_and_long_ones_are_an_error(pg: Data) -> None:
    assert pg.query("SELECT substr('x12.50', 2)::numeric AS a, lower('1E3')::numeric AS b, item || '' AS c, "
                    "coalesce($1, '7')::numeric AS d, n::numeric AS e FROM orders WHERE id = 2", ["8"]) == [
                        {"a": "12.50", "b": "1000", "c": "item 2", "d": "8", "e": "-1"}]
    for text in ("lower('1E9999')::numeric", f"(substr('{'1' * 190}', 1) || $1)::numeric", "round(lower('1e5000'), 2)"):
        params = ["2" * 900] if "$1" in text else []
        with pytest.raises(ApiFailure) as caught:
            pg.query(f"SELECT {text} AS x FROM orders", params)
        assert "1000 characters" in caught.value.message or "function round" in caught.value.message


def test_a_number_that_takes_seconds_to_reckon_with_is_not_written(pg: Data) -> None:
    """In a column without a precision it would be there for every query that reckons with the column."""
    for long in ("9" * 120_000, "1e131000", " -1e130000 "):
        with pytest.raises(ApiFailure) as caught:
            pg.write(Insert("things", {"a_numeric": long}))
        assert caught.value.code == "sql_parameters"
        pg.write(Insert("things", {"a_text": long}))
    pg.write(Insert("things", {"a_numeric": "9" * 999}))


def test_a_text_that_looks_like_a_long_number_may_be_looked_for(lite: Data, pg: Data) -> None:
    for data in (lite, pg):
        for text in ("item = $1", "item IN ('x', $1)", "lower(item) = lower($1)", "item LIKE $1",
                     "item = CAST($1 AS text)"):
            assert data.query(f"SELECT id FROM orders WHERE {text}", ["12e4567"]) == []


def test_a_query_whose_time_is_over_leaves_the_server_idle(pg: Data, postgres: Postgres) -> None:
    watch = Watch(postgres, "growth")
    many = ", ".join(f"orders o{number}" for number in range(14))
    try:
        with pytest.raises(ApiFailure) as caught:
            pg.query(f"SELECT count(*) FROM {many} WHERE lower(o1.item) || o2.item <> o3.item", seconds=0.5)
        assert caught.value.code == "deadline_exceeded"
        time.sleep(0.2)
        assert not watch.busy()
    finally:
        watch.close()


THICK = ("(SELECT a.n - a.n AS z, a.item || b.item || c.text AS v, a.id AS i, b.id AS j FROM orders a, orders b, "
         "notes c WHERE a.n + 1 = a.n + 1 AND a.n + 2 = a.n + 2 AND a.n + 3 = a.n + 3 OFFSET 0)")
"""Billions of long rows of which PostgreSQL expects a few thousand: it takes them for something to be hashed."""
MANY = "(SELECT a.n - a.n AS z, a.item AS v FROM orders a, orders b, orders c LIMIT 100000000)"
HASHED = [
    f"SELECT count(*) FROM orders o WHERE o.item NOT IN (SELECT v || i::text || j::text FROM {THICK} y)",
    f"SELECT count(*) FROM {MANY} x WHERE NOT EXISTS (SELECT 1 FROM {THICK} y WHERE x.z = y.z AND x.v < y.v)",
    f"SELECT count(*) FROM orders o WHERE o.id = 7 OR EXISTS (SELECT 1 FROM {THICK} y WHERE y.v || y.i::text = o.item)",
    f"SELECT v || i::text || j::text FROM {THICK} y EXCEPT SELECT item FROM orders",
    f"SELECT v || i::text || j::text FROM {THICK} y INTERSECT SELECT v || i::text || j::text FROM {THICK} z",
    f"WITH y AS {THICK} SELECT count(*) FROM orders o WHERE 'x' IN (SELECT v || i::text || j::text FROM y)",
    f"SELECT count(*) FROM orders o LEFT JOIN {THICK} y ON o.n - o.n = y.z AND o.item = y.v",
    f"SELECT count(*) FROM (SELECT DISTINCT v || i::text || j::text FROM {THICK} y) z",
    f"SELECT count(*) FROM (SELECT max(v) OVER (PARTITION BY z) AS m, count(*) OVER () AS n FROM {THICK} y) z",
    f"SELECT i, j, max(v), count(DISTINCT v) FROM {THICK} y GROUP BY i, j ORDER BY 3 LIMIT 3",
]


@pytest.fixture(scope="module")
def crowd(postgres: Postgres) -> Iterator[Data]:
    made = postgres_data(postgres, "crowd")
    some = "FROM generate_series(1000, 3000) g"
    made.execute(f"INSERT INTO notes SELECT g, '{A}', repeat('x', 2000) || g, 't' || g {some}")
    made.execute(f"INSERT INTO orders SELECT g, '{A}', repeat('x', 200) || g, g, g {some}")
    made.execute("ANALYZE")
    yield made
    made.close()


@pytest.mark.parametrize("number", [pytest.param(number, marks=[pytest.mark.slow] if number > 1 else [])
                                    for number in range(len(HASHED))])
def test_no_number_of_rows_takes_a_servers_memory(crowd: Data, postgres: Postgres, number: int) -> None:
    """What a hash table holds is in memory; one second of each of the first five took 200 MB and more."""
    watch = Watch(postgres, "crowd")
    try:
        with contextlib.suppress(ApiFailure):
            crowd.query(HASHED[number], seconds=2)
    finally:
        watch.close()
    assert 0 < watch.most < 100


def test_what_stands_behind_in_and_exists_means_what_it_did(lite: Data, pg: Data) -> None:
    ann = "FROM notes n JOIN users u ON u.name = 'Ann' WHERE n.id = o.id AND n.id < 3"
    for data in (lite, pg):
        for text, ids in [
            ("o.id IN (SELECT id + 0 FROM notes WHERE id < 5)", [2, 4]),
            ("o.id NOT IN (SELECT id + 0 FROM notes WHERE id < 5)", [6, 8]),
            ("o.id NOT IN (SELECT nullif(id, 2) FROM notes)", []),
            ("o.id = 8 OR o.id IN (SELECT n.id " + ann + ")", [2, 8]),
            ("o.id = 8 OR EXISTS (SELECT 1 " + ann + ")", [2, 8]),
            ("NOT (o.id = 8 OR EXISTS (SELECT 1 " + ann + " LIMIT 1))", [4, 6]),
            ("o.id IN (SELECT id FROM notes UNION SELECT 7 EXCEPT SELECT 2)", [4, 6, 8])]:
            rows = data.query(f"SELECT o.id FROM orders o WHERE {text} ORDER BY o.id")
            assert [row["id"] for row in rows] == ids, text
        with pytest.raises(ApiFailure):
            data.query("SELECT id FROM orders WHERE id IN (SELECT id + 0, id FROM notes)")
        with pytest.raises(ApiFailure):
            data.query("SELECT id FROM orders WHERE id IN (SELECT * FROM (SELECT id, text FROM notes) x)")


def test_too_much_behind_in_says_so(crowd: Data) -> None:
    with pytest.raises(ApiFailure, match=r"the query in IN returns more than 32 MiB; use EXISTS or a JOIN") as caught:
        crowd.query(HASHED[0])
    assert caught.value.code == "too_large"


MANY_ROWS = "FROM generate_series(1, 10000) a, generate_series(1, 10000) b"
FORMS_WITHOUT_END = [
    ("SELECT count(*) FROM generate_series(1, 1000000000)", []),
    ("SELECT count(*) FROM generate_series(now(), 'infinity'::timestamptz, interval '1 microsecond')", []),
    ("SELECT count(*) FROM orders o, LATERAL generate_series(1, 1000000000 + o.n) g", []),
    (f"SELECT count(*) {MANY_ROWS}, generate_series(1, 10000) c", []),
    ("WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r", []),
    ("WITH RECURSIVE r(x) AS (SELECT $1::text UNION ALL SELECT x || x FROM r) SELECT max(length(x)) FROM r",
     ["A" * 40]),
    ("WITH RECURSIVE r(x) AS (SELECT $1::text UNION ALL SELECT repeat(x, 100) FROM r) SELECT count(*) FROM r", ["A"]),
    ("WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT r.n + 1 FROM r, orders) SELECT count(*) FROM r", []),
    ("WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT r.n + 1 FROM r, generate_series(1, 10000) g) "
     "SELECT count(*) FROM r", []),
    (f"SELECT length(string_agg($1, ',')) {MANY_ROWS}", ["A" * 1000]),
    (f"SELECT cardinality(array_agg(a + b)) {MANY_ROWS}", []),
    (f"SELECT jsonb_array_length(jsonb_agg(a)) {MANY_ROWS}", []),
    (f"SELECT length(CAST(json_object_agg(a, b) AS text)) {MANY_ROWS}", []),
    (f"SELECT a, array_agg(b) {MANY_ROWS} GROUP BY a", []),
    (f"SELECT count(DISTINCT a + b), percentile_cont(0.5) WITHIN GROUP (ORDER BY a * b), mode() WITHIN GROUP "
     f"(ORDER BY a - b) {MANY_ROWS}", []),
    (f"SELECT max(CAST(a AS text)) OVER (ORDER BY b ROWS BETWEEN 9999 PRECEDING AND CURRENT ROW) {MANY_ROWS} "
     "OFFSET 10000000", []),
    (f"SELECT a, b, count(*) {MANY_ROWS} GROUP BY CUBE (a, b) OFFSET 10000000", []),
    (f"SELECT DISTINCT ON (a + b) a, b {MANY_ROWS} OFFSET 10000000", []),
    (doubled(8, "concat(x, x)") + f"SELECT {columns('length(x)', 10)} FROM a8", [LONG]),
    (doubled(8, "replace(x, 'A', 'AAAA')") + f"SELECT {columns('length(x)', 4)} FROM a8", [LONG]),
    (doubled(4, "repeat(x, 100)") + f"SELECT {columns('length(x)', 4)} FROM a4", [LONG]),
    (doubled(4, "lpad(x, 10000, x)") + f"SELECT {columns('length(x)', 40)} FROM a4", ["A"]),
    (doubled(6, "CAST(to_jsonb(x) AS text)") + f"SELECT {columns('length(x)', 8)} FROM a6", ['"' * 200_000]),
    (doubled(6, "CAST(jsonb_build_array(x, x) AS text)") + f"SELECT {columns('length(x)', 8)} FROM a6", [LONG]),
    (f"SELECT {columns('cardinality(string_to_array($1, $2))', 20)}", ["," * 240_000, ","]),
    ("SELECT length(CAST($1::jsonb AS text))", ["[" + "1e131000," * 20_000 + "1]"]),
    ("SELECT length(CAST(('[' || repeat('1e131' || '000,', 10000) || '1]')::jsonb AS text))", []),
    ("SELECT length(CAST(CAST(('[1e131' || '000]')::jsonb -> 0 AS numeric) AS text))", []),
    ("SELECT strpos($1, $2)", ["a" * 240_000, "a" * 120_000 + "b"]),
    ("SELECT $1::jsonb @> $2::jsonb", ["[" + "1," * 100_000 + "1]", "[" + "2," * 50_000 + "1]"]),
    ("SELECT $1::int[] && $2::int[]", [[1] * 10_000, [2] * 10_000]),
    ("SELECT translate($1, $2, '')", ["a" * 240_000, "b" * 200_000]),
    ("SELECT to_char(now(), $1)", ["TMMonth" * 40_000]),
    ("SELECT '9'::numeric(1000) ^ 1e300", []),
    ("SELECT exp(1e300::numeric), ln(1e300::numeric), power(1.1, 1e200)", []),
]


@pytest.mark.parametrize(("text", "params"), FORMS_WITHOUT_END, ids=range(len(FORMS_WITHOUT_END)))
def test_no_form_takes_a_servers_memory_or_its_core_after_its_time(
        pg: Data, postgres: Postgres, text: str, params: list[Any]) -> None:
    """Every function and clause that can make much of little: refused, an error of ours, or ended at its time."""
    test_no_statement_takes_a_servers_memory_or_its_core_after_its_time(pg, postgres, text, params)


@pytest.mark.parametrize(("text", "words"), [
    ("SELECT count(*) FROM generate_series(1, 10001)", "generate_series returns more than 10000 rows"),
    ("WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT max(n) FROM r", "more than 100 steps"),
    ("WITH RECURSIVE r(x) AS (SELECT 'a' UNION ALL SELECT repeat(x, 100) FROM r) SELECT 1 FROM r", "more than 64 KiB"),
    ("SELECT length(string_agg(repeat('x', 10000), ',')) FROM generate_series(1, 1000)", "more than 8 MiB"),
    ("SELECT a % 1000, array_agg(a) FROM generate_series(1, 10000) a, generate_series(1, 100) b GROUP BY 1",
     "more than 8 MiB"),
    ("SELECT CAST('[1e131' || '000]' AS jsonb)", "a number in JSON has at most")])
def test_a_bound_that_is_reached_says_so(pg: Data, text: str, words: str) -> None:
    with pytest.raises(ApiFailure) as caught:
        pg.query(text)
    assert caught.value.code == "too_large" and words in caught.value.message, caught.value.message


def test_what_is_just_within_the_bounds_is_answered(pg: Data) -> None:
    assert pg.query("SELECT count(*) FROM generate_series(1, 10000)") == [{"count": 10000}]
    assert pg.query("WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 100) "
                    "SELECT max(n) FROM r") == [{"max": 100}]
    assert pg.query("SELECT length(string_agg(repeat('x', 7000), ',')) FROM generate_series(1, 1000)") == [
        {"length": 7_000_999}]
    assert pg.query("SELECT count(*) FROM unnest($1::int[]) u(x) WHERE u.x = ANY($1)", [list(range(10_000))]) == [
        {"count": 10_000}]
    with pytest.raises(ApiFailure, match="10,000 elements"):
        pg.query("SELECT id FROM orders WHERE id = ANY($1)", [list(range(10_001))])
