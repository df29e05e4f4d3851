"""A query reads what it returns, however many rows its user has; and what makes it so tells nothing of others' rows."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import pytest

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.compiler import Compiled
from apex_exec.gateway.sql.inside import MEMBERS_MAX
from apex_exec.gateway.sql.sqlite_functions import register
from apex_exec.gateway.sql.writer import Writer
from tests.gateway.conftest import ROLE, SECONDS, A, B, Data, postgres_data, sqlite_data
from tests.gateway.sql_grammar import Maker
from tests.support.postgres import Postgres

ROWS = 20_000
STATEMENTS = int(os.environ.get("APEX_TEST_SQL_EXAMPLES", "250"))
SCHEMA = ["CREATE TABLE acts (id integer PRIMARY KEY, user_id uuid NOT NULL, kind text, at timestamptz, n integer, "
          "sum numeric, share double precision, done boolean)",
          "CREATE INDEX acts_at ON acts (user_id, at)"]
MANY = (f"INSERT INTO acts SELECT g, CASE WHEN g % 50 = 0 THEN '{B}' ELSE '{A}' END{{uuid}}, 'kind ' || (g % 7), "
        "{at}, g % 100, g, g, {true} FROM {series}")
ACTS = {"acts": {"owner": "user_id", "columns": ["id", "kind", "at", "n", "sum", "share", "done"]}}


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def acts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Data]:
    """A user with many rows."""
    if request.param == "sqlite":
        made = sqlite_data(tmp_path_factory.mktemp("acts") / "data.db")
        at = "strftime('%Y-%m-%d %H:%M:%S+00:00', 1767225600 + g * 60, 'unixepoch')"
        fill = MANY.format(uuid="", at=at, true="1",
                           series=f"(WITH RECURSIVE s(g) AS (SELECT 1 UNION ALL SELECT g + 1 FROM s WHERE g < {ROWS}) "
                                  "SELECT g FROM s)")
    else:
        made = postgres_data(request.getfixturevalue("postgres"), "acts", secured=False)
        fill = MANY.format(uuid="::uuid", at="timestamptz '2026-01-01 00:00+00' + g * interval '1 minute'", true="TRUE",
                           series=f"generate_series(1, {ROWS}) g")
    for statement in [*SCHEMA, fill, "ANALYZE"]:
        made.execute(statement)
    if request.param == "postgres":
        made.execute(f"GRANT SELECT ON acts TO {ROLE}")
    made.show(ACTS)
    yield made
    made.close()


def rows_read(data: Data, text: str, params: list[Any]) -> int:
    """How many of the table's rows the database's own account says that it has read."""
    compiled = data.compiled(text, ("acts",))
    values = compiled.values(params, A)
    if data.backend.backend == "sqlite":
        with sqlite3.connect(data.path) as database:
            steps = 0

            def count() -> int:
                nonlocal steps
                steps += 1
                return 0

            register(database)
            database.set_progress_handler(count, 10)  # one row takes some ten steps of the virtual machine
            database.execute(compiled.text, {str(number): value for number, value in enumerate(values, 1)}).fetchall()
            return steps
    import psycopg

    with psycopg.connect(data.backend._pool.conninfo, cursor_factory=psycopg.RawCursor) as connection:
        plan = connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {compiled.text}", values).fetchone()
    assert plan is not None
    return _read(plan[0][0]["Plan"])


def _read(node: dict[str, Any]) -> int:
    here = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    return int(here) * ("Relation Name" in node) + sum(map(_read, node.get("Plans", [])))


QUICK = [
    ("SELECT * FROM acts WHERE id = $1", [77]), ("SELECT id, kind FROM acts a WHERE a.id = 77 AND kind LIKE 'k%'", []),
    ("SELECT * FROM acts ORDER BY at DESC LIMIT 10", []), ("SELECT * FROM acts ORDER BY id DESC LIMIT $1", [10]),
    ("SELECT id, upper(kind) AS k FROM acts WHERE at IS NOT NULL ORDER BY at LIMIT 10", []),
    ("SELECT count(*) FROM acts WHERE id IN (1, 2, 3)", []), ("SELECT id FROM acts WHERE id BETWEEN 5 AND $1", [9]),
    ("SELECT id FROM acts WHERE at >= $1 AND at < $2", ["2026-01-02T00:00:00Z", "2026-01-02T00:10:00Z"]),
    ("SELECT a.id FROM acts a JOIN acts b ON a.id = b.id WHERE a.id = $1 AND b.id = 12", [12]),
    ("SELECT id FROM acts WHERE 10 > id ORDER BY id LIMIT 3", []),
    ("SELECT (SELECT kind FROM acts a WHERE a.id = 4) AS k", []),
    ("SELECT id FROM acts ORDER BY at DESC LIMIT 10 OFFSET 10", []),
    ("SELECT id FROM acts LIMIT 5", []),
]


@pytest.mark.parametrize(("text", "params"), QUICK, ids=range(len(QUICK)))
def test_a_query_reads_what_it_returns(acts: Data, text: str, params: list[Any]) -> None:
    """The whole table was read for each: 19,600 rows."""
    assert acts.query(text, params, named=("acts",))
    assert rows_read(acts, text, params) <= 250


NOT_INSIDE = [
    "SELECT kind, count(*) FROM acts GROUP BY kind ORDER BY kind LIMIT 1", "SELECT DISTINCT kind FROM acts LIMIT 2",
    "SELECT id FROM acts WHERE n = id - 1 LIMIT 1", "SELECT id, n AS at FROM acts ORDER BY at LIMIT 1",
    "SELECT count(*) FROM acts LIMIT 1", "SELECT id, row_number() OVER (ORDER BY id) AS r FROM acts LIMIT 1",
    "SELECT id FROM acts ORDER BY 1 LIMIT 1", "SELECT id FROM acts ORDER BY lower(kind) LIMIT 1",
    "WITH acts AS (SELECT 5 AS id) SELECT id FROM acts WHERE id = 5 LIMIT 1",
    "SELECT a.id FROM acts a LEFT JOIN (SELECT 1 AS id) b ON a.id = b.id WHERE b.id IS NULL AND a.id < 5 LIMIT 2",
]


@pytest.mark.parametrize("text", NOT_INSIDE)
def test_what_changes_the_number_of_rows_has_its_limit_outside_only(acts: Data, text: str) -> None:
    without_tail = acts.compiled(text, ("acts",)).text
    fence = "LIMIT -1 OFFSET 0" if acts.backend.backend == "sqlite" else "OFFSET 0"
    assert without_tail.count(fence) == without_tail.count('"acts" WHERE') + without_tail.count("`acts` WHERE")


def outside(data: Data, text: str, named: tuple[str, ...]) -> Compiled:
    """``text`` compiled as if nothing may stand inside a fence."""
    found = data.compiler.compile_anew(text, named, {})
    if isinstance(found, ApiFailure):
        raise found
    return found


ALIKE = [*QUICK, *((text, []) for text in NOT_INSIDE),
         ("SELECT id FROM acts WHERE kind = 'kind 3' AND n < 5 ORDER BY sum DESC, id LIMIT 7", []),
         ("SELECT id FROM acts WHERE sum = 12 OR id = 3 ORDER BY id", []), ("SELECT id FROM acts WHERE n = -1", []),
         ("SELECT id FROM acts WHERE id = $1", [None]), ("SELECT id FROM acts WHERE id = $1", ["x"]),
         ("SELECT id FROM acts WHERE id = $1", [5.0]), ("SELECT id FROM acts WHERE share = $1", [5]),
         ("SELECT id FROM acts WHERE kind = $1 ORDER BY id LIMIT 2", ["kind 1"]),
         ("SELECT $1 FROM acts WHERE id = $1", [3]),
         ("SELECT id FROM acts ORDER BY at NULLS FIRST LIMIT $1 OFFSET $2", [3, 2]),
         ("SELECT id FROM acts WHERE id < 30 ORDER BY n DESC, id DESC LIMIT 5", []),
         ("SELECT b.id FROM (SELECT 5 AS id) a RIGHT JOIN acts b ON a.id = b.id WHERE b.id < 7 ORDER BY b.id", []),
         ("SELECT a.id, b.id AS other FROM acts a LEFT JOIN acts b ON b.id = a.id + 1 WHERE a.id < 4 AND b.n > 2 "
          "ORDER BY a.id", []),
         ("SELECT id FROM acts LIMIT ALL OFFSET 19590", []), ("SELECT id FROM acts WHERE id IN ($1, $2)", [3, None]),
         ("SELECT id FROM acts WHERE id = ANY ($1) ORDER BY id", [[3, 4, 9_999_999]]),
         ("SELECT count(*) FROM acts WHERE done = TRUE", []), ("SELECT id FROM acts WHERE id = $1::int", [5])]


@pytest.mark.parametrize(("text", "params"), ALIKE, ids=range(len(ALIKE)))
def test_the_answer_is_the_same_as_with_every_condition_outside(acts: Data, text: str, params: list[Any],
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    answers = []
    for _ in range(2):
        try:
            answers.append(acts.query(text, params, named=("acts",)))
        except ApiFailure as failure:
            answers.append(failure.code)
        _forget(acts, monkeypatch)
    assert answers[0] == answers[1]


def _forget(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing stands inside a fence from here on."""
    monkeypatch.setattr(Writer, "shapes", property(lambda self: {}, lambda self, value: None), raising=False)
    data.compiler._cache.clear()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_a_grammar_makes_has_the_same_answer_with_every_condition_outside(
        data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for seed in range(STATEMENTS):
        maker = Maker(seed)
        maker.odd = False
        text = maker.text()
        made.append((text, maker.params))
    answers: list[list[Any]] = []
    moved = 0
    for _ in range(2):
        answers.append([])
        for text, params in made:
            try:
                answers[-1].append(sorted(map(repr, data.query(text, params, seconds=2))))
                moved += re.search(r"[`\"] = \$\d+ AND", data.compiled(text).text) is not None
            except ApiFailure as failure:
                answers[-1].append(failure.code)
        _forget(data, monkeypatch)
    for one, other in zip(*answers, strict=True):
        assert one == other or "deadline_exceeded" in (one, other)
    assert moved > len(made) // 20


# ---------------------------------------------------------------------- what would tell of others' rows
@pytest.fixture(scope="module")
def open_(postgres: Postgres) -> Iterator[Data]:
    """PostgreSQL without row-level security, where comparing owners is dear: the planner looks at conditions first."""
    made = postgres_data(postgres, "fence", secured=False)
    made.execute("CREATE TYPE mood AS ENUM ('glad', 'sad')")
    made.execute("CREATE TABLE odd (id integer PRIMARY KEY, user_id uuid NOT NULL, big numeric, list json[], "
                 "day date, stamp timestamp, mood mood, word text)")
    made.execute(f"INSERT INTO odd VALUES (1, '{A}', 1, NULL, '2026-01-01', '2026-01-01', 'glad', 'a')")
    made.execute(f"INSERT INTO odd VALUES (2, '{B}', '1e400', ARRAY['1'::json], '5000000-01-01', '294276-01-01', "
                 "'sad', 'SECRET')")
    made.execute("CREATE VIEW hurts AS SELECT id, user_id, 1 / (id - 2) AS x FROM odd")
    made.execute("CREATE TABLE turns AS SELECT id, user_id, id AS x FROM odd")
    made.execute("GRANT SELECT ON odd, hurts, turns TO plugins")
    made.show({"odd": {"owner": "user_id", "columns": ["id", "big", "list", "day", "stamp", "mood", "word"]},
               "hurts": {"owner": "user_id", "columns": ["id", "x"]},
               "turns": {"owner": "user_id", "columns": ["id", "x"]}})
    yield made
    made.close()


ODD = ("odd", "hurts", "turns")


@pytest.mark.parametrize(("text", "params"), [
    ("SELECT id FROM odd WHERE big > $1", [0.5]), ("SELECT id FROM odd WHERE big > 0.5", []),
    ("SELECT id FROM odd WHERE big = CAST('1' AS double precision)", []), ("SELECT id FROM odd WHERE $1 < big", [0.5]),
    ("SELECT id FROM odd WHERE big IN ($1, 1)", [0.5]), ("SELECT id FROM odd WHERE big BETWEEN $1 AND 7", [0.5]),
    ("SELECT id FROM odd WHERE list IS NULL", []), ("SELECT id FROM hurts WHERE x = -1", []),
    ("SELECT id FROM hurts WHERE x < $1 ORDER BY x LIMIT 3", [5]), ("SELECT id FROM odd WHERE mood = 'glad'", []),
    ("SELECT id FROM odd WHERE day < $1::timestamptz", ["2030-01-01"]),
    ("SELECT id FROM odd WHERE stamp < $1::timestamptz", ["2030-01-01"]),
    ("SELECT id FROM odd WHERE stamp < CAST('2030-01-01' AS timestamptz) AND day < '2030-01-01'", []),
    ("SELECT id FROM odd WHERE day IN ($1, $2)", ["2026-01-01", "2026-01-02"])])
def test_no_condition_fails_because_of_anothers_row(open_: Data, text: str, params: list[Any]) -> None:
    """B's row has a number too large for double precision and a date beyond every timestamp, and divides by zero."""
    assert open_.query(text, params, named=ODD) == [{"id": 1}]


@pytest.mark.parametrize("text", ["SELECT id FROM odd WHERE list = '{}'", "SELECT id FROM odd WHERE big = $1::int"])
def test_a_condition_that_may_fail_stands_outside_only(open_: Data, text: str) -> None:
    assert not open_.compiled(text, ODD).guarded


def test_a_table_that_has_become_a_view_is_noticed_by_the_statement_itself(open_: Data) -> None:
    """Plans are cached for a minute at least: this one would have divided by B's row first."""
    text = "SELECT id FROM turns WHERE x = -1"
    assert open_.query(text, named=ODD) == [] and open_.compiled(text, ODD).guarded
    open_.execute("ALTER TABLE turns RENAME TO turned")
    open_.execute("CREATE VIEW turns AS SELECT id, user_id, 1 / (id - 2) AS x FROM odd")
    open_.execute("GRANT SELECT ON turns TO plugins")
    with pytest.raises(ApiFailure) as caught:
        open_.query(text, named=ODD)
    assert caught.value.code == "column_not_allowed"
    open_.backend._looked = 0.0  # as after a second
    version, shapes = open_.run(open_.backend.shapes(time.monotonic_ns() + 10 * SECONDS, anew=True))
    assert "turns" not in shapes and open_.compiler.show(version, shapes)
    assert open_.query(text, named=ODD) == [{"id": 1}]


def test_a_parameter_that_is_used_twice_and_a_long_list_stay_outside(acts: Data) -> None:
    """Its first use decides a parameter's type, so it may not move."""
    twice = acts.compiled("SELECT $1 FROM acts WHERE id = $1", ("acts",)).text
    many = acts.compiled(f"SELECT id FROM acts WHERE id IN ({', '.join(['1'] * (MEMBERS_MAX + 1))})", ("acts",)).text
    for text in (twice, many):
        assert not re.search(r"user_id[`\"] = \$\d+ AND", text)
