"""ZMTP 3.1, sans-IO: the frame layer that both roles share, and the role of a PAIR. See rfc.zeromq.org/spec/37.

A link begins with a greeting of 64 bytes from each end and a READY command; then there are frames: a byte of flags, a
length of one byte or eight, a body. ``FrameReader`` reads these for every role: it decides when a frame is complete,
what is buffered of an incomplete one, and when to stop. A role says which frames it accepts besides the last one of a
message: ``Zmtp`` (the link between supervisor and worker) none, ``apex_exec.wire.zmtp_router`` envelopes and PINGs.

libzmq stays outside the jail. A libzmq PAIR peer can nevertheless talk to ``Zmtp``, as long as it sends no heartbeats.
Every size is bounded, and at most one unfinished message and one read are buffered.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

M = TypeVar("M")
"""A message: a body, or its envelope and its body."""

GREETING_BYTES = 64
COMMAND_BYTES_MAX = 512
"""The largest handshake command; libzmq's own READY is below 64 bytes."""
READ_BYTES = 65_536
"""The size of one read. Reading 150 bytes costs 2.6 µs into this buffer, and 9 µs into 256 KiB, which malloc maps anew
each time."""
FRAMES_AT_ONCE_MAX = READ_BYTES
"""The most frames that one ``feed`` handles by default: one read cannot contain more frames of over two bytes."""
SHORT_MAX = 255
MORE, LONG, COMMAND = 1, 2, 4
_NO_FRAMES: list[bytes] = []


class ZmtpError(Exception):
    """The peer broke the protocol; the link is unusable."""


LAST_HEADS = [bytes((0, size)) for size in range(SHORT_MAX + 1)]
"""What stands before the last frame of a message, by its size, if that is short. Each message in both directions needs
one, and a look-up costs less than making it."""
MORE_HEADS = [bytes((MORE, size)) for size in range(SHORT_MAX + 1)]
"""What stands before a short frame that others follow."""


def encode(body: bytes) -> bytes:
    """``body`` as the one frame of a message."""
    size = len(body)
    if size <= SHORT_MAX:
        return LAST_HEADS[size] + body
    return b"\x02" + size.to_bytes(8, "big") + body


def command(name: bytes, data: bytes) -> bytes:
    """A short command frame."""
    body = bytes((len(name),)) + name + data
    return bytes((COMMAND, len(body))) + body


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
_READY = command(b"READY", b"\x0bSocket-Type" + (4).to_bytes(4, "big") + b"PAIR")


class FrameReader(Generic[M]):
    """One end of one link, as far as all roles agree. Feed it bytes, and it returns messages.

    ``bare`` roles return only bodies; the others return (frames before the body, body).
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
        """How many bytes the current frame still needs; 0 if that is unknown."""
        self.unfinished_bytes = 0
        """How many bytes are buffered that are not a complete message yet, or have not been returned yet."""
        self.more = False
        """Whether ``feed(b"")`` returns further messages from earlier bytes."""

    @property
    def ready(self) -> bool:
        """True once the handshake is over."""
        return self._ready

    def feed(self, data: bytes) -> list[M]:
        """The messages that ``data`` completes, from at most ``frames_at_once`` frames. Raises ZmtpError."""
        messages: list[Any]
        if (self._ready and not self.unfinished_bytes and len(data) > 1 and data[0] == 0
                and len(data) == data[1] + 2 and data[1] <= self._bytes_max):  # the common case: one short message
            messages = [data[2:]] if self._bare else [(_NO_FRAMES, data[2:])]
            return messages
        messages = []
        if self.unfinished_bytes or not self._greeted:
            gathered = self._gather(data)
            if gathered is None:
                return messages
            data = gathered
        end = len(data)
        position = self._take_plain(data, messages) if self._ready and not self._frames else 0
        for _ in self._frames_at_once[len(messages):]:
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
                raise ZmtpError(f"a message over the limit of {self._bytes_max} bytes")
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
            # An empty frame counts too: the body that follows it may arrive in a read of its own.
            self.unfinished_bytes = len(self._buffer) + self._frames_bytes + len(self._frames)
        return messages

    def _take_plain(self, data: bytes, messages: list[Any]) -> int:
        """Appends the messages of one whole frame that ``data`` begins with; returns the position after them. Most
        reads under load hold nothing else, and the general way costs more than twice as much for each."""
        position, end, bytes_max, bare = 0, len(data), self._bytes_max, self._bare
        for _ in self._frames_at_once:
            if end - position < 2:
                break
            flags = data[position]
            if not flags:
                start = position + 2
                stop = start + data[position + 1]
            elif flags == LONG and end - position >= 9:
                start = position + 9
                stop = start + int.from_bytes(data[position + 1 : start], "big")
            else:
                break
            if stop > end or stop - start > bytes_max:
                break
            messages.append(data[start:stop] if bare else (_NO_FRAMES, data[start:stop]))
            position = stop
        return position

    def _gather(self, data: bytes) -> bytes | None:
        """The bytes to read as frames: those that were buffered, and ``data``. None while no frame can be complete."""
        if self.unfinished_bytes:
            self._buffer += data
            # so that a frame which arrives in small pieces is not copied again for each
            if len(data) < self.missing_bytes:
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
                raise ZmtpError("the connection does not begin with a ZMTP greeting")
            self._buffer += data
            self.unfinished_bytes = len(self._buffer)
            return None
        if data[0] != 0xFF or not data[9] & 1 or data[10] < 3 or data[12:32] != GREETING[12:32]:
            raise ZmtpError("the greeting is not ZMTP 3 with the NULL mechanism")
        self._greeted = True
        self._take_greeting()
        return data[GREETING_BYTES:]

    # ------------------------------------------------------------------ how the roles differ
    def _take_greeting(self) -> None:
        """The peer's greeting has arrived."""

    def _check_uncommon(self, flags: int, size: int) -> None:
        """Raises ZmtpError if a frame with ``flags``, which is not the last one of a message, is not allowed in this
        role, or is over its limit. The frame may not have arrived yet."""
        raise NotImplementedError

    def _take_uncommon(self, flags: int, body: bytes) -> None:
        """Handles such a frame. Raises ZmtpError."""
        raise NotImplementedError


class Zmtp(FrameReader[bytes]):
    """The role of a PAIR: one frame for each message, no command after the handshake, at most ``frame_bytes_max`` in a
    frame.

    ``feed`` returns bodies, at most ``frames_at_once`` of them.
    """

    __slots__ = ()

    def __init__(self, *, frame_bytes_max: int, frames_at_once: int = FRAMES_AT_ONCE_MAX) -> None:
        super().__init__(message_bytes_max=frame_bytes_max, frames_at_once=frames_at_once, bare=True)

    def greeting(self) -> bytes:
        """The 64-byte greeting and READY. Two of our ends may send both at once: NULL needs no answer in between.

        libzmq 4.3 refuses a READY that arrives in one read with the greeting (its monitor reports UNEXPECTED_COMMAND).
        For such a peer, send the first GREETING_BYTES, wait for its READY, and then send the rest.
        """
        return GREETING + _READY

    def _check_uncommon(self, flags: int, size: int) -> None:
        if flags & ~(LONG | COMMAND):
            raise ZmtpError("a multi-part message" if flags & MORE else "unknown frame flags")
        if size > COMMAND_BYTES_MAX:
            raise ZmtpError(f"a command of {size} bytes is over the limit")

    def _take_uncommon(self, flags: int, body: bytes) -> None:
        if self._ready:  # our ends never send one: our PINGs are messages, because they must test the whole path
            raise ZmtpError("a command after the handshake")
        if body[:6] != b"\x05READY":
            raise ZmtpError("the handshake does not begin with READY")
        self._ready = True
