"""Several calls at once in one engine: the loop of a worker whose plugin allows that.

The loop does one *step* of one call at a time: its beginning, a reply of the API, a timer, or a callback that another
call has made ready for it. Then it runs every job of the engine. So everything that happens until the next step belongs
to that call: API calls, lines of output, CPU time (``prelude/shared.js`` says why no other call's code can be among the
jobs).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from workers import wire
from workers.javascript.api_calls import ApiCalls, refused_call
from workers.javascript.values import read
from workers.runtime.interface import BadPayload, Host, Thrown
from workers.runtime.values import NotAValue

LOOK_NS = 5_000_000
"""At least this often the loop looks at the link between two steps, so that a probe is answered within its time
(``core/limits.py``, PROBE_NS) as long as no single step takes longer than that."""
WAIT_MS_MAX = 3_600_000.0
"""The longest wait for a timer in one piece: far beyond any deadline."""
NOBODY = -1
AGAIN = -2.0
"""Returned in place of a time to wait: the engine may have more to do, and there may be messages too."""
_URGENT = frozenset((wire.Cancel, wire.Ping))
_cpu_ns = time.thread_time_ns


class _Open:
    """One call that is not answered yet."""

    __slots__ = ("answer", "api", "cpu_ns", "has_ended", "seq")

    def __init__(self, seq: int, api: ApiCalls) -> None:
        self.seq = seq
        self.api = api
        self.cpu_ns = 0
        self.has_ended = False  # its answer is known: only code that it left behind still runs for it
        self.answer: tuple[dict[str, Any], str, bool] | None = None  # its answer, while API calls wait to be sent


class Engine(Protocol):
    """What serving several calls asks of the language's runtime (``runtime.JavaScript``)."""

    realm: Any
    errors: tuple[type[BaseException], ...]
    after: Callable[[], None]

    def arguments(self, call: wire.Call) -> tuple[str, str, bool, str, float]:
        """The arguments of the prelude's ``call``, except for the call's number. Raises BadPayload."""

    def value_of(self, message: dict[str, Any], text: str, is_odd: bool) -> Any:
        """The value of a hook's last message. Raises NotAValue, Thrown."""

    def tell_rejected(self) -> None:
        """Writes a line to the log about rejected promises that nobody has handled."""

    def drain(self) -> bool:
        """Runs every job, whatever it throws. Returns whether there was one."""

    def never(self) -> Thrown:
        """The answer of a call that waits for what nobody does."""

    def broken(self, error: BaseException) -> Thrown:
        """The answer of a call that one of ``errors`` has ended."""

    def out_of_memory(self) -> Thrown:
        """The answer of a call that memory did not suffice for."""


class SharedCalls:
    """Serves the calls of one worker. ``runtime`` has the engine, which learns of several calls before the plugin is
    loaded."""

    def __init__(self, runtime: Engine, host: Host) -> None:
        self._runtime = runtime
        self._host = host
        self._link = host.link
        self._open: dict[int, _Open] = {}
        self._looked_ns = 0

    def serve(self) -> int:
        """Serves until the link ends. Returns the exit status of the process."""
        link, inbox = self._link, self._link.inbox
        self._runtime.realm.engine.owner = None
        while True:
            wait_ms, timer = self._advance()
            self._look()
            if inbox:
                self._take(inbox.popleft())
                continue
            if wait_ms == AGAIN:
                continue
            message = link.next() if wait_ms < 0 else self._within(wait_ms)
            self._looked_ns = time.monotonic_ns()
            if message is not None:
                inbox.appendleft(message)  # put back, so that messages keep their order unless they are urgent
                self._hear()
            elif wait_ms < 0:
                return 0
            else:
                self._step(timer, self._runtime.realm.fire)

    def _within(self, wait_ms: float) -> Any:
        """The next message within ``wait_ms``. A message that was read comes before a timer that is due."""
        return self._link.within(min(wait_ms, WAIT_MS_MAX))

    # ------------------------------------------------------------------ the link
    def _look(self) -> None:
        now_ns = time.monotonic_ns()
        if now_ns - self._looked_ns > LOOK_NS:
            self._looked_ns = now_ns
            self._link.look()  # the link's end appears again when there is nothing left to do
            self._hear()

    def _hear(self) -> None:
        """Handles urgent messages out of turn: answers probes and cancels calls, before calls that arrived earlier
        begin."""
        inbox = self._link.inbox
        if not any(type(message) in _URGENT for message in inbox):
            return
        messages = list(inbox)
        inbox.clear()
        inbox.extend(message for message in messages if type(message) not in _URGENT)
        for message in messages:
            if type(message) is wire.Cancel:
                if message.nonce:
                    self._host.send(wire.Pong(message.nonce))
                self._cancel(message.seq)
            elif type(message) is wire.Ping:
                self._host.send(wire.Pong(message.nonce))

    def _take(self, message: Any) -> None:
        if type(message) is wire.Call:
            self._begin(message)
        elif type(message) is wire.ApiReply:
            self._reply(message)
        elif type(message) is wire.Grants:
            self._host.effects.grant(message)
        elif type(message) is wire.Recall:
            self._link.recalled.difference_update(message.seqs)  # these calls came before the recall, so they are over

    # ------------------------------------------------------------------ steps
    def _step(self, seq: int, function: Any, *arguments: Any) -> Any:
        """Does one step of the call ``seq``, and all jobs that follow from it. Returns what the function returned."""
        host, realm, engine = self._host, self._runtime.realm, self._runtime.realm.engine
        one = self._open.get(seq)
        if one is not None:
            host.seq, engine.owner = seq, None if one.has_ended else seq
        begun_ns = _cpu_ns()
        said = None
        try:
            said = function(*arguments)
            while realm.run_job():
                pass
        except self._runtime.errors as error:
            self._broke(one, error)
        finally:
            if one is not None:
                one.cpu_ns += _cpu_ns() - begun_ns
            host.seq, engine.owner = -1, None
        return said

    def _broke(self, one: _Open | None, error: BaseException) -> None:
        """Something was thrown that no JavaScript caught, as happens if memory runs out: ends the call whose step it
        was. The remaining jobs of the step are run."""
        self._runtime.drain()
        if one is not None and not one.has_ended:
            self._close(one, self._runtime.broken(error))

    def _advance(self) -> tuple[float, int]:
        """Does what the engine can do now. Returns for how many ms there is nothing to do unless a message comes (−1 is
        for ever), and the call whose timer comes next."""
        runtime, realm = self._runtime, self._runtime.realm
        while True:
            self._look()
            text = self._next()
            if text is None:
                if not self._open:
                    return -1.0, NOBODY
                self._close(self._without_room(), runtime.out_of_memory())
                continue
            try:
                message, is_odd = read(text)
            except NotAValue as error:
                self._refuse(text, error)
                continue
            kind = message["k"]
            if kind == "r" or kind == "x" or kind == "v":
                one = self._open.get(int(realm.whose()))
                if one is not None:
                    one.answer = message, text, is_odd
                    self._leave(one)
                    self._answer(one)
            elif kind == "a":
                if (one := self._open.get(message["seq"])) is not None:
                    self._step(one.seq, one.api.ask, message, text, is_odd)
            elif kind == "c":
                if (one := self._open.get(message["seq"])) is not None:
                    one.api.cancel(float(message["number"]))
            elif kind == "t":
                if (one := self._open.get(message["seq"])) is not None:
                    one.api.tried(message["method"])
            elif kind == "w":
                return float(message["ms"]), int(message["seq"]) if "seq" in message else NOBODY
            elif kind == "g":
                self._step(int(message["seq"]), realm.go)
            elif kind == "f":
                self._step(NOBODY, realm.rest)
            elif kind == "l":
                self._step(NOBODY, bool)  # its jobs
            elif kind == "n":
                if not self._open or self._link.inbox:
                    return (AGAIN if self._link.inbox else -1.0), NOBODY
                self._close(self._oldest(), runtime.never())  # it waits for something that will never come
            if self._link.inbox:
                return AGAIN, NOBODY  # calls begin as soon as they can

    def _next(self) -> Any:
        """What there is to do, as text; None if there is too little memory for that text."""
        try:
            return self._runtime.realm.step_of_all()
        except self._runtime.errors:
            return None

    def _without_room(self) -> _Open:
        """The call for whose answer there was no room; or else the oldest call, which is ended to free memory."""
        one = self._open.get(int(self._runtime.realm.whose()))
        return one if one is not None and one.answer is None else self._oldest()

    def _oldest(self) -> _Open:
        return next(iter(self._open.values()))

    def _refuse(self, text: str, error: NotAValue) -> None:
        """A message is nested too deeply to be read: the parameters of an API call, or a hook's value."""
        seq, number, method = refused_call(text)
        if seq == NOBODY:
            if (one := self._open.get(int(self._runtime.realm.whose()))) is not None:
                self._leave(one)
                del self._open[one.seq]
                self._host.failed(one.seq, error, one.cpu_ns)
        elif (one := self._open.get(seq)) is not None:
            self._step(seq, one.api.refuse_number, number, method, error)

    # ------------------------------------------------------------------ one call
    def _begin(self, call: wire.Call) -> None:
        if not self._host.begin(call):
            return
        realm = self._runtime.realm
        one = self._open[call.seq] = _Open(call.seq, ApiCalls(self._host, call.seq, realm.settle, realm.fire))
        begun_ns = _cpu_ns()
        try:
            arguments = self._runtime.arguments(call)
        except BadPayload as error:
            del self._open[call.seq]
            self._host.failed(call.seq, error, _cpu_ns() - begun_ns)
            return
        one.cpu_ns = _cpu_ns() - begun_ns
        self._step(call.seq, realm.call, *arguments, float(call.seq))

    def _reply(self, message: wire.ApiReply) -> None:
        for one in self._open.values():
            if message.api_id in one.api.open:
                self._step(one.seq, one.api.take, message)
                if one.answer is not None:
                    self._answer(one)
                return  # if no open call has asked for it, the call that did is over

    def _answer(self, one: _Open) -> None:
        """Answers a call whose hook has ended, unless API calls of it still wait to be sent."""
        if one.api.queue:
            return
        assert one.answer is not None
        del self._open[one.seq]
        try:
            value = self._runtime.value_of(*one.answer)
        except Exception as error:  # noqa: BLE001 - a NotAValue or a Thrown, or what a forged mark brings about
            self._host.failed(one.seq, error, one.cpu_ns)
        else:
            self._host.answer(one.seq, value, one.cpu_ns)
        self._runtime.after()

    def _leave(self, one: _Open) -> None:
        """The call has ended in the engine: runs the jobs that it left behind, which can make no API calls any more."""
        engine = self._runtime.realm.engine
        one.has_ended = True
        if engine.rejected:
            self._host.seq = engine.owner = one.seq
            self._runtime.tell_rejected()
            self._host.seq, engine.owner = -1, None
        self._step(one.seq, bool)  # its jobs

    def _close(self, one: _Open, error: Thrown) -> None:
        """Ends a call that has not ended by itself."""
        self._abandon(one)
        self._host.failed(one.seq, error, one.cpu_ns)
        self._runtime.after()

    def _cancel(self, seq: int) -> None:
        one = self._open.get(seq)
        if one is not None:
            self._abandon(one)
            self._host.ended(seq, one.cpu_ns)
            self._runtime.after()
        elif any(type(message) is wire.Call and message.seq == seq for message in self._link.inbox):
            self._link.recalled.add(seq)

    def _abandon(self, one: _Open) -> None:
        one.has_ended = True
        self._step(one.seq, self._runtime.realm.cancel, float(one.seq))
        self._leave(one)
        del self._open[one.seq]
