"""The formulas of the revenue model: marketplace fee, enterprise price, hosting by the second; dated rates. Pure.

- sale: fee = 30 % of the gross, rounded half-up to minor units; author = gross − fee, so the two always add up.
- enterprise: price = cost / (1 − margin), with a margin of 0.5.
- hosting: 5 US cents per plugin, user and month; a part of a month counts by its seconds over the month's seconds.
  The sum stays a Fraction, and is rounded once per line group (one customer, one plugin, one month).
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import msgspec

from apex_exec.errors import Code, Refusal
from apex_exec.market.money.money import AMOUNT_MINOR_MAX, check_minor, round_half_up
from apex_exec.market.money.months import Interval, clip, merge, month_interval, month_of, next_month

HOSTING_CURRENCY = "USD"
USERS_MAX = 1_000_000_000


class Rate(msgspec.Struct, frozen=True):
    """The rates from ``from_s`` (seconds since 1970) until the next entry of the table."""

    from_s: int = 0
    fee_percent: Fraction = Fraction(30)
    margin: Fraction = Fraction(1, 2)
    hosting_minor: Fraction = Fraction(5)


RATES: tuple[Rate, ...] = (Rate(),)
"""The table in force. A change is a new entry with a date; entries that invoices were made from are never edited."""


class Sale(msgspec.Struct, frozen=True):
    """How one sale is split, in minor units."""

    gross: int
    fee: int
    author: int


def rate_at(at_s: int, rates: tuple[Rate, ...] = RATES) -> Rate:
    """The entry in force at ``at_s``."""
    return max((rate for rate in rates if rate.from_s <= at_s), key=lambda rate: rate.from_s)


def split_sale(gross: int, rate: Rate = RATES[-1]) -> Sale:
    """1995 → fee 599, author 1396. Raises Refusal("amount_invalid")."""
    check_minor(gross, "gross")
    fee = round_half_up(gross * rate.fee_percent / 100)
    return Sale(gross, fee, gross - fee)


def enterprise_price(cost: int, rate: Rate = RATES[-1]) -> int:
    """The price of custom development that cost ``cost``. Raises Refusal("amount_invalid")."""
    check_minor(cost, "cost")
    return check_minor(round_half_up(cost / (1 - rate.margin)), "price")


def hosting_exact(intervals: Iterable[Interval], rates: tuple[Rate, ...] = RATES, users: int = 1) -> Fraction:
    """Minor units for one plugin enabled during ``intervals`` for each of ``users`` users; not rounded.

    Overlaps count once. Months are in UTC; if the rate changes inside a month, each part has its own rate.
    """
    total = Fraction(0)
    cuts = sorted(rate.from_s for rate in rates)
    for start, end in merge(intervals):
        month = month_of(start)
        while (window := month_interval(*month))[0] < end:
            for index, cut in enumerate(cuts):
                until = cuts[index + 1] if index + 1 < len(cuts) else window[1]
                for part_start, part_end in clip([(start, end)], (max(window[0], cut), min(window[1], until))):
                    seconds = Fraction(part_end - part_start, window[1] - window[0])
                    total += seconds * rate_at(cut, rates).hosting_minor
            month = next_month(*month)
    return total * users


def hosting_quote(users: int, start_s: int, end_s: int, rates: tuple[Rate, ...] = RATES) -> int:
    """Minor units for ``users`` users from ``start_s`` to ``end_s``. A quote is one line group, so it is rounded once.
    """
    if not 0 <= users <= USERS_MAX:
        raise Refusal("users_invalid", f"users: {users} is not between 0 and {USERS_MAX}", code=Code.INVALID_INPUT)
    if end_s < start_s:
        raise Refusal("date_invalid", "the end (--to) is before the beginning (--from)", code=Code.INVALID_INPUT)
    amount = round_half_up(hosting_exact([(start_s, end_s)], rates, users))
    if amount > AMOUNT_MINOR_MAX:
        raise Refusal("amount_invalid",
                      f"{amount} minor units exceed the limit of {AMOUNT_MINOR_MAX}", code=Code.INVALID_INPUT)
    return amount
