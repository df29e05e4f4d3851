"""How many workers have a call: what the loop goes by when it looks awake. Of what workers say, nothing else counts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.executor import PlayedExecutor
from workers import wire as inner


@pytest.fixture
def played() -> Iterator[PlayedExecutor]:
    made = PlayedExecutor()
    yield made
    made.close()
    assert not made.executor.busy


def answer(played: PlayedExecutor, worker: int, seq: int) -> None:
    played.say(worker, inner.Reply(seq, inner.NIL, 0))


def test_a_worker_counts_from_its_first_call_to_its_last_answer(played: PlayedExecutor) -> None:
    for worker in (1, 2):
        played.start(worker)
        played.call(worker, 0)
        played.call(worker, 1)
    assert len(played.executor.busy) == 2
    answer(played, 1, 0)
    assert len(played.executor.busy) == 2
    answer(played, 1, 1)
    assert len(played.executor.busy) == 1


def test_one_that_dies_with_calls_counts_no_more_and_an_idle_one_never_did(played: PlayedExecutor) -> None:
    played.start(1)
    played.start(2)
    played.call(1, 0)
    played.die(2)
    assert len(played.executor.busy) == 1
    played.die(1)
    assert len(played.executor.busy) == 0


def test_answers_that_nobody_asked_for_do_not_move_the_count_of_others(played: PlayedExecutor) -> None:
    played.start(1)
    played.start(2)
    played.call(2, 0)
    for seq in range(3):
        answer(played, 1, seq)  # a violation, for which the core ends it; until then it counts as a worker
    assert len(played.executor.busy) == 1
    played.call(1, 3)
    assert len(played.executor.busy) <= 2
    played.die(1)
    assert len(played.executor.busy) == 1
