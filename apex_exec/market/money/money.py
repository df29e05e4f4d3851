"""Money: whole minor units with an ISO 4217 currency; exact fractions in between, rounded half-up once. Pure.

No float ever holds an amount. An amount in major units arrives as text and is refused if it has more decimals than its
currency, so that 0.1 cents is an error and not a rounding.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from apex_exec.common.currencies import CURRENCIES
from apex_exec.errors import Code, Refusal

AMOUNT_MINOR_MAX = 10**12
"""The largest single amount. A statement sums at most some millions of them: far inside a database's 64-bit integers.
"""


def exponent(currency: Any) -> int:
    """The decimals of ``currency``. Raises Refusal("unknown_currency")."""
    if not isinstance(currency, str) or currency not in CURRENCIES:
        raise Refusal("unknown_currency", f"{str(currency)[:20]!r} is not an ISO 4217 currency in use",
                      hint="three capital letters, as USD", code=Code.INVALID_INPUT)
    return CURRENCIES[currency]


def check_minor(amount: Any, what: str = "amount", least: int = 0) -> int:
    """``amount`` as whole minor units in [least, AMOUNT_MINOR_MAX]. Raises Refusal("amount_invalid")."""
    if not isinstance(amount, int) or isinstance(amount, bool):
        raise Refusal("amount_invalid", f"{what}: {str(amount)[:40]!r} is not a whole number of minor units (cents)",
                      hint="19.95 USD is 1995", code=Code.INVALID_INPUT)
    if not least <= amount <= AMOUNT_MINOR_MAX:
        raise Refusal("amount_invalid", f"{what}: {str(amount)[:40]} is not between {least} and {AMOUNT_MINOR_MAX} "
                      "minor units", code=Code.INVALID_INPUT)
    return amount


def parse_major(text: str, currency: str = "USD", what: str = "amount") -> int:
    """``"19.95"`` → 1995. Raises Refusal("amount_invalid") for signs, exponents and too many decimals."""
    digits = exponent(currency)
    match = re.fullmatch(r"([0-9]{1,16})(?:\.([0-9]{1,40}))?", text, re.ASCII)
    if match is None or len(match[2] or "") > digits:
        raise Refusal("amount_invalid", f"{what}: {text[:40]!r} is not an amount with at most {digits} decimals",
                      hint="digits, and a point: 19.95", code=Code.INVALID_INPUT)
    return check_minor(int(match[1]) * 10**digits + int((match[2] or "").ljust(digits, "0") or "0"), what)


def format_minor(amount: int, currency: str) -> str:
    """1995 → ``"19.95"``: the sign first, and as many decimals as the currency has."""
    digits = exponent(currency)
    sign, whole = "-" if amount < 0 else "", str(abs(amount)).rjust(digits + 1, "0")
    return f"{sign}{whole[:-digits]}.{whole[-digits:]}" if digits else sign + whole


def round_half_up(value: Fraction) -> int:
    """The nearest whole number. A half is rounded away from zero, so that a reversal mirrors its charge."""
    twice = 2 * abs(value) + 1
    whole = twice.numerator // (2 * twice.denominator)
    return whole if value >= 0 else -whole
