"""What is pending: every request that was taken and has no reply yet, from its number to where its answer goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from apex_exec.core.actions import Verdict
from apex_exec.daemon.hosts.connections import Peer
from apex_exec.errors import Code, WireError
from apex_exec.executor.outcome import Settled

LARGE_BYTES_MAX = 256 * 1024 * 1024
"""Of all large requests without a reply; above, another is OVERLOADED. The number of small ones has its own bounds."""

Watcher = Callable[[Verdict, Settled, list[Any]], None]
"""``watcher(verdict, outcome, effects)`` gets what one of the daemon's own calls has come to. Secrets are out of
``outcome``, and not of ``verdict``; ``effects`` are those that a host would get."""


class Pending(msgspec.Struct, gc=False):
    """One request without its reply: where the answer goes. ``frames`` stood between routing id and body."""

    peer: Peer
    frames: list[bytes]
    id: int | str


class PendingTable:
    """Requests by the number of their call."""

    def __init__(self) -> None:
        self.calls: dict[int, Pending] = {}
        """Invocations of hosts. What a dispatch has under way is in ``dispatch_runs``."""
        self.traces: dict[int, str] = {}
        """The traceparent of those calls that came with one."""
        self.watched: dict[int, Watcher] = {}
        """Calls of the daemon's own, with what is called instead of a host."""
        self.next_call = 1
        self.large_bytes = 0
        """How many bytes of large requests are held."""
        self.large: dict[tuple[bytes, int | str], int] = {}
        """The large ones: connection and id → bytes held until the reply."""

    def number(self) -> int:
        """A number for a new call of the core, never used before."""
        call = self.next_call
        self.next_call = call + 1
        return call

    def hold(self, peer: Peer, id_: int | str, size: int) -> None:
        """Counts the bytes of a large request until ``free``. Raises WireError if all together would be too many."""
        if self.large_bytes + size > LARGE_BYTES_MAX:
            raise WireError(Code.OVERLOADED, "the large requests that are pending have reached the limit of bytes; "
                                             "try again when some are answered")
        if id_ not in peer.pending:  # else it is refused, and the first one's bytes stay counted
            self.large[peer.host, id_] = size
            self.large_bytes += size

    def free(self, peer: Peer, id_: int | str) -> None:
        """The request has its reply; nothing happens if it was not large."""
        self.large_bytes -= self.large.pop((peer.host, id_), 0)
