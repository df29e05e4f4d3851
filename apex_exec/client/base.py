"""What a client of the host protocol is, however it sends and waits: its connection, its requests, its host methods.

A request is ``queued`` until a connection takes it and then ``sent``; it ends ``answered``, ``lost`` (its connection
has ended, or its time has passed) or ``abandoned`` (nobody waits for it any more: it is cancelled, and a late reply
is dropped). ``Client`` and ``AsyncClient`` differ in how they send and wait only; the TypeScript client has the states
by these names too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

import zmq
from zmq.utils.monitor import recv_monitor_message

from apex_exec.client import discovery, protocol
from apex_exec.client.errors import ConnectionLost
from apex_exec.client.protocol import CurveKeys, HostCall, HostMethod

Reply = dict[str, Any]
State = Literal["queued", "sent", "answered", "lost", "abandoned"]


class Request:
    """One request, until its reply is taken. ``settled`` is called once, when it is answered or lost."""

    __slots__ = ("_error", "_expected", "_reply", "body", "id", "settled", "state")

    def __init__(self, id_: int, body: bytes, kind: str = "") -> None:
        self.id = id_
        self.body = body
        self._expected = kind
        self.state: State = "queued"
        self.settled: Callable[[], object] = _nothing
        self._reply: Reply = {}
        self._error: ConnectionLost | None = None

    def answer(self, reply: Reply) -> None:
        """The reply has come."""
        self.state, self._reply = "answered", reply
        self.settled()

    def lose(self, why: str) -> None:
        """No reply will come; what was never sent is known not to have been executed."""
        known, executed = (("whether it was executed is unknown", None) if self.state == "sent"
                           else ("it was not sent", False))
        self.state, self._error = "lost", ConnectionLost(f"{why}; {known}", executed)
        self.settled()

    def result(self) -> Reply:
        """The reply. Raises CallError if it is an error, ConnectionLost if there is none."""
        if self._error is not None:
            raise self._error
        error = protocol.failure(self._reply, self._expected)
        if error is not None:
            raise error
        return self._reply


def _nothing() -> None:
    """Nobody is to be woken."""


class BaseClient:
    """One connection. Subclasses say how bytes leave (``_post``), who answers a host call (``_serve``), and wait."""

    def __init__(self, endpoint: str | None, curve: CurveKeys | None, max_message_bytes: int) -> None:
        self.endpoint = endpoint = endpoint or discovery.find()
        self.max_message_bytes = max_message_bytes
        self.unmatched = 0
        """Messages that belonged to no pending request: replies that came too late, and what was no message at all."""
        self.is_connected = False
        """Whether a connection is there, by the news of it that this client has taken so far."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._monitor: zmq.Socket[bytes] = self._socket.get_monitor_socket(
            zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        protocol.prepare(self._socket, endpoint, curve)
        self._requests: dict[int, Request] = {}
        self._methods: dict[str, HostMethod] = {}
        self._next_id = 1
        self._pid = os.getpid()

    @property
    def pending(self) -> int:
        """How many requests have no reply yet, or one that nobody has taken."""
        return len(self._requests)

    # ------------------------------------------------------------------ requests
    def _new_request(self, message: Mapping[str, Any]) -> Request:
        """A queued request. Raises InvalidRequest if it is too large, or not a MessagePack value."""
        id_ = self._next_id
        self._next_id += 1
        request = Request(id_, protocol.encode({"id": id_, **message}, self.max_message_bytes),
                          message.get("type", ""))
        self._requests[id_] = request
        return request

    def _expire(self, request: Request, timeout_ms: float) -> None:
        """Its time has passed."""
        if request.state == "sent":
            self._post_cancel(request.id)
            request.lose(f"no reply within {timeout_ms:.0f} ms")
        elif request.state == "queued":
            request.lose(f"nothing answers on {self.endpoint} (is `apex-exec serve` running?)")

    def _abandon(self, request: Request) -> None:
        """Nobody waits any more. A sent request is cancelled; one that was not sent stays unsent."""
        if request.state == "sent":
            self._post_cancel(request.id)
        request.state = "abandoned"
        self._requests.pop(request.id, None)

    def _post_cancel(self, target: int) -> None:
        self._post({"type": "cancel", "id": f"cancel-{target}", "target": target})

    # ------------------------------------------------------------------ what arrives
    def _receive(self) -> None:
        """Takes every message that has arrived."""
        while True:
            try:
                reply = protocol.decode(self._socket.recv_multipart(zmq.NOBLOCK)[-1])
            except zmq.Again:
                return
            id_ = reply.get("id")
            if reply.get("type") == "hostCall":
                self._serve(protocol.host_call(reply))
            elif isinstance(id_, int) and (request := self._requests.get(id_)) is not None and request.state == "sent":
                request.answer(reply)
            else:  # late, of a request that was given up; or no message at all
                self.unmatched += 1

    def _watch(self) -> None:
        """Takes the news of the connection: its end loses what was sent on it, a new one provides the methods again."""
        while int(self._monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            event = recv_monitor_message(self._monitor, zmq.NOBLOCK)["event"]
            self.is_connected = event != zmq.EVENT_DISCONNECTED
            if event == zmq.EVENT_DISCONNECTED:
                self._receive()  # what was answered before the end counts
                for request in [one for one in self._requests.values() if one.state == "sent"]:
                    request.lose("the daemon closed the connection")
            elif self._methods:
                self._post({"type": "provide", "id": "provide", "methods": sorted(self._methods)})

    def _provide(self, methods: Mapping[str, HostMethod]) -> dict[str, Any]:
        """The message that says which methods this connection serves from now on."""
        self._methods.update(methods)
        return {"type": "provide", "methods": sorted(self._methods)}

    def _welcomed(self, welcome: Reply) -> Reply:
        """Takes over the daemon's message limit."""
        self.max_message_bytes = welcome["limits"]["maxMessageBytes"]
        return welcome

    def _disconnect(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._context.destroy(linger=0)

    # ------------------------------------------------------------------ what the clients differ in
    def _post(self, message: dict[str, Any]) -> None:
        """Sends what needs no reply; dropped if there is no connection."""
        raise NotImplementedError

    def _serve(self, call: HostCall) -> None:
        """Has a host method answer."""
        raise NotImplementedError
