"""Several transports as one, where hosts come by ipc and by tcp: what the loop asks of connections, asked of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from apex_exec.daemon.hosts.connections import Connections, Peer


class ManyPeers:
    """``parts`` in the order in which they are read; the first is the one that ``bind`` binds. ``links`` are read
    besides, and have nothing to flush."""

    unread = unsent = True  # each part is asked in every round

    def __init__(self, parts: Sequence[Connections], links: Callable[[], bool]) -> None:
        self._parts = tuple(parts)
        self._links = links

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def bind(self, endpoint: str) -> None:
        """Serves ``endpoint`` with the first part. Raises OSError."""
        self._parts[0].bind(endpoint)

    def receive(self) -> bool:
        """A bounded number of messages of each; True if more may be waiting."""
        more = self._links()  # answers first: they free what requests take
        for part in self._parts:
            if part.receive():
                more = True
        return more

    def reply(self, peer: Peer, frames: list[bytes], body: bytes) -> None:
        """Sends by the part that ``peer`` belongs to."""
        peer.connections.reply(peer, frames, body)

    def flush(self) -> None:
        """Hands what was queued to the kernel."""
        for part in self._parts:
            part.flush()

    def drop(self, peer: Peer) -> None:
        """Ends the connection of ``peer``."""
        peer.connections.drop(peer)

    def close(self) -> None:
        """Ends all connections."""
        for part in self._parts:
            part.close()
