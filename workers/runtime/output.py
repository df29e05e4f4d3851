"""Turns what a plugin prints and logs into Log messages: whole lines, cut, and limited for each call."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from typing import Any

from workers import wire

LINES_PER_CALL_MAX = 200
"""This limit only helps: the supervisor limits the lines per second itself, whatever a worker sends."""


class Outlet:
    """Sends lines while a call runs (or the plugin loads); between calls it drops them."""

    def __init__(self, send: Callable[[Any], None]) -> None:
        self._send = send
        self._left = 0
        self.streams = (Stream("stdout", self), Stream("stderr", self))

    def open(self) -> None:
        """A call begins: it may send LINES_PER_CALL_MAX lines."""
        self._left = LINES_PER_CALL_MAX

    def close(self) -> None:
        """The call ends: an unfinished line is sent, and nothing more."""
        for stream in self.streams:
            if stream.pending:
                stream.finish()
        self._left = 0

    def line(self, level: str, text: str) -> None:
        """Sends one line, or drops it."""
        if self._left <= 0:
            return
        self._left -= 1
        if self._left == 0:
            level, text = "warning", f"more than {LINES_PER_CALL_MAX} lines in one call: the rest is dropped"
        self._send(wire.Log(level[:16], text[: wire.LOG_BYTES_MAX]))


class Stream(io.TextIOBase):
    """stdout or stderr of the plugin."""

    def __init__(self, level: str, outlet: Outlet) -> None:
        self._level = level
        self._outlet = outlet
        self.pending = ""

    def writable(self) -> bool:
        """Always True."""
        return True

    def write(self, text: str) -> int:
        """Sends each finished line, and keeps at most one unfinished one."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        *lines, rest = (self.pending + text[: 1 << 20]).split("\n")
        for line in lines:
            self._outlet.line(self._level, line)
        while len(rest) > wire.LOG_BYTES_MAX:
            self._outlet.line(self._level, rest)
            rest = rest[wire.LOG_BYTES_MAX :]
        self.pending = rest
        return len(text)

    def finish(self) -> None:
        """Sends the unfinished line."""
        self._outlet.line(self._level, self.pending)
        self.pending = ""


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
