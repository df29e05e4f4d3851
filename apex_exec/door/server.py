"""Runs the door: listens, serves until it is asked to end, and ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.web_request import BaseRequest

from apex_exec.common.listening import BACKLOG, listen
from apex_exec.common.own_folder import own_folder, take_lock
from apex_exec.config import Settings
from apex_exec.door import answers
from apex_exec.door.answers import Problem
from apex_exec.door.answers_kept import AnswersKept, Unusable
from apex_exec.door.api import Api
from apex_exec.door.audit_stream import AuditStreams
from apex_exec.door.daemon_link import DaemonLink
from apex_exec.door.identity import Identity
from apex_exec.door.keyed_calls import KeyedCalls
from apex_exec.door.place import folder_of, place_of
from apex_exec.errors import Code, ConfigError

HEAD_BYTES_MAX = 32 * 1024
"""A head that is not whole by then ends its connection: 64 lines of 8 KiB on each would be two gigabytes."""
LINE_BYTES_MAX = 8 * 1024
HEADERS_MAX = 64
IDLE_SECONDS = 20.0
"""How long a connection may be without a whole head: a slow one, an idle one, one that sends nothing."""
UNREAD_SECONDS = 30.0
"""How long an answer may lie unread behind what the kernel takes: its bytes, a megabyte at most, are held meanwhile."""
LINGER_SECONDS = 2.0
"""How long a body that was refused is still read, so that its sender sees the answer."""
FDS_OWN = 64
Ready = Callable[[str], None]
"""``ready(origin)``: it listens."""
log = logging.getLogger("apex_exec.door")
_FULL = (b"HTTP/1.1 503 Service Unavailable\r\nServer: apex-exec\r\nContent-Length: 0\r\nRetry-After: 1\r\n"
         b"Connection: close\r\n\r\n")


class _Connection(web.RequestHandler):
    """One connection; what is not HTTP is answered with a problem, too."""

    __slots__ = ("_head_bytes", "_unread")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        server = self._manager
        assert isinstance(server, _Server)
        if len(server.connections) >= server.connections_max:
            assert isinstance(transport, asyncio.WriteTransport)
            server.turned_away += 1
            transport.write(_FULL)
            transport.close()
            return
        self._head_bytes = 0
        self._unread: asyncio.TimerHandle | None = None
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self.transport is not None or self._task_handler is not None:
            self._read()
            super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = asyncio.get_running_loop().call_later(UNREAD_SECONDS, self._give_up)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read()

    def _read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _give_up(self) -> None:
        if isinstance(self.transport, asyncio.WriteTransport):
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._task_handler is None and self.transport is None:
            return
        requests = self._request_count
        super().data_received(data)
        if self._request_count != requests or self._waiter is None:  # a head is whole, or a body is being read
            self._head_bytes = 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES_MAX:
            self.force_close()

    def handle_error(self, request: BaseRequest, status: int = 500, exc: BaseException | None = None,
                     message: str | None = None) -> web.StreamResponse:
        if status >= 500:
            log.error("a request failed", exc_info=exc)
            problem = Problem(Code.INTERNAL, "the door failed to serve this request, because of a bug; its log has "
                                             "the details", started=True)
        else:
            problem = Problem(Code.PROTOCOL_ERROR, "the request is not valid HTTP/1.1", status=status)
        made = answers.of_problem(request, problem)
        made.force_close()
        return made


class _Server(web.Server):
    """``connections_max`` connections at once; above it a new one is asked to come again."""

    def __init__(self, handler: Any, connections_max: int, **kwargs: Any) -> None:
        super().__init__(handler, handler_cancellation=True, **kwargs)
        self.connections_max = connections_max
        self.turned_away = 0

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


def run(settings: Settings, host: str, admin: str, ready: Ready) -> int:
    """Serves until SIGTERM or SIGINT; returns 0. Blocks. Raises ConfigError before it listens."""
    return asyncio.run(_serve(settings, host, admin, ready))


async def _serve(settings: Settings, host: str, admin: str, ready: Ready) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for name in ("aiohttp", "asyncio"):  # a request that is not HTTP is its sender's fault, and not worth a traceback
        logging.getLogger(name).setLevel(logging.CRITICAL)
    section, place = settings.door, place_of(settings)
    folder = folder_of(settings)
    own_folder(folder, "door.state_dir", "the door")
    lock = take_lock(folder / "lock", "door.state_dir", "a door")
    connections = _connections(section.connections)
    daemon = DaemonLink(host, admin)
    identity = Identity(section, place, daemon)
    listening = listen(place.host, place.port, "door")
    place = place._replace(port=listening.getsockname()[1])
    try:
        store = AnswersKept(folder, section.idempotency_seconds, section.idempotency_bytes, time.time)
    except Unusable as error:
        raise ConfigError(f"door.state_dir: {error}; choose another folder") from None
    calls, streams = KeyedCalls(store), AuditStreams(daemon)
    api = Api(daemon, identity, calls, place, section.in_flight, streams)
    loop = asyncio.get_running_loop()
    server = _Server(api.respond, connections, keepalive_timeout=IDLE_SECONDS, lingering_time=LINGER_SECONDS,
                     max_line_size=LINE_BYTES_MAX, max_field_size=LINE_BYTES_MAX, max_headers=HEADERS_MAX,
                     auto_decompress=False, access_log=None)
    listener = await loop.create_server(server, sock=listening, ssl=place.tls, backlog=BACKLOG,
                                        ssl_handshake_timeout=IDLE_SECONDS if place.tls is not None else None)
    await daemon.hello()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    ready(place.origin())
    try:
        await ended.wait()
        api.is_ending = True
        listener.close()
        streams.close()
        await _drain(server, calls, settings.drain_seconds)
    finally:
        daemon.close()
        store.close()
        os.close(lock)
    return 0


async def _drain(server: _Server, calls: KeyedCalls, seconds: float) -> None:
    """Lets what is under way end, for ``seconds`` at most: connections that wait for nothing are closed at once."""
    server.pre_shutdown()
    due = time.monotonic() + seconds
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(calls.settle(), seconds)
    await server.shutdown(max(0.1, due - time.monotonic()))


def _connections(wanted: int) -> int:
    """How many connections fit into the descriptors that this process may have, which are raised as far as allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted + FDS_OWN if hard == resource.RLIM_INFINITY else min(hard, wanted + FDS_OWN)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    if soft - FDS_OWN < wanted:
        log.warning("door.connections is lowered from %d to %d: this process may have %d files open", wanted,
                    soft - FDS_OWN, soft)
    return max(1, min(wanted, soft - FDS_OWN))
