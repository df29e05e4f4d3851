"""Plugins in Python: a hook is a function of the plugin's module, called in the interpreter that the worker is.

The path of a call is short: decode the parameters, call the function.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping
from types import CodeType, FunctionType
from typing import Any

import msgspec

from workers import contract, sdk, wire
from workers.effect_rules import EffectRefused
from workers.python.concurrent import Concurrent
from workers.python.loader import load
from workers.python.pending import Calls
from workers.python.preload import preload
from workers.runtime.failures import text_of
from workers.runtime.interface import BadPayload, Declared, Host
from workers.runtime.output import LogHandler
from workers.runtime.values import NotAValue, encoded

LEFTOVER_SECONDS_MAX = 0.01
"""How long tasks that a call left behind may take to be cancelled, before the next call begins."""


_encode = msgspec.msgpack.Encoder().encode
_decode_params = msgspec.msgpack.Decoder().decode
_API_ERRORS = {"permission_denied": sdk.PermissionDenied, "rate_limited": sdk.RateLimited,
               "deadline_exceeded": sdk.DeadlineExceeded, "invalid_output": sdk.InvalidOutput}


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


class Python:
    """The plugin's hooks and its event loop, if it has one. See ``workers.runtime.interface.Runtime``."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._log = logging.getLogger("plugin")
        self._plugin = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self.hooks: dict[str, Hook] = {}
        """The plugin's hooks by name."""
        self._calls: Calls | None = None
        self.after: Callable[[], None] | None = None
        self.serve: Callable[[], int] | None = None
        self._concurrent: Concurrent | None = None

    def load(self, message: wire.Load) -> Declared:
        """Imports the plugin. Raises LoadError, or whatever its code raises."""
        self._log.setLevel(logging.DEBUG)
        self._log.addHandler(LogHandler(self._host.line))
        self._log.propagate = False
        loaded = load(message, self.compiled(message))
        self.hooks = {name: Hook(name, function) for name, function in loaded.hooks.items()}
        self._plugin = loaded.id
        if message.concurrent and message.mode == "serve":
            loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
            self._concurrent = Concurrent(self._host, self, loop)
            self.serve = self._concurrent.serve
        elif loaded.uses_loop:
            self._loop = asyncio.new_event_loop()
            self.after = self._end_leftovers
        return Declared(loaded.id, loaded.version, sorted(loaded.permissions), sorted(loaded.hooks), loaded.uses_loop)

    def compiled(self, _message: wire.Load) -> Mapping[str, CodeType] | None:
        """Code that the bundle's files were already compiled to, by path; a debugger's worker has its own."""
        return None

    def test(self, message: wire.Load) -> int:
        """Runs the bundle's tests with pytest, which only the test zygote has loaded."""
        testing: Any = sys.modules["workers.testing"]
        return int(testing.run(message, self._host.link, has_folder=self._host.has_folder))

    def run(self, call: wire.Call) -> Any:
        """Calls the hook, to its end. Raises BadPayload, or whatever it raises."""
        hook = self.hooks[call.hook]
        result = self.invoke(call, hook)
        if hook.is_async or inspect.iscoroutine(result):
            return self._finish(result)
        return result

    def invoke(self, call: wire.Call, hook: Hook) -> Any:
        """Calls the hook's function. Returns its value, or a coroutine. Raises BadPayload, or whatever it raises."""
        function = hook.function
        if hook.wants_params:
            try:
                params = _decode_params(call.params)
            except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
                raise BadPayload(text_of(error)) from None
            if hook.fills_user:
                params.setdefault("userId", call.user_id)
            if hook.wants_context:
                return function(context=self._context(call, hook), params=params)
            return function(params=params)
        if hook.wants_context:
            return function(context=self._context(call, hook))
        return function()

    def _context(self, call: wire.Call, hook: Hook) -> sdk.HookContext:
        seq = call.seq
        if self._concurrent is not None:
            if hook.is_async:
                api: sdk.Api = sdk.ConcurrentApi(self._concurrent.ask, seq, self._concurrent.effect)
            else:
                api = sdk.Api(self._concurrent.ask_alone, seq, False, self._concurrent.effect)
        elif hook.is_async and self._loop is not None:
            self._calls = Calls(self._host, self._loop, seq, self.encoded, self.read)
            api = sdk.Api(self._ask, seq, True, self._effect, self._calls.begin)
        else:
            api = sdk.Api(self._ask, seq, hook.is_async, self._effect)
        return sdk.HookContext(call.user_id, self._plugin, call.hook, call.deadline_ns, api, self._log, call.settings)

    def _finish(self, coroutine: Any) -> Any:
        if self._loop is not None:
            calls, self._calls = self._calls, None
            try:
                return self._loop.run_until_complete(coroutine)
            finally:
                if calls is not None:
                    calls.finish()
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        coroutine.close()
        raise RuntimeError("the hook awaited something that needs an event loop; import asyncio in the plugin")

    def _end_leftovers(self) -> None:
        assert self._loop is not None
        if left := asyncio.all_tasks(self._loop):
            self._cancel(left)

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
        """One API call of a worker that runs one call after the other. Raises ApiError."""
        if seq != self._host.seq:
            raise sdk.ApiError("cancelled", "the call that this context belongs to is over", method=method)
        return self.exchange(seq, method, params)

    def _effect(self, seq: int, method: str, params: dict[str, Any]) -> None:
        """Notes an effect of the hook that runs. Raises ApiError."""
        if seq != self._host.seq:
            raise sdk.ApiError("cancelled", "the call that this context belongs to is over", method=method)
        self.effect(seq, method, params)

    def effect(self, seq: int, method: str, params: dict[str, Any]) -> None:
        """Notes an effect, which the answer to call ``seq`` takes along. Raises ApiError."""
        try:
            self._host.effects.make(seq, method, params)
        except EffectRefused as refused:
            kind = _API_ERRORS.get(refused.code, sdk.ApiError)
            raise kind(refused.code, text_of(refused), method=method) from None

    def exchange(self, seq: int, method: str, params: dict[str, Any]) -> Any:
        """One API call: sent, and its answer waited for; what arrives meanwhile keeps its order. Raises ApiError."""
        raw = self.encoded(method, params)
        host = self._host
        host.api_id += 1
        api_id = host.api_id
        host.send(wire.ApiCall(seq, api_id, method, msgspec.Raw(raw)))
        waiting: deque[Any] = deque()
        while True:
            message = host.next()
            if message is None:
                os._exit(0)
            if type(message) is wire.ApiReply and message.api_id == api_id:
                break
            waiting.append(message)
        if waiting:
            host.put_back(waiting)
        return self.read(message, method)

    def encoded(self, method: str, params: dict[str, Any]) -> bytes:
        """The parameters of an API call as they travel. Raises ApiError."""
        try:
            raw = encoded(params) if method in contract.CARRIED else _encode(params)
        except NotAValue as error:
            raise sdk.InvalidOutput("invalid_output", f"{error.path[:200]}: {text_of(error)}", method=method) from None
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise sdk.ApiError("invalid_params", text_of(error), method=method) from None
        if len(raw) > wire.API_PARAMS_BYTES_MAX:
            raise sdk.ApiError("too_large", f"a call's parameters have at most {wire.API_PARAMS_BYTES_MAX} bytes",
                               method=method)
        return raw

    @staticmethod
    def read(reply: wire.ApiReply, method: str) -> Any:
        """The result of an API call. Raises ApiError."""
        if reply.ok:
            return _decode_params(reply.value)
        kind = _API_ERRORS.get(reply.code, sdk.ApiError)
        raise kind(reply.code, reply.message, method=method, retry_after_ms=reply.retry_after_ms)


def prepare(boot: dict[str, Any]) -> None:
    """Loads, in the zygote, what plugins may import."""
    preload(boot)


def make(host: Host) -> Python:
    """Returns the runtime of one worker."""
    return Python(host)
