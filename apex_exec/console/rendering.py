"""Templates: everything that they print is text, no matter who wrote it.

Jinja2 escapes every value (``autoescape``), and before that control characters, terminal codes and marks that turn the
direction of text become visible escapes. No template may say that something is markup: a test reads them all.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from apex_exec.common.currencies import CURRENCIES
from apex_exec.common.words import clean, duration

TEXT_CHARS_MAX = 8192
"""The longest text that one place of a page shows; more is cut with an ellipsis."""
LONG_CHARS_MAX = 65_536
"""The same of a place that says ``| long``: a README, a result, what somebody has written in a field."""
TEMPLATES = Path(__file__).parent / "templates"


def environment() -> jinja2.Environment:
    """The templates, read once and kept."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, finalize=shown, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, auto_reload=False)
    made.filters.update(number=number, ms=ms, seconds=duration, when=when, whole=whole, unfolded=unfolded,
                        percent=percent, megabytes=megabytes, bounded=bounded, as_json=as_json, money=money,
                        first_letter=first_letter, price=price, long=long)
    made.globals["words"] = WORDS
    return made


class _Long(str):
    """A text that ``long`` has bounded."""

    __slots__ = ()


def long(text: str) -> str:
    """``text`` for a place that has room for LONG_CHARS_MAX."""
    return _Long(_bounded(text, LONG_CHARS_MAX))


def shown(value: Any) -> Any:
    """What a template prints for a value: text without control characters. Markup of our own macros passes."""
    if value is None:
        return "–"
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return clean(value if isinstance(value, _Long) else _bounded(value, TEXT_CHARS_MAX))


def _bounded(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "…"


def number(value: float | None) -> str:
    """``value`` as people read it: 12,345 · 3.2 · 0.04; "–" if it is unknown."""
    if value is None:
        return "–"
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    if value == round(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2f}"


def ms(value: float | None) -> str:
    """A time in milliseconds, as 0.42 ms, 12.0 ms or 1.3 s."""
    if value is None:
        return "–"
    return f"{value / 1000:.1f} s" if value >= 1000 else f"{number(float(value))} ms"


def megabytes(value: float | None) -> str:
    """Memory; "–" if there is none, because there is no process."""
    return f"{number(value)} MB" if value else "–"


def percent(value: float | None) -> str:
    """A share in percent."""
    return "–" if value is None else f"{value:.0f} %" if value >= 10 or value == 0 else f"{value:.1f} %"


def whole(value: float, most: float) -> int:
    """``value`` of ``most`` as a whole number from 0 to 100, for a bar."""
    return max(0, min(100, round(100 * value / most))) if most > 0 else 0


def bounded(value: list[Any], most: int) -> list[Any]:
    """The first ``most`` of a list."""
    return value[:most]


def as_json(value: Any) -> str:
    """``value`` as indented JSON: text, which is escaped like any other."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def money(minor: int, digits: int) -> str:
    """An amount in minor units of a currency with ``digits`` decimals, in major ones: 1,234.50."""
    sign, whole_part = "−" if minor < 0 else "", abs(minor) // 10**digits
    return f"{sign}{whole_part:,}" + (f".{abs(minor) % 10**digits:0{digits}d}" if digits else "")


def price(value: dict[str, Any]) -> str:
    """What a plugin costs: free, 19.95 USD, 500 JPY a month."""
    if not value or value.get("model", "free") == "free":
        return "free"
    currency, interval = value["currency"], value.get("interval", "")
    return f"{money(value['amount'], CURRENCIES.get(currency, 2))} {currency}{f' a {interval}' if interval else ''}"


def first_letter(text: str) -> str:
    """For a listing without an icon: its first letter or digit; a square if it has none."""
    return next((one.upper() for one in text[:50] if one.isalnum()), "▪")


def when(value: Any) -> str:
    """A moment as ISO 8601: from nanoseconds since 1970 or from text; "" if there is none or it cannot be."""
    if isinstance(value, str):
        return value if len(value) <= 40 else ""
    if not isinstance(value, int) or not value:
        return ""
    try:
        return datetime.fromtimestamp(value // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, OSError, ValueError):
        return ""


def unfolded(text: str) -> str:
    """A line of a log with the line ends that the log had to escape."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


WORDS = {
    "enabled": "enabled", "disabled": "disabled", "quarantined": "quarantined",
    "pending_approval": "waits for approval", "installed": "installed", "registered": "registered",
    "validated": "checked"}
"""States of the registry as people say them."""
