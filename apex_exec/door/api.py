"""What each address of the door does. Every handler gets a request and raises Problem for whatever is wrong with it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec
from aiohttp import StreamReader, web
from aiohttp.web_request import BaseRequest

from apex_exec.client.protocol import DEFAULT_DEADLINE_MS, GRACE_MS
from apex_exec.common.listening import forwarded_by_https
from apex_exec.door import answers, bodies, openapi, values
from apex_exec.door.answers import Answer, Problem, answer_of
from apex_exec.door.audit_stream import AuditStreams
from apex_exec.door.callers import AUDIT, DISPATCH, INVOKE, PLUGINS, Caller, Shares
from apex_exec.door.daemon_link import DaemonLink
from apex_exec.door.identity import Identity
from apex_exec.door.keyed_calls import KeyedCalls
from apex_exec.door.place import Place
from apex_exec.errors import Code, WireError

BODY_SECONDS = 20.0
"""How long a body may take to arrive."""
DEADLINE_HEADER = "Deadline-Ms"
KEY_HEADER = "Idempotency-Key"
DEADLINE_MS_MAX = 86_400_000
Handler = Callable[[BaseRequest], Awaitable[web.StreamResponse]]


class Api:
    """``respond`` answers every request. ``calls`` keeps answers for those that have an ``Idempotency-Key``."""

    def __init__(self, daemon: DaemonLink, identity: Identity, calls: KeyedCalls, place: Place, in_flight_max: int,
                 streams: AuditStreams) -> None:
        self._daemon = daemon
        self._identity = identity
        self._calls = calls
        self._place = place
        self._in_flight = Shares(in_flight_max)
        self._named: dict[tuple[str, int | str], _Pending] = {}
        """Calls that a caller has named, so that the same caller can cancel them."""
        self._streams = streams
        self.is_ending = False
        self._document = msgspec.json.encode(openapi.document())
        self._routes: dict[str, tuple[str, Handler]] = {
            "/v1/invoke": ("POST", self._invoke), "/v1/dispatch": ("POST", self._dispatch),
            "/v1/cancel": ("POST", self._cancel), "/v1/plugins": ("GET", self._plugins),
            "/v1/audit": ("GET", self._audit), "/v1/openapi.json": ("GET", self._openapi),
            "/livez": ("GET", self._livez), "/readyz": ("GET", self._readyz)}

    async def respond(self, request: BaseRequest) -> web.StreamResponse:
        """The answer to any request; never raises but for a caller that leaves."""
        try:
            made = await self._route(request)
        except Problem as problem:
            made = answers.of_problem(request, problem)
        except WireError as error:
            made = answers.of_problem(request, answers.of_wire(error))
        if self.is_ending and not made.prepared:
            made.force_close()
        return made

    async def _route(self, request: BaseRequest) -> web.StreamResponse:
        method, handler = self._routes.get(request.path, ("", None))
        if handler is None:
            raise Problem(Code.NOT_FOUND, "this address does not exist; /v1/openapi.json lists all addresses")
        if request.method != method and not (method == "GET" and request.method == "HEAD"):
            raise Problem(Code.PROTOCOL_ERROR, f"this address accepts {method} requests only", status=405,
                          headers={"Allow": method})
        if "Expect" in request.headers:
            raise Problem(Code.PROTOCOL_ERROR, "the header Expect is not supported; send the body at once, without "
                                               "it", status=417)
        if self._place.proxy:
            if request.remote != self._place.proxy:
                raise Problem(Code.FORBIDDEN, "this door answers requests from its proxy only (door.trusted_proxy); "
                                              "send them there", status=421)
            if not forwarded_by_https(request.headers.getall("X-Forwarded-Proto", [])):
                raise Problem(Code.FORBIDDEN, "the request did not reach the proxy by https; use https, and have the "
                                              "proxy set X-Forwarded-Proto")
        return await handler(request)

    # ------------------------------------------------------------------ calls
    async def _invoke(self, request: BaseRequest) -> web.StreamResponse:
        caller = await self._identity.of(request)
        caller.need(INVOKE)
        body = bodies.checked(await self._body(request, caller), bodies.InvokeBody)
        caller.check_plugin(body.plugin)
        return await self._run(request, caller, body, {"type": "invoke", "plugin": body.plugin})

    async def _dispatch(self, request: BaseRequest) -> web.StreamResponse:
        caller = await self._identity.of(request)
        caller.need(DISPATCH)
        if caller.plugins:
            raise Problem(Code.FORBIDDEN, "a dispatch reaches every plugin, and this token is limited to some; use a "
                                          "token without `plugins`",
                          reason="plugin_not_in_token")
        body = bodies.checked(await self._body(request, caller), bodies.DispatchBody)
        return await self._run(request, caller, body, {"type": "dispatch"})

    async def _run(self, request: BaseRequest, caller: Caller, body: Any, head: dict[str, Any]) -> web.StreamResponse:
        caller.check_hook(body.action)
        message = {**head, "action": body.action, "userId": caller.acts_as(bodies.given(body.user_id))}
        if body.payload is not msgspec.UNSET:
            message["payload"] = body.payload
        deadline_ms = _deadline(request, bodies.given(body.deadline_ms))
        trace = bodies.given(body.traceparent) or request.headers.get("traceparent")
        name = bodies.given(body.id)
        key = _key(request)
        if key is None:
            answer = await self._named_call(caller, name, self._call(caller, message, deadline_ms, trace))
        else:
            answer = await self._calls.answer(
                caller.key, key, _digest(message), lambda: self._named_call(
                    caller, name, self._call(caller, message, deadline_ms, trace)))
        with self._paid_by(caller):
            return answers.of_answer(request, answer)

    @contextlib.contextmanager
    def _paid_by(self, caller: Caller) -> Iterator[None]:
        """What is done here for a request, without waiting, is charged to its caller: all callers share one thread."""
        begun = time.thread_time()
        try:
            yield
        finally:
            self._identity.spent(caller, time.thread_time() - begun)

    async def _call(self, caller: Caller, message: dict[str, Any], deadline_ms: int, trace: str | None) -> Answer:
        """One call to the daemon; what goes wrong there is an answer too."""
        if not self._in_flight.take(caller.key):
            return answer_of(answers.busy("the door has as many calls under way as it may, or this caller has as many "
                                          "as are left for all others", "door_full"))
        message = {**message, "deadlineMs": deadline_ms, **({"traceparent": trace} if trace else {})}
        try:
            reply = await self._daemon.call(message, deadline_ms + GRACE_MS)
        except Problem as problem:
            return answer_of(problem)
        finally:
            self._in_flight.give_back(caller.key)
        del reply["id"]
        with self._paid_by(caller):
            return Answer(200, values.encode(reply), answers.JSON, {})

    async def _named_call(self, caller: Caller, name: int | str | None, call: Any) -> Answer:
        """``call`` (a coroutine), which the caller may cancel under ``name`` until it has been answered."""
        if name is None:
            answer: Answer = await call
            return answer
        at = caller.key, name
        if at in self._named:
            call.close()
            raise Problem(Code.DUPLICATE_ID, "a call with this id is pending", details={"id": name})
        task = asyncio.ensure_future(call)
        pending = self._named[at] = _Pending(task)
        try:
            answer = await task
            return answer
        except asyncio.CancelledError:
            if not pending.cancelled:  # the caller has left
                task.cancel()
                raise
            return answer_of(Problem(Code.CANCELLED, "its caller has cancelled the call", started=True))
        finally:
            del self._named[at]

    async def _cancel(self, request: BaseRequest) -> web.StreamResponse:
        caller = await self._identity.of(request)
        if not caller.scopes & {INVOKE, DISPATCH}:
            caller.need(INVOKE)
        target = bodies.checked(await self._body(request, caller), bodies.CancelBody).target
        pending = self._named.get((caller.key, target))
        if pending is not None:
            pending.cancelled = True
            pending.task.cancel()
        return answers.response(request, 200, values.encode(
            {"type": "cancelled", "target": target, "found": pending is not None}), answers.JSON)

    async def _plugins(self, request: BaseRequest) -> web.StreamResponse:
        caller = await self._identity.of(request)
        caller.need(PLUGINS)
        named = request.query.get("userId")
        user = caller.acts_as(named) if named is not None or not caller.act_as else None
        reply = await self._daemon.call(
            {"type": "plugins"} if user is None else {"type": "plugins", "userId": user}, DEFAULT_DEADLINE_MS)
        listed = [row for row in reply["plugins"] if not caller.plugins or row["id"] in caller.plugins]
        return answers.response(request, 200, values.encode({"type": "plugins", "plugins": listed}), answers.JSON)

    async def _audit(self, request: BaseRequest) -> web.StreamResponse:
        caller = await self._identity.of(request)
        caller.need(AUDIT)
        if caller.plugins or caller.hooks:
            raise Problem(Code.FORBIDDEN, "the ledger has the records of every plugin, and this token is limited to "
                                          "some; use a token without `plugins`",
                          reason="plugin_not_in_token")
        return await self._streams.follow(request, caller)

    # ------------------------------------------------------------------ what needs no token
    async def _openapi(self, request: BaseRequest) -> web.StreamResponse:
        return answers.response(request, 200, self._document, answers.JSON)

    async def _livez(self, request: BaseRequest) -> web.StreamResponse:
        return answers.response(request, 200, b'{"status":"ok"}', answers.JSON)

    async def _readyz(self, request: BaseRequest) -> web.StreamResponse:
        if self.is_ending:
            raise Problem(Code.SHUTTING_DOWN, "the door is shutting down; try again in a second", reason="ending",
                          headers={"Retry-After": "1"})
        if not self._daemon.is_there:
            raise answers.away("the door has no connection to it, since it is starting or has ended")
        return answers.response(request, 200, b'{"status":"ok"}', answers.JSON)

    # ------------------------------------------------------------------ the body
    async def _body(self, request: BaseRequest, caller: Caller) -> dict[str, Any]:
        """The object in a request's body. Raises Problem, WireError."""
        if request.content_type != answers.JSON:
            raise Problem(Code.PROTOCOL_ERROR, "the Content-Type must be application/json", status=415)
        encoding = request.headers.get("Content-Encoding", "identity").lower()
        if encoding not in ("identity", "gzip"):
            raise Problem(Code.PROTOCOL_ERROR, "the only Content-Encoding that is supported is gzip", status=415,
                          headers={"Accept-Encoding": "gzip"})
        bytes_max = self._daemon.host.max_message_bytes
        try:
            raw = await asyncio.wait_for(_read(request.content, bytes_max, request.content_length), BODY_SECONDS)
        except TimeoutError:
            raise Problem(Code.PROTOCOL_ERROR, f"the body took longer than {BODY_SECONDS:g} s", status=408,
                          headers={"Connection": "close"}) from None
        except (web.RequestPayloadError, ConnectionError):  # the caller may have left: nobody reads this then
            raise Problem(Code.PROTOCOL_ERROR, "the body is shorter than its Content-Length") from None
        with self._paid_by(caller):
            return values.decode(_inflated(raw, bytes_max) if encoding == "gzip" else raw)


class _Pending:
    __slots__ = ("cancelled", "task")

    def __init__(self, task: asyncio.Future[Answer]) -> None:
        self.task = task
        self.cancelled = False


async def _read(content: StreamReader, bytes_max: int, length: int | None) -> bytes:
    if length is not None and length > bytes_max:
        raise _too_large(bytes_max)
    parts: list[bytes] = []
    size = 0
    while part := await content.readany():
        parts.append(part)
        size += len(part)
        if size > bytes_max:
            raise _too_large(bytes_max)
    return b"".join(parts)


def _inflated(raw: bytes, bytes_max: int) -> bytes:
    inflater = zlib.decompressobj(wbits=31)
    with contextlib.suppress(zlib.error):
        plain = inflater.decompress(raw, bytes_max + 1)
        if len(plain) > bytes_max:
            raise _too_large(bytes_max)
        if inflater.eof and not inflater.unused_data:
            return plain
    raise Problem(Code.PROTOCOL_ERROR, "Content-Encoding says gzip, and the body is not valid gzip data")


def _too_large(bytes_max: int) -> Problem:
    return Problem(Code.PAYLOAD_TOO_LARGE, f"the body is larger than {bytes_max} bytes, which is the limit of a "
                                           "request", headers={"Connection": "close"})


def _deadline(request: BaseRequest, said: int | None) -> int:
    """The nearer one of header and body; without either the protocol's own."""
    header = request.headers.get(DEADLINE_HEADER)
    if header is not None:
        if not (header.isascii() and header.isdigit() and int(header[:20]) >= 1):
            raise Problem(Code.INVALID_INPUT, f"{DEADLINE_HEADER} must be a number of milliseconds, 1 or greater",
                          details={"path": DEADLINE_HEADER})
        said = min(int(header[:20]), said or DEADLINE_MS_MAX)
    return min(said, DEADLINE_MS_MAX) if said is not None else DEFAULT_DEADLINE_MS


def _key(request: BaseRequest) -> str | None:
    said = request.headers.getall(KEY_HEADER, [])
    if not said:
        return None
    if len(said) > 1 or not 1 <= len(said[0]) <= 255 or not said[0].isascii() or not said[0].isprintable():
        raise Problem(Code.INVALID_INPUT, f"{KEY_HEADER} must be one word of 1 to 255 printable ASCII characters",
                      details={"path": KEY_HEADER})
    return said[0]


def _digest(message: dict[str, Any]) -> bytes:
    """Of all that says what is run, and for whom; not of the deadline, the trace and the id, which a second attempt may
    have others of."""
    return hashlib.sha256(msgspec.msgpack.encode(message, order="sorted")).digest()
