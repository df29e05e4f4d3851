"""``query`` over SQLite and PostgreSQL alike: the caller's rows, the operator's columns, one behaviour."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from apex_exec.catalogue.methods import Insert, Update
from apex_exec.gateway.failure import ApiFailure
from tests.gateway.conftest import NAMED, ROLE, A, B, Data, postgres_data
from tests.support.postgres import Postgres


def code(data: Data, text: str, params: list[Any] | None = None, **more: Any) -> str:
    with pytest.raises(ApiFailure) as failed:
        data.query(text, params, **more)
    return failed.value.code


def test_the_documents_query_gives_the_callers_row_and_nobody_elses(data: Data) -> None:
    text = "SELECT * FROM users WHERE id = $1"
    assert data.query(text, [A]) == [{"id": A, "name": "Ann", "email": "ann@a"}]
    assert data.query(text, [B]) == []
    assert data.query(text, [B], user=B) == [{"id": B, "name": "SECRET Bob", "email": "SECRET b"}]


OWN = [2, 4, 6, 8]


@pytest.mark.parametrize(("text", "params", "expected"), [
    ("SELECT id FROM orders ORDER BY id", [], [{"id": n} for n in OWN]),
    ("SELECT count(*) FROM orders", [], [{"count": 4}]),
    ("SELECT o.id FROM orders AS o WHERE o.n > $1 ORDER BY 1 DESC LIMIT 2", [0], [{"id": 8}, {"id": 6}]),
    ("SELECT id FROM orders WHERE id IN (1, 2, 3) OR item = 'SECRET 1'", [], [{"id": 2}]),
    ("SELECT sum(n) AS s, min(n), max(n), avg(n) FROM orders", [], [{"s": 8, "min": -1, "max": 5, "avg": 2.0}]),
    ("SELECT u.name, o.id FROM users u JOIN orders o ON o.user_id = u.id ORDER BY o.id LIMIT 1", [],
     [{"name": "Ann", "id": 2}]),
    ("SELECT name FROM users CROSS JOIN orders ORDER BY 1 LIMIT 1", [], [{"name": "Ann"}]),
    ("SELECT n.text FROM orders JOIN notes n USING (id) WHERE id = 2", [], [{"text": "item note"}]),
    ("SELECT id FROM orders NATURAL JOIN (SELECT 4 AS id) x", [], [{"id": 4}]),
    ("WITH orders AS (SELECT id + 100 AS id FROM orders) SELECT min(id) FROM orders", [], [{"min": 102}]),
    ("WITH a AS (SELECT 1 AS x), b AS (SELECT x + 1 AS x FROM a) SELECT a.x, b.x AS y FROM a, b", [],
     [{"x": 1, "y": 2}]),
    ("WITH a(z) AS (SELECT id FROM orders) SELECT max(z) AS top FROM a", [], [{"top": 8}]),
    ("SELECT id FROM orders o WHERE EXISTS (SELECT 1 FROM notes n WHERE n.id = o.id AND n.id > 5) ORDER BY id", [],
     [{"id": 6}, {"id": 8}]),
    ("SELECT (SELECT name FROM users) AS who, (SELECT count(*) FROM orders o WHERE o.n < u.n) AS less "
     "FROM orders u WHERE id = 8", [], [{"who": "Ann", "less": 3}]),
    ("SELECT id FROM orders UNION SELECT id FROM notes EXCEPT SELECT 2 ORDER BY 1", [],
     [{"id": 4}, {"id": 6}, {"id": 8}]),
    ("(SELECT id FROM orders ORDER BY id LIMIT 1) UNION ALL (SELECT 99)", [], [{"id": 2}, {"id": 99}]),
    ("SELECT 1 AS a UNION SELECT 2 INTERSECT SELECT 3", [], [{"a": 1}]),
    ("SELECT id, row_number() OVER (ORDER BY id DESC) AS r FROM orders ORDER BY id LIMIT 1", [], [{"id": 2, "r": 4}]),
    ("SELECT count(*) FILTER (WHERE n > 0) AS some, count(DISTINCT user_id) AS who FROM orders", [],
     [{"some": 3, "who": 1}]),
    ("SELECT item FROM orders WHERE item LIKE 'ITEM%'", [], []),
    ("SELECT id FROM orders WHERE item NOT LIKE '%2' AND item NOT ILIKE $1 AND id NOT BETWEEN 7 AND 9",
     ["ITEM 4"], [{"id": 6}]),
    ("SELECT item FROM orders WHERE item ILIKE $1 AND id < 3", ["ITEM%"], [{"item": "item 2"}]),
    ("SELECT upper(item) || ' it''s' AS x FROM orders WHERE id = 2", [], [{"x": "ITEM 2 it's"}]),
    ("SELECT lower('ÄÖ') AS a, length('äö') AS b, substr('abc', 2, 1) AS c, substring('abc' from 1 for 2) AS d", [],
     [{"a": "äö", "b": 2, "c": "b", "d": "ab"}]),
    ("SELECT CASE WHEN n > 0 THEN 'p' ELSE 'm' END AS s, coalesce(NULL, 5) AS c, nullif(1, 1) AS z, abs(-3) AS a, "
     "round(2.567, 2) AS r FROM orders WHERE id = 2", [], [{"s": "m", "c": 5, "z": None, "a": 3, "r": 2.57}]),
    ("SELECT n > 0 AS pos, n IS NULL AS nil, NOT TRUE AS no FROM orders WHERE id = 4", [],
     [{"pos": True, "nil": False, "no": False}]),
    ("SELECT 7 / 2 AS q, 7 % 2 AS m, -7 AS k, 1 + 2 * 3 AS p, 'a' || 'b' AS c", [],
     [{"q": 3, "m": 1, "k": -7, "p": 7, "c": "ab"}]),
    ("SELECT CAST(id AS text) AS t, id::bigint AS i, '12'::int AS n, $1::int AS p FROM orders WHERE id = 2", ["5"],
     [{"t": "2", "i": 2, "n": 12, "p": 5}]),
    ("SELECT id FROM orders WHERE id BETWEEN 3 AND 7 AND NOT id = 4 AND id <> 5", [], [{"id": 6}]),
    ('SELECT "id" AS "Big" FROM "orders" AS "O" WHERE "O"."id" = 2', [], [{"Big": 2}]),
    ("SELECT ID FROM ORDERS WHERE Id = 2", [], [{"id": 2}]),
    ("SELECT id -- a comment\n FROM orders /* another */ WHERE id = 2", [], [{"id": 2}]),
    ("SELECT item, count(*) FROM orders GROUP BY item HAVING count(*) > 5", [], []),
    ("SELECT u.* FROM users u LEFT JOIN orders o ON o.id = 1000", [], [{"id": A, "name": "Ann", "email": "ann@a"}]),
    ("SELECT DISTINCT user_id FROM orders", [], [{"user_id": A}]),
    ("SELECT id FROM orders WHERE (n > 0) IS NOT TRUE AND n IS NOT NULL", [], [{"id": 2}]),
    ("SELECT 1 AS x UNION ALL (SELECT 2 UNION SELECT 2) UNION ALL SELECT 3 ORDER BY 1 DESC", [],
     [{"x": 3}, {"x": 2}, {"x": 1}]),
    ("SELECT n FROM (SELECT NULL AS n UNION ALL SELECT 1) x ORDER BY n", [], [{"n": 1}, {"n": None}]),
    ("TABLE users", [], [{"id": A, "name": "Ann", "email": "ann@a"}]),
    ("SELECT id FROM orders ORDER BY id LIMIT $1 OFFSET $2", [1, 2], [{"id": 6}]),
    ("SELECT total FROM orders WHERE id = 4", [], [{"total": "4.50"}]),
    ("SELECT id FROM orders WHERE item = $1 OR id = $2", ["item 2' OR '1'='1", 4], [{"id": 4}]),
])
def test_ordinary_sql_means_the_same_on_both(data: Data, text: str, params: list[Any], expected: Any) -> None:
    got = data.query(text, params)
    if data.backend.backend == "sqlite":  # its numbers know no scale
        got = [{key: "4.50" if value == "4.5" else value for key, value in row.items()} for row in got]
    assert got == expected


FORBIDDEN = """
SELECT 1; SELECT 2
SELECT 1; DROP TABLE orders
DROP TABLE orders
INSERT INTO notes VALUES (1)
UPDATE notes SET text = 'x'
DELETE FROM notes
WITH x AS (DELETE FROM notes RETURNING *) SELECT * FROM x
WITH x AS (INSERT INTO notes VALUES (1) RETURNING id) SELECT * FROM x
WITH x AS (UPDATE notes SET text = 'x' RETURNING id) SELECT * FROM x
SELECT * INTO stolen FROM orders
SELECT id FROM orders FOR UPDATE
SELECT id FROM orders FOR SHARE
SELECT set_config('request.jwt.claims', '{}', true)
SELECT current_setting('request.jwt.claims')
SELECT version()
SELECT pg_sleep(1)
SELECT query_to_xml('SELECT * FROM secrets', true, true, '')
SELECT pg_read_file('/etc/passwd')
SELECT lo_import('/etc/passwd')
SELECT load_extension('x')
SELECT randomblob(1000000000)
SELECT hex(zeroblob(1000000000))
SELECT repeat('x', 1000000000)
SELECT generate_series(1, 1000000000)
SELECT * FROM pg_read_file('/etc/passwd')
SELECT 'orders'::regclass
SELECT 'x'::regproc
SELECT 'x'::xml
SELECT user_id::text::regrole FROM orders
SELECT current_user
SELECT session_user
SELECT current_database()
SELECT * FROM public.orders
SELECT * FROM main.orders
SELECT public.orders.id FROM orders
SELECT id FROM orders TABLESAMPLE SYSTEM (100)
SELECT id FROM ONLY orders
SELECT ROW(1, 2)
SELECT (orders).id FROM orders
SELECT item ~ 'x' FROM orders
SELECT item SIMILAR TO 'x' FROM orders
SELECT item COLLATE "C" FROM orders
SELECT U&'x'
SELECT $$x$$
SELECT X'1f'
SELECT B'01'
SELECT id FROM orders ORDER BY id USING <
SELECT sum(id) WITHIN GROUP (ORDER BY id) FROM orders
SELECT id FROM orders LIMIT (SELECT 1)
SELECT max(1, 2)
WITH RECURSIVE x(n) AS (SELECT 1 UNION SELECT n + 1 FROM x) SELECT * FROM x
WITH RECURSIVE x(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM x ORDER BY 1) SELECT * FROM x
WITH RECURSIVE x(n) AS (SELECT 1 UNION ALL SELECT a.n + 1 FROM x a, x b) SELECT * FROM x
WITH RECURSIVE x(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM x WHERE n IN (SELECT n FROM x)) SELECT * FROM x
WITH RECURSIVE x AS (SELECT 1 + 1 UNION ALL SELECT 2 FROM x) SELECT * FROM x
SELECT generate_series(1, 3)
SELECT unnest(ARRAY[1])
SELECT * FROM lower('x')
SELECT * FROM dblink('x', 'y') AS t(a int)
SELECT * FROM jsonb_to_recordset('[]') AS x(a int)
SELECT repeat('x', n) FROM orders
SELECT repeat('x', $1)
SELECT lpad('x', 100000)
SELECT replace(item, 'a', item) FROM orders
SELECT replace(item, 'a', $1) FROM orders
SELECT to_char(now(), item) FROM orders
SELECT strpos(item, item) FROM orders
SELECT concat_ws(item, 'a', 'b') FROM orders
SELECT ltrim(item, item) FROM orders
SELECT string_agg(item, item) FROM orders
SELECT string_agg(item, ',') OVER () FROM orders
SELECT array_agg(item) OVER (ORDER BY id) FROM orders
SELECT percentile_cont(0.5) FROM orders
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY n) OVER () FROM orders
SELECT lag(n) FROM orders
SELECT lower(item) OVER () FROM orders
SELECT lower(item) FILTER (WHERE TRUE) FROM orders
SELECT row_number() FILTER (WHERE TRUE) OVER () FROM orders
SELECT sum(n) OVER (ROWS BETWEEN 100000 PRECEDING AND CURRENT ROW) FROM orders
SELECT sum(n) OVER (ROWS BETWEEN n PRECEDING AND CURRENT ROW) FROM orders
SELECT id FROM orders GROUP BY CUBE (id, n, item, total, user_id, id, n)
SELECT id FROM orders WHERE id = ALL(ARRAY(SELECT 1))
SELECT ARRAY(SELECT id FROM orders)
SELECT ARRAY[]
SELECT (1, 2)
SELECT (id, n) = (1, 2, 3) FROM orders
SELECT ANY($1)
SELECT set_config('apex_exec.held', '0', true)
SELECT pg_catalog.pg_sleep(1)
SELECT "pg_sleep"(1)
SELECT pg_advisory_lock(1)
SELECT pg_try_advisory_xact_lock(1)
SELECT lo_get(1)
SELECT lo_from_bytea(0, 'x')
SELECT pg_ls_dir('/')
SELECT inet_server_addr()
SELECT txid_current()
SELECT pg_backend_pid()
SELECT has_table_privilege('secrets', 'select')
SELECT to_regclass('secrets')
SELECT pg_typeof(id) FROM orders
SELECT pg_column_size(id) FROM orders
SELECT database_to_xml(true, true, '')
SELECT table_to_xml('secrets', true, true, '')
SELECT ts_stat('SELECT 1')
SELECT xpath('/a', '<a/>')
SELECT regexp_replace(item, '(a*)*b', '') FROM orders
SELECT jsonb_path_query('{}', '$.**')
SELECT random()
SELECT gen_random_uuid()
SELECT clock_timestamp()
SELECT format('%1000000000s', 'x')
SELECT 1::money
SELECT 'a'::name
SELECT 1::oid
SELECT 'x'::tsvector
SELECT 'x'::bytea
SELECT '{}'::regclass[]
SELECT '1'::numeric(1001)
SELECT 'x'::char(20000)
SELECT now() AT TIME ZONE '../../etc/passwd'
SELECT id FROM orders LIMIT 1, 2
FROM orders
SELECT * FROM orders WHERE id = n = 1
SELECT id FROM (FROM orders) x
SELECT 1 INTERSECT ALL SELECT 1
SELECT :x
SELECT ?
SELECT @x
SELECT %s
COPY orders TO '/tmp/x'
EXPLAIN SELECT 1
EXPLAIN ANALYZE SELECT 1
SET ROLE postgres
RESET ROLE
BEGIN
COMMIT
DO $$ BEGIN END $$
CALL x()
PREPARE x AS SELECT 1
EXECUTE x
DECLARE c CURSOR FOR SELECT 1
LISTEN x
VACUUM
CREATE TABLE x (id int)
CREATE FUNCTION f() RETURNS int AS 'x' LANGUAGE sql
ALTER TABLE orders DISABLE ROW LEVEL SECURITY
GRANT ALL ON orders TO public
TRUNCATE orders
PRAGMA table_info(orders)
ATTACH DATABASE '/etc/passwd' AS x
SELECT * FROM orders INDEXED BY x
SELECT rowid FROM orders MATCH 'x'
SELECT id MATCH 'x' FROM orders
SELECT id GLOB 'x' FROM orders
SELECT JSON_EXTRACT(item, '$.x') FROM orders
SELECT __1 FROM orders
SELECT 1 AS "__1"
SELECT id FROM orders AS "a""b"
SELECT id FROM orders PIVOT (sum(n) FOR id IN (1, 2))
SELECT id FROM orders QUALIFY row_number() OVER () = 1
SELECT * EXCLUDE (id) FROM orders
SELECT id FROM orders WHERE id IN ()
""".strip().splitlines()


@pytest.mark.parametrize("text", FORBIDDEN)
def test_what_is_not_on_the_list_is_refused_before_any_database_sees_it(data: Data, text: str) -> None:
    with pytest.raises(ApiFailure) as failed:
        data.compiler.compile(text, NAMED)
    assert failed.value.code in ("sql_forbidden", "sql_syntax", "sql_parameters") or (
        failed.value.code == "sql_not_on_sqlite" and data.backend.backend == "sqlite")


@pytest.mark.parametrize("name", [
    "secrets", "pg_user", "pg_shadow", "pg_settings", "sqlite_master", "sqlite_schema", "apex_exec_outbox", "Orders2",
    '"Orders"', '"ORDERS"', "nobody", "x", "pragma_table_info", "dual", '"orders "', "events"])
def test_a_table_that_is_not_shown_does_not_exist(data: Data, name: str) -> None:
    for text in (f"SELECT * FROM {name}", f"SELECT 1 FROM orders, {name}", f"SELECT (SELECT 1 FROM {name})",
                 f"WITH a AS (SELECT * FROM {name}) SELECT 1", f"SELECT 1 UNION SELECT 1 FROM {name}",
                 f"SELECT 1 FROM orders WHERE id IN (SELECT 1 FROM {name})",
                 f"SELECT * FROM (WITH {name} AS (SELECT 1) SELECT * FROM {name}) q, {name}",
                 f"WITH {name} AS (SELECT * FROM {name}) SELECT 1"):
        assert code(data, text) == "table_not_allowed", text


def test_the_manifest_narrows_what_the_operator_shows(data: Data) -> None:
    assert code(data, "SELECT id FROM orders", named=("users",)) == "table_not_allowed"
    assert code(data, "SELECT 1 FROM users", named=()) == "table_not_allowed"
    assert code(data, "SELECT 1 FROM secrets", named=("secrets",)) == "table_not_allowed"


@pytest.mark.parametrize("column", ["password", "u.password", "ctid", "xmin", "tableoid", "nothing", "users.name"])
def test_a_column_that_is_not_shown_does_not_exist(data: Data, column: str) -> None:
    assert code(data, f"SELECT {column} FROM users u") in ("column_not_allowed", "sql_error")
    assert code(data, f"SELECT 1 FROM users u WHERE {column} IS NULL") in ("column_not_allowed", "sql_error")


@pytest.mark.parametrize("text", ["SELECT 1 / (id - 3) FROM orders WHERE id = 2",
                                  "SELECT o.id FROM orders o WHERE 10 / (o.id - 3) > 100",
                                  "SELECT o.id FROM orders o JOIN users u ON 10 / (o.id - 5) > 100",
                                  "SELECT id FROM orders WHERE item LIKE 'SECRET%' AND 1 / (id - id) = 1",
                                  "SELECT id FROM orders WHERE CAST(substr(item, 6) AS int) = 100"])
def test_no_error_tells_of_rows_that_are_not_the_callers(data: Data, text: str) -> None:
    assert isinstance(data.query(text), list)  # on a row of B's each of these would divide by zero or fail to cast


@pytest.mark.parametrize(("text", "params"), [
    ("SELECT $1", []), ("SELECT 1", [1]), ("SELECT $1, $3", [1, 2, 3]), ("SELECT $2", [1, 2]), ("SELECT $0", []),
    ("SELECT $1", [1, 2]), ("SELECT $101", [1] * 101), ("SELECT $1::int", [[1]]), ("SELECT $1::text", [{"a": 1}]),
    ("SELECT $1::text", ["a\0b"]), ("SELECT $1::int", [2**64])])
def test_parameters_that_do_not_fit_are_refused(data: Data, text: str, params: list[Any]) -> None:
    assert code(data, text, params) in ("sql_parameters", "sql_syntax")


@pytest.mark.parametrize("value", [True, 7, -2**63, 2.5, "é'\"\\", b"\0\xff", datetime(2026, 1, 2, tzinfo=UTC), None])
def test_parameters_of_every_type_reach_the_database(data: Data, value: Any) -> None:
    expected = [] if value is None else [{"id": 2}]
    text = "SELECT id FROM orders WHERE id = 2 AND CAST($1 AS text) IS NOT NULL"
    if data.backend.backend == "sqlite" and type(value) in (bool, float, bytes, datetime):  # another text there
        assert code(data, text, [value]) == "sql_not_on_sqlite"
        return
    assert data.query(text, [value]) == expected
    assert data.query("SELECT id FROM orders WHERE item = $1", ["'; DROP TABLE orders; --"]) == []


@pytest.mark.parametrize("text", [
    "SELECT " + "(" * 400 + "1" + ")" * 400, "SELECT " + "(" * 60 + "1" + ")" * 60, "SELECT " + "NOT " * 700 + "TRUE",
    "SELECT " + "- " * 700 + "1", "SELECT " + "CASE WHEN TRUE THEN " * 90 + "1" + " END" * 90,
    "SELECT " + " UNION SELECT ".join(["1"] * 400), "SELECT " + " + ".join(["1"] * 5000), "SELECT 1" + " " * 1_000_000,
    "SELECT '" + "x" * 1_000_000 + "'", "SELECT " + "coalesce(" * 200 + "1" + ")" * 200, "/* " * 9000,
    "SELECT " + "a." * 2000 + "b", "SELECT " + "[" * 5000, "SELECT 1 " + "JOIN " * 1000, "(" * 15000,
    "SELECT * FROM " + "(SELECT * FROM " * 100 + "orders" + ") x" * 100, "WITH " * 500, "SELECT " + "(SELECT " * 33,
    "SELECT item || item || item || item || item || item || item || item || item || item FROM orders"])
def test_what_is_too_large_or_too_deep_is_refused_at_once(data: Data, text: str) -> None:
    assert code(data, text) in ("too_large", "sql_forbidden", "sql_syntax")


def test_rows_bytes_and_time_are_capped(data: Data) -> None:
    ten = "(SELECT 1 AS x UNION ALL " + " UNION ALL ".join(["SELECT 1"] * 9) + ")"
    assert len(data.query(f"SELECT 1 AS y FROM {ten} a, {ten} b, {ten} c")) == 1000
    assert code(data, f"SELECT 1 AS y FROM {ten} a, {ten} b, {ten} c, (SELECT 1 UNION ALL SELECT 2) d") == "row_limit"
    assert code(data, f"SELECT $1::text AS y FROM {ten} a, {ten} b", ["x" * 3000]) == "too_large"
    slow = "SELECT count(*) FROM " + ", ".join(f"orders a{n}" for n in range(16))  # 4^16 rows to count
    assert code(data, slow, seconds=0.3) == "deadline_exceeded"
    assert data.query("SELECT count(*) FROM orders") == [{"count": 4}]


def test_a_query_that_fails_says_so_and_the_next_one_works(data: Data) -> None:
    assert code(data, "SELECT id + FROM orders") == "sql_syntax"
    assert code(data, "SELECT lower(id, 2) FROM orders") in ("sql_forbidden", "sql_syntax")
    assert code(data, "SELECT id FROM orders GROUP BY n HAVING nothing > 1") == "column_not_allowed"
    assert data.query("SELECT 1 AS one") == [{"one": 1}]


def test_each_type_arrives_as_the_table_of_types_says(data: Data) -> None:
    values: dict[str, Any] = {
        "a_bigint": 2**53 + 1, "a_numeric": "12345.678", "a_double": 0.1, "a_text": "é\n", "a_uuid": A,
        "a_stamp": datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC), "a_date": "2026-02-03", "a_bool": True,
        "a_json": {"a": [1, None, "x"]}, "some_bytes": b"\0\xff"}
    count, row = data.write(Insert("things", values))
    assert count == 1 and row.keys() == values.keys()
    got, = data.query("SELECT * FROM things")
    assert got == values and {key: type(value) for key, value in got.items()} == {
        key: type(value) for key, value in values.items()}
    data.write(Insert("things", {key: None for key in values}), user=B)
    assert data.query("SELECT * FROM things", user=B) == [{key: None for key in values}]
    assert math.isclose(data.query("SELECT avg(a_double) FROM things")[0]["avg"], 0.1)
    assert data.query("SELECT a_text FROM things WHERE a_stamp > $1 AND a_bool = TRUE",
                      [datetime(2026, 1, 1, tzinfo=UTC)]) == [{"a_text": "é\n"}]


@pytest.mark.parametrize("text", ["(", ")", "[", "{", "}", "((((", "$1", "--", "/*"])
def test_what_stands_in_a_literal_is_no_part_of_the_statement(data: Data, text: str) -> None:
    assert data.query(f"SELECT id FROM orders WHERE item <> '{text}' AND id = 2") == [{"id": 2}]
    many = " AND ".join([f"item <> '{text}'"] * 30)
    assert data.query(f'SELECT id AS "id" FROM orders WHERE {many} AND id = 2') == [{"id": 2}]
    assert code(data, f"SELECT {'(' * 30}id{')' * 30}, ')' FROM orders") == "sql_forbidden"
    closing = ", ".join(["')'"] * 30)
    assert code(data, f"SELECT {closing}, {'(' * 30}id{')' * 30} FROM orders") == "sql_forbidden"


@pytest.mark.parametrize(("text", "named", "hint"), [
    ("SELECT regexp_replace(item, 'x', 'y') FROM orders", "the function regexp_replace", "use replace"),
    ("SELECT group_concat(item) FROM orders", "the function group_concat", "use string_agg"),
    ("SELECT lenght(item) FROM orders", "the function lenght", "use length"),
    ("SELECT strftime('%Y', item) FROM orders", "the function strftime", "use to_char"),
    ("SELECT secret_of(1)", "the function secret_of", "listed in"),
    ("SELECT id FROM orders WHERE item ~ 'x'", "item ~ 'x'", "use LIKE"),
    ("SELECT id FROM orders WHERE item SIMILAR TO 'x'", "SIMILAR TO", "use LIKE"),
    ("SELECT lpad(item, n) FROM orders", "this count in lpad", "a whole number up to 10000"),
    ("SELECT left(item) FROM orders", "left with 1 argument", "use left(text, number)"),
    ("SELECT string_agg(item, ',') OVER () FROM orders", "string_agg with OVER", "a subquery that groups"),
    ("SELECT lag(id) FROM orders", "lag without OVER", "lag(…) OVER"),
    ("SELECT percentile_cont(0.5) FROM orders", "percentile_cont without WITHIN GROUP", "WITHIN GROUP (ORDER BY"),
    ("SELECT generate_series(1, 2)", "generate_series as a value", "generate_series in FROM"),
    ("SELECT id FROM public.orders", "the schema public", "use orders without it"),
    ("SELECT current_user", "CURRENT_USER", "all rows are the caller's"),
    ("SELECT id::money FROM orders", "a cast to money", "one of smallint int"),
    ("SELECT if(n > 1, 2, 3) FROM orders", "if(…)", "CASE WHEN"),
    ("SELECT id FROM orders FOR UPDATE", "FOR UPDATE", ""), ("SELECT 1 LIMIT (SELECT 1)", "LIMIT", "a number"),
    ("DELETE FROM orders", "DELETE", "one SELECT"), ("INSERT INTO orders (id) VALUES (1)", "INSERT", "one SELECT"),
    ("DROP TABLE orders", "DROP", "one SELECT"), ("SELECT $$x$$", "$$", "E'")])
def test_a_refusal_names_what_the_author_wrote_and_what_to_use(data: Data, text: str, named: str, hint: str) -> None:
    with pytest.raises(ApiFailure) as failed:
        data.compiler.compile(text, NAMED)
    message = failed.value.message
    assert failed.value.code == "sql_forbidden" and named in message and hint in message, message
    assert not re.search(r"\b(GROUPCONCAT|LOGICALOR|NULLSAFENEQ|BYTESTRING|PAD|EXPLODINGGENERATESERIES|REGEXPLIKE"
                         r"|ANONYMOUS|RAWSTRING|HEREDOC|SETITEM|LOCK|TIMESTAMPTRUNC)\b", message.upper()), message
    assert "allowed" in message and len(message) < 400


def test_a_refusal_says_where(data: Data) -> None:
    for text, place in (("SELECT id, secret_of(1) FROM orders", "(line 1, column 12)"),
                        ("SELECT id\nFROM orders\nWHERE n > 1 AND item ~ 'x'", "(line 3, column 17)"),
                        ("SELECT id FROM orders LIMIT 1, 2", "(line 1, column 23)")):
        with pytest.raises(ApiFailure) as failed:
            data.compiler.compile(text, NAMED)
        assert place in failed.value.message, failed.value.message


def test_an_unknown_column_or_table_names_those_that_exist_for_the_plugin(data: Data) -> None:
    with pytest.raises(ApiFailure) as failed:
        data.query("SELECT nothing FROM orders o JOIN users u ON TRUE")
    assert failed.value.code == "column_not_allowed"
    assert "orders(id, user_id, item, total, n), users(id, name, email)" in failed.value.message
    assert "password" not in failed.value.message
    with pytest.raises(ApiFailure, match="visible: notes, orders") as failed:
        data.query("SELECT 1 FROM nowhere", named=("orders", "notes"))
    assert failed.value.code == "table_not_allowed"


def test_what_the_parser_misses_is_said_without_its_own_names(data: Data) -> None:
    for text in ("SELECT CAST(1 AS )", "SELECT CASE WHEN 1 END", "SELECT id FROM orders WHERE id IN",
                 "SELECT a BETWEEN 1", "SELECT extract(year created)", "SELECT position('a', 'b')", "SELECT x ->",
                 "SELECT 1 +"):
        with pytest.raises(ApiFailure) as failed:
            data.compiler.compile(text, NAMED)
        message = failed.value.message
        assert failed.value.code in ("sql_syntax", "sql_forbidden", "sql_not_on_sqlite"), message
        assert "class" not in message
        assert "Anonymous" not in message and "exp." not in message, message


MOMENTS = "CREATE TABLE moments (user_id uuid, stamp timestamptz, plain timestamp, day date, clock time, span interval)"


def test_moments_that_python_does_not_have_arrive_as_their_text_and_intervals_unchanged(postgres: Postgres) -> None:
    made = postgres_data(postgres, "moments")
    try:
        postgres.execute(
            MOMENTS, f"GRANT SELECT ON moments TO {ROLE}",
            f"ALTER ROLE {ROLE} IN DATABASE moments SET datestyle = 'SQL, DMY'",
            f"ALTER ROLE {ROLE} IN DATABASE moments SET intervalstyle = 'sql_standard'",
            *(f"INSERT INTO moments VALUES ('{A}', {', '.join(row)})" for row in (
                ("'infinity'", "'-infinity'", "'infinity'", "'24:00'", "'1 mon'"),
                ("'0044-03-15 12:00+00 BC'", "'0044-03-15 12:00 BC'", "'0044-03-15 BC'", "'23:59'",
                 "'-1 year 2 mons'"),
                ("'12026-01-02 00:00+00'", "'12026-01-02'", "'12026-01-02'", "NULL", "'1 day 02:03:04.5'"),
                ("'2026-01-02 03:04:05+00'", "'2026-01-02 03:04:05'", "'2026-01-02'", "'03:04:05'", "'3 days'"))),
            database="moments")
        made.show({"moments": {"owner": "user_id", "columns": ["stamp", "plain", "day", "clock", "span"]}})
        rows = [list(row.values()) for row in made.query("SELECT * FROM moments", named=("moments",))]
    finally:
        made.close()
    assert rows == [
        ["infinity", "-infinity", "infinity", "24:00:00", "1 mon"],
        ["0044-03-15 12:00:00+00 BC", "0044-03-15 12:00:00 BC", "0044-03-15 BC", "23:59:00", "-10 mons"],
        ["12026-01-02 00:00:00+00", "12026-01-02 00:00:00", "12026-01-02", None, "1 day 02:03:04.5"],
        [datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05", "2026-01-02", "03:04:05", "3 days"]]


LISTS: list[Any] = [
    ("text[]", ["a", "b,c", 'q"\\', "", "NULL", "{x}", " é", None]), ("text[]", []), ("int[]", [1, -2, 2**31 - 1]),
    ("uuid[]", [A]), ("boolean[]", [True, False]), ("real[]", [0.5, 0.25]), ("jsonb", [1, {"a": [2]}]),
    ("text[]", [["a", "b"], ["c", "d"]])]


@pytest.mark.parametrize(("kind", "value"), LISTS)
def test_a_list_is_written_to_a_column_of_lists_and_read_as_it_was(data: Data, kind: str, value: Any) -> None:
    data.execute(f"CREATE TABLE listed (id int, user_id uuid, tags {kind})")
    try:
        if data.backend.backend == "postgres":
            data.execute(f"GRANT SELECT, INSERT, UPDATE ON listed TO {ROLE}")
        data.show({"listed": {"owner": "user_id", "columns": ["id", "tags"], "write": True}})
        assert data.write(Insert("listed", {"id": 1, "tags": None}), named=("listed",))[0] == 1
        data.write(Update("listed", {"tags": value}, {"id": 1}), named=("listed",))
        data.write(Insert("listed", {"id": 2, "tags": value}), named=("listed",))
        assert data.query("SELECT tags FROM listed", named=("listed",)) == [{"tags": value}] * 2
    finally:
        data.show({})
        data.execute("DROP TABLE listed")


def test_a_column_of_lists_of_numbers_gets_no_number_that_takes_long_to_reckon_with(postgres: Postgres) -> None:
    made = postgres_data(postgres, "listed")
    try:
        made.execute("CREATE TABLE listed (id int, user_id uuid, n numeric[])")
        made.execute(f"GRANT SELECT, INSERT, UPDATE ON listed TO {ROLE}")
        made.show({"listed": {"owner": "user_id", "columns": ["id", "n"], "write": True}})
        assert made.write(Insert("listed", {"id": 1, "n": ["9" * 1000, 1.5, None]}), named=("listed",))[0] == 1
        for long in (["1", "9" * 1001], [["1e9999"]], "{1," + "9" * 1001 + "}", "[1:1]={1E+0009}", ["1e+9999"]):
            with pytest.raises(ApiFailure) as failed:
                made.write(Insert("listed", {"id": 2, "n": long}), named=("listed",))
            assert failed.value.code == "sql_parameters"
    finally:
        made.close()
