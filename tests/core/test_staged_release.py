"""A staged release reaches the same customers as it grows, stops when it is worse, and hardly ever when it is not."""

from __future__ import annotations

import random
from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apex_exec.core.staged_release import (
    CALLS_MIN,
    ERROR,
    PLACES,
    RATE_WITHOUT_PREVIOUS,
    Tally,
    binomial,
    fisher,
    is_offered,
    judge,
    look_at,
    place_of,
)

CUSTOMERS = [f"customer-{number}" for number in range(4000)]


@given(st.text(max_size=80), st.text(max_size=80), st.integers(0, 100), st.integers(0, 100))
def test_who_is_in_stays_in_as_the_share_grows(release: str, customer: str, one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert 0 <= place_of(release, customer) < PLACES
    assert is_offered(release, customer, low) <= is_offered(release, customer, high)
    assert is_offered(release, customer, 100) and not is_offered(release, customer, 0)


@pytest.mark.parametrize("percent", [1, 5, 25, 50, 99])
def test_the_share_is_what_it_says(percent: int) -> None:
    offered = sum(is_offered("a" * 64, customer, percent) for customer in CUSTOMERS)
    spread = (len(CUSTOMERS) * percent / 100 * (1 - percent / 100)) ** 0.5
    assert abs(offered - len(CUSTOMERS) * percent / 100) < 4 * spread


def test_another_release_begins_with_other_customers() -> None:
    first, second = ({customer for customer in CUSTOMERS if is_offered(release, customer, 10)}
                     for release in ("a" * 64, "b" * 64))
    assert len(first & second) < len(first) / 4, "about a tenth of a tenth"
    assert place_of("ab", "c") != place_of("a", "bc"), "release and customer are two texts"


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_the_tails_are_those_of_exact_arithmetic(one: int, failed: int, other: int, before: int) -> None:
    new, old = Tally(one, min(one, failed)), Tally(other, min(other, before))
    calls, failures = new.calls + old.calls, new.failures + old.failures
    exact = sum(Fraction(comb(new.calls, count) * comb(old.calls, failures - count), comb(calls, failures))
                for count in range(new.failures, min(failures, new.calls) + 1))
    assert fisher(new, old) >= float(exact) * (1 - 1e-9), "never surer than the figures are"
    if new.failures * calls > failures * new.calls:
        assert fisher(new, old) == pytest.approx(float(exact), rel=1e-9)
    rate = Fraction(1, 20)
    tail = sum(comb(new.calls, count) * rate**count * (1 - rate) ** (new.calls - count)
               for count in range(new.failures, new.calls + 1))
    if new.failures > rate * new.calls:
        assert binomial(new, float(rate)) == pytest.approx(float(tail), rel=1e-9)


@given(st.integers(0, 10_000_000))
def test_a_look_is_due_once_and_never_before_the_last(calls: int) -> None:
    assert look_at(calls) <= look_at(calls + 1) <= look_at(calls) + 1
    assert (look_at(calls) > 0) == (calls >= CALLS_MIN)
    new = Tally(calls, calls)
    assert judge(new, Tally(), look_at(calls)) is None, "made before"
    assert (judge(new, Tally(), 0) is None) == (calls < CALLS_MIN)


def halted(random_: random.Random, rate: float, before: float, calls: int, previous: int, step: int = 7) -> int:
    """After how many calls a simulated release is halted, as the daemon looks at it; 0 if it is not."""
    old = Tally(previous, sum(random_.random() < before for _ in range(previous)))
    looked = made = failures = 0
    while made < calls:
        for _ in range(step):  # the daemon looks every few seconds, whatever has come meanwhile
            made += 1
            failures += random_.random() < rate
        found = judge(Tally(made, failures), old, looked)
        if found is not None:
            looked = found.look
            if found.halt:
                return made
    return 0


@pytest.mark.parametrize(("rate", "previous"), [(0.0, 1000), (0.02, 1000), (0.2, 1000), (0.5, 60), (0.05, 0)])
def test_a_release_that_is_no_worse_is_hardly_ever_halted(rate: float, previous: int) -> None:
    random_ = random.Random(7)
    runs = 300
    wrong = sum(bool(halted(random_, rate, rate, 700, previous)) for _ in range(runs))
    assert wrong <= runs * ERROR + 3 * (runs * ERROR) ** 0.5, f"{wrong} of {runs}"


@pytest.mark.parametrize(("rate", "before", "previous", "within"), [
    (1.0, 0.0, 1000, 28), (0.5, 0.01, 1000, 35), (0.1, 0.01, 5000, 350), (0.4, 0.2, 2000, 250),
    (1.0, RATE_WITHOUT_PREVIOUS, 0, 28), (0.3, 0.0, 0, 140)])
def test_a_release_that_is_worse_is_halted_soon(rate: float, before: float, previous: int, within: int) -> None:
    random_ = random.Random(11)
    after = [halted(random_, rate, before, 2000, previous) for _ in range(40)]
    assert all(after), "each of them is halted"
    assert sorted(after)[len(after) // 2] <= within, f"half of them within {sorted(after)[len(after) // 2]} calls"


def test_a_difference_that_is_sure_and_small_halts_nothing() -> None:
    found = judge(Tally(1_000_000, 6_000), Tally(1_000_000, 1_000), 0)
    assert found is not None and found.likelihood < 1e-100 and not found.halt
    found = judge(Tally(1_000_000, 16_000), Tally(1_000_000, 1_000), 0)
    assert found is not None and found.halt


def test_what_has_no_version_before_it_is_held_to_a_fixed_rate() -> None:
    found = judge(Tally(100, 30), Tally(CALLS_MIN - 1, 0), 0)
    assert found is not None and found.halt and not found.compared
    found = judge(Tally(100, 6), Tally(), 0)
    assert found is not None and not found.halt
