"""The endpoint that hosts call: decodes each message once and hands the request on. Answers errors that need no core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from apex_exec.daemon.hosts.connections import Events, Open, Peer, Trouble
from apex_exec.daemon.hosts.requests import LARGE_BYTES, Requests
from apex_exec.errors import Code, WireError, is_retryable
from apex_exec.wire import codec
from apex_exec.wire import messages as msg

if TYPE_CHECKING:
    from apex_exec.executor.loop import Loop
    from apex_exec.observe.logs import Logs
    from apex_exec.observe.metrics import Metrics

_encode = msgspec.msgpack.Encoder().encode


class HostSocket:
    """One endpoint for protocol 1. Its connections, ``peers``, are not bound yet."""

    def __init__(self, loop: Loop, open_: Open, requests: Requests, *, bytes_max: int, metrics: Metrics,
                 logs: Logs) -> None:
        self._requests = requests
        self._bytes_max = bytes_max
        self._metrics = metrics
        self._logs = logs
        self._decode = codec.decode_request
        self.peers = open_(loop, Events(message=self._message, gone=requests.peer_gone, broken=self._broken))

    def _message(self, peer: Peer, frames: list[bytes], body: bytes) -> None:
        if peer.foreign:
            self._metrics.inc("protocol_anomalies_total", ("foreign_routing_id",))
            self._refuse(peer, frames, None, WireError(Code.PROTOCOL_ERROR, "this socket has set ZMQ_ROUTING_ID, "
                                                                            "which is refused; leave it unset"))
            return
        try:
            request = self._decode(body, self._bytes_max)
        except WireError as error:
            self._refuse(peer, frames, codec.id_of(body, error.code), error)
            return
        try:
            if len(body) > LARGE_BYTES:
                self._requests.serve_large(peer, frames, request, len(body))
            else:
                self._requests.serve(peer, frames, request)
        except WireError as error:
            self._refuse(peer, frames, getattr(request, "id", None), error)
        except Exception as error:
            self._failed(peer, frames, request, error)

    def _failed(self, peer: Peer, frames: list[bytes], request: Any, error: Exception) -> None:
        """A bug of ours: this request is answered INTERNAL, and all others go on."""
        id_ = getattr(request, "id", None)
        self._logs.bug("a request failed", error)
        self._requests.abandon(peer, id_)
        self._refuse(peer, frames, id_, WireError(Code.INTERNAL, "the daemon failed to serve this request, because of "
                                                                 "a bug; its log has the details"))

    def _broken(self, trouble: Trouble, count: int) -> None:
        if trouble == "unread":
            self._metrics.inc("dropped_replies_total", (), count)
        else:
            self._metrics.inc("protocol_anomalies_total", (trouble,), count)

    def _refuse(self, peer: Peer, frames: list[bytes], id_: int | str | None, error: WireError) -> None:
        """Answers with ``error``. The answer to a duplicate has null for its id, since the reply to the first request
        with that id is still to come."""
        if error.code is Code.DUPLICATE_ID:
            id_ = None
        peer.connections.reply(peer, frames, _encode(msg.Error(
            id=id_, code=error.code, message=error.message, started=False,
            retryable=is_retryable(error.code, False), details=error.details or msgspec.UNSET)))
