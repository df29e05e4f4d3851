"""The daemon's answers as verbs show them: one style of keys, times as ISO 8601, and units in words for people.

The operations of the wire count nanoseconds since 1970 and minor units of a currency. With ``--json`` every verb says
the same things under camelCase keys, a moment as ``"openedAt": "2026-11-29T22:40:38.123Z"`` (null where there is none)
and an amount as whole minor units beside its ``currency``. ``tests/cli/test_json.py`` walks all verbs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from apex_exec.common.words import duration

AMOUNTS = ("amount", "gross", "fee", "authorShare", "author", "revenue", "cost", "price", "customerMinor",
           "authorMinor", "platformMinor")
"""Keys of amounts in minor units, where a whole number stands under them and the row has a currency."""
WRITTEN_BY_OTHERS = ("value", "default", "schema")
"""Keys whose value is a map that somebody else wrote, such as a table of the configuration or the schema of a plugin's
setting: its keys stay as they are."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def facts(value: Any) -> Any:
    """``value`` with its keys in one style and its moments as text."""
    if isinstance(value, Mapping):
        made: dict[str, Any] = {}
        for key, inner in value.items():
            name = camel(str(key))
            if name.endswith("Ns") and (inner is None or (isinstance(inner, int) and not isinstance(inner, bool))):
                made[_moment_key(name)] = moment(inner)
            else:
                made[name] = inner if name in WRITTEN_BY_OTHERS else facts(inner)
        return made
    return [facts(inner) for inner in value] if isinstance(value, list | tuple) else value


def camel(key: str) -> str:
    """``user_id`` → ``userId``; a name that is not an identifier, such as a plugin's id, stays."""
    if re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)+", key) is None:
        return key
    first, *more = key.split("_")
    return first + "".join(word.capitalize() for word in more)


def _moment_key(name: str) -> str:
    stem = name.removesuffix("Ns")
    return stem if stem in ("at", "from", "until") or stem.endswith(("At", "From", "Until")) else f"{stem}At"


def moment(ns: int | None) -> str | None:
    """Nanoseconds since 1970 as ISO 8601 in UTC, to the millisecond; None for 0 and None."""
    if not ns:
        return None
    try:
        at = _EPOCH + timedelta(microseconds=ns // 1000)
    except OverflowError:  # beyond the year 9999
        return str(ns)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


def for_people(row: Mapping[str, Any]) -> dict[str, Any]:
    """One row of ``facts`` with moments, amounts and lengths of time as people write them."""
    from apex_exec.market.money.money import format_minor

    shown: dict[str, Any] = {}
    currency = row.get("currency")
    for key, value in row.items():
        if isinstance(value, str) and _MOMENT.fullmatch(value):
            shown[key] = f"{value[:10]} {value[11:19]} UTC"
        elif key in AMOUNTS and isinstance(value, int) and not isinstance(value, bool):
            shown[key] = f"{format_minor(value, currency)} {currency}" if currency else None
        elif key.endswith("Seconds") and isinstance(value, int | float) and not isinstance(value, bool):
            shown[key] = duration(value)
        else:
            shown[key] = value
    return shown


def words(key: str) -> str:
    """``slowestReviewSeconds`` → ``slowest review``: a heading for people, who see the unit in the cells."""
    return re.sub(r"(?<=[a-z])([A-Z])", lambda found: f" {found[1].lower()}", key.removesuffix("Seconds"))
