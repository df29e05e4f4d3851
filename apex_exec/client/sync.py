"""A blocking client of the host protocol.

For one thread at a time: a second thread that enters gets a RuntimeError, not a corrupted socket. To have many
calls in flight, ``start`` them and ``wait`` for each, or use ``AsyncClient``; for many threads, one Client each.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from apex_exec.client import discovery, protocol
from apex_exec.client.errors import CallError, ConnectionLost
from apex_exec.client.protocol import DEFAULT_DEADLINE_MS, GRACE_MS, REQUEST_TIMEOUT_MS, CurveKeys, HostMethod


class Client:
    """One connection. Use it as a context manager, or ``close`` it. Without an endpoint it looks for this user's daemon
    and root's, and raises ConnectionLost where there is none (``client.places``).

    Reconnects by itself; what was pending on a connection that ended raises ConnectionLost at once.
    """

    def __init__(self, endpoint: str | None = None, *, curve: CurveKeys | None = None,
                 max_message_bytes: int = protocol.MAX_MESSAGE_BYTES) -> None:
        self.endpoint = endpoint = endpoint or discovery.find()
        self.max_message_bytes = max_message_bytes
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._monitor: zmq.Socket[bytes] = self._socket.get_monitor_socket(
            zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        protocol.prepare(self._socket, endpoint, curve)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._next_id = 1
        self._pending: set[int] = set()
        self._replies: dict[int, dict[str, Any]] = {}
        self._lost: set[int] = set()
        self._methods: dict[str, HostMethod] = {}
        self._in_use = threading.Lock()
        self.unmatched = 0
        """Messages that belonged to no pending request: replies that came too late, and what was no message at all."""
        self._pid = os.getpid()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drops the connection; the daemon cancels what is pending on it. Safe to call twice.

        After a fork it does nothing: the connection is the parent's.
        """
        if self._pid == os.getpid() and not self._context.closed:
            self._socket.disable_monitor()
            self._monitor.close(linger=0)
            self._context.destroy(linger=0)

    # ------------------------------------------------------------------ requests
    def request(self, message: Mapping[str, Any], timeout_ms: float = REQUEST_TIMEOUT_MS) -> dict[str, Any]:
        """One request and its reply; blocks for at most ``timeout_ms``. Raises CallError, ConnectionLost."""
        begun = time.monotonic()
        id_ = self.start(message, timeout_ms)
        try:
            return self.wait(id_, timeout_ms - (time.monotonic() - begun) * 1000)
        except (CallError, ConnectionLost):
            raise
        except BaseException:  # Ctrl-C, or what a signal's handler raised: a soft time limit, say
            self._give_up(id_)
            raise

    def start(self, message: Mapping[str, Any], timeout_ms: float = REQUEST_TIMEOUT_MS) -> int:
        """Sends a request and returns its id without waiting for the reply: ``wait`` for it later.

        Blocks only until a connection can take it. Raises InvalidRequest where it is too large, ConnectionLost
        where there is no daemon within ``timeout_ms``.
        """
        with self._alone():
            id_ = self._next_id
            self._next_id += 1
            body = protocol.encode({**message, "id": id_}, self.max_message_bytes)
            if not self._socket.poll(0, zmq.POLLOUT) and (why := protocol.closed(self.endpoint)):
                raise ConnectionLost(f"{why}; it was not sent", False)
            if not self._socket.poll(int(timeout_ms), zmq.POLLOUT):
                raise ConnectionLost(f"nothing answers on {self.endpoint}; is `apex-exec serve` running?", False)
            self._watch()  # the end of a connection before this one is no news about this request
            self._socket.send(body)
            self._pending.add(id_)
            return id_

    def wait(self, id_: int, timeout_ms: float) -> dict[str, Any]:
        """The reply to a started request. Raises CallError, ConnectionLost; afterwards the id is forgotten."""
        due = time.monotonic() + timeout_ms / 1000
        with self._alone():
            while id_ in self._pending:
                left_ms = (due - time.monotonic()) * 1000
                if left_ms <= 0:
                    self._pending.discard(id_)
                    self._post({"type": "cancel", "id": f"cancel-{id_}", "target": id_})
                    raise ConnectionLost(f"no reply within {timeout_ms:.0f} ms; whether it was executed is unknown")
                self._take(left_ms)
            if id_ in self._lost:
                self._lost.discard(id_)
                raise ConnectionLost("the daemon closed the connection; whether it was executed is unknown")
            reply = self._replies.pop(id_, None)
        if reply is None:
            raise ValueError(f"no request {id_} is pending on this client")
        error = protocol.failure(reply)
        if error is not None:
            raise error
        return reply

    def cancel(self, target: int) -> None:
        """Asks for the end of a started request; its own reply, ``Cancelled``, is still to be waited for."""
        with self._alone():
            self._post({"type": "cancel", "id": f"cancel-{target}", "target": target})

    def _give_up(self, id_: int) -> None:
        """Nobody will wait for the request any more: it is cancelled, and its reply is dropped when it comes."""
        with self._alone():
            self._lost.discard(id_)
            self._replies.pop(id_, None)
            if id_ in self._pending:
                self._pending.discard(id_)
                self._post({"type": "cancel", "id": f"cancel-{id_}", "target": id_})

    def hello(self) -> dict[str, Any]:
        """The daemon's version, isolation level and limits; takes over its message limit."""
        welcome = self.request(protocol.hello())
        self.max_message_bytes = welcome["limits"]["maxMessageBytes"]
        return welcome

    def ping(self) -> None:
        """Returns when the daemon has answered."""
        self.request({"type": "ping"})

    def plugins(self, user_id: str | None = None) -> list[dict[str, Any]]:
        """The enabled plugins, for one user where named."""
        listed: list[dict[str, Any]] = self.request(protocol.plugins(user_id))["plugins"]
        return listed

    def invoke(self, plugin: str, action: str, user_id: str, payload: Mapping[str, Any] | None = None,
               deadline_ms: int = DEFAULT_DEADLINE_MS, traceparent: str | None = None) -> dict[str, Any]:
        """Runs one hook; the whole ``result`` message. Blocks up to the deadline and half a second."""
        return self.request(protocol.invoke(plugin, action, user_id, payload, deadline_ms, traceparent),
                            deadline_ms + GRACE_MS)

    def dispatch(self, action: str, user_id: str, payload: Mapping[str, Any] | None = None,
                 deadline_ms: int = DEFAULT_DEADLINE_MS, traceparent: str | None = None) -> dict[str, Any]:
        """One event to every plugin that declares the hook; the whole ``dispatched`` message."""
        return self.request(protocol.dispatch(action, user_id, payload, deadline_ms, traceparent),
                            deadline_ms + GRACE_MS)

    # ------------------------------------------------------------------ host methods
    def provide(self, methods: Mapping[str, HostMethod]) -> dict[str, Any]:
        """This connection serves ``methods`` from now on, while it waits for something or is in ``serve``."""
        self._methods.update(methods)
        return self.request({"type": "provide", "methods": sorted(self._methods)})

    def serve(self, seconds: float) -> None:
        """Answers host calls for ``seconds``; blocks."""
        due = time.monotonic() + seconds
        with self._alone():
            while (left_ms := (due - time.monotonic()) * 1000) > 0:
                self._take(left_ms)

    # ------------------------------------------------------------------ the socket
    @contextmanager
    def _alone(self) -> Iterator[None]:
        protocol.check_process(self._pid)  # first: the lock may have been held when the process forked
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError("a Client serves one thread at a time; give each thread its own, or use AsyncClient")
        try:
            yield
        finally:
            self._in_use.release()

    def _take(self, timeout_ms: float) -> None:
        """Waits for something and takes what is there: replies first, then the news of the connection."""
        self._poller.poll(max(1, int(timeout_ms)))
        self._receive()
        self._watch()

    def _watch(self) -> None:
        while int(self._monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            event = recv_monitor_message(self._monitor, zmq.NOBLOCK)["event"]
            if event == zmq.EVENT_DISCONNECTED:
                self._receive()  # what was answered before the end counts
                self._lost |= self._pending
                self._pending.clear()
            elif self._methods:
                self._post({"type": "provide", "id": "provide", "methods": sorted(self._methods)})

    def _receive(self) -> None:
        while True:
            try:
                reply = protocol.decode(self._socket.recv_multipart(zmq.NOBLOCK)[-1])
            except zmq.Again:
                return
            if reply.get("type") == "hostCall":
                self._answer(reply)
            elif reply.get("id") in self._pending:
                self._pending.discard(reply["id"])
                self._replies[reply["id"]] = reply
            else:  # late, of a request that was given up; or no message at all
                self.unmatched += 1

    def _answer(self, message: dict[str, Any]) -> None:
        call = protocol.host_call(message)
        try:
            answer = protocol.host_reply(call.call_id, self._methods[call.method](call))
        except Exception as error:  # the plugin must get an answer whatever the handler does
            answer = protocol.host_failure(call.call_id, error)
        try:
            self._post(answer)
        except CallError:  # it is too large, or no value of the protocol
            self._post(protocol.host_failure(call.call_id, protocol.UNSENDABLE))

    def _post(self, message: dict[str, Any]) -> None:
        """Sends what needs no reply; dropped where there is no connection."""
        try:
            self._socket.send(protocol.encode(message, self.max_message_bytes), zmq.NOBLOCK)
        except zmq.Again:
            pass
