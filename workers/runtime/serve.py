"""The worker's loop: take a call, mark it, run the hook, answer it in full, take the next.

Worker CPU per call is the price of everything, so the path of a call is short: one blocking read, one byte to the
marks, one encoding of the whole answer, one write (`python -m benchmarks profile` counts it).
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from types import FunctionType
from typing import Any

import msgspec

from workers import contract, sdk, wire
from workers.jail import Child, ready_for_plugin
from workers.runtime.failures import name_of, raised, text_of, trace_of, unsendable
from workers.runtime.link import Link
from workers.runtime.loader import Loaded, load
from workers.runtime.output import LogHandler, Outlet
from workers.runtime.values import NotAValue, check_value, is_plain
from workers.zmtp import encode as frame

RESERVE_BYTES = 256 * 1024
"""Given back when memory runs out, so that the answer which says so can be made. So large a block of zeros is address
space that nobody has touched: it counts against the limit and costs no memory."""
LOOK_NS = 5_000_000
"""For this long, calls that were read and wait here begin without a look at the link. After that the supervisor may
have recalled one. A look is a system call, and short hooks should not pay for one in every call."""
LEFTOVER_SECONDS_MAX = 0.01
"""How long tasks that a call left behind may take to be cancelled, before the next call begins."""

_encode = msgspec.msgpack.Encoder().encode
_decode_params = msgspec.msgpack.Decoder().decode
_API_ERRORS = {"permission_denied": sdk.PermissionDenied, "rate_limited": sdk.RateLimited,
               "deadline_exceeded": sdk.DeadlineExceeded, "invalid_output": sdk.InvalidOutput}


class _BadPayload(Exception):
    """The payload cannot be decoded: nothing of the plugin has run."""


class Hook:
    """One hook and how it is called, decided once."""

    __slots__ = ("fills_user", "function", "is_async", "wants_context", "wants_params")

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        names, anything = _parameters(function)
        self.function = function
        self.wants_context = anything or "context" in names
        self.wants_params = anything or "params" in names
        self.is_async = inspect.iscoroutinefunction(function)
        self.fills_user = name in contract.FILLS_USER


def _parameters(function: Callable[..., Any]) -> tuple[Any, bool]:
    """Names of what ``function`` takes, and whether it takes any name."""
    if type(function) is FunctionType and not hasattr(function, "__wrapped__"):  # the usual case, without ``inspect``
        code = function.__code__
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        return names, bool(code.co_flags & inspect.CO_VARKEYWORDS)
    parameters = inspect.signature(function).parameters
    return parameters, any(p.kind is p.VAR_KEYWORD for p in parameters.values())


class Worker:
    """One worker's state. One call at a time; calls that arrive meanwhile wait in order."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._has_folder = child.scratch is not None
        self._marks = child.fds[1]
        self._link = Link(child.fds[0])
        self._outlet = Outlet(self._link.send)
        self._reserve = bytes(RESERVE_BYTES)
        self._log = logging.getLogger("plugin")
        self._plugin = ""
        self._seq = -1  # the call that runs; -1 between calls
        self._api_id = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hooks: dict[str, Hook] = {}

    def boot(self, layers: list[wire.LayerReport]) -> None:
        """Greets and reports the jail. A worker may wait here for its plugin as long as it likes."""
        self._link.greet()
        self._link.send(wire.Booted(layers))

    def serve(self) -> int:
        """Loads the plugin, then answers calls until the link ends. Returns the exit status."""
        message = self._link.next()
        if type(message) is not wire.Load:
            return 0
        if message.mode == "test":
            self._output_and_memory(message)
            testing: Any = sys.modules["workers.testing"]  # loaded in the test zygote only
            return int(testing.run(message, self._link, has_folder=self._has_folder))
        if not self._load(message):
            return wire.EXIT_LOAD
        return 0 if message.mode == "probe" else self._calls()

    def _output_and_memory(self, message: wire.Load) -> None:
        self._outlet.open()
        sys.stdout, sys.stderr = self._outlet.streams
        sys.__stdout__, sys.__stderr__ = self._outlet.streams  # type: ignore[assignment,misc]  # no other output
        ready_for_plugin(self._child, message.memory_bytes_max)

    def _load(self, message: wire.Load) -> bool:
        self._output_and_memory(message)
        self._log.setLevel(logging.DEBUG)
        self._log.addHandler(LogHandler(self._outlet))
        self._log.propagate = False
        try:
            loaded = load(message)
            self._hooks = {name: Hook(name, function) for name, function in loaded.hooks.items()}
            self._plugin = loaded.id
            if loaded.uses_loop:
                self._loop = asyncio.new_event_loop()
            ready = self._ready(loaded)
        except BaseException as error:
            self._reserve = b""
            self._outlet.close()
            self._link.send(wire.Failed("load", "", name_of(error), text_of(error), trace_of(error)))
            return False
        self._outlet.close()
        self._link.send(ready)
        return True

    def _ready(self, loaded: Loaded) -> wire.Ready:
        return wire.Ready(loaded.id, loaded.version, sorted(loaded.hooks), sorted(loaded.permissions), loaded.uses_loop)

    def _calls(self) -> int:
        link, marks, take = self._link, self._marks, self._link.next
        inbox, recalled = link.inbox, link.recalled
        write_mark, clock = os.write, time.monotonic_ns
        looked_ns = 0
        while True:
            waited = len(inbox)
            if (call := take()) is None:
                return 0
            if type(call) is wire.Call:
                write_mark(marks, b"\x01")  # before the clock is read: what follows may count as started
                now_ns = clock()
                if not waited:
                    looked_ns = now_ns
                elif now_ns - looked_ns > LOOK_NS:
                    link.look()
                    looked_ns = now_ns
                if now_ns >= call.deadline_ns or (recalled and call.seq in recalled):
                    recalled.discard(call.seq)
                    link.send(wire.Skipped(call.seq))
                else:
                    link.write(self._answer(call))
            elif type(call) is wire.Ping:
                link.send(wire.Pong(call.nonce))
            elif type(call) is wire.Recall:
                recalled.difference_update(call.seqs)  # all of them stood before it

    def _answer(self, call: wire.Call) -> bytes:
        """The framed answer to one call. Whatever the hook does, there is one."""
        self._seq = seq = call.seq
        self._outlet.open()
        begun_ns = time.thread_time_ns()  # not the process's: under RLIMIT_CPU the kernel reads that one by ticks
        try:
            value = self._run(call)
            body = self._encoded(seq, value, time.thread_time_ns() - begun_ns)
        except NotAValue as error:
            body = _encode(wire.BadOutput(seq, error.path[:200], text_of(error), time.thread_time_ns() - begun_ns))
        except _BadPayload as error:
            body = _encode(wire.BadInput(seq, text_of(error)[:200], time.thread_time_ns() - begun_ns))
        except sdk.InvalidOutput as error:
            body = _encode(unsendable(seq, error, time.thread_time_ns() - begun_ns))
        except BaseException as error:
            if issubclass(type(error), MemoryError):  # isinstance would ask the exception itself
                self._reserve = b""
            body = _encode(raised(seq, error, time.thread_time_ns() - begun_ns))
        self._outlet.close()
        self._seq = -1
        if self._loop is not None and (left := asyncio.all_tasks(self._loop)):
            self._cancel(left)
        if not self._reserve:
            self._refill()
        return frame(body)

    def _refill(self) -> None:
        try:
            self._reserve = bytes(RESERVE_BYTES)
        except MemoryError:
            return  # the plugin still holds it all; the next call may give some back

    @staticmethod
    def _encoded(seq: int, value: Any, cpu_ns: int) -> bytes:
        """``wire.Reply`` with ``value`` encoded in place. Raises NotAValue, MemoryError."""
        try:
            if not is_plain(value):
                check_value(value)
            body = _encode(("reply", seq, value, cpu_ns))
        except (NotAValue, MemoryError):
            raise
        except Exception as error:  # the encoder's word for it, or a value that misbehaves while it is looked at
            check_value(value)
            raise NotAValue("$", text_of(error)) from None
        if len(body) > wire.RESULT_BYTES_MAX:
            size = len(_encode(value))
            if size > wire.RESULT_BYTES_MAX:
                raise NotAValue("$", f"{size} bytes are over the limit of {wire.RESULT_BYTES_MAX}")
        return body

    @staticmethod
    def _carried(params: dict[str, Any]) -> bytes:
        """``params`` encoded, nothing in them changed. Raises NotAValue, RecursionError."""
        if not is_plain(params):
            check_value(params)
        try:
            return _encode(params)
        except (TypeError, ValueError, OverflowError) as error:
            check_value(params)
            raise NotAValue("$", text_of(error)) from None

    def _run(self, call: wire.Call) -> Any:
        hook = self._hooks[call.hook]
        function = hook.function
        if hook.wants_params:
            try:
                params = _decode_params(call.params)
            except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
                raise _BadPayload(text_of(error)) from None
            if hook.fills_user:
                params.setdefault("userId", call.user_id)
            if hook.wants_context:
                result = function(context=self._context(call, hook), params=params)
            else:
                result = function(params=params)
        elif hook.wants_context:
            result = function(context=self._context(call, hook))
        else:
            result = function()
        if hook.is_async or inspect.iscoroutine(result):
            return self._finish(result)
        return result

    def _context(self, call: wire.Call, hook: Hook) -> sdk.HookContext:
        api = sdk.Api(self._ask, call.seq, hook.is_async)
        return sdk.HookContext(call.user_id, self._plugin, call.hook, call.deadline_ns, api, self._log)

    def _finish(self, coroutine: Any) -> Any:
        if self._loop is not None:
            return self._loop.run_until_complete(coroutine)
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        coroutine.close()
        raise RuntimeError("the hook awaited something that needs an event loop; import asyncio in the plugin")

    def _cancel(self, tasks: set[asyncio.Task[Any]]) -> None:
        """Ends what a call left running. What does not let itself be ended has no API any more (see ``_ask``)."""
        assert self._loop is not None
        for task in tasks:
            task.cancel()
        try:
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=LEFTOVER_SECONDS_MAX))
        except BaseException:  # noqa: BLE001 - a leftover's SystemExit is nobody's answer
            return

    def _ask(self, seq: int, method: str, params: dict[str, Any]) -> Any:
        """One API call: sent, and its answer waited for; calls that arrive meanwhile keep their order."""
        if seq != self._seq:
            raise sdk.ApiError("cancelled", "the call that this context belongs to is over", method=method)
        self._api_id += 1
        api_id = self._api_id
        try:
            raw = self._carried(params) if method in contract.CARRIED else _encode(params)
        except NotAValue as error:
            raise sdk.InvalidOutput("invalid_output", f"{error.path[:200]}: {text_of(error)}", method=method) from None
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise sdk.ApiError("invalid_params", text_of(error), method=method) from None
        if len(raw) > wire.API_PARAMS_BYTES_MAX:
            raise sdk.ApiError("too_large", f"a call's parameters have at most {wire.API_PARAMS_BYTES_MAX} bytes",
                               method=method)
        self._link.send(wire.ApiCall(seq, api_id, method, msgspec.Raw(raw)))
        waiting: deque[Any] = deque()
        while True:
            message = self._link.next()
            if message is None:
                os._exit(0)
            if type(message) is wire.ApiReply and message.api_id == api_id:
                break
            waiting.append(message)
        if waiting:
            self._link.put_back(waiting)
        if message.ok:
            return _decode_params(message.value)
        kind = _API_ERRORS.get(message.code, sdk.ApiError)
        raise kind(message.code, message.message, method=method, retry_after_ms=message.retry_after_ms)


def run(child: Child, layers: list[wire.LayerReport]) -> int:
    """Serves until the link ends; the process's exit status."""
    worker = Worker(child)
    worker.boot(layers)
    return worker.serve()
