"""The simulator is worth what it finds: every known way to break the core must make it fail."""

from __future__ import annotations

import pytest

from tests.sim import mutants


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_simulator_finds_every_mutant_of_the_core() -> None:
    told: list[str] = []
    assert mutants.score(told.append) == 0, "\n".join(told)
    assert len(mutants.MUTANTS) >= 15


def test_mutants_have_names_of_their_own() -> None:
    assert len({mutant.name for mutant in mutants.MUTANTS}) == len(mutants.MUTANTS)


def test_every_mutant_changes_a_piece_that_stands_in_the_core_once() -> None:
    assert mutants.misplaced() == []
