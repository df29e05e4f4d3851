"""What hosts ask for: each request is admitted or refused, and an admitted request becomes one or more calls of the
core.

A request that is refused before the core has seen it raises WireError, which the host socket answers. ``verdicts.py``
handles the outcome of the calls. Nothing in here touches a socket.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from apex_exec.core import events as ev
from apex_exec.core.scheduler.pool import MS_NS, Pool, Refusal
from apex_exec.daemon.hosts.connections import Peer
from apex_exec.daemon.hosts.dispatch_runs import DispatchRuns, Run
from apex_exec.daemon.hosts.pending_table import Pending, PendingTable
from apex_exec.daemon.hosts.replies import Replies
from apex_exec.errors import Code, WireError, is_retryable
from apex_exec.wire import hooks
from apex_exec.wire import messages as msg

if TYPE_CHECKING:
    from apex_exec.daemon.plugin_settings import PluginSettings
    from apex_exec.daemon.ports import ApiCalls, Trail
    from apex_exec.daemon.tenants import Tenants
    from apex_exec.observe.metrics import Metrics

_encode = msgspec.msgpack.Encoder().encode
_clock_ns = time.monotonic_ns
CANCEL_NS_MAX = 1_000_000
"""How long one turn of the loop cancels calls that ended connections have left. When 10,000 calls of a host that had
left were cancelled at once, everybody waited for 200 ms. A dispatch counts as one, however many plugins it went to."""
LARGE_BYTES = 4096
"""Only larger requests count towards the bound of bytes: as many smaller ones as pool.in_flight allows are 80 MiB."""
DISPATCH_WEIGHT = 8
"""A dispatch is held decoded, as objects, which take about this many times its bytes, and more in bad cases."""
_NO_USAGE = msg.Usage()


class Requests:
    """Takes requests of hosts. ``step(event, now_ns)`` gives an event to the core and does its actions."""

    def __init__(self, pool: Pool, table: PendingTable, replies: Replies, dispatches: DispatchRuns, *,
                 step: Callable[[ev.Event, int], None], welcome: Callable[[int | str], msg.Welcome], per_host: int,
                 audit: Trail, api: ApiCalls, metrics: Metrics, plugin_settings: PluginSettings,
                 tenants: Tenants) -> None:
        self.per_host = per_host
        self.draining = ""
        """Why no new work is taken; "" if new work is taken."""
        self.administer: Callable[[Peer, list[bytes], msg.Admin], None] | None = None
        """Serves the administrative operations that hosts may ask for; None if there are none."""
        self.left: deque[list[int]] = deque()
        """Calls whose connection has ended, per connection."""
        self._pool = pool
        self._table = table
        self._calls = table.calls
        self._replies = replies
        self._dispatches = dispatches
        self._step = step
        self._welcome = welcome
        self._audit = audit
        self._api = api
        self._metrics = metrics
        self._plugin_settings = plugin_settings
        self._tenants = tenants

    def __len__(self) -> int:
        return len(self._calls) + len(self._dispatches)

    @property
    def taken(self) -> int:
        """How many calls were given to the core so far."""
        return self._table.next_call - 1

    # ------------------------------------------------------------------ requests
    def serve(self, peer: Peer, frames: list[bytes], request: Any) -> None:
        """Takes one decoded request of ``peer``. Raises WireError if it is refused at once."""
        kind = type(request)
        if kind is msg.Invoke:
            self._invoke(peer, frames, request)
        elif kind is msg.PingRequest:
            peer.connections.reply(peer, frames, _encode(msg.Pong(id=request.id)))
        elif kind is msg.Dispatch:
            self._dispatch(peer, frames, request)
        elif kind is msg.Cancel:
            call = peer.pending.get(request.target)
            if call is not None:
                self.cancel(call)
            cancelled = msg.Cancelled(id=request.id, target=request.target, found=call is not None)
            peer.connections.reply(peer, frames, _encode(cancelled))
        elif kind is msg.HostReply:
            self._api.host_reply(peer, request)
        elif kind is msg.Plugins:
            self._plugins(peer, frames, request)
        elif kind is msg.Hello:
            if 1 not in request.protocol:
                raise WireError(Code.UNSUPPORTED_PROTOCOL, "this daemon speaks protocol 1 only; include 1 in "
                                                           "`protocol`", {"protocol": [1]})
            peer.connections.reply(peer, frames, _encode(self._welcome(request.id)))
        elif kind is msg.Provide:
            self._provide(peer, frames, request)
        elif kind is msg.Admin and self.administer is not None:
            self.administer(peer, frames, request)
        else:
            raise WireError(Code.PROTOCOL_ERROR, f"a message of type {kind.__name__.lower()!r} is not served on this "
                                                 "endpoint")

    def serve_large(self, peer: Peer, frames: list[bytes], request: Any, size: int) -> None:
        """``serve`` for a message of more than LARGE_BYTES: there is a bound on the bytes of all such messages."""
        if type(request) is msg.Dispatch:
            size *= DISPATCH_WEIGHT
        elif type(request) is not msg.Invoke:
            self.serve(peer, frames, request)
            return
        self._table.hold(peer, request.id, size)
        try:
            self.serve(peer, frames, request)
        finally:
            if request.id not in peer.pending:  # refused, or answered already
                self._table.free(peer, request.id)

    def _provide(self, peer: Peer, frames: list[bytes], request: msg.Provide) -> None:
        if frames:
            raise WireError(Code.PROTOCOL_ERROR, "provide needs a DEALER socket, since a REQ socket cannot receive "
                                                 "calls")
        methods, standby = self._api.provide(peer, request.methods)
        peer.connections.reply(peer, frames, _encode(msg.Provided(id=request.id, methods=methods, standby=standby)))

    def _plugins(self, peer: Peer, frames: list[bytes], request: msg.Plugins) -> None:
        user_id = hooks.check_user(request.user_id) if request.user_id is not None else None
        listed = [msg.PluginEntry(id=s.id, version=s.version, hooks=list(s.hooks), state=s.state)
                  for s in self._pool.specs()
                  if (s.state == "enabled" if user_id is None else not s.barred(user_id))]
        peer.connections.reply(peer, frames, _encode(msg.PluginList(id=request.id, plugins=listed)))

    def _admit(self, peer: Peer, id_: int | str, now_ns: int) -> None:
        """Raises WireError if a request of ``peer`` cannot be taken now."""
        if id_ in peer.pending:
            raise WireError(Code.DUPLICATE_ID, "a request with this id is still pending on this connection; use a new "
                                               "id", {"id": id_})
        if len(peer.pending) >= self.per_host:
            raise WireError(Code.OVERLOADED, "this connection has the most pending requests that are allowed "
                                             "(pool.per_host); wait for answers")
        audit = self._audit
        if now_ns > audit.fine_until_ns and not audit.admits(now_ns):
            raise WireError(Code.AUDIT_UNAVAILABLE, "the audit ledger cannot take records, so nothing was run; try "
                                                    "again later")

    def _invoke(self, peer: Peer, frames: list[bytes], request: msg.Invoke) -> None:
        now_ns = time.monotonic_ns()
        self._admit(peer, request.id, now_ns)
        user_id = hooks.check_user(request.user_id)
        spec, refusal = self._pool.peek(request.plugin, user_id, now_ns)
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
            if self._table.tracing is not None:
                self._table.tracing.refused(request.traceparent, spec.id, spec.version, request.action, refusal[0])
            return
        timeout_ms = spec.limits.timeout_ms
        if request.deadline_ms is not None and request.deadline_ms < timeout_ms:
            timeout_ms = request.deadline_ms
        table = self._table
        call = table.next_call
        table.next_call = call + 1
        peer.pending[request.id] = call
        self._calls[call] = Pending(peer, frames, request.id)
        if request.traceparent:
            table.traces[call] = request.traceparent[:64]
        if table.tracing is not None and (span := table.tracing.begin(request.traceparent, now_ns)) is not None:
            table.spans[call] = span
        deadline_ns = now_ns + timeout_ms * MS_NS
        if spec.settings and self._plugin_settings.has_tenants(spec.id):
            self._tenants.submit(ev.InvokeRequested(
                call, spec.id, request.action, user_id, payload, deadline_ns), now_ns)
        else:
            self._step(ev.InvokeRequested(call, spec.id, request.action, user_id, payload, deadline_ns, False, True),
                       now_ns)

    def _refuse(self, peer: Peer, frames: list[bytes], request: msg.Invoke, refusal: Refusal) -> None:
        """Answers a call that is not admitted, without the core: under a flood the loop does little else."""
        code, message, details = refusal
        self._metrics.refused(request.plugin, request.action, code)
        peer.connections.reply(peer, frames, _encode(msg.Error(
            id=request.id, code=code, message=message, started=False, retryable=is_retryable(code, False),
            plugin=request.plugin, action=request.action, details=details or msgspec.UNSET, usage=_NO_USAGE)))

    def _dispatch(self, peer: Peer, frames: list[bytes], request: msg.Dispatch) -> None:
        now_ns = time.monotonic_ns()
        self._admit(peer, request.id, now_ns)
        user_id = hooks.check_user(request.user_id)
        if self.draining:
            raise WireError(Code.SHUTTING_DOWN, self.draining)
        course, order = self._dispatches.plan(request, user_id, now_ns)
        call = self._table.number()
        peer.pending[request.id] = call
        trace = (request.traceparent or "")[:64]
        pending = Pending(peer, frames, request.id)
        run = Run(call, course, request.action, user_id, order, pending, trace)
        if self._table.tracing is not None:
            run.span = self._table.tracing.begin_dispatch(request.traceparent, request.action, now_ns)
        self._dispatches.begin(run, now_ns)

    # ------------------------------------------------------------------ ends
    def cancel(self, call: int) -> None:
        """Cancels a pending request; does nothing if it has its reply."""
        now_ns = time.monotonic_ns()
        if call in self._dispatches:
            self._dispatches.cancel(call, now_ns)
        elif call in self._calls:
            self._tenants.release(call, now_ns)
            self._step(ev.CancelRequested(call), now_ns)

    def cancel_left(self) -> bool:
        """Cancels some of the calls that ended connections have left; True if there are more.

        The latest call of a connection comes first, so that no queued call of it begins in place of a cancelled one.
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
        """Forgets a request that the daemon failed to handle: a verdict that still comes for it is ignored."""
        if id_ is not None and (call := peer.pending.pop(id_, None)) is not None:
            self._calls.pop(call, None)
            self._table.free(peer, id_)

    def peer_gone(self, peer: Peer) -> None:
        """A connection ended: its pending calls will be cancelled (``cancel_left``), and it provides no host method any
        more."""
        if peer.pending:
            self.left.append(list(peer.pending.values()))
        self._api.peer_gone(peer)

    def end(self) -> None:
        """The daemon ends: every request without a reply gets one. We must assume that the calls left here have begun.
        """
        for call in self._dispatches.pending():
            self._dispatches.cancel(call, _clock_ns())
        for pending in list(self._calls.values()):
            self._replies.send(pending, _encode(msg.Error(
                id=pending.id, code=Code.SHUTTING_DOWN, message="the daemon ended before this had its result",
                started=True, retryable=False)))
        self._calls.clear()
