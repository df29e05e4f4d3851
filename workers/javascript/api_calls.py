"""The API calls of one hook: sent as the hook makes them, eight at once, and settled as their replies arrive."""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from workers import contract, wire
from workers.effect_rules import EffectRefused
from workers.javascript.values import from_json, to_json
from workers.runtime.failures import text_of
from workers.runtime.interface import Host
from workers.runtime.values import NotAValue

AT_ONCE = contract.API_AT_ONCE
WAIT_MS_MAX = 3_600_000.0
"""The longest wait for a timer in one piece: far beyond any deadline."""

API_CALL = '{"k":"a","number":'
"""How the prelude's message of an API call begins; the number follows."""

_encode = msgspec.msgpack.Encoder().encode
_json = msgspec.json.Encoder().encode
_HEAD = re.compile(r'\{"k":"a","number":(\d+),(?:"seq":(\d+),)?(?:"method":"([a-zA-Z.]+)")?')


def refused_call(text: str) -> tuple[int, float, str]:
    """Reads (call, or -1; number in the engine; method) of a message whose parameters are nested too deeply to be
    read."""
    match = _HEAD.match(text)
    return (int(match[2] or -1), float(match[1]), match[3] or "") if match else (-1, 0.0, "")


class ApiCalls:
    """``settle(number, ok, text, marked)`` and ``fire()`` are the prelude's: they settle the promise of a call, and run
    a timer that is due."""

    def __init__(self, host: Host, seq: int, settle: Callable[..., Any], fire: Callable[[], Any]) -> None:
        self._host = host
        self._seq = seq
        self._settle = settle
        self._fire = fire
        self.open: dict[int, float] = {}
        """The calls that are under way: number on the link → number in the engine."""
        self.queue: deque[tuple[float, str, bytes]] = deque()
        """The calls that wait for their turn."""

    def ask(self, message: dict[str, Any], text: str, is_odd: bool) -> None:
        """Sends a call that the hook has made, or lets it wait for its turn. An effect is noted, and settled at
        once."""
        number, method = float(message["number"]), message["method"]
        if method in contract.EFFECTS:
            self._make(number, method, message, text, is_odd)
            return
        try:
            raw = _encode(from_json(message.get("params"), text, is_odd))
        except NotAValue as error:
            self.refuse_number(number, method, error)
            return
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            self._reject(number, "invalid_params", text_of(error))
            return
        if len(raw) > wire.API_PARAMS_BYTES_MAX:
            self._reject(number, "too_large", f"a call's parameters have at most {wire.API_PARAMS_BYTES_MAX} bytes")
        elif len(self.open) < AT_ONCE:
            self._send(number, method, raw)
        else:
            self.queue.append((number, method, raw))

    def _make(self, number: float, method: str, message: dict[str, Any], text: str, is_odd: bool) -> None:
        try:
            params = from_json(message.get("params"), text, is_odd)
        except NotAValue as error:
            self.refuse_number(number, method, error)
            return
        try:
            self._host.effects.make(self._seq, method, params)
        except EffectRefused as refused:
            self._reject(number, refused.code, text_of(refused))
        else:
            self._settle(number, True, "null", False)

    def tried(self, method: str) -> None:
        """Notes an effect that was refused because a value in it cannot be carried."""
        self._host.effects.refused(self._seq, method, "invalid_output")

    def cancel(self, number: float) -> None:
        """Ends a call for which the hook waits no longer; if it has not been sent, it never is."""
        for api_id, open_ in self.open.items():
            if open_ == number:
                del self.open[api_id]
                self._host.send(wire.ApiCancel(self._seq, api_id))
                if self.queue:
                    self._send(*self.queue.popleft())
                return
        self.queue = deque(call for call in self.queue if call[0] != number)

    def refuse(self, text: str, error: NotAValue) -> None:
        """Rejects the promise of the API call ``text``, whose parameters cannot be carried: ``error`` says why."""
        _, number, method = refused_call(text)
        self.refuse_number(number, method, error)

    def refuse_number(self, number: float, method: str, error: NotAValue) -> None:
        """The same, where the call's number in the engine is known."""
        if method in contract.EFFECTS:
            self.tried(method)
        self._reject(number, "invalid_output", f"{error.path[:200]}: {text_of(error)}")

    def wait(self, ms: float) -> None:
        """Waits for the next reply and settles its promise, or for at most ``ms`` and fires a timer. Below zero there
        is no timer. A reply that has arrived comes before a timer that is due, or timers that follow each other without
        a pause would keep it waiting for ever. Calls that arrive meanwhile keep their turn."""
        host = self._host
        due_ns = 0 if ms < 0 else time.monotonic_ns() + int(min(ms, WAIT_MS_MAX) * 1e6)
        others: deque[Any] = deque()
        while True:
            left_ms = max((due_ns - time.monotonic_ns()) / 1e6, 0.0)
            message = host.within(left_ms) if due_ns else host.next()
            if type(message) is wire.ApiReply:
                if message.api_id in self.open:  # if it is not, the call that asked for it is over
                    self.take(message)
                    break
            elif message is not None:
                others.append(message)
            elif not due_ns:
                os._exit(0)  # the link's end
            elif left_ms == 0.0:
                self._fire()
                break
        if others:
            host.put_back(others)

    def send_the_rest(self) -> None:
        """Sends what the hook has asked for and nobody waits for, before its answer. The replies are nobody's."""
        while self.queue:
            self.wait(-1)

    def take(self, reply: wire.ApiReply) -> None:
        """Settles the promise of the call that ``reply`` answers, which is among ``open``, and sends the next one."""
        number = self.open.pop(reply.api_id)
        if self.queue:
            self._send(*self.queue.popleft())
        if reply.ok:
            self._settle(number, True, *to_json(bytes(reply.value)))
        else:
            self._reject(number, reply.code, reply.message, reply.retry_after_ms)

    def _send(self, number: float, method: str, raw: bytes) -> None:
        self._host.api_id += 1
        self.open[self._host.api_id] = number
        self._host.send(wire.ApiCall(self._seq, self._host.api_id, method, msgspec.Raw(raw)))

    def _reject(self, number: float, code: str, message: str, retry_after_ms: int = 0) -> None:
        told = {"code": code, "message": message, "retry": retry_after_ms}
        self._settle(number, False, _json(told).decode(), False)
