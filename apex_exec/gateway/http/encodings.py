"""Content encodings of HTTP responses: a body is decoded whole, or it is an error. Pure.

gzip and deflate are always there. Brotli needs the package ``brotli``, of a release that can stop at a bound; zstd
needs Python 3.14 or the package ``backports.zstd``. What is not there is not asked for.
"""

from __future__ import annotations

import functools
import importlib
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from apex_exec.gateway.failure import ApiFailure

_PLAIN = ("", "identity", "none", "aws-chunked")
"""Content encodings that change nothing. The last two are in no standard, but servers send them."""


MEMBERS_MAX = 4096
"""The most members of one gzip stream: starting one takes some 3 µs of the gateway's thread, and 1 MiB has room for
50,000."""
PIECE_BYTES = 4096
"""How many bytes are decoded at once; the rest of the input is copied for the next member."""
ZSTD_WINDOW_LOG_MAX = 23
"""8 MiB: what RFC 9659 lets a server use. A larger window is memory that the peer chooses."""


class Decoder(Protocol):
    """One member of an encoded stream, as ``zlib.decompressobj`` decodes it."""

    eof: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """``data`` decoded, some ``max_length`` bytes at most; what would be more is lost."""


class _Brotli:
    """``brotli.Decompressor`` with the interface of a Decoder."""

    unused_data = b""

    def __init__(self, module: Any) -> None:
        self._decoder = module.Decompressor()

    @property
    def eof(self) -> bool:
        return bool(self._decoder.is_finished())

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        made: bytes = self._decoder.process(data, output_buffer_limit=max_length)
        return made


def _zstd(module: Any) -> Decoder:
    decoder: Decoder = module.ZstdDecompressor(
        options={module.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG_MAX})
    return decoder


def _module(*names: str) -> Any:
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


@functools.cache
def codings() -> dict[str, tuple[Callable[[], Decoder] | None, tuple[type[Exception], ...]]]:
    """Every coding that we can decode: (what makes the decoder of one member, the errors of that decoder).

    None makes the one of deflate, which depends on the first bytes."""
    gzip: Any = functools.partial(zlib.decompressobj, 16 + zlib.MAX_WBITS)
    known: dict[str, Any] = {"gzip": (gzip, (zlib.error,)), "deflate": (None, (zlib.error,))}
    brotli = _module("brotli")
    if brotli is not None and hasattr(brotli.Decompressor, "can_accept_more_data"):  # 1.2: older ones have no bound
        known["br"] = (functools.partial(_Brotli, brotli), (brotli.error,))
    zstd = _module("compression.zstd", "backports.zstd")
    if zstd is not None:
        known["zstd"] = (functools.partial(_zstd, zstd), (zstd.ZstdError,))
    return known


class Decompressor:
    """Decodes a body piece by piece. Raises ApiFailure if ``coding``, a Content-Encoding, was not requested."""

    def __init__(self, coding: str) -> None:
        given = [one for word in coding.lower().split(",") if (one := word.strip()) not in _PLAIN]
        name = given[0].removeprefix("x-") if given else ""
        if len(given) > 1 or (name and name not in codings()):
            raise ApiFailure("fetch_failed", f"the response has an encoding that we did not request: {coding[:40]}")
        self._coding = name
        self._make, self._errors = codings()[name] if name else (None, ())
        self._state: Decoder | None = None
        """The decoder of the current member of the stream; None before the first member and between two members."""
        self._head = b""
        """The first byte, if we need the second one to know which kind of deflate this is."""
        self._padded = False
        """Whether we are behind the last member, where only zeros may follow."""
        self._ended = 0
        """How many members have ended."""

    def feed(self, chunk: bytes, room: int) -> bytes:
        """``chunk`` decoded, some ``room`` bytes (at least one) at most: if there are more, they are lost. Raises
        ApiFailure."""
        if not self._coding:
            return chunk
        made = bytearray()
        for begin in range(0, len(chunk), PIECE_BYTES):
            piece = chunk[begin:begin + PIECE_BYTES]
            while piece and len(made) < room:
                if self._state is None and not (piece := self._begin(piece)):
                    break
                assert self._state is not None
                try:
                    made += self._state.decompress(piece, room - len(made))
                except self._errors:
                    raise _not_what_it_says() from None
                if not self._state.eof:
                    break
                piece, self._state, self._ended = self._state.unused_data, None, self._ended + 1
        return bytes(made)

    def _begin(self, chunk: bytes) -> bytes:
        """Prepares for the member that begins with ``chunk``. Returns the part of ``chunk`` that is ready to be
        decoded."""
        if self._ended:
            # gzip and zstd streams have one or more members (RFC 1952, RFC 8878); zeros may follow those of gzip (tar
            # pads this way)
            left = chunk.lstrip(b"\0") if self._coding == "gzip" else chunk
            self._padded = self._padded or len(left) < len(chunk)
            if left and (self._coding in ("deflate", "br") or self._padded):
                raise _not_what_it_says()
            if self._ended >= MEMBERS_MAX:
                raise ApiFailure("too_large", f"the compressed response has more than {MEMBERS_MAX} parts, which is "
                                              "the limit")
            chunk = left
        if chunk and self._make is not None:
            self._state = self._make()
        elif chunk:
            chunk, self._head = self._head + chunk, b""
            if len(chunk) < 2:
                self._head = chunk
                return b""
            # RFC 1950; otherwise it is raw deflate
            wrapped = chunk[0] & 15 == 8 and int.from_bytes(chunk[:2]) % 31 == 0
            inflater: Any = zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
            self._state = inflater
        return chunk

    def end(self) -> None:
        """Call this when the body has ended. Raises ApiFailure if the encoded stream is incomplete."""
        if self._state is not None or self._head:
            raise ApiFailure("fetch_failed", "the response is incomplete: its compressed data ends too early")


def _not_what_it_says() -> ApiFailure:
    return ApiFailure("fetch_failed", "the response's body does not match its content encoding")
