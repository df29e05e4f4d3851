"""The host's end of the protocol on ``tcp://`` with CURVE, whose bytes are libzmq's."""

from __future__ import annotations

import msgspec
import zmq

from apex_exec.client import CurveKeys
from apex_exec.client.protocol import prepare
from apex_exec.conformance.cases import NotKept
from apex_exec.conformance.peers import SECONDS, Message, MessageHost


class CurveHost(MessageHost):
    """One connection to the daemon at ``endpoint``, with ``keys`` or without any. A context manager. ``routing_id`` is
    a name of its own, which a host must not have."""

    def __init__(self, endpoint: str, keys: CurveKeys | None, routing_id: bytes = b"") -> None:
        super().__init__()
        self.endpoint = endpoint
        self.keys = keys
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.SNDTIMEO, int(SECONDS * 1000))
        if routing_id:
            socket.setsockopt(zmq.ROUTING_ID, routing_id)
        self._socket = prepare(socket, endpoint, keys)

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)

    def another(self) -> CurveHost:
        return CurveHost(self.endpoint, self.keys)

    def send(self, message: Message | bytes, frames: list[bytes] | None = None) -> None:
        body = message if isinstance(message, bytes) else msgspec.msgpack.encode(message)
        try:
            self._socket.send_multipart([*(frames or []), body])
        except zmq.Again:
            raise NotKept(f"no connection came about within {SECONDS:g} s") from None

    def receive_frames(self, seconds: float = SECONDS) -> tuple[list[bytes], Message]:
        if self.says_nothing(seconds):
            raise NotKept(f"no answer came within {seconds:g} s")
        *frames, body = self._socket.recv_multipart()
        return frames, msgspec.msgpack.decode(body)

    def says_nothing(self, seconds: float) -> bool:
        return not self._socket.poll(int(seconds * 1000))

    def is_served_within(self, seconds: float) -> bool:
        """Whether a ping is answered. Blocks for twice ``seconds`` at most."""
        self._socket.setsockopt(zmq.SNDTIMEO, int(seconds * 1000))
        try:
            return bool(self.ask({"type": "ping"}, seconds)["type"] == "pong")
        except NotKept:
            return False
