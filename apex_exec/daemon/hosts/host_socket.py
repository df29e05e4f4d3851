"""The endpoint that hosts call: frames in, one decode, requests out; errors that need no core are answered here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from apex_exec.daemon.hosts.connections import Handlers, Open, Peer
from apex_exec.daemon.hosts.requests import LARGE_BYTES
from apex_exec.errors import Code, WireError, is_retryable
from apex_exec.wire import codec
from apex_exec.wire import messages as msg

if TYPE_CHECKING:
    from apex_exec.executor.loop import Loop
    from apex_exec.observe.metrics import Metrics

_encode = msgspec.msgpack.Encoder().encode


class HostSocket:
    """One endpoint that is spoken to in protocol 1. ``serve(peer, frames, request)`` may raise WireError; of messages
    over LARGE_BYTES ``serve_large`` is told the size too."""

    def __init__(self, loop: Loop, open_: Open, *, bytes_max: int,
                 serve: Callable[[Peer, list[bytes], Any], None],
                 serve_large: Callable[[Peer, list[bytes], Any, int], None], gone: Callable[[Peer], None],
                 metrics: Metrics) -> None:
        self._bytes_max = bytes_max
        self._serve = serve
        self._serve_large = serve_large
        self._metrics = metrics
        self._decode = codec.decode_request
        self.peers = open_(loop, Handlers(
            message=self._message, gone=gone, alien=self._alien,
            dropped=lambda count: metrics.inc("dropped_replies_total", (), count),
            broken=lambda kind: metrics.inc("protocol_anomalies_total", (kind,))))
        self.reply = self.peers.reply

    def _message(self, peer: Peer, frames: list[bytes], body: bytes) -> None:
        try:
            request = self._decode(body, self._bytes_max)
        except WireError as error:
            self.refuse(peer, frames, codec.id_of(body, error.code), error)
            return
        try:
            if len(body) > LARGE_BYTES:
                self._serve_large(peer, frames, request, len(body))
            else:
                self._serve(peer, frames, request)
        except WireError as error:
            self.refuse(peer, frames, getattr(request, "id", None), error)

    def _alien(self, peer: Peer, frames: list[bytes]) -> None:
        self._metrics.inc("protocol_anomalies_total", ("foreign_routing_id",))
        self.refuse(peer, frames, None, WireError(Code.PROTOCOL_ERROR, "set no routing id of your own"))

    def refuse(self, peer: Peer, frames: list[bytes], id_: int | str | None, error: WireError) -> None:
        """Answers with ``error``; a duplicate's own id is null, since the first holder's reply is still to come."""
        if error.code is Code.DUPLICATE_ID:
            id_ = None
        self.reply(peer, frames, _encode(msg.Error(
            id=id_, code=error.code, message=error.message, started=False,
            retryable=is_retryable(error.code, False), details=error.details or msgspec.UNSET)))
