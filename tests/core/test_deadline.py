"""The heap of due times: one live entry an owner, and few outdated ones."""

from __future__ import annotations

from apex_exec.core.deadline import STALE_MAX, Timed, Timers


def test_an_owner_that_is_dropped_and_armed_for_the_same_time_is_woken_once() -> None:
    timers, owner = Timers(), Timed()
    timers.arm(owner, 5)
    timers.drop(owner)
    timers.arm(owner, 5)
    assert timers.pop_due(5) is owner
    assert timers.pop_due(5) is None


def test_the_heap_stays_small_however_often_owners_come_and_go() -> None:
    timers, owners = Timers(), (Timed(), Timed())
    for _ in range(1000):
        for owner in owners:  # each is armed while the other's end has the heap swept
            timers.drop(owner)
            timers.arm(owner, 5)
        assert len(timers) <= 2 * (STALE_MAX + len(owners)) + 2
