"""What a connection is to the daemon, whichever transport carries it: a peer, and who serves many of them.

A transport meets the rest in three events: a message came, a connection has ended, something went wrong. What is sent
goes to ``peer.connections``.
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
"""Replies held for a peer that reads slowly. Above either, the connection is dropped."""
REFUSED_FACTOR = 4
"""Up to this many times ``host.max_message_bytes`` a message gets an answer (PAYLOAD_TOO_LARGE); beyond, the connection
is dropped."""
UCRED = struct.Struct("iII")


class Peer:
    """One connection of ``connections``, which is also where replies to it are sent.

    ``pending`` maps the ids of its requests without a reply to their calls. ``foreign``: it has chosen a routing id of
    its own, which PROTOCOL.md does not allow. ``node`` names the fleet's node that this is; "" of a host.
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
"""What ``broken`` tells of: a connection broke the transport's rules or could not be routed to; was one too many; was
dropped since all together held too much; replies that nobody will read."""


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
        """How many there are."""

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
        """Sends one message, keeps it while the peer reads slowly, drops it if the peer is gone."""

    def flush(self) -> None:
        """Hands what was queued in this round to the kernel."""

    def drop(self, peer: Peer) -> None:
        """Ends the connection of ``peer``; replies that wait for it are lost and counted."""

    def close(self) -> None:
        """Ends all of them."""


Open = Callable[["Loop", Events], Connections]
"""Makes the connections of one endpoint, not bound yet."""
