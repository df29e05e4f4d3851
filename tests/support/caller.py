"""A host that counts every reply: what the fault tests judge "exactly one outcome" by."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import msgspec
import zmq

from tests.support.daemon import USER


class Caller:
    """One DEALER connection. ``replies`` holds all that came, by id: two for one id is a failure of the daemon."""

    def __init__(self, endpoint: str, context: zmq.Context[Any] | None = None) -> None:
        self._own = context is None
        self._context = context or zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.sndhwm = self.socket.rcvhwm = 0
        self.socket.connect(endpoint)
        self.sent = 0
        self.replies: dict[int, list[dict[str, Any]]] = defaultdict(list)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        if self._own:
            self._context.term()

    def invoke(self, plugin: str, action: str, deadline_ms: int = 5000, **context: Any) -> int:
        """Sends one ``onActionExecute``; its id."""
        return self.send(type="invoke", plugin=plugin, action="onActionExecute", userId=USER, deadlineMs=deadline_ms,
                         payload={"action": action, "context": context})

    def send(self, **message: Any) -> int:
        """Sends any request; its id."""
        self.sent += 1
        self.socket.send(msgspec.msgpack.encode({"id": self.sent, **message}))
        return self.sent

    def collect(self, ids: Iterable[int], seconds: float = 15.0) -> list[dict[str, Any]]:
        """The replies to ``ids`` in their order, each the only one."""
        ids = list(ids)
        missing = {i for i in ids if not self.replies[i]}
        due = time.monotonic() + seconds
        while missing:
            left_ms = int((due - time.monotonic()) * 1000)
            assert left_ms > 0, f"{len(missing)} of {len(ids)} requests have no reply after {seconds} s: {missing}"
            if self.socket.poll(left_ms):
                missing.discard(self.take())
        return [self.only(i) for i in ids]

    def take(self) -> int:
        reply = msgspec.msgpack.decode(self.socket.recv_multipart()[-1])
        id_: int = reply["id"]
        self.replies[id_].append(reply)
        return id_

    def only(self, id_: int) -> dict[str, Any]:
        """The one reply to ``id_``."""
        replies = self.replies[id_]
        assert len(replies) == 1, f"request {id_} got {len(replies)} replies: {replies}"
        return replies[0]

    def call(self, plugin: str, action: str = "ok", deadline_ms: int = 5000, **context: Any) -> dict[str, Any]:
        """One request and its reply."""
        return self.collect([self.invoke(plugin, action, deadline_ms, **context)])[0]

    def settle(self, seconds: float = 0.2) -> None:
        """Waits a little for replies that should not come, and checks that every request has had one."""
        due = time.monotonic() + seconds
        while (left_ms := int((due - time.monotonic()) * 1000)) > 0:
            if self.socket.poll(left_ms):
                self.take()
        for id_ in range(1, self.sent + 1):
            self.only(id_)


def outcome(reply: dict[str, Any]) -> str:
    """"ok" or the error's code."""
    return "ok" if reply["type"] == "result" else str(reply["code"])
