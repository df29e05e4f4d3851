"""The workers by number: started, sent calls, stopped, killed, and when each must next be looked at."""

from __future__ import annotations

from apex_exec.core import actions as act
from apex_exec.core.deadline import Timers
from apex_exec.core.limits import (
    CANCEL_GRACE_NS,
    CANDIDATE_NS,
    FIRST_PING_NS,
    KILL_SUSPECT_NS,
    PINGS_TOGETHER,
    SKIP_GRACE_NS,
)
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler import recycle
from apex_exec.core.scheduler.bounds import Bounds
from apex_exec.core.scheduler.invocation import Invocation
from apex_exec.core.scheduler.plugin_slot import PluginSlot
from apex_exec.core.scheduler.step import Step
from apex_exec.core.scheduler.verdicts import Verdicts
from apex_exec.core.scheduler.worker import AT_WORK, End, Worker


class Workers:
    """``by_id`` holds every worker from StartWorker to WorkerGone. ``evicting`` and ``recycling`` number those that
    leave for these reasons and have not ended."""

    def __init__(self, bounds: Bounds, timers: Timers, slots: dict[str, PluginSlot], verdicts: Verdicts) -> None:
        self._bounds = bounds
        self._timers = timers
        self._slots = slots
        self._verdicts = verdicts
        self._next = 1
        self.by_id: dict[int, Worker] = {}
        self.evicting: set[int] = set()
        self.recycling: set[int] = set()

    def of(self, plugin: str) -> list[Worker]:
        """Every worker of ``plugin``, including those that are leaving."""
        return [worker for worker in self.by_id.values() if worker.plugin == plugin]

    def start(self, spec: PluginSpec, step: Step) -> Worker:
        """Asks for a worker of ``spec``. The caller has made sure that there is a place for it, and puts the worker
        into its plugin's slot."""
        now_ns = step.now_ns
        worker = Worker(self._next, spec, now_ns, now_ns + self._bounds.limits.boot_ns)
        self._next += 1
        self.by_id[worker.id] = worker
        recycle.enrol(worker, self._bounds.recycle)
        step.actions.append(act.StartWorker(worker.id, spec))
        self.rearm(worker, now_ns)
        return worker

    def send(self, worker: Worker, call: Invocation, step: Step) -> None:
        """Puts ``call`` at the end of the worker's link."""
        if call.state != "queued":
            call.move("linked")  # which raises: no other state leads there
        call.state = "linked"
        now_ns = step.now_ns
        call.links += 1
        call.worker = worker.id
        call.sent_ns = now_ns
        worker.used_ns = now_ns
        link = worker.link
        call.seq = seq = worker.next_seq
        link[seq] = call
        step.actions.append(act.SendCall(worker.id, seq, call.request))
        worker.next_seq = seq + 1
        if worker.shared:
            self._share(worker, call, now_ns)
        elif len(link) == 1:
            self.occupy(worker, now_ns)

    def _share(self, worker: Worker, call: Invocation, now_ns: int) -> None:
        """The call will run beside the others: it takes one of the places, and the worker is looked at when the call's
        deadline passes."""
        user_id = call.request.user_id
        worker.users[user_id] = worker.users.get(user_id, 0) + 1
        call.cancelled_ns = call.ends_ns = 0
        self.look_at(worker, call.request.deadline_ns, now_ns, is_only=len(worker.link) == 1)

    def look_at(self, worker: Worker, due_ns: int, now_ns: int, *, is_only: bool = False) -> None:
        """Has a shared worker looked at by ``due_ns``. ``is_only`` says that nothing else about the worker is due."""
        due_ns = max(due_ns, now_ns + 1)
        if is_only or due_ns < worker.due_ns:
            worker.due_ns = due_ns
            worker.had_grace = False
        if due_ns < worker.armed_ns:
            self._timers.arm(worker, due_ns)

    def occupy(self, worker: Worker, now_ns: int) -> None:
        """Sets how long the oldest unanswered call may keep the worker."""
        oldest = next(iter(worker.link.values()))  # ``worker.oldest()``, without its call
        due_ns = oldest.request.deadline_ns
        if due_ns <= now_ns:
            due_ns = now_ns + SKIP_GRACE_NS
        elif oldest.state != "linked":  # it has its verdict: nobody waits for it any more
            due_ns = min(due_ns, now_ns + CANCEL_GRACE_NS)
        worker.due_ns = due_ns
        worker.had_grace = False
        if due_ns < worker.armed_ns:
            self._timers.arm(worker, due_ns)

    def hurry(self, worker: Worker, now_ns: int) -> None:
        """The oldest unanswered call was cancelled: it may keep the worker for CANCEL_GRACE_NS more, and never for
        longer than it might have kept it without the cancellation."""
        due_ns = now_ns + CANCEL_GRACE_NS
        if due_ns < worker.due_ns:
            worker.due_ns = due_ns
            worker.had_grace = False
            if due_ns < worker.armed_ns:
                self._timers.arm(worker, due_ns)

    def stop(self, worker: Worker, reason: str, step: Step) -> None:
        """Lets an idle worker leave by itself, and takes it out of its slot: the next call gets another worker."""
        worker.move("stopping")
        worker.end = End(reason)
        worker.due_ns = step.now_ns + self._bounds.limits.stop_grace_ns
        slot = self._slots.get(worker.plugin)
        if slot is not None and slot.worker is worker:
            slot.worker = None
        elif slot is not None and slot.successor is worker:
            slot.successor = None
        step.actions.append(act.StopWorker(worker.id, reason))
        self.rearm(worker, step.now_ns)

    def kill(self, worker: Worker, end: End, step: Step, due_ns: int = 0) -> None:
        """Has SIGKILL sent; does nothing if it was sent already. ``due_ns`` is when the kill was due.

        If ``end`` has a code and the worker is not shared, the oldest call gets its verdict now, since we must assume
        that it has begun. All other calls on the link get their verdicts, or go to the next worker, when the worker's
        end brings the last count of started calls."""
        if worker.state == "killed":
            return
        now_ns = step.now_ns
        worker.move("killed")
        worker.end = end
        worker.due_ns = now_ns + KILL_SUSPECT_NS
        step.actions.append(act.KillWorker(worker.id, end.reason, due_ns or now_ns))
        self.rearm(worker, now_ns)
        if worker.canary is not None and worker.canary.state == "queued":
            self._verdicts.never_ran(worker.canary, (end.code or "WORKER_CRASHED", end.message, {}), step)
        if end.code and worker.link and not worker.shared:
            oldest = worker.oldest()
            self._verdicts.ran(oldest, end.code, end.message, step, max(oldest.sent_ns, worker.answered_ns))

        slot = self._slots.get(worker.plugin)
        if worker.shared and worker.link and slot is not None:  # its end may come late; callers wait for deadlines only
            self._timers.arm(slot, max(now_ns + 1, min(call.request.deadline_ns for call in worker.link.values())))

    def violated(self, worker: Worker, how: str, step: Step) -> None:
        """The worker broke the inner protocol: it is killed, and nothing that it says afterwards is believed."""
        self.kill(worker, End("violation", "WORKER_VIOLATION",
                              f"the worker broke the inner protocol and was killed: {how}"[:300]), step)

    def remove(self, number: int) -> Worker | None:
        """Takes the worker out of the table, since it has ended; None if it is not there."""
        worker = self.by_id.pop(number, None)
        if worker is not None:
            self._timers.drop(worker)
            self.evicting.discard(number)
            self.recycling.discard(number)
        return worker

    # ------------------------------------------------------------------ time
    def rearm(self, worker: Worker, now_ns: int) -> None:
        """Has ``worker`` looked at when something about it is next due."""
        self._timers.arm(worker, max(self._due_ns(worker), now_ns + 1))

    def idle_ns(self, worker: Worker) -> int:
        """How long ``worker`` may be idle before it leaves."""
        return CANDIDATE_NS if self._slots[worker.plugin].successor is worker else self._bounds.limits.idle_ns

    def silence_ns(self, worker: Worker) -> int:
        """How long ``worker`` may be silent without a call before it is pinged; 0 is for ever. The first ping after its
        calls comes sooner, because only a ping shows code that goes on after an answer and sleeps."""
        ping_ns = self._bounds.limits.ping_ns
        return ping_ns if worker.ponged_ns >= worker.used_ns else min(ping_ns, FIRST_PING_NS)

    def _due_ns(self, worker: Worker) -> int:
        if worker.state not in AT_WORK:
            return worker.due_ns
        ping_ns = self.silence_ns(worker)
        due_ns = worker.due_ns if worker.link else worker.used_ns + self.idle_ns(worker)
        if worker.ping_due_ns:
            due_ns = min(due_ns, worker.ping_due_ns)
        elif not worker.link and not worker.throttled and ping_ns:
            together_ns = self._bounds.limits.ping_ns // PINGS_TOGETHER or 1  # a common beat wakes the loop once
            due_ns = min(due_ns, -(-(worker.answered_ns + ping_ns) // together_ns) * together_ns)
        return due_ns if worker.state == "leaving" else min(due_ns, worker.age_due_ns)
