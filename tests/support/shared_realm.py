"""A concurrent worker's loop over a real engine, with a link that a test plays: messages in any order."""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from workers import wire
from workers.javascript import runtime
from workers.runtime.failures import raised, thrown
from workers.runtime.interface import BadPayload, Thrown
from workers.runtime.values import NotAValue

SECONDS = 60
"""Deadline of a call, far beyond any test."""
pack = msgspec.msgpack.encode


@functools.cache
def _prepare() -> None:
    runtime.prepare({})


class PlayedLink:
    """``script`` yields what arrives next whenever the worker has nothing more to do; None lets time pass."""

    def __init__(self) -> None:
        self.inbox: deque[Any] = deque()
        self.recalled: set[int] = set()
        self.script: Iterator[Any] = iter(())

    def _read(self) -> None:
        message = next(self.script, wire.Ping)
        if message is wire.Ping:  # the end
            raise EOFError
        if message is not None:
            self.inbox.extend(message if isinstance(message, list) else [message])

    def look(self) -> bool:
        """Nothing arrives while the worker is busy."""
        return True

    def next(self) -> Any:
        """Returns the next message; None at the script's end."""
        try:
            while not self.inbox:
                self._read()
        except EOFError:
            return None
        return self.inbox.popleft()

    def within(self, wait_ms: float) -> Any:
        """Returns the next message, or None after ``wait_ms``."""
        if not self.inbox:
            self._read()
        if self.inbox:
            return self.inbox.popleft()
        time.sleep(wait_ms / 1e3)
        return None


class PlayedHost:
    """What the worker says is in ``said``: a map of answers by call, and ``sent`` in order."""

    def __init__(self) -> None:
        self.seq = -1
        self.api_id = 0
        self.link = PlayedLink()
        self.sent: list[Any] = []
        self.said: dict[int, Any] = {}
        self.lines: list[tuple[int, str]] = []
        self.begun: list[int] = []
        self.current: Callable[[], int] = lambda: self.seq

    def line(self, _level: str, text: str) -> None:
        self.lines.append((self.seq, text))

    def send(self, message: Any) -> None:
        self.sent.append(message)

    def begin(self, call: wire.Call) -> bool:
        self.begun.append(call.seq)
        if call.seq in self.link.recalled:
            self._over(call.seq, wire.Skipped(call.seq))
            return False
        return True

    def answer(self, seq: int, value: Any, cpu_ns: int) -> None:
        assert cpu_ns > 0
        self._over(seq, value)

    def failed(self, seq: int, error: BaseException, cpu_ns: int) -> None:
        if isinstance(error, Thrown):
            self._over(seq, thrown(seq, error, cpu_ns))
        elif isinstance(error, NotAValue):
            self._over(seq, wire.BadOutput(seq, error.path, str(error), cpu_ns))
        elif isinstance(error, BadPayload):
            self._over(seq, wire.BadInput(seq, str(error), cpu_ns))
        else:
            self._over(seq, raised(seq, error, cpu_ns))

    def ended(self, seq: int, cpu_ns: int) -> None:
        self._over(seq, wire.Ended(seq, cpu_ns))

    def _over(self, seq: int, what: Any) -> None:
        assert seq not in self.said, f"call {seq} is answered twice: {self.said[seq]}, {what}"
        self.said[seq] = what


def call(seq: int, action: str, given: Any = None, user: str = "") -> wire.Call:
    """A call of the plugin's one hook."""
    params = {"action": action, "given": given}
    return wire.Call(seq, "onActionExecute", user or f"user {seq}", time.monotonic_ns() + SECONDS * 10**9, 10**9,
                     msgspec.Raw(pack(params)))


def reply(api_id: int, value: Any) -> wire.ApiReply:
    """The answer to an API call."""
    return wire.ApiReply(api_id, True, msgspec.Raw(pack(value)))


def serve(code: str, play: Callable[[PlayedHost], Iterator[Any]], *, memory_bytes_max: int = 50 << 20) -> PlayedHost:
    """Runs a plugin whose hook does ``ACTIONS[context.action](context)``, defined by ``code``, until ``play`` ends."""
    _prepare()
    source = (f"{code}\nexport default {{ id: 't', version: '1.0.0', permissions: [], hooks: {{ onActionExecute: "
              "(context) => ACTIONS[context.action](context) } };").encode()
    host = PlayedHost()
    worker = runtime.JavaScript(host)
    worker.realm = runtime.Realm()
    try:
        worker.load(wire.Load("t", "1.0.0", "index.js", {"index.js": source}, {}, memory_bytes_max, concurrent=True))
        host.link.script = play(host)
        assert worker.serve is not None
        assert worker.serve() == 0
    finally:
        worker.realm.engine.unload()
    return host
