"""What one API call costs this process and its helper. CPU time is measured wherever it is spent during the call,
threads included, and reported to the supervisor, which charges it to the plugin that made the call."""

from __future__ import annotations

import os
import threading
import time
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

NICENESS = 5


class Cost:
    """The CPU nanoseconds of one call so far. No two threads add at the same time: a call runs in one place at a time.
    """

    __slots__ = ("cpu_ns", "is_traced", "work")

    def __init__(self, is_traced: bool = False) -> None:
        self.cpu_ns = 0
        self.is_traced = is_traced
        self.work: tuple[int, int] | None = None
        """From when to when (CLOCK_MONOTONIC, ns) a database or a server was at work for the call, if it is traced."""


COST: ContextVar[Cost | None] = ContextVar("cost", default=None)
"""The cost of the call that the current task serves."""


@contextmanager
def counted() -> Iterator[None]:
    """Adds the CPU time that this thread uses within the block, which must not await."""
    cost = COST.get()
    begun_ns = time.thread_time_ns()
    try:
        yield
    finally:
        if cost is not None:
            cost.cpu_ns += time.thread_time_ns() - begun_ns


@contextmanager
def at_work() -> Iterator[None]:
    """Notes when the block began and ended, if the call is traced: a database or a server is at work for it then."""
    cost = COST.get()
    if cost is None or not cost.is_traced:
        yield
        return
    begun_ns = time.monotonic_ns() if cost.work is None else cost.work[0]
    try:
        yield
    finally:
        cost.work = (begun_ns, time.monotonic_ns())


@types.coroutine
def stepped(work: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """``work`` with every step counted: all that it and its libraries do between two awaits."""
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
        except BaseException as error:  # passed on to the work, even if it is a cancellation
            raised = error


def counting(work: Callable[[], T]) -> Callable[[], T]:
    """``work`` for another thread; its CPU time is added to the call that the current task serves."""
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


def give_way() -> None:
    """Lowers the priority of this thread only: what computes for seconds in a database must not take the core of the
    supervisor's loop."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
