"""A host for tests that wants to see every frame: one DEALER, messages as maps, replies by id."""

from __future__ import annotations

import itertools
import time
from typing import Any

import msgspec
import zmq

from tests.support.daemon import USER

pack = msgspec.msgpack.encode
unpack = msgspec.msgpack.decode


class Host:
    """A context manager. ``options`` are socket options by their pyzmq name, as ``ROUTING_ID=b"x"``."""

    def __init__(self, endpoint: str, kind: int = zmq.DEALER, **options: Any) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(kind)
        self.socket.linger = 0
        for name, value in options.items():
            self.socket.set(getattr(zmq, name), value)
        self.socket.connect(endpoint)
        self._ids = itertools.count(1)
        self.replies: dict[Any, dict[str, Any]] = {}

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.destroy(linger=0)

    def send(self, message: dict[str, Any]) -> Any:
        """Sends one message; its id, made where it has none."""
        message = {"id": next(self._ids), **message}
        self.socket.send(pack(message))
        return message["id"]

    def receive(self, seconds: float = 10.0) -> dict[str, Any]:
        """The next message that arrives."""
        assert self.socket.poll(int(seconds * 1000)), "no reply came"
        reply: dict[str, Any] = unpack(self.socket.recv_multipart()[-1])
        return reply

    def reply(self, id_: Any, seconds: float = 10.0) -> dict[str, Any]:
        """The reply to request ``id_``; others are kept."""
        due = time.monotonic() + seconds
        while id_ not in self.replies:
            reply = self.receive(max(0.0, due - time.monotonic()))
            assert reply["id"] not in self.replies, f"two replies to {reply['id']}"
            self.replies[reply["id"]] = reply
        return self.replies.pop(id_)

    def ask(self, message: dict[str, Any], seconds: float = 10.0) -> dict[str, Any]:
        """One request and its reply."""
        return self.reply(self.send(message), seconds)

    def raw(self, *frames: bytes) -> dict[str, Any]:
        """Sends frames as they are; the next reply."""
        self.socket.send_multipart(list(frames))
        return self.receive()

    def invoke(self, plugin: str, context: dict[str, Any] | None = None, seconds: float = 10.0,
               **more: Any) -> dict[str, Any]:
        """``onActionExecute`` with ``context``; the whole reply, errors included."""
        return self.ask(action(plugin, context, **more), seconds)

    def quiet(self, seconds: float = 0.3) -> bool:
        """True if nothing arrives for ``seconds``."""
        return not self.socket.poll(int(seconds * 1000))


def action(plugin: str, context: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """An ``invoke`` of ``onActionExecute``."""
    return {"type": "invoke", "plugin": plugin, "action": "onActionExecute", "userId": USER,
            "payload": {"action": "x", "context": context or {}}, **more}
