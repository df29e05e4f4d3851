"""What happens after a verdict: the result is checked, the call is counted and recorded, and the request is answered.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from apex_exec.catalogue.hooks import RENDERING
from apex_exec.core.actions import Verdict
from apex_exec.core.policy import Denied, check
from apex_exec.core.scheduler.pool import Pool
from apex_exec.daemon.failure_places import FailurePlaces
from apex_exec.daemon.hosts.dispatch_runs import DispatchRuns
from apex_exec.daemon.hosts.pending_table import PendingTable, Watcher
from apex_exec.daemon.hosts.replies import Replies
from apex_exec.daemon.sides.result_checks import is_dear
from apex_exec.errors import FAILURES, Code, is_retryable
from apex_exec.executor.links.overhead import Used
from apex_exec.executor.outcome import Settled, settle
from apex_exec.wire import hooks
from apex_exec.wire import messages as msg
from workers import wire as inner

if TYPE_CHECKING:
    from apex_exec.daemon.plugin_settings import PluginSettings
    from apex_exec.daemon.ports import ApiCalls, Checks, Places, Trail
    from apex_exec.observe.logs import Logs
    from apex_exec.observe.metrics import Metrics

_encode = msgspec.msgpack.Encoder().encode
_clock_ns = time.monotonic_ns
UNDELIVERED = "the daemon failed at this result; its log says how"


class Verdicts:
    """``used(worker, call, run_ns)`` returns what a call has used. ``failed(duty, error, plugin)`` is the guard's; it
    is called if a result that was checked in another process could then not be delivered."""

    def __init__(self, pool: Pool, table: PendingTable, replies: Replies, dispatches: DispatchRuns, *,
                 used: Callable[[int, int, int], Used], audit: Trail, api: ApiCalls, checks: Checks, places: Places,
                 metrics: Metrics, logs: Logs, failed: Callable[[str, Exception, str], None],
                 plugin_settings: PluginSettings) -> None:
        self._pool = pool
        self._table = table
        self._calls = table.calls
        self._traces = table.traces
        self._replies = replies
        self._dispatches = dispatches
        self._used = used
        self._audit = audit
        self._api = api
        self._checks = checks
        self._places = places
        self._metrics = metrics
        self._logs = logs
        self._failed = failed
        self._plugin_settings = plugin_settings
        self._redactors = plugin_settings.redactors
        self.failures = FailurePlaces()

    def watch(self, call: int, settled: Watcher) -> None:
        """Has ``settled`` called with the outcome of ``call``, which is the daemon's own call and not a host's."""
        self._table.watched[call] = settled

    def _memory_mb_max(self, verdict: Verdict) -> float:
        """The memory that a sample must show for a MemoryError to be more than the hook's own claim."""
        spec = self._pool.spec_of(verdict.plugin, verdict.worker)
        return spec.limits.memory_mb if spec is not None else 0.0

    def rendering(self, verdict: Verdict) -> hooks.Rendering:
        """What the result of ``verdict`` may render: by the permissions that are in force now, when the widgets go out,
        of the version that has run."""
        if verdict.hook not in RENDERING:
            return hooks.ANYTHING
        spec = self._pool.spec_of(verdict.plugin, verdict.worker)
        verdict_of = Denied("ui:render", "the plugin was removed") if spec is None else (
            check(spec, "renderWidget", None, time.time()))
        denied = verdict_of.reason if isinstance(verdict_of, Denied) else ""
        return hooks.Rendering(denied, self._api.components)

    def untold(self, verdict: Verdict) -> None:
        """The verdict could not be delivered: the outcome is INTERNAL for the one who asked for the call, unless it had
        its outcome already."""
        self._traces.pop(verdict.call, None)
        self._table.spans.pop(verdict.call, None)
        pending = self._calls.pop(verdict.call, None)
        if pending is None:
            self._settled(verdict, Settled(Code.INTERNAL, UNDELIVERED, {}, msg.Usage()), [])
            return
        self._replies.send(pending, _encode(msg.Error(
            id=pending.id, code=Code.INTERNAL, message=UNDELIVERED,
            started=verdict.started, retryable=is_retryable(Code.INTERNAL, verdict.started), plugin=verdict.plugin,
            action=verdict.hook)))

    def _settled(self, verdict: Verdict, outcome: Settled, effects: list[Any]) -> None:
        """Hands the outcome to the dispatch that the call is a part of, or to the part of the daemon that made it."""
        if not self._dispatches.settled(verdict, outcome, effects) and verdict.call in self._table.watched:
            self._table.watched.pop(verdict.call)(verdict, outcome, effects)

    def verdict(self, verdict: Verdict) -> None:
        """The core has decided. Has a result that takes long to check checked in another process, and then counts,
        records and answers."""
        # If several replies came together, the first of them is given the CPU time of all.
        used = self._used(verdict.worker, verdict.call, verdict.run_ns)
        body, code = verdict.body, verdict.code
        memory_mb_max = 0.0
        if self._redactors and verdict.plugin in self._redactors and type(body) is inner.Reply and (
                secret := self._leaked(verdict, body)):
            verdict = msgspec.structs.replace(
                verdict, code=Code.INVALID_OUTPUT.value, body=None,
                message=f"the result has the secret setting {secret} in it; return something else than the secret")
            code = verdict.code
        if code:
            if code == "MEMORY_LIMIT":
                memory_mb_max = self._memory_mb_max(verdict)
            elif code == "INVALID_INPUT" and type(body) is inner.BadInput:  # nothing was started
                verdict = msgspec.structs.replace(verdict, started=False)
            if type(body) is inner.Raised and body.traceback and self._locate_elsewhere(
                    verdict, body, used, memory_mb_max):
                return
        elif type(body) is inner.Reply and is_dear(body.result):
            self._check_elsewhere(verdict, bytes(body.result), used)
            return
        try:
            outcome = settle(verdict, used.memory_mb, used.throttled_ns, memory_mb_max, None,
                             hooks.ANYTHING if verdict.hook not in RENDERING else self.rendering(verdict))
        except Exception as error:  # a bug of ours, perhaps by something a worker sent: the caller still gets a reply
            self._logs.bug("a result could not be judged", error)
            outcome = Settled(Code.INTERNAL, UNDELIVERED, {}, msg.Usage())
        self._conclude(verdict, outcome, used)

    def _leaked(self, verdict: Verdict, body: inner.Reply) -> str:
        """The name of a secret setting that the result contains in plain text; "" if it contains none."""
        spec = self._pool.spec_of(verdict.plugin, verdict.worker)
        return "" if spec is None else self._plugin_settings.leaked(spec, verdict.user_id, bytes(body.result))

    def _without_secrets(self, verdict: Verdict, outcome: Settled) -> None:
        """Takes the plugin's secrets out of the message and details of a failure, for the host and for the logs."""
        redactor = self._redactors[verdict.plugin]
        outcome.message = redactor.redacted(outcome.message)
        outcome.details = {key: redactor.redacted(value) if isinstance(value, str) else value
                           for key, value in outcome.details.items()}

    def _check_elsewhere(self, verdict: Verdict, result: bytes, used: Used) -> None:
        """Has a result that takes long to check checked outside the loop; the verdict is concluded after that."""
        self._note_judged(verdict)

        def checked(code: str, message: str, details: dict[str, Any], cpu_ns: int) -> None:
            used.host_ns += cpu_ns
            try:
                outcome = settle(verdict, used.memory_mb, used.throttled_ns, checked=(code, message, details))
                self._conclude(verdict, outcome, used)
            except Exception as error:
                self._failed("checked result", error, verdict.plugin)
                self.untold(verdict)

        self._checks.submit(verdict.plugin, verdict.hook, result, self.rendering(verdict), checked, _clock_ns())

    def _locate_elsewhere(self, verdict: Verdict, body: inner.Raised, used: Used, memory_mb_max: float) -> bool:
        """Has the places of a traceback found outside the loop, if the plugin's bundle has source maps; the verdict is
        concluded after that. False if there is nothing to find, or if the call is the daemon's own: then the verdict is
        concluded at once, and the registrar finds the places."""
        spec = self._pool.spec_of(verdict.plugin, verdict.worker)
        if spec is None or verdict.call in self._table.watched:
            return False
        self._note_judged(verdict)

        def located(text: str, cpu_ns: int) -> None:
            body.traceback = text
            used.host_ns += cpu_ns
            try:
                self._conclude(verdict, settle(verdict, used.memory_mb, used.throttled_ns, memory_mb_max), used)
            except Exception as error:
                self._failed("located traceback", error, verdict.plugin)
                self.untold(verdict)

        return self._places.submit(spec, body.traceback, located, _clock_ns())

    def _note_judged(self, verdict: Verdict) -> None:
        """If the call is traced: its worker is done, and what follows is the check's time."""
        if (span := self._table.spans.get(verdict.call)) is not None:
            span.judged_ns = _clock_ns()

    def _tell_failure(self, verdict: Verdict, outcome: Settled) -> None:
        """Counts a call that failed by its plugin's fault, and writes the failure with its traceback to the daemon's
        log and the plugin's log."""
        now_ns, plugin = _clock_ns(), verdict.plugin
        self._metrics.failure(plugin, outcome.code, now_ns)
        spec = self._pool.spec_of(plugin, verdict.worker)
        if spec is not None:
            details = outcome.details
            self.failures.add(plugin, spec.digest, outcome.code, str(details.get("exception", "")),
                              str(details.get("traceback", "")))
        logs = self._logs
        if logs.failure_room(plugin, now_ns):
            text = f"{verdict.hook} failed: {outcome.code}: {outcome.message}"
            if traceback := outcome.details.get("traceback"):
                text += f"\n{traceback}"
            logs.failure(plugin, text)

    def _conclude(self, verdict: Verdict, outcome: Settled, used: Used) -> None:
        """Counts, records and answers a verdict whose outcome is known."""
        if used.host_ns:
            outcome.usage.host_cpu_ms = used.host_ns / 1e6
        call, code = verdict.call, outcome.code
        unrecorded, admitted = False, verdict.admitted
        if code:
            unrecorded = code == Code.AUDIT_UNAVAILABLE
            if self._redactors and verdict.plugin in self._redactors:
                self._without_secrets(verdict, outcome)
            if verdict.details.get("bystander"):
                self._metrics.inc("bystanders_total", (verdict.plugin,))
                self._audit.event("security.anomaly", verdict.user_id, verdict.plugin, verdict.hook, "failure",
                                  {"bystander": True})
            elif verdict.details.get("limit") == "queue":
                self._metrics.inc("user_limited_total", (verdict.plugin, "queue"))
            if code in FAILURES:
                self._tell_failure(verdict, outcome)
        if admitted:
            self._metrics.invocation(verdict, code)
        else:
            self._metrics.refused(verdict.plugin, verdict.hook, code)
        effects: list[Any] = []
        if admitted:
            effects = self._api.invocation_ended(call)
            if code and effects:
                effects = []
        trace = self._traces.pop(call, "") if self._traces else ""
        if admitted and not unrecorded:
            self._replies.last_record = self._audit.execution(
                verdict.user_id, verdict.plugin, verdict.hook, code, verdict.run_ns, used.memory_mb, trace,
                used.cpu_ns, used.host_ns)
        tracing = self._table.tracing
        if tracing is not None and (span := self._table.spans.pop(call, None)) is not None:
            spec = self._pool.spec_of(verdict.plugin, verdict.worker)
            tracing.end(span, verdict, code, "" if spec is None else spec.version, used)
        pending = self._calls.pop(call, None)
        if pending is None:
            self._settled(verdict, outcome, effects)
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
        self._replies.finish(pending, body, unrecorded)
