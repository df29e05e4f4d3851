"""Converts values between MessagePack and the databases, in the same way for both, and bounds results.

| database type | plugin's type |
|---|---|
| bigint, integer, smallint | int |
| numeric | str, every digit kept |
| double precision, real | float |
| text, varchar, uuid, date, time, timestamp without time zone | str (ISO 8601 for the last three) |
| timestamptz | aware datetime, in UTC |
| a date or time that Python does not have (infinity, BC, year 10000), interval | str, PostgreSQL's text |
| an array | list |
| boolean | bool |
| json, jsonb | map, list, str, … |
| bytea, blob | bytes |
"""

from __future__ import annotations

import json
import struct
from datetime import UTC, date, datetime, time
from typing import Any

import msgspec

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.long_numbers import too_long_a_number

ROWS_MAX = 1000
RESULT_BYTES_MAX = 256 * 1024
"""The encoded size of all rows, including their column names."""

LIST_ELEMENTS_MAX = 10_000
"""The most elements of a list parameter."""

_encode = msgspec.msgpack.Encoder().encode


def from_database(value: Any) -> Any:
    """``value``, as the driver returned it, in the protocol's types."""
    if value is None or isinstance(value, bool | float | str | bytes):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo is not None else value.isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, memoryview | bytearray):
        return bytes(value)
    if isinstance(value, list | tuple):
        return [from_database(item) for item in value]
    if isinstance(value, dict):
        return {str(key): from_database(item) for key, item in value.items()}
    return str(value)  # numeric, uuid, inet, interval, …: their text


def check_parameter(value: Any, *, structured: bool) -> Any:
    """``value`` of a plugin, if a database accepts it. Maps and lists only if ``structured``. Raises ApiFailure."""
    if isinstance(value, dict | list):
        if not structured:
            raise ApiFailure("sql_parameters", "a query's parameter may not be a list or a map")
        return value
    if isinstance(value, str) and "\0" in value:
        raise ApiFailure("sql_parameters", "a text parameter must not contain a zero byte")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ApiFailure("sql_parameters", "an integer parameter must fit in 64 bits")
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    raise ApiFailure("sql_parameters", f"a {type(value).__name__} cannot be a parameter")


def as_list(value: list[Any], *, lite: bool) -> str:
    """``value``, a list parameter, as the text of an array, whose type its use decides, or as JSON (``lite``).

    Raises ApiFailure."""
    if len(value) > LIST_ELEMENTS_MAX:
        raise ApiFailure("too_large", f"a list parameter has at most {LIST_ELEMENTS_MAX:,} elements")
    for element in value:
        if isinstance(check_parameter(element, structured=False), str) and too_long_a_number(element):
            raise ApiFailure("sql_parameters", "a number written as text in a list has at most 1,000 characters, and "
                                               "an exponent of three digits")
    if lite:
        if any(isinstance(element, bytes) for element in value):
            raise ApiFailure("sql_not_on_sqlite", "bytes in a list parameter are not available on SQLite")
        return json.dumps([to_sqlite(element) for element in value])
    return array_text(value)


def as_json(value: Any) -> Any:
    """``value``, a parameter that is cast to JSON: a map or a list as JSON, anything else as it is. Raises ApiFailure.
    """
    if not isinstance(value, dict | list):
        return value
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise ApiFailure("sql_parameters", "a map or a list for JSON may contain texts, numbers, booleans and null "
                                           "only") from None


def json_text(value: Any) -> str:
    """``value``, a map or a list that is written to a column, as JSON. What JSON does not have becomes text. Raises
    ApiFailure."""
    try:
        return json.dumps(value, separators=(",", ":"), default=str)
    except (TypeError, ValueError, RecursionError):
        raise ApiFailure("sql_parameters", "a map for a database has texts as its keys, and is not nested deeper than "
                                           "JSON can be") from None


def to_sqlite(value: Any) -> Any:
    """``value`` as SQLite stores it: timestamps as ISO 8601 in UTC, maps and lists as JSON, booleans as 0 and 1."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(" ")
    if isinstance(value, dict | list):
        return json_text(value)
    return int(value) if isinstance(value, bool) else value


def array_text(value: list[Any]) -> str:
    """``value`` as PostgreSQL writes an array of any type: ``{1,"a",NULL,{…}}``."""
    return f"{{{','.join(map(_element, value))}}}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return array_text(value)
    if isinstance(value, bytes):
        text = f"\\x{value.hex()}"
    elif isinstance(value, datetime):
        text = value.isoformat()
    else:
        text = json_text(value) if isinstance(value, dict | bool) else str(value)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class Rows:
    """Collects an encoded result, and raises if it exceeds its bounds."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._parts: list[bytes] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._parts)

    def add(self, row: Any) -> None:
        """Adds one row, a sequence of database values. Raises ApiFailure ``row_limit`` or ``too_large``."""
        if len(self._parts) >= ROWS_MAX:
            raise ApiFailure("row_limit", f"the query returns more than {ROWS_MAX} rows; add a LIMIT")
        values = map(from_database, row)
        part = _encode(dict(zip(self._names, values, strict=True)))
        self._bytes += len(part)
        if self._bytes > RESULT_BYTES_MAX:
            raise ApiFailure("too_large", f"the query returns more than {RESULT_BYTES_MAX} bytes; select fewer "
                                          "columns or rows")
        self._parts.append(part)

    def encoded(self) -> bytes:
        """The rows as one MessagePack array of maps."""
        count = len(self._parts)
        head = bytes([0x90 | count]) if count < 16 else b"\xdc" + struct.pack(">H", count)
        return head + b"".join(self._parts)
