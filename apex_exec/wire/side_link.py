"""The link between the supervisor and a process beside it: typed messages, and the far end of the link.

A link has one module with its messages: tagged ``msgspec`` structs, encoded as arrays, so that they cost no more than
lists. Each end names the messages that it takes in one table, from type to handler; the table is also what it can
decode. The near end, which never blocks, is ``daemon.sides.side_process``; far ends are here, one that blocks and may
send from any thread, and one on an event loop.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Union

import msgspec

from apex_exec.wire.frames import FrameBuffer, pack_frame

if TYPE_CHECKING:
    import asyncio

READ_BYTES = 262_144
Handlers = Mapping[type[msgspec.Struct], Callable[[Any], None]]
"""Who takes which message."""

_encode = msgspec.msgpack.Encoder().encode


def frame_of(message: msgspec.Struct) -> bytes:
    """One message as it travels."""
    return pack_frame(_encode(message))


class Incoming:
    """What comes out of a stream of bytes: the messages of these ``types``, in order."""

    __slots__ = ("_decode", "_frames")

    def __init__(self, types: Iterable[type[msgspec.Struct]]) -> None:
        self._frames = FrameBuffer()
        self._decode = decoder_of(types)

    def feed(self, data: bytes) -> list[Any]:
        """Every message that ``data`` completes. Raises msgspec.DecodeError, SupervisorBug."""
        return [self._decode(body) for body in self._frames.feed(data)]


def decoder_of(types: Iterable[type[msgspec.Struct]]) -> Callable[[bytes], Any]:
    """Decodes one of ``types``; with none of them, nothing can be decoded."""
    named = tuple(types)
    wanted: Any = Union[named] if named else None  # noqa: UP007 - of a number of types that is known at run time only
    return msgspec.msgpack.Decoder(wanted).decode


class BlockingEnd:
    """The far end of a process that waits for its link. ``send`` may be called from any thread, ``receive`` from
    one."""

    def __init__(self, fd: int, types: Iterable[type[msgspec.Struct]], read_bytes: int = READ_BYTES) -> None:
        self._fd = fd
        self._read_bytes = read_bytes
        self._incoming = Incoming(types)
        self._sending = threading.Lock()
        os.set_blocking(fd, True)

    def fileno(self) -> int:
        """The link's descriptor."""
        return self._fd

    def send(self, message: msgspec.Struct) -> None:
        """Writes one message in full; blocks while the supervisor does not read. If it is gone, that is not an error
        here: the reader sees it."""
        data = memoryview(frame_of(message))
        with self._sending:
            try:
                while data:
                    data = data[os.write(self._fd, data):]
            except OSError:
                return

    def receive(self) -> list[Any] | None:
        """The messages that have come, after waiting for some bytes; None at the link's end."""
        try:
            data = os.read(self._fd, self._read_bytes)
        except OSError:
            return None
        return self._incoming.feed(data) if data else None


class AsyncEnd:
    """The far end of a process with an event loop. ``handlers`` take what comes; ``ended`` is set at the link's end."""

    def __init__(self, fd: int, loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
        self._fd = fd
        self._loop = loop
        self._ended = ended
        self._out = bytearray()  # bounded: answers to the calls in flight, each of them bounded
        os.set_blocking(fd, False)

    def serve(self, handlers: Handlers) -> None:
        """Takes messages from now on."""
        self._handlers = handlers
        self._incoming = Incoming(handlers)
        self._loop.add_reader(self._fd, self._readable)

    def send(self, message: msgspec.Struct) -> None:
        """Writes what fits now, and the rest when there is room."""
        waiting = bool(self._out)
        self._out += frame_of(message)
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
        for message in self._incoming.feed(data):
            self._handlers[type(message)](message)
