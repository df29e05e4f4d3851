"""The API calls of an async hook: it waits for each in its event loop, where ``asyncio.timeout`` can end the wait.

Up to ``API_AT_ONCE`` calls are under way at a time, and the others wait for their turn in the order in which they were
made. A call for which the hook waits no longer is given up: the next one is made at once, and the answer is nobody's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

import msgspec

from workers import contract, sdk, wire
from workers.runtime.interface import Host


class Pending:
    """One call, which may be awaited more than once."""

    __slots__ = ("_calls", "_waiters", "api_id", "error", "is_over", "method", "raw", "value")

    def __init__(self, calls: Calls, method: str, raw: bytes) -> None:
        self._calls = calls
        self._waiters: list[asyncio.Future[None]] = []
        self.method = method
        self.raw = raw
        self.api_id = 0
        """Its number on the link; 0 until it is sent."""
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
                if not self._waiters and not self.is_over:
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
        self._open: dict[int, Pending] = {}
        """The calls that are under way, by their numbers on the link."""
        self._listens = False

    def begin(self, method: str, params: dict[str, Any]) -> Pending:
        """Makes a call, or lets it wait for its turn. Raises ApiError for parameters that cannot be sent."""
        if self._seq != self._host.seq:
            raise sdk.ApiError("cancelled", "the call that this context belongs to is over", method=method)
        call = Pending(self, method, self._encode(method, params))
        self._queue.append(call)
        self._send()
        return call

    def listen(self) -> None:
        """Lets the event loop take the answers, until the hook ends."""
        if not self._listens and self._seq == self._host.seq:
            self._loop.add_reader(self._host.link.fileno(), self._read, 0.0)
            self._listens = True

    def give_up(self, call: Pending) -> None:
        """Nobody waits for ``call`` any longer. If it has not been sent, it never is."""
        if self._open.pop(call.api_id, None) is not None:
            if self._seq == self._host.seq:
                self._host.send(wire.ApiCancel(self._seq, call.api_id))
                self._send()
        elif call in self._queue:
            self._queue.remove(call)

    def finish(self) -> None:
        """The hook has ended: makes the calls that it made without waiting for them, and waits for their answers."""
        if self._listens:
            self._loop.remove_reader(self._host.link.fileno())
            self._listens = False
        while self._open:
            self._read(None)

    def _send(self) -> None:
        """Sends what waits, as far as the supervisor takes it at once."""
        queue, open_ = self._queue, self._open
        while queue and len(open_) < contract.API_AT_ONCE:
            call = queue.popleft()
            self._host.api_id += 1
            call.api_id = self._host.api_id
            open_[call.api_id] = call
            self._host.send(wire.ApiCall(self._seq, call.api_id, call.method, msgspec.Raw(call.raw)))

    def _read(self, wait_ms: float | None) -> None:
        """Takes the answers that are there within ``wait_ms``; None waits for a message.

        Calls that arrive meanwhile keep their order."""
        host, open_ = self._host, self._open
        others: deque[Any] = deque()
        while open_:
            message = host.within(-1 if wait_ms is None else wait_ms)
            if message is None:
                break
            if type(message) is not wire.ApiReply:
                others.append(message)
                continue
            call = open_.pop(message.api_id, None)
            if call is None:
                continue  # it was given up
            self._send()
            try:
                call.settle(sdk.shaped(call.method, self._result_of(message, call.method)), None)
            except sdk.ApiError as error:
                call.settle(None, error)
        if others:
            host.put_back(others)
