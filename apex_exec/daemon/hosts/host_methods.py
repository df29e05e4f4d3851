"""Host methods: who provides which, and the calls that are out at a host. No sockets in here.

Several connections may provide a method: the first serves, the others stand by in the order in which they came. Where
the first ends, the next serves from that moment on. Where none is left, calls wait for one that comes back, since hosts
are restarted; what was asked of a connection that ended may have taken effect, so it is not asked again. An answer
counts only from the connection that was asked: a host that could answer for another could speak as the platform.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from apex_exec.catalogue.methods import HostMethod
from apex_exec.catalogue.permissions import PREFIXES
from apex_exec.core.limits import MS_NS
from apex_exec.core.policy import permission_of
from apex_exec.daemon.hosts.connections import Peer
from apex_exec.errors import Code, WireError
from apex_exec.wire import messages as msg
from apex_exec.wire.hooks import is_decodable
from apex_exec.wire.values import TooDear, check_in_loop

METHODS_PER_PEER_MAX = 256
METHODS_MAX = 4096
"""Of all connections, each of their methods counted: 16 that provide as many as they may."""
ABSENT_NS = 10_000_000_000
"""How long calls of a method wait for a provider after its last one has gone, within their own time. Then nobody is
expected, and they are answered at once, as those of a method that was never provided."""
WAITING_MAX = 1024
"""Calls of all plugins that wait for a provider; one more is answered at once."""
WAITING_PER_PLUGIN_MAX = 64
"""Those of one plugin, so that a plugin that has as many waiting as it may leaves room for the others."""
REPLY_BYTES_MAX = 1024 * 1024
NODES_WORDS = ("not_provided", "host_lost", "deadline_exceeded")
"""Codes of the plugins' API that another node may answer, where its host did not."""

_encode = msgspec.msgpack.Encoder().encode

Answered = Callable[[bytes, str, str], None]
"""``(encoded result, "", "")``, or ``(b"", code, message)``."""


class _Out(msgspec.Struct):
    """One call without its answer. ``peer`` is None until a host was asked."""

    answered: Answered
    method: str
    plugin: str
    due_ns: int
    message: dict[str, Any]
    peer: Peer | None = None


class HostMethods:
    """``anomaly(kind, peer)`` is called for what no host should send; ``clock_ns`` is CLOCK_MONOTONIC."""

    def __init__(self, anomaly: Callable[[str, Peer], None], clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._anomaly = anomaly
        self._clock_ns = clock_ns
        self._providers: dict[str, list[Peer]] = {}  # method → who serves it, then who stands by
        self._of: dict[Peer, list[str]] = {}
        self._count = 0
        self._absent: dict[str, int] = {}  # method without a provider → until when one is waited for
        self._waiting: dict[str, list[int]] = {}  # the same → its calls, the oldest first
        self._waiting_of: Counter[str] = Counter()  # plugin → how many of those calls are its own
        self._out: dict[int, _Out] = {}
        self._next_call = 1

    # ------------------------------------------------------------------ providers
    def provide(self, peer: Peer, methods: list[str]) -> tuple[list[str], list[str]]:
        """``peer`` offers ``methods``; (those it serves now, those it stands by for), in order. What waits for one of
        them is sent to it. Raises WireError on any other name."""
        for method in methods:
            if len(method) > 100 or permission_of("call", HostMethod(method)) is None:
                known = ", ".join(f"{prefix}*" for prefix in PREFIXES)
                raise WireError(Code.INVALID_INPUT, f"{method[:100]!r} is not a host method: {known}",
                                {"path": "$.methods"})
        held = self._of.get(peer, [])
        new = [method for method in dict.fromkeys(methods) if method not in held]
        if len(held) + len(new) > METHODS_PER_PEER_MAX:
            raise WireError(Code.INVALID_INPUT, f"one connection can provide at most {METHODS_PER_PEER_MAX} methods",
                            {"path": "$.methods"})
        if self._count + len(new) > METHODS_MAX:
            raise WireError(Code.OVERLOADED, f"all connections together can provide at most {METHODS_MAX} methods")
        self._count += len(new)
        for method in new:
            self._of.setdefault(peer, []).append(method)
            self._providers.setdefault(method, []).append(peer)
            self._absent.pop(method, None)
            for number in self._end_wait(method):
                if (out := self._out.get(number)) is not None:
                    self._send(number, out, peer)
        serves = [method for method in methods if self._providers[method][0] is peer]
        return serves, [method for method in methods if self._providers[method][0] is not peer]

    def local(self) -> list[str]:
        """The methods that a host of this node provides, in order: what the other nodes of a fleet hear of."""
        return sorted(method for method, peers in self._providers.items() if any(not peer.node for peer in peers))

    def provided_by_node(self, peer: Peer, methods: list[str]) -> None:
        """The hosts of another node provide ``methods`` now, and nothing else. Raises WireError as ``provide``."""
        for method in [method for method in self._of.get(peer, ()) if method not in methods]:
            self._of[peer].remove(method)
            self._withdraw(peer, method, self._clock_ns())
        if methods:
            self.provide(peer, methods)

    def _withdraw(self, peer: Peer, method: str, now_ns: int) -> None:
        self._count -= 1
        providers = self._providers[method]
        providers.remove(peer)
        if not providers:
            del self._providers[method]
            self._expect(method, now_ns)

    def peer_gone(self, peer: Peer) -> None:
        """It provides nothing any longer; who stands by takes over. What it was asked may have taken effect."""
        now_ns = self._clock_ns()
        for method in self._of.pop(peer, ()):
            self._withdraw(peer, method, now_ns)
        for number in [number for number, out in self._out.items() if out.peer is peer]:
            self._out.pop(number).answered(b"", "host_lost", "the host ended before it answered; whether the method "
                                                             "took effect is not known")

    def _expect(self, method: str, now_ns: int) -> None:
        """Waits for another provider of ``method``."""
        if len(self._absent) >= METHODS_MAX:
            self._give_up(next(iter(self._absent)))
        self._absent[method] = now_ns + ABSENT_NS

    def _give_up(self, method: str) -> None:
        self._absent.pop(method, None)
        for number in self._end_wait(method):
            if (out := self._out.pop(number, None)) is not None:
                out.answered(b"", "not_provided", f"no host provides {method} now; none was asked")

    def _end_wait(self, method: str) -> list[int]:
        """The calls of ``method`` that have waited for a provider, and wait no longer."""
        numbers = self._waiting.pop(method, [])
        self._waiting_of -= Counter(self._out[number].plugin for number in numbers)
        return numbers

    def expire(self, now_ns: int) -> int:
        """Gives up what nobody has come back for; when it wants to be called again, 0: not at all."""
        for method in [method for method, until_ns in self._absent.items() if until_ns <= now_ns]:
            self._give_up(method)
        return min((self._absent[method] for method in self._waiting), default=0)

    # ------------------------------------------------------------------ calls
    def call(self, request: HostMethod, plugin: str, user_id: str, deadline_ms: int, answered: Answered, *,
             came_from: Peer | None = None, here: bool = False) -> int:
        """Asks the provider; ``answered`` is called with the outcome. Returns the call's number; 0 if nobody provides
        the method, or its parameters hold what the protocol's values do not. If the provider has just gone the call
        waits for another; ``expire`` has to be called then. In a fleet, the node that the plugin's call
        ``came_from`` is asked first, and a call of another node (``here``) asks nobody but this node's hosts."""
        method, now_ns = request.method, self._clock_ns()
        providers = self._providers.get(method)
        if providers is not None and here:
            providers = [peer for peer in providers if not peer.node]
        elif providers is not None and came_from is not None and came_from in providers:
            providers = [came_from]
        if here and not providers:
            answered(b"", "not_provided", f"no host of this node provides {method}")
            return 0
        if providers is None and (self._absent.get(method, 0) <= now_ns
                                  or self._waiting_of[plugin] >= WAITING_PER_PLUGIN_MAX
                                  or self._waiting_of.total() >= WAITING_MAX):
            answered(b"", "not_provided", f"no host provides {method}")
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
        out = self._out[number] = _Out(answered, method, plugin, now_ns + deadline_ms * MS_NS, {
            "type": "hostCall", "callId": number, "method": method, "params": request.params, "plugin": plugin,
            "userId": user_id})
        if providers is None:
            self._waiting.setdefault(method, []).append(number)
            self._waiting_of[plugin] += 1
        else:
            self._send(number, out, providers[0])
        return number

    def _send(self, number: int, out: _Out, peer: Peer) -> None:
        left_ms = (out.due_ns - self._clock_ns()) // MS_NS
        if left_ms < 1:
            return  # its caller is answered in a moment: nobody is to work for it
        out.peer = peer
        peer.connections.reply(peer, [], _encode({**out.message, "deadlineMs": left_ms}))

    def forget(self, number: int, *, is_late: bool = False) -> bool:
        """Nobody waits for this call any longer; its answer will be late. Whether a host was asked. If one was, and the
        call ``is_late``, the next takes its place: it may be frozen, and its connection does not show that."""
        out = self._out.pop(number, None)
        if out is None:
            return False
        if out.peer is None:
            waiting = self._waiting.get(out.method, [])
            if number in waiting:
                waiting.remove(number)
                self._waiting_of -= Counter((out.plugin,))
                if not waiting:
                    del self._waiting[out.method]
            return False
        for method in self._of.get(out.peer, ()) if is_late else ():
            providers = self._providers[method]
            if providers[0] is out.peer:
                providers.append(providers.pop(0))
        return True

    def host_reply(self, peer: Peer, reply: msg.HostReply) -> str:
        """``peer`` answers, or says it does. Returns the plugin that the answer is for; "" if it is for none."""
        out = self._out.get(reply.call_id)
        if out is None:
            self._anomaly("late_reply" if 0 < reply.call_id < self._next_call else "unknown_call_id", peer)
            return ""
        if out.peer is not peer:
            self._anomaly("foreign_reply", peer)
            return ""
        del self._out[reply.call_id]
        if reply.ok:
            body = bytes(reply.result)
            if len(body) > REPLY_BYTES_MAX:
                out.answered(b"", "too_large", f"the host's answer has more than {REPLY_BYTES_MAX} bytes")
            elif not is_decodable(body):  # the plugin would fail at it, and be charged for it
                out.answered(b"", "host_error", "the host's answer is not a MessagePack value, or its text is not "
                                                "UTF-8")
            else:
                out.answered(body, "", "")
            return out.plugin
        error: dict[str, Any] = reply.error or {}
        if peer.node and (code := error.get("code")) in NODES_WORDS:  # no host's: that of the node between
            out.answered(b"", code, str(error.get("message", ""))[:400])
            return out.plugin
        code, message = str(error.get("code", ""))[:64], str(error.get("message", ""))[:400]
        out.answered(b"", "host_error", ": ".join(part for part in (code, message) if part) or "the host refused")
        return out.plugin
