"""Histories of a fleet with kills, drains, cuts, restarts, skewed clocks and slow links; and mutants that they find."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.fleet.simulation import history


def play(first: int, count: int) -> Counter[str]:
    kinds = Counter[str]()
    for seed in range(first, first + count):
        try:
            kinds += history(seed).kinds
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    return kinds


def test_histories_keep_every_promise() -> None:
    kinds = play(0, 150)
    assert {"own", "forwarded", "lost", "killed", "drained", "cut", "handed", "fetched"} <= kinds.keys(), kinds


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_histories_keep_every_promise() -> None:
    assert play(1000, 10_000)["forwarded"] > 10_000


def test_the_last_word_of_a_node_that_has_ended_makes_nobody_an_owner() -> None:
    """It came after the end of the link, on the connection that the other had made."""
    with pytest.raises(AssertionError, match="which is not there"):
        history(6931, "hearsay")
    history(6931)


@pytest.mark.parametrize("mutant", ["again", "forgets", "eager", "silent"])
def test_a_broken_fleet_is_found(mutant: str) -> None:
    for seed in range(400):
        try:
            history(seed, mutant)
        except AssertionError:
            return
    pytest.fail(f"no history of 400 has found the mutant {mutant}")
