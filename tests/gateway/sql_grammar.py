"""Makes SELECTs from a seed: most of them well formed and typed, now and then with a hostile piece somewhere."""

from __future__ import annotations

import random
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
    "json_each('[]')", "(users CROSS JOIN orders)", '"Users"', "pragma_table_info('secrets')"]
ODD_VALUES = [
    "set_config('request.jwt.claims', '{}', false)", "current_setting('x', true)", "version()", "pg_sleep(0)",
    "query_to_xml('SELECT * FROM secrets', true, true, '')", "'secrets'::regclass", "load_extension('x')",
    "(SELECT word FROM secrets LIMIT 1)", "lo_import('/etc/passwd')", "row_to_json(users)", "nextval('s')", "random()",
    "(users).password", "ARRAY(SELECT word FROM secrets)", "string_agg(item, ',')", "sqlite_version()", "E'\\x41'",
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
<@ && ||/ ^ int text uuid regclass jsonb numeric double precision varchar character varying timestamptz""".split()
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
                lambda: self.literal("num"))()
        if kind == "text":
            return self.pick(
                lambda: f"lower({v('text')})", lambda: f"upper({v('text')})",
                lambda: f"({v('text')} || {v('text')})", lambda: f"CAST({v('num')} AS text)",
                lambda: f"CAST({v('uuid')} AS text)",
                lambda: f"substr({v('text')}, {self.random.randint(1, 3)})",
                lambda: f"nullif({v('text')}, {v('text')})",
                lambda: self.literal("text"))()
        if kind == "uuid":
            return self.literal("uuid")
        return self.pick(
            lambda: f"{v('num')} {self.pick(*COMPARE)} {v('num')}", lambda: f"{v('text')} = {v('text')}",
            lambda: f"{v('uuid')} = {v('uuid')}", lambda: f"{v('text')} {self.pick('LIKE', 'ILIKE')} {self.pattern()}",
            lambda: f"({v('bool')} {self.pick('AND', 'OR')} {v('bool')})", lambda: f"NOT ({v('bool')})",
            lambda: f"{v('num')} IN ({v('num')}, {v('num')})", lambda: f"{v('text')} IS {self.pick('', 'NOT ')}NULL",
            lambda: f"{v('num')} BETWEEN {v('num')} AND {v('num')}",
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
            items, columns = [f"count(*) AS k0, {self.pick('sum', 'min', 'max', 'avg', 'count')}({number}) AS k1"], {
                "k0": "num", "k1": "num"}
        text += f"SELECT {self.pick('', '', 'DISTINCT ')}{', '.join(items)} FROM {froms}"
        if self.random.random() < 0.6:
            text += f" WHERE {self.value('bool', seen, depth)}"
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
