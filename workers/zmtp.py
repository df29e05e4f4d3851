"""ZMTP 3.1, sans-IO: the frame layer that both roles share, and the role of a PAIR. See rfc.zeromq.org/spec/37.

A link begins with a greeting of 64 bytes from each end and a READY command; then there are frames: a byte of flags, a
length of one byte or eight, a body. ``FrameReader`` reads these for every role: it knows when a frame is whole, what
is kept of one that is not, and when to stop. A role says which frames it takes besides the last one of a message:
``Zmtp`` (the link between supervisor and worker) none, ``apex_exec.wire.zmtp_router`` envelopes and PINGs.

libzmq stays out of the jail; a libzmq PAIR peer can talk to ``Zmtp`` all the same, as long as it sends no heartbeats.
Every size is bounded, and nothing is kept beyond one unfinished message and one read.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

M = TypeVar("M")
"""A message: a body, or its envelope and its body."""

GREETING_BYTES = 64
COMMAND_BYTES_MAX = 512
"""Largest handshake command; libzmq's own READY is below 64 bytes."""
READ_BYTES = 65_536
"""One read. Reading 150 bytes costs 2.6 µs into so much room, and 9 µs into 256 KiB, which malloc maps each time."""
FRAMES_AT_ONCE_MAX = READ_BYTES
"""So many frames one ``feed`` takes unless its owner wants fewer: more than two bytes each do not fit into one read."""
SHORT_MAX = 255
MORE, LONG, COMMAND = 1, 2, 4
_NO_FRAMES: list[bytes] = []


class ZmtpError(Exception):
    """The peer broke the protocol; the link cannot be used any more."""


def encode(body: bytes) -> bytes:
    """``body`` as the one frame of a message."""
    size = len(body)
    if size <= SHORT_MAX:
        return bytes((0, size)) + body
    return b"\x02" + size.to_bytes(8, "big") + body


def command(name: bytes, data: bytes) -> bytes:
    """A short command frame."""
    body = bytes((len(name),)) + name + data
    return bytes((COMMAND, len(body))) + body


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
_READY = command(b"READY", b"\x0bSocket-Type" + (4).to_bytes(4, "big") + b"PAIR")


class FrameReader(Generic[M]):
    """One end of one link, as far as all roles agree. Feed it bytes, take messages.

    ``bare`` roles give bodies alone; the others give (frames before the body, body).
    """

    __slots__ = ("_bare", "_buffer", "_bytes_max", "_frames", "_frames_at_once", "_frames_bytes", "_greeted", "_ready",
                 "missing_bytes", "more", "unfinished_bytes")

    def __init__(self, *, message_bytes_max: int, frames_at_once: int, bare: bool) -> None:
        self._bare = bare
        self._bytes_max = message_bytes_max
        self._frames_at_once = range(frames_at_once)
        self._buffer = bytearray()
        self._frames: list[bytes] = []
        self._frames_bytes = 0
        self._greeted = False
        self._ready = False
        self.missing_bytes = 0
        """How many bytes the frame under way still needs, 0 if that is not known."""
        self.unfinished_bytes = 0
        """How many bytes are kept of what is not a whole message yet, or was not taken yet."""
        self.more = False
        """Whether ``feed(b"")`` gives further messages of what was fed already."""

    @property
    def ready(self) -> bool:
        """True once the handshake is over."""
        return self._ready

    def feed(self, data: bytes) -> list[M]:
        """The messages that ``data`` completes, of no more frames at once than were wanted. Raises ZmtpError."""
        messages: list[Any] = []
        if (self._ready and not self.unfinished_bytes and len(data) > 1 and data[0] == 0
                and len(data) == data[1] + 2 <= self._bytes_max + 2):  # the common case: one short message
            messages.append(data[2:] if self._bare else (_NO_FRAMES, data[2:]))
            return messages
        if self.unfinished_bytes or not self._greeted:
            gathered = self._gather(data)
            if gathered is None:
                return messages
            data = gathered
        position, end = 0, len(data)
        for _ in self._frames_at_once:
            if end - position < 2:
                break
            flags = data[position]
            if flags & LONG:
                if end - position < 9:
                    break
                size = int.from_bytes(data[position + 1 : position + 9], "big")
                start = position + 9
            else:
                size = data[position + 1]
                start = position + 2
            if flags & ~LONG:
                self._check_uncommon(flags, size)
            elif self._frames_bytes + size > self._bytes_max:
                raise ZmtpError(f"a message over the bound of {self._bytes_max} bytes")
            stop = start + size
            if stop > end:
                self.missing_bytes = stop - end
                break
            position = stop
            if flags & ~LONG:
                self._take_uncommon(flags, data[start:stop])
            elif not self._ready:
                raise ZmtpError("a message before READY")
            elif self._bare:
                messages.append(data[start:stop])
            elif self._frames:
                messages.append((self._frames, data[start:stop]))
                self._frames, self._frames_bytes = [], 0
            else:
                messages.append((_NO_FRAMES, data[start:stop]))
        else:
            self.more = position < end
        if position < end or self._frames:
            self._buffer += data[position:]
            self.unfinished_bytes = len(self._buffer) + self._frames_bytes
        return messages

    def _gather(self, data: bytes) -> bytes | None:
        """What is to be read as frames: what was kept, and ``data``. None while nothing can be whole."""
        if self.unfinished_bytes:
            self._buffer += data
            if len(data) < self.missing_bytes:  # a frame that drips in is not copied anew for each drop
                self.missing_bytes -= len(data)
                self.unfinished_bytes += len(data)
                return None
            data = bytes(self._buffer)
            self._buffer.clear()
            self.missing_bytes = self.unfinished_bytes = 0
            self.more = False
        if self._greeted:
            return data
        if len(data) < GREETING_BYTES:
            if data[:1] not in (b"\xff", b""):
                raise ZmtpError("the connection does not open with a ZMTP greeting")
            self._buffer += data
            self.unfinished_bytes = len(self._buffer)
            return None
        if data[0] != 0xFF or not data[9] & 1 or data[10] < 3 or data[12:32] != GREETING[12:32]:
            raise ZmtpError("the greeting is not ZMTP 3 with the NULL mechanism")
        self._greeted = True
        self._take_greeting()
        return data[GREETING_BYTES:]

    # ------------------------------------------------------------------ what the roles differ in
    def _take_greeting(self) -> None:
        """The peer's greeting has arrived."""

    def _check_uncommon(self, flags: int, size: int) -> None:
        """Raises ZmtpError if a frame with ``flags``, which is not the last one of a message, is not one for this role,
        or is over its bound. It need not be there yet."""
        raise NotImplementedError

    def _take_uncommon(self, flags: int, body: bytes) -> None:
        """Such a frame. Raises ZmtpError."""
        raise NotImplementedError


class Zmtp(FrameReader[bytes]):
    """The role of a PAIR: one frame a message, no command after the handshake, a frame of ``frame_bytes_max`` at most.

    ``feed`` gives bodies, ``frames_at_once`` of them at most.
    """

    __slots__ = ()

    def __init__(self, *, frame_bytes_max: int, frames_at_once: int = FRAMES_AT_ONCE_MAX) -> None:
        super().__init__(message_bytes_max=frame_bytes_max, frames_at_once=frames_at_once, bare=True)

    def greeting(self) -> bytes:
        """The 64-byte greeting and READY. Two of ours may exchange both at once: NULL needs no answer in between.

        libzmq 4.3 refuses a READY that arrives in one read with the greeting (seen as UNEXPECTED_COMMAND on its
        monitor): for such a peer send the first GREETING_BYTES, wait for its READY, then send the rest.
        """
        return GREETING + _READY

    def _check_uncommon(self, flags: int, size: int) -> None:
        if flags & ~(LONG | COMMAND):
            raise ZmtpError("a multi-part message" if flags & MORE else "unknown frame flags")
        if size > COMMAND_BYTES_MAX:
            raise ZmtpError(f"a command of {size} bytes is over the bound")

    def _take_uncommon(self, flags: int, body: bytes) -> None:
        if self._ready:  # no honest end sends one: our own PINGs are messages, since they must prove the whole path
            raise ZmtpError("a command after the handshake")
        if body[:6] != b"\x05READY":
            raise ZmtpError("the handshake does not open with READY")
        self._ready = True
