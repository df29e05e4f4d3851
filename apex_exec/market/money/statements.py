"""Lines, and three statements that are three views of the same lines, so that they add up. Pure.

A line's group names its subject and never changes: ``sale:<key>``, ``refund:<key>``, ``enterprise:<key>``,
``hosting:<customer>:<plugin>:<month>``. In every line customer = author + platform, to the minor unit.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import msgspec

from apex_exec.common.spreadsheet import safe_cell
from apex_exec.errors import SupervisorBug
from apex_exec.market.money.billing import HOSTING_CURRENCY, RATES, Rate, hosting_exact
from apex_exec.market.money.contracts import Contract
from apex_exec.market.money.metering import Key, Usage
from apex_exec.market.money.money import format_minor, round_half_up
from apex_exec.market.money.months import (
    NS,
    Interval,
    clip,
    month_interval,
    month_name,
    month_of,
    next_month,
    parse_month,
)
from apex_exec.market.money.sales import Purchase

Hosted = dict[tuple[str, str], list[Interval]]
"""(plugin, user) → seconds enabled, merged."""
Payers = dict[str, list[tuple[int, str]]]
"""user → [(from second, customer)], in order; before the first entry users pay for themselves."""


class Line(msgspec.Struct, frozen=True, order=True):
    """One line, in minor units: what the customer owes, what the author gets, what the platform keeps."""

    currency: str
    customer: str
    plugin: str
    kind: str
    line_group: str
    for_month: str
    month: str
    author: str
    customer_minor: int
    author_minor: int
    platform_minor: int
    quantity: str


def expected(purchases: Iterable[Purchase], hosted: Hosted, payers: Payers, through: str,
             rates: tuple[Rate, ...] = RATES, contracts: Iterable[Contract] = ()) -> list[Line]:
    """Every line up to and including month ``through``, each in its month. The order of the input does not matter: the
    same facts give the same lines, byte for byte."""
    lines: list[Line] = []
    for one in purchases:
        lines.append(_sale("sale", f"sale:{one.key}", one, one.at_ns, 1))
        if one.refunded_ns is not None:
            lines.append(_sale("refund", f"refund:{one.key}", one, one.refunded_ns, -1))
    for contract in contracts:
        month = month_name(*month_of(contract.at_ns // NS))
        lines.append(Line(contract.currency, contract.customer, "", "enterprise", f"enterprise:{contract.key}", month,
                          month, "", contract.price, 0, contract.price, contract.title))
    lines += _hosting(hosted, payers, through, rates)
    return sorted(line for line in lines if line.for_month <= through)


def _sale(kind: str, group: str, one: Purchase, at_ns: int, sign: int) -> Line:
    month = month_name(*month_of(at_ns // NS))
    return Line(one.currency, one.customer, one.plugin, kind, group, month, month, one.author, sign * one.gross,
                sign * one.author_share, sign * one.fee, f"purchase {one.key}, user {one.user_id}")


def _hosting(hosted: Hosted, payers: Payers, through: str, rates: tuple[Rate, ...]) -> list[Line]:
    groups: dict[tuple[str, str, str], dict[str, list[Interval]]] = {}
    end = month_interval(*parse_month(through))[1]
    for (plugin, user), spans in hosted.items():
        for start_s, end_s, customer in _paid_by(spans, payers.get(user, []), user):
            month = month_of(start_s)
            while (window := month_interval(*month))[0] < min(end_s, end):
                part = clip([(start_s, end_s)], window)
                users = groups.setdefault((customer, plugin, month_name(*month)), {})
                users.setdefault(user, []).extend(part)
                month = next_month(*month)
    lines = []
    for (customer, plugin, name), users in groups.items():
        amount = round_half_up(sum((hosting_exact(spans, rates) for spans in users.values()), Fraction(0)))
        seconds = sum(end_s - start_s for spans in users.values() for start_s, end_s in spans)
        if amount:
            lines.append(Line(HOSTING_CURRENCY, customer, plugin, "hosting", f"hosting:{customer}:{plugin}:{name}",
                              name, name, "", amount, 0, amount, f"{len(users)} users, {seconds} user-seconds"))
    return lines


def _paid_by(spans: list[Interval], changes: list[tuple[int, str]], user: str) -> list[tuple[int, int, str]]:
    payers = [(0, user), *sorted(changes, key=lambda change: change[0])]
    out = []
    for index, (from_s, customer) in enumerate(payers):
        until = payers[index + 1][0] if index + 1 < len(payers) else 1 << 62
        out += [(start, end, customer) for start, end in clip(spans, (from_s, until))]
    return out


def newly_due(wanted: Iterable[Line], billed: Iterable[Line], month: str) -> list[Line]:
    """The lines that ``month`` has to add: the expected ones minus those that closed months already have.

    A change to an earlier, closed month becomes a ``correction`` for that month; closed lines are never modified.
    """
    sums: dict[str, list[Line]] = {}
    for line in billed:
        sums.setdefault(line.line_group, []).append(line)
    out, seen = [], set()
    for line in wanted:
        seen.add(line.line_group)
        before = sums.get(line.line_group, [])
        amounts = (line.customer_minor - sum(old.customer_minor for old in before),
                   line.author_minor - sum(old.author_minor for old in before),
                   line.platform_minor - sum(old.platform_minor for old in before))
        if any(amounts):
            kind = line.kind if line.for_month == month and not before else "correction"
            out.append(_with(line, month, kind, amounts))
    for group, before in sums.items():
        amounts = (-sum(old.customer_minor for old in before), -sum(old.author_minor for old in before),
                   -sum(old.platform_minor for old in before))
        if group not in seen and any(amounts):
            out.append(_with(before[0], month, "correction", amounts))
    check_balance(out)
    return sorted(out)


def _with(line: Line, month: str, kind: str, amounts: tuple[int, int, int]) -> Line:
    return msgspec.structs.replace(line, month=month, kind=kind, customer_minor=amounts[0], author_minor=amounts[1],
                                   platform_minor=amounts[2])


def check_balance(lines: Iterable[Line]) -> None:
    """Raises SupervisorBug if a line does not add up; then nothing is invoiced."""
    for line in lines:
        if line.customer_minor != line.author_minor + line.platform_minor:
            raise SupervisorBug(f"{line.line_group} does not balance: {line}")


def digest(lines: Iterable[Line]) -> str:
    """SHA-256 (hex) over the lines in order; a closed month is checked against it."""
    return hashlib.sha256(msgspec.json.encode(list(lines))).hexdigest()


def statement(lines: Iterable[Line], month: str, closed: bool, author: str = "", customer: str = "",
              usage: dict[Key, Usage] | None = None) -> dict[str, Any]:
    """One party's statement of a month: the author's, the customer's, or (if neither is named) the platform's."""
    kept = [line for line in lines if (not author or line.author == author) and
            (not customer or line.customer == customer)]
    amount = "author_minor" if author else "customer_minor"
    totals: dict[str, dict[str, int]] = {}
    for line in kept:
        sums = totals.setdefault(line.currency, {"customers": 0, "authors": 0, "platform": 0})
        sums["customers"] += line.customer_minor
        sums["authors"] += line.author_minor
        sums["platform"] += line.platform_minor
    party = f"author {author}" if author else f"customer {customer}" if customer else "platform"
    out: dict[str, Any] = {"month": month, "status": "closed" if closed else "open", "party": party,
                           "lines": [msgspec.to_builtins(line) for line in kept], "totals": totals}
    if author or customer:
        out["due"] = {currency: sum(getattr(line, amount) for line in kept if line.currency == currency)
                      for currency in totals}
    if usage is not None:
        out["usage"] = [{"plugin": plugin, "userId": user, "month": name, **one.figures()}
                        for (plugin, user, name), one in usage.items()]
    return out


def to_csv(document: dict[str, Any]) -> str:
    """A statement's lines with amounts in major units; ``\\n`` ends each row."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(CSV_COLUMNS)
    for line in document["lines"]:
        money = [format_minor(line[name], line["currency"]) for name in _AMOUNTS]
        rows.writerow([safe_cell(line[name]) for name in _TEXTS] + money)
    return out.getvalue()


_AMOUNTS = ("customer_minor", "author_minor", "platform_minor")
_TEXTS = ("month", "for_month", "kind", "line_group", "plugin", "customer", "author", "quantity", "currency")
CSV_COLUMNS = (*_TEXTS, "customer_owes", "author_gets", "platform_keeps")
