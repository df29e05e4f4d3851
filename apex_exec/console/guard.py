"""What every request passes before a page sees it, and what every answer carries: the walls of the console.

A request is for one of our names (else a page of another site could have its name resolve to us: DNS rebinding). One
that changes something comes from our own pages (Origin) and carries the session's token. Every answer forbids scripts,
styles, frames and connections that are not ours.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable

from aiohttp import web

from apex_exec.common.listening import forwarded_by_https, forwarded_for
from apex_exec.console.place import Place
from apex_exec.console.sessions import Session

FORM_BYTES_MAX = 64 * 1024
"""The largest form: a reason and a few names."""
CSP = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
       "form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
POLICY = "Content-Security-Policy"
HEADERS = {
    POLICY: CSP, "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Server": "apex-exec"}
SAFE = ("GET", "HEAD")
FORM_TYPE, PART_TYPE = "application/x-www-form-urlencoded", "application/octet-stream"
PART = "/upgrade/part"
"""How the addresses end that take a part of a file: our script sends it, and no form of any page can."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Stop(Exception):
    """A request that no page sees: ``status`` and one sentence."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers or {}


class Guard:
    """Checks requests for one place."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def check(self, request: web.Request) -> None:
        """Raises Stop for a request that is not for us or not from us."""
        place = self.place
        if place.proxy:
            if request.remote != place.proxy:
                raise Stop(403, "This console answers requests from its proxy only; open the proxy's address "
                                "(console.trusted_proxy).")
            if not forwarded_by_https(request.headers.getall("X-Forwarded-Proto", [])):
                raise Stop(403, "The request did not reach the proxy by https; use https, and have the proxy set "
                                "X-Forwarded-Proto.")
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or hosts[0].lower() not in place.names:
            raise Stop(421, "This console does not answer under this host name; console.hosts lists the names.")
        if request.method in SAFE:
            return
        if request.method != "POST":
            raise Stop(405, "This console accepts GET and POST requests only.", {"Allow": "GET, HEAD, POST"})
        origins = request.headers.getall("Origin", [])
        if origins != [f"{place.scheme}://{hosts[0].lower()}"]:
            raise Stop(403, "This form was sent by a page of another site, so nothing was done.")
        wanted = PART_TYPE if request.path.endswith(PART) else FORM_TYPE
        if request.content_type != wanted:
            raise Stop(415, f"This must be sent as {wanted}.")

    def address(self, request: web.Request) -> str:
        """Who asks: the peer, or by a trusted proxy's word who asked that."""
        if self.place.proxy:
            return forwarded_for(request.headers.getall("X-Forwarded-For", []))
        return request.remote or "?"


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Puts the walls around every answer, also around errors."""
    own = response.headers.get(POLICY, CSP)  # a picture has a stricter policy
    response.headers.update(HEADERS)
    response.headers[POLICY] = own
    if "Cache-Control" not in response.headers:
        response.headers["Cache-Control"] = "no-store"


def has_token(session: Session, given: str) -> bool:
    """Whether a form carries the session's token."""
    return hmac.compare_digest(session.csrf.encode(), given.encode("utf-8", "replace"))
