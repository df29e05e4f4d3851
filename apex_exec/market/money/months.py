"""Time as invoices use it: UTC months in whole seconds, intervals that count each second once, renewals. Pure."""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable
from datetime import UTC, datetime

from apex_exec.errors import Code, Refusal

NS = 1_000_000_000
SECONDS_MAX = 253_402_300_800
"""The end of year 9999 in seconds since 1970: Python's dates end there."""

Interval = tuple[int, int]
"""Whole seconds since 1970, half open: [start, end)."""


def parse_month(text: str) -> tuple[int, int]:
    """``"2026-10"`` → (2026, 10). Raises Refusal("month_invalid")."""
    match = re.fullmatch(r"([0-9]{4})-(0[1-9]|1[0-2])", text, re.ASCII)
    if match is None or not 1970 <= int(match[1]) < 9999:
        raise Refusal("month_invalid", f"{text[:20]!r} is not a month", hint="YYYY-MM, as 2026-10",
                      code=Code.INVALID_INPUT)
    return int(match[1]), int(match[2])


def parse_day(text: str) -> int:
    """``"2026-10-01"`` → seconds at its 00:00 UTC. Raises Refusal("date_invalid")."""
    try:
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text, re.ASCII) and "1970" <= text < "9999":
            return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())
    except ValueError:
        pass
    raise Refusal("date_invalid", f"{text[:20]!r} is not a date", hint="YYYY-MM-DD, as 2026-10-01",
                  code=Code.INVALID_INPUT)


def month_interval(year: int, month: int) -> Interval:
    """The seconds of one UTC month."""
    return _month_start(year, month), _month_start(*next_month(year, month))


def next_month(year: int, month: int) -> tuple[int, int]:
    """The month after the given one."""
    return (year + 1, 1) if month == 12 else (year, month + 1)


def month_name(year: int, month: int) -> str:
    """(2026, 10) → ``"2026-10"``."""
    return f"{year:04d}-{month:02d}"


def month_of(seconds: int) -> tuple[int, int]:
    """The UTC month that contains a second."""
    when = datetime.fromtimestamp(seconds, UTC)
    return when.year, when.month


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """The same seconds as a sorted list without overlaps: each second counts once. Empty intervals are removed."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if end <= start:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def clip(intervals: Iterable[Interval], window: Interval) -> list[Interval]:
    """The part of ``intervals`` inside ``window``, merged."""
    return merge((max(start, window[0]), min(end, window[1])) for start, end in intervals)


def add_months(anchor_ns: int, count: int) -> int:
    """``count`` months after ``anchor_ns``: the same day and time of day in UTC, or the month's last day if it is
    shorter.

    Always counted from the first day of a subscription, so that 31 January → 28 February → 31 March.
    """
    seconds, rest_ns = divmod(anchor_ns, NS)
    when = datetime.fromtimestamp(seconds, UTC)
    index = when.year * 12 + when.month - 1 + count
    year, month = index // 12, index % 12 + 1
    day = min(when.day, calendar.monthrange(year, month)[1])
    return int(when.replace(year=year, month=month, day=day).timestamp()) * NS + rest_ns


def _month_start(year: int, month: int) -> int:
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp())


def whole_seconds(start_ns: int, end_ns: int) -> Interval:
    """An enablement's seconds. Both ends are cut to the second, so that adjacent intervals neither overlap nor leave a
    gap."""
    return start_ns // NS, end_ns // NS
