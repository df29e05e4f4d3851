"""Wrong tries are answered up to a rate, of each address on its own."""

from __future__ import annotations

from apex_exec.common.tries import ADDRESSES_MAX, TRIES_PER_MINUTE, Tries


def test_ten_wrong_tries_a_minute_are_answered_and_an_honest_neighbour_waits_for_nobody() -> None:
    tries = Tries()
    assert [tries.wrong("a", 0) for _ in range(int(TRIES_PER_MINUTE))] == [0.0] * 10
    assert 0 < tries.wrong("a", 0) <= 6 and tries.wrong("b", 0) == 0
    assert tries.wrong("a", 61) == 0
    for number in range(ADDRESSES_MAX + 10):
        tries.wrong(f"10.{number}", 100)
    assert tries.wrong("a", 100) == 0  # forgotten with the oldest, and no more memory is taken
