"""Dispatches on their way: one event for many plugins, each part an invocation, and one reply for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from apex_exec.catalogue.hooks import HOOKS
from apex_exec.core import events as ev
from apex_exec.core.actions import Verdict
from apex_exec.core.dispatch import Dispatch, Part
from apex_exec.core.scheduler.pool import MS_NS, Pool
from apex_exec.daemon.hosts.pending_table import Pending, PendingTable
from apex_exec.daemon.hosts.replies import Replies
from apex_exec.errors import Code, WireError, is_retryable
from apex_exec.executor.outcome import Settled
from apex_exec.observe.traces.messages import Call as SpanOfCall
from apex_exec.observe.traces.messages import Dispatch as SpanOfDispatch
from apex_exec.wire import hooks
from apex_exec.wire import messages as msg
from apex_exec.wire.values import decode_any

if TYPE_CHECKING:
    from apex_exec.daemon.plugin_settings import PluginSettings
    from apex_exec.daemon.tenants import Tenants

DISPATCH_MS = 5000
"""Default and longest deadline of a dispatch."""
_encode = msgspec.msgpack.Encoder().encode


class Run:
    """One dispatch: its course, the outcomes so far, and the calls that are out."""

    __slots__ = ("call", "course", "hook", "open", "order", "outcomes", "pending", "span", "traceparent",
                 "user_id")

    def __init__(self, call: int, course: Dispatch, hook: str, user_id: str, order: list[str],
                 pending: Pending, traceparent: str) -> None:
        self.call = call
        self.course = course
        self.hook = hook
        self.user_id = user_id
        self.order = order
        self.pending = pending
        self.traceparent = traceparent
        self.span: SpanOfDispatch | None = None
        self.outcomes: dict[str, msg.Outcome] = {}
        self.open: set[int] = set()

    @property
    def handed_on(self) -> str:
        """The traceparent for a node that runs a part."""
        return self.traceparent if self.span is None else self.span.traceparent


class Elsewhere(Protocol):
    """Where parts go that another node of the fleet runs."""

    def launch(self, run: Run, call: int, plugin: str, payload: msgspec.Raw, deadline_ns: int, now_ns: int) -> bool:
        """Sends the part to the node that owns its plugin; False if that is this one."""

    def cancel_part(self, call: int) -> bool:
        """Ends a part that was sent; False if it was not."""


class NoResult(Exception):
    """No hook returns this. Results of our own workers were checked before; those of another node were not."""


class DispatchRuns:
    """Every dispatch without its reply. ``step(event, now_ns)`` gives an event to the core and does its actions.
    ``elsewhere`` is set by a fleet."""

    elsewhere: Elsewhere | None = None

    def __init__(self, pool: Pool, table: PendingTable, replies: Replies,
                 step: Callable[[ev.Event, int], None], plugin_settings: PluginSettings, tenants: Tenants) -> None:
        self._plugin_settings = plugin_settings
        self._tenants = tenants
        self._pool = pool
        self._table = table
        self._replies = replies
        self._step = step
        self._runs: dict[int, Run] = {}
        self._parts: dict[int, Run] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def __contains__(self, call: int) -> bool:
        return call in self._runs

    def plan(self, request: msg.Dispatch, user_id: str, now_ns: int) -> tuple[Dispatch, list[str]]:
        """The course of ``request`` and its plugins in order. Raises WireError."""
        hook = HOOKS.get(request.action)
        if hook is None:
            raise WireError(Code.INVALID_INPUT, f"there is no hook {request.action!r}; `hello` lists the hooks",
                            {"path": "$.action"})
        raw = hooks.check_payload(request.action, request.payload, user_id)
        try:
            payload = decode_any(raw)
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
            raise WireError(Code.INVALID_INPUT, f"payload: {error}"[:500], {"path": "$.payload"}) from None
        order = self._pool.subscribers(request.action, user_id)
        timeout_ms = min(request.deadline_ms or DISPATCH_MS, DISPATCH_MS)
        return Dispatch(hook, order, payload, now_ns + timeout_ms * MS_NS), order

    def begin(self, run: Run, now_ns: int) -> None:
        """Starts ``run``; with nothing to run it is answered at once."""
        self._runs[run.call] = run
        self._launch(run, run.course.begin(now_ns), now_ns)
        self._conclude(run)

    def _launch(self, run: Run, parts: list[Part], now_ns: int) -> None:
        payload: Any = None
        encoded = msgspec.Raw()
        for part in parts:
            if part.payload is not payload:  # all at once have the same: not encoded, and not kept, once for each
                payload, encoded = part.payload, msgspec.Raw(_encode(part.payload))
            call = self._table.number()
            self._parts[call] = run
            run.open.add(call)
            if run.traceparent:
                self._table.traces[call] = run.traceparent
            if run.span is not None:
                self._table.spans[call] = SpanOfCall(run.span.trace_id, run.span.span_id, now_ns, is_part=True)
            spec = self._pool.spec(part.plugin)
            timeout_ns = spec.limits.timeout_ms * MS_NS if spec else 0
            deadline_ns = min(part.deadline_ns, now_ns + timeout_ns)
            if self.elsewhere is not None and self.elsewhere.launch(run, call, part.plugin, encoded, deadline_ns,
                                                                    now_ns):
                continue
            event = ev.InvokeRequested(call, part.plugin, run.hook, run.user_id, encoded, deadline_ns)
            if spec is not None and spec.settings and self._plugin_settings.has_tenants(spec.id):
                self._tenants.submit(event, now_ns)
            else:
                self._step(event, now_ns)

    def settled(self, verdict: Verdict, outcome: Settled, effects: list[Any]) -> bool:
        """Takes the verdict of a part; False if it belongs to no dispatch."""
        if verdict.call not in self._parts:
            return False
        code = outcome.code
        entry = msg.Outcome(plugin=verdict.plugin, ok=not code, effects=effects, usage=outcome.usage)
        if code:
            entry.error = msg.OutcomeError(
                code=code, message=outcome.message, started=verdict.started,
                retryable=is_retryable(code, verdict.started), details=outcome.details or msgspec.UNSET)
        else:
            raw = bytes(verdict.body.result)  # type: ignore[attr-defined]  # a Reply: code is ""
            entry.result = msgspec.Raw(raw)
        self.outcome(verdict.call, entry)
        return True

    def outcome(self, call: int, entry: msg.Outcome) -> None:
        """Takes the outcome of a part, wherever it ran. Raises NoResult; then the part is still open."""
        run = self._parts.get(call)
        if run is None:
            return
        # first: if this fails, the part is still open, and ends as INTERNAL (``Verdicts.untold``)
        try:
            value = hooks.parts_of(run.hook, bytes(entry.result), entry.plugin) if entry.ok else None
        except (msgspec.MsgspecError, KeyError) as error:
            raise NoResult(f"{entry.plugin}: {error}"[:200]) from error
        del self._parts[call]
        run.open.discard(call)
        if run.call not in self._runs:
            return  # cancelled meanwhile
        run.outcomes[entry.plugin] = entry
        now_ns = time.monotonic_ns()
        self._launch(run, run.course.settled(entry.plugin, entry.ok, value, now_ns), now_ns)
        self._conclude(run)

    def _conclude(self, run: Run) -> None:
        if not run.course.finished or self._runs.pop(run.call, None) is None:
            return
        self._end_span(run, "")
        outcomes = [run.outcomes[plugin] for plugin in run.order if plugin in run.outcomes]
        self._replies.finish(run.pending, _encode(msg.Dispatched(
            id=run.pending.id, action=run.hook, result=run.course.result(), outcomes=outcomes,
            partial=run.course.partial)), all(
                outcome.error is not msgspec.UNSET and outcome.error.code == Code.AUDIT_UNAVAILABLE
                for outcome in outcomes))

    def _end_span(self, run: Run, code: str) -> None:
        if run.span is not None and self._table.tracing is not None:
            self._table.tracing.end_dispatch(run.span, len(run.outcomes) + len(run.open), code)

    def pending(self) -> list[int]:
        """Those without their reply."""
        return list(self._runs)

    def cancel(self, call: int, now_ns: int) -> None:
        """Ends a dispatch: its parts are cancelled, its caller gets CANCELLED."""
        run = self._runs.pop(call)
        self._end_span(run, Code.CANCELLED)
        started = bool(run.outcomes or run.open)
        for part in list(run.open):
            if self.elsewhere is None or not self.elsewhere.cancel_part(part):
                self._tenants.release(part, now_ns)
                self._step(ev.CancelRequested(part), now_ns)
        self._replies.finish(run.pending, _encode(msg.Error(
            id=run.pending.id, code=Code.CANCELLED, message="cancelled by its caller", started=started,
            retryable=False, action=run.hook)))
