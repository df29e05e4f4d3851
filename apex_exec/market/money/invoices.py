"""Closing a month: its lines are written once and never changed. What turns out later is a new line in a later month.

Every function takes an open transaction. The facts (purchases from the store, enablement and usage from elsewhere) are
arguments, so that an invoice is a function of them and of the months closed before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import sqlalchemy as sa

from apex_exec.errors import Code, Refusal
from apex_exec.market.money import contracts, sales
from apex_exec.market.money.billing import RATES, Rate
from apex_exec.market.money.metering import Key, Usage
from apex_exec.market.money.months import NS, month_interval, month_name, next_month, parse_month
from apex_exec.market.money.statements import Hosted, Line, Payers, digest, expected, newly_due
from apex_exec.market.store import accounts, as_struct, closed_months, closed_usage_rows, invoice_lines


def payers(db: sa.Connection) -> Payers:
    """Which customer pays for which users, with dates."""
    out: Payers = {}
    for row in db.execute(sa.select(accounts).order_by(accounts.c.from_ns, accounts.c.id)):
        out.setdefault(row.user_id, []).append((row.from_ns // NS, row.customer))
    return out


def month_lines(db: sa.Connection, month: str, hosted: Hosted, rates: tuple[Rate, ...] = RATES) -> tuple[bool,
                                                                                                     list[Line]]:
    """(closed?, lines) of a month: the stored lines if it is closed, otherwise the lines as they would be now."""
    parse_month(month)
    if is_closed(db, month):
        return True, closed_lines(db, month)
    return False, _due(db, month, hosted, rates)


def close_month(db: sa.Connection, now_ns: int, month: str, hosted: Hosted, usage: dict[Key, Usage] | None = None,
                rates: tuple[Rate, ...] = RATES) -> list[Line]:
    """Stores a month's lines and usage for good. Months are closed in order, once they are over.

    Raises Refusal: month_closed, month_not_over, month_order.
    """
    check_closable(db, now_ns, month)
    closed = list(db.execute(sa.select(closed_months.c.month).order_by(closed_months.c.month)).scalars())
    if closed and closed[-1] > month:
        raise Refusal("month_order", f"{month} can no longer be closed, because the later month {closed[-1]} is "
                                     "closed", code=Code.CONFLICT)
    open_before = {line.for_month for line in _wanted(db, month, hosted, rates)} - {month} - set(closed)
    if closed:
        follows = month_name(*next_month(*parse_month(closed[-1])))
        open_before |= {follows} - {month}
        open_before = {name for name in open_before if name > closed[-1]}
    if open_before:
        raise Refusal("month_order", f"{min(open_before)} is still open; close it before {month}", code=Code.CONFLICT)
    lines = _due(db, month, hosted, rates)
    db.execute(sa.insert(closed_months).values(month=month, closed_ns=now_ns, sha256=digest(lines)))
    if lines:
        db.execute(sa.insert(invoice_lines), [
            {**msgspec.to_builtins(line), "number": number} for number, line in enumerate(lines, 1)])
    rows = [{"month": name, "plugin": plugin, "user_id": user, **msgspec.structs.asdict(one)}
            for (plugin, user, name), one in (usage or {}).items() if name == month]
    if rows:
        db.execute(sa.insert(closed_usage_rows), rows)
    return lines


def check_closable(db: sa.Connection, now_ns: int, month: str) -> None:
    """Raises Refusal("month_closed" or "month_not_over")."""
    end_s = month_interval(*parse_month(month))[1]
    if is_closed(db, month):
        raise Refusal("month_closed", f"{month} is closed; corrections are new lines of a later month",
                      code=Code.CONFLICT, hint=f"apex-exec billing report --month {month} shows it")
    if now_ns < end_s * NS:
        raise Refusal("month_not_over", f"{month} is not over yet", code=Code.CONFLICT)


def closed_usage(db: sa.Connection, month: str = "") -> dict[Key, Usage]:
    """The usage stored with closed months; only that of ``month`` if it is given."""
    query = sa.select(closed_usage_rows).order_by(
        closed_usage_rows.c.plugin, closed_usage_rows.c.user_id, closed_usage_rows.c.month)
    rows = db.execute(query.where(closed_usage_rows.c.month == month) if month else query)
    return {(row.plugin, row.user_id, row.month): as_struct(row, Usage) for row in rows}


def is_closed(db: sa.Connection, month: str) -> bool:
    """Whether the month's lines are stored."""
    return db.execute(sa.select(closed_months.c.month).where(closed_months.c.month == month)).first() is not None


def month_is_closed(db: sa.Connection, month: str) -> bool:
    """As ``is_closed``, for a month that a user named. Raises Refusal("month_invalid")."""
    parse_month(month)
    return is_closed(db, month)


def closed_lines(db: sa.Connection, month: str, *, checked: bool = True) -> list[Line]:
    """A closed month's lines. If ``checked``, raises Refusal("invoice_damaged") if they differ from what was stored."""
    rows = db.execute(sa.select(invoice_lines).where(invoice_lines.c.month == month).order_by(invoice_lines.c.number))
    lines = [_line(row) for row in rows]
    kept = db.execute(sa.select(closed_months.c.sha256).where(closed_months.c.month == month)).scalar()
    if checked and kept is not None and kept != digest(lines):
        raise Refusal("invoice_damaged", f"the lines of {month} differ from those that were closed",
                      hint="restore the market store from a backup")
    return lines


def _wanted(db: sa.Connection, month: str, hosted: Hosted, rates: tuple[Rate, ...]) -> list[Line]:
    return expected(sales.everything(db), hosted, payers(db), month, rates, contracts.everything(db))


def _due(db: sa.Connection, month: str, hosted: Hosted, rates: tuple[Rate, ...]) -> list[Line]:
    before: Iterable[Line] = map(_line, db.execute(sa.select(invoice_lines).where(invoice_lines.c.month < month)))
    # an open month before this one gets its own invoice
    counted = {month, *db.execute(sa.select(closed_months.c.month)).scalars()}
    return newly_due((line for line in _wanted(db, month, hosted, rates) if line.for_month in counted), before, month)


def _line(row: sa.Row[Any]) -> Line:
    return as_struct(row, Line)
