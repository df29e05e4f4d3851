"""What a host's connection is to the daemon, whichever transport carries it: a peer, and who serves many of them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from apex_exec.executor.loop import Loop

FRAMES_MAX = 16
"""Frames of one message; REQ sends two."""
WAITING_BYTES_MAX = 32 * 1024 * 1024
WAITING_MESSAGES_MAX = 10_000
"""Replies held for a peer that reads slowly. Above either, the connection is dropped."""
REFUSED_FACTOR = 4
"""Up to so many times ``host.max_message_bytes`` a message gets an answer (PAYLOAD_TOO_LARGE); beyond, the connection
is dropped."""
UCRED = struct.Struct("iII")


class Peer:
    """One connection. ``pending`` maps the ids of its requests without a reply to their calls."""

    __slots__ = ("fd", "gone", "host", "pending")

    def __init__(self, host: bytes, fd: int) -> None:
        self.host = host
        self.fd = fd
        self.pending: dict[int | str, int] = {}
        self.gone = False


@dataclass(frozen=True)
class Handlers:
    """Who hears of what. ``message(peer, frames before the body, body)``; ``gone(peer)``; ``alien(peer, frames)`` of a
    message under a routing id that the peer chose itself; ``dropped(count)`` of replies that nobody will read;
    ``broken(kind)`` of a connection that broke the transport's protocol, could not be routed to ("unroutable"), was one
    too many, or held too much."""

    message: Callable[[Peer, list[bytes], bytes], None]
    gone: Callable[[Peer], None]
    alien: Callable[[Peer, list[bytes]], None]
    dropped: Callable[[int], None]
    broken: Callable[[str], None] = lambda _kind: None


class Connections(Protocol):
    """All connections of one endpoint. Nothing here blocks."""

    def __len__(self) -> int:
        """How many there are."""

    def bind(self, endpoint: str) -> None:
        """Serves ``endpoint``; a second call serves it anew where its socket file was deleted. Raises OSError."""

    def receive(self) -> bool:
        """Takes a bounded number of messages; True where more may be waiting. Call it in every round."""

    def reply(self, peer: Peer, frames: list[bytes], body: bytes) -> None:
        """Sends one message, keeps it while the peer reads slowly, drops it where the peer is gone."""

    def flush(self) -> None:
        """Hands what was queued in this round to the kernel."""

    def drop(self, peer: Peer) -> None:
        """Ends the connection of ``peer``; replies that wait for it are lost and counted."""

    def close(self) -> None:
        """Ends all of them."""


Open = Callable[["Loop", Handlers], Connections]
"""Makes the connections of one endpoint, not bound yet."""
