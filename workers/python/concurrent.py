"""Several calls at once in one Python worker: each async hook is a task of one event loop, which reads the link as
well.

Calls begin in the order of the link. A plain ``def`` hook waits until all calls before it are answered, and then runs
alone while the calls after it wait. A context variable says which call the running code belongs to. Tasks and callbacks
inherit it, so each line of output and each task that was left behind can be assigned to its call.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Protocol

import msgspec

from workers import contract, sdk, wire
from workers.runtime.interface import Host

_call: contextvars.ContextVar[int] = contextvars.ContextVar("apex_call", default=-1)
_cpu_ns = time.thread_time_ns


class Hook(Protocol):
    """One hook of the plugin."""

    is_async: bool


class Plugin(Protocol):
    """The plugin, as the runtime has loaded it."""

    hooks: dict[str, Any]
    """Its hooks (``Hook``) by name."""

    def invoke(self, call: wire.Call, hook: Any) -> Any:
        """Calls the hook's function. Returns its value, or a coroutine. Raises whatever it raises."""

    def encoded(self, method: str, params: dict[str, Any]) -> bytes:
        """The encoded parameters of an API call. Raises ApiError."""

    def read(self, reply: wire.ApiReply, method: str) -> Any:
        """The result of an API call. Raises ApiError."""

    def exchange(self, seq: int, method: str, params: dict[str, Any]) -> Any:
        """Makes one API call and waits for its answer. Raises ApiError."""

    def effect(self, seq: int, method: str, params: dict[str, Any]) -> None:
        """Notes an effect, which is sent with the answer to call ``seq``. Raises ApiError."""


class _Metered:
    """Awaits a coroutine, and measures how much CPU time the coroutine's own steps use."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self.cpu_ns = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[..., Any] = self._coroutine.send
        given: Any = None
        while True:
            begun_ns = _cpu_ns()
            try:
                waits_for = step(given)
            except StopIteration as stop:
                return stop.value
            finally:
                self.cpu_ns += _cpu_ns() - begun_ns
            try:
                given = yield waits_for
                step = self._coroutine.send
            except BaseException as error:  # noqa: BLE001 - such as a cancellation: it is passed to the coroutine
                step, given = self._coroutine.throw, error


class _Running:
    """One call that has begun: its own task, the tasks that it has created, and its API calls."""

    __slots__ = ("is_cancelled", "open", "task", "tasks", "waiting")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.tasks: set[asyncio.Task[Any]] = set()
        self.is_cancelled = False
        self.open = 0
        self.waiting: deque[_Asked] = deque()


class _Asked:
    """One API call of an async hook, which may be awaited; it was made when the method was called. ``give_up`` is
    called if no code waits for its answer any more, for example after ``asyncio.timeout``."""

    __slots__ = ("api_id", "future", "give_up", "method", "raw", "read", "waiters")

    def __init__(self, future: asyncio.Future[wire.ApiReply], method: str, raw: bytes,
                 read: Callable[[wire.ApiReply, str], Any], give_up: Callable[[_Asked], None]) -> None:
        self.future = future
        self.method = method
        self.raw = raw
        self.read = read
        self.give_up = give_up
        self.api_id = 0
        """Its number on the link; 0 until it is sent."""
        self.waiters = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        self.waiters += 1
        try:
            reply = yield from asyncio.shield(self.future)
        except asyncio.CancelledError:
            if self.waiters == 1 and not self.future.done():
                self.future.cancel()
                self.give_up(self)
            raise
        finally:
            self.waiters -= 1
        return sdk.shaped(self.method, self.read(reply, self.method))


class Concurrent:
    """Serves the calls of one worker, by the hooks of ``python``, in ``loop``."""

    def __init__(self, host: Host, python: Plugin, loop: asyncio.AbstractEventLoop) -> None:
        self._host = host
        self._link = host.link
        self._python = python
        self._loop = loop
        self._pending: deque[wire.Call] = deque()  # calls that were read and have not begun
        self._running: dict[int, _Running] = {}
        self._asked: dict[int, tuple[_Running, _Asked]] = {}
        self._over: asyncio.Future[None] = loop.create_future()
        host.current = _call.get
        loop.set_task_factory(self._task)

    def serve(self) -> int:
        """Serves until the link ends."""
        self._loop.add_reader(self._link.fileno(), self._readable)
        self._loop.call_soon(self._take)
        while not self._over.done():
            try:
                self._loop.run_until_complete(self._over)
            except BaseException:  # noqa: BLE001, PERF203 - a task's SystemExit leaves the loop, and is nobody's answer
                continue
        return 0

    # ------------------------------------------------------------------ the link
    def _readable(self) -> None:
        if not self._link.look():
            self._loop.remove_reader(self._link.fileno())
            if not self._over.done():
                self._over.set_result(None)
            return
        self._take()

    def _take(self) -> None:
        """Handles the messages that were read, and begins the calls that may begin."""
        inbox, send = self._link.inbox, self._link.send
        while inbox:
            message = inbox.popleft()
            kind = type(message)
            if kind is wire.Call:
                self._pending.append(message)
            elif kind is wire.ApiReply:
                self._answered(message)
            elif kind is wire.Cancel:
                if message.nonce:
                    send(wire.Pong(message.nonce))
                self._cancel(message.seq)
            elif kind is wire.Ping:
                send(wire.Pong(message.nonce))
            elif kind is wire.Grants:
                self._host.effects.grant(message)
            elif kind is wire.Recall:
                waiting = {call.seq for call in self._pending}
                self._link.recalled.difference_update(message.seqs)
                self._link.recalled.update(waiting.intersection(message.seqs))
        self._begin()

    def _cancel(self, seq: int) -> None:
        running = self._running.get(seq)
        if running is not None:
            if not running.is_cancelled and running.task is not None:
                running.is_cancelled = True
                running.task.cancel()
        elif any(call.seq == seq for call in self._pending):
            self._link.recalled.add(seq)

    # ------------------------------------------------------------------ calls
    def _begin(self) -> None:
        while self._pending:
            call = self._pending[0]
            hook = self._python.hooks[call.hook]
            if not hook.is_async and self._running:
                return  # a plain hook runs alone, once all calls before it are answered
            self._pending.popleft()
            if self._host.begin(call):
                running = self._running[call.seq] = _Running()
                context = contextvars.copy_context()
                context.run(_call.set, call.seq)
                if hook.is_async:
                    running.task = self._loop.create_task(self._run(call, hook, running), context=context)
                    continue
                context.run(self._run_alone, call, hook, running)
                self._link.look()  # the supervisor may have recalled what comes next
                self._loop.call_soon(self._take)
                return

    def _run_alone(self, call: wire.Call, hook: Hook, running: _Running) -> None:
        """Runs a plain function, while no other call runs. If it returns a coroutine, that goes on beside other calls.
        """
        self._host.seq = call.seq
        begun_ns = _cpu_ns()
        try:
            value = self._python.invoke(call, hook)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the answer
            self._end(call.seq, running)
            self._host.failed(call.seq, error, _cpu_ns() - begun_ns)
        else:
            if asyncio.iscoroutine(value):
                running.task = self._loop.create_task(self._finish(call.seq, running, value))
                return
            self._end(call.seq, running)
            self._host.answer(call.seq, value, _cpu_ns() - begun_ns)
        finally:
            self._host.seq = -1

    async def _run(self, call: wire.Call, hook: Hook, running: _Running) -> None:
        begun_ns = _cpu_ns()
        try:
            coroutine = self._python.invoke(call, hook)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the answer
            self._end(call.seq, running)
            self._host.failed(call.seq, error, _cpu_ns() - begun_ns)
            return
        await self._finish(call.seq, running, coroutine)

    async def _finish(self, seq: int, running: _Running, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Runs a hook to its end and answers its call, whatever happens."""
        metered = _Metered(coroutine)
        failure: BaseException | None = None
        value = None
        try:
            value = await metered
            while running.waiting:  # API calls that no code awaits are still sent before the hook's answer
                await asyncio.wait((running.waiting[-1].future,))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the answer
            failure = error
        self._end(seq, running)
        if running.is_cancelled:
            self._host.ended(seq, metered.cpu_ns)
        elif failure is not None:
            self._host.failed(seq, failure, metered.cpu_ns)
        else:
            self._host.answer(seq, value, metered.cpu_ns)
        if self._pending:
            self._loop.call_soon(self._begin)

    def _end(self, seq: int, running: _Running) -> None:
        """The call is over: it can make no API calls any more, and the tasks that it left behind are cancelled."""
        del self._running[seq]
        running.waiting.clear()
        for task in running.tasks:
            if task is not running.task:
                task.cancel()

    def _task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        """Creates every task of the loop, and notes which call it belongs to."""
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
        context = options.get("context")
        running = self._running.get(_call.get() if context is None else context.get(_call, -1))
        if running is not None:
            running.tasks.add(task)
            task.add_done_callback(running.tasks.discard)
        return task

    # ------------------------------------------------------------------ API calls
    def ask(self, seq: int, method: str, params: dict[str, Any]) -> _Asked:
        """Makes one API call of an async hook. It is sent at once, or, if as many as may are under way, when one of
        them is answered. Raises ApiError."""
        running = self._running.get(seq)
        if running is None:
            raise sdk.ApiError("cancelled", "the call that this context belongs to is over", method=method)
        def give_up(one: _Asked) -> None:
            self._give_up(seq, running, one)

        asked = _Asked(self._loop.create_future(), method, self._python.encoded(method, params), self._python.read,
                       give_up)
        if running.open < contract.API_AT_ONCE:
            self._send(seq, running, asked)
        else:
            running.waiting.append(asked)
        return asked

    def _send(self, seq: int, running: _Running, asked: _Asked) -> None:
        running.open += 1
        host = self._host
        host.api_id += 1
        asked.api_id = host.api_id
        self._asked[host.api_id] = running, asked
        host.send(wire.ApiCall(seq, host.api_id, asked.method, msgspec.Raw(asked.raw)))

    def _answered(self, reply: wire.ApiReply) -> None:
        running, asked = self._asked.pop(reply.api_id, (None, None))
        if running is None or asked is None:
            return
        running.open -= 1
        if not asked.future.done():
            asked.future.set_result(reply)
        if running.waiting:
            seq = next((number for number, one in self._running.items() if one is running), -1)
            if seq >= 0:
                self._send(seq, running, running.waiting.popleft())

    def _give_up(self, seq: int, running: _Running, asked: _Asked) -> None:
        """Ends an API call at the gateway, if its hook has not ended. If it has not been sent, it never will be."""
        if not asked.api_id:
            with contextlib.suppress(ValueError):
                running.waiting.remove(asked)
        elif seq in self._running and asked.api_id in self._asked:
            self._host.send(wire.ApiCancel(seq, asked.api_id))

    def ask_alone(self, seq: int, method: str, params: dict[str, Any]) -> Any:
        """Makes one API call of a plain function, and waits for its answer. Raises ApiError."""
        if seq not in self._running:
            raise sdk.ApiError("cancelled", "the call that this context belongs to is over", method=method)
        return self._python.exchange(seq, method, params)

    def effect(self, seq: int, method: str, params: dict[str, Any]) -> None:
        """Notes an effect of any hook, which is sent with the hook's answer. Raises ApiError."""
        if seq not in self._running:
            raise sdk.ApiError("cancelled", "the call that this context belongs to is over", method=method)
        self._python.effect(seq, method, params)
