"""What becomes of requests with an ``Idempotency-Key``: on disk before the call leaves, and the answer after it.

A key belongs to one caller and one request. While it lives, the same request gets the same answer and never a second
run. A row without an answer, of a request that nobody waits for, is a call whose outcome is unknown: the door was
killed, or lost the daemon. Rows are written in one thread; all that came meanwhile is one commit (``synchronous =
FULL``).
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from apex_exec.common.sqlite import open_ours

BUSY_SECONDS = 5.0
ROW_BYTES = 512
"""What a row takes beside its answer."""
RESERVED_BYTES = 64 * 1024
"""What a call that is under way is counted as: its answer may be larger, up to a result's limit."""
EXPIRED_AT_ONCE = 1_000
KEY_CHARS_MAX = 255
BATCH_MAX = 512
_TABLE = ("CREATE TABLE IF NOT EXISTS calls (caller TEXT NOT NULL, key TEXT NOT NULL, digest BLOB NOT NULL, "
          "status INTEGER NOT NULL, body BLOB NOT NULL, created REAL NOT NULL, PRIMARY KEY (caller, key)) "
          "WITHOUT ROWID")
_INDEX = "CREATE INDEX IF NOT EXISTS calls_created ON calls (created)"


class Kept(NamedTuple):
    """What is on disk of a key: ``status`` is 0 while there is no answer."""

    digest: bytes
    status: int
    body: bytes


class Full(Exception):
    """There is no room for another key, or none for this caller's."""


class Unusable(Exception):
    """The store cannot be written. ``str()`` says why."""


class AnswersKept:
    """The store in ``folder``, which is this process's alone. ``clock()`` is UTC in seconds. Make it in the loop."""

    def __init__(self, folder: Path, seconds: float, bytes_max: int, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._bytes_max = bytes_max
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._wanted: list[_Work] = []
        self._news = threading.Condition()
        self._over = False
        self._bytes = 0
        self._own: Counter[str] = Counter()
        """By caller: the bytes that it has, and those that its calls under way are counted as."""
        self._counted: list[tuple[str, int]] = []
        """What the present batch has counted, so that it can be taken back."""
        try:
            self._db = open_ours(folder / "answers.db", busy_seconds=BUSY_SECONDS, any_thread=True)
            self._db.execute(_TABLE)
            self._db.execute(_INDEX)
            for caller, size in self._db.execute(f"SELECT caller, sum(length(body) + {ROW_BYTES}) FROM calls "
                                                 "GROUP BY caller"):
                self._count(caller, size)
            self._counted.clear()
        except sqlite3.Error as error:
            raise Unusable(f"{folder / 'answers.db'}: {error}") from error
        self._thread = threading.Thread(target=self._work, name="door-answers", daemon=True)
        self._thread.start()

    async def begin(self, caller: str, key: str, digest: bytes) -> Kept | None:
        """Writes the key down: None once it is on disk and the call may leave; else what is there already. Raises Full,
        Unusable."""
        kept: Kept | None = await self._do(lambda: self._begin(caller, key, digest))
        return kept

    async def finish(self, caller: str, key: str, status: int, body: bytes) -> None:
        """Writes the answer down. Raises Unusable."""
        await self._do(lambda: self._finish(caller, key, status, body), ends_call_of=caller)

    async def forget(self, caller: str, key: str) -> None:
        """Removes a key whose call has not run: the same request may be sent again. Raises Unusable."""
        await self._do(lambda: self._remove(caller, key, 0), ends_call_of=caller)

    async def leave(self, caller: str) -> None:
        """The outcome of a call that was begun will not be known: its key stays without an answer."""
        await self._do(_nothing, ends_call_of=caller)

    def close(self) -> None:
        """Ends the thread once it has written what it was given. Blocks for a moment."""
        with self._news:
            self._over = True
            self._news.notify()
        self._thread.join()
        self._db.close()

    # ------------------------------------------------------------------ in the thread
    def _begin(self, caller: str, key: str, digest: bytes) -> Kept | None:
        now = self._clock()
        row = self._db.execute("SELECT digest, status, body, created FROM calls WHERE caller = ? AND key = ?",
                               (caller, key)).fetchone()
        if row is not None and now - row[3] <= self._seconds:
            return Kept(*row[:3])
        if row is not None:
            self._remove(caller, key, len(row[2]))
        if not self._has_room(caller):
            self._expire(now)
            if not self._has_room(caller):
                raise Full
        self._db.execute("INSERT INTO calls VALUES (?, ?, ?, 0, x'', ?)", (caller, key, digest, now))
        self._count(caller, ROW_BYTES + RESERVED_BYTES)
        return None

    def _finish(self, caller: str, key: str, status: int, body: bytes) -> None:
        self._db.execute("UPDATE calls SET status = ?, body = ? WHERE caller = ? AND key = ?",
                         (status, body, caller, key))
        self._count(caller, len(body))

    def _remove(self, caller: str, key: str, size: int) -> None:
        self._db.execute("DELETE FROM calls WHERE caller = ? AND key = ?", (caller, key))
        self._count(caller, -size - ROW_BYTES)

    def _count(self, caller: str, size: int) -> None:
        self._counted.append((caller, size))
        self._bytes += size
        self._own[caller] += size
        if not self._own[caller]:
            del self._own[caller]

    def _has_room(self, caller: str) -> bool:
        """Whether the caller may have another call: nobody keeps more than is left for all others, since what is kept
        stays for a day, and nothing of it may go before."""
        room = self._bytes_max - self._bytes
        return room >= RESERVED_BYTES and self._own[caller] <= room

    def _expire(self, now: float) -> None:
        old = self._db.execute("SELECT caller, key, length(body) FROM calls WHERE created < ? ORDER BY created LIMIT ?",
                               (now - self._seconds, EXPIRED_AT_ONCE)).fetchall()
        for row in old:
            self._remove(*row)

    async def _do(self, work: Callable[[], Any], *, ends_call_of: str = "") -> Any:
        done: asyncio.Future[Any] = self._loop.create_future()
        with self._news:
            if self._over:
                raise Unusable("the door is ending")
            self._wanted.append(_Work(work, done, ends_call_of))
            self._news.notify()
        return await asyncio.shield(done)

    def _work(self) -> None:
        while True:
            with self._news:
                while not self._wanted and not self._over:
                    self._news.wait()
                batch, self._wanted = self._wanted[:BATCH_MAX], self._wanted[BATCH_MAX:]
            if not batch:
                return
            self._counted.clear()
            found: list[Any] = []
            try:
                self._db.execute("BEGIN IMMEDIATE")
                found = [self._one(one.work) for one in batch]
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                for caller, size in self._counted[:]:
                    self._count(caller, -size)
                found = [Unusable(str(error))] * len(batch)
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            # A call that has ended holds no room any more, whether or not that could be written down.
            for one in batch:
                if one.ends_call_of:
                    self._count(one.ends_call_of, -RESERVED_BYTES)
            self._loop.call_soon_threadsafe(_tell, [one.done for one in batch], found)

    def _one(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except Full as error:
            return error


class _Work(NamedTuple):
    """What the thread is to do for ``done``. ``ends_call_of``: the caller whose call, begun by ``begin``, is over by
    it; "" if none is."""

    work: Callable[[], Any]
    done: asyncio.Future[Any]
    ends_call_of: str


def _nothing() -> None:
    """The row stays as it is."""


def _tell(waiting: list[asyncio.Future[Any]], found: list[Any]) -> None:
    for done, one in zip(waiting, found, strict=True):
        if done.done():
            continue
        if isinstance(one, Exception):
            done.set_exception(one)
        else:
            done.set_result(one)
