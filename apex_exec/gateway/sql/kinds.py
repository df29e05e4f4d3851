"""What kind of value an expression has on SQLite, and what would differ from PostgreSQL there, which is refused.

SQLite itself has five kinds of values. A column's kind is that of its declared type. Where PostgreSQL computes by the
type (days between two moments, a quotient of numerics, a boolean as text), SQLite computes by whatever is stored, and
the answer would differ without a word.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sqlglot import exp

from apex_exec.common.sqlite import open_readonly
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.allowed import FORMS
from apex_exec.gateway.sql.dialect import OPERATOR
from apex_exec.gateway.sql.sqlite_moments import OF_DAYS
from apex_exec.gateway.sql.tables import Table

Kinds = Mapping[str, Mapping[str, str]]
"""Table → column → kind. Kinds are int, num (numeric), real (a number with a fraction), float, text, uuid, bool, date,
stamp (timestamptz), time (other moments), json, array and bytes; no kind is known for anything else."""
_DECLARED = {
    "int": "SMALLINT INT INTEGER BIGINT INT2 INT4 INT8", "num": "NUMERIC DECIMAL", "float": "REAL FLOAT DOUBLE",
    "text": "TEXT VARCHAR CHARACTER CHAR", "uuid": "UUID", "bool": "BOOLEAN BOOL", "date": "DATE",
    "stamp": "TIMESTAMPTZ", "time": "TIMESTAMP TIME", "json": "JSON JSONB", "bytes": "BYTEA BLOB"}
_KIND = {word: kind for kind, words in _DECLARED.items() for word in words.split()}
ANY_VALUE, LITERALS_ONLY = "values", "literals"
"""The values that a column may be compared with inside a fence. PostgreSQL makes a numeric a double precision for a
parameter that is one, and fails at 1e400: such a column is compared with literals only."""
_PLAIN, _SHADOW, _KEPT = 0, 1, 3
"""What ``table_xinfo`` says of a column: it is stored; it is a virtual table's own; it is computed when written."""
MOMENTS = frozenset({"date", "stamp", "time"})
_NOT_AS_TEXT = frozenset({"bool", "num", "real", "float", "stamp", "time", "json", "array", "bytes"})
_STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{6})?\+00:00")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ)
_TRUTHS = (exp.Predicate, exp.Connector, exp.Not, exp.Boolean, exp.Exists, exp.NullSafeEQ, exp.NullSafeNEQ, exp.Escape)
_TEXT_COSTS = frozenset("letters cut needle replace repeat pad texts joined hash format twice".split())
_OF_MOMENTS = {"date_trunc": "stamp", "extract": "num", "date_part": "float", "to_char": "text"}
_T = exp.DataType.Type


class Declared(NamedTuple):
    """What a SQLite database says of its tables, by the table's name."""

    kinds: dict[str, dict[str, str]]
    """The kinds of its columns."""
    shapes: dict[str, dict[str, str]]
    """The columns that a table stores (a view and some columns compute): see ``inside``."""


def declared(path: str, tables: Mapping[str, Table]) -> Declared:
    """The tables of the database ``path``, as they are declared now; nothing of what cannot be read."""
    found = Declared({}, {})
    with contextlib.suppress(sqlite3.Error, OSError):
        database = open_readonly(Path(path), busy_seconds=1)
        try:
            stored = {name for name, in database.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0")}
            for name in tables:
                rows = database.execute(f'PRAGMA table_xinfo("{name}")').fetchall()
                found.kinds[name] = {row[1]: _kind(str(row[2])) for row in rows if row[6] != _SHADOW}
                if name in stored:
                    found.shapes[name] = {row[1]: ANY_VALUE for row in rows if row[6] in (_PLAIN, _KEPT)}
        finally:
            database.close()
    return found


def _kind(type_: str) -> str:
    if type_.endswith("[]"):
        return "array"
    words = re.findall(r"[A-Z0-9]+", type_.upper())
    if words[:1] == ["TIMESTAMP"] and "WITH" in words:
        return "stamp"
    return _KIND.get(words[0], "") if words else ""


def merged(kinds: list[str]) -> str:
    """The kind of a value that is one of several."""
    known = [kind for kind in kinds if kind]
    if not known:
        return ""
    for kind in ("float", "num", "real"):
        if kind in known:
            return kind
    return known[0]


class Kinder:
    """Finds the kinds of one statement's expressions, from the leaves to the root."""

    def __init__(self) -> None:
        self._seen: dict[int, str] = {}
        self.stamps: set[int] = set()
        """The numbers of the parameters that are compared with a timestamptz."""
        self.dates: set[int] = set()
        """The numbers of the parameters that are compared with a date."""

    def see(self, node: Any, found: str) -> str:
        """The kind of ``node``; ``found`` is that of a column or a query. Raises ApiFailure: sql_not_on_sqlite."""
        kind = found or self._of(node)
        self._seen[id(node)] = kind
        return kind

    def _kinds(self, nodes: list[Any]) -> list[str]:
        return [self._seen.get(id(node), "") for node in nodes if node is not None]

    def _of(self, node: Any) -> str:
        if isinstance(node, exp.Literal):
            return "" if node.is_string else "int" if str(node.this).isdigit() else "real"
        if isinstance(node, _COMPARISONS):
            self._compare(node, [node.this, node.expression])
        elif isinstance(node, exp.In):
            self._compare(node, [node.this, *node.expressions])
        elif isinstance(node, exp.Between):
            self._compare(node, [node.this, node.args["low"], node.args["high"]])
        if isinstance(node, _TRUTHS):
            return "bool"
        if isinstance(node, exp.Paren | exp.Neg | exp.Filter | exp.Window | exp.WithinGroup):
            return self._kinds([node.this])[0]
        if isinstance(node, exp.Add | exp.Sub | exp.Mul | exp.Div | exp.Mod | exp.DPipe):
            return self._operation(node)
        if isinstance(node, exp.Cast):
            return self._cast(node)
        if isinstance(node, exp.Case):
            return merged(self._kinds([*(branch.args["true"] for branch in node.args["ifs"]),
                                       node.args.get("default")]))
        if isinstance(node, exp.Anonymous) and not node.args.get(OPERATOR):
            return self._call(node)
        return ""

    def _operation(self, node: Any) -> str:
        kind, parts, left = type(node), [], node
        while type(left) is kind:
            parts.append(left.expression)
            left = left.this
        kinds = self._kinds([left, *parts])
        if kind is exp.DPipe:
            self._no(node, "|| with", kinds, _NOT_AS_TEXT)
            return "text"
        self._no(node, "arithmetic with", kinds, MOMENTS)
        if kind is exp.Mod:
            self._no(node, "% with", kinds, {"num", "real", "float"})
        if kind is exp.Div and not {"real", "float"} & set(kinds):
            self._no(node, "/ with", kinds, {"num"}, "; cast one side to double precision")
        for wider in ("float", "real", "num"):
            if wider in kinds:
                return wider
        return "int" if all(one == "int" for one in kinds) else ""

    def _cast(self, node: Any) -> str:
        inner, to = self._kinds([node.this])[0], node.args["to"].this
        plain = node.this
        literal = str(plain.this) if isinstance(plain, exp.Literal) and plain.is_string else ""
        if to in (_T.TEXT, _T.VARCHAR):
            self._no(node, "a cast to text of", [inner], _NOT_AS_TEXT)
            return "text"
        if to == _T.DATE:
            if inner not in ("date", "stamp") and not _DATE.fullmatch(literal) and not isinstance(plain, exp.Parameter):
                raise self.refused("a cast to date, except of a timestamptz and a literal such as '2026-01-31',", node)
            return "date"
        if to == _T.TIMESTAMPTZ:
            if inner != "stamp":
                raise self.refused("a cast to timestamptz", node)
            return "stamp"
        if to == _T.BOOLEAN:
            if inner != "bool":
                raise self.refused("a cast to boolean", node)
            return "bool"
        if to in (_T.SMALLINT, _T.INT, _T.BIGINT):
            return "int"
        return {_T.DECIMAL: "num", _T.DOUBLE: "float", _T.FLOAT: "float", _T.UUID: "uuid"}.get(to, "")

    def _call(self, node: Any) -> str:
        form = FORMS.get(str(node.this).lower())
        if form is None:
            return ""
        given = [one.this if isinstance(one, exp.Order) else one for one in node.expressions]
        given = [part for one in given for part in (one.expressions if isinstance(one, exp.Distinct) else [one])]
        kinds = self._kinds(given)
        if form.name in _OF_MOMENTS:
            return self._of_moment(node, form.name, given, kinds)
        if form.cost in _TEXT_COSTS:
            return "text"
        if form.cost in ("small", "search", "product"):
            return "int"
        if form.cost == "flag":
            return "bool"
        if form.cost in ("average", "float", "round"):
            return "float"
        if form.cost == "largest" and form.name in ("lag", "lead"):
            return merged(kinds[:1] + kinds[2:])
        return merged(kinds if form.cost in ("largest", "copy", "sum") and form.name != "nth_value" else kinds[:1])

    def _of_moment(self, node: Any, name: str, given: list[Any], kinds: list[str]) -> str:
        of = kinds[0] if name == "to_char" else kinds[1]
        if of not in ("date", "stamp") or len(given) > 2:
            raise self.refused(f"{name}, except of a date or a timestamptz in a column,", node)
        field = str(given[0].this) if isinstance(given[0], exp.Literal) else ""
        if of == "date" and name in ("extract", "date_part") and field not in OF_DAYS:
            raise self.refused(f"{field or 'any field'} of a date", node)
        return _OF_MOMENTS[name]

    def _compare(self, node: Any, sides: list[Any]) -> None:
        kinds = self._kinds(sides)
        wanted = next((kind for kind in ("stamp", "date", "bool") if kind in kinds), "")
        for side, kind in zip(sides, kinds, strict=False):
            plain = side
            while isinstance(plain, exp.Paren | exp.Any | exp.All):
                plain = plain.this
            if not wanted or kind == wanted or isinstance(plain, exp.Null):
                continue
            text = str(plain.this) if isinstance(plain, exp.Literal) and plain.is_string else None
            if isinstance(plain, exp.Parameter) and wanted != "bool":
                (self.stamps if wanted == "stamp" else self.dates).add(int(str(plain.this.this)))
            elif wanted == "bool" and text is None or wanted == "date" and text and _DATE.fullmatch(text):
                pass
            elif wanted != "stamp" or text is None or not _STAMP.fullmatch(text):
                words = {"stamp": "a timestamptz with anything but a parameter",
                         "date": "a date with anything but a parameter or a literal such as '2026-01-31'",
                         "bool": "a boolean with a text"}
                raise self.refused(f"a comparison of {words[wanted]}", node)

    def _no(self, node: Any, what: str, kinds: list[str], refused: Any, more: str = "") -> None:
        for kind in kinds:
            if kind in refused:
                raise self.refused(f"{what} {_WORDS[kind]}", node, more)

    @staticmethod
    def refused(what: str, node: Any, more: str = "") -> ApiFailure:
        """The failure for what SQLite would answer otherwise than PostgreSQL."""
        from apex_exec.gateway.sql.writer import position

        return ApiFailure("sql_not_on_sqlite", f"{what} is not available on SQLite{position(node)}: it would not give "
                                               f"PostgreSQL's answer{more}")


_WORDS = {"bool": "a boolean", "num": "a numeric", "real": "a number with a fraction", "float": "a double precision",
          "stamp": "a timestamptz", "time": "a timestamp or a time", "date": "a date", "json": "JSON",
          "array": "an array", "bytes": "bytes"}
