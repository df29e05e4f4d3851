"""The one reply to each request: sent as soon as the records before it are as durable as ``audit.durability`` asks."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from apex_exec.daemon.hosts.pending_table import Pending, PendingTable
from apex_exec.errors import Code
from apex_exec.wire import messages as msg

if TYPE_CHECKING:
    from apex_exec.daemon.ports import Trail

_encode = msgspec.msgpack.Encoder().encode
_clock_ns = time.monotonic_ns


class Replies:
    """Sends replies. ``last_record`` is the index of the latest record of an execution, -1 before the first."""

    def __init__(self, table: PendingTable, audit: Trail) -> None:
        self.last_record = -1
        self._table = table
        self._large = table.large
        self._audit = audit

    def finish(self, pending: Pending, body: bytes, unrecorded: bool = False) -> None:
        """Sends ``body``, at once or when the latest record is durable. If the request is ``unrecorded``, because
        nothing was run for it, its reply need not wait."""
        audit = self._audit
        if ((audit.strict or _clock_ns() > audit.fine_until_ns) and self.last_record >= 0 and not unrecorded
                and not audit.durable(self.last_record)):
            audit.when_durable(self.last_record, partial(self.send, pending, body),
                               partial(self.send, pending, _without_record(pending)))
            return
        peer = pending.peer  # the same as ``send``, written out, since every reply passes here
        peer.pending.pop(pending.id, None)
        if self._large:
            self._table.free(peer, pending.id)
        peer.connections.reply(peer, pending.frames, body)

    def send(self, pending: Pending, body: bytes) -> None:
        """Sends ``body`` now; the request is pending no longer."""
        peer = pending.peer
        peer.pending.pop(pending.id, None)
        if self._large:
            self._table.free(peer, pending.id)
        peer.connections.reply(peer, pending.frames, body)


def _without_record(pending: Pending) -> bytes:
    """The reply to a request whose record could not be written before the daemon ended."""
    return _encode(msg.Error(
        id=pending.id, code=Code.SHUTTING_DOWN, started=True, retryable=False,
        message="it was carried out, and the daemon ended before its audit record could be written"))
