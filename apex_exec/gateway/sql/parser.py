"""Texts of SQL that are not known yet, compiled in a process of their own: the longest takes 90 ms, which the gateway's
one thread would owe to everybody else's call.

Texts wait in fair order (``core.fair``), one at a time is compiled, and what it cost is its plugin's. The process ends
with its link, and is started again for the next text where it died; the text that it died of is answered
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

from apex_exec.common.process_name import name_process
from apex_exec.core.fair import FairQueue
from apex_exec.core.limits import MS_NS
from apex_exec.gateway.costs import COST
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.tables import Table, read_tables
from apex_exec.wire.frames import FrameBuffer, pack_frame

BURST_NS = 100 * MS_NS
"""Of the process's time that a plugin may use at once: the longest text, or a dozen ordinary ones."""
RECEIVE_BYTES = 262_144

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Parser:
    """The gateway's end. ``backend`` and ``tables`` are what a ``Compiler`` is made with."""

    def __init__(self, backend: str, tables: Mapping[str, Table]) -> None:
        self._settings = _encode([backend, {name: {"owner": table.owner, "columns": table.columns, "write": table.write}
                                            for name, table in tables.items()}])
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue(BURST_NS)
        self._at_work = False
        self._timer: asyncio.TimerHandle | None = None
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._frames = FrameBuffer()
        self._tasks: set[asyncio.Task[list[Any]]] = set()

    async def compile(self, plugin: str, share: float, text: str, named: tuple[str, ...]) -> list[Any]:
        """What the process made of ``text`` (see ``main``), when ``plugin``'s turn comes. Raises ApiFailure.

        A call that is cancelled while its text is compiled leaves the process at it, and the turn taken.
        """
        loop = asyncio.get_running_loop()
        now_ns = time.monotonic_ns()
        turn: asyncio.Future[None] = loop.create_future()
        self._queue.tune(plugin, share, now_ns)
        self._queue.push(plugin, turn, now_ns)
        self._next()
        await turn
        task = asyncio.ensure_future(self._ask(plugin, text, named))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        answer = await asyncio.shield(task)
        cost = COST.get()
        if cost is not None:
            cost.cpu_ns += int(answer[0])
        return answer[1:]

    def _next(self) -> None:
        """Gives the process to whoever is next, if it is free."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now_ns = time.monotonic_ns()
        while not self._at_work and (found := self._queue.pop(now_ns)) is not None:
            if not found[1].done():  # its call has not ended meanwhile
                self._at_work = True
                found[1].set_result(None)
        if not self._at_work and (due_ns := self._queue.next_due_ns(now_ns)) is not None:
            self._timer = asyncio.get_running_loop().call_later((due_ns - now_ns) / 1e9 + 0.0005, self._next)

    def _done(self, task: asyncio.Task[list[Any]]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # told to whoever waits, if anybody does
        self._at_work = False
        self._next()

    async def _ask(self, plugin: str, text: str, named: tuple[str, ...]) -> list[Any]:
        loop = asyncio.get_running_loop()
        self.start()
        link = self._socket
        assert link is not None
        try:
            await loop.sock_sendall(link, pack_frame(_encode([text, named])))
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
            raise ApiFailure("data_unavailable", "the process that reads SQL died; it is started again") from None

    def start(self) -> None:
        """Starts the process before it is needed: it takes a third of a second to be there."""
        if self._socket is None:
            self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen([sys.executable, "-m", "apex_exec.gateway.sql.parser", str(theirs.fileno())],
                                         pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment)
        theirs.close()
        ours.setblocking(False)
        ours.send(pack_frame(self._settings))  # a few kilobytes at the most: an empty socket takes them
        self._socket, self._frames = ours, FrameBuffer()

    def close(self) -> None:
        """The process sees its link's end, and leaves."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def main(fd: int) -> None:
    """The process: ``[text, named]`` in, ``[cpu_ns, code, message]`` or ``[cpu_ns, "", fields of Compiled …]`` out."""
    from apex_exec.gateway.sql.compiler import Compiled, Compiler
    from apex_exec.gateway.sql.writer import OWNER

    name_process("apex-sql")
    link = socket.socket(fileno=fd)
    buffer = FrameBuffer()
    compiler: Compiler | None = None
    while data := link.recv(RECEIVE_BYTES):
        for body in buffer.feed(data):
            if compiler is None:
                backend, tables = _decode(body)
                compiler = Compiler(backend, read_tables(tables))
                continue
            text, named = _decode(body)
            begun_ns = time.thread_time_ns()
            found: Compiled | ApiFailure = compiler.compile_anew(text, tuple(named))
            cpu_ns = time.thread_time_ns() - begun_ns
            if isinstance(found, ApiFailure):
                answer: list[Any] = [cpu_ns, found.code, found.message]
            else:  # the caller's id has no value yet
                extra = [None if value is OWNER else value for value in found.extra]
                answer = [cpu_ns, "", found.text, found.parameters, extra, found.tables, found.truths, found.patterns,
                          found.work, found.likes, found.unhashed, found.numbers]
            link.sendall(pack_frame(_encode(answer)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
