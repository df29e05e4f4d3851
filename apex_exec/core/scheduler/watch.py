"""Watches every living worker: its timer, its samples, its pings, and its violations of the protocol."""

from __future__ import annotations

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.limits import KILL_SUSPECT_NS, PLACE_RETRY_NS, STALL_GRACE_NS, STALL_NS
from apex_exec.core.scheduler import recycle
from apex_exec.core.scheduler.bounds import Bounds
from apex_exec.core.scheduler.feeding import Feeding
from apex_exec.core.scheduler.generations import Generations
from apex_exec.core.scheduler.plugin_slot import PluginSlot
from apex_exec.core.scheduler.shared import PROBES_FROM, Sharing
from apex_exec.core.scheduler.step import Step
from apex_exec.core.scheduler.verdicts import Verdicts
from apex_exec.core.scheduler.worker import AT_WORK, End, Worker
from apex_exec.core.scheduler.workers import Workers

EVIDENCE = {"CPU_LIMIT": "cpu", "MEMORY_LIMIT": "memory", "BOOT_FAILED": "boot_failed"}
"""The exit reason of an end that nobody commanded, by the code that the shell has evidence for; any other code gives
``crashed``."""


class Watch:
    """Handles the workers' timers and what is observed of them."""

    def __init__(self, bounds: Bounds, slots: dict[str, PluginSlot], verdicts: Verdicts, workers: Workers,
                 generations: Generations, feeding: Feeding, sharing: Sharing) -> None:
        self._bounds = bounds
        self._slots = slots
        self._verdicts = verdicts
        self._workers = workers
        self._generations = generations
        self._feeding = feeding
        self._sharing = sharing

    # ------------------------------------------------------------------ what is observed
    def sampled(self, event: ev.WorkerSampled, step: Step) -> None:
        """Replaces the worker if it has grown or has used up its CPU time."""
        worker = self._workers.by_id.get(event.worker)
        if worker is None or worker.state != "ready":
            return
        slot = self._slots[worker.plugin]
        if slot.worker is worker and recycle.outgrown(worker, self._bounds.recycle, event.memory_bytes, event.cpu_ns):
            self._feeding.retire(slot, worker, "recycled", step)

    def throttled(self, event: ev.WorkerThrottled, step: Step) -> None:
        """A worker that was stopped had no chance to answer a ping, so it gets the whole time for it again."""
        worker = self._workers.by_id.get(event.worker)
        if worker is None or worker.throttled == event.throttled:
            return
        worker.throttled = event.throttled
        if event.throttled:
            worker.throttled_ns = step.now_ns
        elif worker.shared:
            self._sharing.goes_on(worker, step.now_ns - worker.throttled_ns, step)
        if worker.ping_due_ns and not event.throttled:
            worker.ping_due_ns = step.now_ns + self._bounds.limits.ping_grace_ns
        self._workers.rearm(worker, step.now_ns)

    def exceeded(self, event: ev.LimitExceeded, step: Step) -> None:
        """Kills the worker, which is over a limit. If it is not shared, its oldest call gets the event's code."""
        worker = self._workers.by_id.get(event.worker)
        if worker is None or worker.state in ("stopping", "killed"):
            return
        if worker.state == "starting":
            self._boot_failed(worker, event.message, step)
        else:
            self._workers.kill(worker, End(EVIDENCE[event.code], event.code, event.message), step)

    def ran_on(self, event: ev.WorkerRanOn, step: Step) -> None:
        """Kills a worker whose calls have all been answered: what still runs in it has no deadline."""
        worker = self._workers.by_id.get(event.worker)
        if worker is not None and worker.state in AT_WORK and not worker.link:
            self._workers.kill(worker, End("overrun", message="its code went on after its call was answered"), step)

    def blocked(self, event: ev.WorkerBlocked, step: Step) -> None:
        """The worker says which call's code it was running when it was probed."""
        worker = self._workers.by_id.get(event.worker)
        if worker is not None and worker.state in AT_WORK:
            self._sharing.blocked(worker, event.seq)

    def hesitates(self, event: ev.WorkerHesitates, step: Step) -> None:
        """Asks for a count of the worker's started calls; ``Calls.started`` decides when the count is there."""
        worker = self._workers.by_id.get(event.worker)
        if worker is not None and worker.state in AT_WORK and worker.link:
            worker.doubted_seq = worker.oldest_seq()
            step.actions.append(act.CountStarted(worker.id))

    def violated(self, event: ev.WorkerViolated, step: Step) -> None:
        """The worker broke the inner protocol."""
        worker = self._workers.by_id.get(event.worker)
        if worker is not None:
            self._workers.violated(worker, event.message, step)

    def ponged(self, event: ev.WorkerPonged, step: Step) -> None:
        """The answer to a ping or a probe. An answer that nobody asked for is a violation."""
        worker = self._workers.by_id.get(event.worker)
        if worker is None or worker.state == "killed":
            return
        if event.nonce >= PROBES_FROM:
            self._sharing.answered_probe(worker, event.nonce, step)
            return
        if not worker.ping_due_ns or event.nonce != worker.pings:
            self._workers.violated(worker, "a pong that nobody asked for", step)
            return
        worker.ping_due_ns = 0
        worker.answered_ns = worker.ponged_ns = step.now_ns

    # ------------------------------------------------------------------ time
    def due(self, worker: Worker, step: Step) -> None:
        """The worker's timer: does what is due, or nothing if the worker was woken early."""
        if worker.shared and worker.link and worker.state in AT_WORK:
            if not self._sharing.due(worker, step):
                self._upkeep(worker, step)
        elif step.now_ns >= worker.due_ns and (worker.link or worker.state not in AT_WORK):
            self._overdue(worker, step)
        elif worker.state in AT_WORK:
            self._upkeep(worker, step)
        if worker.id in self._workers.by_id:
            self._workers.rearm(worker, step.now_ns)

    def _overdue(self, worker: Worker, step: Step) -> None:
        """The worker has not finished in time what it is doing: booting, its oldest call, leaving, or dying."""
        now_ns, state = step.now_ns, worker.state
        if state == "killed":
            worker.due_ns = now_ns + KILL_SUSPECT_NS
            step.actions.append(act.ReplaceZygote(worker.id))
        elif state == "stopping":
            assert worker.end is not None  # it was stopped for a reason
            self._workers.kill(worker, End(worker.end.reason, message="the worker did not end when asked to"), step)
        elif now_ns - worker.due_ns > STALL_NS and not worker.had_grace:
            worker.had_grace = True  # the supervisor stood still: what the worker sent meanwhile is to be read first
            worker.due_ns = now_ns + STALL_GRACE_NS
        elif state == "starting":
            self._boot_failed(worker, "the worker was not ready in time (pool.boot_seconds)", step, worker.due_ns)
        elif worker.oldest().state == "cancelled":
            self._workers.kill(worker, End("cancelled", "CANCELLED", "its worker was killed for a cancelled call"),
                               step, worker.due_ns)
        else:
            slot, oldest = self._slots[worker.plugin], worker.oldest()
            if slot.worker is worker:
                slot.ran(oldest.request.hook, now_ns - max(oldest.sent_ns, worker.answered_ns))
            self._workers.kill(worker, End("deadline", "TIMEOUT",
                                           "the hook ran past its deadline and its worker was killed"), step,
                               worker.due_ns)

    def _upkeep(self, worker: Worker, step: Step) -> None:
        """No call is overdue. Handles a missing pong, a worker that was idle for too long, its age, or the next ping.
        """
        now_ns, limits = step.now_ns, self._bounds.limits
        slot = self._slots[worker.plugin]
        if worker.ping_due_ns and now_ns >= worker.ping_due_ns:
            if worker.throttled or (now_ns - worker.ping_due_ns > STALL_NS):
                worker.ping_due_ns = now_ns + limits.ping_grace_ns
            else:
                self._workers.kill(worker, End("deadline", message="the worker did not answer a ping"), step,
                                   worker.ping_due_ns)
        elif not worker.link and now_ns - worker.used_ns >= self._workers.idle_ns(worker):
            if slot.successor is worker:
                self._generations.drop_successor(slot, "nobody adopted it in time", step)
            else:
                self._workers.stop(worker, "idle", step)
        elif now_ns >= worker.age_due_ns and worker.state == "ready":
            if slot.worker is not worker or not self._feeding.retire(slot, worker, "recycled", step):
                worker.age_due_ns = now_ns + PLACE_RETRY_NS
        elif (limits.ping_ns and not (worker.link or worker.ping_due_ns or worker.throttled)
                and now_ns - worker.answered_ns >= self._workers.silence_ns(worker)):
            worker.pings += 1
            worker.ping_due_ns = now_ns + limits.ping_grace_ns
            step.actions.append(act.PingWorker(worker.id, worker.pings))

    def _boot_failed(self, worker: Worker, message: str, step: Step, due_ns: int = 0) -> None:
        """The worker did not boot: the calls that wait for it are answered now, and its end is charged when it comes.
        """
        slot = self._slots[worker.plugin]
        self._workers.kill(worker, End("boot_failed", "BOOT_FAILED", message), step, due_ns)
        if slot.worker is worker:
            self._verdicts.flush(slot, ("BOOT_FAILED", message, {}), step)
