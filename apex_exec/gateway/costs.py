"""What one API call costs this process and its helper: CPU time, collected wherever it is spent while the call is under
way, threads included, and told to the supervisor, which charges it to the call's plugin."""

from __future__ import annotations

import time
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

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


@types.coroutine
def stepped(work: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """``work``, each step of which is counted: what it does between two awaits, its libraries too."""
    sent: Any = None
    raised: BaseException | None = None
    while True:
        with counted():
            try:
                waits_for = work.throw(raised) if raised is not None else work.send(sent)
            except StopIteration as end:
                result: T = end.value
                return result
        sent = raised = None
        try:
            sent = yield waits_for
        except BaseException as error:  # for the work to hear, be it a cancellation
            raised = error


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
