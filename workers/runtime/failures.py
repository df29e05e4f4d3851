"""Turns an exception of a plugin into a message; neither its class nor its text can break the answer."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

from workers import sdk, wire
from workers.runtime.interface import Thrown

_FOLDERS = (sys.prefix, sys.base_prefix, os.path.dirname(os.path.dirname(os.path.dirname(__file__))), *sys.path)
_PLACES = sorted({f"{folder.rstrip('/')}/" for folder in _FOLDERS if len(folder) > 1}, key=len)[::-1]
"""The folders of the interpreter and of this project, the longest first: a host need not know them."""

_type_name = type.__dict__["__name__"].__get__
NAME_CHARS_MAX = 200
TEXT_CHARS_MAX = 1000
FRAMES_MAX = 64


def raised(seq: int, error: BaseException, cpu_ns: int) -> wire.Raised:
    """The answer to call ``seq``, whose hook raised ``error``."""
    answer = wire.Raised(seq, name_of(error), text_of(error), trace_of(error), cpu_ns)
    answer.memory = issubclass(type(error), MemoryError)
    if issubclass(type(error), sdk.ApiError):
        try:
            answer.api_code, answer.api_method = str(error.code)[:64], str(error.method)[:200]  # type: ignore[attr-defined]  # an ApiError's
            answer.retry_after_ms = max(0, min(int(error.retry_after_ms), 3_600_000))  # type: ignore[attr-defined]  # an ApiError's
        except BaseException:
            answer.api_code = answer.api_method = ""
    return answer


def thrown(seq: int, error: Thrown, cpu_ns: int) -> wire.Raised:
    """The answer to call ``seq``, whose hook threw ``error`` in another language than Python."""
    code, method, retry_after_ms = error.api
    return wire.Raised(seq, error.name[:NAME_CHARS_MAX], error.text[:TEXT_CHARS_MAX], error.trace, cpu_ns, code[:64],
                       method[:200], max(0, min(retry_after_ms, 3_600_000)), error.memory)


def unsendable(seq: int, error: sdk.InvalidOutput, cpu_ns: int) -> wire.BadOutput:
    """The answer to call ``seq``, whose hook did not handle the refusal of a value. The error may be of the plugin's
    own class, so we do not use its members: ``path`` is read from its text."""
    text = text_of(error)
    path, colon, why = text.partition(": ")
    return wire.BadOutput(seq, path[:NAME_CHARS_MAX], why, cpu_ns) if colon and path.startswith("$") else (
        wire.BadOutput(seq, "$", text, cpu_ns))


def name_of(error: BaseException) -> str:
    """The class's real name, whatever a metaclass pretends."""
    return str(_type_name(type(error)))[:NAME_CHARS_MAX]


def text_of(error: BaseException) -> str:
    """``str(error)``, cut. A hostile ``__str__`` yields a placeholder."""
    try:
        return _without_places("".join(str(error)[:TEXT_CHARS_MAX]).encode("utf-8", "replace").decode())
    except BaseException:
        return "(the exception's text is unavailable)"


def _without_places(text: str) -> str:
    """``text`` without the machine's folders, which "cannot import name … from … (path)" reveals."""
    for place in _PLACES:
        text = text.replace(place, "")
    return text


def trace_of(error: BaseException) -> str:
    """The traceback with its causes: only the plugin's own frames, cut from the front to the protocol's size."""
    try:
        told = traceback.TracebackException(type(error), error, error.__traceback__, limit=-FRAMES_MAX,
                                            lookup_lines=False)
        _own_frames(told, 0)
        text = _without_places("".join(told.format()))
        return text.encode("utf-8", "replace")[-wire.TRACEBACK_BYTES_MAX :].decode("utf-8", "replace")
    except BaseException:
        return ""


def _own_frames(told: Any, depth: int) -> None:
    frames = [frame for frame in told.stack if frame.filename[:1] not in ("/", "<")]
    told.stack = traceback.StackSummary.from_list(frames)
    for other in (told.__cause__, told.__context__):
        if other is not None and depth < 8:
            _own_frames(other, depth + 1)
