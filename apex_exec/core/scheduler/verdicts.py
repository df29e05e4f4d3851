"""The calls that have no verdict yet, and the only two ways to a verdict: the call ran, or it never ran."""

from __future__ import annotations

from apex_exec.core import actions as act
from apex_exec.core.events import InvokeRequested
from apex_exec.core.scheduler.breaker import NO_CALL
from apex_exec.core.scheduler.invocation import Invocation, Refusal
from apex_exec.core.scheduler.plugin_slot import PluginSlot
from apex_exec.core.scheduler.step import Step

PASSED_IN_QUEUE = "the deadline passed in the queue"
HELD_BACK = "its worker ended again and again, and the next one is not started before the deadline"
TOO_LATE = "its turn came too late: what is left of the deadline is less than the hook takes"
WITHOUT_VERDICT = ("queued", "linked")


class Verdicts:
    """``open`` holds each call until it has its verdict. Whatever comes later for that call changes nothing."""

    def __init__(self, slots: dict[str, PluginSlot]) -> None:
        self._slots = slots
        self.open: dict[int, Invocation] = {}

    def ran(self, call: Invocation, code: str, message: str, step: Step, begun_ns: int = 0, body: object = None,
            details: dict[str, object] | None = None) -> None:
        """The verdict of a call on a link, which has started or may have started. ``begun_ns`` is when it started, if
        that is known to be later than when it was sent."""
        if call.state != "linked":
            return
        call.state = "done"
        request = call.request
        del self.open[request.call]
        begun_ns = begun_ns or call.sent_ns
        queue_ns = begun_ns - call.arrived_ns
        step.actions.append(act.Verdict(
            call=request.call, plugin=request.plugin, hook=request.hook, user_id=request.user_id, code=code,
            message=message, body=body, details=details or {}, started=True,
            queue_ns=queue_ns if queue_ns > 0 else 0, run_ns=step.now_ns - begun_ns, cold=call.cold,
            worker=call.worker))

    def never_ran(self, call: Invocation, refusal: Refusal, step: Step) -> None:
        """The verdict of a call that has not started and never will."""
        if call.state not in WITHOUT_VERDICT:
            return
        call.state = "done"
        request = call.request
        del self.open[request.call]
        step.actions.append(_never_ran(
            request, refusal, queue_ns=max(0, step.now_ns - call.arrived_ns), cold=call.cold))
        slot = self._slots.get(request.plugin)
        if slot is not None and slot.breaker.probe == request.call:
            slot.breaker.probe = NO_CALL  # this probe proved nothing: the next call may be one

    def not_admitted(self, request: InvokeRequested, refusal: Refusal, step: Step) -> None:
        """The verdict of a call that is refused as it comes in. A call that came in after its deadline counts as
        admitted, so that it is recorded like any other call that expired."""
        verdict = _never_ran(request, refusal, queue_ns=0, cold=False)
        verdict.admitted = verdict.code == "DEADLINE_EXCEEDED"
        step.actions.append(verdict)

    def flush(self, slot: PluginSlot, refusal: Refusal, step: Step) -> None:
        """Answers every call that waits in the plugin's queue."""
        for call in slot.queue.waiting():
            slot.queue.forget(call)
            self.never_ran(call, refusal, step)


def _never_ran(request: InvokeRequested, refusal: Refusal, *, queue_ns: int, cold: bool) -> act.Verdict:
    code, message, details = refusal
    return act.Verdict(
        call=request.call, plugin=request.plugin, hook=request.hook, user_id=request.user_id, code=code,
        message=message, body=None, details=details or {}, started=False, queue_ns=queue_ns, run_ns=0, cold=cold)
