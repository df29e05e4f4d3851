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
from zmq.utils.monitor import recv_monitor_message

from apex_exec.client import discovery, protocol
from apex_exec.client.errors import ConnectionLost
from apex_exec.client.protocol import DEFAULT_DEADLINE_MS, GRACE_MS, REQUEST_TIMEOUT_MS, CurveKeys, HostMethod

Reply = dict[str, Any]


class AsyncClient:
    """One connection, of one event loop. Use it as ``async with``, or ``close`` it. Without an endpoint it looks for
    this user's daemon and root's, and raises ConnectionLost where there is none (``client.places``).

    Cancelling a task that awaits a call cancels the call in the daemon. A call that is not answered
    ``deadline + 500 ms`` after it was made, or whose connection ends, raises ConnectionLost; the client reconnects.
    """

    def __init__(self, endpoint: str | None = None, *, curve: CurveKeys | None = None,
                 max_message_bytes: int = protocol.MAX_MESSAGE_BYTES) -> None:
        self.endpoint = endpoint = endpoint or discovery.find()
        self.max_message_bytes = max_message_bytes
        self._loop = asyncio.get_running_loop()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._monitor: zmq.Socket[bytes] = self._socket.get_monitor_socket(
            zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        protocol.prepare(self._socket, endpoint, curve)
        self._next_id = 1
        self._pending: dict[int, asyncio.Future[Reply]] = {}
        self._sent: set[int] = set()
        self._outbox: deque[tuple[int, bytes]] = deque()
        self._methods: dict[str, HostMethod] = {}
        self._handlers: set[asyncio.Task[None]] = set()
        self._stirred = False
        self._closed = False
        self.unmatched = 0
        """Messages that belonged to no pending request: replies that came too late, and what was no message at all."""
        self._pid = os.getpid()
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
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._context.destroy(linger=0)
        self._fail(set(self._pending), "the client was closed")

    # ------------------------------------------------------------------ requests
    async def request(self, message: Mapping[str, Any], timeout_ms: float = REQUEST_TIMEOUT_MS) -> Reply:
        """One request and its reply. Raises CallError, ConnectionLost; InvalidRequest before anything is sent."""
        protocol.check_process(self._pid)
        if self._closed:
            raise ConnectionLost("the client was closed", False)
        id_ = self._next_id
        self._next_id += 1
        body = protocol.encode({**message, "id": id_}, self.max_message_bytes)
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._pending[id_] = future
        timer = self._loop.call_later(timeout_ms / 1000, self._expire, id_, timeout_ms)
        self._outbox.append((id_, body))
        self._stir()
        try:
            reply = await future
        except asyncio.CancelledError:
            self._give_up(id_)
            raise
        finally:
            timer.cancel()
            self._pending.pop(id_, None)
            self._sent.discard(id_)
        error = protocol.failure(reply)
        if error is not None:
            raise error
        return reply

    async def hello(self) -> Reply:
        """The daemon's version, isolation level and limits; takes over its message limit."""
        welcome = await self.request(protocol.hello())
        self.max_message_bytes = welcome["limits"]["maxMessageBytes"]
        return welcome

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
        self._methods.update(methods)
        return await self.request({"type": "provide", "methods": sorted(self._methods)})

    # ------------------------------------------------------------------ the socket
    def _stir(self) -> None:
        """Runs ``_progress`` once, soon: sends of one turn of the loop go out together.

        libzmq's file descriptor is edge-triggered: an event that a send swallowed would never be told, so every
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
            id_, body = self._outbox[0]
            if not id_ or id_ in self._pending:
                try:
                    self._socket.send(body, zmq.NOBLOCK)
                except zmq.Again:
                    if why := protocol.closed(self.endpoint):
                        self._fail({id_ for id_, _ in self._outbox if id_}, why)
                        self._outbox.clear()
                    break
                if id_:
                    self._sent.add(id_)
            self._outbox.popleft()
        if int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._stir()

    def _receive(self) -> None:
        while True:
            try:
                body = self._socket.recv_multipart(zmq.NOBLOCK)[-1]
            except zmq.Again:
                return
            reply = protocol.decode(body)
            if reply.get("type") == "hostCall":
                task = self._loop.create_task(self._answer(reply))
                self._handlers.add(task)
                task.add_done_callback(self._handlers.discard)
                continue
            id_ = reply.get("id")
            future = self._pending.pop(id_, None) if isinstance(id_, int) else None
            if future is not None and not future.done():
                future.set_result(reply)
            else:  # late, of a request that was given up; or no message at all
                self.unmatched += 1

    def _watch(self) -> None:
        while int(self._monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            event = recv_monitor_message(self._monitor, zmq.NOBLOCK)["event"]
            if event == zmq.EVENT_DISCONNECTED:
                self._receive()  # what was answered before the end counts
                self._fail(set(self._sent), "the daemon closed the connection")
            elif self._methods:
                self._post({"type": "provide", "id": "provide", "methods": sorted(self._methods)})

    def _fail(self, ids: set[int], why: str) -> None:
        for id_ in ids:
            future = self._pending.pop(id_, None)
            executed = None if id_ in self._sent else False
            self._sent.discard(id_)
            if future is not None and not future.done():
                known = "it was not sent" if executed is False else "whether it was executed is unknown"
                future.set_exception(ConnectionLost(f"{why}; {known}", executed))

    def _expire(self, id_: int, timeout_ms: float) -> None:
        if id_ in self._sent:
            self._give_up(id_)
            self._fail({id_}, f"no reply within {timeout_ms:.0f} ms")
        else:
            self._fail({id_}, f"nothing answers on {self.endpoint} (is `apex-exec serve` running?)")

    def _give_up(self, id_: int) -> None:
        """Tells the daemon that nobody waits any more; an unsent request is simply not sent."""
        if id_ in self._sent and id_ in self._pending and not self._closed:
            self._post({"type": "cancel", "id": f"cancel-{id_}", "target": id_})

    def _post(self, message: dict[str, Any]) -> None:
        self._outbox.append((0, protocol.encode(message, self.max_message_bytes)))
        self._stir()

    async def _answer(self, message: Reply) -> None:
        call = protocol.host_call(message)
        try:
            result = self._methods[call.method](call)
            if inspect.isawaitable(result):
                result = await asyncio.wait_for(result, call.deadline_ms / 1000)
            self._post(protocol.host_reply(call.call_id, result))
        except Exception as error:  # the plugin must get an answer whatever the handler does
            self._post(protocol.host_failure(call.call_id, error))
