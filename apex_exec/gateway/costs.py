"""What one API call costs this process and its helper: CPU time, collected wherever it is spent while the call is under
way, threads included, and told to the supervisor, which charges it to the call's plugin."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")


class Cost:
    """CPU nanoseconds of one call so far. Threads add to it one at a time: a call is at one place at once."""

    __slots__ = ("cpu_ns",)

    def __init__(self) -> None:
        self.cpu_ns = 0


COST: ContextVar[Cost | None] = ContextVar("cost", default=None)
"""The cost of the call whose task this is."""


@contextmanager
def counted() -> Iterator[None]:
    """Adds the CPU time of this thread within the block, which must not await."""
    cost = COST.get()
    begun_ns = time.thread_time_ns()
    try:
        yield
    finally:
        if cost is not None:
            cost.cpu_ns += time.thread_time_ns() - begun_ns


def counting(work: Callable[[], T]) -> Callable[[], T]:
    """``work``, for another thread, whose CPU time is added to the call that this task serves."""
    cost = COST.get()
    if cost is None:
        return work

    def counted_work() -> T:
        begun_ns = time.thread_time_ns()
        try:
            return work()
        finally:
            cost.cpu_ns += time.thread_time_ns() - begun_ns

    return counted_work
