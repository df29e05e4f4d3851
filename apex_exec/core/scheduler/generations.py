"""One plugin's workers follow each other: the next is started beside the last, may be tried first, and takes over.

``GenerationPrepared`` starts a candidate that serves nobody. It is judged exactly once: good if it booted and its
canary was answered with a result; otherwise the judgement says why not. ``PluginSet`` adopts the candidate, before or
after the judgement. Adoption saves a cold start, and nothing depends on it.
"""

from __future__ import annotations

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.scheduler.admission import SHUTTING_DOWN, Admission
from apex_exec.core.scheduler.invocation import Invocation, Refusal
from apex_exec.core.scheduler.places import Places
from apex_exec.core.scheduler.plugin_slot import PluginSlot
from apex_exec.core.scheduler.step import Step
from apex_exec.core.scheduler.verdicts import Verdicts
from apex_exec.core.scheduler.worker import AT_WORK, End, Worker, generation
from apex_exec.core.scheduler.workers import Workers

_CANARY_CODES = {"skipped": "DEADLINE_EXCEEDED", "ended": "TIMEOUT"}


class Generations:
    """Successors: started, judged, adopted, given up."""

    def __init__(self, slots: dict[str, PluginSlot], verdicts: Verdicts, admission: Admission, workers: Workers,
                 places: Places) -> None:
        self._slots = slots
        self._verdicts = verdicts
        self._admission = admission
        self._workers = workers
        self._places = places

    # ------------------------------------------------------------------ of the version in force
    def renew(self, slot: PluginSlot, step: Step) -> None:
        """Starts the next worker now if there is a place, so that it is warm when the old one has answered its last
        call."""
        now_ns, breaker = step.now_ns, slot.breaker
        if (slot.successor is None and not self._places.waiting and self._places.may_start(now_ns)
                and breaker.open_until_ns == 0 and now_ns >= breaker.start_after_ns):
            slot.successor = self._workers.start(slot.spec, step)

    def adopt(self, slot: PluginSlot, step: Step) -> None:
        """Has the plugin served by the generation in force: by the prepared worker if it is of that generation, else by
        a new worker that is started beside the old one."""
        successor, wanted = slot.successor, generation(slot.spec)
        if successor is not None and (successor.generation != wanted or successor.canary is not None
                                      or successor.state == "killed"):
            self.drop_successor(slot, "another generation was decided for", step)
        elif successor is not None:
            self.judge(slot, successor, "CANCELLED", "it was set before it was judged", step)
            if successor.role == "judged":
                successor.become("serving")
        worker = slot.worker
        if worker is None or worker.generation == wanted:
            if slot.successor is not None and not (worker and worker.leaves_for):
                self.drop_successor(slot, "the live generation stays", step)
        elif worker.state == "starting":
            self._workers.kill(worker, End("drained", message="another version was set"), step)
        elif worker.state in AT_WORK:
            if worker.state == "ready":
                worker.leaves_for = "drained"
                worker.move("leaving")
            self.renew(slot, step)

    # ------------------------------------------------------------------ prepared ones
    def prepare(self, event: ev.GenerationPrepared, step: Step) -> None:
        """Starts a candidate, with the canary by which it is judged."""
        spec = event.spec
        slot = self._slots.get(spec.id)
        canary = Invocation(event.canary, step.now_ns) if event.canary is not None else None
        if canary is not None:
            self._verdicts.open[canary.request.call] = canary
        refusal = self._refusal(event, slot, step.now_ns)
        if slot is None or refusal is not None:
            code, message, _ = refusal = refusal or ("PLUGIN_NOT_FOUND", f"no plugin {spec.id!r} is registered", {})
            if canary is not None:
                self._verdicts.never_ran(canary, (code, message, {}), step)
            step.actions.append(act.GenerationJudged(spec.id, spec.digest, code, message))
            return
        self.drop_successor(slot, "another generation was prepared", step)
        worker = self._workers.start(spec, step)
        worker.role = "candidate"
        worker.canary = canary
        if canary is not None:
            worker.due_ns = max(step.now_ns + 1, min(worker.due_ns, canary.request.deadline_ns))
            self._workers.rearm(worker, step.now_ns)
        slot.successor = worker

    def _refusal(self, event: ev.GenerationPrepared, slot: PluginSlot | None, now_ns: int) -> Refusal | None:
        if slot is None:
            return None  # the caller says so
        if self._admission.draining:
            return SHUTTING_DOWN
        if event.canary is not None and self._admission.refused is not None:
            return self._admission.refused
        if slot.heir is not None:
            return "OVERLOADED", "the plugin is changing its worker; try again", {}
        if not self._places.may_start(now_ns):
            return "OVERLOADED", "there is no place for another worker now", {}
        return None

    def dropped(self, event: ev.GenerationDropped, step: Step) -> None:
        """Gives up the prepared generation. A successor that already serves, or is to, stays."""
        slot = self._slots.get(event.plugin)
        if slot is not None and slot.heir is None:
            self.drop_successor(slot, "the prepared generation was dropped", step)

    def judge(self, slot: PluginSlot, worker: Worker, code: str, message: str, step: Step) -> None:
        """Reports the judgement of a candidate, once. If it failed, the caller gives it up."""
        if worker.role == "candidate":
            worker.become("judged")
            step.actions.append(act.GenerationJudged(slot.spec.id, worker.spec.digest, code, message))

    def ready(self, slot: PluginSlot, worker: Worker, step: Step) -> None:
        """A candidate has booted: its canary runs now, or it is judged by the boot alone."""
        canary = worker.canary
        if canary is None:
            self.judge(slot, worker, "", "", step)
        elif canary.state == "queued":
            self._workers.send(worker, canary, step)
        else:
            self.judge(slot, worker, "CANCELLED", "its canary was cancelled", step)
            self.drop_successor(slot, "its canary was cancelled", step)

    def canary_answered(self, slot: PluginSlot, worker: Worker, canary: Invocation, code: str, step: Step) -> None:
        """The canary was answered. If it failed, the generation is given up."""
        worker.canary = None
        code = "CANCELLED" if canary.state == "cancelled" else _CANARY_CODES.get(code, code)
        self.judge(slot, worker, code, "the canary failed" if code else "", step)
        if code:
            self.drop_successor(slot, "its canary failed", step)
        else:
            self._workers.rearm(worker, step.now_ns)

    def refuse_work(self, slot: PluginSlot, refusal: Refusal, step: Step) -> None:
        """No call may begin any more: a candidate whose canary waits for its boot is given up."""
        successor = slot.successor
        if successor is not None and successor.canary is not None and successor.canary.state == "queued":
            code, message, _ = refusal
            self._verdicts.never_ran(successor.canary, refusal, step)
            self.judge(slot, successor, code, message, step)
            self.drop_successor(slot, message, step)

    def lost(self, slot: PluginSlot, worker: Worker, code: str, message: str, step: Step) -> None:
        """The successor has ended before it took over. If it was not judged yet, it is judged now."""
        slot.successor = None
        if worker.canary is not None and worker.canary.state == "queued":
            self._verdicts.never_ran(worker.canary, (code, message, {}), step)
        self.judge(slot, worker, code, message, step)

    def drop_successor(self, slot: PluginSlot, message: str, step: Step) -> None:
        """Gives the successor up, if there is one. If its canary still waits or runs, the canary is answered."""
        worker = slot.successor
        if worker is None:
            return
        slot.successor = None
        self.judge(slot, worker, "CANCELLED", message, step)
        canary, worker.canary = worker.canary, None
        if canary is not None and canary.state == "linked":
            self._verdicts.ran(canary, "CANCELLED", message, step)
        elif canary is not None:
            self._verdicts.never_ran(canary, ("CANCELLED", message, {}), step)
        if worker.state in AT_WORK and not worker.link:
            self._workers.stop(worker, "drained", step)
        else:
            self._workers.kill(worker, End("drained", message=message), step)
