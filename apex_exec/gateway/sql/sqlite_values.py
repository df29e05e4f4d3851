"""Values between plugins and SQLite as PostgreSQL would take and return them, by their types (``sqlite_types``). Pure.

A value that is not what its type says is refused by name: then SQLite has computed otherwise than PostgreSQL would.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from sqlglot import exp

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.type_names import NULL, UNKNOWN

EXACT_MAX = 2**53
"""Up to here a double precision has every whole number."""
RANGES = {"int2": 2**15, "int4": 2**31, "int8": 2**63}
_WHOLE = re.compile(r"\s*[-+]?\d{1,18}\s*")
_NUMERIC = re.compile(r"\s*[-+]?(\d{1,15}(\.\d{0,15})?|\.\d{1,15})\s*")


def refused(what: str) -> ApiFailure:
    """The failure for a value that SQLite would treat otherwise than PostgreSQL."""
    return ApiFailure("sql_not_on_sqlite", f"{what} is not available on SQLite: it would not give PostgreSQL's answer")


# ---------------------------------------------------------------------- parameters
def fitting(number: int, value: Any, needs: list[str]) -> Any:
    """``value`` of parameter ``number`` in the form in which SQLite has it beside values of the types ``needs``.

    Raises ApiFailure."""
    if value is None:
        if "rows" in needs or "typed" in needs:
            raise refused(f"NULL as parameter ${number}, without a type or as a number of rows,")
        return None
    if not needs and isinstance(value, bool | datetime):
        raise refused(f"parameter ${number} without a type (cast it: CAST(${number} AS …))")
    fitted = [_fitted(number, value, need) for need in needs] or [value]
    if any(type(one) is not type(fitted[0]) or one != fitted[0] for one in fitted):
        raise refused(f"parameter ${number} for values of two types")
    return fitted[0]


def fitting_list(number: int, value: list[Any], needs: list[str]) -> list[Any]:
    """The same for the elements of a list parameter."""
    kinds = [need.removeprefix("listed ") for need in needs]
    return [None if one is None else fitting(number, one, kinds) for one in value]


def _fitted(number: int, value: Any, need: str) -> Any:  # noqa: PLR0911 - one return for each type
    how, _, kind = need.rpartition(" ")
    given = type(value)
    whole, words = given is int, f"parameter ${number}, a {given.__name__}, as {kind.partition(':')[0]}"
    if kind == "typed":  # a text has no type there
        if given is str:
            raise refused(f"parameter ${number} without a type (cast it)")
        return value
    if kind == "rows":
        if not whole or value < 0:
            raise refused(f"parameter ${number} as a number of rows, except a whole number from 0 on,")
        return value
    if kind in RANGES or kind.startswith("num"):
        if whole or given is float and how == "compared":
            # PostgreSQL would add digits of its own
            if kind.startswith("num:") and kind != "num:0" and not how:
                raise refused(words)
            return value
        if given is str and kind in RANGES and _WHOLE.fullmatch(value):
            return int(value)
        if given is str and kind.startswith("num") and _NUMERIC.fullmatch(value):
            scale = len(value.strip().partition(".")[2])
            if how == "compared" or kind == "number" or kind == f"num:{scale}" or how == "operand" and not scale:
                return float(value)
    elif kind == "float" and (whole or given in (float, str)):
        if given is not str or _NUMERIC.fullmatch(value):
            return float(value)
    elif kind == "text" and how == "cast" and whole:
        return str(value)
    elif kind in ("text", "bytes", "bool") and given is {"text": str, "bytes": bytes, "bool": bool}[kind]:
        return value
    elif kind == "uuid" and given is str:
        try:
            return str(uuid.UUID(value))
        except ValueError:
            raise ApiFailure("sql_parameters", f"{value[:40]!r} is not a uuid") from None
    elif kind in ("date", "stamp"):
        return as_moment(value, day=kind == "date")
    elif not kind:
        return value
    if given is str and (kind in RANGES or kind == "float" or kind.startswith("num") and not _NUMERIC.fullmatch(value)):
        raise ApiFailure("sql_parameters", f"{value[:40]!r} is not a number of the type that it is used as, with at "
                                           "most 15 digits")
    raise refused(words)


def as_moment(value: Any, *, day: bool) -> Any:
    """A parameter beside a date (``day``) or a timestamptz: in the form in which it is stored. Raises ApiFailure."""
    if isinstance(value, datetime) and not day:
        return value
    if not isinstance(value, str):
        raise refused(f"a {type(value).__name__} as a {'date' if day else 'timestamptz'} (pass a text, such as "
                      f"{'2026-01-31' if day else '2026-01-31T12:00:00Z'})")
    try:
        if day:
            return date.fromisoformat(value).isoformat()
        moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        raise ApiFailure("sql_parameters", f"{value[:40]!r} is not a date or time in ISO 8601") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def limits(tree: Any, needs: dict[int, set[str]]) -> None:
    """Notes that the parameters of LIMIT and OFFSET are numbers of rows. Raises ApiFailure."""
    for node in tree.find_all(exp.Limit, exp.Offset, exp.Fetch):
        if node.find(exp.Sub):
            raise refused("LIMIT with a subtraction")
        for parameter in node.find_all(exp.Parameter):
            needs.setdefault(int(str(parameter.this.this)), set()).add("rows")


# ---------------------------------------------------------------------- results
def check_output(kinds: list[str], tree: Any) -> None:
    """Raises ApiFailure if PostgreSQL's text of a result depends on what SQLite does not know."""
    if "num" in kinds:
        raise refused("a result whose digits after the point differ from row to row (cast it to double precision)")


def _number(kind: str) -> Callable[[Any], Any]:
    limit = RANGES[kind]

    def read(value: Any) -> Any:
        if type(value) is not int or not -limit <= value < limit:
            raise refused("a number out of the range of its type")
        return value

    return read


def _float(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise refused("a double precision out of range")
    return float(value)


def _numeric(scale: int | None) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, int | float | str):
            raise refused("a numeric that is none")
        number = Decimal(repr(value) if isinstance(value, float) else value)
        if scale is None:
            return format(number, "f")
        if isinstance(value, float) and abs(number) * 10**scale >= EXACT_MAX:
            raise refused("a numeric of more than 15 digits")
        return format(abs(rounded) if not (rounded := round(number, scale)) else rounded, "f")  # there is no -0.00

    return read


def _bool(value: Any) -> Any:
    if value not in (0, 1):
        raise refused("a boolean that is none")
    return bool(value)


def _stamp(value: Any) -> Any:
    if isinstance(value, datetime):
        return value
    moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _json(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        raise refused("a text that is none")
    return value


_READERS: dict[str, Callable[[Any], Any]] = {
    **{kind: _number(kind) for kind in RANGES}, "float": _float, "bool": _bool, "stamp": _stamp, "json": _json,
    "array": _json, "text": _text, "uuid": _text, "date": _text}


def reader(kind: str) -> Callable[[Any], Any] | None:
    """How a value of this type is read from a row; None if it is taken as it is. NULL is never read."""
    if kind.startswith("num:"):
        scale = kind.partition(":")[2]
        return _numeric(int(scale) if scale.isdigit() else None)
    return _READERS.get(kind) if kind not in (UNKNOWN, NULL) else None
