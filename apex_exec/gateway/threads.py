"""Waiting for work in a thread that cannot be abandoned: it holds a connection, and may have committed a write."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def until_done(future: asyncio.Future[Any]) -> None:
    """Waits until ``future`` is done, no matter how often the caller is cancelled meanwhile."""
    while not future.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait((future,))


async def finished(future: asyncio.Future[T], stop: Callable[[], None] = lambda: None) -> T:
    """The result of ``future``, work in a thread. If the caller is cancelled, ``stop`` is called, and the work is
    waited for all the same. If it has succeeded by then, its result counts: it may be a write that is committed. Raises
    what the work raised, or CancelledError."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        stop()
        await until_done(future)
        if future.exception() is None:
            return future.result()
        raise
