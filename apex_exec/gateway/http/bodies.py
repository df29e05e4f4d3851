"""The body of an HTTP response: decompressed, bounded, and as text if its header says that it is text. Pure."""

from __future__ import annotations

import codecs
import re
import zlib
from typing import Any

from apex_exec.gateway.failure import ApiFailure

BODY_BYTES_MAX = 1024 * 1024
"""The largest body of a response: before decompression, after it, and as text in UTF-8."""

_TEXT = ("text/", "application/json", "application/xml", "application/javascript", "application/x-www-form-urlencoded",
         "image/svg+xml")
_CHARSET = re.compile(r"""; *charset *= *["']?([a-z0-9_.:-]{1,40})["']? *(?:;|$)""")
_CHARSETS = re.compile(r"ascii|utf-8|utf-16(-[bl]e)?|utf-32(-[bl]e)?|iso8859-\d{1,2}|cp\d{3,4}|koi8-[rut]|mac-\w+|"
                       r"shift_jis\w*|euc_\w+|iso2022_\w+|gb2312|gbk|gb18030|hz|big5\w*|johab|tis-620")
"""Python's names for the character sets of texts on the web. Python's other codecs are transformations."""
_PLAIN = ("", "identity", "none", "aws-chunked")
"""Content encodings that change nothing. The last two are in no standard, but servers send them."""


MEMBERS_MAX = 4096
"""The most members of one gzip stream: starting one takes some 3 µs of the gateway's thread, and 1 MiB has room for
50,000."""
PIECE_BYTES = 4096
"""How many bytes are decoded at once; the rest of the input is copied for the next member."""


class Decompressor:
    """Decodes a body piece by piece. Raises ApiFailure if ``coding``, a Content-Encoding, was not requested."""

    def __init__(self, coding: str) -> None:
        codings = [one for word in coding.lower().split(",") if (one := word.strip()) not in _PLAIN]
        if len(codings) > 1 or (codings and codings[0] not in ("gzip", "x-gzip", "deflate")):
            raise ApiFailure("fetch_failed", f"the response has an encoding that we did not request: {coding[:40]}")
        self._coding = codings[0] if codings else ""
        self._state: Any = None
        """zlib's decoder for the current member of the stream; None before the first member and between two members."""
        self._head = b""
        """The first byte, if we need the second one to know which kind of deflate this is."""
        self._padded = False
        """Whether we are behind the last member, where only zeros may follow."""
        self._ended = 0
        """How many members have ended."""

    def feed(self, chunk: bytes, room: int) -> bytes:
        """``chunk`` decoded, at most ``room`` bytes (at least one). Raises ApiFailure."""
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
        """Prepares for the member that begins with ``chunk``. Returns the part of ``chunk`` that is ready to be
        decoded."""
        if self._ended:  # a gzip stream has one or more members; zeros may follow (RFC 1952; tar pads this way)
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
            # RFC 1950; otherwise it is raw deflate
            wrapped = chunk[0] & 15 == 8 and int.from_bytes(chunk[:2]) % 31 == 0
            self._state = zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
        return chunk

    def end(self) -> None:
        """Call this when the body has ended. Raises ApiFailure if the encoded stream is incomplete."""
        if self._state is not None or self._head:
            raise ApiFailure("fetch_failed", "the response's body ends in the middle of its encoded data")


def read_text(body: bytes, kind: str) -> str | bytes:
    """``body`` as text, if ``kind`` (a Content-Type) says that it is text and it can be decoded with the charset named
    there (UTF-8 if none is named); otherwise ``body`` as bytes. Raises ApiFailure too_large."""
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
        return body  # an unknown charset, or not what the header says: the plugin gets the bytes
    if size > BODY_BYTES_MAX:
        raise ApiFailure("too_large", f"a response has at most {BODY_BYTES_MAX} bytes, as text in UTF-8 too")
    return text


def _not_what_it_says() -> ApiFailure:
    return ApiFailure("fetch_failed", "the response's body does not match its content encoding")
