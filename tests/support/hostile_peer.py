"""A peer in the daemon's place whose answers are not messages: clients must survive it."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import zmq

JUNK = (b"", b"\xc1", b"\x92\x01\x02", b"\xc0", b"\x81", b"\xdf\xff\xff\xff\xff", b"\xa3abc", b"\x81\xa2id\x91\x01",
        b"\x82\xa4type\xa5error\xa2id\x81\x01\x02", b"\x81\xa4type\xa8hostCall", b"\x91" * 5000,
        b"\x83\xa4type\xa6result\xa2id\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xa1x\xc0")
"""No messages, or messages to nobody."""


def spoiled(id_: int) -> bytes:
    """A result for ``id_`` that cannot be decoded, or that a JavaScript host may not take; different ones in turn."""
    head = b"\x83\xa4type\xa6result\xa2id" + msgspec.msgpack.encode(id_) + b"\xa6result"
    ends = (b"\xc1", b"\xa3ab", b"\xa1\xff", b"\xa3\xed\xa0\xbd", b"\x81\xa9__proto__\x81\xa5admin\xc3",
            b"\xd7\xff" + b"\xff" * 8, b"\xc7\x0c\xff" + b"\xff" * 12, b"\x91" * 3000 + b"\xc0",
            b"\xc9\x00\x00\x00\x01\x05a", b"\x81\x91\x01\x02", b"", b"\xdd\xff\xff\xff\xff", b"\x81\xd6\x05aaaa\xc0")
    return head + ends[(id_ // 2) % len(ends)]


class HostilePeer:
    """Serves one ROUTER: a request with an odd id is answered ``spoiled``, any other by its own payload, with junk."""

    def __init__(self, endpoint: str) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.bind(endpoint)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> HostilePeer:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def _serve(self) -> None:
        while not self._over.is_set():
            if not self._socket.poll(50):
                continue
            peer, *_, body = self._socket.recv_multipart()
            request = msgspec.msgpack.decode(body)
            if request["type"] != "invoke":  # a hostReply, say, which has no id
                continue
            id_ = request["id"]
            self._socket.send_multipart([peer, JUNK[id_ % len(JUNK)]])
            good = msgspec.msgpack.encode({"type": "result", "id": id_, "plugin": "p", "action": request["action"],
                                           "result": request["payload"], "effects": [], "usage": {}})
            self._socket.send_multipart([peer, spoiled(id_) if id_ % 2 else good])


WRONG_ANSWERS: list[dict[str, Any]] = [
    {"type": "pong"}, {"type": "dispatched", "action": "a", "result": None, "outcomes": [], "partial": False},
    {"type": "result"}, {"type": "cancelled", "target": 1, "found": True}, {"type": 5}, {}]
"""Answers to something else than an ``invoke``."""


class Answering:
    """A peer in the daemon's place that gives every request one and the same answer, with the request's id."""

    def __init__(self, endpoint: str, answer: dict[str, Any]) -> None:
        self._answer = answer
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.bind(endpoint)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._over.is_set():
            if self._socket.poll(20):
                peer, body = self._socket.recv_multipart()
                id_ = msgspec.msgpack.decode(body)["id"]
                self._socket.send_multipart([peer, msgspec.msgpack.encode({**self._answer, "id": id_})])

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._context.destroy(linger=0)
