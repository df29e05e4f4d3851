"""The beginning and the end of workers: a worker is ready, has ended, or could not be forked; a zygote came or went."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.scheduler.admission import Admission, retry_after
from apex_exec.core.scheduler.breaker import NO_CALL, UNCHARGED
from apex_exec.core.scheduler.feeding import Feeding
from apex_exec.core.scheduler.generations import Generations
from apex_exec.core.scheduler.invocation import LINKS_MAX, Invocation
from apex_exec.core.scheduler.places import Places
from apex_exec.core.scheduler.plugin_slot import PluginSlot
from apex_exec.core.scheduler.step import Step
from apex_exec.core.scheduler.verdicts import WITHOUT_VERDICT, Verdicts
from apex_exec.core.scheduler.watch import EVIDENCE
from apex_exec.core.scheduler.worker import End, Worker
from apex_exec.core.scheduler.workers import Workers

BY_A_CALL = ("deadline", "cancelled", "memory", "cpu")
"""Reasons for which a worker is killed because of what one of its calls did."""
NO_PROCESS = "the system gave no process for a worker"


class Lifecycle:
    """Handles what the shell reports about processes. ``random()`` returns a number in [0, 1), for the jitter of
    restarts."""

    def __init__(self, random: Callable[[], float], slots: dict[str, PluginSlot], verdicts: Verdicts,
                 admission: Admission, workers: Workers, places: Places, generations: Generations,
                 feeding: Feeding) -> None:
        self._random = random
        self._slots = slots
        self._verdicts = verdicts
        self._admission = admission
        self._workers = workers
        self._places = places
        self._generations = generations
        self._feeding = feeding

    # ------------------------------------------------------------------ beginnings
    def ready(self, event: ev.WorkerReady, step: Step) -> None:
        """The worker can take calls: it is fed, takes over from its predecessor, or is tried with its canary."""
        worker = self._workers.by_id.get(event.worker)
        if worker is None or worker.state == "killed":
            return
        if worker.state != "starting":
            self._workers.kill(worker, End("violation", "WORKER_VIOLATION",
                                           "the worker said twice that it is ready"), step)
            return
        worker.move("ready")
        worker.ready_ns = worker.answered_ns = worker.used_ns = step.now_ns
        self._places.fork_succeeded()
        slot = self._slots[worker.plugin]
        if slot.worker is worker:
            self._feeding.feed(slot, step)
        elif worker.role == "serving":
            self._feeding.tend(slot, step)
        else:
            self._generations.ready(slot, worker, step)
        self._workers.rearm(worker, step.now_ns)

    def fork_refused(self, event: ev.ForkRefused, step: Step) -> None:
        """There is no process: nobody is charged, and the pool waits before it asks for one again."""
        worker = self._workers.remove(event.worker)
        if worker is None:
            return
        self._places.fork_refused(step.now_ns)
        slot = self._slots.get(worker.plugin)
        if slot is None:
            return
        if slot.worker is worker:
            slot.worker = None
        elif slot.successor is worker:
            self._generations.lost(slot, worker, *_blame(worker, "OVERLOADED", NO_PROCESS), step)
        self._feeding.feed(slot, step)

    def zygote_is_up(self, event: ev.ZygoteUp, step: Step) -> None:
        """Workers can be started again."""
        self._places.zygote_is_up()
        self._feeding.serve_waiting(step)

    # ------------------------------------------------------------------ ends
    def zygote_lost(self, event: ev.ZygoteLost, step: Step) -> None:
        """Every worker is dying with the zygote: nobody is charged, and calls that had not begun go to the next
        worker."""
        self._places.zygote_lost()
        for worker in list(self._workers.by_id.values()):
            if worker.end is not None and worker.state == "killed":
                if worker.end.reason == "boot_failed":
                    worker.end = replace(worker.end, reason="zygote_lost")
            else:
                self._workers.kill(worker, End("zygote_lost", message="the process that starts workers died"), step)

    def gone(self, event: ev.WorkerGone, step: Step) -> None:
        """The worker has ended. Calls that it had begun get their verdicts now; the others go to the next worker."""
        worker = self._workers.remove(event.worker)
        if worker is None:
            return
        slot = self._slots.get(worker.plugin)
        if slot is not None and slot.worker is worker:
            slot.worker = None  # first of all: if this step fails, the plugin must not wait for a dead worker
        booting = worker.state == "starting"
        reason = worker.end.reason if worker.end is not None else (
            "boot_failed" if booting else EVIDENCE.get(event.code, "crashed"))
        charged = reason not in UNCHARGED and slot is not None and worker.role == "serving"
        step.actions.append(act.WorkerEnded(worker.id, worker.plugin, reason, charged))
        if slot is not None and charged:
            self._charge(slot, worker, event, reason, step)
        again = self._settle_link(worker, event, slot, step)
        if slot is not None:
            self._hand_back(slot, worker, again, event, step)
            if slot.breaker.state(step.now_ns) == "open":
                self._verdicts.flush(slot, ("QUARANTINED", "the plugin failed too often and is paused",
                                            retry_after(slot.breaker.refuses_ns(step.now_ns))), step)
            elif booting and charged and slot.worker is None:
                self._verdicts.flush(slot, ("BOOT_FAILED", event.message, dict(event.details)), step)
            self._feeding.feed(slot, step)
            self._feeding.await_deadlines(slot, step.now_ns)
        self._feeding.serve_waiting(step)

    def _charge(self, slot: PluginSlot, worker: Worker, event: ev.WorkerGone, reason: str, step: Step) -> None:
        """Counts an abnormal end for the plugin, and for the user whose call ended the worker, if that is known."""
        blamed = _culprit(worker, event.started)
        request = blamed.request if blamed is not None else None
        culprit = "" if request is None or request.own or reason == "violation" else request.user_id
        if culprit and request is not None and slot.users.ended(culprit, request.hook, step.now_ns,
                                                                probed=slot.breaker.probe != NO_CALL):
            step.actions.append(act.UserPaused(worker.plugin, culprit, request.hook))
            for call in slot.queue.waiting():
                if (refusal := self._admission.user_paused(slot, call.request, step.now_ns)) is not None:
                    slot.queue.forget(call)
                    self._verdicts.never_ran(call, refusal, step)
        if slot.breaker.ended(step.now_ns, step.now_ns - worker.born_ns, self._random(), trip=reason == "violation",
                              culprit=culprit):
            step.actions.append(act.BreakerChanged(worker.plugin, "open"))

    def _hand_back(self, slot: PluginSlot, worker: Worker, again: list[Invocation], event: ev.WorkerGone,
                     step: Step) -> None:
        """Puts those calls of ``again`` that may begin at the head of the queue, and judges a successor that has ended.
        """
        if slot.breaker.probe not in self._verdicts.open:
            slot.breaker.probe = NO_CALL
        slot.queue.released_all()
        for call in reversed(again):
            refusal = (self._admission.may_not_begin(call.request, slot.spec)
                       or self._admission.user_paused(slot, call.request, step.now_ns))
            if refusal is not None:
                self._verdicts.never_ran(call, refusal, step)
                continue
            call.move("queued")
            call.recalled = None
            slot.queue.push_front(call)
        if slot.successor is worker:
            code = "BOOT_FAILED" if worker.state == "starting" else event.code or "WORKER_CRASHED"
            self._generations.lost(slot, worker, *_blame(worker, code, event.message), step)

    def _settle_link(self, worker: Worker, event: ev.WorkerGone, slot: PluginSlot | None,
                     step: Step) -> list[Invocation]:
        """Gives the calls on a dead worker's link their verdicts. Returns, in order, those that may run on the next
        worker."""
        again: list[Invocation] = []
        details: dict[str, object] = dict(event.details)
        culprit = _culprit(worker, event.started)
        for seq, call in worker.link.items():
            if call.state not in WITHOUT_VERDICT:
                continue
            if seq < event.started:
                code, message, more = _verdict_of_begun(worker, event, call, culprit)
                self._verdicts.ran(call, code, message, step, details={**details, **more} if more else details)
            elif slot is None or call.links >= LINKS_MAX or call is worker.canary:
                self._verdicts.never_ran(
                    call, ("WORKER_CRASHED", "the worker died before this call began", details), step)
            else:
                again.append(call)
        return again


def _blame(worker: Worker, code: str, message: str) -> tuple[str, str]:
    """Code and message of a candidate's end: those of the kill if it was killed, else those that are given."""
    if worker.end is None:
        return code, message
    return worker.end.code or code, worker.end.message or message


def _culprit(worker: Worker, started: int) -> Invocation | None:
    """The call that ended a dead worker; None if that is not known. It is the call that the worker was killed for; else
    the oldest call that had begun, if the worker ran one after another; else the call that had begun, if it is the only
    one."""
    if worker.blamed is not None and worker.end is not None and worker.end.reason in ("deadline", "cancelled"):
        return worker.blamed
    begun = [call for seq, call in worker.link.items() if seq < started]
    return begun[0] if begun and (not worker.shared or len(begun) == 1) else None


def _verdict_of_begun(worker: Worker, event: ev.WorkerGone, call: Invocation, culprit: Invocation | None) -> tuple[
        str, str, dict[str, object]]:
    """Code, message and further details for ``call``, which a dead worker had begun.

    If nobody commanded the end, its evidence concerns the culprit, or every call if no culprit is known. If the worker
    was killed for one call, that call has its verdict already and the others get WORKER_CRASHED. There are two
    exceptions: if the worker broke the protocol, nothing that it says about any call is believed; and if it is shared,
    the limit that ended it is one that all its calls used up together."""
    end = worker.end
    if end is not None and end.code == "WORKER_VIOLATION":
        return end.code, end.message, {}
    is_others = worker.shared and culprit is not None and call is not culprit and (
        end is None or end.reason in BY_A_CALL)
    more: dict[str, object] = {"bystander": True} if is_others else {}
    if end is None:
        told = not is_others and (call is culprit or worker.shared)
        return event.code if told else "WORKER_CRASHED", event.message, more
    code = end.code if worker.shared and end.reason in BY_A_CALL and not is_others else ""
    return code or "WORKER_CRASHED", end.message or event.message, more
