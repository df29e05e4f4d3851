"""Bounds how long a thread waits for a PostgreSQL server: the driver itself waits for ever.

The server ends a statement that takes too long, and the kernel ends a connection whose packets nobody takes. Neither
helps against a server that is frozen but whose machine still acknowledges what it gets. So one thread of this process
looks at every connection that waits, and shuts down the socket of one that has waited too long: the thread that waits
gets the driver's error, as for any other connection that is lost.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DisconnectionError

WAIT_SECONDS = 12.0
"""The server's own limit of a statement fires first (``database.STATEMENT_MS``)."""
LOOK_SECONDS = 0.5


class _Watch:
    """The connections that wait, and until when (CLOCK_MONOTONIC, seconds)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: dict[int, tuple[Any, float]] = {}
        self._thread: threading.Thread | None = None

    def set(self, connection: Any, seconds: float) -> None:
        """``connection`` waits from now on, for ``seconds`` at most."""
        with self._lock:
            self._until[id(connection)] = (connection, time.monotonic() + seconds)
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="postgres-patience", daemon=True)
                self._thread.start()

    def clear(self, connection: Any) -> None:
        """It waits no longer."""
        with self._lock:
            self._until.pop(id(connection), None)

    def _look(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            now = time.monotonic()
            with self._lock:  # held: nobody closes a connection whose socket is being shut down, and reuses its number
                late = [connection for connection, until in self._until.values() if until < now]
                for connection in late:
                    del self._until[id(connection)]
                    _shut_down(connection)


_watch = _Watch()


def _shut_down(connection: Any) -> None:
    with contextlib.suppress(Exception):  # it may have ended by itself
        with socket.socket(fileno=os.dup(connection.pgconn.socket)) as ours:
            ours.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def waiting(connection: Any, seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """What is done inside with psycopg's ``connection`` raises its error if the server says nothing for ``seconds``."""
    _watch.set(connection, seconds)
    try:
        yield
    finally:
        _watch.clear(connection)


def bound(engine: sa.Engine) -> None:
    """Bounds every wait on the connections of ``engine``, and replaces those that are found to have ended."""
    @sa.event.listens_for(engine, "checkout")
    def checkout(connection: Any, _record: Any, _proxy: Any) -> None:
        with waiting(connection):
            try:
                engine.dialect.do_ping(connection)
            except engine.dialect.loaded_dbapi.Error as error:
                raise DisconnectionError(str(error)) from error

    @sa.event.listens_for(engine, "before_cursor_execute")
    def before(db: sa.Connection, *_: Any) -> None:
        if not db.get_execution_options().get("patient"):
            _watch.set(db.connection.dbapi_connection, WAIT_SECONDS)

    @sa.event.listens_for(engine, "after_cursor_execute")
    def after(db: sa.Connection, *_: Any) -> None:
        _watch.clear(db.connection.dbapi_connection)

    @sa.event.listens_for(engine, "handle_error")
    def failed(context: Any) -> None:
        if context.connection is not None and not context.connection.invalidated:
            _watch.clear(context.connection.connection.dbapi_connection)

    @sa.event.listens_for(engine, "commit")
    def commit(db: sa.Connection) -> None:
        _watch.set(db.connection.dbapi_connection, WAIT_SECONDS)

    @sa.event.listens_for(engine, "rollback")
    def rollback(db: sa.Connection) -> None:
        if not db.invalidated:  # its connection has ended: nothing is waited for, and there is none to look at
            _watch.set(db.connection.dbapi_connection, WAIT_SECONDS)

    @sa.event.listens_for(engine, "checkin")
    def checkin(connection: Any, _record: Any) -> None:
        _watch.clear(connection)

    @sa.event.listens_for(engine, "close")
    def close(connection: Any, _record: Any) -> None:
        _watch.clear(connection)
