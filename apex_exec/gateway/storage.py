"""What plugins keep for themselves (``apex_exec/storage``), for the gateway's event loop: calls run in threads.

The database is the daemon's own, not the platform's. A write leaves its audit record in the same transaction; the
record names no key and no value, since what is on record cannot be erased with the user.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from apex_exec.catalogue.methods import METHODS, StorageDelete, StorageGet, StorageList, StorageRequest, StorageSet
from apex_exec.errors import Refusal, WireError
from apex_exec.gateway.costs import counted, counting
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.lock_turns import Turns
from apex_exec.gateway.messages import Call, Written
from apex_exec.gateway.outbox import Keeper, origins_of
from apex_exec.gateway.threads import finished
from apex_exec.storage.entries import COMMON, RECORD_IDS, Full, Place, Waiting
from apex_exec.wire.values import check_value

if TYPE_CHECKING:
    from apex_exec.storage.store import Store

T = TypeVar("T")

THREADS = 4
"""Calls that may wait for the database at once. Each plugin has at most two, so one plugin does not hold all."""
DOWN_SECONDS = 1.0
"""After a failure to open the database we do not try again for this long; meanwhile every call fails at once."""
OWN_SECONDS = 10.0
"""How long the outbox's own statements may take; no call waits for them."""

_encode = msgspec.msgpack.Encoder().encode


class Storage:
    """``settings``: url, user_bytes, plugin_bytes. The database is opened on first use, in a thread."""

    def __init__(self, settings: dict[str, Any], origin: str, hand_over: Callable[[Written], None]) -> None:
        self._settings = settings
        self._origin, self._formerly = origins_of(origin)
        self.outbox = Keeper(self._waiting, self._forget, hand_over)
        self._threads = ThreadPoolExecutor(THREADS, "storage")  # its work is short, so it need not give way
        self._opening = threading.Lock()
        self._store: Store | None = None
        self._down_until, self._down = 0.0, ""
        self._turns = Turns()
        self._turns.shut_out = False  # neither database makes a reader wait for a writer

    async def answer(self, call: Call, request: StorageRequest) -> tuple[bytes, dict[str, Any]]:
        """The encoded result, and what the audit record says of the call. Raises ApiFailure."""
        place = Place(call.plugin, COMMON if request.common else call.user_id)
        about = {"store": "common" if request.common else "user"}
        if isinstance(request, StorageGet):
            key = request.key.encode()
            value = await self._run(call.due_ns, lambda store, seconds: store.get(place, key, seconds))
            return value or b"\xc0", {**about, "bytes": len(value or b"")}
        if isinstance(request, StorageList):
            return await self._list(call, place, request, about)
        with counted():
            record = self._record(call, about)
            value = _checked(request.value) if isinstance(request, StorageSet) else b""
        async with self._turns.writing(call.plugin):
            answer = await self._run(call.due_ns, self._write(place, request, value, record))
        self.outbox.give(_written(record))
        return _encode(answer), {}

    async def _list(self, call: Call, place: Place, request: StorageList, about: dict[str, Any]
                    ) -> tuple[bytes, dict[str, Any]]:
        prefix, after = request.prefix.encode(), request.after.encode()
        rows = await self._run(
            call.due_ns, lambda store, seconds: store.keys(place, prefix, after, request.limit, seconds))
        with counted():
            found = [{"key": key.decode(), "bytes": size, "updatedAt": datetime.fromtimestamp(at_ns / 1e9, UTC)}
                     for key, size, at_ns in rows]
            return _encode(found), {**about, "count": len(found)}

    def _write(self, place: Place, request: StorageSet | StorageDelete, value: bytes, record: Waiting
               ) -> Callable[[Store, float], bool | None]:
        key = request.key.encode()

        def work(store: Store, seconds: float) -> bool | None:
            if isinstance(request, StorageDelete):
                return store.delete(place, key, record, self._origin, seconds)
            record.metadata["bytes"] = len(value)
            store.set(place, key, value, record.timestamp_ns, record, self._origin, seconds)
            return None

        return work

    @staticmethod
    def _record(call: Call, about: dict[str, Any]) -> Waiting:
        return Waiting(f"{RECORD_IDS}{uuid.uuid4()}", time.time_ns(), METHODS[call.method].event, call.user_id,
                       call.plugin, call.method, about)

    # ------------------------------------------------------------------ the database, in a thread
    async def _run(self, due_ns: int, work: Callable[[Store, float], T]) -> T:
        """Runs ``work(store, seconds)`` in a thread. If cancelled, it is waited for: it is bounded by its statements'
        time, and a write that was committed has to be answered as one. Raises ApiFailure."""
        def in_thread() -> T:
            left = (due_ns - time.monotonic_ns()) / 1e9
            if left <= 0:
                raise ApiFailure("deadline_exceeded", "the invocation's time ended while it waited for the storage")
            return work(self._opened(), left)

        future = asyncio.get_running_loop().run_in_executor(self._threads, counting(in_thread))
        try:
            return await finished(future)
        except Full as full:
            raise ApiFailure("storage_full", str(full)) from None
        except Refusal as refusal:
            raise ApiFailure("data_unavailable", refusal.message) from None

    def _opened(self) -> Store:
        """The store. Raises ApiFailure."""
        with self._opening:
            if self._store is None:
                if time.monotonic() < self._down_until:
                    raise ApiFailure("data_unavailable", self._down)
                from apex_exec.storage.store import Store  # in this thread: SQLAlchemy takes a quarter of a second
                try:
                    self._store = Store(self._settings["url"], self._settings["user_bytes"],
                                        self._settings["plugin_bytes"])
                except Refusal as refusal:
                    self._down_until, self._down = time.monotonic() + DOWN_SECONDS, refusal.message
                    raise ApiFailure("data_unavailable", refusal.message) from None
            return self._store

    async def _waiting(self, limit: int) -> list[Written]:
        due_ns = time.monotonic_ns() + int(OWN_SECONDS * 1e9)
        found = await self._run(due_ns, lambda store, _: store.waiting((self._origin, self._formerly), limit))
        return [_written(record) for record in found]

    async def _forget(self, ids: list[str]) -> None:
        async with self._turns.writing(""):
            await self._run(time.monotonic_ns() + int(OWN_SECONDS * 1e9), lambda store, _: store.forget(ids))

    async def close(self) -> None:
        """Closes every connection."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._store is not None:
            self._store.close()


def _written(record: Waiting) -> Written:
    return Written(record.record_id, record.timestamp_ns, record.event_type, record.user_id, record.plugin,
                   record.action, record.metadata)


def _checked(raw: msgspec.Raw) -> bytes:
    """The value as it is kept, if every SDK can read it again. Raises ApiFailure."""
    value = bytes(raw)
    try:
        check_value(value)
    except WireError as error:
        raise ApiFailure("invalid_output", error.message) from None
    return value
