"""PostgreSQL's functions of dates and times for SQLite, which has moments as texts: ISO 8601, in UTC. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

FIELDS: dict[str, Callable[[datetime], Any]] = {
    "year": lambda at: at.year, "month": lambda at: at.month, "day": lambda at: at.day, "hour": lambda at: at.hour,
    "minute": lambda at: at.minute, "second": lambda at: at.second + at.microsecond / 1e6,
    "quarter": lambda at: (at.month + 2) // 3, "dow": lambda at: at.isoweekday() % 7,
    "isodow": lambda at: at.isoweekday(), "doy": lambda at: at.timetuple().tm_yday,
    "week": lambda at: at.isocalendar().week, "isoyear": lambda at: at.isocalendar().year,
    "epoch": lambda at: at.timestamp(),
}
"""The fields of ``extract``."""
OF_DAYS = frozenset({"year", "month", "day", "quarter", "dow", "isodow", "doy", "week", "isoyear", "epoch"})
"""Those that a date has."""
_FLOORS = {"second": {"microsecond": 0}, "minute": {"second": 0, "microsecond": 0}}
_FLOORS["hour"] = {"minute": 0, **_FLOORS["minute"]}
_FLOORS["day"] = {"hour": 0, **_FLOORS["hour"]}
_FLOORS["month"] = {"day": 1, **_FLOORS["day"]}
_FLOORS["year"] = {"month": 1, **_FLOORS["month"]}
UNITS = frozenset({*_FLOORS, "week", "quarter"})
"""The units of ``date_trunc``."""
_PATTERN = re.compile(r"YYYY|IYYY|MM|DD|HH24|MI|SS|IW|Q|[-/:., ]")
_WRITTEN: dict[str, Callable[[datetime], str]] = {
    "YYYY": lambda at: f"{at.year:04}", "IYYY": lambda at: f"{at.isocalendar().year:04}",
    "MM": lambda at: f"{at.month:02}", "DD": lambda at: f"{at.day:02}",
    "HH24": lambda at: f"{at.hour:02}", "MI": lambda at: f"{at.minute:02}",
    "SS": lambda at: f"{at.second:02}", "IW": lambda at: f"{at.isocalendar().week:02}",
    "Q": lambda at: str((at.month + 2) // 3)}


def moment(text: str) -> datetime:
    """A date or a timestamptz as it is stored. Raises ValueError."""
    found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return found.astimezone(UTC) if found.tzinfo is not None else found.replace(tzinfo=UTC)


def date_trunc(unit: str, text: str) -> str:
    """The beginning of ``unit``, as a timestamptz is stored. Raises ValueError."""
    at, unit = moment(text), unit.lower()
    if unit == "week":
        at = (at - timedelta(days=at.weekday())).replace(**_FLOORS["day"])  # type: ignore[arg-type]  # all are ints
    elif unit == "quarter":
        at = at.replace(month=(at.month - 1) // 3 * 3 + 1, **_FLOORS["month"])  # type: ignore[arg-type]  # all are ints
    elif unit in _FLOORS:
        at = at.replace(**_FLOORS[unit])  # type: ignore[arg-type]  # all are ints
    else:
        raise ValueError(f"date_trunc to {unit[:20]!r} is not available on SQLite")
    return at.isoformat(" ")


def extract(field: str, text: str) -> Any:
    """One field of a moment. Raises ValueError."""
    if field not in FIELDS:
        raise ValueError(f"extract of {field[:20]!r} is not available on SQLite")
    return FIELDS[field](moment(text))


def date_part(field: str, text: str) -> float:
    """As ``extract``, as a double precision."""
    return float(extract(field.lower(), text))


def to_char(text: str, pattern: str) -> str:
    """A moment in the patterns that are the same in every language. Raises ValueError for others."""
    pieces = _PATTERN.findall(pattern)
    if "".join(pieces) != pattern:
        raise ValueError("to_char with this format is not available on SQLite; YYYY, IYYY, Q, MM, IW, DD, HH24, MI and "
                         "SS are, with - / : . , and blanks between them")
    at = moment(text)
    return "".join(_WRITTEN[piece](at) if piece in _WRITTEN else piece for piece in pieces)


def day(text: str) -> str:
    """The date of a moment. Raises ValueError."""
    return moment(text).date().isoformat()
