"""What all our connections to the embedded database share: its types, its parameters, and its errors in our words."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.tables import Table, unnamed
from apex_exec.gateway.sql.values import to_sqlite
from apex_exec.gateway.sql.wording import plain_names

BUSY_SECONDS = 1.0
PROGRESS_STEPS = 10_000
"""Virtual-machine steps between two checks of the clock: about a millisecond, with little contention for the GIL."""


def _aware(raw: bytes) -> Any:
    text = raw.decode("utf-8", "replace")
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return text
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _text(raw: bytes) -> Any:
    return raw.decode("utf-8", "replace")


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):  # no JSON, or nested deeper than a plugin could read
        return _text(raw)


CONVERTERS: dict[str, Callable[[bytes], Any]] = {
    "BOOLEAN": lambda raw: raw not in (b"0", b"f", b"false"), "BOOL": lambda raw: raw not in (b"0", b"f", b"false"),
    "NUMERIC": _text, "DECIMAL": _text, "UUID": _text, "DATE": _text, "TIME": _text, "TIMESTAMP": _text,
    "TIMESTAMPTZ": _aware, "JSON": _json, "JSONB": _json, "BYTEA": bytes,
    **{f"{name}[]": _json for name in ("TEXT", "VARCHAR", "UUID", "SMALLINT", "INT", "INTEGER", "BIGINT", "REAL",
                                       "NUMERIC", "BOOLEAN", "BOOL", "DATE", "TIMESTAMP", "TIMESTAMPTZ")},
}
"""Converters by a column's declared type: SQLite itself has five storage classes; PostgreSQL's type names mean the same
here."""


def register_converters() -> None:
    """Connections that are opened from now on convert columns by their declared types."""
    for name, convert in CONVERTERS.items():
        sqlite3.register_converter(name, convert)


def named(values: list[Any]) -> dict[str, Any]:
    """The parameters $1, $2, … as SQLite takes them."""
    return {str(number): to_sqlite(value) for number, value in enumerate(values, 1)}


def failure_of(error: sqlite3.Error, due_ns: int, tables: Mapping[str, Table]) -> ApiFailure:
    """The API's code for ``error``, which a statement raised that had time until ``due_ns``."""
    words = str(error)
    failure = _failure(error, due_ns)
    return unnamed(failure, words, tables) if words.startswith("no such ") else failure


def _failure(error: sqlite3.Error, due_ns: int) -> ApiFailure:
    text = plain_names(str(error))
    if "interrupted" in text or time.monotonic_ns() >= due_ns:
        return ApiFailure("deadline_exceeded", "the invocation's time ended in the database")
    if "no such column" in text:
        return ApiFailure("column_not_allowed", text)
    if "not authorized" in text or "prohibited" in text:
        return ApiFailure("sql_forbidden", text)
    if "locked" in text or "busy" in text or "disk" in text or "readonly" in text:
        return ApiFailure("data_unavailable", text)
    return ApiFailure("sql_error", text)
