"""Secrets that the gateway puts into a plugin's requests, so that the plugin never sees them. Pure.

A secret is bound to hosts by the manifest, and goes to the origin that the request was made to and to no other: a
redirect that leads away leaves it behind for good. It is sent over https, over plain http only inside the operator's
own networks. What a server echoes of it is taken out of the answer, be it the head, the body, or an error that
quotes them; as it is, and in the forms in which servers write text (``forms``).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import re
from collections.abc import Iterator
from urllib.parse import quote

from yarl import URL

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.http import urls

PLACE = "[secret]"

Secrets = tuple[tuple[str, str, str, str, tuple[str, ...]], ...]
"""(setting, header, the header's value, the secret, hosts) each."""


CHARSETS = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
"""Character sets in which ASCII has other bytes than in UTF-8."""
DECODED_CHARS_MIN = 8
"""A shorter password inside a secret would be found by chance. A secret itself is as long at least."""
_NAMED = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
HTML = tuple(str.maketrans(_NAMED | more) for more in (
    {}, {'"': "&quot;", "'": "&#x27;"}, {'"': "&quot;", "'": "&#39;"}, {'"': "&#34;", "'": "&#39;"},
    {'"': "&#34;", "'": "&#39;", "+": "&#43;"}, {'"': "&quot;", "'": "&#x27;", "+": "&#x2B;"},
    {'"': "&quot;", "'": "&#x27;", "`": "&#x60;", "=": "&#x3D;"},
    {'"': "&quot;", "'": "&#39;", "`": "&#x60;", "=": "&#x3D;", "/": "&#x2F;"},
    {'"': "&quot;", "'": "&#x27;", "/": "&#x2F;"}))
"""How usual libraries escape a text in HTML. The last five are those of Go, of .NET, of Handlebars, of Mustache, and
of what follows the advice of OWASP."""
_PERCENT = re.compile("%[0-9A-F]{2}")


def forms(value: str, secret: str) -> frozenset[str]:
    """``secret`` and the header's ``value`` with it, as JSON, HTML, URLs and base64 write them. A value for Basic is
    base64 of a name and a password, which a server may echo as such."""
    texts = {secret}
    scheme, _, rest = value.partition(" ")
    if scheme.lower() == "basic":
        with contextlib.suppress(binascii.Error, ValueError):
            pair = base64.b64decode(rest, validate=True).decode()
            texts |= {pair, pair.partition(":")[2]}
    whole = {text for text in texts if len(text) >= DECODED_CHARS_MIN}
    return frozenset(form for text in whole for form in _forms(text)) | {
        form for text in (value, *whole) for form in _base64(text)}


def _forms(text: str) -> Iterator[str]:
    yield text
    yield repr(text.encode())[2:-1]
    quoted = json.dumps(text)[1:-1]
    yield quoted
    yield quoted.replace("/", "\\/")
    for letters in ("<>&", "<>&\"'+`"):
        for write in ("\\u%04x", "\\u%04X"):
            yield "".join(write % ord(one) if one in letters else json.dumps(one)[1:-1] for one in text)
    yield from map(text.translate, HTML)
    for safe in ("", "/", "!*'()", "!*'();/?:@&=+$,#"):
        for escaped in (quote(text, safe=safe), quote(text, safe=safe).replace("%20", "+")):
            yield escaped
            yield _PERCENT.sub(lambda found: found[0].lower(), escaped)


def _base64(text: str) -> Iterator[str]:
    """Base64 of ``text`` wherever it begins in a longer text: the letters that no neighbour has a part in; and those at
    the end of one."""
    for begin in range(3):
        raw = b"\0" * begin + text.encode()
        whole = len(raw) - len(raw) % 3
        for found in (base64.b64encode(part).decode()[(0, 2, 3)[begin]:] for part in (raw[:whole], raw)):
            if len(found) >= DECODED_CHARS_MIN:
                yield found
                yield found.rstrip("=")
                yield found.replace("+", "-").replace("/", "_")
                yield found.rstrip("=").replace("+", "-").replace("/", "_")


class Injection:
    """What is added to the requests of one fetch, which begins at ``url``. ``plain``: http is allowed for this host.

    Raises ApiFailure if the plugin itself sets such a header, or if the secret would travel in the clear."""

    def __init__(self, secrets: Secrets, url: URL, headers: dict[str, str], *, plain: bool) -> None:
        host, port = url.raw_host or "", url.port or 0
        mine = [one for one in secrets if urls.is_listed(host, port, url.scheme, one[4], any_port=True)]
        theirs = {name.lower() for name in headers}
        for name, header, _, _, _ in mine:
            if header.lower() in theirs:
                raise ApiFailure("url_invalid", f"{header} for {host} comes from the setting {name}; leave it out")
        if mine and url.scheme != "https" and not plain:
            raise ApiFailure("url_invalid", f"the secret setting {mine[0][0]} is sent over https only; use an https "
                                            "URL")
        self._origin = url.origin()
        self._headers = {header: value for _, header, value, _, _ in mine}
        found = {form for _, _, value, secret, _ in mine for form in forms(value, secret)}
        self._texts = tuple(sorted(found, key=len, reverse=True))  # the longest first: one may hold another
        self.names = [name for name, _, _, _, _ in mine]
        """The settings whose secrets are sent."""

    def added(self, url: URL, method: str, headers: dict[str, str]) -> dict[str, str]:
        """``headers`` and what is added for a request to ``url``. Raises ApiFailure for a header that is not sent."""
        if not self._headers or url.origin() != self._origin:
            self._headers = {}  # it led away once: what it leads back to is somebody else's idea
            return headers
        return urls.check_headers(method, {**headers, **self._headers})

    def removed(self, text: str) -> str:
        """``text`` of the response, or of an error about it, without the secrets."""
        for secret in self._texts:
            if secret in text:
                text = text.replace(secret, PLACE)
        return text

    def removed_name(self, name: str) -> str:
        """A header's name, or an error that may quote a host's, without the secrets: names lose the case of letters."""
        text = self.removed(name)
        low = text.lower()
        return PLACE if any(secret.lower() in low for secret in self._texts) else text

    def removed_read(self, reply: dict[str, str | bytes]) -> dict[str, str | bytes]:
        """What was read of a body, as ``bodies.read_body`` returns it: in another charset, the secrets looked
        different."""
        text = reply["body"]
        if not isinstance(text, str) or (plain := self.removed(text)) == text:
            return reply
        return {"body": plain}

    def removed_bytes(self, body: bytes) -> bytes:
        """The response's body without the secrets."""
        for secret in self._texts:
            if (raw := secret.encode()) in body:
                body = body.replace(raw, PLACE.encode())
        if self._texts and b"\0" in body:
            for charset in CHARSETS:
                for secret in self._texts:
                    body = body.replace(secret.encode(charset), PLACE.encode(charset))
        return body
