"""Length-prefixed frames for the links between the supervisor and its side processes.

A frame is a 4-byte big-endian length, followed by that many bytes of MessagePack. Both ends are our own code and
trusted, but frames are bounded nevertheless: a desynchronised stream must not become an allocation.
"""

from __future__ import annotations

import struct

from apex_exec.errors import SupervisorBug

FRAME_BYTES_MAX = 64 * 1024 * 1024
_HEAD = struct.Struct(">I")


def pack_frame(body: bytes) -> bytes:
    """``body`` with its length in front. Raises SupervisorBug above FRAME_BYTES_MAX."""
    if len(body) > FRAME_BYTES_MAX:
        raise SupervisorBug(f"a frame of {len(body)} bytes exceeds the link's limit of {FRAME_BYTES_MAX}")
    return _HEAD.pack(len(body)) + body


class FrameBuffer:
    """Cuts a byte stream into frame bodies, and keeps an incomplete frame for the next feed."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Every frame body that ``data`` completes, in order. Raises SupervisorBug on an impossible length."""
        buffer = self._buffer
        buffer += data
        frames: list[bytes] = []
        start = 0
        end = len(buffer)
        while end - start >= 4:
            (size,) = _HEAD.unpack_from(buffer, start)
            if size > FRAME_BYTES_MAX:
                raise SupervisorBug(f"a link announced a frame of {size} bytes; its stream is out of sync")
            if end - start - 4 < size:
                break
            frames.append(bytes(buffer[start + 4 : start + 4 + size]))
            start += 4 + size
        if start:
            del buffer[:start]
        return frames
