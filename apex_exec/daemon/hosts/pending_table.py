"""The requests that were taken and have no reply yet: the number of each one's call, and where its reply goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from apex_exec.core.actions import Verdict
from apex_exec.daemon.hosts.connections import Peer
from apex_exec.errors import Code, WireError
from apex_exec.executor.outcome import Settled

if TYPE_CHECKING:
    from apex_exec.daemon.sides.trace_feed import TraceFeed
    from apex_exec.observe.traces.messages import Call

LARGE_BYTES_MAX = 256 * 1024 * 1024
"""How many bytes all large requests without a reply may have; one more is OVERLOADED. Small ones are bounded by number.
"""

Watcher = Callable[[Verdict, Settled, list[Any]], None]
"""``watcher(verdict, outcome, effects)`` gets the outcome of one of the daemon's own calls. Secrets are removed from
``outcome``, but not from ``verdict``; ``effects`` are those that a host would get."""


class Pending(msgspec.Struct, gc=False):
    """One request that waits for its reply, and where that goes. ``frames`` stood between routing id and body."""

    peer: Peer
    frames: list[bytes]
    id: int | str


class PendingTable:
    """Requests by the number of their call."""

    def __init__(self) -> None:
        self.calls: dict[int, Pending] = {}
        """Invocations of hosts. The calls of a dispatch are in ``dispatch_runs``."""
        self.traces: dict[int, str] = {}
        """The traceparent of those calls that came with one."""
        self.tracing: TraceFeed | None = None
        """None if the daemon exports no traces."""
        self.spans: dict[int, Call] = {}
        """What is known so far of those calls that are traced."""
        self.watched: dict[int, Watcher] = {}
        """The daemon's own calls, each with the function that gets the outcome in place of a host."""
        self.next_call = 1
        self.large_bytes = 0
        """How many bytes of large requests are held."""
        self.large: dict[tuple[bytes, int | str], int] = {}
        """The large requests: connection and id → bytes held until the reply."""

    def number(self) -> int:
        """A number for a new call of the core, never used before."""
        call = self.next_call
        self.next_call = call + 1
        return call

    def hold(self, peer: Peer, id_: int | str, size: int) -> None:
        """Counts the bytes of a large request until ``free``. Raises WireError if there would be too many in all."""
        if self.large_bytes + size > LARGE_BYTES_MAX:
            raise WireError(Code.OVERLOADED, "the large requests that are pending have reached the limit of bytes; "
                                             "try again when some are answered")
        if id_ not in peer.pending:  # else it is refused, and the first one's bytes stay counted
            self.large[peer.host, id_] = size
            self.large_bytes += size

    def free(self, peer: Peer, id_: int | str) -> None:
        """The request has its reply; nothing happens if it was not large."""
        self.large_bytes -= self.large.pop((peer.host, id_), 0)
