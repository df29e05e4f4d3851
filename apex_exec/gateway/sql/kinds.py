"""What a SQLite database says of its tables: the types of their columns, and which of them it stores.

A column's type is the declared one, in ``sqlite_types``' words.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from apex_exec.common.sqlite import open_readonly
from apex_exec.gateway.sql.tables import Table

Kinds = Mapping[str, Mapping[str, str]]
"""Table → column → type: see ``sqlite_types``."""
_DECLARED = {
    "int2": "SMALLINT INT2", "int4": "INT INTEGER INT4", "int8": "BIGINT INT8", "num": "NUMERIC DECIMAL",
    "float": "REAL FLOAT DOUBLE", "text": "TEXT VARCHAR CHARACTER CHAR", "uuid": "UUID", "bool": "BOOLEAN BOOL",
    "date": "DATE", "stamp": "TIMESTAMPTZ", "time": "TIMESTAMP TIME", "json": "JSON JSONB", "bytes": "BYTEA BLOB"}
_KIND = {word: kind for kind, words in _DECLARED.items() for word in words.split()}
ANY_VALUE = "values"
"""The values that a column may be compared with inside a fence: any. PostgreSQL makes a numeric a double precision for
a parameter that is one, and fails at 1e400: such a column is compared with literals only (``postgres``)."""
_PLAIN, _SHADOW, _KEPT = 0, 1, 3
"""What ``table_xinfo`` says of a column: it is stored; it is a virtual table's own; it is computed when written."""


class Declared(NamedTuple):
    """What a SQLite database says of its tables, by the table's name."""

    kinds: dict[str, dict[str, str]]
    """The types of its columns."""
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
    kind = _KIND.get(words[0], "") if words else ""
    if kind == "num":
        return f"num:{words[2] if len(words) > 2 else 0 if len(words) > 1 else '*'}"
    return kind


def merged(kinds: list[str]) -> str:
    """The type of a value that is one of several: theirs, if it is one."""
    return kinds[0] if kinds and all(kind == kinds[0] for kind in kinds) else ""
