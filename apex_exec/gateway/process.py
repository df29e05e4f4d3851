"""The gateway process: asyncio around the link to the supervisor, and a router. It lives until the link ends."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
from typing import Any

import msgspec

from apex_exec.gateway.router import Router
from apex_exec.wire.frames import FrameBuffer, pack_frame

READ_BYTES = 262_144
MEMORY_BYTES_MAX = 1 << 30
"""Soft RLIMIT_DATA. We cannot bound the size of a value that a database sends; this limit does, and ends only this
process."""

_encode = msgspec.msgpack.Encoder().encode


class _Link:
    """The bytes on the link, in both directions, on one event loop."""

    def __init__(self, fd: int, loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
        self._fd = fd
        self._loop = loop
        self._ended = ended
        self._frames = FrameBuffer()
        self._out = bytearray()  # bounded: it has answers to the calls in flight, each of which is bounded
        self._decode = msgspec.msgpack.Decoder().decode
        self.router: Router | None = None
        os.set_blocking(fd, False)
        loop.add_reader(fd, self._readable)

    def send(self, message: list[Any]) -> None:
        """Writes what fits now, and the rest when there is room."""
        waiting = bool(self._out)
        self._out += pack_frame(_encode(message))
        if not waiting:
            self._writable()
            if self._out:
                self._loop.add_writer(self._fd, self._writable)

    def _writable(self) -> None:
        try:
            sent = os.write(self._fd, self._out)
        except BlockingIOError:
            return
        except OSError:
            self._ended.set()
            sent = len(self._out)
        del self._out[:sent]
        if not self._out:
            self._loop.remove_writer(self._fd)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._fd)
            self._ended.set()
            return
        assert self.router is not None
        for body in self._frames.feed(data):
            self.router.take(self._decode(body))


async def _serve(fd: int, settings: dict[str, Any]) -> None:
    ended = asyncio.Event()
    link = _Link(fd, asyncio.get_running_loop(), ended)
    link.router = Router(settings, link.send)
    link.router.warm()
    gc.freeze()  # imported modules stay for ever; the garbage collector need not visit them
    await ended.wait()
    await link.router.close()


def main(link: Any, settings: dict[str, Any]) -> None:
    """Serves ``link`` until EOF. ``settings``: tables, data_url, origin, hosts, allow_private."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or hard > MEMORY_BYTES_MAX:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES_MAX, hard))
    asyncio.run(_serve(link.fileno(), settings))
