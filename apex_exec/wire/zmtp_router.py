"""ZMTP 3.1 as a ROUTER speaks it, sans-IO: NULL mechanism, multi-frame messages. See rfc.zeromq.org/spec/37.

The supervisor uses this for unix sockets instead of libzmq. The peer is a libzmq DEALER or REQ and cannot tell the
difference (tested against it), but no message crosses an I/O thread in either direction. Frames, messages, the number
of frames and the size of those before the body are bounded. At most one unfinished message and one read are buffered,
and ``unfinished_bytes`` says how much that is.
"""

from __future__ import annotations

from workers.zmtp import GREETING, GREETING_BYTES, ZmtpError, command

COMMAND_BYTES_MAX = 4096
"""The largest handshake or PING command; libzmq's own READY is below 350 bytes with a routing id of 255."""
ENVELOPE_BYTES_MAX = 4096
"""The total size of the frames before the body: REQ's empty delimiter, or the routing ids (255 bytes each) of 16
proxies. They are kept until the reply, so they must not become a second payload."""
FRAMES_AT_ONCE = range(256)
"""How many frames one ``feed`` handles: a read of 32 KiB may have 16,384 of them, and other connections need their
turn."""
PEER_TYPES = (b"DEALER", b"REQ", b"ROUTER")
"""Socket types that may talk to a ROUTER, except REP, which could never be answered here."""
_SHORT_MAX = 255
_MORE, _LONG, _COMMAND = 1, 2, 4


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value


READY = command(b"READY", _property(b"Socket-Type", b"ROUTER") + _property(b"Identity", b""))
_NO_FRAMES: list[bytes] = []
_HEADS = [bytes((0, size)) for size in range(_SHORT_MAX + 1)]


def head(size: int) -> bytes:
    """The bytes before the last frame of a message, if that frame has ``size`` bytes."""
    return _HEADS[size] if size <= _SHORT_MAX else b"\x02" + size.to_bytes(8, "big")


def append_message(out: bytearray, frames: list[bytes], body: bytes) -> None:
    """Appends one message: ``frames``, then ``body``."""
    for frame in frames:
        size = len(frame)
        out += bytes((_MORE, size)) if size <= _SHORT_MAX else b"\x03" + size.to_bytes(8, "big")
        out += frame
    out += head(len(body))
    out += body


class RouterSession:
    """Our end of one connection. Feed it bytes, and it returns messages: (frames before the body, body) each.

    ``answers`` collects what must be sent back automatically: the READY after the peer's greeting (libzmq 4.3 refuses
    one that arrives in one read with the greeting), and PONGs. ``identity`` is the routing id that the peer chose, b""
    if none. While ``more`` is true, ``feed(b"")`` returns further messages from earlier bytes.
    """

    __slots__ = ("_buffer", "_bytes_max", "_frames", "_frames_bytes", "_frames_max", "_greeted", "_ready", "answers",
                 "identity", "missing_bytes", "more", "unfinished_bytes")

    def __init__(self, *, message_bytes_max: int, frames_max: int) -> None:
        self._bytes_max = message_bytes_max
        self._frames_max = frames_max
        self._buffer = bytearray()
        self._frames: list[bytes] = []
        self._frames_bytes = 0
        self._greeted = False
        self._ready = False
        self.answers = bytearray()
        self.identity = b""
        self.missing_bytes = 0
        """How many bytes the current frame still needs; 0 if that is unknown."""
        self.unfinished_bytes = 0
        """How many bytes are buffered that are not a complete message yet, or have not been returned yet."""
        self.more = False

    @property
    def ready(self) -> bool:
        """True once the handshake is over."""
        return self._ready

    def feed(self, data: bytes) -> list[tuple[list[bytes], bytes]]:
        """The messages that ``data`` completes, in order, from at most FRAMES_AT_ONCE frames. Raises ZmtpError."""
        if self.unfinished_bytes:
            self._buffer += data
            # so that a frame which arrives in small pieces is not copied again for each of them
            if len(data) < self.missing_bytes:
                self.missing_bytes -= len(data)
                self.unfinished_bytes += len(data)
                return []
            data = bytes(self._buffer)
            self._buffer.clear()
            self.missing_bytes = self.unfinished_bytes = 0
            self.more = False
        position, end = 0, len(data)
        if not self._greeted:
            if end < GREETING_BYTES:
                if data[:1] not in (b"\xff", b""):
                    raise ZmtpError("the connection does not begin with a ZMTP greeting")
                self._buffer += data
                self.unfinished_bytes = len(self._buffer)
                return []
            if data[0] != 0xFF or not data[9] & 1 or data[10] < 3 or data[12:32] != GREETING[12:32]:
                raise ZmtpError("the greeting is not ZMTP 3 with the NULL mechanism")
            self._greeted = True
            self.answers += READY
            position = GREETING_BYTES
        messages: list[tuple[list[bytes], bytes]] = []
        for _ in FRAMES_AT_ONCE:
            if end - position < 2:
                break
            flags = data[position]
            if flags & _LONG:
                if end - position < 9:
                    break
                size = int.from_bytes(data[position + 1 : position + 9], "big")
                start = position + 9
            else:
                size = data[position + 1]
                start = position + 2
            if flags & ~(_LONG | _MORE) and (flags & ~(_LONG | _COMMAND) or size > COMMAND_BYTES_MAX):
                raise ZmtpError("unknown frame flags, or a command over its size limit")
            if self._frames_bytes + size > self._bytes_max:
                raise ZmtpError(f"a message over the limit of {self._bytes_max} bytes")
            stop = start + size
            if stop > end:
                if flags & _MORE and self._frames_bytes + size > ENVELOPE_BYTES_MAX:
                    raise ZmtpError("too many bytes before the body")
                self.missing_bytes = stop - end
                break
            position = stop
            if flags & ~(_LONG | _MORE):
                self._handle_command(data[start:stop])
            elif not self._ready:
                raise ZmtpError("a message before READY")
            elif flags & _MORE:
                self._frames.append(data[start:stop])
                self._frames_bytes += size
                if len(self._frames) > self._frames_max or self._frames_bytes > ENVELOPE_BYTES_MAX:
                    raise ZmtpError("too many frames or bytes before the body")
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

    def _handle_command(self, body: bytes) -> None:
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
