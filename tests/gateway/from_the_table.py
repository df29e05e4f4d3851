"""Statements made from ``allowed``'s one table, and rows of every kind of value to run them on. Used by
``test_one_behaviour``.

Each statement uses a function of the table, an operator, a cast or a clause on columns of every type: mostly of the
type that it takes, now and then of another. Every result has an order, so that two databases are compared row by row.
"""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from typing import Any

from apex_exec.gateway.sql.allowed import FORMS, TYPES, UNITS, Form
from tests.gateway.conftest import A, B

COLUMNS = {
    "small": ("smallint", "int"), "n": ("integer", "int"), "m": ("integer", "int"), "big": ("bigint", "int"),
    "total": ("numeric(10,2)", "num"), "rate": ("numeric(7,3)", "num"), "x": ("double precision", "float"),
    "y": ("double precision", "float"), "word": ("text", "text"), "name": ("varchar(40)", "text"),
    "digits": ("text", "digits"), "key": ("uuid", "uuid"), "ok": ("boolean", "bool"), "no": ("boolean", "bool"),
    "day": ("date", "date"), "other_day": ("date", "date"), "at": ("timestamptz", "stamp"),
    "until": ("timestamptz", "stamp"), "props": ("jsonb", "json"), "tags": ("text[]", "array"),
}
SCHEMA = [f"CREATE TABLE facts (id integer PRIMARY KEY, user_id uuid NOT NULL, g integer NOT NULL, "
          f"{', '.join(f'{name} {kind}' for name, (kind, _) in COLUMNS.items())})",
          "CREATE TABLE more (id integer PRIMARY KEY, user_id uuid NOT NULL, fact integer, label text, v integer)"]
TABLES = {"facts": {"owner": "user_id", "columns": ["id", "g", *COLUMNS]},
          "more": {"owner": "user_id", "columns": ["id", "fact", "label", "v"]}}
WORDS = ["", "a", "Zebra", "äpfel", "ÄPFEL", "straße", "İstanbul", "ΣΑΣ", "it's", "x%y", "under_score", "back\\slash",
         " padded ", "null", "one two three", "a,b,,c", "日本語", "MiXeD cAsE", "e\u0301", "tab\there"]
DIGITS = ["0", "7", "-12", "3.50", "007", "1e3", " 5 ", "9999999999", "2.5"]
MOMENTS = [datetime(2026, 1, 31, 23, 59, 59, 999999, UTC), datetime(2024, 2, 29, tzinfo=UTC),
           datetime(1999, 12, 31, 12, 30, tzinfo=UTC), datetime(2026, 3, 29, 1, 30, 15, 250000, UTC)]
DAYS = [date(2026, 1, 31), date(2024, 2, 29), date(1999, 12, 31), date(2021, 1, 3), date(2020, 12, 28)]


def rows() -> list[tuple[str, list[Any]]]:
    """(table, values) of forty facts of A and five of B, the same each time."""
    rng, made = random.Random(21), []

    def maybe(value: Any) -> Any:
        return None if rng.random() < 0.12 else value

    for number in range(1, 46):
        moment = rng.choice(MOMENTS) + timedelta(hours=rng.randint(-500, 500))
        later = rng.choice(MOMENTS) + timedelta(days=rng.randint(0, 300), seconds=rng.randint(0, 9999))
        cents = rng.choice([0, 1, 250, -995, 123456, 99999999, rng.randint(-10**6, 10**6)])
        mills = rng.randint(-9999, 9999)
        made.append(("facts", [
            number, A if number <= 40 else B, rng.randint(1, 4), maybe(rng.choice([0, 1, -7, 32767, 12])),
            maybe(rng.randint(-20, 20)), maybe(rng.choice([0, 1, 2, 3, -5, 1000, 46341])),
            maybe(rng.choice([0, 5, -3, 2**40, 9007199254740993, 12345678901])),
            maybe(f"{cents / 100:.2f}"), maybe(f"{mills / 1000:.3f}"),
            maybe(rng.choice([0.0, -0.5, 1.5, 2.5, 3.14159, 1e20, 0.1, rng.uniform(-9, 9)])),
            maybe(rng.choice([2.0, 0.25, -1.0, 100.0, rng.uniform(0, 1)])), maybe(rng.choice(WORDS)),
            maybe(rng.choice(WORDS)), maybe(rng.choice(DIGITS)), maybe(rng.choice([A, B, B.replace("b", "c")])),
            maybe(rng.random() < 0.5), maybe(rng.random() < 0.5), maybe(rng.choice(DAYS)), maybe(rng.choice(DAYS)),
            maybe(moment), maybe(later), maybe({"a": rng.randint(0, 3), "b": [1, "x", None]}),
            maybe(rng.choice([[], ["red"], ["red", "blue"]]))]))
    for number in range(1, 31):
        made.append(("more", [number, A if number <= 25 else B, rng.randint(1, 45), maybe(rng.choice(WORDS)),
                              maybe(rng.randint(0, 9))]))
    return made


KINDS = ["int", "num", "float", "text", "bool", "date", "stamp", "uuid", "digits"]
NUMBERS = ["int", "int", "num", "float"]
COMPARE = ["=", "<>", "<", ">", "<=", ">=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"]
FORMATS = ["YYYY-MM-DD", "YYYY", "HH24:MI:SS", "IYYY-IW", "DD.MM.YYYY", "Q", "Day", "YY", "Mon", "999.99", "MM/DD",
           "FMMM"]
CASTS = {"int": ["int", "bigint", "smallint", "double precision", "text", "numeric", "numeric(12,2)", "boolean"],
         "num": ["double precision", "int", "text", "numeric(12,1)", "numeric"],
         "float": ["numeric", "text", "int", "real"], "text": ["text", "varchar", "varchar(3)", "char(4)"],
         "digits": ["int", "numeric", "double precision", "bigint"],
         "date": ["text", "timestamptz", "timestamp", "date"], "stamp": ["date", "text", "timestamp", "time"],
         "bool": ["int", "text", "boolean"], "uuid": ["text", "uuid"]}


class Statement:
    """One statement from a seed: ``text`` and ``params``."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.params: list[Any] = []
        self.text = self._made()

    def pick(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def _made(self) -> str:
        shape = self.random.random()
        if shape < 0.5:
            return self._rows()
        if shape < 0.7:
            return self._groups()
        if shape < 0.82:
            return self._window()
        return self._clauses()

    # ------------------------------------------------------------------ values
    def value(self, kind: str, depth: int = 1) -> str:
        """An expression of this kind (see COLUMNS), or now and then of another."""
        if self.random.random() < 0.04:
            kind = self.pick(*KINDS)
        if depth <= 0 or self.random.random() < 0.3:
            return self.leaf(kind)
        return str(self.pick(*self._computed(kind, depth))())

    def leaf(self, kind: str) -> str:
        if self.random.random() < 0.7 or kind in ("json", "array"):
            return self.pick(*(name for name, (_, of) in COLUMNS.items() if of == kind))
        return self.literal(kind)

    def literal(self, kind: str) -> str:
        """A parameter or a literal."""
        if self.random.random() < 0.3:
            self.params.append({"int": self.random.randint(-9, 9), "num": "2.50", "float": 1.25,
                                "text": self.pick(*WORDS), "digits": self.pick(*DIGITS), "uuid": A, "bool": True,
                                "date": "2026-01-31", "stamp": self.pick(*MOMENTS)}[kind])
            return f"${len(self.params)}"
        if kind in ("text", "digits"):
            chosen = self.pick(*(WORDS if kind == "text" else DIGITS)).replace("'", "''")
            return f"'{chosen}'"
        return str({"int": self.random.randint(-9, 9), "num": self.pick("2.5", "0.10", "1.005", "-3.75"),
                    "float": "CAST(1.25 AS double precision)", "uuid": f"CAST('{A}' AS uuid)",
                    "bool": self.pick("TRUE", "FALSE"), "date": "DATE '2026-01-31'",
                    "stamp": "TIMESTAMPTZ '2026-01-31 23:59:59+00:00'"}[kind])

    def _computed(self, kind: str, depth: int) -> list[Any]:
        def v(of: str) -> str:
            return self.value(of, depth - 1)

        made: list[Any] = [lambda: self.call(self.pick(*FORMS.values()), depth),
                           lambda: f"CASE WHEN {v('bool')} THEN {v(kind)} ELSE {v(kind)} END",
                           lambda: f"coalesce({v(kind)}, {v(kind)})", lambda: f"nullif({v(kind)}, {v(kind)})",
                           lambda: f"({v(kind)})"]
        if kind in ("int", "num", "float"):
            made += [lambda: f"({v(kind)} {self.pick(*'+-*/%')} {v(self.pick('int', kind))})",
                     lambda: f"(- {v(kind)})", lambda: f"CAST({v(kind)} AS {self.pick(*CASTS[kind])})"] * 2
        if kind == "text":
            made += [lambda: f"({v('text')} || {v(self.pick('text', 'text', 'int'))})",
                     lambda: f"CAST({v(of := self.pick(*CASTS))} AS {self.pick('text', *CASTS[of])})"]
        if kind == "bool":
            made += [lambda: f"({v(of := self.pick(*KINDS))} {self.pick(*COMPARE)} {v(of)})",
                     lambda: f"({v('bool')} {self.pick('AND', 'OR')} {v('bool')})", lambda: f"(NOT {v('bool')})",
                     lambda: f"({v(self.pick(*KINDS))} IS {self.pick('', 'NOT ')}NULL)",
                     lambda: f"({v('bool')} IS {self.pick('', 'NOT ')}{self.pick('TRUE', 'FALSE')})",
                     lambda: f"({v(of := self.pick(*KINDS))} BETWEEN {v(of)} AND {v(of)})",
                     lambda: f"({v(of := self.pick(*KINDS))} {self.pick('', 'NOT ')}IN ({v(of)}, {v(of)}))",
                     lambda: f"({v('text')} {self.pick('LIKE', 'NOT LIKE', 'ILIKE')} {self.pattern()})",
                     lambda: f"(({v('int')}, {v('text')}) {self.pick('<', '=', '>=')} ({v('int')}, {v('text')}))",
                     lambda: f"({v('int')} {self.pick('= ANY', '<> ALL')} ({self.listed()}))"]
        if kind in ("date", "stamp"):
            made += [lambda: f"CAST({v(self.pick('date', 'stamp'))} AS {self.pick('date', 'timestamptz')})",
                     lambda: f"({v(kind)} {self.pick('+', '-')} INTERVAL '1 day')"]
        if kind == "date":
            made.append(lambda: f"({v('date')} {self.pick('+', '-')} {v('int')})")
        return made

    def pattern(self) -> str:
        return str(self.pick("'%a%'", "'Z%'", "'_'", "'%\\%%'", "'%''%'", "''", "'%ß%'", "'A%' ESCAPE '!'"))

    def listed(self) -> str:
        self.params.append([self.random.randint(-5, 9) for _ in range(3)] + [None] * self.pick(0, 0, 1))
        return f"${len(self.params)}"

    def call(self, form: Form, depth: int) -> str:
        """A call of any function of the table that is a value; others come in ``_groups`` and ``_window``."""
        if form.kind != "value":
            return self.leaf("int")
        return f"{form.name}({self.arguments(form, depth)})" if form.name != "extract" else (
            f"extract({self.pick(*sorted(UNITS), 'year', 'month', 'epoch')} FROM "
            f"{self.value(self.pick('date', 'stamp'), depth - 1)})")

    def arguments(self, form: Form, depth: int) -> str:
        count = self.random.randint(form.least, min(form.most, form.least + 2))
        if self.random.random() < 0.02:
            count += 1
        same = self.pick(*KINDS)
        given = [self.argument(form.word(number), depth, same) for number in range(count)]
        if form.name == "position":
            return f"{given[1]} IN {given[0]}" if count > 1 else given[0]
        return ", ".join(given)

    def argument(self, word: str, depth: int, same: str) -> str:
        literal = {"count": lambda: str(self.random.randint(0, 12)),
                   "unit": lambda: f"'{self.pick(*UNITS, 'day', 'week')}'",
                   "format": lambda: f"'{self.pick(*FORMATS)}'", "interval": lambda: "INTERVAL '15 minutes'",
                   "constant": lambda: self.pick("'a'", "' '", "','", "''", "'ß'", "'xy'", "NULL")}
        if word in literal:
            return str(literal[word]())
        kind = {"number": self.pick(*NUMBERS), "text": "text", "time": self.pick("date", "stamp"), "condition": "bool",
                "value": same, "json": "json", "array": "array", "bytes": "text"}.get(word, same)
        return self.value(kind, depth - 1)

    # ------------------------------------------------------------------ statements
    def where(self, chance: float = 0.4) -> str:
        return f" WHERE {self.value('bool', 2)}" if self.random.random() < chance else ""

    def _rows(self) -> str:
        form = self.pick(*(form for form in FORMS.values() if form.kind == "value"))
        first = self.call(form, 2) if self.random.random() < 0.6 else self.value(self.pick(*KINDS), 3)
        second = f", {self.value(self.pick(*KINDS), 1)} AS e2" if self.random.random() < 0.3 else ""
        return f"SELECT id, {first} AS e1{second} FROM facts{self.where()} ORDER BY id"

    def _groups(self) -> str:
        form = self.pick(*(form for form in FORMS.values() if form.kind in ("aggregate", "kept", "ordered")))
        called = f"{form.name}({self.arguments(form, 2)})"
        if form.kind == "ordered":
            called = f"{form.name}({'0.5' if form.arguments else ''}) WITHIN GROUP (ORDER BY {self.value('int')})"
        elif form.kind == "kept":
            called = f"{called[:-1]} ORDER BY id)"
        elif self.random.random() < 0.15 and form.least == 1:
            called = called.replace("(", "(DISTINCT ", 1)
        if self.random.random() < 0.2:
            called += f" FILTER (WHERE {self.value('bool')})"
        key = self.pick("g", "g", "ok", "day", "word", self.value(self.pick(*KINDS), 1))
        having = f" HAVING count(*) > {self.random.randint(0, 4)}" if self.random.random() < 0.2 else ""
        return (f"SELECT {key} AS k, count(*) AS c, {called} AS e1 FROM facts{self.where(0.3)} GROUP BY {key}{having} "
                f"ORDER BY k")

    def _window(self) -> str:
        form = self.pick(*(form for form in FORMS.values() if form.kind in ("aggregate", "window")))
        frame = self.pick("", "", " ROWS BETWEEN 2 PRECEDING AND CURRENT ROW", " GROUPS UNBOUNDED PRECEDING",
                          " ROWS BETWEEN 1 FOLLOWING AND 3 FOLLOWING", " RANGE UNBOUNDED PRECEDING")
        partition = self.pick("", "PARTITION BY g ", "PARTITION BY ok ")
        return (f"SELECT id, {form.name}({self.arguments(form, 2)}) OVER ({partition}ORDER BY id{frame}) AS e1 FROM "
                f"facts{self.where(0.2)} ORDER BY id")

    def _clauses(self) -> str:
        def v(kind: str) -> str:
            return self.value(kind, 1)

        kind = self.pick(*KINDS)
        return str(self.pick(
            lambda: f"SELECT DISTINCT {v(kind)} AS e1 FROM facts{self.where()} ORDER BY e1 {self.pick('', 'DESC')}",
            lambda: f"SELECT id, {v(kind)} AS e1 FROM facts ORDER BY {v(kind)} "
                    f"{self.pick('', 'DESC', 'NULLS FIRST')}, id LIMIT {self.random.randint(0, 9)} "
                    f"OFFSET {self.random.randint(0, 5)}",
            lambda: f"SELECT f.id, m.id AS i2, {v('int')} AS e1, m.label FROM facts f "
                    f"{self.pick('LEFT', 'RIGHT', 'FULL', '')} JOIN more m ON m.fact = f.id"
                    f"{' AND m.v > f.n' * self.pick(0, 1)} ORDER BY f.id, m.id",
            lambda: f"SELECT {v(kind)} AS e1 FROM facts {self.pick('UNION', 'UNION ALL', 'INTERSECT', 'EXCEPT')} "
                    f"SELECT {v(kind)} FROM facts{self.where()} ORDER BY 1",
            lambda: f"WITH q AS (SELECT g, {v(kind)} AS e1 FROM facts{self.where()}) SELECT g, count(e1) AS c, "
                    "max(e1) AS top FROM q GROUP BY g ORDER BY g",
            lambda: f"SELECT id, (SELECT max({v(kind)}) FROM facts) AS e1 FROM more ORDER BY id",
            lambda: f"SELECT id, (SELECT count(*) FROM more m WHERE m.fact = f.id) AS c, {v(kind)} AS e1 FROM facts f "
                    f"WHERE {self.pick('', 'NOT ')}EXISTS (SELECT 1 FROM more m WHERE m.v = f.n) ORDER BY id",
            lambda: f"SELECT column1, column2 FROM (VALUES ({self.literal('int')}, 'x'), (2, "
                    f"{self.literal('text')})) v ORDER BY 1, 2",
            lambda: f"SELECT q.e1, count(*) AS c FROM (SELECT {v(kind)} AS e1 FROM facts) q GROUP BY q.e1 "
                    "ORDER BY q.e1",
            lambda: f"SELECT id FROM facts WHERE {v('int')} IN (SELECT v FROM more) ORDER BY id",
            lambda: f"SELECT id, CAST({v(kind)} AS {self.pick(*(one.name for one in TYPES.values()))}) AS e1 "
                    "FROM facts ORDER BY id")())
