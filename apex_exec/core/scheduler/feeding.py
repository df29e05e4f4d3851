"""Moves calls from the queue to the link: each plugin with calls has a worker, and that worker's link is kept full."""

from __future__ import annotations

from apex_exec.core import actions as act
from apex_exec.core.deadline import Timers
from apex_exec.core.limits import EXPIRED_AT_ONCE, SKIP_GRACE_NS
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler.admission import Admission, retry_after
from apex_exec.core.scheduler.bounds import Bounds
from apex_exec.core.scheduler.generations import Generations
from apex_exec.core.scheduler.invocation import Invocation, Refusal
from apex_exec.core.scheduler.places import Places
from apex_exec.core.scheduler.plugin_slot import PluginSlot
from apex_exec.core.scheduler.step import Step
from apex_exec.core.scheduler.verdicts import HELD_BACK, PASSED_IN_QUEUE, TOO_LATE, Verdicts
from apex_exec.core.scheduler.worker import AT_WORK, Worker
from apex_exec.core.scheduler.workers import Workers

PASSED: Refusal = ("DEADLINE_EXCEEDED", PASSED_IN_QUEUE, {})
TOO_LATE_NOW: Refusal = ("DEADLINE_EXCEEDED", TOO_LATE, {})
PASSED_BEHIND: Refusal = ("DEADLINE_EXCEEDED", "the deadline passed behind an earlier call", {})


class Feeding:
    """Feeds links, has workers started, and answers calls that wait in vain."""

    def __init__(self, bounds: Bounds, timers: Timers, verdicts: Verdicts, admission: Admission, workers: Workers,
                 places: Places, generations: Generations) -> None:
        self._bounds = bounds
        self._timers = timers
        self._verdicts = verdicts
        self._admission = admission
        self._workers = workers
        self._places = places
        self._generations = generations

    # ------------------------------------------------------------------ feeding
    def feed(self, slot: PluginSlot, step: Step) -> None:
        """Moves queued calls to the link while the link has room; calls ``tend`` if there is no worker to feed."""
        worker = slot.worker
        if worker is None or worker.state != "ready":
            self.tend(slot, step)
            return
        if worker.shared:
            self._feed_shared(slot, worker, step)
            return
        queue, link, prefetch = slot.queue, worker.link, self._bounds.limits.prefetch
        expired = 0
        while queue.live and len(link) < prefetch:
            if worker.next_seq >= worker.last_seq:
                worker.last_seq = worker.next_seq + prefetch  # try again then, if too many are being recycled now
                if self.retire(slot, worker, "recycled", step):
                    return
            call = queue.peek()
            passed = call.request.deadline_ns <= step.now_ns  # no tick has handled it yet
            too_late = not passed and slot.comes_too_late(call, len(link), step.now_ns)
            if too_late and link:
                return  # too late behind the others; it may have enough time if they are answered soon
            queue.pop()
            if passed or too_late:
                self._verdicts.never_ran(call, PASSED if passed else TOO_LATE_NOW, step)
                expired += 1
                if expired == EXPIRED_AT_ONCE:
                    self._timers.arm(slot, step.now_ns + 1)  # the slot's timer goes on, and feeds
                    return
                continue
            call.cold = call.arrived_ns < worker.ready_ns
            self._workers.send(worker, call, step)

    def _feed_shared(self, slot: PluginSlot, worker: Worker, step: Step) -> None:
        """Moves calls to the link of a worker that runs several at once: as many as the plugin may run, of users whose
        turn it is (``UserQueue``). The worker begins a call as it arrives, so no call waits on the link."""
        queue, link, places = slot.queue, worker.link, slot.spec.limits.concurrency
        expired = 0
        while len(link) < places and queue.live and (call := queue.next_of(worker.users, places)) is not None:
            if worker.next_seq >= worker.last_seq:
                worker.last_seq = worker.next_seq + places
                if self.retire(slot, worker, "recycled", step):
                    return
            queue.take(call)
            passed = call.request.deadline_ns <= step.now_ns
            if passed or slot.comes_too_late(call, 0, step.now_ns):
                self._verdicts.never_ran(call, PASSED if passed else TOO_LATE_NOW, step)
                expired += 1
                if expired == EXPIRED_AT_ONCE:
                    self._timers.arm(slot, step.now_ns + 1)
                    return
                continue
            call.cold = call.arrived_ns < worker.ready_ns
            self._workers.send(worker, call, step)

    def tend(self, slot: PluginSlot, step: Step) -> None:
        """If the plugin's worker cannot be fed: stops it, lets its successor take over, or starts one."""
        worker = slot.worker
        if worker is not None and worker.state == "leaving" and not worker.link:
            self._workers.stop(worker, worker.leaves_for, step)
            worker = None
        if worker is not None:
            return  # it boots, answers its last calls, or is dying; its end then says which calls are to run again
        heir = slot.heir
        if heir is not None:
            slot.worker, slot.successor = heir, None
            if heir.state == "ready":
                self.feed(slot, step)
                self._workers.rearm(heir, step.now_ns)
        elif slot.queue:
            if step.now_ns < slot.breaker.start_after_ns:
                self._refuse_held_back(slot, step)
                if slot.queue:
                    self._timers.arm(slot, slot.breaker.start_after_ns)
            elif self._places.take(slot, step):
                slot.worker = self._workers.start(slot.spec, step)

    def retire(self, slot: PluginSlot, worker: Worker, reason: str, step: Step) -> bool:
        """Sends ``worker`` no more calls; True if it leaves now. False if it is to be recycled and enough other workers
        are being recycled at the moment."""
        if worker.state != "ready":
            return bool(worker.leaves_for)
        if reason == "recycled":
            if len(self._workers.recycling) >= self._bounds.recycle.at_once_max:
                return False
            self._workers.recycling.add(worker.id)
        worker.leaves_for = reason
        worker.move("leaving")
        if slot.worker is worker:
            if worker.link or slot.queue:
                self._generations.renew(slot, step)
            self.tend(slot, step)
        return True

    def serve_waiting(self, step: Step) -> None:
        """Starts workers of the plugins that wait for a place, in turn, as far as places are free."""
        while self._places.waiting and self._places.may_start(step.now_ns):
            slot = self._places.next_in_turn()
            if slot.worker is None and slot.heir is None and slot.queue and (
                    step.now_ns >= slot.breaker.start_after_ns):
                slot.worker = self._workers.start(slot.spec, step)
            else:
                self.tend(slot, step)
        if self._places.waiting:
            self._places.make_room(step)

    # ------------------------------------------------------------------ what waits in vain
    def due(self, slot: PluginSlot, step: Step) -> None:
        """The plugin's timer: answers calls that waited past their deadlines, in the queue or behind another call on a
        link."""
        for _ in range(EXPIRED_AT_ONCE):
            waiting = slot.queue.pop_expired(step.now_ns)
            if waiting is None:
                break
            self._verdicts.never_ran(waiting, PASSED, step)
        if slot.worker is not None and self.expire_on_link(slot.worker, step, counted=False):
            step.actions.append(act.CountStarted(slot.worker.id))
        self.feed(slot, step)
        self.await_deadlines(slot, step.now_ns)

    def expire_on_link(self, worker: Worker, step: Step, *, counted: bool) -> bool:
        """Answers the calls on the link whose deadlines have passed and whose turn has not come. The worker's own timer
        sees to the oldest call, unless the worker was killed. True if a count is needed first.

        A call on the link may have started although the reply before it has not been read. Only a count that was read
        after the call's deadline (``counted``) says that the call will never start; a call that was started is given
        SKIP_GRACE_NS for its reply.
        """
        killed = worker.end if worker.state == "killed" else None  # its end says more, but callers do not wait for it
        if worker.shared and worker.state in AT_WORK:
            return False  # ``Sharing`` looks after each of them
        unsure = False
        oldest_seq = worker.oldest_seq()
        for seq, call in worker.link.items():
            deadline_ns = call.request.deadline_ns
            if call.state != "linked" or deadline_ns > step.now_ns or (
                    seq == oldest_seq and killed is None):
                continue
            if seq >= worker.started:
                unsure = True
                if counted:
                    self._verdicts.never_ran(call, PASSED_BEHIND, step)
            elif killed is not None:
                self._verdicts.ran(call, "WORKER_CRASHED", killed.message, step)
            elif step.now_ns >= deadline_ns + SKIP_GRACE_NS:  # no reply came, whatever the worker has counted
                self._verdicts.ran(call, "TIMEOUT", "the hook ran past its deadline", step)
        return unsure and not counted

    def await_deadlines(self, slot: PluginSlot, now_ns: int) -> None:
        """Arms the plugin's timer for the earliest deadline of a call that waits. The worker's own timer sees to the
        oldest call on its link."""
        due_ns = max(slot.queue.next_deadline_ns(), now_ns + 1)  # expired calls that are left are the next step's
        if slot.worker is not None and not (slot.worker.shared and slot.worker.state in AT_WORK):
            for call in slot.worker.link.values():
                if call.state == "linked":
                    deadline_ns = call.request.deadline_ns
                    if deadline_ns <= now_ns:
                        deadline_ns += SKIP_GRACE_NS
                    if now_ns < deadline_ns < due_ns:
                        due_ns = deadline_ns
        self._timers.arm(slot, due_ns)

    def _refuse_held_back(self, slot: PluginSlot, step: Step) -> None:
        """Answers at once the calls whose deadlines come before the next worker may be started."""
        start_ns = slot.breaker.start_after_ns
        held_back: Refusal = ("QUARANTINED", HELD_BACK, retry_after(start_ns - step.now_ns))
        while (call := slot.queue.pop_expired(start_ns)) is not None:
            passed = call.request.deadline_ns <= step.now_ns
            self._verdicts.never_ran(call, PASSED if passed else held_back, step)

    # ------------------------------------------------------------------ what must not begin
    def hold_back(self, slot: PluginSlot, step: Step) -> None:
        """Which calls may begin has changed: answers those in the queue that may not."""
        for call in slot.queue.waiting():
            if (refusal := self._admission.may_not_begin(call.request, slot.spec)) is not None:
                slot.queue.forget(call)
                self._verdicts.never_ran(call, refusal, step)

    def prepare_recall(self, slot: PluginSlot, step: Step) -> None:
        """If a call on a link may not begin any more, asks for a count of the started calls; ``recall`` follows when
        the count is there."""
        for worker in (slot.worker, slot.successor):
            if worker is not None and self._to_recall(worker, slot.spec):
                step.actions.append(act.CountStarted(worker.id))

    def recall(self, slot: PluginSlot, worker: Worker, step: Step) -> None:
        """Asks the worker to skip the calls on its link that it has not started and that may not begin any more.

        The worker looks for recalls before it begins a call. It answers each of these calls: as skipped, or, if it had
        begun the call before it read the recall, as usual.
        """
        recalled = self._to_recall(worker, slot.spec)
        for _, call, refusal in recalled:
            call.recalled = refusal
        if recalled:
            step.actions.append(act.RecallCalls(worker.id, [seq for seq, _, _ in recalled]))

    def _to_recall(self, worker: Worker, spec: PluginSpec) -> list[tuple[int, Invocation, Refusal]]:
        if worker.state not in AT_WORK:
            return []
        return [(seq, call, refusal) for seq, call in worker.link.items()
                if seq >= worker.started and call.recalled is None
                and (refusal := self._admission.may_not_begin(call.request, spec)) is not None]
