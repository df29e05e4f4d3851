"""The API calls of an async hook: it waits for each in its event loop, where ``asyncio.timeout`` can end the wait.

One call is under way at a time, and the others wait for their turn in the order in which they were made. A call for
which the hook waits no longer is given up: the next one is made at once, and the answer is nobody's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

import msgspec

from workers import sdk, wire
from workers.runtime.interface import Host


class Pending:
    """One call, which may be awaited more than once."""

    __slots__ = ("_calls", "_waiters", "error", "is_over", "method", "raw", "value")

    def __init__(self, calls: Calls, method: str, raw: bytes) -> None:
        self._calls = calls
        self._waiters: list[asyncio.Future[None]] = []
        self.method = method
        self.raw = raw
        self.is_over = False
        self.value: Any = None
        self.error: sdk.ApiError | None = None

    def __await__(self) -> Generator[Any, Any, Any]:
        if not self.is_over:
            self._calls.listen()
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                yield from waiter
            except asyncio.CancelledError:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                if not self._waiters:
                    self._calls.give_up(self)
                raise
        if self.error is not None:
            raise self.error
        return self.value

    def settle(self, value: Any, error: sdk.ApiError | None) -> None:
        """The answer is there."""
        self.value, self.error, self.is_over = value, error, True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


class Calls:
    """The calls of the hook that runs as ``seq``. ``encode`` makes the parameters of a call; ``read`` takes the
    result out of an answer, and raises the error that it is."""

    def __init__(self, host: Host, loop: asyncio.AbstractEventLoop, seq: int,
                 encode: Callable[[str, dict[str, Any]], bytes],
                 read: Callable[[wire.ApiReply, str], Any]) -> None:
        self._host = host
        self._loop = loop
        self._seq = seq
        self._encode = encode
        self._result_of = read
        self._queue: deque[Pending] = deque()
        self._current: Pending | None = None
        self._current_id = 0
        self._listens = False

    def begin(self, method: str, params: dict[str, Any]) -> Pending:
        """Makes a call, or lets it wait for its turn. Raises ApiError for parameters that cannot be sent."""
        if self._seq != self._host.seq:
            raise sdk.ApiError("cancelled", "the call that this context belongs to is over", method=method)
        call = Pending(self, method, self._encode(method, params))
        self._queue.append(call)
        self._next()
        return call

    def listen(self) -> None:
        """Lets the event loop take the answers, until the hook ends."""
        if not self._listens and self._seq == self._host.seq:
            self._loop.add_reader(self._host.link.fileno(), self._read, 0.0)
            self._listens = True

    def give_up(self, call: Pending) -> None:
        """Nobody waits for ``call`` any longer. If it has not been sent, it never is."""
        if call is self._current:
            self._current = None
            if self._seq == self._host.seq:
                self._host.send(wire.ApiCancel(self._seq, self._current_id))
                self._next()
        elif call in self._queue:
            self._queue.remove(call)

    def finish(self) -> None:
        """The hook has ended: makes the calls that it made without waiting for them, one after another, and waits."""
        if self._listens:
            self._loop.remove_reader(self._host.link.fileno())
            self._listens = False
        while self._current is not None:
            self._read(None)

    def _next(self) -> None:
        """Sends the next call, if none is under way."""
        if self._current is not None or not self._queue:
            return
        call = self._current = self._queue.popleft()
        host = self._host
        host.api_id += 1
        self._current_id = host.api_id
        host.send(wire.ApiCall(self._seq, host.api_id, call.method, msgspec.Raw(call.raw)))

    def _read(self, wait_ms: float | None) -> None:
        """Takes the answer to the call that is under way, if it is there within ``wait_ms``; None waits for a message.

        Calls that arrive meanwhile keep their order."""
        host = self._host
        others: deque[Any] = deque()
        while self._current is not None:
            message = host.within(-1 if wait_ms is None else wait_ms)
            if message is None:
                break
            if type(message) is not wire.ApiReply:
                others.append(message)
            elif message.api_id == self._current_id:
                call, self._current = self._current, None
                try:
                    call.settle(sdk.shaped(call.method, self._result_of(message, call.method)), None)
                except sdk.ApiError as error:
                    call.settle(None, error)
                self._next()
        if others:
            host.put_back(others)
