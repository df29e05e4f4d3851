"""The revenue model's arithmetic: the worked figures, and what holds for every amount and interval."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apex_exec.errors import Refusal
from apex_exec.market.money.billing import (
    Rate,
    enterprise_price,
    hosting_exact,
    hosting_quote,
    rate_at,
    split_sale,
)
from apex_exec.market.money.money import AMOUNT_MINOR_MAX, round_half_up
from apex_exec.market.money.months import (
    NS,
    add_months,
    clip,
    merge,
    month_interval,
    month_of,
    parse_day,
    parse_month,
    whole_seconds,
)

DAY = 86_400
intervals = st.lists(st.tuples(st.integers(0, 10**8), st.integers(0, 10**7)).map(lambda p: (p[0], p[0] + p[1])),
                     max_size=8)


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def test_19_95_leaves_5_99_for_the_marketplace_and_13_96_for_the_author() -> None:
    split = split_sale(1995)
    assert (split.gross, split.fee, split.author) == (1995, 599, 1396)


def test_a_cost_of_10_000_is_priced_20_000() -> None:
    assert enterprise_price(1_000_000) == 2_000_000


def test_1000_users_for_10_of_31_days_cost_16_13_and_not_20_00() -> None:
    assert hosting_quote(1000, parse_day("2026-10-01"), parse_day("2026-10-11")) == 1613
    assert 1000 * round_half_up(hosting_exact([(parse_day("2026-10-01"), parse_day("2026-10-11"))])) == 2000


def test_a_full_month_costs_five_cents_in_a_leap_february_as_in_any_other() -> None:
    for month in ("2028-02", "2027-02", "2026-12"):
        assert hosting_exact([month_interval(*parse_month(month))]) == 5
    leap = hosting_exact([(at("2028-02-29"), at("2028-03-01"))])
    assert leap == Fraction(5, 29)
    assert hosting_exact([(at("2028-02-01"), at("2028-02-15"))]) == Fraction(14 * 5, 29)
    assert hosting_exact([(at("2027-02-01"), at("2027-02-15"))]) == Fraction(14 * 5, 28)


def test_enable_disable_enable_with_overlaps_counts_each_second_once() -> None:
    start = at("2026-10-01")
    messy = [(start, start + 10 * DAY), (start + 5 * DAY, start + 12 * DAY), (start + 20 * DAY, start + 25 * DAY),
             (start + 20 * DAY, start + 21 * DAY)]
    assert hosting_exact(messy) == Fraction(17 * 5, 31)
    assert whole_seconds(start * NS + 999_999_999, (start + 1) * NS) == (start, start + 1)


def test_a_rate_that_changes_inside_a_month_counts_by_the_second_on_both_sides() -> None:
    rates = (Rate(), Rate(from_s=at("2026-10-11"), hosting_minor=Fraction(31), fee_percent=Fraction(20)))
    assert hosting_exact([month_interval(2026, 10)], rates) == Fraction(10 * 5, 31) + 21
    assert split_sale(1000, rate_at(at("2026-10-10"), rates)).fee == 300
    assert split_sale(1000, rate_at(at("2026-10-11"), rates)).fee == 200


def test_renewals_keep_the_first_day_of_a_subscription() -> None:
    first = at("2026-01-31T12:00:00") * NS + 7
    assert [add_months(first, n) for n in (1, 2, 12)] == [
        at("2026-02-28T12:00:00") * NS + 7, at("2026-03-31T12:00:00") * NS + 7, at("2027-01-31T12:00:00") * NS + 7]
    assert add_months(at("2028-02-29") * NS, 12) == at("2029-02-28") * NS


@given(st.integers(0, AMOUNT_MINOR_MAX))
def test_fee_and_author_share_always_add_up_to_the_gross(gross: int) -> None:
    split = split_sale(gross)
    assert split.fee + split.author == gross
    assert 0 <= split.fee <= gross
    assert abs(Fraction(gross * 30, 100) - split.fee) <= Fraction(1, 2)


@given(intervals, st.randoms())
def test_the_order_of_enablements_never_matters(parts: list[tuple[int, int]], random: object) -> None:
    shuffled = list(parts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # Hypothesis types st.randoms() as object here
    assert merge(shuffled) == merge(parts)
    assert hosting_exact(shuffled) == hosting_exact(parts + parts)


@given(intervals)
def test_months_add_up_to_the_whole(parts: list[tuple[int, int]]) -> None:
    whole = hosting_exact(parts)
    year, month = 1970, 1
    total = Fraction(0)
    while month_interval(year, month)[0] <= 2 * 10**8:
        total += hosting_exact(clip(parts, month_interval(year, month)))
        year, month = month_of(month_interval(year, month)[1])
    assert total == whole


@pytest.mark.parametrize("arguments", [(-1, 0, 1), (1, 2, 1), (10**10, 0, 1), (10**9, 0, 250_000_000_000)])
def test_impossible_quotes_are_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(Refusal):
        hosting_quote(*arguments)
    with pytest.raises(Refusal):
        enterprise_price(AMOUNT_MINOR_MAX)


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "apex_exec", "billing", "quote", *arguments], text=True, timeout=60,
                          capture_output=True, check=False)


@pytest.mark.parametrize(("arguments", "expected"), [
    (("sale", "19.95"), {"gross": 1995, "fee": 599, "author": 1396}),
    (("enterprise", "10000"), {"cost": 1_000_000, "price": 2_000_000}),
    (("hosting", "--users", "1000", "--from", "2026-10-01", "--to", "2026-10-11"), {"amount": 1613}),
])
def test_the_command_line_answers_in_minor_units(arguments: tuple[str, ...], expected: dict[str, int]) -> None:
    done = _run(*arguments, "--json")
    assert done.returncode == 0 and json.loads(done.stdout) == {**expected, "currency": "USD"}


def test_the_command_line_shows_major_units() -> None:
    done = _run("sale", "19.95")
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["gross", "19.95", "USD"], ["fee", "5.99", "USD"], ["author", "13.96", "USD"]]


@pytest.mark.parametrize("arguments", [
    ("sale", "19.955"), ("sale", "0.001"), ("sale", "-1"), ("enterprise", "abc"), ("enterprise", "9" * 30),
    ("hosting", "--users", "-3", "--from", "2026-10-01", "--to", "2026-10-11"),
    ("hosting", "--users", "3", "--from", "2026-10-11", "--to", "2026-10-01"),
    ("hosting", "--users", "3", "--from", "2026-02-30", "--to", "2026-10-01"),
])
@pytest.mark.slow_after(2)
def test_wrong_usage_ends_with_status_2_and_one_line(arguments: tuple[str, ...]) -> None:
    done = _run(*arguments)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.strip()
    assert "Traceback" not in done.stderr
