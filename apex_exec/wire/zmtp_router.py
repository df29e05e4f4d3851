"""ZMTP 3.1 as a ROUTER speaks it, sans-IO: NULL mechanism, multi-frame messages. See rfc.zeromq.org/spec/37.

The supervisor uses this for unix sockets instead of libzmq. The peer is a libzmq DEALER or REQ and cannot tell the
difference (tested against it), but no message crosses an I/O thread in either direction. Frames, messages, the number
of frames and the size of those before the body are bounded. At most one unfinished message and one read are buffered,
and ``unfinished_bytes`` says how much that is.
"""

from __future__ import annotations

from workers.zmtp import COMMAND, LAST_HEADS, LONG, MORE, MORE_HEADS, SHORT_MAX, FrameReader, ZmtpError, command

COMMAND_BYTES_MAX = 4096
"""The largest handshake or PING command; libzmq's own READY is below 350 bytes with a routing id of 255."""
ENVELOPE_BYTES_MAX = 4096
"""The total size of the frames before the body: REQ's empty delimiter, or the routing ids (255 bytes each) of 16
proxies. They are kept until the reply, so they must not become a second payload."""
FRAMES_AT_ONCE = 256
"""How many frames one ``feed`` handles: a read of 32 KiB may have 16,384 of them, and other connections need their
turn."""
PEER_TYPES = (b"DEALER", b"REQ", b"ROUTER")
"""Socket types that may talk to a ROUTER, except REP, which could never be answered here."""


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value


READY = command(b"READY", _property(b"Socket-Type", b"ROUTER") + _property(b"Identity", b""))


def append_message(out: bytearray, frames: list[bytes], body: bytes) -> None:
    """Appends one message: ``frames``, then ``body``."""
    for frame in frames:
        size = len(frame)
        out += MORE_HEADS[size] if size <= SHORT_MAX else b"\x03" + size.to_bytes(8, "big")
        out += frame
    size = len(body)
    out += LAST_HEADS[size] if size <= SHORT_MAX else b"\x02" + size.to_bytes(8, "big")
    out += body


class RouterSession(FrameReader[tuple[list[bytes], bytes]]):
    """Our end of one connection. Feed it bytes, and it returns messages: (frames before the body, body) each.

    ``answers`` collects what must be sent back automatically: the READY after the peer's greeting (libzmq 4.3 refuses
    one that arrives in one read with the greeting), and PONGs. ``identity`` is the routing id that the peer chose, b""
    if none.
    """

    __slots__ = ("_frames_max", "answers", "identity")

    def __init__(self, *, message_bytes_max: int, frames_max: int) -> None:
        super().__init__(message_bytes_max=message_bytes_max, frames_at_once=FRAMES_AT_ONCE, bare=False)
        self._frames_max = frames_max
        self.answers = bytearray()
        self.identity = b""

    def _take_greeting(self) -> None:
        self.answers += READY

    def _check_uncommon(self, flags: int, size: int) -> None:
        if flags & ~LONG == MORE:
            if self._frames_bytes + size > min(ENVELOPE_BYTES_MAX, self._bytes_max):
                raise ZmtpError("too many bytes before the body")
        elif flags & ~LONG != COMMAND or size > COMMAND_BYTES_MAX:
            raise ZmtpError("unknown frame flags, or a command over its size limit")

    def _take_uncommon(self, flags: int, body: bytes) -> None:
        if flags & COMMAND:
            self._take_command(body)
        elif not self._ready:
            raise ZmtpError("a message before READY")
        else:
            self._frames.append(body)
            self._frames_bytes += len(body)
            if len(self._frames) > self._frames_max:
                raise ZmtpError("too many frames before the body")

    def _take_command(self, body: bytes) -> None:
        if not self._ready:
            if body[:6] != b"\x05READY":
                raise ZmtpError("the handshake does not begin with READY")
            properties = _properties(body[6:])
            if properties.get(b"socket-type") not in PEER_TYPES:
                raise ZmtpError("the peer is neither DEALER nor REQ")
            self.identity = properties.get(b"identity", b"")
            self._ready = True
        elif body[:5] == b"\x04PING":
            self.answers += command(b"PONG", body[7:23])  # after the TTL (2 bytes): at most 16 bytes of context
        elif body[:5] != b"\x04PONG":
            raise ZmtpError("an unknown command")


def _properties(data: bytes) -> dict[bytes, bytes]:
    """The metadata of a READY, names in lower case. Raises ZmtpError if it does not parse."""
    found: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        name_end = position + 1 + data[position]
        value_start = name_end + 4
        if value_start > len(data):
            raise ZmtpError("a property without its value")
        size = int.from_bytes(data[name_end:value_start], "big")
        if value_start + size > len(data):
            raise ZmtpError("a property longer than its command")
        found[data[position + 1 : name_end].lower()] = data[value_start : value_start + size]
        position = value_start + size
    return found
