"""Turns what a plugin prints and logs into Log messages: whole lines, cut, limited and marked for each call."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from workers import wire

LINES_PER_CALL_MAX = 200
"""This limit only helps: the supervisor limits the lines per second itself, whatever a worker sends."""
LOADING = -1
"""What stands for the number of a call while the plugin loads, or its tests run."""


class Lines:
    """What one call has printed: how many lines it may still send, and the unfinished line of each stream."""

    __slots__ = ("left", "pending", "seq")

    def __init__(self, seq: int, left: int) -> None:
        self.seq = seq
        self.left = left
        self.pending: dict[str, str] = {}


_NOBODY = Lines(LOADING, 0)
_call: ContextVar[Lines] = ContextVar("apex-call", default=_NOBODY)
"""The output of the call that this code runs for. A task inherits it from the code that made the task."""


class Outlet:
    """Sends lines while the call that they belong to runs (or the plugin loads), each with its call. Afterwards it
    drops them, whatever runs by then.

    ``apart`` gives each call Lines of its own in the context that ``open`` is called in. Without it, which is cheaper,
    all calls take turns with the same: that is for plugins that have no event loop, where nothing outlives a call.
    """

    def __init__(self, send: Callable[[Any], None]) -> None:
        self._send = send
        self._only = Lines(LOADING, 0)
        _call.set(self._only)
        self.apart = False
        self.streams = (Stream("stdout", self), Stream("stderr", self))

    def open(self, seq: int) -> Lines:
        """The call ``seq`` begins: it may send LINES_PER_CALL_MAX lines. LOADING stands for the load."""
        if self.apart:
            lines = Lines(seq, LINES_PER_CALL_MAX)
            _call.set(lines)
            return lines
        lines = self._only
        lines.seq, lines.left = seq, LINES_PER_CALL_MAX
        return lines

    def close(self, lines: Lines) -> None:
        """The call ends: its unfinished lines are sent, and nothing more."""
        if lines.pending:
            for level, text in lines.pending.items():
                if text:
                    self._line(lines, level, text)
            lines.pending.clear()
        lines.left = 0

    def line(self, level: str, text: str) -> None:
        """Sends one line of the call that this code runs for, or drops it."""
        self._line(_call.get(), level, text)

    def write(self, level: str, text: str) -> None:
        """Sends each finished line of ``text``, and keeps at most one unfinished one for the call."""
        lines = _call.get()
        *whole, rest = (lines.pending.get(level, "") + text[: 1 << 20]).split("\n")
        for line in whole:
            self._line(lines, level, line)
        while len(rest) > wire.LOG_BYTES_MAX:
            self._line(lines, level, rest)
            rest = rest[wire.LOG_BYTES_MAX :]
        lines.pending[level] = rest if lines.left > 0 else ""

    def _line(self, lines: Lines, level: str, text: str) -> None:
        if lines.left <= 0:
            return
        lines.left -= 1
        if lines.left == 0:
            level, text = "warning", f"more than {LINES_PER_CALL_MAX} lines in one call: the rest is dropped"
        self._send(wire.Log(level[:16], text[: wire.LOG_BYTES_MAX], lines.seq))


class Stream(io.TextIOBase):
    """stdout or stderr of the plugin."""

    def __init__(self, level: str, outlet: Outlet) -> None:
        self._level = level
        self._outlet = outlet

    def writable(self) -> bool:
        """Always True."""
        return True

    def write(self, text: str) -> int:
        """Sends each finished line, and keeps at most one unfinished one."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._outlet.write(self._level, text)
        return len(text)


class LogHandler(logging.Handler):
    """``context.log`` and every other logger of the plugin."""

    def __init__(self, line: Callable[[str, str], None]) -> None:
        super().__init__()
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        """Sends the record's text, or a note that it is unavailable."""
        try:
            text = record.getMessage()
        except Exception:
            text = "(a log record whose text is unavailable)"
        self._line(str(record.levelname).lower(), text)
