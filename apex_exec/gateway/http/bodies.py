"""The body of an HTTP response: its text, if its header says that it is text or the plugin asks for text. Pure."""

from __future__ import annotations

import codecs
import re

from apex_exec.gateway.failure import ApiFailure

BODY_BYTES_MAX = 1024 * 1024
"""The largest body of a response: before decompression, after it, and as text in UTF-8."""

_TEXT = ("text/", "application/json", "application/xml", "application/javascript", "application/x-www-form-urlencoded",
         "image/svg+xml")
_CHARSET = re.compile(r"""; *charset *= *["']?([a-z0-9_.:-]{1,40})["']? *(?:;|$)""")
_CHARSETS = re.compile(r"ascii|utf-8|utf-16(-[bl]e)?|utf-32(-[bl]e)?|iso8859-\d{1,2}|cp\d{3,4}|koi8-[rut]|mac-\w+|"
                       r"shift_jis\w*|euc_\w+|iso2022_\w+|gb2312|gbk|gb18030|hz|big5\w*|johab|tis-620")
"""Python's names for the character sets of texts on the web. Python's other codecs are transformations."""


def read_body(body: bytes, kind: str, asked: str) -> dict[str, str | bytes]:
    """``{body, raw?}``: what the plugin gets, and the bytes of a text whose UTF-8 they are not.

    ``kind`` is a Content-Type. With ``asked`` "bytes" the body is bytes, with "text" it is text, in which U+FFFD stands
    for what cannot be decoded. With "auto" it is text if ``kind`` says so and it can be decoded with the charset named
    there (UTF-8 if none is named), and bytes otherwise. Raises ApiFailure too_large."""
    if asked == "bytes":
        return {"body": body}
    kind = kind.lower()
    if asked == "auto" and not (kind.startswith(_TEXT) or "+json" in kind or "+xml" in kind):
        return {"body": body}
    charset = _charset(kind)
    try:
        if asked == "text":
            text = body.decode(charset or "utf-8", "replace")
        elif charset:
            text = body.decode(charset)
        else:
            return {"body": body}
        encoded = text.encode()
    except UnicodeError:
        return {"body": body}  # it is not what the header says: the plugin gets the bytes
    if len(encoded) > BODY_BYTES_MAX:
        raise ApiFailure("too_large", f"the response is larger than {BODY_BYTES_MAX} bytes, which is the limit (also "
                                      "when it is read as text)")
    return {"body": text} if asked == "text" or encoded == body else {"body": text, "raw": body}


def _charset(kind: str) -> str:
    """Python's name for the charset that ``kind`` names, UTF-8 if it names none; "" if it is none of a text."""
    named = _CHARSET.search(kind)
    if named is None and "charset" not in kind:
        return "utf-8"
    try:
        charset = codecs.lookup(named[1] if named else "").name
    except (LookupError, UnicodeError):
        return ""
    return charset if _CHARSETS.fullmatch(charset) else ""
