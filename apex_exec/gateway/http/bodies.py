"""The body of an HTTP response: decompressed, within its bound, and text where its header says so. Pure."""

from __future__ import annotations

import codecs
import re
import zlib
from typing import Any

from apex_exec.gateway.failure import ApiFailure

BODY_BYTES_MAX = 1024 * 1024
"""Of a response, before and after decompression, and as text in UTF-8."""

_TEXT = ("text/", "application/json", "application/xml", "application/javascript", "application/x-www-form-urlencoded",
         "image/svg+xml")
_CHARSET = re.compile(r"""; *charset *= *["']?([a-z0-9_.:-]{1,40})["']? *(?:;|$)""")
_CHARSETS = re.compile(r"ascii|utf-8|utf-16(-[bl]e)?|utf-32(-[bl]e)?|iso8859-\d{1,2}|cp\d{3,4}|koi8-[rut]|mac-\w+|"
                       r"shift_jis\w*|euc_\w+|iso2022_\w+|gb2312|gbk|gb18030|hz|big5\w*|johab|tis-620")
"""Python's names of the alphabets that texts of the web are in; its other codecs are transformations."""
_PLAIN = ("", "identity", "none", "aws-chunked")
"""Codings of a body that change nothing: the last two are not in any standard, and are sent all the same."""


MEMBERS_MAX = 4096
"""Of one gzip stream: to begin one takes some 3 µs of the gateway's thread, and 1 MiB has room for 50,000."""
PIECE_BYTES = 4096
"""Decoded at once: what a member leaves of it is copied for the next."""


class Decompressor:
    """Decodes a body piece by piece. Raises ApiFailure where ``coding``, a Content-Encoding, was not asked for."""

    def __init__(self, coding: str) -> None:
        codings = [one for word in coding.lower().split(",") if (one := word.strip()) not in _PLAIN]
        if len(codings) > 1 or (codings and codings[0] not in ("gzip", "x-gzip", "deflate")):
            raise ApiFailure("fetch_failed", f"the response has an encoding that was not asked for: {coding[:40]}")
        self._coding = codings[0] if codings else ""
        self._state: Any = None
        """zlib's, of the member of the stream that is being read; None before it, and between two members."""
        self._head = b""
        """The first byte, where its second is needed to know which kind of deflate this is."""
        self._padded = False
        """Behind the last member there are zeros: nothing else may follow."""
        self._ended = 0
        """Members that have come to their end."""

    def feed(self, chunk: bytes, room: int) -> bytes:
        """``chunk`` decoded, at most ``room`` bytes, which is one at least. Raises ApiFailure."""
        if not self._coding:
            return chunk
        made = bytearray()
        for begin in range(0, len(chunk), PIECE_BYTES):
            piece = chunk[begin:begin + PIECE_BYTES]
            while piece and len(made) < room:
                if self._state is None and not (piece := self._begin(piece)):
                    break
                try:
                    made += self._state.decompress(piece, room - len(made))
                except zlib.error:
                    raise _not_what_it_says() from None
                if not self._state.eof:
                    break
                piece, self._state, self._ended = self._state.unused_data, None, self._ended + 1
        return bytes(made)

    def _begin(self, chunk: bytes) -> bytes:
        """Makes ready for the member that begins with ``chunk``; what there is of it to read."""
        if self._ended:  # a gzip stream is one member or several, with zeros behind them (RFC 1952; what tar pads)
            left = chunk.lstrip(b"\0")
            self._padded = self._padded or len(left) < len(chunk)
            if left and (self._coding == "deflate" or self._padded):
                raise _not_what_it_says()
            if self._ended >= MEMBERS_MAX:
                raise ApiFailure("too_large", f"a compressed response has at most {MEMBERS_MAX} parts")
            chunk = left
        if chunk and self._coding != "deflate":
            self._state = zlib.decompressobj(16 + zlib.MAX_WBITS)
        elif chunk:
            chunk, self._head = self._head + chunk, b""
            if len(chunk) < 2:
                self._head = chunk
                return b""
            wrapped = chunk[0] & 15 == 8 and int.from_bytes(chunk[:2]) % 31 == 0  # RFC 1950; else it is raw
            self._state = zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
        return chunk

    def end(self) -> None:
        """The body has ended. Raises ApiFailure where what it encodes has not."""
        if self._state is not None or self._head:
            raise ApiFailure("fetch_failed", "the response's body ends before what it encodes does")


def read_text(body: bytes, kind: str) -> str | bytes:
    """``body``, as text if ``kind``, a Content-Type, says that it is text, and it can be read by the charset named
    there (UTF-8 where none is); else as it is. Raises ApiFailure too_large."""
    kind = kind.lower()
    if not (kind.startswith(_TEXT) or "+json" in kind or "+xml" in kind):
        return body
    named = _CHARSET.search(kind)
    try:
        charset = "utf-8" if named is None and "charset" not in kind else codecs.lookup(named[1] if named else "").name
        if not _CHARSETS.fullmatch(charset):
            return body
        text = body.decode(charset)
        size = len(text.encode())
    except (LookupError, UnicodeError):
        return body  # an alphabet that is not known, or not what the header says: the plugin gets the bytes
    if size > BODY_BYTES_MAX:
        raise ApiFailure("too_large", f"a response has at most {BODY_BYTES_MAX} bytes, as text in UTF-8 too")
    return text


def _not_what_it_says() -> ApiFailure:
    return ApiFailure("fetch_failed", "the response's body is not what its encoding says")
