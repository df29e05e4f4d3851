"""Statements on PostgreSQL in one round trip: a query's settings and itself are sent together, as one transaction.

All that is sent before one Sync is a transaction of its own, unless BEGIN is among it. psycopg sends so too
(``Connection.pipeline``), but reads a result as a whole; here it comes row by row, so that rows beyond a bound are
thrown away as they come. A statement that is used often may be prepared. Its name is made from its text, so that a
name that some pooler has left on another connection can never stand for another statement.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import AsyncConnection
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus

PREPARE_AFTER = 5
"""The uses of a statement on a connection after which it is prepared; as many as psycopg's own."""
PREPARED_MAX = 100
"""The most prepared statements of one connection: each keeps its plan in the server's memory."""
COUNTED_MAX = 500
"""The most statements of one connection whose uses are counted."""
DRAIN_SECONDS = 0.02
"""How long we throw away rows beyond a bound, before we have the server stop."""

Take = Callable[[list[str], Any], None]
"""Takes the names of the columns and one row."""


class Asked(NamedTuple):
    """A statement with its parameters."""

    text: str
    params: Sequence[Any] = ()


class Prepared:
    """The statements that one connection has prepared, or may prepare soon."""

    def __init__(self) -> None:
        self._uses: OrderedDict[tuple[str, tuple[int, ...]], int] = OrderedDict()
        self._names: OrderedDict[bytes, None] = OrderedDict()
        self._has_tried = False

    @property
    def is_used(self) -> bool:
        """Whether any statement was prepared, or should have been."""
        return self._has_tried

    def name(self, text: str, types: tuple[int, ...]) -> tuple[bytes, bool]:
        """The name under which the statement is prepared, and whether it has to be prepared now; b"" if it is used too
        seldom."""
        key = (text, types)
        uses = self._uses.pop(key, 0) + 1
        self._uses[key] = uses
        if len(self._uses) > COUNTED_MAX:
            self._uses.popitem(last=False)
        if uses <= PREPARE_AFTER:
            return b"", False
        self._has_tried = True
        name = b"apx" + hashlib.sha256(repr(key).encode()).hexdigest()[:40].encode()
        if name in self._names:
            self._names.move_to_end(name)
            return name, False
        return name, True

    def add(self, name: bytes) -> None:
        """It was prepared."""
        self._names[name] = None

    def too_many(self) -> bytes:
        """The name of a statement to give up, which then counts as given up; b"" if there are not too many."""
        return self._names.popitem(last=False)[0] if len(self._names) > PREPARED_MAX else b""


async def read(connection: AsyncConnection[Any], asked: Sequence[Asked], take: Take, prepared: Prepared | None = None,
               *, taken: int = 0) -> tuple[Any, int]:
    """Runs the statements as one transaction, or as a part of one. ``take`` gets every row of the last, or of number
    ``taken`` (from 1). ``prepared`` is None if no statement may be prepared. Returns the first row of the first
    statement, and how many rows the other one has read or changed.

    If ``take`` raises, or the caller is cancelled, the server stops, and the connection is usable again or closed. That
    is waited for by ``stopped``. Raises psycopg.Error, and what ``take`` raises."""
    reading = _Reading(connection, prepared)
    reading.send(asked)
    return await reading.receive(taken or len(asked), take)


async def stopped(connection: AsyncConnection[Any]) -> None:
    """Has a connection that was left in the middle of ``read`` usable again. It is closed if it cannot be. The caller
    bounds the time."""
    reading = _Reading(connection, None)
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            await reading.drain()
    except TimeoutError:
        await connection.cancel_safe(timeout=1)
        if not await reading.drain():  # the cancellation may have come too late, and would meet the next statement
            await connection.close()


class _Reading:
    def __init__(self, connection: AsyncConnection[Any], prepared: Prepared | None) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._encoding = connection.info.encoding
        self._prepared = prepared
        self._wanted: list[tuple[str, Any]] = []
        """What each result that is to come is: "none", "prepare", or "rows"; with the name, or what loads values."""

    # ------------------------------------------------------------------ sending
    def send(self, asked: Sequence[Asked]) -> None:
        """Queues the statements. What leaves, and when, is the kernel's business: ``receive`` sees to it."""
        pgconn = self._pgconn
        pgconn.enter_pipeline_mode()
        if self._prepared is not None and (old := self._prepared.too_many()):
            pgconn.send_query_params(b"DEALLOCATE " + old, None)
            self._wanted.append(("none", None))
        for one in asked:
            self._send_one(one)
        pgconn.pipeline_sync()

    def _send_one(self, one: Asked) -> None:
        pgconn, text = self._pgconn, one.text.encode(self._encoding)
        loader = Transformer(self._connection)
        values = loader.dump_sequence(one.params, [PyFormat.AUTO] * len(one.params)) if one.params else []
        types, formats = loader.types or (), loader.formats or []
        name, is_new = self._prepared.name(one.text, types) if self._prepared is not None else (b"", False)
        if is_new:
            pgconn.send_prepare(name, text, types)
            self._wanted.append(("prepare", name))
        if name:
            pgconn.send_query_prepared(name, values, formats)
        else:
            pgconn.send_query_params(text, values, types, formats)
        self._wanted.append(("rows", loader))

    # ------------------------------------------------------------------ receiving
    async def receive(self, taken: int, take: Take) -> tuple[Any, int]:
        """Reads every result, and ends the pipeline. Returns the first statement's first row, and how many rows the
        statement ``taken`` has read or changed."""
        first: list[Any] = []
        error: psycopg.Error | None = None
        pgconn, seen, changed_rows = self._pgconn, 0, 0
        async with self._watched() as changed:
            await self._flush(changed)
            for kind, about in self._wanted:
                seen += kind == "rows"
                names: list[str] = []
                if kind == "rows" and seen == taken and error is None:
                    pgconn.set_single_row_mode()
                while (result := await self._result(changed)) is not None:
                    if result.status == ExecStatus.FATAL_ERROR:
                        error = error or error_from_result(result, self._encoding)
                    elif kind == "prepare" and result.status == ExecStatus.COMMAND_OK and self._prepared is not None:
                        self._prepared.add(about)
                    elif kind == "rows" and result.ntuples:
                        about.set_pgresult(result, set_loaders=not names)
                        names = names or [(result.fname(number) or b"").decode(self._encoding)
                                          for number in range(result.nfields)]
                        row = about.load_row(0, tuple)
                        if seen == taken:
                            take(names, row)
                        elif seen == 1:
                            first.append(row)
                    elif kind == "rows" and seen == taken:
                        changed_rows = result.command_tuples or 0
            await self._result(changed)  # of the Sync
        pgconn.exit_pipeline_mode()
        if error is not None:
            raise error
        return first[0] if first else None, changed_rows

    async def drain(self) -> bool:
        """Throws away what is still to come, and ends the pipeline. Whether a statement was cancelled."""
        was_cancelled = False
        async with self._watched() as changed:
            await self._flush(changed)
            empty = 0
            while (result := await self._result(changed)) is None or result.status != ExecStatus.PIPELINE_SYNC:
                empty = empty + 1 if result is None else 0
                if empty > 1:  # one stands between two statements
                    raise psycopg.OperationalError("the end of the pipeline is lost")
                if result is not None and result.status == ExecStatus.FATAL_ERROR:
                    was_cancelled = was_cancelled or error_from_result(result).sqlstate == "57014"
        self._pgconn.exit_pipeline_mode()
        return was_cancelled

    async def _flush(self, changed: asyncio.Event) -> None:
        """Sends all that was queued. Reads meanwhile: a server that cannot send does not read either."""
        pgconn = self._pgconn
        while pgconn.flush():
            loop = asyncio.get_running_loop()
            loop.add_writer(pgconn.socket, changed.set)
            try:
                await changed.wait()
            finally:
                loop.remove_writer(pgconn.socket)
            changed.clear()
            pgconn.consume_input()

    async def _result(self, changed: asyncio.Event) -> Any:
        """The next result. None at a statement's end."""
        pgconn = self._pgconn
        while pgconn.is_busy():
            await changed.wait()
            changed.clear()
            pgconn.consume_input()
        return pgconn.get_result()

    @contextlib.asynccontextmanager
    async def _watched(self) -> AsyncIterator[asyncio.Event]:
        """An event that is set when there is something to read."""
        loop, changed, socket = asyncio.get_running_loop(), asyncio.Event(), self._pgconn.socket
        loop.add_reader(socket, changed.set)
        try:
            yield changed
        finally:
            loop.remove_reader(socket)
