"""The worker's loop: take a call, mark it, run the hook, answer it in full, take the next.

A worker's CPU time for each call limits the rate of all calls, so the path of a call is short: one blocking read, one
byte to the marks pipe, one encoding of the whole answer, one write (`python -m benchmarks profile` measures it).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from workers import sdk, wire
from workers.jail import Child, ready_for_plugin
from workers.runtime.effects import Effects
from workers.runtime.failures import name_of, raised, text_of, thrown, trace_of, unsendable
from workers.runtime.interface import BadPayload, Declared, Languages, Runtime, Thrown
from workers.runtime.link import Link
from workers.runtime.output import Outlet, SharedOutlet
from workers.runtime.values import NotAValue, check_value, is_plain
from workers.zmtp import encode as frame

RESERVE_BYTES = 256 * 1024
"""Freed when memory runs out, so that the answer that reports this can be made. A block of zeros of this size is
address space that was never touched: it counts against the limit, but takes up no memory."""
LOOK_NS = 5_000_000
"""For this long, calls that were read and wait here begin without a look at the link, on which the supervisor may have
recalled one of them. A look is a system call, and short hooks should not pay for one in every call."""
_encode = msgspec.msgpack.Encoder().encode


class Worker:
    """One worker's state, and what its runtime sees of it (``interface.Host``). It runs one call at a time, and calls
    that arrive meanwhile wait in order, unless the runtime serves several calls at once (``Runtime.serve``)."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._marks = child.fds[1]
        self.link = Link(child.fds[0])
        self._outlet = Outlet(self.link.send)
        self._reserve = bytes(RESERVE_BYTES)
        self._run: Callable[[wire.Call], Any]
        self._after: Callable[[], None] | None = None
        self._serve: Callable[[], int] | None = None
        self.has_folder = child.scratch is not None
        self.seq = -1
        self.api_id = 0
        self.effects = Effects()
        self._tried = self.effects.open
        self.send: Callable[[Any], None] = self._send
        self.next: Callable[[], Any] = self.link.next
        self.within: Callable[[float], Any] = self.link.within
        self.put_back: Callable[[deque[Any]], None] = self.link.put_back
        self.line: Callable[[str, str], None] = self._outlet.line
        self.current: Callable[[], int] = self._current

    def _current(self) -> int:
        return self.seq

    def _whose(self) -> int:
        return self.current()  # looked up now, since a runtime may have replaced it

    def boot(self, layers: list[wire.LayerReport]) -> None:
        """Sends the greeting and the report of the jail. After that a worker may wait for its plugin for any time."""
        self.link.greet()
        self.link.send(wire.Booted(layers))

    def serve(self) -> int:
        """Loads the plugin, then answers calls until the link ends. Returns the exit status."""
        message = self.link.next()
        if type(message) is not wire.Load:
            return 0
        self.effects.load(message)
        is_concurrent = message.concurrent and message.mode == "serve"
        if is_concurrent:
            self._outlet = SharedOutlet(self.link.send, self._whose)
            self.line = self._outlet.line
        self._outlet.open()
        sys.stdout, sys.stderr = self._outlet.streams
        sys.__stdout__, sys.__stderr__ = self._outlet.streams  # type: ignore[assignment,misc]  # no other output
        ready_for_plugin(self._child, message.memory_bytes_max)
        if message.mode == "test":
            return Languages.of(message.entrypoint).make(self).test(message)
        if is_concurrent:
            signal.signal(wire.PROBE_SIGNAL, self._probed)
        if not self._load(message):
            return wire.EXIT_LOAD
        if is_concurrent and self._serve is not None:
            return self._serve()
        return 0 if message.mode == "probe" else self._calls()

    def _probed(self, _number: int, _frame: object) -> None:
        """The handler of PROBE_SIGNAL: reports which call's code it has interrupted, if any call's code is running."""
        seq = self.current()
        if seq >= 0 and not self.link.is_writing:
            self.link.send(wire.Blocked(seq))

    def _load(self, message: wire.Load) -> bool:
        try:
            runtime: Runtime = Languages.of(message.entrypoint).make(self)
            ready = self._ready(runtime.load(message))
            self._run, self._after, self._serve = runtime.run, runtime.after, runtime.serve
        except BaseException as error:
            self._reserve = b""
            self._outlet.close()
            self.link.send(self._load_failed(error))
            return False
        self._outlet.close()
        self.link.send(ready)
        return True

    @staticmethod
    def _load_failed(error: BaseException) -> wire.Failed:
        if type(error) is Thrown:
            return wire.Failed("load", "", error.name, error.text, error.trace)
        return wire.Failed("load", "", name_of(error), text_of(error), trace_of(error))

    @staticmethod
    def _ready(declared: Declared) -> wire.Ready:
        return wire.Ready(declared.id, declared.version, declared.hooks, declared.permissions, declared.uses_loop)

    def _calls(self) -> int:
        link, marks, take, after = self.link, self._marks, self.link.next, self._after
        inbox, recalled = link.inbox, link.recalled
        write_mark, clock = os.write, time.monotonic_ns
        looked_ns = 0
        while True:
            waited = len(inbox)
            if (call := take()) is None:
                return 0
            if type(call) is wire.Call:
                write_mark(marks, b"\x01")  # before the clock is read: a call without a mark will see its deadline
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
                    if after is not None:
                        after()
            elif type(call) is wire.Ping:
                link.send(wire.Pong(call.nonce))
            elif type(call) is wire.Recall:
                recalled.difference_update(call.seqs)  # these calls came before the recall, so they are over
            elif type(call) is wire.Grants:
                self.effects.grant(call)
            elif type(call) is wire.Cancel and call.nonce:  # a language without ``serve``: that call is over by now
                link.send(wire.Pong(call.nonce))

    def _answer(self, call: wire.Call) -> bytes:
        """Runs the hook and returns the framed answer to the call. There is an answer whatever the hook does."""
        self.seq = seq = call.seq
        self._outlet.open(seq)
        begun_ns = time.thread_time_ns()  # not the process's clock, which the kernel counts in ticks under RLIMIT_CPU
        try:
            value = self._run(call)
            answer = frame(self._encoded(seq, value, time.thread_time_ns() - begun_ns))
            if self._tried:
                answer = self.effects.ended(seq) + answer
        except BaseException as error:
            answer = self._failed(seq, error, time.thread_time_ns() - begun_ns)
        self._outlet.close(seq)
        self.seq = -1
        if not self._reserve:
            self._refill()
        return answer

    def _failed(self, seq: int, error: BaseException, cpu_ns: int) -> bytes:
        """The framed answer to a call that failed, with the effects that it has tried in front of it."""
        answer = frame(self._failure(seq, error, cpu_ns))
        if self._tried:
            with contextlib.suppress(MemoryError):
                return self.effects.ended(seq) + answer
        return answer

    def _send(self, message: Any) -> None:
        """Writes one message, and before an API call the effects that its hook has made so far."""
        if type(message) is wire.ApiCall and (tried := self.effects.called(message.seq)):
            self.link.write(tried + frame(_encode(message)))
        else:
            self.link.send(message)

    def _failure(self, seq: int, error: BaseException, cpu_ns: int) -> bytes:
        """The answer to a call that failed because of its hook, its payload or its value."""
        kind = type(error)  # isinstance would run code of the plugin's exception
        if issubclass(kind, NotAValue):
            path = error.path[:200]  # type: ignore[attr-defined]  # a NotAValue has it
            return _encode(wire.BadOutput(seq, path, text_of(error), cpu_ns))
        if issubclass(kind, BadPayload):
            return _encode(wire.BadInput(seq, text_of(error)[:200], cpu_ns))
        if issubclass(kind, Thrown):
            if error.memory:  # type: ignore[attr-defined]  # Thrown has it
                self._reserve = b""
            return _encode(thrown(seq, error, cpu_ns))  # type: ignore[arg-type]  # it is a Thrown
        if issubclass(kind, sdk.InvalidOutput):
            return _encode(unsendable(seq, error, cpu_ns))  # type: ignore[arg-type]  # it is an InvalidOutput
        if issubclass(kind, MemoryError):
            self._reserve = b""
        return _encode(raised(seq, error, cpu_ns))

    # ------------------------------------------------------------------ several calls at once
    def begin(self, call: wire.Call) -> bool:
        """Counts the call as started. False if it must not run; then it has been answered."""
        link, seq = self.link, call.seq
        os.write(self._marks, b"\x01")  # before the clock is read: a call without a mark will see its deadline
        if time.monotonic_ns() >= call.deadline_ns or seq in link.recalled:
            link.recalled.discard(seq)
            link.send(wire.Skipped(seq))
            return False
        self._outlet.open(seq)
        return True

    def answer(self, seq: int, value: Any, cpu_ns: int) -> None:
        """Answers a call with what its hook returned."""
        try:
            answer = frame(self._encoded(seq, value, cpu_ns))
            if self._tried:
                answer = self.effects.ended(seq) + answer
        except BaseException as error:
            answer = self._failed(seq, error, cpu_ns)
        self._over(seq, answer)

    def failed(self, seq: int, error: BaseException, cpu_ns: int) -> None:
        """Answers a call with what its hook raised."""
        self._over(seq, self._failed(seq, error, cpu_ns))

    def ended(self, seq: int, cpu_ns: int) -> None:
        """Answers a call that was cancelled."""
        answer = frame(_encode(wire.Ended(seq, cpu_ns)))
        self._over(seq, self.effects.ended(seq) + answer if self._tried else answer)

    def _over(self, seq: int, answer: bytes) -> None:
        self._outlet.close(seq)
        self.link.write(answer)
        if not self._reserve:
            self._refill()

    def _refill(self) -> None:
        try:
            self._reserve = bytes(RESERVE_BYTES)
        except MemoryError:
            return  # the plugin still holds all the memory; after the next call there may be some

    @staticmethod
    def _encoded(seq: int, value: Any, cpu_ns: int) -> bytes:
        """The encoded ``wire.Reply``, with ``value`` encoded inside it. Raises NotAValue, MemoryError."""
        try:
            if not is_plain(value):
                check_value(value)
            body = _encode(("reply", seq, value, cpu_ns))
        except (NotAValue, MemoryError):
            raise
        except Exception as error:  # the encoder's own error, or a value that raises while it is looked at
            check_value(value)
            raise NotAValue("$", text_of(error)) from None
        if len(body) > wire.RESULT_BYTES_MAX:
            size = len(_encode(value))
            if size > wire.RESULT_BYTES_MAX:
                raise NotAValue("$", f"{size} bytes are over the limit of {wire.RESULT_BYTES_MAX}")
        return body



def run(child: Child, layers: list[wire.LayerReport]) -> int:
    """Serves until the link ends. Returns the process's exit status."""
    worker = Worker(child)
    worker.boot(layers)
    return worker.serve()
