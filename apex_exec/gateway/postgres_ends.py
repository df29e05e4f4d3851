"""How a call leaves its connection to PostgreSQL, whatever becomes of it: usable for the next call, or closed.

Nothing here waits for a silent server longer than its bound. A commit is waited for even if its call is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any

import psycopg
from psycopg import AsyncConnection

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.postgres_read import stopped

COMMIT_SECONDS = 10.0
"""How long a commit may take to be answered, beyond its call's own time."""
ROLLBACK_SECONDS = 1.0
"""How long we wait for the answer to a rollback before we give its connection up; nothing depends on the answer."""


async def out_of_pipeline(connection: AsyncConnection[Any]) -> None:
    """Has a connection usable again whose pipeline was left in the middle, or closes it."""
    if not connection.closed and connection.pgconn.pipeline_status:
        with contextlib.suppress(psycopg.Error):
            left = await within(ROLLBACK_SECONDS, stopped(connection), connection.close)
            if left is not None:
                await left


async def rolled_back(connection: AsyncConnection[Any]) -> None:
    """Ends a transaction that was not committed. The connection is closed if the server does not answer in time."""
    if not connection.closed and connection.info.transaction_status:
        with contextlib.suppress(psycopg.Error):
            done = await within(ROLLBACK_SECONDS, connection.execute("ROLLBACK"), connection.close)
            if done is not None:
                await done


async def settled(commit: Coroutine[Any, Any, None], hang_up: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Waits for ``commit`` even if the call is cancelled meanwhile: only its end shows whether the write took effect.

    Raises psycopg.Error, and ApiFailure if the server has not answered after COMMIT_SECONDS: the write may have taken
    effect.
    """
    done = await within(COMMIT_SECONDS, commit, hang_up)
    if done is None:
        raise ApiFailure("data_unavailable", "the database does not answer the commit; it may have taken effect")
    await done


async def within(seconds: float, work: Coroutine[Any, Any, Any],
                 hang_up: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Future[Any] | None:
    """The finished ``work``, even if the call is cancelled meanwhile; None if it did not finish within ``seconds``.

    In the latter case ``hang_up`` closes the connection without waiting. A rollback or a cancel request would have to
    wait for a silent server, and the call would then fail with an exceeded deadline.
    """
    task = asyncio.ensure_future(work)
    due = time.monotonic() + seconds
    while not task.done():
        if (left_seconds := due - time.monotonic()) <= 0:
            await hang_up()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((task,), timeout=0)
            return None
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait((task,), timeout=left_seconds)
    return task
