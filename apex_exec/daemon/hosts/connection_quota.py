"""What connections make the daemon hold, in all: one total over many peers, each of which has a bound of its own.

A total cannot be kept by refusing whoever comes last: then who fills it first would keep everybody else out. So the
connection that has held its share for the longest goes, of the uid that holds most: an honest message or reply is under
way for milliseconds, and nobody pays for another user.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apex_exec.daemon.hosts.stream_peers import StreamPeer


class Held:
    """Bytes by peer. ``drop(peer)`` ends a connection."""

    def __init__(self, bytes_max: int, drop: Callable[[StreamPeer], None]) -> None:
        self.bytes = 0
        self._bytes_max = bytes_max
        self._drop = drop
        self._of: dict[int, dict[StreamPeer, int]] = {}  # uid → its peers, the one that holds for the longest first
        self._totals: dict[int, int] = {}

    def __contains__(self, peer: StreamPeer) -> bool:
        return peer in self._of.get(peer.uid, ())

    def note(self, peer: StreamPeer, held_bytes: int) -> None:
        """``peer`` holds so much now; 0: nothing any longer. Drops connections, even this, while all is too much."""
        peers = self._of.setdefault(peer.uid, {})
        change = held_bytes - peers.get(peer, 0)
        if held_bytes:
            peers[peer] = held_bytes
        else:
            peers.pop(peer, None)
        self.bytes += change
        total = self._totals[peer.uid] = self._totals.get(peer.uid, 0) + change
        if not peers and not total:
            del self._of[peer.uid], self._totals[peer.uid]
        while self.bytes > self._bytes_max:
            uid = max(self._totals, key=self._totals.__getitem__)
            longest = next(iter(self._of[uid]))
            self._drop(longest)
            self.forget(longest)

    def forget(self, peer: StreamPeer) -> None:
        """The connection has ended."""
        if peer in self:
            self.note(peer, 0)
