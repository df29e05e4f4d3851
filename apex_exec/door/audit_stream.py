"""The ledger as server-sent events, or a page at a time: for a platform's own log of security events."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.web_request import BaseRequest

from apex_exec.door import answers
from apex_exec.door.answers import Problem
from apex_exec.door.callers import Caller, Shares
from apex_exec.door.daemon_link import DaemonLink
from apex_exec.errors import Code

STREAMS_MAX = 16
PAGE_EVENTS = 200
POLL_SECONDS = 2.0
"""How often a stream that has caught up looks again. Each look is on record."""
ALIVE_SECONDS = 15.0
WRITE_SECONDS = 30.0
"""How long a reader may leave what was sent to it unread."""
FILTERS = ("plugin", "user", "type", "result")
_encode = msgspec.json.Encoder().encode


class AuditStreams:
    """Every stream that is open. ``close`` ends them all."""

    def __init__(self, daemon: DaemonLink) -> None:
        self._daemon = daemon
        self._open = Shares(STREAMS_MAX)
        self._over = asyncio.Event()

    def close(self) -> None:
        """Ends every stream; its reader connects again, to the next door, and goes on where it was."""
        self._over.set()

    async def follow(self, request: BaseRequest, caller: Caller) -> web.StreamResponse:
        """Events after ``after`` (or after ``Last-Event-ID``) for as long as the reader stays; one page for a reader
        that does not ask for ``text/event-stream``. Raises Problem."""
        after, filter_ = _number(request), {name: request.query[name] for name in FILTERS if name in request.query}
        page = await self._daemon.audit(caller, after, PAGE_EVENTS, filter_)
        if "text/event-stream" not in request.headers.get("Accept", ""):
            return answers.response(request, 200, _encode(page), answers.JSON)
        if not self._open.take(caller.key):
            raise answers.busy(f"{STREAMS_MAX} readers follow the ledger already, or this one has as many streams as "
                               "are left for all others", "streams_full")
        try:
            response = web.StreamResponse(headers={
                "Content-Type": "text/event-stream", "Cache-Control": "no-store", "Server": "apex-exec",
                "X-Content-Type-Options": "nosniff", "X-Accel-Buffering": "no"})
            await response.prepare(request)
            await self._send(response, caller, filter_, after, page)
        finally:
            self._open.give_back(caller.key)
        return response

    async def _send(self, response: web.StreamResponse, caller: Caller, filter_: dict[str, Any], after: int,
                    page: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        said = loop.time()
        while True:
            text = _text(page, after)
            if text or loop.time() - said > ALIVE_SECONDS:
                try:
                    await asyncio.wait_for(response.write(text or b": alive\n\n"), WRITE_SECONDS)
                except (TimeoutError, ConnectionError):
                    return
                said = loop.time()
            after = page["next"]
            if self._over.is_set() or (after >= page["last"] and await self._ends_within(POLL_SECONDS)):
                return
            try:
                page = await self._daemon.audit(caller, after, PAGE_EVENTS, filter_)
            except Problem as problem:
                if problem.status != 503:
                    await response.write(b"event: problem\ndata: " + problem.body() + b"\n\n")
                    return
                page = {"events": [], "next": after, "first": after + 1, "last": after}  # it comes again

    async def _ends_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._over.wait(), seconds)
        except TimeoutError:
            return False
        return True


def _text(page: dict[str, Any], after: int) -> bytes:
    """Each event with its number as its id. ``gap`` says that events were removed, since their time was over, before
    this reader came to them."""
    parts = []
    if after and page["first"] > after + 1 and page["last"] > after:
        parts.append(b"event: gap\ndata: " + _encode({"after": after, "first": page["first"]}) + b"\n\n")
    for event in page["events"]:
        parts.append(b"id: %d\nevent: audit\ndata: " % event["seq"] + _encode(event) + b"\n\n")
    return b"".join(parts)


def _number(request: BaseRequest) -> int:
    said = request.headers.get("Last-Event-ID") or request.query.get("after", "0")
    if not (said.isascii() and said.isdigit() and len(said) <= 18):
        raise Problem(Code.INVALID_INPUT, "`after` must be the number of an event, or 0 for all events",
                      details={"path": "after"})
    return int(said)
