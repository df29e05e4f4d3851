"""Decides whose turn it is at a database in which readers and writers exclude each other, such as SQLite without WAL.

If SQLite finds the database locked, it sleeps and tries again, for up to a tenth of a second at a time and in no order:
a few plugins that inserted without a pause kept all other queries waiting for seconds. Here one plugin writes at a
time, and the next one is the plugin that has used the database least (``core.fair``). A reader waits for at most one
write. A writer waits for the current readers; for HOLD_SECONDS no new reader may start meanwhile, so that both sides
progress.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from apex_exec.core.fair import FairQueue

HOLD_SECONDS = 0.05
"""How long new readers wait for a writer that waits for a reader. If that reader takes longer, the writer loses time,
but nobody else does."""


async def wait(turn: asyncio.Future[None], give_back: Callable[[], None]) -> None:
    """Waits for ``turn``. If the caller is cancelled, it does not have the turn: ``give_back`` is called if it came at
    the same moment."""
    try:
        await turn
    except asyncio.CancelledError:
        if turn.done() and not turn.cancelled():
            give_back()
        raise


class Turns:
    """Turns at one database, for coroutines of one event loop."""

    def __init__(self) -> None:
        self.shut_out = True
        """Whether readers and writers exclude each other; if not, only writers take turns."""
        self._reading = 0
        self._writing = False
        self._readers: list[asyncio.Future[None]] = []
        self._writers: FairQueue[asyncio.Future[None]] = FairQueue(0)
        self._waiting_writers = 0
        self._held_until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_free_to_read(self) -> bool:
        """Whether a reader that is done before anything else happens in this loop needs no turn."""
        return not self.shut_out or not (self._writing or (
            self._waiting_writers and time.monotonic() < self._held_until))

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Holds a reader's turn for the duration of the block."""
        if not self.shut_out:
            yield
            return
        if not self.is_free_to_read:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._readers.append(turn)
            await wait(turn, self._read)
        else:
            self._reading += 1
        try:
            yield
        finally:
            self._read()

    @asynccontextmanager
    async def writing(self, owner: str) -> AsyncIterator[None]:
        """Holds the writer's turn for the duration of the block, on behalf of ``owner``."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writers.push(owner, turn, time.monotonic_ns())
        self._waiting_writers += 1
        if self._waiting_writers == 1:
            self._hold()
        self._next()
        try:
            await wait(turn, lambda: self._wrote(owner, time.monotonic_ns()))
        finally:
            self._waiting_writers -= 1
        begun_ns = time.monotonic_ns()
        try:
            yield
        finally:
            self._wrote(owner, begun_ns)

    def _read(self) -> None:
        self._reading -= 1
        self._next()

    def _wrote(self, owner: str, begun_ns: int) -> None:
        now_ns = time.monotonic_ns()
        self._writers.spend(owner, now_ns - begun_ns, now_ns)
        self._writing = False
        self._let_read()  # the readers that waited for this write go before the next write
        self._hold()
        self._next()

    def _hold(self) -> None:
        self._held_until = time.monotonic() + HOLD_SECONDS
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(HOLD_SECONDS, self._let_read)

    def _let_read(self) -> None:
        if self._writing:
            return
        waiting, self._readers = self._readers, []
        for turn in waiting:
            if not turn.done():
                self._reading += 1
                turn.set_result(None)

    def _next(self) -> None:
        """Gives the database to the next writer if it is free."""
        if self._writing or (self.shut_out and self._reading):
            return
        while (found := self._writers.pop(time.monotonic_ns())) is not None:
            if not found[1].done():  # its call may have ended meanwhile
                self._writing = True
                found[1].set_result(None)
                return
        self._let_read()  # no writer is active, so no reader needs to wait
