"""Listens to what other daemons change in a database that they share on a PostgreSQL server.

A message only wakes: the rows decide, and the daemon that gets one reads them. A connection that was lost may have
missed any number of messages, so each new one begins with a comparison of everything. A pooler in transaction mode
passes no messages on; the regular comparison is then all that there is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import sqlalchemy as sa

from apex_exec.common.backoff import Backoff
from apex_exec.registry.database import CONNECT
from apex_exec.registry.patience import waiting

QUIET_SECONDS = 1.0
"""After this long without a message, the server is asked whether it is still there."""
ANSWER_SECONDS = 5.0
RECONNECT_SECONDS_MIN, RECONNECT_SECONDS_MAX = 0.1, 2.0
log = logging.getLogger(__name__)


class Listener:
    """One connection that listens to ``channels``, in a thread of its own (``run``).

    ``heard(channel, payload)`` is called for each message, ``connected()`` after each new connection, and ``current()``
    whenever everything that was committed before is known to have been heard. ``lost(why)`` is called once for each
    connection that ends. Nothing of them may raise.
    """

    def __init__(self, url: str, channels: tuple[str, ...], *, heard: Callable[[str, str], None],
                 connected: Callable[[], None], current: Callable[[], None], lost: Callable[[str], None]) -> None:
        self._arguments = arguments_of(url)
        self._channels = channels
        self._heard, self._connected, self._current, self._lost = heard, connected, current, lost

    def run(self) -> NoReturn:
        """For ever; blocks."""
        pauses = Backoff(RECONNECT_SECONDS_MIN, RECONNECT_SECONDS_MAX)
        while True:
            try:
                self._listen(pauses)
            except Exception as error:  # noqa: BLE001 - whatever ends a connection, the next one begins anew
                self._lost((str(error).splitlines() or [type(error).__name__])[0][:200])
            time.sleep(pauses.take())

    def _listen(self, pauses: Backoff[float]) -> None:
        import psycopg

        with psycopg.connect(**self._arguments, autocommit=True) as connection:
            for channel in self._channels:
                connection.execute(f'LISTEN "{channel}"'.encode())
            self._connected()
            pauses.reset()
            while True:
                messages = list(connection.notifies(timeout=QUIET_SECONDS, stop_after=1))
                for message in messages:
                    self._heard(message.channel, message.payload)
                if not messages:
                    with waiting(connection, ANSWER_SECONDS):
                        connection.execute("SELECT 1")
                    self._current()


def arguments_of(url: str) -> Mapping[str, Any]:
    """psycopg's arguments for a connection to the database at ``url``."""
    made = sa.make_url(url)
    return {**made.translate_connect_args(username="user", database="dbname"), **CONNECT, **made.query}
