"""The daemon's log on stderr, and one log file for each plugin. Each of the two has its own writing thread, so that a
full pipe or a slow disk affects neither the loop nor the other one. Lines that do not fit into a queue are counted and
dropped.

A plugin's lines are limited by ``log.plugin_lines_per_second``, escaped, and marked with its id. They are not an audit:
files under ``<state_dir>/logs/`` are rotated by size, and old ones are deleted.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import queue
import sys
import threading
import time
import traceback
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from apex_exec.common.redaction import Redactor
from apex_exec.core.limits import SECOND_NS

LINES_MAX = 10_000
"""How many lines may wait for a writing thread; any more are counted and dropped."""
WAITING_BYTES_MAX = 16 * 1024 * 1024
"""How many bytes the waiting lines of each thread may have, counting four bytes, the maximum, for each character."""
TEXT_CHARS_MAX = 8192
"""The most characters of one line, before and after escaping: an escape counts with all of its characters."""
FILE_BYTES_MAX = 1024 * 1024
FILES_KEPT = 4
"""A plugin's log file is started anew at FILE_BYTES_MAX; this many older ones are kept as ``<plugin>.log.1`` and so on.
"""
OPEN_FILES_MAX = 64
FAILURES_PER_SECOND = 1.0
FAILURES_AT_ONCE = 10.0
"""How many of one plugin's failures are logged. They have their own budget, so that a plugin cannot hide them among its
lines."""
CLOSE_SECONDS = 1.0

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "stdout": logging.INFO, "warning": logging.WARNING,
          "stderr": logging.WARNING, "error": logging.ERROR, "critical": logging.ERROR}
_NAMES = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"}

_Line = tuple[float, int, str, str, int]
"""(wall time, level, plugin or "", text, the invocation that wrote it or 0)"""


def escape(text: str) -> str:
    """``text`` on one line: characters that do not print (newlines, terminal codes, lone surrogates) are escaped.

    Text over TEXT_CHARS_MAX is cut, before and after escaping. The worst text takes a millisecond.
    """
    if len(text) > TEXT_CHARS_MAX:
        text = text[:TEXT_CHARS_MAX] + "…"
    if text.isprintable():
        return text
    out: list[str] = []
    room = TEXT_CHARS_MAX
    for printable, run in itertools.groupby(text, str.isprintable):
        if printable:
            piece = "".join(itertools.islice(run, room))
        else:  # the shortest escape has two characters
            piece = "".join(itertools.islice(run, room // 2 + 1)).encode("unicode_escape").decode()
        out.append(piece)
        room -= len(piece)
        if room <= 0:
            return "".join(out)[:TEXT_CHARS_MAX] + "…"
    return "".join(out)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


class _Share:
    """How many lines one plugin may still write: a bucket with the lines of one second."""

    __slots__ = ("at_ns", "dropped", "tokens")

    def __init__(self, tokens: float, now_ns: int) -> None:
        self.tokens = tokens
        self.at_ns = now_ns
        self.dropped = 0

    def take(self, rate: float, depth: float, now_ns: int) -> bool:
        """Whether a line may be written now. If not, it is counted."""
        self.tokens = min(depth, self.tokens + (now_ns - self.at_ns) * rate / SECOND_NS)
        self.at_ns = now_ns
        if self.tokens < 1.0:
            self.dropped += 1
            return False
        self.tokens -= 1.0
        return True


class _Writer:
    """One destination of lines, with a writing thread of its own: a stderr that nobody reads stops no plugin's file,
    and a hanging disk delays no line on stderr. The waiting lines are bounded."""

    def __init__(self, name: str, write: Callable[[_Line], None], left_out: Callable[[int], None]) -> None:
        self.dropped = 0
        self._name, self._write, self._left_out = name, write, left_out
        self._queue: queue.SimpleQueue[_Line | None] = queue.SimpleQueue()
        self._putting = threading.Lock()
        self._bytes_put = 0
        self._spending = threading.Lock()
        self._spent_ns: dict[str, int] = {}
        self._bytes_taken = 0  # only the writing thread changes it; the difference is what waits
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        return self._queue.qsize()

    @property
    def waiting_bytes(self) -> int:
        return self._bytes_put - self._bytes_taken

    def put(self, line: _Line) -> None:
        """Never blocks. If the bounds are exceeded, the line is counted and dropped."""
        with self._putting:
            if self._queue.qsize() < LINES_MAX and self.waiting_bytes < WAITING_BYTES_MAX:
                self._bytes_put += 4 * len(line[3])
                self._queue.put(line)
            else:
                self.dropped += 1

    def spent_ns(self) -> dict[str, int]:
        """plugin → CPU time of the thread for its lines since this was last asked."""
        with self._spending:
            spent_ns, self._spent_ns = self._spent_ns, {}
        return spent_ns

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def end(self, due: float) -> bool:
        """Writes the waiting lines, at most until ``due`` (CLOCK_MONOTONIC). Returns True if none is left."""
        self._queue.put(None)
        if self._thread is None:
            return True
        self._thread.join(max(0.0, due - time.monotonic()))
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (line := self._queue.get()) is not None:
            dropped, self.dropped = self.dropped, 0
            if dropped:
                self._left_out(dropped)
            begun_ns = time.thread_time_ns()
            self._write(line)
            if line[2]:
                with self._spending:
                    self._spent_ns[line[2]] = self._spent_ns.get(line[2], 0) + time.thread_time_ns() - begun_ns
            self._bytes_taken += 4 * len(line[3])


class Logs(logging.Handler):
    """Accepts lines from everywhere; ``start`` begins to write them. It is also a handler of ``logging``.

    Each line begins with ``process``, unless it comes from the daemon itself. It names ``node``, if the daemon is given
    a name among others (`fleet.node`).
    """

    def __init__(self, *, level: str, format: str, plugin_lines_per_second: float = 1, folder: Path | None = None,
                 stream: IO[str] | None = None, process: str = "", node: str = "") -> None:
        super().__init__()
        self.level_min = LEVELS[level]
        self.plugin_lines_per_second = plugin_lines_per_second
        self.redactors: Mapping[str, Redactor] = {}
        """By plugin: what takes its secrets out of its lines."""
        self._prefix = f"{process}: " if process else ""
        self._json = format == "json"
        self._node = node
        self._stream = stream or sys.stderr
        self._folder = folder
        self._files: OrderedDict[str, IO[str]] = OrderedDict()
        self._shares: dict[str, _Share] = {}
        self._muted: set[str] = set()
        """Plugins with dropped lines that have not been reported yet."""
        self._failures: dict[str, _Share] = {}
        self._stderr = _Writer("apex-exec-log", self._to_stream, self._left_out)
        self._plugin_files = _Writer("apex-exec-plugin-logs", self._to_file, self._left_out_of_files)
        self._started = False

    # ------------------------------------------------------------------ called by the loop
    def log(self, level: str, text: str) -> None:
        """Logs one line of the daemon itself. Never blocks."""
        number = LEVELS[level]
        if number >= self.level_min:
            self._put((time.time(), number, "", text, 0))

    def bug(self, what: str, error: BaseException) -> None:
        """Logs a fault of the daemon itself, with its traceback."""
        self.log("error", f"{what}: {''.join(traceback.format_exception(error))}")

    def emit(self, record: logging.LogRecord) -> None:
        """The entry point for ``logging``."""
        if record.levelno >= self.level_min:
            text = self._prefix + record.getMessage()
            if record.exc_info:
                text += "\n" + logging.Formatter().formatException(record.exc_info)
            self._put((record.created, record.levelno, "", text, 0))

    def plugin_line(self, plugin: str, level: str, text: str, now_ns: int, call: int = 0) -> None:
        """Logs one line of a plugin, if its budget allows. Dropped lines are reported with the next line that is
        written, or by ``upkeep`` a second later. ``call``, which lines in JSON have, is the invocation that wrote the
        line; 0 if none did.

        The line is cut and escaped here, in time that the plugin pays for. The writing thread's time belongs to
        everybody: that thread and the loop take turns.
        """
        rate = self.plugin_lines_per_second
        share = self._shares.get(plugin)
        if share is None:
            share = self._shares[plugin] = _Share(max(1.0, rate), now_ns)
        if not share.take(rate, max(1.0, rate), now_ns):
            self._muted.add(plugin)
            return
        self._say_lines_left_out(plugin, share)
        if plugin in self.redactors:
            text = self.redactors[plugin].redacted(text)
        text = text[:TEXT_CHARS_MAX] if self._json else escape(text)
        self._put((time.time(), LEVELS.get(level, logging.INFO), plugin, text, call))

    def _say_lines_left_out(self, plugin: str, share: _Share) -> None:
        if share.dropped:
            self._put((time.time(), logging.WARNING, plugin, f"{share.dropped} lines were dropped", 0))
            share.dropped = 0
            self._muted.discard(plugin)

    def failure_room(self, plugin: str, now_ns: int) -> bool:
        """Whether one more failure of ``plugin`` is logged now. If not, it is counted, and the count is logged."""
        share = self._failures.get(plugin)
        if share is None:
            share = self._failures[plugin] = _Share(FAILURES_AT_ONCE, now_ns)
        if not share.take(FAILURES_PER_SECOND, FAILURES_AT_ONCE, now_ns):
            return False
        self._say_left_out(plugin, share)
        return True

    def failure(self, plugin: str, text: str, level: str = "error") -> None:
        """Logs a plugin's failure in the daemon's log and in the plugin's own. Call ``failure_room`` first."""
        if plugin in self.redactors:
            text = self.redactors[plugin].redacted(text)
        self._put((time.time(), LEVELS[level], plugin, text[:TEXT_CHARS_MAX] if self._json else escape(text), 0))

    def _say_left_out(self, plugin: str, share: _Share) -> None:
        if share.dropped:
            self.failure(plugin, f"{share.dropped} more failures were not logged", "warning")
            share.dropped = 0

    def upkeep(self, now_ns: int) -> None:
        """Reports what was dropped of plugins that no longer write or fail. Call it once a second."""
        for plugin in list(self._muted):
            share = self._shares[plugin]
            if now_ns - share.at_ns > SECOND_NS:
                self._say_lines_left_out(plugin, share)
        for plugin, share in list(self._failures.items()):
            if now_ns - share.at_ns > SECOND_NS:
                self._say_left_out(plugin, share)
            if now_ns - share.at_ns > FAILURES_AT_ONCE / FAILURES_PER_SECOND * SECOND_NS:
                del self._failures[plugin]  # a new budget would be just as full

    def spent_ns(self) -> Counter[str]:
        """plugin → CPU time (ns) that the writing threads have used for its lines since this was last asked."""
        return Counter(self._stderr.spent_ns()) + Counter(self._plugin_files.spent_ns())

    def forget_plugin(self, plugin: str) -> None:
        """Deletes the budget of a removed plugin; its files stay."""
        self._shares.pop(plugin, None)
        self._muted.discard(plugin)

    def _put(self, line: _Line) -> None:
        if line[1] >= self.level_min:
            self._stderr.put(line) if self._started else self._to_stream(line)
        if line[2] and self._folder is not None:
            self._plugin_files.put(line) if self._started else self._to_file(line)

    @property
    def waiting(self) -> int:
        """How many lines stderr has not accepted yet."""
        return self._stderr.waiting

    @property
    def waiting_bytes(self) -> int:
        """The most bytes that those lines may have."""
        return self._stderr.waiting_bytes

    @property
    def dropped(self) -> int:
        """How many lines were dropped since the last report."""
        return self._stderr.dropped + self._plugin_files.dropped

    # ------------------------------------------------------------------ the writing threads
    def start(self) -> None:
        """Starts the threads that write lines. Call it after the zygote was started."""
        self._started = True
        self._stderr.start()
        self._plugin_files.start()

    def close(self) -> None:
        """Writes the waiting lines, for at most CLOSE_SECONDS."""
        if self._started:
            due = time.monotonic() + CLOSE_SECONDS
            if self._plugin_files.end(due):
                for file in self._files.values():
                    with contextlib.suppress(OSError):
                        file.close()
            self._stderr.end(due)
            self._started = False
        super().close()

    def _left_out(self, count: int) -> None:
        self._to_stream((time.time(), logging.WARNING, "", f"{count} log lines were dropped: stderr is slow", 0))

    def _left_out_of_files(self, count: int) -> None:
        self.log("warning", f"{count} lines of plugins' own log files were dropped: the disk is slow")

    def _to_stream(self, line: _Line) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads stderr any more
            self._stream.write(self._format(*line))
            self._stream.flush()

    def _to_file(self, line: _Line) -> None:
        wall, level, plugin, text, call = line
        with contextlib.suppress(OSError):
            self._append(plugin, self._format(wall, level, "", text, call))

    def _format(self, wall: float, level: int, plugin: str, text: str, call: int) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(wall)) + f".{int(wall % 1 * 1000):03d}Z"
        name = _NAMES.get(level, "info")
        if self._json:
            entry: dict[str, Any] = {"time": stamp, "level": name, "message": text[:TEXT_CHARS_MAX]}
            if self._node:
                entry["node"] = self._node
            if plugin:
                entry["plugin"] = plugin
            if call:
                entry["call"] = call
            return json.dumps(entry) + "\n"
        mark = f"plugin {plugin}: " if plugin else ""
        return f"{stamp} {name.upper()} {self._node and f'[{self._node}] '}{mark}{escape(text)}\n"

    def _append(self, plugin: str, text: str) -> None:
        assert self._folder is not None
        path = self._folder / f"{plugin}.log"
        file = self._files.get(plugin)
        if file is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = self._files[plugin] = open(path, "a", encoding="utf-8", opener=_private)
            if len(self._files) > OPEN_FILES_MAX:
                self._files.popitem(last=False)[1].close()
        else:
            self._files.move_to_end(plugin)
        file.write(text)
        file.flush()
        if file.tell() >= FILE_BYTES_MAX:
            self._files.pop(plugin).close()
            for number in range(FILES_KEPT - 1, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    path.with_suffix(f".log.{number}").replace(path.with_suffix(f".log.{number + 1}"))
            path.replace(path.with_suffix(".log.1"))


def log_beside(process: str, level: str, format: str, node: str = "") -> None:
    """For a process beside the loop: formats each line that it logs with ``logging`` as a line of the daemon's log."""
    root = logging.getLogger()
    root.addHandler(Logs(level=level, format=format, process=process, node=node))
    root.setLevel(LEVELS[level])
