"""Answers of the door: results, and problem details (RFC 9457) with the protocol's codes and ``retryable``."""

from __future__ import annotations

import gzip
from typing import Any, NamedTuple

from aiohttp import web
from aiohttp.web_request import BaseRequest

from apex_exec.client.errors import CONNECTION_LOST, CallError, ConnectionLost
from apex_exec.door import values
from apex_exec.errors import Code, WireError, is_retryable

JSON, PROBLEM = "application/json", "application/problem+json"
TYPE = "urn:apex-exec:problem:"
GZIP_BYTES_MIN = 1024
"""A smaller answer would not become smaller."""
GZIP_LEVEL = 1
"""The loop waits for it: a megabyte takes ten milliseconds, and the higher levels several times that."""
RETRY_SECONDS = 1
STATUS: dict[str, int] = {
    Code.PROTOCOL_ERROR: 400, Code.DUPLICATE_ID: 409, Code.PAYLOAD_TOO_LARGE: 413, Code.INVALID_INPUT: 400,
    Code.PLUGIN_NOT_FOUND: 404, Code.HOOK_NOT_DECLARED: 404, Code.UNSUPPORTED_PROTOCOL: 400,
    Code.PLUGIN_DISABLED: 403, Code.OVERLOADED: 503, Code.DEADLINE_EXCEEDED: 504, Code.TIMEOUT: 504,
    Code.MEMORY_LIMIT: 502, Code.CPU_LIMIT: 502, Code.WORKER_CRASHED: 502, Code.BOOT_FAILED: 502,
    Code.QUARANTINED: 503, Code.PLUGIN_ERROR: 502, Code.WORKER_VIOLATION: 502, Code.INVALID_OUTPUT: 502,
    Code.PERMISSION_DENIED: 502, Code.RATE_LIMITED: 502, Code.NOT_PROVIDED: 502, Code.AUDIT_UNAVAILABLE: 503,
    Code.NOT_FOUND: 404, Code.CONFLICT: 409, Code.REFUSED: 422, Code.FORBIDDEN: 403, Code.CANCELLED: 409,
    Code.SHUTTING_DOWN: 503, Code.INTERNAL: 500, CONNECTION_LOST: 502}
"""Code → status of HTTP. What a plugin did wrong is 502, since the door stands before it; 503 and 429 say when to try
again."""
TITLES = {
    400: "The request is not valid", 401: "The caller is not known", 403: "This is not allowed",
    404: "This does not exist", 405: "There is no such method here", 408: "The request did not arrive in time",
    409: "This conflicts with another request", 413: "The request is too large", 415: "This type is not taken",
    417: "This expectation cannot be met", 421: "This is not the proxy", 422: "This was refused",
    429: "Too many requests", 500: "The door or the daemon failed", 502: "The call failed",
    503: "This cannot be done now", 504: "The call ran out of time"}


class Problem(Exception):
    """A request that ends with an error. ``status`` is that of the code unless it is named."""

    def __init__(self, code: str, detail: str, *, status: int = 0, reason: str = "", started: bool = False,
                 retryable: bool | None = None, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.code = str(code)
        self.status = status or STATUS.get(self.code, 502)
        self.detail = detail
        self.started = started
        if retryable is None:
            retryable = self.code != CONNECTION_LOST and is_retryable(self.code, started)
        self.retryable = retryable
        self.headers = headers or {}
        self.more = more
        if reason:
            self.more["details"] = {"reason": reason, **more.get("details", {})}

    def body(self) -> bytes:
        """The problem's JSON."""
        return values.encode({
            "type": f"{TYPE}{self.code}", "title": TITLES.get(self.status, "The request failed"),
            "status": self.status, "detail": self.detail, "code": self.code, "started": self.started,
            "retryable": self.retryable, **self.more})


class Answer(NamedTuple):
    """The answer to one call. ``is_known``: the outcome of the call is known; ``has_not_run``: it may be sent again."""

    status: int
    body: bytes
    content_type: str
    headers: dict[str, str]
    has_not_run: bool = False
    is_known: bool = True


def answer_of(problem: Problem) -> Answer:
    """A call that ended with a problem."""
    return Answer(problem.status, problem.body(), PROBLEM, problem.headers, problem.retryable,
                  problem.code != CONNECTION_LOST)


def of_call(error: CallError) -> Problem:
    """The daemon's own error."""
    reply = error.reply
    more = {key: reply[key] for key in ("plugin", "action", "details", "usage") if key in reply}
    headers: dict[str, str] = {}
    status = STATUS.get(error.code, 502)
    if status == 503:
        wait_ms = error.details.get("retryAfterMs")
        seconds = -(-wait_ms // 1000) if isinstance(wait_ms, int | float) and 0 < wait_ms < 1e9 else RETRY_SECONDS
        headers["Retry-After"] = str(int(seconds))
    return Problem(error.code, error.message, status=status, started=error.started, retryable=error.retryable,
                   headers=headers, **more)


def of_loss(error: ConnectionLost) -> Problem:
    """No answer will come."""
    if error.executed is False:
        return away(str(error))
    return Problem(CONNECTION_LOST, str(error), started=True, retryable=False)


def away(why: str) -> Problem:
    """The daemon is not there; nothing was run."""
    return Problem(Code.SHUTTING_DOWN, f"the daemon does not answer ({why}); try again in a few seconds",
                   reason="daemon_away", retryable=True, headers={"Retry-After": str(RETRY_SECONDS)})


def of_wire(error: WireError) -> Problem:
    """What was wrong with the request before it left."""
    made = Problem(error.code, error.message)
    if error.details:
        made.more["details"] = error.details
    return made


def busy(detail: str, reason: str, seconds: float = RETRY_SECONDS, status: int = 503) -> Problem:
    """Nothing was run; the same request may be sent again after ``seconds``."""
    return Problem(Code.OVERLOADED, detail, status=status, reason=reason, retryable=True,
                   headers={"Retry-After": str(int(seconds) + 1)})


def response(request: BaseRequest, status: int, body: bytes, content_type: str,
             headers: dict[str, str] | None = None) -> web.Response:
    """One answer, compressed if the caller takes that and it is worth it."""
    whole = {"Server": "apex-exec", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
             "Content-Type": content_type, **(headers or {})}
    if len(body) >= GZIP_BYTES_MIN:
        whole["Vary"] = "Accept-Encoding"
        if _takes_gzip(request.headers.get("Accept-Encoding", "")):
            body = gzip.compress(body, GZIP_LEVEL, mtime=0)
            whole["Content-Encoding"] = "gzip"
    return web.Response(status=status, body=body, headers=whole)


def of_answer(request: BaseRequest, answer: Answer) -> web.Response:
    """A call's answer as it goes out."""
    return response(request, answer.status, answer.body, answer.content_type, answer.headers)


def of_problem(request: BaseRequest, problem: Problem) -> web.Response:
    """A problem as an answer."""
    return response(request, problem.status, problem.body(), PROBLEM, problem.headers)


def _takes_gzip(accepted: str) -> bool:
    for one in accepted.lower().split(","):
        name, _, weight = one.partition(";")
        if name.strip() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
