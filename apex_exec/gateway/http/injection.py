"""Secrets that the gateway puts into a plugin's requests, so that the plugin never sees them. Pure.

A secret is bound to hosts by the manifest, and goes to the origin that the request was made to and to no other: a
redirect that leads away leaves it behind for good. It is sent over https, over plain http only inside the operator's
own networks. What a server echoes of it is taken out of the response.
"""

from __future__ import annotations

from yarl import URL

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.http import urls

PLACE = "[secret]"

Secrets = tuple[tuple[str, str, str, str, tuple[str, ...]], ...]
"""(setting, header, the header's value, the secret, hosts) each."""


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
        self._texts = tuple(secret for _, _, _, secret, _ in mine)
        self.names = [name for name, _, _, _, _ in mine]
        """The settings whose secrets are sent."""

    def added(self, url: URL, method: str, headers: dict[str, str]) -> dict[str, str]:
        """``headers`` and what is added for a request to ``url``. Raises ApiFailure for a header that is not sent."""
        if not self._headers or url.origin() != self._origin:
            self._headers = {}  # it led away once: what it leads back to is somebody else's idea
            return headers
        return urls.check_headers(method, {**headers, **self._headers})

    def removed(self, text: str) -> str:
        """``text`` of the response without the secrets."""
        for secret in self._texts:
            if secret in text:
                text = text.replace(secret, PLACE)
        return text

    def removed_bytes(self, body: bytes) -> bytes:
        """The response's body without the secrets."""
        for secret in self._texts:
            if (raw := secret.encode()) in body:
                body = body.replace(raw, PLACE.encode())
        return body
