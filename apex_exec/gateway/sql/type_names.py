"""PostgreSQL's types by the names that ``sqlite_types`` gives them, and their words in messages. Pure.

Types are int2, int4, int8, ``num:2`` (a numeric with two digits after the point), ``num:*`` (as it is stored), num (the
digits depend on the row), float, text, uuid, bool, date, stamp (timestamptz), time (other moments), json, array and
bytes. ``unknown`` is a literal in quotes or a parameter: it takes the type of what it stands beside, and so does
``null``. Nothing is known of columns without a declared type ("").
"""

from __future__ import annotations

import re
from typing import Any

from apex_exec.gateway.failure import ApiFailure

INTS = ("int2", "int4", "int8")
UNKNOWN, NULL = "unknown", "null"
FREE = (UNKNOWN, NULL)
EXACT_DIGITS_MAX = 15
"""SQLite has numerics as double precision, which keeps that many digits."""
_STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{6})?\+00:00")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
LITERALS = {"text": re.compile(r"(?s).*"), "date": _DATE, "stamp": _STAMP, "uuid": _UUID}
"""Literals in quotes that both databases read alike, by the type that they take."""


def is_number(kind: str) -> bool:
    """Whether it is a type of numbers."""
    return kind in INTS or kind == "float" or kind.startswith("num")


def refused(what: str, node: Any, more: str = "") -> ApiFailure:
    """The failure for what SQLite would answer otherwise than PostgreSQL."""
    from apex_exec.gateway.sql.wording import position

    return ApiFailure("sql_not_on_sqlite", f"{what} is not available on SQLite{position(node)}: it would not give "
                                           f"PostgreSQL's answer{more}")


def number_kind(text: str, node: Any) -> str:
    """The type of a number that is written as ``text``."""
    if text.isdigit():
        return "int4" if int(text) < 2**31 else "int8" if int(text) < 2**63 else "num"
    digits, _, exponent = text.lower().partition("e")
    if exponent or len(digits.replace(".", "").strip("0")) > EXACT_DIGITS_MAX:
        raise refused(f"the number {text[:30]}", node, "; cast a parameter to double precision")
    return f"num:{len(digits.partition('.')[2])}"


def scale(kind: str) -> int | None:
    """The digits after the point of a numeric; None if they are not known."""
    digits = kind.partition(":")[2]
    return int(digits) if digits.isdigit() else None


def widest(kinds: list[str]) -> str:
    """The type that numbers of these types get together: ``num`` if their digits after the point differ."""
    if "float" in kinds:
        return "float"
    numerics = {kind for kind in kinds if kind.startswith("num")}
    if numerics:
        return numerics.pop() if len(numerics) == 1 and all(kind.startswith("num") for kind in kinds) else "num"
    return max(kinds, key=INTS.index)


CAST_FROM = {
    "int2": frozenset({"int2", "int4", "int8", "num", "float", "text"}), "float": frozenset({*INTS, "num", "float",
    "text"}), "num": frozenset({*INTS, "num", "float", "text"}), "text": frozenset({"text", *INTS, "uuid", "date"}),
    "uuid": frozenset({"uuid"}), "bool": frozenset({"bool"}), "date": frozenset({"date", "stamp"}),
    "stamp": frozenset({"stamp"})}
CAST_FROM["int4"] = CAST_FROM["int2"] | {"bool"}
CAST_FROM["int8"] = CAST_FROM["int2"]
WORDS = {"int2": "a smallint", "int4": "an integer", "int8": "a bigint", "bool": "a boolean", "num": "a numeric",
          "float": "a double precision", "text": "a text", "uuid": "a uuid", "stamp": "a timestamptz",
          "time": "a timestamp or a time", "date": "a date", "json": "JSON", "array": "an array", "bytes": "bytes",
          UNKNOWN: "a value without a type", NULL: "NULL",
         **{f"num:{digits}": "a numeric" for digits in ("*", *range(40))}}
NAMES = {"int2": "smallint", "int4": "int", "int8": "bigint", "bool": "boolean", "num": "numeric",
          "float": "double precision", "stamp": "timestamptz", "": "this type"}
HINTS = {"stamp": "; pass a parameter", "date": "; write '2026-01-31', or pass a parameter",
          "bool": "; write TRUE or FALSE", "uuid": "; write it in lower case"}
