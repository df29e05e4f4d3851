"""A blocking client of the host protocol: one request at a time, each with a timeout of its own."""

from __future__ import annotations

import itertools
import time
from typing import Any

import msgspec
import zmq

from apex_exec.errors import ApexError

GRACE_MS = 500
"""What a client waits beyond the deadline before it takes the connection for lost (PROTOCOL 1.3)."""
DEFAULT_DEADLINE_MS = 5000


class ConnectionLost(ApexError):
    """No reply came in time; whether the hook ran is unknown."""


class CallError(ApexError):
    """The daemon answered with an error. ``reply`` is the whole error message."""

    def __init__(self, reply: dict[str, Any]) -> None:
        super().__init__(f"{reply['code']}: {reply['message']}")
        self.reply = reply
        self.code: str = reply["code"]
        self.started: bool = reply["started"]
        self.retryable: bool = reply["retryable"]


class Client:
    """One connection. Not thread-safe. Use it as a context manager, or ``close`` it."""

    def __init__(self, endpoint: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.connect(endpoint)
        self._ids = itertools.count(1)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drops the connection; the daemon cancels what is pending on it."""
        self._context.destroy(linger=0)

    def request(self, message: dict[str, Any], timeout_ms: int = 1000) -> dict[str, Any]:
        """One request and its reply; blocks for at most ``timeout_ms``. Raises CallError, ConnectionLost."""
        id_ = next(self._ids)
        body = msgspec.msgpack.encode({**message, "id": id_})
        due = time.monotonic() + timeout_ms / 1000
        if not self._socket.poll(timeout_ms, zmq.POLLOUT):
            raise ConnectionLost("no daemon answers on this endpoint; is `apex-exec serve` running?")
        self._socket.send(body)
        while (left_ms := (due - time.monotonic()) * 1000) > 0 and self._socket.poll(int(left_ms) + 1):
            reply: dict[str, Any] = msgspec.msgpack.decode(self._socket.recv_multipart()[-1])
            if reply.get("id") != id_:
                continue  # a late reply to a request that was given up
            if reply["type"] == "error":
                raise CallError(reply)
            return reply
        raise ConnectionLost(f"no reply within {timeout_ms} ms; whether the request was executed is unknown")

    def hello(self) -> dict[str, Any]:
        """The daemon's version, isolation level and limits."""
        return self.request({"type": "hello", "protocol": [1], "client": "apex-exec-python"})

    def plugins(self) -> list[dict[str, Any]]:
        """The enabled plugins."""
        listed: list[dict[str, Any]] = self.request({"type": "plugins"})["plugins"]
        return listed

    def invoke(self, plugin: str, action: str, user_id: str, payload: dict[str, Any] | None = None,
               deadline_ms: int = DEFAULT_DEADLINE_MS) -> dict[str, Any]:
        """Runs one hook; the whole ``result`` message. Blocks up to the deadline and half a second."""
        message = {"type": "invoke", "plugin": plugin, "action": action, "userId": user_id,
                   "deadlineMs": deadline_ms, "payload": payload or {}}
        return self.request(message, deadline_ms + GRACE_MS)
