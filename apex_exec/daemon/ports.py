"""What the supervisor asks of the part that serves API calls, beside what the executor asks of it."""

from __future__ import annotations

from typing import Protocol

from apex_exec.daemon.hosts.connections import Peer
from apex_exec.executor import ports
from apex_exec.wire import messages as msg


class ApiCalls(ports.ApiCalls, Protocol):
    """API calls of plugins, and the hosts that serve some of them."""

    def provide(self, peer: Peer, methods: list[str]) -> tuple[list[str], list[str]]:
        """``peer`` offers to serve host methods; those it serves now, and those it stands by for. Raises WireError."""

    def host_reply(self, peer: Peer, reply: msg.HostReply) -> None:
        """``peer`` answers a hostCall, or says it does."""

    def peer_gone(self, peer: Peer) -> None:
        """The connection ended: it provides nothing any longer, and owes no answer."""
