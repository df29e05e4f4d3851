"""The worker's loop: take a call, mark it, run the hook, answer it in full, take the next."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
import logging
import math
import os
import select
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from workers import sdk, wire
from workers.jail import Child, limit_memory
from workers.loader import Loaded, load
from workers.zmtp import Zmtp, encode

INT_MAX = 2**53 - 1

_decode = msgspec.msgpack.Decoder(wire.ToWorker).decode
_encode = msgspec.msgpack.Encoder().encode
_decode_params = msgspec.msgpack.Decoder().decode


class _NotAValue(Exception):
    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


def check_value(value: Any, path: str = "$", depth: int = 0) -> None:
    """Raises where ``value`` holds what the protocol cannot carry. Courtesy: the supervisor checks again."""
    if value is None or isinstance(value, bool | str | bytes):
        return
    if depth > wire.DEPTH_MAX:
        raise _NotAValue(path[:200], f"nested deeper than {wire.DEPTH_MAX} levels")
    if isinstance(value, int):
        if not -INT_MAX <= value <= INT_MAX:
            raise _NotAValue(path, "an integer beyond ±(2^53−1)")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _NotAValue(path, "a float that is not finite")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_value(item, f"{path}[{index}]", depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise _NotAValue(path, "a map key that is not a string")
            check_value(item, f"{path}.{key[:64]}", depth + 1)
    elif not (isinstance(value, datetime) and value.tzinfo is not None):
        raise _NotAValue(path, f"a {type(value).__name__}, which MessagePack cannot carry here")


class _Output(io.TextIOBase):
    """stdout and stderr of the plugin: whole lines become Log messages, cut at LOG_BYTES_MAX."""

    def __init__(self, level: str, send: Callable[[Any], None]) -> None:
        self._level = level
        self._send = send
        self._line = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._line += text
        while "\n" in self._line or len(self._line) > wire.LOG_BYTES_MAX:
            line, _, self._line = self._line.partition("\n")
            self._send(wire.Log(self._level, line[: wire.LOG_BYTES_MAX]))
        return len(text)


class _LogHandler(logging.Handler):
    def __init__(self, send: Callable[[Any], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send(wire.Log(record.levelname.lower(), record.getMessage()[: wire.LOG_BYTES_MAX]))


class Worker:
    """One worker's state. One call at a time; calls that arrive meanwhile wait in order."""

    def __init__(self, child: Child) -> None:
        fds = child.fds
        self._statm = child.statm
        self._link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fds[0])
        self._link.setblocking(False)
        self._marks = fds[1]
        self._death = fds[2]
        self._zmtp = Zmtp(frame_bytes_max=wire.FRAME_BYTES_MAX)
        self._inbox: deque[Any] = deque()  # bounded by the supervisor's prefetch
        self._api_id = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._arguments: dict[str, tuple[bool, bool, bool]] = {}

    def send(self, message: Any) -> None:
        """Writes one message in full."""
        self._write(encode(_encode(message)))

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[self._link.send(data) :]
            except BlockingIOError:
                select.select([], [self._link], [])

    def start(self, layers: list[wire.LayerReport]) -> None:
        """Greets and reports the jail."""
        self._write(self._zmtp.greeting())
        self.send(wire.Booted(layers))

    def _next(self) -> Any:
        """The next message; waits for it. None at the link's end."""
        while not self._inbox:
            try:
                data = self._link.recv(self._zmtp.read_bytes)
            except BlockingIOError:
                ready, _, _ = select.select([self._link.fileno(), self._death], [], [])
                if self._death in ready:
                    os._exit(0)
                continue
            if not data:
                return None
            self._inbox.extend(map(_decode, self._zmtp.feed(data)))
        return self._inbox.popleft()

    def serve(self) -> int:
        """Loads the plugin, then answers calls until the link ends. Returns the exit status."""
        message = self._next()
        if not isinstance(message, wire.Load):
            return 0
        sys.stdout, sys.stderr = _Output("stdout", self.send), _Output("stderr", self.send)
        limit_memory(self._statm, message.memory_bytes_max)
        if message.mode == "test":
            return int(sys.modules["workers.testing"].run(message, self.send))  # loaded in the test zygote only
        try:
            loaded = load(message)
        except BaseException as error:
            self.send(wire.Failed("load", "", type(error).__name__, _text(error), _trace(error)))
            return 71
        log = logging.getLogger("plugin")
        log.setLevel(logging.DEBUG)
        log.addHandler(_LogHandler(self.send))
        log.propagate = False
        for name, function in loaded.hooks.items():
            names = inspect.signature(function).parameters
            self._arguments[name] = ("context" in names, "params" in names, inspect.iscoroutinefunction(function))
        if loaded.uses_loop:
            self._loop = asyncio.new_event_loop()
        self.send(wire.Ready(loaded.id, loaded.version, sorted(loaded.hooks), sorted(loaded.permissions),
                             loaded.uses_loop))
        if message.mode == "probe":
            return 0
        while (call := self._next()) is not None:
            if isinstance(call, wire.Call):
                os.write(self._marks, b"\x01")
                if time.monotonic_ns() >= call.deadline_ns:
                    self.send(wire.Skipped(call.seq))
                else:
                    self._write(self._run(loaded, call, log))
            elif isinstance(call, wire.Ping):
                self.send(wire.Pong(call.nonce))
        return 0

    def _run(self, loaded: Loaded, call: wire.Call, log: logging.Logger) -> bytes:
        """The encoded answer to one call."""
        begun_ns = time.process_time_ns()
        answer: Any
        try:
            value = self._hook(loaded, call, log)
            check_value(value)
            raw = msgspec.msgpack.encode(value)
            if len(raw) > wire.RESULT_BYTES_MAX:
                raise _NotAValue("$", f"{len(raw)} bytes are over the limit of {wire.RESULT_BYTES_MAX}")
            answer = wire.Reply(call.seq, msgspec.Raw(raw), time.process_time_ns() - begun_ns)
        except _NotAValue as error:
            answer = wire.BadOutput(call.seq, error.path, str(error), time.process_time_ns() - begun_ns)
        except BaseException as error:
            cpu_ns = time.process_time_ns() - begun_ns
            answer = wire.Raised(call.seq, type(error).__name__, _text(error), _trace(error), cpu_ns)
            if isinstance(error, sdk.ApiError):
                answer.api_code, answer.api_method = str(error.code)[:64], str(error.method)[:100]
                if isinstance(error.retry_after_ms, int):
                    answer.retry_after_ms = max(0, min(error.retry_after_ms, 2**31))
            answer.memory = isinstance(error, MemoryError)
        return encode(_encode(answer))

    def _hook(self, loaded: Loaded, call: wire.Call, log: logging.Logger) -> Any:
        function = loaded.hooks[call.hook]
        wants_context, wants_params, is_async = self._arguments[call.hook]
        arguments: dict[str, Any] = {}
        if wants_context:
            api = sdk.Api(self._ask, call.seq, is_async)
            arguments["context"] = sdk.HookContext(call.user_id, loaded.id, call.hook, call.deadline_ns, api, log)
        if wants_params:
            params = _decode_params(call.params)
            if call.hook in ("onDashboardLoad", "onAuthSuccess"):
                params.setdefault("userId", call.user_id)
            arguments["params"] = params
        result = function(**arguments)
        if not is_async:
            return result
        if self._loop is not None:
            return self._loop.run_until_complete(result)
        try:
            result.send(None)
        except StopIteration as stop:
            return stop.value
        result.close()
        raise RuntimeError("the hook awaited something that needs an event loop; import asyncio in the plugin")

    def _ask(self, seq: int, method: str, params: dict[str, Any]) -> Any:
        """One API call: sent, and its answer waited for; calls that arrive meanwhile keep their order."""
        self._api_id += 1
        api_id = self._api_id
        try:
            raw = msgspec.msgpack.encode(params)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise sdk.ApiError("invalid_params", _text(error), method=method) from None
        if len(raw) > wire.API_PARAMS_BYTES_MAX:
            raise sdk.ApiError("too_large", f"a call's parameters have at most {wire.API_PARAMS_BYTES_MAX} bytes",
                               method=method)
        self.send(wire.ApiCall(seq, api_id, method, msgspec.Raw(raw)))
        waiting: deque[Any] = deque()
        while True:
            message = self._next()
            if message is None:
                os._exit(0)
            if isinstance(message, wire.ApiReply) and message.api_id == api_id:
                waiting.extend(self._inbox)
                self._inbox = waiting
                break
            waiting.append(message)
        if message.ok:
            return _decode_params(message.value)
        kinds = {"permission_denied": sdk.PermissionDenied, "rate_limited": sdk.RateLimited,
                 "deadline_exceeded": sdk.DeadlineExceeded}
        raise kinds.get(message.code, sdk.ApiError)(message.code, message.message, method=method,
                                                    retry_after_ms=message.retry_after_ms)


def _text(error: BaseException) -> str:
    with contextlib.suppress(BaseException):  # a hostile __str__ must not break the answer
        return str(error)[:1000]
    return "(the exception's text could not be had)"


def _trace(error: BaseException) -> str:
    with contextlib.suppress(BaseException):
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("/")]
        return "".join(traceback.format_list(frames))[-wire.TRACEBACK_BYTES_MAX :]
    return ""


def run(child: Child, layers: list[wire.LayerReport]) -> int:
    """Serves until the link ends; the process's exit status."""
    worker = Worker(child)
    worker.start(layers)
    return worker.serve()
