"""How many bytes connections make the daemon keep, in all: one total over many, each of which has a bound of its own.

A total cannot be kept by refusing the latest: then the one that fills it first would keep everybody else out. So the
connection that has kept its share for the longest is dropped, of the uid that keeps most: an honest message or reply is
under way for milliseconds, and nobody pays for another user.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar


class OfUid(Hashable, Protocol):
    """A connection, as far as this part knows it."""

    uid: int


C = TypeVar("C", bound=OfUid)


class ConnectionQuota(Generic[C]):
    """Bytes by connection. ``drop(connection)`` ends one."""

    def __init__(self, bytes_max: int, drop: Callable[[C], None]) -> None:
        self.bytes = 0
        self._bytes_max = bytes_max
        self._drop = drop
        self._of: dict[int, dict[C, int]] = {}  # uid → its connections, the one that has kept bytes the longest first
        self._totals: dict[int, int] = {}

    def __contains__(self, connection: C) -> bool:
        return connection in self._of.get(connection.uid, ())

    def note(self, connection: C, kept_bytes: int) -> None:
        """Records how many bytes we keep for ``connection`` now. While the total is above its limit, drops connections;
        ``connection`` itself may be one of them."""
        connections = self._of.setdefault(connection.uid, {})
        change = kept_bytes - connections.get(connection, 0)
        if kept_bytes:
            connections[connection] = kept_bytes
        else:
            connections.pop(connection, None)
        self.bytes += change
        total = self._totals[connection.uid] = self._totals.get(connection.uid, 0) + change
        if not connections and not total:
            del self._of[connection.uid], self._totals[connection.uid]
        while self.bytes > self._bytes_max:
            uid = max(self._totals, key=self._totals.__getitem__)
            longest = next(iter(self._of[uid]))
            self._drop(longest)
            self.forget(longest)

    def forget(self, connection: C) -> None:
        """The connection has ended."""
        if connection in self:
            self.note(connection, 0)
