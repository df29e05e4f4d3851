"""ZMTP 3.1, sans-IO: PAIR socket, NULL mechanism, one frame for each message. See rfc.zeromq.org/spec/37.

libzmq stays outside the jail. A libzmq PAIR peer can nevertheless talk to this code, as long as it sends no heartbeats.
Every size is bounded: a frame above ``frame_bytes_max``, a multi-part message, or a command after the handshake is a
ZmtpError, and at most one frame and one read are buffered.
"""

from __future__ import annotations

GREETING_BYTES = 64
COMMAND_BYTES_MAX = 512
"""The largest handshake command; libzmq's own READY is below 64 bytes."""
READ_BYTES = 65_536
"""The size of one read. Reading 150 bytes costs 2.6 µs into this buffer, and 9 µs into 256 KiB, which malloc maps anew
each time."""
FRAMES_AT_ONCE_MAX = READ_BYTES
"""The most frames that one ``feed`` returns by default: one read cannot contain more frames of over two bytes."""
_SHORT_MAX = 255

_MORE, _LONG, _COMMAND = 1, 2, 4


class ZmtpError(Exception):
    """The peer broke the protocol; the link is unusable."""


def encode(body: bytes) -> bytes:
    """``body`` as the one frame of a message."""
    size = len(body)
    if size <= _SHORT_MAX:
        return bytes((0, size)) + body
    return b"\x02" + size.to_bytes(8, "big") + body


def command(name: bytes, data: bytes) -> bytes:
    """A short command frame."""
    body = bytes((len(name),)) + name + data
    return bytes((_COMMAND, len(body))) + body


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
_READY = command(b"READY", b"\x0bSocket-Type" + (4).to_bytes(4, "big") + b"PAIR")


class Zmtp:
    """One end of one link. Feed it bytes, and it returns message bodies."""

    __slots__ = ("_buffer", "_frame_bytes_max", "_frames_at_once", "_greeted", "_missing_bytes", "_ready", "more",
                 "read_bytes")

    def __init__(self, *, frame_bytes_max: int, frames_at_once: int = FRAMES_AT_ONCE_MAX) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._frames_at_once = frames_at_once
        self.more = False
        """Whether ``feed(b"")`` may return further messages from earlier bytes."""
        self._buffer = bytearray()
        self._missing_bytes = 0
        self._greeted = False
        self._ready = False
        self.read_bytes = READ_BYTES
        """How much to read next: more than READ_BYTES only while a larger frame is incomplete."""

    def greeting(self) -> bytes:
        """The 64-byte greeting and READY. Two of our ends may send both at once: NULL needs no answer in between.

        libzmq 4.3 refuses a READY that arrives in one read with the greeting (its monitor reports UNEXPECTED_COMMAND).
        For such a peer, send the first GREETING_BYTES, wait for its READY, and then send the rest.
        """
        return GREETING + _READY

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies of the messages that ``data`` completes, in order, at most ``frames_at_once``. Raises ZmtpError.
        """
        if self._ready and not self._buffer and len(data) > 1 and data[0] == 0 and len(data) == data[1] + 2:
            if data[1] > self._frame_bytes_max:
                raise ZmtpError(f"a frame of {data[1]} bytes is over the limit")
            return [data[2:]]  # the common case: one short message
        if self._buffer:
            self._buffer += data
            # so that a frame which arrives in small pieces is not copied again for each of them
            if len(data) < self._missing_bytes:
                self._missing_bytes -= len(data)
                self.read_bytes = max(READ_BYTES, self._missing_bytes)
                return []
            data = bytes(self._buffer)
            self._buffer.clear()
            self._missing_bytes = 0
            self.read_bytes = READ_BYTES
            self.more = False
        position, end = 0, len(data)
        if not self._greeted:
            if end < GREETING_BYTES:
                if data and data[0] != 0xFF:
                    raise ZmtpError("the link does not begin with a ZMTP greeting")
                self._buffer += data
                return []
            if data[0] != 0xFF or not data[9] & 1 or data[10] < 3 or data[12:32] != GREETING[12:32]:
                raise ZmtpError("the greeting is not ZMTP 3 with the NULL mechanism")
            self._greeted = True
            position = GREETING_BYTES
        bodies: list[bytes] = []
        room = self._frames_at_once
        while end - position >= 2:
            flags = data[position]
            if flags & ~(_LONG | _COMMAND):
                raise ZmtpError("a multi-part message" if flags & _MORE else "unknown frame flags")
            if flags & _LONG:
                if end - position < 9:
                    break
                size = int.from_bytes(data[position + 1 : position + 9], "big")
                start = position + 9
            else:
                size = data[position + 1]
                start = position + 2
            if size > (COMMAND_BYTES_MAX if flags & _COMMAND else self._frame_bytes_max):
                raise ZmtpError(f"a frame of {size} bytes is over the limit")
            if end - start < size:
                self._missing_bytes = size - (end - start)
                self.read_bytes = max(READ_BYTES, self._missing_bytes)
                break
            position = start + size
            if flags & _COMMAND:
                self._handle_command(data[start:position])
            elif not self._ready:
                raise ZmtpError("a message before READY")
            else:
                bodies.append(data[start:position])
                room -= 1
                if not room:
                    self.more = position < end
                    break
        if position < end:
            self._buffer += data[position:]
        return bodies

    def _handle_command(self, body: bytes) -> None:
        if self._ready:  # our ends never send one: our PINGs are messages, because they must test the whole path
            raise ZmtpError("a command after the handshake")
        if body[:6] != b"\x05READY":
            raise ZmtpError("the handshake does not begin with READY")
        self._ready = True
