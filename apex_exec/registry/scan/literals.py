"""Rules on literals, in any language: texts that attacks use, and code or files that a literal hides."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Iterator

_SUSPICIOUS = re.compile(
    r"/etc/(passwd|shadow|sudoers)|\.ssh/(id_|authorized_keys)|/proc/(self|\d+)/(mem|maps|environ|root|fd)|"
    r"169\.254\.169\.254|metadata\.google\.internal|/dev/(tcp|udp)/|(curl|wget)\b[^|\n]{0,200}\|\s*(ba|z|da)?sh\b|"
    r"\bn(c|cat)\b[^\n]{0,60}\s-e\b|docker\.sock|\bLD_PRELOAD\b|\brm\s+-[rf]{2}\s+[/~]|/dev/(k?mem|sd[a-z])\b|"
    r"/var/run/secrets/|\.aws/credentials|\.kube/config|wallet\.dat|stratum\+tcp:|\bbash\s+-i\b|"
    r"crontab\s+-|/etc/cron\.|:\(\)\s*\{\s*:\|:|\{[^{}]{0,80}\.__(globals|subclasses|mro|builtins)__")
_ENCODED = re.compile(r"[A-Za-z0-9+/=_\-\s]{200,}|(\\x[0-9a-f]{2}){60,}", re.ASCII)
LITERAL_SEARCHED_MAX = 20_000
"""How many characters of one literal are searched for suspicious texts."""


def in_literal(value: str | bytes) -> Iterator[tuple[str, str]]:
    """(rule, message) of everything that a literal with this value shows."""
    if len(value) < 8:
        return
    text = value if isinstance(value, str) else value.decode("latin-1")
    if match := _SUSPICIOUS.search(text[:LITERAL_SEARCHED_MAX]):
        yield "suspicious-literal", f"the text {match[0][:60]!a}"
    if len(text) >= 200 and _ENCODED.search(text[:4000]):
        if what := _payload(text):
            yield "hidden-payload", f"an encoded {what} of {len(text)} characters"
        elif len(text) >= 2000 and len(set(text)) > 24 and not re.search(r"\s\w{1,12}\s", text[:2000]):
            yield "large-literal", f"an encoded literal of {len(text)} characters"
    if isinstance(value, bytes) and value[:4] in (b"\x7fELF", b"PK\x03\x04") and len(value) > 40:
        yield "hidden-payload", "a packed or native file"


_SOURCE = re.compile(rb"(^|\n)\s*(import|from|def|class) [a-z_]|__import__|exec\(|eval\(|os\.system|#!/|"
                     rb"\bfunction\b[ \w]*\(|\brequire\(|child_process")


def _strict_base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _payload(text: str) -> str:
    """What a long encoded literal contains; "" if it is nothing that can run."""
    packed = "".join(text.split())
    for decode in (_strict_base64, bytes.fromhex, base64.b85decode):
        try:
            data = decode(packed)
        except (ValueError, binascii.Error):
            continue
        if data[:1] == b"\x78":
            try:
                data = zlib.decompressobj().decompress(data, 100_000)
            except zlib.error:
                continue
        if data.startswith((b"\x7fELF", b"PK\x03\x04", b"\xca\xfe\xba\xbe", b"MZ")):
            return "program or archive"
        if _SOURCE.search(data[:20_000]):
            return "piece of source"
    return ""
