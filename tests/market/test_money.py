"""Amounts are whole minor units of a known currency; anything else is one clear error."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apex_exec.errors import Refusal
from apex_exec.market.money.money import (
    AMOUNT_MINOR_MAX,
    check_minor,
    exponent,
    format_minor,
    parse_major,
    round_half_up,
)
from apex_exec.market.money.pricing import DatedPrice, Price, parse_price, price_at


@pytest.mark.parametrize(("text", "currency", "minor"), [
    ("19.95", "USD", 1995), ("10000", "USD", 1_000_000), ("0.5", "USD", 50), ("7", "JPY", 7), ("1.234", "KWD", 1234)])
def test_major_units_become_minor_units_by_the_currencys_exponent(text: str, currency: str, minor: int) -> None:
    assert parse_major(text, currency) == minor


@pytest.mark.parametrize("text", ["0.001", "19.955", "-1", "+1", "1e5", "NaN", "inf", "", " 1", "1,5", "1.", ".5", "٣",
                                  "9" * 17, "10000000000.01", "1" + "0" * 400])
def test_a_tenth_of_a_cent_signs_and_overflow_are_refused(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse_major(text, "USD")
    assert caught.value.reason == "amount_invalid"


@pytest.mark.parametrize("amount", [0.1, 19.95, "1995", True, None, -1, AMOUNT_MINOR_MAX + 1, 2**70])
def test_an_amount_is_a_bounded_whole_number(amount: Any) -> None:
    with pytest.raises(Refusal, match="amount"):
        check_minor(amount)


@given(st.integers(-(10**15), 10**15), st.sampled_from(["USD", "JPY", "KWD"]))
def test_formatting_loses_nothing(amount: int, currency: str) -> None:
    text = format_minor(amount, currency)
    assert Fraction(text) * 10 ** exponent(currency) == amount


@given(st.fractions())
def test_rounding_is_to_the_nearest_half_away_from_zero(value: Fraction) -> None:
    rounded = round_half_up(value)
    assert abs(rounded - value) <= Fraction(1, 2)
    assert round_half_up(-value) == -rounded
    if abs(rounded - value) == Fraction(1, 2):
        assert abs(rounded) > abs(value)


def test_prices_are_free_one_time_or_a_subscription() -> None:
    assert parse_price({"model": "free"}) == Price()
    once = parse_price({"model": "one-time", "amount": 1995, "currency": "EUR"})
    assert once == Price("one-time", 1995, "EUR") and once.paid
    monthly = parse_price({"model": "subscription", "amount": 500, "currency": "USD", "interval": "month"})
    assert monthly == Price("subscription", 500, "USD", "month")


@pytest.mark.parametrize(("pricing", "reason"), [
    (None, "pricing_invalid"), ({}, "pricing_invalid"), ({"model": "gift"}, "pricing_invalid"),
    ({"model": "free", "amount": 1}, "pricing_invalid"),
    ({"model": "one-time", "amount": 1995}, "pricing_invalid"),
    ({"model": "one-time", "amount": 0.1, "currency": "USD"}, "amount_invalid"),
    ({"model": "one-time", "amount": 0, "currency": "USD"}, "amount_invalid"),
    ({"model": "one-time", "amount": -5, "currency": "USD"}, "amount_invalid"),
    ({"model": "one-time", "amount": 10**30, "currency": "USD"}, "amount_invalid"),
    ({"model": "one-time", "amount": 5, "currency": "usd"}, "unknown_currency"),
    ({"model": "one-time", "amount": 5, "currency": "XXX"}, "unknown_currency"),
    ({"model": "one-time", "amount": 5, "currency": ["USD"]}, "unknown_currency"),
    ({"model": ["free"]}, "pricing_invalid"),
    ({"model": "subscription", "amount": 5, "currency": "USD", "interval": "week"}, "pricing_invalid"),
])
def test_a_price_that_cannot_be_charged_is_refused_by_name(pricing: Any, reason: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse_price(pricing)
    assert caught.value.reason == reason


def test_a_price_change_counts_from_its_date() -> None:
    old, new = Price("one-time", 100, "USD"), Price("one-time", 200, "USD")
    prices = [DatedPrice(10, old), DatedPrice(20, new)]
    assert [price_at(prices, at) for at in (9, 10, 19, 20)] == [None, old, old, new]
