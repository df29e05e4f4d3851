"""Parts of a month's statement, for those who look at it on a page. Pure, but for the list of months."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from apex_exec.common.currencies import CURRENCIES
from apex_exec.market.money.months import month_name, month_of, next_month, parse_month
from apex_exec.market.store import closed_months, invoice_lines

MONTHS_MAX = 24
LINES_MAX = 2000
PARTIES_MAX = 200
"""Customers, authors and plugins of a month that a page lists: those with the largest amounts."""
CSV_CHARS_MAX = 30_000_000
"""The longest CSV that one answer holds, some 200,000 lines; `apex-exec billing report --csv` writes longer ones."""


def months(db: sa.Connection, now_s: int) -> dict[str, Any]:
    """The latest closed months, newest first, with their totals by currency; the month that is next to be closed ("" if
    it is not over), and the one that runs now."""
    closed = db.execute(sa.select(closed_months).order_by(closed_months.c.month.desc()).limit(MONTHS_MAX)).all()
    sums = db.execute(sa.select(
        invoice_lines.c.month, invoice_lines.c.currency, sa.func.count(),
        *(sa.func.sum(invoice_lines.c[name]) for name in _AMOUNTS.values())).where(
            invoice_lines.c.month.in_([row.month for row in closed])).group_by(
            invoice_lines.c.month, invoice_lines.c.currency)).all()
    totals: dict[str, dict[str, dict[str, int]]] = {}
    lines: dict[str, int] = {}
    for month, currency, count, *amounts in sums:
        totals.setdefault(month, {})[currency] = dict(zip(_AMOUNTS, map(int, amounts), strict=True))
        lines[month] = lines.get(month, 0) + count
    now = month_name(*month_of(now_s))
    upcoming = month_name(*next_month(*parse_month(closed[0].month))) if closed else ""
    return {"now": now, "next": upcoming if upcoming < now else "", "digits": {
        row[1]: CURRENCIES.get(row[1], 2) for row in sums}, "months": [
        {"month": row.month, "closedNs": row.closed_ns, "lines": lines.get(row.month, 0),
         "totals": totals.get(row.month, {})} for row in closed]}


def page(statement: dict[str, Any], offset: int, limit: int) -> dict[str, Any]:
    """Lines ``offset`` to ``offset + limit`` of a statement, its totals, and for each kind of party the largest ones.
    ``digits`` are the decimals of each currency."""
    lines = statement["lines"]
    offset, limit = max(0, offset), max(1, min(LINES_MAX, limit))
    kept = ("month", "status", "party", "totals", "due")
    shown = {key: value for key, value in statement.items() if key in kept}
    return {**shown, "lines": lines[offset:offset + limit], "offset": offset, "total": len(lines),
            "parties": {name: _parties(lines, name, amount) for name, amount in _PARTIES.items()},
            "usage": _usage(statement.get("usage", [])),
            "digits": {currency: CURRENCIES.get(currency, 2) for currency in statement["totals"]}}


def _parties(lines: list[dict[str, Any]], name: str, amount: str) -> list[dict[str, Any]]:
    sums: dict[tuple[str, str], int] = {}
    for line in lines:
        if line[name]:
            key = line[name], line["currency"]
            sums[key] = sums.get(key, 0) + line[amount]
    largest = sorted(sums.items(), key=lambda one: (-abs(one[1]), one[0]))[:PARTIES_MAX]
    return [{"name": who, "currency": currency, "minor": minor} for (who, currency), minor in largest]


def _usage(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each plugin used, over all its users: the busiest ones."""
    sums: dict[str, dict[str, Any]] = {}
    for row in rows:
        found = sums.setdefault(row["plugin"], {"plugin": row["plugin"], "users": 0, "calls": 0, "cpuSeconds": 0.0})
        found["users"] += 1
        found["calls"] += row["calls"]
        found["cpuSeconds"] += float(row["cpuSeconds"])
    return sorted(sums.values(), key=lambda one: (-one["calls"], one["plugin"]))[:PARTIES_MAX]


_AMOUNTS = {"customers": "customer_minor", "authors": "author_minor", "platform": "platform_minor"}
_PARTIES = {"customer": "customer_minor", "author": "author_minor", "plugin": "customer_minor"}
