"""When the loop looks awake before it sleeps: while news come fast and a core is free, and soon no longer."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from apex_exec.executor.loop import SPIN_NS, SPINS_MAX, Loop

WAIT_NS = 20 * SPIN_NS


class Counted:
    """An epoll that counts looks which do not wait."""

    def __init__(self, epoll: Any) -> None:
        self.epoll = epoll
        self.looks = 0

    def poll(self, seconds: float, *args: int) -> list[tuple[int, int]]:
        self.looks += seconds == 0
        found: list[tuple[int, int]] = self.epoll.poll(seconds, *args)
        return found

    def register(self, fd: int, mask: int) -> None:
        self.epoll.register(fd, mask)


@pytest.fixture
def news() -> Iterator[tuple[Loop, Counted, int, int]]:
    loop = Loop()
    counted: Any = Counted(loop._epoll)
    loop._epoll = counted
    read, write = os.pipe()
    loop.add(read, lambda _: None)
    yield loop, counted, read, write
    os.close(read)
    os.close(write)


def wait(loop: Loop) -> None:
    loop._wait(time.monotonic_ns(), WAIT_NS)


def awake(loop: Loop, counted: Counted) -> int:
    """In how many of the next waits, all in vain, the loop looks awake."""
    found = 0
    for _ in range(SPINS_MAX + 3):
        before = counted.looks
        wait(loop)
        found += counted.looks > before
    return found


def test_it_looks_awake_after_fast_news_and_only_a_few_times_in_vain(news: tuple[Loop, Counted, int, int]) -> None:
    loop, counted, read, write = news
    wait(loop)
    assert counted.looks == 0
    os.write(write, b"x")
    for _ in range(10):
        wait(loop)
    os.read(read, 1)
    assert 0 < awake(loop, counted) <= SPINS_MAX and loop._spins == 0


def test_it_sleeps_at_once_where_no_core_is_free_and_owes_no_looks_for_it(news: tuple[Loop, Counted, int, int]) -> None:
    loop, counted, read, write = news
    loop.core_free = False
    os.write(write, b"x")
    for _ in range(50):
        wait(loop)
    assert counted.looks == 0
    os.read(read, 1)
    loop.core_free = True
    assert 0 < awake(loop, counted) <= SPINS_MAX and loop._spins == 0
