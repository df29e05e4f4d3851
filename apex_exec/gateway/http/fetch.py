"""A plugin's HTTP request: both the manifest and the operator must list the host, only public addresses are reached,
every redirect is checked anew, and everything is bounded.

Our own resolver looks the name up once. Every address that it returns must be allowed, and aiohttp connects to exactly
the addresses that were checked. A redirect goes through all checks again and counts as a request. A request is sent
once; only if the plugin says so, it is sent once more, and counts again, when its kept connection has ended. We use no
proxy variables, no cookies and no credentials of our own. ``encodings.py`` and ``bodies.py`` decode the body.
"""

from __future__ import annotations

import asyncio
import functools
import json
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from apex_exec import __version__
from apex_exec.catalogue.methods import Fetch
from apex_exec.gateway.costs import COST, Cost
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.http import urls
from apex_exec.gateway.http.addresses import Reach
from apex_exec.gateway.http.bodies import BODY_BYTES_MAX, read_body
from apex_exec.gateway.http.encodings import Decompressor, codings
from apex_exec.gateway.http.injection import Injection, Secrets

HEADER_BYTES_MAX = 64 * 1024
HEADERS_MAX = 100
REDIRECTS_MAX = 5
CONNECT_SECONDS = 10
KEEP_SECONDS = 4
"""How long a connection is kept for the next request: less than the 5 s after which Node and Apache end theirs, because
a request that meets such an end has no answer."""
CONNECTIONS_MAX = 512
CONNECTIONS_PER_HOST_MAX = 128
CHUNK_BYTES = 65536
PIECE_BYTES = 8192
"""How much we read from one connection at once and keep for its call before we read more: a response in chunks of one
byte takes 2 µs a chunk, so 3 ms for this amount."""
READING_NS_MAX = 30_000_000
"""The CPU time that reading one response may take. A body of BODY_BYTES_MAX takes at most a third of it. In chunks of
one byte it would take seconds of the gateway's only thread, at the expense of everybody else's calls."""
REASON_MAX = 400
"""How many characters of the reason for a failure we pass on; a host's name alone may have 253."""
NO_ANSWER = "the server ended the connection without an answer; whether it carried the request out is not known"
AGAIN = "; with retry, the request is sent once more if that happens on a connection that was kept"
_REDIRECTS = (301, 302, 303, 307, 308)

_ERRORS = (aiohttp.ClientError, OSError, ValueError, asyncio.IncompleteReadError)
"""What aiohttp raises. A TimeoutError is an OSError, but ours are no exceptions of aiohttp's."""

Resolve = Callable[[str, int], Awaitable[list[str]]]
MayHop = Callable[[], Awaitable[None]]
"""Awaited before each further request of a fetch; raises if that request is not allowed."""


async def system_resolve(host: str, port: int) -> list[str]:
    """Every address that the system's resolver returns for ``host``. Raises OSError."""
    # RFC 6761: these names mean the loopback and are never sent to DNS
    if host == "localhost" or host.endswith(".localhost"):
        return ["127.0.0.1"]
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _Resolver(AbstractResolver):
    """Gives aiohttp the addresses that we resolved and checked. aiohttp itself resolves and caches nothing."""

    def __init__(self, resolve: Resolve, reach: Reach) -> None:
        self._resolve = resolve
        self._reach = reach

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
                      ) -> list[ResolveResult]:
        """The addresses of ``host``, each of them allowed. Raises ApiFailure, OSError."""
        addresses = await self._resolve(host, port)
        for address in addresses:
            self._reach.check(host, port, address)
        return [ResolveResult(hostname=host, host=address, port=port, proto=0, flags=socket.AI_NUMERICHOST,
                              family=socket.AF_INET6 if ":" in address else socket.AF_INET) for address in addresses]

    async def close(self) -> None:
        """Does nothing: there is nothing to release."""


class _Metered(ResponseHandler):
    """A connection that charges its reading to the call that waits for the response, reads in small pieces, and stops
    at a limit."""

    _cost: Cost | None = None
    _reading_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Limits how much is read at once, also of the data that TLS has decrypted."""
        reading: list[Any] = [transport, getattr(transport, "_ssl_protocol", None)]
        for reads in reading:
            if hasattr(reads, "max_size"):
                reads.max_size = PIECE_BYTES
        super().connection_made(transport)

    def set_response_params(self, **params: Any) -> None:
        """Called when a request is sent, in the task of its call."""
        self._cost, self._reading_ns = COST.get(), 0
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Counts the time that the reading takes, and ends the connection if it takes too much."""
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


class _Sending:
    """Holds aiohttp to one attempt: left to itself, it repeats GET, HEAD, PUT and DELETE if the connection ended."""

    def __init__(self) -> None:
        self.is_kept = False
        """Whether the request went out on a connection that was kept from an earlier one."""
        self._count = 0

    async def one(self, *, kept: bool) -> None:
        """Called before the request is sent. Raises ApiFailure the second time."""
        self._count += 1
        if self._count > 1:
            raise ApiFailure("fetch_failed", NO_ANSWER)
        self.is_kept = kept


async def _on_kept(_session: aiohttp.ClientSession, context: Any, _params: Any) -> None:
    await context.trace_request_ctx.one(kept=True)


async def _on_new(_session: aiohttp.ClientSession, context: Any, _params: Any) -> None:
    await context.trace_request_ctx.one(kept=False)


class Fetcher:
    """All requests of all plugins. ``allow`` is the operator's list, ``internal`` the networks of its own hosts;
    ``ca_file`` holds authorities that count in addition to the system's. Tests replace ``resolve``.

    Raises ApiFailure if ``ca_file`` cannot be used."""

    def __init__(self, allow: list[str], allow_loopback: bool, resolve: Resolve = system_resolve, *,
                 internal: Mapping[str, list[str]] | None = None, ca_file: str = "") -> None:
        self._allow = tuple(allow)
        self._reach = Reach(allow_loopback, internal or {})
        connector = aiohttp.TCPConnector(
            resolver=_Resolver(resolve, self._reach), use_dns_cache=False, limit=CONNECTIONS_MAX,
            limit_per_host=CONNECTIONS_PER_HOST_MAX, keepalive_timeout=KEEP_SECONDS, ssl=trusting(ca_file))
        made: Any = connector  # aiohttp has no public way to set the protocol class of a connection
        made._factory = functools.partial(_Metered, loop=asyncio.get_running_loop())
        counting = aiohttp.TraceConfig()
        counting.on_connection_reuseconn.append(_on_kept)
        counting.on_connection_create_start.append(_on_new)
        self._session = aiohttp.ClientSession(
            connector=connector, trace_configs=[counting], trust_env=False, auto_decompress=False,
            read_bufsize=PIECE_BYTES, cookie_jar=aiohttp.DummyCookieJar(), max_line_size=8190, max_field_size=8190,
            skip_auto_headers=("Content-Type",),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            headers={"User-Agent": f"apex-exec/{__version__}", "Accept-Encoding": ", ".join(codings())})

    async def close(self) -> None:
        """Closes every connection."""
        await self._session.close()

    async def fetch(self, request: Fetch, named: tuple[str, ...], may_hop: MayHop, secrets: Secrets = ()
                    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """(``{status, headers, body, raw?}``, facts for the audit record). Raises ApiFailure. The caller bounds the
        time, and so does the request's own ``timeout_ms``.

        ``may_hop`` is awaited before each redirect is followed and before a request is repeated. ``secrets`` are those
        that are added to requests to their hosts.
        """
        seconds = None if request.timeout_ms is None else request.timeout_ms / 1000
        try:
            async with asyncio.timeout(seconds) as bound:
                return await self._follow(request, named, may_hop, secrets)
        except TimeoutError:
            if not bound.expired():
                raise
            raise ApiFailure("fetch_timeout", f"no whole answer within {request.timeout_ms:g} ms; whether the server "
                                              "carried the request out is not known") from None

    async def _follow(self, request: Fetch, named: tuple[str, ...], may_hop: MayHop, secrets: Secrets
                      ) -> tuple[dict[str, Any], dict[str, Any]]:
        method = request.method.upper()
        headers = urls.check_headers(method, request.headers)
        body = _body(request.body, headers)
        url = urls.parse(request.url)
        injection = Injection(secrets, url, headers, plain=self._reach.is_internal(url.raw_host or "", url.port or 0))
        try:
            return await self._hops(request, named, may_hop, method, headers, body, url, injection)
        except ApiFailure as failure:
            raise ApiFailure(failure.code, injection.removed_name(failure.message), failure.retry_after_ms) from None

    async def _hops(self, request: Fetch, named: tuple[str, ...], may_hop: MayHop, method: str, headers: dict[str, str],
                    body: bytes | None, url: URL, injection: Injection) -> tuple[dict[str, Any], dict[str, Any]]:
        facts: dict[str, Any] = {"host": url.raw_host, "httpMethod": method}
        if injection.names:
            facts["secrets"] = ", ".join(injection.names)
        for hop in range(REDIRECTS_MAX + 1):
            self._check(url, named)
            if hop:
                await may_hop()
            response = await self._send(method, url, injection.added(url, method, headers), body,
                                        may_hop if request.retry else None, quotes=not injection.names)
            try:
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or location is None:
                    reply = await _read(response, request.read_as, injection)
                    facts.update(status=response.status, redirects=hop)
                    return reply, facts
            except _ERRORS as error:
                raise _failure(error, url, quotes=not injection.names) from None
            finally:
                response.close()  # does nothing if the body was read to its end, and the connection is kept
            status = response.status
            target = urls.redirected(url, location)
            if status == 303 or (status in (301, 302) and method == "POST"):
                method, body = ("HEAD" if method == "HEAD" else "GET"), None
                headers = {name: value for name, value in headers.items()
                           if not name.lower().startswith("content-")}
            if target.origin() != url.origin():
                headers = {name: value for name, value in headers.items()
                           if name.lower() not in ("authorization", "cookie")}
            url = target
        raise ApiFailure("redirect_limit", f"the server sent more than {REDIRECTS_MAX} redirects; request the final "
                                           "address")

    async def _send(self, method: str, url: URL, headers: dict[str, str], body: bytes | None, may_repeat: MayHop | None,
                    *, quotes: bool) -> aiohttp.ClientResponse:
        """The response as soon as its head is there. Raises ApiFailure, which has what the server sent if ``quotes``.

        With ``may_repeat`` the request is sent once more if the kept connection, on which it went out, ends before."""
        for is_again in (False, True):
            sending = _Sending()
            try:
                return await self._session.request(method, url, headers=headers, data=body, allow_redirects=False,
                                                   trace_request_ctx=sending)
            except _ERRORS as error:
                failure = _failure(error, url, quotes=quotes)
                ended = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError) and not isinstance(
                    error, aiohttp.ClientConnectorError)
            except ApiFailure as refused:
                failure, ended = refused, refused.message == NO_ANSWER
            if not ended:
                raise failure
            if may_repeat is None or not sending.is_kept or is_again:
                raise ApiFailure("fetch_failed", NO_ANSWER + AGAIN * (may_repeat is None and sending.is_kept))
            await may_repeat()
        raise AssertionError  # the second attempt returned or raised

    def _check(self, url: URL, named: tuple[str, ...]) -> None:
        """Both lists must name the host. An address in place of a name is checked here; a name is checked when it is
        resolved."""
        host, port = url.raw_host or "", url.port or 0
        if not urls.is_listed(host, port, url.scheme, named, any_port=True):
            raise ApiFailure("host_not_allowed", f"the manifest's network.allow does not name {host}")
        if not urls.is_listed(host, port, url.scheme, self._allow, any_port=False):
            raise ApiFailure("host_not_allowed", f"the operator's fetch.allow does not name {host} (port {port})")
        if ":" in host or host.replace(".", "").isdigit():
            self._reach.check(host, port, host)  # aiohttp does not ask a resolver about an address


def _body(body: Any, headers: dict[str, str]) -> bytes | None:
    """The request's body. Its type is added to ``headers`` if the plugin set none."""
    if body is None or isinstance(body, bytes):
        return body
    if isinstance(body, str):
        kind, raw = "text/plain; charset=utf-8", body.encode()
    else:
        try:
            kind, raw = "application/json", json.dumps(body, allow_nan=False).encode()
        except (TypeError, ValueError):
            raise ApiFailure("invalid_params", "the body must be text, bytes or a JSON value") from None
    if not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = kind
    return raw


def trusting(ca_file: str) -> ssl.SSLContext:
    """What a server's certificate has to be: the host's own, valid now, and from an authority of the system or of
    ``ca_file``. Raises ApiFailure."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(("http/1.1",))
    if ca_file:
        try:
            context.load_verify_locations(cafile=ca_file)
        except OSError as error:  # an SSLError is one, too
            raise ApiFailure("fetch_failed", f"fetch.ca_file, {ca_file}, cannot be used: {error}") from None
    return context


async def _read(response: aiohttp.ClientResponse, asked: str, injection: Injection) -> dict[str, Any]:
    headers: dict[str, str] = {}
    size = 0
    for count, (name, value) in enumerate(response.headers.items()):
        size += len(name) + len(value)
        if size > HEADER_BYTES_MAX or count >= HEADERS_MAX:
            raise ApiFailure("too_large", f"the response has over {HEADERS_MAX} headers or {HEADER_BYTES_MAX} bytes")
        key, value = injection.removed_name(name.lower()), injection.removed(_one_text(value))
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    decompressor = Decompressor(headers.get("content-encoding", ""))
    body = bytearray()
    received = 0
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        received += len(chunk)
        body += decompressor.feed(chunk, BODY_BYTES_MAX + 1 - len(body))
        if received > BODY_BYTES_MAX or len(body) > BODY_BYTES_MAX:
            response.close()
            raise ApiFailure("too_large", f"the response is larger than {BODY_BYTES_MAX} bytes, which is the limit")
    decompressor.end()
    read = read_body(injection.removed_bytes(bytes(body)), headers.get("content-type", ""), asked)
    return {"status": response.status, "headers": headers, **injection.removed_read(read)}


def _one_text(value: str) -> str:
    """A header's value as text. aiohttp decodes UTF-8 and marks each byte that is not UTF-8; then we decode Latin-1."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogateescape").decode("latin-1")
    return value


def _failure(error: BaseException, url: URL, *, quotes: bool) -> ApiFailure:
    """Why a request failed. Not ``quotes``: without the bytes of an answer that is not HTTP, in whose middle half a
    secret could stand."""
    cause: BaseException | None = error
    while cause is not None:  # aiohttp wraps the exceptions of the resolver and of TLS
        if isinstance(cause, ApiFailure):
            return ApiFailure(cause.code, cause.message)
        if isinstance(cause, aiohttp.ClientConnectorCertificateError):
            why = getattr(cause.certificate_error, "verify_message", cause.certificate_error)
            return ApiFailure("fetch_failed", f"the certificate of {url.raw_host} is not accepted: {why}"[:REASON_MAX])
        if isinstance(cause, ssl.SSLError):
            return ApiFailure("fetch_failed", f"no TLS with {url.raw_host}: {cause.reason or cause}"[:REASON_MAX])
        cause = cause.__cause__ or cause.__context__
    text = str(error).split("\n")[0][:REASON_MAX]
    if "Got more than" in text or "too large" in text.lower() or "Too many" in text:
        return ApiFailure("too_large", "the response's head is too large")
    if not quotes and not isinstance(error, OSError):
        text = "the answer is not HTTP as this client takes it, and is not shown, since it may repeat a secret setting"
    return ApiFailure("fetch_failed", f"{type(error).__name__}: {text}" if text else type(error).__name__)
