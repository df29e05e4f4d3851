"""What a plugin costs: nothing, a one-time price, or a subscription by month or year. Pure.

A price is part of the manifest (``pricing``) and is signed with it. Changes have dates: a purchase stores its own copy,
so that it keeps the price at which it was made.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import msgspec

from apex_exec.errors import Code, Refusal
from apex_exec.market.money.money import check_minor, exponent

Model = Literal["free", "one-time", "subscription"]
Interval = Literal["", "month", "year"]


class Price(msgspec.Struct, frozen=True):
    """One price. ``amount`` is in minor units of ``currency``, and per interval if the model is a subscription."""

    model: Model = "free"
    amount: int = 0
    currency: str = "USD"
    interval: Interval = ""

    @property
    def paid(self) -> bool:
        """Whether a user needs a purchase."""
        return self.model != "free"


_FIELDS: dict[Model, tuple[str, ...]] = {
    "free": ("model",),
    "one-time": ("model", "amount", "currency"),
    "subscription": ("model", "amount", "currency", "interval"),
}


def parse_price(pricing: Any) -> Price:
    """The price in a manifest. Raises Refusal: pricing_invalid, amount_invalid, unknown_currency."""
    model = pricing.get("model") if isinstance(pricing, dict) else None
    if not isinstance(model, str) or model not in _FIELDS:
        raise _invalid(f"model: {str(model)[:40]!r} is not one of free, one-time, subscription")
    fields = _FIELDS[model]
    unknown = sorted(str(key)[:40] for key in pricing if key not in fields)
    missing = [key for key in fields if key not in pricing]
    if unknown or missing:
        problem = f"{unknown[0]!r} has no meaning" if unknown else f"{missing[0]!r} is missing"
        raise _invalid(f"{problem} in a {model} price; it has {', '.join(fields)}")
    if model == "free":
        return Price()
    exponent(pricing["currency"])
    amount = check_minor(pricing["amount"], "pricing.amount", least=1)
    interval = pricing.get("interval", "")
    if model == "subscription" and interval not in ("month", "year"):
        raise _invalid(f"interval: {str(interval)[:40]!r} must be month or year")
    return Price(cast(Model, model), amount, pricing["currency"], interval)


class DatedPrice(msgspec.Struct, frozen=True):
    """A price that is in force from a moment on."""

    from_ns: int
    price: Price


def price_at(prices: list[DatedPrice], at_ns: int) -> Price | None:
    """The price in force at ``at_ns``; of two from the same moment, the later one in the list. None before the first.
    """
    best: DatedPrice | None = None
    for dated in prices:
        if dated.from_ns <= at_ns and (best is None or dated.from_ns >= best.from_ns):
            best = dated
    return best.price if best is not None else None


def _invalid(message: str) -> Refusal:
    return Refusal("pricing_invalid", f"pricing: {message}", code=Code.INVALID_INPUT,
                   hint='{"model": "subscription", "amount": 1995, "currency": "USD", "interval": "month"}')
