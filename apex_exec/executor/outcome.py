"""Turns a verdict of the core into what the host sees: code, message, details, usage. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from apex_exec.core.actions import Verdict
from apex_exec.errors import WireError
from apex_exec.observe.logs import escape
from apex_exec.wire import hooks
from apex_exec.wire import messages as msg
from workers import wire as inner

MESSAGE_CHARS_MAX = 500
PATH_CHARS_MAX = 200
RAISED_CODES = {"permission_denied": "PERMISSION_DENIED", "rate_limited": "RATE_LIMITED",
                "not_provided": "NOT_PROVIDED", "deadline_exceeded": "TIMEOUT"}
"""What a refused API call that a hook does not handle makes of the hook's outcome. (TIMEOUT: the hook was notified a
little before its own end, and has run.) Any other code is PLUGIN_ERROR with ``apiCode``, and so is a code that no API
call of that invocation was refused with."""


RETRY_MS_MAX = 60_000
"""The longest wait that an API call can have reported to a hook: the window that its rate is counted in."""


_JS_FRAME = re.compile(r"^ {2,16}at (?:([^\n(]{1,100}) \()?([^\s():]{1,200}):([0-9]{1,7}:[0-9]{1,7})\)?$", re.MULTILINE)
"""A line of a JavaScript engine's stack, which begins with the innermost call."""
_FRAME = re.compile(r'^[ |+]*File "([^"\n]{1,200})", line ([0-9]{1,7})(?:, in ([^\n]{1,100}))?', re.MULTILINE)


PLACE_CHARS = 2048
"""How much of a traceback is searched for the plugin's own place, from the innermost frame on. The loop does this for
every failure: the worst text of this length takes 0.03 ms, four times as long for all 8 KiB. Twenty ordinary frames
fit."""


def at_place(text: str, traceback: str) -> str:
    """Returns ``text``, an exception, on one line of at most ``MESSAGE_CHARS_MAX``, with the file, line and function at
    which it was raised, as far as the plugin's traceback says. For a person who does not have the traceback."""
    text = one_line(text)
    frames = list(_FRAME.finditer(traceback[-inner.TRACEBACK_BYTES_MAX :]))
    if frames:
        path, line, function = frames[-1].groups()
    elif (first := _JS_FRAME.search(traceback[: inner.TRACEBACK_BYTES_MAX])) is not None:
        function, path, line = first.groups()
    else:
        return text[:MESSAGE_CHARS_MAX]
    place = f" (at {path}:{line}{f' in {function}' if function else ''})"
    return text[: max(0, MESSAGE_CHARS_MAX - len(place))] + one_line(place)


def own_place(traceback: str, plugin: str) -> str:
    """Returns ``file:line`` of the innermost frame of the plugin's own code, vendored packages apart if there is
    another; "" if a traceback names none. It is the plugin's word."""
    prefix, found = f"{plugin}/", ""
    frames = [(path, line) for path, line, _ in _FRAME.findall(traceback[-PLACE_CHARS :])][::-1]
    if not frames:
        frames = [(path, where.partition(":")[0]) for _, path, where in _JS_FRAME.findall(
            traceback[:PLACE_CHARS])]
    for path, line in frames:
        path = path.removeprefix(prefix)
        if not path.startswith(("vendor/", "node_modules/")):
            return f"{path}:{line}"
        found = found or f"{path}:{line}"
    return found


def cut_cpu_ns(claimed_ns: int, run_ns: int) -> int:
    """Returns the worker's own reading of its CPU time, cut to what one thread can use while its call runs."""
    return min(max(0, claimed_ns), run_ns)


def one_line(text: str) -> str:
    """Returns ``text``, which may be a plugin's, as hosts can show and log it: characters that do not print (line ends,
    terminal controls, direction marks) are written as escapes."""
    return text if text.isprintable() else escape(text)[:MESSAGE_CHARS_MAX]


class Settled(msgspec.Struct, gc=False):
    """``code`` is "" if there is a result that may be sent. ``usage`` is there on errors too."""

    code: str
    message: str
    details: dict[str, Any]
    usage: msg.Usage


def raised_code(message: inner.Raised, refused: Callable[[str], bool]) -> str:
    """Returns the wire code of a hook that raised. ``refused(code)`` says whether an API call of that invocation was
    refused with ``code``: a worker is believed about a refusal only if the supervisor made that refusal."""
    if message.memory:
        return "MEMORY_LIMIT"
    code = RAISED_CODES.get(message.api_code, "")
    return code if code and refused(message.api_code) else "PLUGIN_ERROR"


def settle(verdict: Verdict, memory_mb: float = 0.0, throttled_ns: int = 0, memory_mb_max: float = 0.0,
           checked: tuple[str, str, dict[str, Any]] | None = None,
           rendering: hooks.Rendering = hooks.ANYTHING) -> Settled:
    """Returns what ``verdict`` comes to. A result is held to the value rule, to its hook's schema and to ``rendering``
    here, unless it was ``checked`` elsewhere.

    ``memory_mb`` is the latest sample. A MemoryError that a hook raised is the hook's own claim, and marked as such in
    the details, unless that sample had reached ``memory_mb_max``.
    """
    usage = msg.Usage(queue_ms=verdict.queue_ns / 1e6, execution_time_ms=verdict.run_ns / 1e6, cold=verdict.cold,
                      memory_used_mb=memory_mb, throttled_ms=throttled_ns / 1e6)
    body = verdict.body
    if type(body) is inner.Reply:
        cpu_ns, run_ns = body.cpu_ns, verdict.run_ns
        usage.cpu_ms = (cpu_ns if 0 <= cpu_ns <= run_ns else cut_cpu_ns(cpu_ns, run_ns)) / 1e6
        if checked is None:
            try:
                hooks.check_result(verdict.hook, body.result, rendering)
            except WireError as error:
                return Settled(error.code, error.message, error.details, usage)
        elif checked[0]:
            return Settled(*checked, usage)
        return Settled(verdict.code, verdict.message, verdict.details, usage)
    code, message, details = verdict.code, verdict.message, verdict.details
    if isinstance(body, inner.Raised):
        usage.cpu_ms = cut_cpu_ns(body.cpu_ns, verdict.run_ns) / 1e6
        text = f"{body.exception}: {body.message}" if body.message else body.exception
        message = text[:MESSAGE_CHARS_MAX]
        details = {"exception": one_line(body.exception[:PATH_CHARS_MAX]),
                   "traceback": body.traceback[: inner.TRACEBACK_BYTES_MAX]}
        if body.api_code:
            details["apiCode"] = body.api_code[:64]
        if body.api_method:
            details["method"] = body.api_method[:64]
        if (code == "PLUGIN_ERROR" and body.api_code in RAISED_CODES) or (
                code == "MEMORY_LIMIT" and memory_mb < memory_mb_max):
            details["claimed"] = True
        elif body.retry_after_ms:  # the worker's word: it may be no number that a host can hold
            details["retryAfterMs"] = min(max(0, body.retry_after_ms), RETRY_MS_MAX)
    elif isinstance(body, inner.BadInput):
        usage.cpu_ms = cut_cpu_ns(body.cpu_ns, verdict.run_ns) / 1e6
        message = f"payload: {body.message}"[:MESSAGE_CHARS_MAX]
        details = {"path": "$.payload"} if code == "INVALID_INPUT" else {"claimed": True}
    elif isinstance(body, inner.BadOutput):
        usage.cpu_ms = cut_cpu_ns(body.cpu_ns, verdict.run_ns) / 1e6
        message = f"{body.path}: {body.message}"[:MESSAGE_CHARS_MAX]
        details = {"path": body.path[:PATH_CHARS_MAX]}
    return Settled(code, one_line(message), details, usage)
