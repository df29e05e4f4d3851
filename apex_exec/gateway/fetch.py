"""A plugin's HTTP request: manifest's list ∩ operator's list, public addresses only, every redirect anew, all bounded.

The name is resolved once, by a resolver of ours: every address it gives must be admitted, and the addresses checked
are those that aiohttp connects to. A redirect goes through all of it again and counts as a request. No proxy
variables, no cookies, no credentials of ours.
"""

from __future__ import annotations

import asyncio
import functools
import json
import socket
import time
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from apex_exec import __version__
from apex_exec.core.api import Fetch
from apex_exec.gateway import urls
from apex_exec.gateway.addresses import refusal
from apex_exec.gateway.costs import COST, Cost
from apex_exec.gateway.failure import ApiFailure

BODY_BYTES_MAX = 1024 * 1024
"""Of a response, before and after decompression."""
HEADER_BYTES_MAX = 64 * 1024
HEADERS_MAX = 100
REDIRECTS_MAX = 5
CONNECT_SECONDS = 10
CONNECTIONS_MAX = 512
CONNECTIONS_PER_HOST_MAX = 128
CHUNK_BYTES = 65536
PIECE_BYTES = 8192
"""Read of one connection at once, and kept for its call before more is read: a response in chunks of one byte takes
2 µs a chunk, 3 ms for so much of it."""
READING_NS_MAX = 30_000_000
"""CPU time that reading one response may take. A body of BODY_BYTES_MAX takes a third of it at most, and in chunks of
one byte it would take seconds, which the gateway's one thread would owe to everybody else's calls."""
_REDIRECTS = (301, 302, 303, 307, 308)
_TEXT = ("text/", "application/json", "application/xml", "application/javascript", "application/x-www-form-urlencoded",
         "image/svg+xml")

Resolve = Callable[[str, int], Awaitable[list[str]]]


async def system_resolve(host: str, port: int) -> list[str]:
    """Every address that the system's resolver gives for ``host``. Raises OSError."""
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761: these are the loopback, no question to DNS
        return ["127.0.0.1"]
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _Resolver(AbstractResolver):
    """aiohttp's way to addresses: ours, checked. aiohttp itself asks nobody else and remembers nothing."""

    def __init__(self, resolve: Resolve, allow_loopback: bool) -> None:
        self._resolve = resolve
        self._allow_loopback = allow_loopback

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
                      ) -> list[ResolveResult]:
        """Addresses of ``host``, every one admitted. Raises ApiFailure, OSError."""
        addresses = await self._resolve(host, port)
        for address in addresses:
            check_address(address, self._allow_loopback)
        return [ResolveResult(hostname=host, host=address, port=port, proto=0, flags=socket.AI_NUMERICHOST,
                              family=socket.AF_INET6 if ":" in address else socket.AF_INET) for address in addresses]

    async def close(self) -> None:
        """Nothing to release."""


def check_address(address: str, allow_loopback: bool) -> None:
    """Raises ApiFailure where ``address`` may not be connected to."""
    reason = refusal(address, allow_loopback=allow_loopback)
    if reason:
        raise ApiFailure("address_not_allowed", f"the host's address is not public: {reason}")


class _Metered(ResponseHandler):
    """A connection whose reading is counted to the call that waits for its response, goes in small pieces, and has an
    end."""

    _cost: Cost | None = None
    _reading_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sees to small pieces, of what TLS has decrypted as well."""
        reading: list[Any] = [transport, getattr(transport, "_ssl_protocol", None)]
        for reads in reading:
            if hasattr(reads, "max_size"):
                reads.max_size = PIECE_BYTES
        super().connection_made(transport)

    def set_response_params(self, **params: Any) -> None:
        """A request goes out, in the task of its call."""
        self._cost, self._reading_ns = COST.get(), 0
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Counts what the reading takes, and ends it where that is too much."""
        begun_ns = time.thread_time_ns()
        super().data_received(data)
        spent_ns = time.thread_time_ns() - begun_ns
        self._reading_ns += spent_ns
        if self._cost is not None:
            self._cost.cpu_ns += spent_ns
        if self._reading_ns > READING_NS_MAX:
            failure = ApiFailure("too_large", "the response comes in too many small pieces")
            payload = getattr(self, "_payload", None)
            self.set_exception(failure)
            if payload is not None:
                payload.set_exception(failure)
            self._reading_ns = 0
            if self.transport is not None:
                self.transport.abort()


class Fetcher:
    """All requests of all plugins. ``allow`` is the operator's list; ``resolve`` is replaced in tests."""

    def __init__(self, allow: list[str], allow_loopback: bool, resolve: Resolve = system_resolve) -> None:
        self._allow = tuple(allow)
        self._allow_loopback = allow_loopback
        connector = aiohttp.TCPConnector(
            resolver=_Resolver(resolve, allow_loopback), use_dns_cache=False, limit=CONNECTIONS_MAX,
            limit_per_host=CONNECTIONS_PER_HOST_MAX, keepalive_timeout=15)
        made: Any = connector  # aiohttp has no public way to say what a connection is made of
        made._factory = functools.partial(_Metered, loop=asyncio.get_running_loop())
        self._session = aiohttp.ClientSession(
            connector=connector, trust_env=False, auto_decompress=False, read_bufsize=PIECE_BYTES,
            cookie_jar=aiohttp.DummyCookieJar(),
            max_line_size=8190, max_field_size=8190, skip_auto_headers=("Content-Type",),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            headers={"User-Agent": f"apex-exec/{__version__}", "Accept-Encoding": "gzip, deflate"})

    async def close(self) -> None:
        """Closes every connection."""
        await self._session.close()

    async def fetch(self, request: Fetch, named: tuple[str, ...], may_hop: Callable[[], Awaitable[None]]
                    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """(``{status, headers, body}``, facts for the audit record). Raises ApiFailure; the caller bounds the time.

        ``may_hop`` is awaited before each redirect is followed and raises where it may not be.
        """
        method = request.method.upper()
        headers = urls.check_headers(method, request.headers)
        body = _body(request.body, headers)
        url = urls.parse(request.url)
        facts: dict[str, Any] = {"host": url.raw_host, "httpMethod": method}
        for hop in range(REDIRECTS_MAX + 1):
            self._check(url, named)
            if hop:
                await may_hop()
            try:
                async with self._session.request(method, url, headers=headers, data=body,
                                                 allow_redirects=False) as response:
                    location = response.headers.get("Location")
                    if response.status not in _REDIRECTS or location is None:
                        reply = await _read(response)
                        facts.update(status=response.status, redirects=hop)
                        return reply, facts
                    status = response.status
                    response.close()  # its body is nobody's: the connection is not kept for it
            except ApiFailure:
                raise
            except (aiohttp.ClientError, OSError, ValueError, asyncio.IncompleteReadError) as error:
                raise _failure(error) from None
            target = urls.redirected(url, location)
            if status == 303 or (status in (301, 302) and method == "POST"):
                method, body = ("HEAD" if method == "HEAD" else "GET"), None
                headers = {name: value for name, value in headers.items()
                           if not name.lower().startswith("content-")}
            if target.origin() != url.origin():
                headers = {name: value for name, value in headers.items()
                           if name.lower() not in ("authorization", "cookie")}
            url = target
        raise ApiFailure("redirect_limit", f"more than {REDIRECTS_MAX} redirects")

    def _check(self, url: URL, named: tuple[str, ...]) -> None:
        """Both lists must name the host; an address in its place is checked here, a name when it is resolved."""
        host, port = url.raw_host or "", url.port or 0
        if not urls.is_listed(host, port, url.scheme, named, any_port=True):
            raise ApiFailure("host_not_allowed", f"the manifest's network.allow does not name {host}")
        if not urls.is_listed(host, port, url.scheme, self._allow, any_port=False):
            raise ApiFailure("host_not_allowed", f"the operator's fetch.allow does not name {host} (port {port})")
        if ":" in host or host.replace(".", "").isdigit():
            check_address(host, self._allow_loopback)  # aiohttp asks no resolver about an address


def _body(body: Any, headers: dict[str, str]) -> bytes | None:
    """The request's body; its type is added to ``headers`` where the plugin said none."""
    if body is None or isinstance(body, bytes):
        return body
    if isinstance(body, str):
        kind, raw = "text/plain; charset=utf-8", body.encode()
    else:
        try:
            kind, raw = "application/json", json.dumps(body).encode()
        except (TypeError, ValueError):
            raise ApiFailure("invalid_params", "the body is no text, no bytes and no JSON value") from None
    if not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = kind
    return raw


async def _read(response: aiohttp.ClientResponse) -> dict[str, Any]:
    headers: dict[str, str] = {}
    size = 0
    for count, (name, value) in enumerate(response.headers.items()):
        size += len(name) + len(value)
        if size > HEADER_BYTES_MAX or count >= HEADERS_MAX:
            raise ApiFailure("too_large", f"the response's headers are over {HEADER_BYTES_MAX} bytes or {HEADERS_MAX}")
        key = name.lower()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    body = bytearray()
    inflate = _inflater(headers.get("content-encoding", "").strip().lower())
    received = 0
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        received += len(chunk)
        body += inflate(chunk, BODY_BYTES_MAX + 1 - len(body))
        if received > BODY_BYTES_MAX or len(body) > BODY_BYTES_MAX:
            response.close()
            raise ApiFailure("too_large", f"a response has at most {BODY_BYTES_MAX} bytes")
    kind = headers.get("content-type", "").lower()
    if kind.startswith(_TEXT) or "+json" in kind or "+xml" in kind:
        try:
            return {"status": response.status, "headers": headers, "body": body.decode()}
        except UnicodeDecodeError:
            pass  # another charset, or not text at all: the plugin gets the bytes
    return {"status": response.status, "headers": headers, "body": bytes(body)}


def _inflater(encoding: str) -> Callable[[bytes, int], bytes]:
    """How to decode a body piece by piece, never making more than the given number of bytes."""
    if encoding in ("", "identity"):
        return lambda chunk, _: chunk
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ApiFailure("fetch_failed", f"the response has an encoding that was not asked for: {encoding[:40]}")
    state = zlib.decompressobj(16 + zlib.MAX_WBITS if encoding != "deflate" else zlib.MAX_WBITS)
    begun = False

    def inflate(chunk: bytes, room: int) -> bytes:
        nonlocal state, begun
        try:
            return state.decompress(chunk, room)
        except zlib.error:
            if begun or encoding != "deflate":
                raise ApiFailure("fetch_failed", "the response's body is not what its encoding says") from None
            state = zlib.decompressobj(-zlib.MAX_WBITS)  # servers that mean raw deflate
            try:
                return state.decompress(chunk, room)
            except zlib.error:
                raise ApiFailure("fetch_failed", "the response's body is not what its encoding says") from None
        finally:
            begun = True

    return inflate


def _failure(error: BaseException) -> ApiFailure:
    cause: BaseException | None = error
    while cause is not None:  # aiohttp wraps what the resolver raises
        if isinstance(cause, ApiFailure):
            return ApiFailure(cause.code, cause.message)
        cause = cause.__cause__ or cause.__context__
    text = str(error).split("\n")[0][:200]
    if "Got more than" in text or "too large" in text.lower() or "Too many" in text:
        return ApiFailure("too_large", "the response's head is too large")
    return ApiFailure("fetch_failed", f"{type(error).__name__}: {text}" if text else type(error).__name__)
