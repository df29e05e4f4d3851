"""Compiles SQL texts that are not cached, in a separate process: the longest takes 90 ms, which the gateway's only
thread would otherwise take from everybody else's calls.

Texts wait in fair order (``core.fair``) and are compiled one at a time; the cost is charged to the plugin. The process
ends with its link. If it died, it is started again for the next text; the text that killed it is answered with
``data_unavailable``.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from apex_exec.core.fair import FairQueue
from apex_exec.core.limits import MS_NS
from apex_exec.gateway.costs import COST
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.lock_turns import wait
from apex_exec.gateway.sql.pieces import Shapes
from apex_exec.gateway.sql.tables import Table
from apex_exec.wire.frames import FrameBuffer, pack_frame

BURST_NS = 100 * MS_NS
"""How much of the process's time a plugin may use at once: the longest text, or a dozen ordinary ones."""
RECEIVE_BYTES = 262_144

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Parser:
    """The gateway's end. ``backend``, ``tables`` and ``path`` are the arguments of the ``Compiler`` in the process."""

    def __init__(self, backend: str, tables: Mapping[str, Table], path: str = "") -> None:
        self._settings = _encode([backend, {name: table.setting for name, table in tables.items()}, path])
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue(BURST_NS)
        self._at_work = False
        self._timer: asyncio.TimerHandle | None = None
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._frames = FrameBuffer()
        self._tasks: set[asyncio.Task[list[Any]]] = set()

    async def compile(self, plugin: str, share: float, text: str, named: tuple[str, ...],
                      shapes: Shapes | None = None) -> list[Any]:
        """The process's answer for ``text`` (see ``parser_process``), once it is ``plugin``'s turn. Raises ApiFailure.

        If the call is cancelled while its text is compiled, the process finishes the text, and the turn stays taken.
        """
        loop = asyncio.get_running_loop()
        now_ns = time.monotonic_ns()
        turn: asyncio.Future[None] = loop.create_future()
        self._queue.tune(plugin, share, now_ns)
        self._queue.push(plugin, turn, now_ns)
        self._next()
        await wait(turn, self._free)
        task = asyncio.ensure_future(self._ask(plugin, text, named, shapes or {}))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        answer = await asyncio.shield(task)
        cost = COST.get()
        if cost is not None:
            cost.cpu_ns += int(answer[0])
        return answer[1:]

    def _next(self) -> None:
        """Gives the process to the next text if it is free."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now_ns = time.monotonic_ns()
        while not self._at_work and (found := self._queue.pop(now_ns)) is not None:
            if not found[1].done():  # its call may have ended meanwhile
                self._at_work = True
                found[1].set_result(None)
        if not self._at_work and (due_ns := self._queue.next_due_ns(now_ns)) is not None:
            self._timer = asyncio.get_running_loop().call_later((due_ns - now_ns) / 1e9 + 0.0005, self._next)

    def _done(self, task: asyncio.Task[list[Any]]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the caller has received it, if it still waits
        self._free()

    def _free(self) -> None:
        self._at_work = False
        self._next()

    async def _ask(self, plugin: str, text: str, named: tuple[str, ...], shapes: Shapes) -> list[Any]:
        loop = asyncio.get_running_loop()
        self.start()
        link = self._socket
        assert link is not None
        try:
            await loop.sock_sendall(link, pack_frame(_encode([text, named, shapes])))
            while True:
                data = await loop.sock_recv(link, RECEIVE_BYTES)
                if not data:
                    raise OSError("its link has ended")
                for body in self._frames.feed(data):
                    answer: list[Any] = _decode(body)
                    self._queue.spend(plugin, answer[0], time.monotonic_ns())
                    return answer
        except OSError:
            self.close()
            raise ApiFailure("data_unavailable", "the process that compiles SQL ended and is being restarted; try "
                                                 "again") from None

    def start(self) -> None:
        """Starts the process before it is needed: that takes a third of a second."""
        if self._socket is None:
            self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "apex_exec.gateway.sql.parser_process", str(theirs.fileno())],
            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment)
        theirs.close()
        ours.setblocking(False)
        ours.send(pack_frame(self._settings))  # at most a few kilobytes, which always fit into an empty socket
        self._socket, self._frames = ours, FrameBuffer()

    def close(self) -> None:
        """Closes the link; the process notices that and exits."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
