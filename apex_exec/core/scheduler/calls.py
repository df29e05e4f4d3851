"""The way of a call: it comes in, is answered by its worker, is cancelled, or is refused because the daemon ends."""

from __future__ import annotations

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.deadline import NEVER_NS, Timers
from apex_exec.core.limits import STALL_NS
from apex_exec.core.scheduler.admission import SHUTTING_DOWN, Admission
from apex_exec.core.scheduler.bounds import Bounds
from apex_exec.core.scheduler.breaker import NO_CALL
from apex_exec.core.scheduler.feeding import Feeding
from apex_exec.core.scheduler.generations import Generations
from apex_exec.core.scheduler.invocation import Invocation, Refusal
from apex_exec.core.scheduler.places import Places
from apex_exec.core.scheduler.plugin_slot import PluginSlot
from apex_exec.core.scheduler.shared import Sharing
from apex_exec.core.scheduler.step import Step
from apex_exec.core.scheduler.verdicts import Verdicts
from apex_exec.core.scheduler.worker import AT_WORK, End, Worker
from apex_exec.core.scheduler.workers import Workers

PASSED_BEFORE_IT_RAN: Refusal = ("DEADLINE_EXCEEDED", "the deadline passed before the hook ran", {})
CANCELLED = "cancelled by its caller"
PUSHED_OUT: Refusal = (
    "OVERLOADED", "another user needed room in the plugin's queue, of which this one held more than a quarter",
    {"limit": "queue"})


class Calls:
    """Handles the events of calls."""

    def __init__(self, bounds: Bounds, timers: Timers, slots: dict[str, PluginSlot], verdicts: Verdicts,
                 admission: Admission, workers: Workers, places: Places, generations: Generations,
                 feeding: Feeding, *, sharing: Sharing) -> None:
        self._bounds = bounds
        self._timers = timers
        self._slots = slots
        self._verdicts = verdicts
        self._admission = admission
        self._workers = workers
        self._by_id = workers.by_id
        self._open = verdicts.open
        self._places = places
        self._generations = generations
        self._feeding = feeding
        self._sharing = sharing

    # ------------------------------------------------------------------ in
    def invoke(self, request: ev.InvokeRequested, step: Step) -> None:
        """Admits or refuses the call. Puts an admitted call on the worker's link if the link has room and no other call
        waits; otherwise puts it in the queue."""
        slot = self._slots.get(request.plugin)
        refusal = self._admission.refusal(request, slot, step.now_ns)
        if refusal is not None:
            self._verdicts.not_admitted(request, refusal, step)
            return
        assert slot is not None
        call = Invocation(request, step.now_ns)
        self._open[request.call] = call
        if slot.breaker.open_until_ns:
            slot.breaker.probe = request.call
            step.actions.append(act.BreakerChanged(request.plugin, "half_open"))
        worker = slot.worker
        if (worker is not None and worker.state == "ready" and not worker.shared and not slot.queue.live
                and len(worker.link) < self._bounds.limits.prefetch and worker.next_seq < worker.last_seq):
            self._workers.send(worker, call, step)
            if len(worker.link) == 1:
                return  # the worker's own timer sees to the oldest call
        else:
            if slot.queue.live >= self._bounds.limits.queue_max:
                self._push_out(slot, step)
            slot.queue.push(call)
            self._feeding.feed(slot, step)
        if request.deadline_ns < slot.armed_ns:
            self._timers.arm(slot, max(request.deadline_ns, step.now_ns + 1))

    def _push_out(self, slot: PluginSlot, step: Step) -> None:
        """The queue is full, and the call is of a user who holds less than a quarter of it: the latest call of the user
        who holds most makes room. ``Admission`` has seen that there is such a user."""
        queue = slot.queue
        user_id = queue.holds_most(max(1, self._bounds.limits.queue_max // 4))
        latest = next((call for call in reversed(queue.waiting()) if call.request.user_id == user_id), None)
        if latest is not None:
            queue.forget(latest)
            self._verdicts.never_ran(latest, PUSHED_OUT, step)

    # ------------------------------------------------------------------ out
    def answered(self, event: ev.WorkerAnswered, step: Step) -> None:
        """The worker has answered the oldest call on its link, or any call if the worker is shared. That is the call's
        verdict, unless the call has one already."""
        worker = self._by_id.get(event.worker)
        if worker is None or (worker.end is not None and worker.end.reason == "violation"):
            return
        link, now_ns, code, shared = worker.link, step.now_ns, event.code, worker.shared
        call = link.get(event.seq)
        if call is None or (event.seq != worker.next_seq - len(link) and not shared):
            self._workers.violated(worker, "an answer out of turn", step)
            return
        if code:
            if code == "skipped" and now_ns < call.request.deadline_ns and call.recalled is None and (
                    not call.cancelled_ns):  # a worker must not run a hook and call it skipped, which costs nothing
                self._workers.violated(worker, "it skipped a call that had time left", step)
                return
            if code == "ended" and shared and not call.cancelled_ns:
                self._workers.violated(worker, "it ended a call that nobody had cancelled", step)
                return
        del link[event.seq]
        begun_ns = call.sent_ns
        if worker.answered_ns > begun_ns and not shared:
            begun_ns = worker.answered_ns
        worker.answered_ns = now_ns
        if call.state == "linked":
            late_ns = now_ns - call.request.deadline_ns
            if code != "skipped" and (late_ns < 0 or late_ns > STALL_NS):
                # The answer is in time. Or it is so late that we stood still: else the worker would have been killed.
                self._verdicts.ran(call, code, "", step, begun_ns, event.body)
            else:
                self._in_vain(call, code, begun_ns, step)
        state = worker.state
        if state != "ready" and state != "leaving":
            return  # killed meanwhile; an answer that was complete before the kill counts
        slot = self._slots[worker.plugin]
        if shared:
            self._sharing.left(slot, worker, call, now_ns - begun_ns, step, event.cpu_ns)
        if slot.worker is not worker:
            self._generations.canary_answered(slot, worker, call, code, step)
            return
        if not code or (code != "skipped" and (not shared or code != "ended")):
            slot.ran(call.request.hook, now_ns - begun_ns)
        breaker = slot.breaker
        if breaker.consecutive or breaker.probe != NO_CALL or slot.users.known:
            self._went_well(slot, worker, call, code, step)
        if link and not shared:
            self._workers.occupy(worker, now_ns)
        if slot.queue.live or state == "leaving":
            self._feeding.feed(slot, step)
        if not link:
            self._rest(worker, step)

    def _in_vain(self, call: Invocation, code: str, begun_ns: int, step: Step) -> None:
        """The answer brings no result: the worker skipped the call, or ran it past its deadline."""
        if code == "skipped":
            self._verdicts.never_ran(call, call.recalled or PASSED_BEFORE_IT_RAN, step)
        else:
            self._verdicts.ran(call, "TIMEOUT", "the hook ran past its deadline", step, begun_ns)

    def _went_well(self, slot: PluginSlot, worker: Worker, call: Invocation, code: str, step: Step) -> None:
        """The worker has answered, which may close the breaker. A skipped call says nothing about the hook."""
        if code == "skipped":
            if slot.breaker.probe == call.request.call:
                slot.breaker.probe = NO_CALL  # the probe was cancelled before it began
            return
        slot.users.succeeded(call.request.user_id, call.request.hook, step.now_ns)
        if slot.breaker.succeeded(step.now_ns - worker.born_ns):
            step.actions.append(act.BreakerChanged(worker.plugin, "closed"))

    def _rest(self, worker: Worker, step: Step) -> None:
        """The worker has answered all that it was sent: it may be pinged, leave, or give its place to another plugin.
        """
        limits = self._bounds.limits
        due_ns = step.now_ns + min(self._workers.silence_ns(worker) or NEVER_NS, limits.idle_ns)
        if due_ns < worker.armed_ns:
            self._timers.arm(worker, due_ns)
        if self._places.waiting:
            self._places.make_room(step)

    # ------------------------------------------------------------------ on its way
    def cancel(self, event: ev.CancelRequested, step: Step) -> None:
        """Answers the caller now. A shared worker is asked to end the call. Any other worker is not notified: it may
        still begin the call or go on with it, and is killed if that takes too long."""
        call = self._open.get(event.call)
        if call is None:
            return
        slot = self._slots.get(call.request.plugin)
        if call.state == "linked":
            self._verdicts.ran(call, "CANCELLED", CANCELLED, step)
            call.move("cancelled")
            for worker in (slot.worker, slot.successor) if slot is not None else ():
                if worker is None or worker.state not in AT_WORK or call.worker != worker.id:
                    continue
                if worker.shared:
                    self._sharing.end(worker, call, step)
                elif worker.oldest() is call:
                    self._workers.hurry(worker, step.now_ns)
            return
        self._take_from_queue(call)
        self._verdicts.never_ran(call, ("CANCELLED", CANCELLED, {}), step)

    def started(self, event: ev.CallsStarted, step: Step) -> None:
        """The count that CountStarted asked for has come. Answers calls that have expired on the link without being
        started, recalls calls that have not been started and may not begin, and kills a worker whose code goes on after
        its answer."""
        worker = self._workers.by_id.get(event.worker)
        slot = self._slots.get(worker.plugin) if worker is not None else None
        if worker is None or slot is None:
            return
        worker.started = max(worker.started, event.count)
        oldest_seq = worker.oldest_seq()
        if worker.started <= worker.doubted_seq == oldest_seq and worker.state in AT_WORK:
            self._workers.kill(worker, End("overrun", message="its code went on after its call was answered"), step)
            return  # the calls on the link have not begun, and go to the next worker
        if worker.shared and worker.state in AT_WORK:
            self._sharing.counted(worker, step)
        elif slot.worker is worker:
            self._feeding.expire_on_link(worker, step, counted=True)
        self._feeding.recall(slot, worker, step)

    def _take_from_queue(self, call: Invocation) -> None:
        """Takes ``call`` out of its plugin's queue. A canary does not wait in the queue."""
        slot = self._slots.get(call.request.plugin)
        if slot is not None and (slot.successor is None or slot.successor.canary is not call):
            slot.queue.forget(call)

    # ------------------------------------------------------------------ for all calls
    def refuse_work(self, event: ev.WorkRefused, step: Step) -> None:
        """From now on no call begins, whether it was admitted before or comes later."""
        refusal = self._admission.refused = event.code, event.message, {}
        for slot in self._slots.values():
            self._feeding.hold_back(slot, step)
            self._generations.refuse_work(slot, refusal, step)
            self._feeding.prepare_recall(slot, step)

    def admit_work(self, event: ev.WorkAdmitted, step: Step) -> None:
        """Calls may begin again."""
        self._admission.refused = None

    def drain(self, event: ev.DrainRequested, step: Step) -> None:
        """The daemon ends at the time that the event names."""
        self._admission.draining = True
        self._timers.arm(self._admission.drain, max(event.until_ns, step.now_ns + 1))

    def drained(self, step: Step) -> None:
        """The drain's time is over: every call that has no verdict is answered."""
        self._admission.drained = True
        for call in list(self._open.values()):
            if call.state == "linked":
                self._verdicts.ran(call, "SHUTTING_DOWN", SHUTTING_DOWN[1], step)
            else:
                self._take_from_queue(call)
                self._verdicts.never_ran(call, SHUTTING_DOWN, step)
