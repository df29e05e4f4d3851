"""What fails again is left alone for twice as long, up to a bound; what works starts over."""

from __future__ import annotations

import pytest

from apex_exec.common.backoff import Backoff

pytestmark = pytest.mark.fast


def test_each_wait_is_twice_the_last_up_to_the_longest() -> None:
    waits = Backoff(100, 5000)
    assert [waits.take() for _ in range(8)] == [100, 200, 400, 800, 1600, 3200, 5000, 5000]


def test_after_a_success_the_first_wait_is_the_shortest_again() -> None:
    waits = Backoff(0.25, 2.0)
    for _ in range(5):
        waits.take()
    waits.reset()
    assert [waits.take() for _ in range(2)] == [0.25, 0.5]
