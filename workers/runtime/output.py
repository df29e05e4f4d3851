"""Turns what a plugin prints and logs into Log messages: whole lines, cut, and limited for each call."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from typing import Any

from workers import wire

LINES_PER_CALL_MAX = 200
"""This limit is a courtesy: the supervisor limits the lines per second itself, whatever a worker sends."""


class Outlet:
    """Sends lines while a call runs (or the plugin loads); between calls it drops them."""

    def __init__(self, send: Callable[[Any], None]) -> None:
        self._send = send
        self._left = 0
        self._seq = -1
        self.streams: tuple[Stream, Stream] = (Stream("stdout", self), Stream("stderr", self))

    def open(self, seq: int = -1) -> None:
        """Call ``seq`` begins: it may send LINES_PER_CALL_MAX lines. -1 is the plugin while it loads."""
        self._seq = seq
        self._left = LINES_PER_CALL_MAX

    def close(self, _seq: int = -1) -> None:
        """The call ends: sends its unfinished line, if there is one, and drops what comes after."""
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
        self._send(wire.Log(level[:16], text[: wire.LOG_BYTES_MAX], self._seq))


class Stream(io.TextIOBase):
    """stdout or stderr of the plugin."""

    def __init__(self, level: str, outlet: Outlet) -> None:
        self._level = level
        self._outlet = outlet
        self.pending: str = ""

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


class _CallOutput:
    """The output of one of several calls: how many lines it may still send, and its unfinished line of each stream."""

    __slots__ = ("left", "pending")

    def __init__(self) -> None:
        self.left = LINES_PER_CALL_MAX
        self.pending: dict[str, str] = {}


class SharedOutlet(Outlet):
    """The outlet of a worker that runs several calls: each line carries the call whose code writes it, which
    ``current()`` names; -1 is the plugin while it loads. Lines of a call that is over are dropped."""

    def __init__(self, send: Callable[[Any], None], current: Callable[[], int]) -> None:
        super().__init__(send)
        self.current = current
        self._calls: dict[int, _CallOutput] = {}
        self.streams = (SharedStream("stdout", self), SharedStream("stderr", self))

    def open(self, seq: int = -1) -> None:
        """Call ``seq`` begins: it may send LINES_PER_CALL_MAX lines."""
        self._calls[seq] = _CallOutput()

    def close(self, seq: int = -1) -> None:
        """Call ``seq`` ends: sends its unfinished lines, and drops what comes after."""
        call = self._calls.get(seq)
        if call is not None:
            for level, text in call.pending.items():
                if text:
                    self._line(seq, call, level, text)
            del self._calls[seq]

    def line(self, level: str, text: str) -> None:
        """Sends one line, or drops it."""
        seq = self.current()
        call = self._calls.get(seq)
        if call is not None:
            self._line(seq, call, level, text)

    def _line(self, seq: int, call: _CallOutput, level: str, text: str) -> None:
        if call.left <= 0:
            return
        call.left -= 1
        if call.left == 0:
            level, text = "warning", f"more than {LINES_PER_CALL_MAX} lines in one call: the rest is dropped"
        self._send(wire.Log(level[:16], text[: wire.LOG_BYTES_MAX], seq))

    def unfinished(self, level: str) -> str:
        """What the present call has written to a stream since its last finished line."""
        call = self._calls.get(self.current())
        return call.pending.get(level, "") if call is not None else ""

    def keep(self, level: str, text: str) -> None:
        """Keeps an unfinished line of the present call."""
        call = self._calls.get(self.current())
        if call is not None:
            call.pending[level] = text


class SharedStream(Stream):
    """A stream with an unfinished line for each call."""

    def __init__(self, level: str, outlet: SharedOutlet) -> None:
        self._shared = outlet
        super().__init__(level, outlet)

    @property
    def pending(self) -> str:
        """The present call's unfinished line."""
        return self._shared.unfinished(self._level)

    @pending.setter
    def pending(self, text: str) -> None:
        self._shared.keep(self._level, text)


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
