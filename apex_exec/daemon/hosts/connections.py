"""What every transport is to the daemon: peers, and the object that serves all peers of one endpoint.

A transport reports three events: a message came, a connection has ended, something went wrong. To send a message, the
daemon calls ``peer.connections``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from apex_exec.executor.loop import Loop

FRAMES_MAX = 15
"""Frames before the body of one message; REQ sends one."""
WAITING_BYTES_MAX = 32 * 1024 * 1024
WAITING_MESSAGES_MAX = 10_000
"""How much is kept for a peer that reads slowly. Above either bound the connection is dropped."""
REFUSED_FACTOR = 4
"""Up to this many times ``host.max_message_bytes`` a message gets an answer (PAYLOAD_TOO_LARGE); beyond, the connection
is dropped."""
UCRED = struct.Struct("iII")


class Peer:
    """One connection. Replies to it are given to ``connections``, which serves it.

    ``pending`` maps the ids of its requests without a reply to their calls. ``foreign`` says that it has chosen a
    routing id of its own, which the protocol does not allow. ``node`` is the name of the peer if it is another node of
    the fleet; "" if it is a host.
    """

    __slots__ = ("connections", "fd", "foreign", "gone", "host", "node", "pending")

    def __init__(self, host: bytes, fd: int, connections: Connections) -> None:
        self.host = host
        self.fd = fd
        self.connections = connections
        self.pending: dict[int | str, int] = {}
        self.foreign = False
        self.gone = False
        self.node = ""


Trouble = Literal["unroutable", "too_many_connections", "held_too_much", "unread"]
"""What ``broken`` reports: a connection broke the transport's rules or could not be routed to; a connection was one too
many; a connection was dropped because all together held too much; replies were dropped that nobody will read."""


@dataclass(frozen=True)
class Events:
    """What a transport reports: ``message(peer, frames before the body, body)``; ``gone(peer)``, once for each peer;
    ``broken(trouble, count)``."""

    message: Callable[[Peer, list[bytes], bytes], None]
    gone: Callable[[Peer], None]
    broken: Callable[[Trouble, int], None]


class Connections(Protocol):
    """All connections of one endpoint. Nothing here blocks."""

    def __len__(self) -> int:
        """How many connections there are."""

    @property
    def unread(self) -> object:
        """True, or not empty, if ``receive`` has something to do."""

    @property
    def unsent(self) -> object:
        """True, or not empty, if ``flush`` has something to do."""

    def bind(self, endpoint: str) -> None:
        """Serves ``endpoint``; a second call serves it anew after its socket file was deleted. Raises OSError."""

    def receive(self) -> bool:
        """Takes a bounded number of messages; True if more may be waiting."""

    def reply(self, peer: Peer, frames: list[bytes], body: bytes) -> None:
        """Sends one message, at once or with the next ``flush``. It is kept while the peer reads slowly, and dropped if
        the peer is gone."""

    def flush(self) -> None:
        """Hands what was queued in this round to the kernel."""

    def drop(self, peer: Peer) -> None:
        """Ends the connection of ``peer``; replies that wait for it are lost and counted."""

    def close(self) -> None:
        """Ends all connections."""


Open = Callable[["Loop", Events], Connections]
"""Makes the connections of one endpoint, not bound yet."""
