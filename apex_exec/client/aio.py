"""An asyncio client of the host protocol: any number of calls in flight on one connection.

It drives the ZeroMQ socket by its file descriptor instead of ``zmq.asyncio``: one callback takes all that has
arrived, and a cancelled task cannot leave a half-received message behind.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections import deque
from collections.abc import Mapping
from typing import Any

import zmq

from apex_exec.client import protocol
from apex_exec.client.base import BaseClient, Reply, Request
from apex_exec.client.errors import CallError, ConnectionLost
from apex_exec.client.protocol import DEFAULT_DEADLINE_MS, GRACE_MS, REQUEST_TIMEOUT_MS, CurveKeys, HostCall, HostMethod


class AsyncClient(BaseClient):
    """One connection, of one event loop. Use it as ``async with``, or ``close`` it. Without an endpoint it looks for
    this user's daemon and root's, and raises ConnectionLost where there is none (``client.discovery``).

    Cancelling a task that awaits a call cancels the call in the daemon. A call that is not answered
    ``deadline + 500 ms`` after it was made, or whose connection ends, raises ConnectionLost; the client reconnects.
    """

    def __init__(self, endpoint: str | None = None, *, curve: CurveKeys | None = None,
                 max_message_bytes: int = protocol.MAX_MESSAGE_BYTES) -> None:
        self._loop = asyncio.get_running_loop()
        super().__init__(endpoint, curve, max_message_bytes)
        self._outbox: deque[Request | bytes] = deque()
        self._handlers: set[asyncio.Task[None]] = set()
        self._stirred = False
        self._closed = False
        for socket in (self._socket, self._monitor):
            self._loop.add_reader(int(socket.getsockopt(zmq.FD)), self._progress)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drops the connection; what is pending raises ConnectionLost, and the daemon cancels it. Never blocks.

        After a fork it does nothing: the connection is the parent's, and so is the poll of its loop.
        """
        if self._closed or self._pid != os.getpid():
            return
        self._closed = True
        for socket in (self._socket, self._monitor):
            self._loop.remove_reader(int(socket.getsockopt(zmq.FD)))
        for task in self._handlers:
            task.cancel()
        self._disconnect()
        for request in list(self._requests.values()):
            if request.state in ("queued", "sent"):
                request.lose("the client was closed")

    # ------------------------------------------------------------------ requests
    async def request(self, message: Mapping[str, Any], timeout_ms: float = REQUEST_TIMEOUT_MS) -> Reply:
        """One request and its reply. Raises CallError, ConnectionLost; InvalidRequest before anything is sent."""
        protocol.check_process(self._pid)
        if self._closed:
            raise ConnectionLost("the client was closed; make a new one", False)
        request = self._new_request(message)
        settled: asyncio.Future[None] = self._loop.create_future()
        request.settled = lambda: None if settled.done() else settled.set_result(None)
        timer = self._loop.call_later(timeout_ms / 1000, self._expire, request, timeout_ms)
        self._outbox.append(request)
        self._stir()
        try:
            await settled
        except asyncio.CancelledError:
            self._abandon(request)
            raise
        finally:
            timer.cancel()
            self._requests.pop(request.id, None)
        return request.result()

    async def hello(self) -> Reply:
        """The daemon's version, isolation level and limits; takes over its message limit."""
        return self._welcomed(await self.request(protocol.hello()))

    async def ping(self) -> None:
        """Returns when the daemon has answered."""
        await self.request({"type": "ping"})

    async def plugins(self, user_id: str | None = None) -> list[Reply]:
        """The enabled plugins, for one user where named."""
        listed: list[Reply] = (await self.request(protocol.plugins(user_id)))["plugins"]
        return listed

    async def invoke(self, plugin: str, action: str, user_id: str, payload: Mapping[str, Any] | None = None,
                     deadline_ms: int = DEFAULT_DEADLINE_MS, traceparent: str | None = None) -> Reply:
        """Runs one hook; the whole ``result`` message."""
        return await self.request(protocol.invoke(plugin, action, user_id, payload, deadline_ms, traceparent),
                                  deadline_ms + GRACE_MS)

    async def dispatch(self, action: str, user_id: str, payload: Mapping[str, Any] | None = None,
                       deadline_ms: int = DEFAULT_DEADLINE_MS, traceparent: str | None = None) -> Reply:
        """One event to every plugin that declares the hook; the whole ``dispatched`` message."""
        return await self.request(protocol.dispatch(action, user_id, payload, deadline_ms, traceparent),
                                  deadline_ms + GRACE_MS)

    async def provide(self, methods: Mapping[str, HostMethod]) -> Reply:
        """This connection serves ``methods``, after a reconnect too. A handler may be ``def`` or ``async def``."""
        return await self.request(self._provide(methods))

    # ------------------------------------------------------------------ sending and waiting
    def _stir(self) -> None:
        """Runs ``_progress`` once, soon: sends of one turn of the loop go out together.

        libzmq's file descriptor is edge-triggered: an event that a send swallowed is never signalled again, so every
        send is followed by a look at what can be read.
        """
        if not self._stirred:
            self._stirred = True
            self._loop.call_soon(self._progress)

    def _progress(self) -> None:
        self._stirred = False
        if self._closed:
            return
        self._receive()
        self._watch()
        while self._outbox:
            outgoing = self._outbox[0]
            request, body = (outgoing, outgoing.body) if isinstance(outgoing, Request) else (None, outgoing)
            if request is None or request.state == "queued":
                try:
                    self._socket.send(body, zmq.NOBLOCK)
                except zmq.Again:
                    if why := protocol.closed(self.endpoint):
                        self._lose_unsent(why)
                    break
                if request is not None:
                    request.state = "sent"
            self._outbox.popleft()
        if int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._stir()

    def _lose_unsent(self, why: str) -> None:
        for outgoing in self._outbox:
            if isinstance(outgoing, Request) and outgoing.state == "queued":
                outgoing.lose(why)
        self._outbox.clear()

    def _post(self, message: dict[str, Any]) -> None:
        if not self._closed:
            self._outbox.append(protocol.encode(message, self.max_message_bytes))
            self._stir()

    def _serve(self, call: HostCall) -> None:
        task = self._loop.create_task(self._answer(call))
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)

    async def _answer(self, call: HostCall) -> None:
        try:
            result = self._methods[call.method](call)
            if inspect.isawaitable(result):
                result = await asyncio.wait_for(result, call.deadline_ms / 1000)
            answer = protocol.host_reply(call.call_id, result)
        except Exception as error:  # the plugin must get an answer whatever the handler does
            answer = protocol.host_failure(call.call_id, error)
        try:
            self._post(answer)
        except CallError:  # it is too large, or no value of the protocol
            self._post(protocol.host_failure(call.call_id, protocol.UNSENDABLE))
