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

from apex_exec.client import protocol
from apex_exec.client.base import BaseClient, Reply
from apex_exec.client.errors import CallError, ConnectionLost
from apex_exec.client.protocol import DEFAULT_DEADLINE_MS, GRACE_MS, REQUEST_TIMEOUT_MS, CurveKeys, HostCall, HostMethod


class Client(BaseClient):
    """One connection. Use it as a context manager, or ``close`` it. Without an endpoint it looks for this user's daemon
    and root's, and raises ConnectionLost where there is none (``client.discovery``).

    Reconnects by itself; what was pending on a connection that ended raises ConnectionLost at once.
    """

    def __init__(self, endpoint: str | None = None, *, curve: CurveKeys | None = None,
                 max_message_bytes: int = protocol.MAX_MESSAGE_BYTES) -> None:
        super().__init__(endpoint, curve, max_message_bytes)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._in_use = threading.Lock()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drops the connection; the daemon cancels what is pending on it. Safe to call twice.

        After a fork it does nothing: the connection is the parent's.
        """
        if self._pid == os.getpid() and not self._context.closed:
            self._disconnect()

    # ------------------------------------------------------------------ requests
    def request(self, message: Mapping[str, Any], timeout_ms: float = REQUEST_TIMEOUT_MS) -> Reply:
        """One request and its reply; blocks for at most ``timeout_ms``. Raises CallError, ConnectionLost."""
        begun = time.monotonic()
        id_ = self.start(message, timeout_ms)
        try:
            return self.wait(id_, timeout_ms - (time.monotonic() - begun) * 1000)
        except (CallError, ConnectionLost):
            raise
        except BaseException:  # Ctrl-C, or what a signal's handler raised: a soft time limit, say
            with self._alone():
                if (request := self._requests.get(id_)) is not None:
                    self._abandon(request)
            raise

    def start(self, message: Mapping[str, Any], timeout_ms: float = REQUEST_TIMEOUT_MS) -> int:
        """Sends a request and returns its id without waiting for the reply: ``wait`` for it later.

        Blocks only until a connection can take it. Raises InvalidRequest where it is too large, ConnectionLost
        where there is no daemon within ``timeout_ms``.
        """
        with self._alone():
            request = self._new_request(message)
            try:
                if not self._socket.poll(0, zmq.POLLOUT) and (why := protocol.closed(self.endpoint)):
                    raise ConnectionLost(f"{why}; it was not sent", False)
                if not self._socket.poll(int(timeout_ms), zmq.POLLOUT):
                    raise ConnectionLost(f"nothing answers on {self.endpoint}; is `apex-exec serve` running?", False)
                self._watch()  # the end of a connection before this one says nothing about this request
                self._socket.send(request.body)
            except BaseException:
                self._abandon(request)
                raise
            request.state = "sent"
            return request.id

    def wait(self, id_: int, timeout_ms: float) -> Reply:
        """The reply to a started request. Raises CallError, ConnectionLost; afterwards the id is forgotten."""
        due = time.monotonic() + timeout_ms / 1000
        with self._alone():
            request = self._requests.get(id_)
            if request is None:
                raise ValueError(f"no request {id_} is pending on this client")
            while request.state == "sent":
                left_ms = (due - time.monotonic()) * 1000
                if left_ms > 0:
                    self._take(left_ms)
                else:
                    self._expire(request, timeout_ms)
            del self._requests[id_]
        return request.result()

    def cancel(self, target: int) -> None:
        """Asks for the end of a started request; its own reply, ``Cancelled``, is still to be waited for."""
        with self._alone():
            self._post_cancel(target)

    def hello(self) -> Reply:
        """The daemon's version, isolation level and limits; takes over its message limit."""
        return self._welcomed(self.request(protocol.hello()))

    def ping(self) -> None:
        """Returns when the daemon has answered."""
        self.request({"type": "ping"})

    def plugins(self, user_id: str | None = None) -> list[Reply]:
        """The enabled plugins, for one user where named."""
        listed: list[Reply] = self.request(protocol.plugins(user_id))["plugins"]
        return listed

    def invoke(self, plugin: str, action: str, user_id: str, payload: Mapping[str, Any] | None = None,
               deadline_ms: int = DEFAULT_DEADLINE_MS, traceparent: str | None = None) -> Reply:
        """Runs one hook; the whole ``result`` message. Blocks up to the deadline and half a second."""
        return self.request(protocol.invoke(plugin, action, user_id, payload, deadline_ms, traceparent),
                            deadline_ms + GRACE_MS)

    def dispatch(self, action: str, user_id: str, payload: Mapping[str, Any] | None = None,
                 deadline_ms: int = DEFAULT_DEADLINE_MS, traceparent: str | None = None) -> Reply:
        """One event to every plugin that declares the hook; the whole ``dispatched`` message."""
        return self.request(protocol.dispatch(action, user_id, payload, deadline_ms, traceparent),
                            deadline_ms + GRACE_MS)

    # ------------------------------------------------------------------ host methods
    def provide(self, methods: Mapping[str, HostMethod]) -> Reply:
        """This connection serves ``methods`` from now on, while it waits for something or is in ``serve``."""
        return self.request(self._provide(methods))

    def serve(self, seconds: float) -> None:
        """Answers host calls for ``seconds``; blocks."""
        due = time.monotonic() + seconds
        with self._alone():
            while (left_ms := (due - time.monotonic()) * 1000) > 0:
                self._take(left_ms)

    # ------------------------------------------------------------------ sending and waiting
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

    def _serve(self, call: HostCall) -> None:
        try:
            answer = protocol.host_reply(call.call_id, self._methods[call.method](call))
        except Exception as error:  # the plugin must get an answer whatever the handler does
            answer = protocol.host_failure(call.call_id, error)
        try:
            self._post(answer)
        except CallError:  # it is too large, or no value of the protocol
            self._post(protocol.host_failure(call.call_id, protocol.UNSENDABLE))

    def _post(self, message: dict[str, Any]) -> None:
        try:
            self._socket.send(protocol.encode(message, self.max_message_bytes), zmq.NOBLOCK)
        except zmq.Again:
            pass
