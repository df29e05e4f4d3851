"""What hosts ask for: each request becomes calls of the core, each verdict the one reply. No sockets in here.

A request that is refused before the core hears of it raises WireError; the host socket answers that. ``audit`` and
``api`` may be None: then nothing is recorded, and nothing provides host methods.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from apex_exec.catalogue.hooks import RENDERING
from apex_exec.core import events as ev
from apex_exec.core.actions import Verdict
from apex_exec.core.policy import Denied, check
from apex_exec.core.scheduler.pool import MS_NS, Pool, Refusal
from apex_exec.daemon.hosts.connections import Peer
from apex_exec.daemon.hosts.dispatch_runs import DispatchRuns, Run
from apex_exec.daemon.sides.result_checks import is_dear
from apex_exec.errors import FAILURES, Code, WireError, is_retryable
from apex_exec.executor.guard import raise_it
from apex_exec.executor.outcome import Settled, settle
from apex_exec.executor.overhead import Used
from apex_exec.wire import hooks
from apex_exec.wire import messages as msg
from workers import wire as inner

if TYPE_CHECKING:
    from apex_exec.daemon.ports import ApiCalls
    from apex_exec.daemon.sides.audit_trail import AuditTrail
    from apex_exec.daemon.sides.result_checks import ResultChecks
    from apex_exec.observe.logs import Logs
    from apex_exec.observe.metrics import Metrics

_encode = msgspec.msgpack.Encoder().encode
_clock_ns = time.monotonic_ns
HELD_BYTES_MAX = 256 * 1024 * 1024
"""Of all large requests without a reply; above, another is OVERLOADED. The number of small ones has its own bounds."""
CANCEL_NS_MAX = 1_000_000
"""How long one round of the loop cancels what ended connections have left: a host that left with 10,000 calls pending
held everybody up for 200 ms where they were cancelled at once. A dispatch is one, however many plugins it went to."""
LARGE_BYTES = 4096
"""Smaller requests are not counted: pool.in_flight of them are 80 MiB."""
DISPATCH_WEIGHT = 8
"""A dispatch is decoded, so it is held as objects: up to so many times its bytes, and more in bad cases."""
_NO_USAGE = msg.Usage()
_NOT_ADMITTED = frozenset(("OVERLOADED", "QUARANTINED", "SHUTTING_DOWN", "PLUGIN_NOT_FOUND", "PLUGIN_DISABLED",
                           "AUDIT_UNAVAILABLE"))
"""Codes that the core may answer within the very step that a call arrives in: such a call was never admitted."""


class Pending(msgspec.Struct, gc=False):
    """One request without its reply: where the answer goes. ``frames`` stood between routing id and body."""

    peer: Peer
    frames: list[bytes]
    id: int | str


class Requests:
    """The table of what is pending, from request to reply.

    ``step(event, now_ns)`` gives an event to the core and does its actions; ``reply(peer, frames, body)`` sends;
    ``used(worker, call, run_ns)`` is what the call has used, without its CPU time if ``run_ns`` is 0. ``checks`` may be
    None: then every result is checked here. ``failed(duty, error, plugin)`` is the guard, told of a result whose
    telling failed after it was checked elsewhere.
    """

    def __init__(self, pool: Pool, *, step: Callable[[ev.Event, int], None],
                 reply: Callable[[Peer, list[bytes], bytes], None], welcome: Callable[[int | str], msg.Welcome],
                 metrics: Metrics, per_host: int, used: Callable[[int, int, int], Used],
                 failed: Callable[[str, Exception, str], None] = raise_it,
                 bug: Callable[[str, Exception], None] = lambda _what, _error: None) -> None:
        self.per_host = per_host
        self.draining = ""
        """Why no new work is taken; "" where it is."""
        self.left: deque[list[int]] = deque()
        """Calls whose connection has ended, per connection."""
        self.audit: AuditTrail | None = None
        self.api: ApiCalls | None = None
        self.checks: ResultChecks | None = None
        self.logs: Logs | None = None
        """Where failures of plugins are told."""
        self._pool = pool
        self._step = step
        self._reply = reply
        self._welcome = welcome
        self._metrics = metrics
        self._used = used
        self._bug = bug
        self._failed = failed
        self._calls: dict[int, Pending] = {}
        self._large: dict[tuple[bytes, int | str], int] = {}  # (connection, id) → bytes held until the reply
        self._large_bytes = 0
        self._traces: dict[int, str] = {}
        self._watched: dict[int, Callable[[Verdict], None]] = {}
        self._next_call = 1
        self._arriving = 0
        self._last_record = -1
        self._dispatches = DispatchRuns(pool, number=self.number, step=self._admit_step, finish=self._finish,
                                        trace=self._traces.__setitem__)

    def __len__(self) -> int:
        return len(self._calls) + len(self._dispatches)

    @property
    def taken(self) -> int:
        """How many calls were given to the core so far."""
        return self._next_call - 1

    def number(self) -> int:
        """A number for a new call of the core, never used before."""
        call = self._next_call
        self._next_call = call + 1
        return call

    # ------------------------------------------------------------------ requests
    def serve(self, peer: Peer, frames: list[bytes], request: Any) -> None:
        """Takes one decoded request of ``peer``. Raises WireError where it is refused at once."""
        kind = type(request)
        if kind is msg.Invoke:
            self._invoke(peer, frames, request)
        elif kind is msg.PingRequest:
            self._reply(peer, frames, _encode(msg.Pong(id=request.id)))
        elif kind is msg.Dispatch:
            self._dispatch(peer, frames, request)
        elif kind is msg.Cancel:
            call = peer.pending.get(request.target)
            if call is not None:
                self.cancel(call)
            found = call is not None
            self._reply(peer, frames, _encode(msg.Cancelled(id=request.id, target=request.target, found=found)))
        elif kind is msg.HostReply:
            if self.api is not None:
                self.api.host_reply(peer, request)
            else:
                self._metrics.inc("protocol_anomalies_total", ("unknown_call_id",))
        elif kind is msg.Plugins:
            self._plugins(peer, frames, request)
        elif kind is msg.Hello:
            if 1 not in request.protocol:
                raise WireError(Code.UNSUPPORTED_PROTOCOL, "this daemon speaks protocol 1", {"protocol": [1]})
            self._reply(peer, frames, _encode(self._welcome(request.id)))
        elif kind is msg.Provide:
            self._provide(peer, frames, request)
        else:
            raise WireError(Code.PROTOCOL_ERROR, f"{kind.__name__.lower()!r} is not served on this endpoint")

    def serve_large(self, peer: Peer, frames: list[bytes], request: Any, size: int) -> None:
        """``serve`` of a message of more than LARGE_BYTES: what is held of such has a bound in all."""
        if type(request) is msg.Dispatch:
            size *= DISPATCH_WEIGHT
        elif type(request) is not msg.Invoke:
            self.serve(peer, frames, request)
            return
        if self._large_bytes + size > HELD_BYTES_MAX:
            raise WireError(Code.OVERLOADED, "the daemon holds as many bytes of large requests as it may")
        key = peer.host, request.id
        if request.id not in peer.pending:  # else it is refused, and the first one's bytes stay counted
            self._large[key] = size
            self._large_bytes += size
        try:
            self.serve(peer, frames, request)
        finally:
            if request.id not in peer.pending:  # refused, or answered already
                self._free(key)

    def _free(self, key: tuple[bytes, int | str]) -> None:
        self._large_bytes -= self._large.pop(key, 0)

    def _provide(self, peer: Peer, frames: list[bytes], request: msg.Provide) -> None:
        if frames:
            raise WireError(Code.PROTOCOL_ERROR, "provide is for DEALER: REQ cannot be called back")
        if self.api is None:
            raise WireError(Code.NOT_PROVIDED, "this daemon has no gateway; host methods cannot be provided")
        methods, standby = self.api.provide(peer, request.methods)
        self._reply(peer, frames, _encode(msg.Provided(id=request.id, methods=methods, standby=standby)))

    def _plugins(self, peer: Peer, frames: list[bytes], request: msg.Plugins) -> None:
        user_id = hooks.check_user(request.user_id) if request.user_id is not None else None
        listed = [msg.PluginEntry(id=s.id, version=s.version, hooks=list(s.hooks), state=s.state)
                  for s in self._pool.specs()
                  if (s.state == "enabled" if user_id is None else not s.barred(user_id))]
        self._reply(peer, frames, _encode(msg.PluginList(id=request.id, plugins=listed)))

    def _admit(self, peer: Peer, id_: int | str, now_ns: int) -> None:
        """Raises where a request of ``peer`` cannot be taken now."""
        if id_ in peer.pending:
            raise WireError(Code.DUPLICATE_ID, "this id is pending already", {"id": id_})
        if len(peer.pending) >= self.per_host:
            raise WireError(Code.OVERLOADED, "this connection holds as many requests as it may (pool.per_host)")
        audit = self.audit
        if audit is not None and now_ns > audit.fine_until_ns and not audit.admits(now_ns):
            raise WireError(Code.AUDIT_UNAVAILABLE, "the audit ledger cannot take a record; nothing was run")

    def _invoke(self, peer: Peer, frames: list[bytes], request: msg.Invoke) -> None:
        now_ns = time.monotonic_ns()
        self._admit(peer, request.id, now_ns)
        user_id = hooks.check_user(request.user_id)
        spec, refusal = self._pool.look(request.plugin, user_id, now_ns)
        if spec is None:
            raise WireError(Code.PLUGIN_NOT_FOUND, f"no plugin {request.plugin[:50]!r} is registered")
        if request.action not in spec.hooks:
            raise WireError(Code.HOOK_NOT_DECLARED, f"{spec.id} does not declare {request.action!r}; it declares "
                                                     f"{', '.join(sorted(spec.hooks)) or 'no hook'}")
        if (spec.state != "enabled" or spec.users is not None or spec.entitled is not None) and (
                reason := spec.barred(user_id)):
            raise WireError(Code.PLUGIN_DISABLED, f"{spec.id} is not enabled: {reason}", {"reason": reason})
        payload = hooks.check_payload(request.action, request.payload, user_id)
        if self.draining:
            refusal = (Code.SHUTTING_DOWN, self.draining, {})
        if refusal is not None:
            self._refuse(peer, frames, request, refusal)
            return
        timeout_ms = spec.limits.timeout_ms
        if request.deadline_ms is not None and request.deadline_ms < timeout_ms:
            timeout_ms = request.deadline_ms
        call = self._next_call
        self._next_call = call + 1
        peer.pending[request.id] = call
        self._calls[call] = Pending(peer, frames, request.id)
        if request.traceparent:
            self._traces[call] = request.traceparent[:64]
        self._arriving = call
        self._step(ev.InvokeRequested(call, spec.id, request.action, user_id, payload, now_ns + timeout_ms * MS_NS),
                   now_ns)
        self._arriving = 0

    def _refuse(self, peer: Peer, frames: list[bytes], request: msg.Invoke, refusal: Refusal) -> None:
        """The short way out for a call that is not admitted: under a flood it is nearly all that the loop does."""
        code, message, details = refusal
        self._metrics.refused(request.plugin, request.action, code)
        self._reply(peer, frames, _encode(msg.Error(
            id=request.id, code=code, message=message, started=False, retryable=is_retryable(code, False),
            plugin=request.plugin, action=request.action, details=details or msgspec.UNSET, usage=_NO_USAGE)))

    def _admit_step(self, event: Any, now_ns: int) -> None:
        """As ``_invoke`` does it, for what a dispatch gives to the core."""
        self._arriving = event.call if type(event) is ev.InvokeRequested else 0
        self._step(event, now_ns)
        self._arriving = 0

    def _dispatch(self, peer: Peer, frames: list[bytes], request: msg.Dispatch) -> None:
        now_ns = time.monotonic_ns()
        self._admit(peer, request.id, now_ns)
        user_id = hooks.check_user(request.user_id)
        if self.draining:
            raise WireError(Code.SHUTTING_DOWN, self.draining)
        course, order = self._dispatches.plan(request, user_id, now_ns)
        call = self.number()
        peer.pending[request.id] = call
        trace = (request.traceparent or "")[:64]
        pending = Pending(peer, frames, request.id)
        self._dispatches.begin(Run(call, course, request.action, user_id, order, pending, trace), now_ns)

    def watch(self, call: int, settled: Callable[[Verdict], None]) -> None:
        """Has the verdict of ``call``, one of the daemon's own, told to ``settled`` instead of a host."""
        self._watched[call] = settled

    # ------------------------------------------------------------------ ends
    def cancel(self, call: int) -> None:
        """Ends a pending request as its caller wishes; one that has its reply is left alone."""
        now_ns = time.monotonic_ns()
        if call in self._dispatches:
            self._dispatches.cancel(call, now_ns)
        elif call in self._calls:
            self._step(ev.CancelRequested(call), now_ns)

    def cancel_left(self) -> bool:
        """Cancels some of what connections that ended have left; True where there is more.

        The latest first: nothing then begins in the place of what was cancelled before it.
        """
        left = self.left
        until_ns = _clock_ns() + CANCEL_NS_MAX
        while True:
            self.cancel(left[0].pop())
            if not left[0]:
                left.popleft()
                if not left:
                    return False
            if _clock_ns() > until_ns:
                return True

    def abandon(self, peer: Peer, id_: int | str | None) -> None:
        """Forgets a request whose handling failed: a verdict that comes for it yet finds nobody."""
        if id_ is not None and (call := peer.pending.pop(id_, None)) is not None:
            self._calls.pop(call, None)
            self._free((peer.host, id_))

    def peer_gone(self, peer: Peer) -> None:
        """A connection ended: what it had pending is to be cancelled (``cancel_left``), what it provided is gone."""
        if peer.pending:
            self.left.append(list(peer.pending.values()))
        if self.api is not None:
            self.api.peer_gone(peer)

    def _finish(self, pending: Pending, body: bytes, unrecorded: bool = False) -> None:
        """Sends the one reply, after the records before it are durable where the ledger asks for that. What is
        ``unrecorded``, since nothing of it was run, need not wait."""
        audit = self.audit
        if (audit is not None and (audit.strict or _clock_ns() > audit.fine_until_ns) and self._last_record >= 0
                and not unrecorded and not audit.durable(self._last_record)):
            audit.when_durable(self._last_record, partial(self._send, pending, body),
                               partial(self._send, pending, _unrecorded(pending)))
            return
        self._send(pending, body)

    def _send(self, pending: Pending, body: bytes) -> None:
        peer = pending.peer
        peer.pending.pop(pending.id, None)
        if self._large:
            self._free((peer.host, pending.id))
        self._reply(peer, pending.frames, body)

    def _memory_mb_max(self, verdict: Verdict) -> float:
        """What a sample must show for a MemoryError to be more than the hook's own word."""
        spec = self._pool.spec_of(verdict.plugin, verdict.worker)
        return spec.limits.memory_mb if spec is not None else 0.0

    def rendering(self, verdict: Verdict) -> hooks.Rendering:
        """What the code that ``verdict`` is of may render now: with the grants that are in force when the widgets go
        out, which are its own version's."""
        if verdict.hook not in RENDERING:
            return hooks.ANYTHING
        spec = self._pool.spec_of(verdict.plugin, verdict.worker)
        verdict_of = Denied("ui:render", "the plugin was removed") if spec is None else (
            check(spec, "renderWidget", None, time.time()))
        denied = verdict_of.reason if isinstance(verdict_of, Denied) else ""
        return hooks.Rendering(denied, self.api.components if self.api is not None else frozenset())

    def end(self) -> None:
        """The daemon ends: whoever has no reply gets one. What is left here has begun, as far as anyone can know."""
        for call in self._dispatches.pending():
            self._dispatches.cancel(call, _clock_ns())
        for pending in list(self._calls.values()):
            self._send(pending, _encode(msg.Error(
                id=pending.id, code=Code.SHUTTING_DOWN, message="the daemon ended before this had its result",
                started=True, retryable=False)))
        self._calls.clear()

    def untold(self, verdict: Verdict) -> None:
        """A verdict whose telling failed: its request is answered INTERNAL, where it has not been answered yet."""
        self._traces.pop(verdict.call, None)
        pending = self._calls.pop(verdict.call, None)
        if pending is None:
            return
        self._send(pending, _encode(msg.Error(
            id=pending.id, code=Code.INTERNAL, message="the daemon failed at this result; its log says how",
            started=verdict.started, retryable=is_retryable(Code.INTERNAL, verdict.started), plugin=verdict.plugin,
            action=verdict.hook)))

    def verdict(self, verdict: Verdict) -> None:
        """The core has decided: has a result that takes long checked elsewhere, then counts, records and answers."""
        # Of replies that came together the first has the CPU time: only what is recorded is worth a system call.
        used = self._used(verdict.worker, verdict.call, verdict.run_ns if self.audit is not None else 0)
        body, code = verdict.body, verdict.code
        memory_mb_max = 0.0
        if code:
            if code == "MEMORY_LIMIT":
                memory_mb_max = self._memory_mb_max(verdict)
            elif code == "INVALID_INPUT" and type(body) is inner.BadInput:  # a payload that nobody can read starts none
                verdict = msgspec.structs.replace(verdict, started=False)
        elif self.checks is not None and type(body) is inner.Reply and is_dear(body.result):
            self._check_elsewhere(self.checks, verdict, bytes(body.result), used)
            return
        try:
            outcome = settle(verdict, used.memory_mb, used.throttled_ns, memory_mb_max, None,
                             hooks.ANYTHING if verdict.hook not in RENDERING else self.rendering(verdict))
        except Exception as error:  # a bug of ours at what a worker said: its caller still gets the one reply
            self._bug("a result could not be judged", error)
            outcome = Settled(Code.INTERNAL, "the daemon failed at this result; its log says how", {}, msg.Usage())
        self._conclude(verdict, outcome, used)

    def _check_elsewhere(self, checks: ResultChecks, verdict: Verdict, result: bytes, used: Used) -> None:
        """Has a result that takes long checked outside the loop; the verdict is concluded when that is done."""
        def checked(code: str, message: str, details: dict[str, Any], cpu_ns: int) -> None:
            used.host_ns += cpu_ns
            try:
                outcome = settle(verdict, used.memory_mb, used.throttled_ns, checked=(code, message, details))
                self._conclude(verdict, outcome, used)
            except Exception as error:
                self._failed("checked result", error, verdict.plugin)
                self.untold(verdict)

        checks.submit(verdict.plugin, verdict.hook, result, self.rendering(verdict), checked, _clock_ns())

    def _tell_failure(self, verdict: Verdict, outcome: Settled) -> None:
        """Counts a call that failed by its plugin's fault, and tells it in both logs, with its traceback."""
        now_ns, plugin = _clock_ns(), verdict.plugin
        self._metrics.failure(plugin, outcome.code, now_ns)
        logs = self.logs
        if logs is not None and logs.failure_room(plugin, now_ns):
            text = f"{verdict.hook} failed: {outcome.code}: {outcome.message}"
            if traceback := outcome.details.get("traceback"):
                text += f"\n{traceback}"
            logs.failure(plugin, text)

    def _conclude(self, verdict: Verdict, outcome: Settled, used: Used) -> None:
        """Counts, records and answers a verdict whose outcome is known."""
        if used.host_ns:
            outcome.usage.host_cpu_ms = used.host_ns / 1e6
        call, code = verdict.call, outcome.code
        unrecorded, admitted = False, True
        if code:
            unrecorded = code == Code.AUDIT_UNAVAILABLE
            admitted = call != self._arriving or code not in _NOT_ADMITTED
            if code in FAILURES:
                self._tell_failure(verdict, outcome)
        if admitted:
            self._metrics.invocation(verdict, code)
        else:
            self._metrics.refused(verdict.plugin, verdict.hook, code)
        effects: list[Any] = []
        if self.api is not None and admitted:
            effects = self.api.invocation_ended(call)
            if code and effects:
                effects = []
        trace = self._traces.pop(call, "") if self._traces else ""
        if self.audit is not None and admitted and not unrecorded:
            self._last_record = self.audit.execution(
                verdict.user_id, verdict.plugin, verdict.hook, code, verdict.run_ns, used.memory_mb, trace,
                used.cpu_ns, used.host_ns)
        pending = self._calls.pop(call, None)
        if pending is None:
            if not self._dispatches.settled(verdict, outcome, effects) and call in self._watched:
                self._watched.pop(call)(verdict)
            return
        if code:
            body = _encode(msg.Error(
                id=pending.id, code=code, message=outcome.message, started=verdict.started,
                retryable=is_retryable(code, verdict.started), plugin=verdict.plugin, action=verdict.hook,
                details=outcome.details or msgspec.UNSET, usage=outcome.usage))
        else:
            body = _encode(msg.Result(id=pending.id, plugin=verdict.plugin, action=verdict.hook,
                                      result=verdict.body.result,  # type: ignore[attr-defined]  # a Reply: code is ""
                                      effects=effects, usage=outcome.usage))
        self._finish(pending, body, unrecorded)


def _unrecorded(pending: Pending) -> bytes:
    """The reply to a request whose record could not be written before the daemon ended."""
    return _encode(msg.Error(
        id=pending.id, code=Code.SHUTTING_DOWN, started=True, retryable=False,
        message="it was carried out, and the daemon ended before its audit record could be written"))
