"""Makes SELECTs from a seed: most of them well formed and typed, now and then with a hostile piece somewhere."""

from __future__ import annotations

import random
import re
from typing import Any

from tests.gateway.conftest import A, B

TABLES = {
    "users": {"id": "uuid", "name": "text", "email": "text"},
    "orders": {"id": "num", "user_id": "uuid", "item": "text", "total": "num", "n": "num"},
    "notes": {"id": "num", "text": "text", "tag": "text"},
}
ODD_COLUMNS = ["password", "ctid", "rowid", "xmin", "users", "o", '"ID"', "word", "__1", '"a""b"', "current_user",
               "oid", "_rowid_", "tableoid", "users.users", "secrets.word", "pg_user.usename"]
ODD_SOURCES = [
    "secrets", "pg_user", "sqlite_master", "public.users", "main.users", "pg_catalog.pg_class", "apex_exec_outbox",
    "generate_series(1,3) g", "LATERAL (SELECT * FROM orders) l", "pg_read_file('/etc/passwd') f", "ONLY users",
    "information_schema.columns", "users TABLESAMPLE SYSTEM (100)", "(VALUES (1)) v", "users AS u(a,b,c)",
    "LATERAL (SELECT * FROM secrets) l", "unnest(ARRAY(SELECT word FROM secrets)) u", "ROWS FROM (now()) r",
    "jsonb_each((SELECT to_jsonb(s) FROM secrets s)) e", "generate_series(1, (SELECT count(*) FROM secrets)) g",
    "jsonb_to_recordset('[]') AS x(a int)", "pg_ls_dir('.') AS d(x)", "json_populate_recordset(null::users, '[]') x",
    "json_each('[]')", "(users CROSS JOIN orders)", '"Users"', "pragma_table_info('secrets')"]
ODD_VALUES = [
    "set_config('request.jwt.claims', '{}', false)", "current_setting('x', true)", "version()", "pg_sleep(0)",
    "query_to_xml('SELECT * FROM secrets', true, true, '')", "'secrets'::regclass", "load_extension('x')",
    "(SELECT word FROM secrets LIMIT 1)", "lo_import('/etc/passwd')", "row_to_json(users)", "nextval('s')", "random()",
    "(users).password", "ARRAY(SELECT word FROM secrets)", "string_agg(item, ',')", "sqlite_version()", "E'\\x41'",
    "set_config('apex_exec.held', '0', true)", "pg_advisory_lock(1)", "lo_get(1)", "pg_ls_dir('.')", "to_jsonb(users)",
    "jsonb_agg(users)", "array_agg(users)", "ROW(users.*)", "ARRAY[users]", "(ARRAY[users])[1]", "users -> 'password'",
    "jsonb_build_object('a', users)", "coalesce(users)", "users IS DISTINCT FROM users", "lag(users) OVER ()",
    "pg_catalog.pg_sleep(0)", "'secrets'::regclass::text", "(users, 1) = (users, 1)", "1 = ANY (SELECT 1 FROM secrets)",
    "changes()", "last_insert_rowid()", "dblink('x', 'y')", "pg_terminate_backend(1)", "'1'::xml", "users.*::text"]
ODD_TAILS = [" FOR UPDATE", "; DELETE FROM notes", " -- x", " /* x */", "; COMMIT", " INTO stolen", " FOR SHARE",
             " UNION SELECT word FROM secrets", " LIMIT 1; DROP TABLE notes", ")", "'", " OFFSET 0", " LIMIT ALL"]
ODD_WRAPS = ["WITH d AS (DELETE FROM notes RETURNING *) {}", "EXPLAIN ANALYZE {}", "CREATE TABLE stolen AS {}",
             "INSERT INTO notes (id) {}", "COPY ({}) TO '/tmp/x'", "DECLARE c CURSOR FOR {}", "PREPARE p AS {}",
             "WITH RECURSIVE r AS ({}) SELECT * FROM r"]
SOUP = """SELECT FROM WHERE GROUP BY ORDER HAVING LIMIT OFFSET WITH AS ( ) , . * + - / % || = < > <= <> != ~ :: : ; @ #
? $1 $2 AND OR NOT IN EXISTS BETWEEN LIKE ILIKE IS NULL TRUE FALSE CASE WHEN THEN ELSE END CAST UNION ALL
EXCEPT INTERSECT DISTINCT ON USING JOIN LEFT RIGHT FULL OUTER CROSS NATURAL LATERAL VALUES ARRAY ROW INTERVAL
DATE TIMESTAMP EXTRACT OVER PARTITION ROWS RANGE FILTER WITHIN FOR UPDATE SHARE INTO TABLE ONLY TABLESAMPLE
RECURSIVE MATERIALIZED RETURNING INSERT DELETE SET DEFAULT COLLATE AT TIME ZONE ESCAPE SIMILAR TO ANY SOME
UNNEST GENERATE_SERIES COALESCE NULLIF COUNT SUM MIN MAX LOWER SUBSTRING TRIM POSITION OVERLAY ROUND users
orders notes id name n x y "x" 'x' 'it''s' 1 2.5 1e9 E'x' $$x$$ U&'x' B'1' X'1f' -- /* */ [ ] { } -> ->> #> @>
<@ && ||/ ^ lag( lead( ntile( string_agg( array_agg( unnest( date_trunc( now() to_char( jsonb_agg( -> ->> WITHIN
extract(year percentile_cont(0.5) FETCH FIRST ROW ONLY TIES ROLLUP CUBE GROUPING SETS WINDOW GROUPS PRECEDING EXCLUDE
ORDINALITY ARRAY[ ]::int[] ::jsonb ::interval ANY( repeat( concat( coalesce( E'\n' AT ZONE ?| ?& int
text uuid regclass jsonb numeric double precision varchar character varying timestamptz""".split()
COMPARE = ["=", "<>", "<", ">", "<=", ">="]


class Maker:
    """One text. ``visible`` are the sources of the query being made: alias → column → type."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.odd = self.random.random() < 0.4
        """Whether this text may have a hostile piece."""
        self.params: list[Any] = []
        self.aliases = 0

    def rare(self) -> bool:
        return self.odd and self.random.random() < 0.05

    def pick(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    # ------------------------------------------------------------------ values by type
    def value(self, kind: str, scope: dict[str, dict[str, str]], depth: int) -> str:
        if self.rare():
            return self.pick(*ODD_VALUES, *ODD_COLUMNS)
        columns = [(alias, name) for alias, named in scope.items() for name, type_ in named.items() if type_ == kind]
        if columns and self.random.random() < 0.6 or not depth and columns:
            alias, name = self.pick(*columns)
            return name if self.random.random() < 0.1 else f"{alias}.{name}"
        if depth <= 0:
            return self.literal(kind)
        v = lambda of: self.value(of, scope, depth - 1)  # noqa: E731 - a short name for a short page
        if kind == "num":
            return self.pick(
                lambda: f"({v('num')} {self.pick('+', '-', '*')} {v('num')})", lambda: f"({v('num')} / {v('num')})",
                lambda: f"(10 / ({v('num')} - {self.random.randint(0, 9)}))", lambda: f"length({v('text')})",
                lambda: f"abs({v('num')})", lambda: f"coalesce({v('num')}, {v('num')})",
                lambda: f"CASE WHEN {v('bool')} THEN {v('num')} ELSE {v('num')} END",
                lambda: f"CAST(substr({v('text')}, {self.random.randint(1, 8)}) AS int)",
                lambda: f"(SELECT count(*) FROM {self.table()} {self.fresh()})",
                lambda: f"greatest({v('num')}, {v('num')})", lambda: f"mod({v('num')}, 3)",
                lambda: f"strpos({v('text')}, 'e')", lambda: f"cardinality(ARRAY[{v('num')}, {v('num')}])",
                lambda: f"(ARRAY[{v('num')}, {v('num')}])[{self.random.randint(1, 3)}]",
                lambda: f"(jsonb_build_object('a', {v('num')}) ->> 'a')::numeric::int",
                lambda: f"extract(year FROM make_date(2026, 1, 1) + mod({v('num')}, 90))::int",
                lambda: f"(SELECT count(*) FROM generate_series(1, mod({v('num')}, 20)) {self.fresh()})",
                lambda: self.literal("num"))()
        if kind == "text":
            return self.pick(
                lambda: f"lower({v('text')})", lambda: f"upper({v('text')})",
                lambda: f"({v('text')} || {v('text')})", lambda: f"CAST({v('num')} AS text)",
                lambda: f"CAST({v('uuid')} AS text)",
                lambda: f"substr({v('text')}, {self.random.randint(1, 3)})",
                lambda: f"nullif({v('text')}, {v('text')})",
                lambda: f"left({v('text')}, {self.random.randint(-3, 6)})",
                lambda: f"concat({v('text')}, '-', {v('text')})", lambda: f"replace({v('text')}, 'e', 'xy')",
                lambda: f"split_part({v('text')}, ' ', {self.random.randint(1, 2)})",
                lambda: f"trim(both 's' FROM {v('text')})", lambda: f"repeat({v('text')}, 2)",
                lambda: f"(to_jsonb({v('text')}) #>> '{{}}')", lambda: f"to_char({v('num')}, '999')",
                lambda: f"(SELECT string_agg(x.text, ',' ORDER BY x.id) FROM notes x WHERE x.id > {v('num')})",
                lambda: f"array_to_string(ARRAY[{v('text')}, {v('text')}], ',')",
                lambda: self.literal("text"))()
        if kind == "uuid":
            return self.literal("uuid")
        return self.pick(
            lambda: f"{v('num')} {self.pick(*COMPARE)} {v('num')}", lambda: f"{v('text')} = {v('text')}",
            lambda: f"{v('uuid')} = {v('uuid')}", lambda: f"{v('text')} {self.pick('LIKE', 'ILIKE')} {self.pattern()}",
            lambda: f"({v('bool')} {self.pick('AND', 'OR')} {v('bool')})", lambda: f"NOT ({v('bool')})",
            lambda: f"{v('num')} IN ({v('num')}, {v('num')})", lambda: f"{v('text')} IS {self.pick('', 'NOT ')}NULL",
            lambda: f"{v('num')} BETWEEN {v('num')} AND {v('num')}",
            lambda: f"{v('num')} {self.pick('= ANY', '<> ALL', '> ANY')} (ARRAY[{v('num')}, {v('num')}])",
            lambda: f"({v('num')}, {v('text')}) {self.pick('>', '=', '<=')} ({v('num')}, {v('text')})",
            lambda: f"{v('num')} IS {self.pick('', 'NOT ')}DISTINCT FROM {v('num')}",
            lambda: f"starts_with({v('text')}, 'SEC')",
            lambda: f"jsonb_build_object('k', {v('text')}) @> '{{\"k\": \"SECRET 1\"}}'",
            lambda: f"{v('num')} = ANY (SELECT id FROM {self.pick('orders', 'notes')})",
            lambda: f"{self.pick('', 'NOT ')}EXISTS ({self.select(depth - 1, scope)[0]})",
            lambda: f"{v('num')} IN (SELECT id FROM {self.pick('orders', 'notes')})")()

    def literal(self, kind: str) -> str:
        if kind == "num":
            return str(self.random.randint(-3, 9)).replace("-", "0 - ") if self.random.random() < 0.9 else "2.5"
        if kind == "uuid":
            return self.pick(f"CAST('{A}' AS uuid)", f"CAST('{B}' AS uuid)")
        if kind == "bool":
            return self.pick("TRUE", "FALSE", "1 = 1")
        if self.random.random() < 0.2:
            self.params.append(self.pick("SECRET 1", "item 2", "x' OR '1'='1", "%"))
            return f"CAST(${len(self.params)} AS text)"
        return self.pick("'x'", "'SECRET 1'", "'item 2'", "'it''s'", "'\\'", "'%_'")

    def plain(self, scope: dict[str, dict[str, str]]) -> str:
        """A comparison of a column with a value, as it may stand inside a fence."""
        alias, name = self.pick(*((alias, name) for alias, named in scope.items() for name in named))
        kind = scope[alias][name]
        column, value = f"{alias}.{name}", self.literal(kind).replace("0 - ", "-")
        if kind == "bool":
            return f"{column} = {value}"
        return str(self.pick(f"{column} {self.pick(*COMPARE)} {value}", f"{value} {self.pick(*COMPARE)} {column}",
                             f"{column} IS {self.pick('', 'NOT ')}NULL", f"{column} BETWEEN {value} AND {value}",
                             f"{column} IN ({value}, {self.literal(kind)})"))

    def pattern(self) -> str:
        return self.pick("'%'", "'SECRET%'", "'item _'", "'%''%'", "'%e%'")

    def table(self) -> str:
        return self.pick(*ODD_SOURCES) if self.rare() else self.pick(*TABLES)

    def fresh(self) -> str:
        self.aliases += 1
        return f'"A{self.aliases}"' if self.odd and self.random.random() < 0.3 else f"a{self.aliases}"

    # ------------------------------------------------------------------ queries
    def source(self, depth: int, ctes: dict[str, dict[str, str]], scope: dict[str, dict[str, str]]) -> str:
        alias = self.pick("users", "secrets", "notes", "pg_user") if self.random.random() < 0.05 else self.fresh()
        if alias in scope:
            alias = self.fresh()
        if depth and self.random.random() < 0.25:
            text, columns = self.select(depth - 1, {}, ctes)
            scope[alias] = columns
            return f"({text}) {alias}"
        if ctes and self.random.random() < 0.5:
            name = self.pick(*ctes)
            scope[alias] = ctes[name]
            return f"{name} AS {alias}"
        if self.rare():
            return str(self.pick(*ODD_SOURCES))
        if self.random.random() < 0.12:
            made, scope[alias] = self.pick(
                (f"generate_series(1, {self.random.randint(0, 4)}) AS {alias}(n)", {"n": "num"}),
                (f"unnest(ARRAY[1, 2, 3]) AS {alias}(n)", {"n": "num"}),
                (f"(VALUES (1, 'x'), (2, 'SECRET 1')) AS {alias}(n, t)", {"n": "num", "t": "text"}),
                (f"jsonb_array_elements_text('[\"x\", \"y\"]') AS {alias}(t)", {"t": "text"}),
                (f"LATERAL (SELECT id, item FROM orders ORDER BY id LIMIT 2) AS {alias}(n, t)",
                 {"n": "num", "t": "text"}))
            return str(made)
        name = self.pick(*TABLES)
        scope[alias] = ctes.get(name, TABLES[name])
        return f"{name} {alias}"

    def select(self, depth: int, outer: dict[str, dict[str, str]] | None = None,
               ctes: dict[str, dict[str, str]] | None = None) -> tuple[str, dict[str, str]]:
        ctes, outer, text = dict(ctes or {}), outer or {}, ""
        if depth and self.random.random() < 0.3:
            name = self.pick("c1", "orders", "secrets", "notes", "pg_user")
            body, columns = self.select(depth - 1, {}, ctes)
            ctes[name] = columns
            text = f"WITH {name} AS ({body}) "
            if self.random.random() < 0.3:
                ctes["tree"] = {"n": "num", "t": "text"}
                text = (f"WITH RECURSIVE {name} AS ({body}), tree(n, t) AS (SELECT id, item FROM orders WHERE id < 5 "
                        "UNION ALL SELECT o.id, o.item FROM orders o JOIN tree ON o.id = tree.n + 2) ")
        scope: dict[str, dict[str, str]] = {}
        froms = self.source(depth, ctes, scope)
        for _ in range(self.pick(0, 0, 0, 1, 1, 2)):
            before = {**outer, **scope}
            joined = self.source(depth, ctes, scope)
            froms += self.pick(f", {joined}", f" CROSS JOIN {joined}",
                               f" {self.pick('', 'LEFT ', 'INNER ')}JOIN {joined} ON "
                               f"{self.value('bool', {**before, **scope}, 1)}")
        seen = {**outer, **scope}
        columns: dict[str, str] = {}
        items = []
        if self.random.random() < 0.2 and len(scope) == 1:
            items, columns = ["*"], dict(next(iter(scope.values())))
        else:
            for number in range(self.random.randint(1, 3)):
                kind = self.pick("num", "num", "text", "uuid", "bool")
                items.append(f"{self.value(kind, seen, depth)} AS k{number}")
                columns[f"k{number}"] = kind
        aggregated = self.random.random() < 0.15
        if aggregated:
            number = self.value("num", scope or seen, 1)
            of = self.pick(*(f"{name}({number})" for name in ("sum", "min", "max", "avg", "count", "stddev")),
                           f"percentile_cont(0.5) WITHIN GROUP (ORDER BY {number})",
                           f"count({number}) FILTER (WHERE {number} > 2)", f"cardinality(array_agg({number}))",
                           f"length(string_agg({self.value('text', scope or seen, 1)}, ','))")
            items, columns = [f"count(*) AS k0, {of} AS k1"], {"k0": "num", "k1": "num"}
        elif items != ["*"] and self.random.random() < 0.2:
            number, other = self.value("num", scope or seen, 0), self.value("num", scope or seen, 0)
            over = self.pick("ORDER BY", f"PARTITION BY {other} ORDER BY")
            # nothing that depends on the order of rows that are equal: a planner may choose it
            frame = self.pick("", " GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW", " GROUPS UNBOUNDED PRECEDING")
            called = self.pick(f"count({other})", f"sum({other})", "rank()", "dense_rank()", "cume_dist()",
                               f"max({other}) FILTER (WHERE {number} > 1)")
            items.append(f"{called} OVER ({over} {number}{frame}) AS w")
            columns["w"] = "num"
        distinct = self.pick("", "", "DISTINCT ")
        text += f"SELECT {distinct}{', '.join(items)} FROM {froms}"
        conditions = [self.value("bool", seen, depth)] if self.random.random() < 0.5 else []
        conditions += [self.plain(scope) for _ in range(self.pick(0, 0, 1, 2)) if scope]
        if conditions:
            text += f" WHERE {' AND '.join(conditions)}"
        if (not aggregated and not distinct and len(scope) == 1 and "id" in next(iter(scope.values()))
                and self.random.random() < 0.3):
            return f"{text} ORDER BY {next(iter(scope))}.id {self.pick('', 'DESC')} LIMIT {self.pick(1, 2, 3)}", columns
        if not aggregated and columns and self.random.random() < 0.2:
            text += " ORDER BY 1"
        if depth and "ORDER BY 1" not in text[-12:] and self.random.random() < 0.1 and columns and items != ["*"]:
            text += f" {self.pick('UNION', 'UNION ALL', 'EXCEPT', 'INTERSECT')} {text[text.rindex('SELECT'):]}" if (
                text.count("SELECT") == 1) else ""
        return text, columns

    def text(self) -> str:
        text, _ = self.select(2)
        if self.rare():
            text += self.pick(*ODD_TAILS)
        if self.rare():
            text = self.pick(*ODD_WRAPS).format(text)
        return text


def moved(rng: random.Random, text: str) -> str:
    """``text`` with a few pieces replaced, moved or left out."""
    words = text.split(" ")
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(words))
        piece = words[rng.randrange(len(words)) :][:4]
        words[at : at + rng.randint(0, 2)] = rng.choice([[rng.choice(SOUP)], piece, []])
        words = words or ["SELECT"]
    return " ".join(words)


def with_schemas(rng: random.Random, text: str) -> str:
    """``text`` with a schema before most of the tables that it reads."""
    return re.sub(r"\b(FROM|JOIN|,) (orders|notes)\b",
                  lambda found: f"{found[1]} {'app.' * (rng.random() < 0.9)}{found[2]}", text)
