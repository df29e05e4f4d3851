"""Host methods: who provides which, and the calls that are out at a host. No sockets in here.

The first connection that provides a method keeps it until it ends. An answer counts only from the connection that was
asked: a host that could answer for another could speak as the platform.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from apex_exec.core.api import HostMethod
from apex_exec.core.policy import PREFIXES, permission_of
from apex_exec.daemon.connections import Peer
from apex_exec.errors import Code, WireError
from apex_exec.wire import messages as msg
from apex_exec.wire.values import TooDear, check_in_loop

METHODS_PER_PEER_MAX = 256
METHODS_MAX = 4096
"""Of all connections: 16 that provide as many as they may."""
REPLY_BYTES_MAX = 1024 * 1024

_encode = msgspec.msgpack.Encoder().encode

Answered = Callable[[bytes, str, str], None]
"""``(encoded result, "", "")``, or ``(b"", code, message)``."""


class _Out(msgspec.Struct):
    peer: Peer
    answered: Answered


class HostMethods:
    """``reply(peer, frames, body)`` sends a message to a host; ``anomaly(kind, peer)`` hears of what no host sends."""

    def __init__(self, reply: Callable[[Peer, list[bytes], bytes], None],
                 anomaly: Callable[[str, Peer], None]) -> None:
        self._reply = reply
        self._anomaly = anomaly
        self._providers: dict[str, Peer] = {}
        self._of: dict[Peer, list[str]] = {}
        self._out: dict[int, _Out] = {}
        self._next_call = 1

    def provide(self, peer: Peer, methods: list[str]) -> list[str]:
        """``peer`` offers ``methods``; those it serves now, in order. Raises WireError on any other name."""
        for method in methods:
            if len(method) > 100 or permission_of("call", HostMethod(method)) is None:
                known = ", ".join(f"{prefix}*" for prefix in PREFIXES)
                raise WireError(Code.INVALID_INPUT, f"{method[:100]!r} is no host method: {known}",
                                {"path": "$.methods"})
        held = len(self._of.get(peer, ()))
        new = {method for method in methods if method not in self._providers}
        if held + len(new) > METHODS_PER_PEER_MAX:
            raise WireError(Code.INVALID_INPUT, f"one connection provides at most {METHODS_PER_PEER_MAX} methods",
                            {"path": "$.methods"})
        if len(self._providers) + len(new) > METHODS_MAX:
            raise WireError(Code.OVERLOADED, f"all connections together provide at most {METHODS_MAX} methods")
        for method in new:
            self._providers[method] = peer
            self._of.setdefault(peer, []).append(method)
        return [method for method in methods if self._providers[method] is peer]

    def call(self, request: HostMethod, plugin: str, user_id: str, deadline_ms: int, answered: Answered) -> int:
        """Asks the provider; ``answered`` hears what came of it. The call's number; 0 where nobody provides it, or its
        parameters hold what the protocol's values do not."""
        peer = self._providers.get(request.method)
        if peer is None:
            answered(b"", "not_provided", f"no host provides {request.method}")
            return 0
        try:
            check_in_loop(bytes(request.params))  # what no host could read must not reach one
        except TooDear as dear:
            answered(b"", "too_large", f"$.params: {dear}")
            return 0
        except WireError as error:
            answered(b"", "invalid_output", error.message.replace("$", "$.params", 1))
            return 0
        number = self._next_call
        self._next_call += 1
        self._out[number] = _Out(peer, answered)
        self._reply(peer, [], _encode({
            "type": "hostCall", "callId": number, "method": request.method, "params": request.params,
            "plugin": plugin, "userId": user_id, "deadlineMs": deadline_ms}))
        return number

    def forget(self, number: int) -> None:
        """Nobody waits for this call any longer; its answer will be late."""
        self._out.pop(number, None)

    def host_reply(self, peer: Peer, reply: msg.HostReply) -> None:
        """``peer`` answers, or says it does."""
        out = self._out.get(reply.call_id)
        if out is None:
            self._anomaly("late_reply" if 0 < reply.call_id < self._next_call else "unknown_call_id", peer)
            return
        if out.peer is not peer:
            self._anomaly("foreign_reply", peer)
            return
        del self._out[reply.call_id]
        if reply.ok:
            body = bytes(reply.result)
            if len(body) > REPLY_BYTES_MAX:
                out.answered(b"", "too_large", f"the host's answer has more than {REPLY_BYTES_MAX} bytes")
            else:
                out.answered(body, "", "")
            return
        error: dict[str, Any] = reply.error or {}
        code, message = str(error.get("code", ""))[:64], str(error.get("message", ""))[:400]
        out.answered(b"", "host_error", ": ".join(part for part in (code, message) if part) or "the host refused")

    def peer_gone(self, peer: Peer) -> None:
        """It provides nothing any longer; what it was asked has no answer."""
        for method in self._of.pop(peer, ()):
            del self._providers[method]
        for number in [number for number, out in self._out.items() if out.peer is peer]:
            self._out.pop(number).answered(b"", "host_error", "the host disconnected before it answered")
