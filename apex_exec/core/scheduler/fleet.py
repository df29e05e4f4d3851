"""The workers of the pool: started, fed, watched, replaced, ended. The middle layer, above the calls.

One worker per plugin serves. Beside it there may be its successor, and detached ones that are only leaving.
"""

from __future__ import annotations

from collections.abc import Callable

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.deadline import Timed
from apex_exec.core.limits import (
    CANCEL_GRACE_NS,
    CANDIDATE_NS,
    EVICT_TENURE_NS,
    EXPIRED_AT_ONCE,
    FORK_BACKOFF_MAX_NS,
    FORK_BACKOFF_MIN_NS,
    HOLD_NS,
    KILL_SUSPECT_NS,
    MS_NS,
    PINGS_TOGETHER,
    SKIP_GRACE_NS,
    STALL_GRACE_NS,
    STALL_NS,
    PoolLimits,
    RecyclePolicy,
)
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler import recycle
from apex_exec.core.scheduler.breaker import NO_CALL, UNCHARGED, BreakerPolicy
from apex_exec.core.scheduler.calls import HELD_BACK, PASSED_IN_QUEUE, TOO_LATE, Actions, Calls
from apex_exec.core.scheduler.invocation import LINKS_MAX, Invocation, Refusal
from apex_exec.core.scheduler.plugin_slot import Served
from apex_exec.core.scheduler.worker import Worker

EVIDENCE = {"CPU_LIMIT": "cpu", "MEMORY_LIMIT": "memory", "BOOT_FAILED": "boot_failed"}
"""Exit reasons of an end that nobody commanded, by the code that the shell has evidence for; else ``crashed``."""


class Fleet(Calls):
    """Workers by number, and the plugins that wait for a place for one."""

    def __init__(self, limits: PoolLimits, breaker: BreakerPolicy, random: Callable[[], float],
                 recycle_policy: RecyclePolicy) -> None:
        super().__init__(limits, breaker, random, recycle_policy)
        self._workers: dict[int, Worker] = {}
        self._next_worker = 1
        self._waiting: dict[str, Served] = {}  # plugins without a place for their worker, in arrival order
        self._evicting: set[int] = set()
        self._recycling: set[int] = set()
        self._hold = Timed()
        self._zygote_up = True
        self._fork_after_ns = 0
        self._forks_refused = 0

    # ------------------------------------------------------------------ feeding
    def _feed(self, served: Served, now_ns: int, out: Actions) -> None:
        """Moves queued calls to the link while it has room; sees to a worker where there is none to feed."""
        worker = served.worker
        if worker is None or worker.state != "ready" or worker.leaving:
            self._tend(served, now_ns, out)
            return
        queue, link, prefetch = served.queue, worker.link, self._limits.prefetch
        expired = 0
        while queue and len(link) < prefetch:
            if worker.next_seq >= worker.last_seq:
                worker.last_seq = worker.next_seq + prefetch  # asked again then, where the bound forbids it now
                if self._retire(worker, served, "recycled", now_ns, out):
                    return
            call = queue.peek()
            passed = call.request.deadline_ns <= now_ns  # not seen by a tick yet
            too_late = not passed and served.comes_too_late(call, len(link), now_ns)
            if too_late and link:
                return  # behind the others; when they are through it may have time enough
            queue.pop()
            if passed or too_late:
                self._finish(call, "DEADLINE_EXCEEDED", PASSED_IN_QUEUE if passed else TOO_LATE, False, now_ns, out)
                expired += 1
                if expired == EXPIRED_AT_ONCE:
                    self._timers.arm(served, now_ns + 1)  # which goes on, and feeds
                    return
                continue
            call.cold = call.arrived_ns < worker.ready_ns
            self._link(worker, call, now_ns, out)

    def _link(self, worker: Worker, call: Invocation, now_ns: int, out: Actions) -> None:
        call.state = "linked"
        call.links += 1
        call.worker = worker.id
        call.sent_ns = now_ns
        worker.used_ns = now_ns
        link = worker.link
        link.append(call)
        out.append(act.SendCall(worker.id, worker.next_seq, call.request))
        worker.next_seq += 1
        if len(link) == 1:
            self._occupy(worker, now_ns)

    def _occupy(self, worker: Worker, now_ns: int) -> None:
        """Sets how long the oldest unanswered call may keep the worker."""
        oldest = worker.link[0]
        due_ns = oldest.request.deadline_ns
        if due_ns <= now_ns:
            due_ns = now_ns + SKIP_GRACE_NS
        elif oldest.state == "done":  # cancelled
            due_ns = min(due_ns, now_ns + CANCEL_GRACE_NS)
        worker.due_ns = due_ns
        worker.graced = False
        if due_ns < worker.armed_ns:
            self._timers.arm(worker, due_ns)

    def _tend(self, served: Served, now_ns: int, out: Actions) -> None:
        """Where the plugin's worker cannot be fed: stops it, promotes its successor, or starts one."""
        worker = served.worker
        if worker is not None and worker.leaving and worker.state == "ready" and not worker.link:
            self._stop(worker, served, worker.leaving, now_ns, out)
            worker = None
        if worker is not None:
            return  # it boots, or answers its last calls, or is dying and its marks decide what comes first
        successor = served.successor
        if successor is not None and successor.adopted:
            served.worker, served.successor = successor, None
            if successor.state == "ready":
                self._feed(served, now_ns, out)
                self._rearm(successor, now_ns)
        elif served.queue:
            if now_ns < served.breaker.start_after_ns:
                self._refuse_held(served, now_ns, out)
                if served.queue:
                    self._timers.arm(served, served.breaker.start_after_ns)
            elif self._place(served, now_ns, out):
                served.worker = self._start(served.spec, now_ns, out)

    def _refuse_held(self, served: Served, now_ns: int, out: Actions) -> None:
        """Answers at once those that wait for a worker which is not started before their deadlines."""
        start_ns = served.breaker.start_after_ns
        while (call := served.queue.pop_expired(start_ns)) is not None:
            if call.request.deadline_ns <= now_ns:
                self._finish(call, "DEADLINE_EXCEEDED", PASSED_IN_QUEUE, False, now_ns, out)
                continue
            self._finish(call, "QUARANTINED", HELD_BACK, False, now_ns, out,
                         details={"retryAfterMs": -(-(start_ns - now_ns) // MS_NS)})

    # ------------------------------------------------------------------ starting
    def _start(self, spec: PluginSpec, now_ns: int, out: Actions) -> Worker:
        worker = Worker(self._next_worker, spec, now_ns, now_ns + self._limits.boot_ns)
        self._next_worker += 1
        self._workers[worker.id] = worker
        recycle.enrol(worker, self._recycle)
        out.append(act.StartWorker(worker.id, spec))
        self._rearm(worker, now_ns)
        return worker

    def _may_start(self, now_ns: int) -> bool:
        return self._zygote_up and now_ns >= self._fork_after_ns and len(self._workers) < self._limits.workers_max

    def _place(self, served: Served, now_ns: int, out: Actions) -> bool:
        """True where a worker may start now; else the plugin waits for its turn."""
        plugin = served.spec.id
        if self._may_start(now_ns) and next(iter(self._waiting), plugin) == plugin:
            self._waiting.pop(plugin, None)
            return True
        self._waiting[plugin] = served
        self._make_room(now_ns, out)
        return False

    def _make_room(self, now_ns: int, out: Actions) -> None:
        """Has as many workers leave as plugins wait for a place: least recently used ones, then old busy ones."""
        self._waiting = {plugin: served for plugin, served in self._waiting.items() if served.queue}
        if not self._waiting:
            return
        self._timers.arm(self._hold, self._fork_after_ns if self._fork_after_ns > now_ns else now_ns + HOLD_NS)
        need = min(len(self._waiting) + len(self._workers) - self._limits.workers_max, len(self._waiting))
        if need - len(self._evicting) <= 0:
            return
        need -= sum(w.state in ("stopping", "killed") or w.id in self._evicting for w in self._workers.values())
        if need <= 0:
            return
        ready = [w for w in self._workers.values()
                 if w.state == "ready" and not w.leaving and self._plugins[w.plugin].worker is w]
        idle = sorted((w for w in ready if not w.link), key=lambda w: w.used_ns)
        for worker in idle[:need]:
            self._evict(worker, now_ns, out)
        old = sorted((w for w in ready if w.link and now_ns - w.born_ns >= EVICT_TENURE_NS), key=lambda w: w.born_ns)
        for worker in old[: max(0, need - len(idle))]:
            self._evict(worker, now_ns, out)

    def _evict(self, worker: Worker, now_ns: int, out: Actions) -> None:
        self._evicting.add(worker.id)
        worker.leaving = "evicted"
        served = self._plugins.get(worker.plugin)
        if not worker.link:
            self._stop(worker, served, "evicted", now_ns, out)

    def _serve_waiting(self, now_ns: int, out: Actions) -> None:
        """Places have come free, or time has passed: those that wait start in turn."""
        while self._waiting and self._may_start(now_ns):
            served = self._waiting.pop(next(iter(self._waiting)))
            self._tend_next(served, now_ns, out)
        if self._waiting:
            self._make_room(now_ns, out)

    def _tend_next(self, served: Served, now_ns: int, out: Actions) -> None:
        """A place is free and it is this plugin's turn."""
        if served.worker is None and served.queue and now_ns >= served.breaker.start_after_ns:
            successor = served.successor
            if successor is None or not successor.adopted:
                served.worker = self._start(served.spec, now_ns, out)
                return
        self._tend(served, now_ns, out)

    def _recall(self, served: Served, out: Actions) -> None:
        """Has the plugin's workers counted where a call stands on their links that may not begin any more; the count
        (``_calls_started``) says which of them have not begun."""
        for worker in (served.worker, served.successor):
            if worker is not None and self._to_recall(worker, served.spec):
                out.append(act.CountStarted(worker.id))

    def _to_recall(self, worker: Worker, spec: PluginSpec) -> list[tuple[int, Invocation, Refusal]]:
        """The calls on the worker's link that have not begun, as far as was told, and may not begin any more."""
        if worker.state != "ready":
            return []
        return [(seq, call, refusal) for seq, call in enumerate(worker.link, worker.next_seq - len(worker.link))
                if seq >= worker.started and call.recalled is None
                and (refusal := self._may_not_begin(call.request, spec)) is not None]

    def _calls_started(self, event: ev.CallsStarted, now_ns: int, out: Actions) -> None:
        """Answers what has expired on the worker's link without being started, and recalls what may not begin.

        The worker looks before it begins a call, so one that it has started is left alone; any other is answered when
        the worker has skipped it, or has begun it before it heard of this.
        """
        worker = self._workers.get(event.worker)
        if worker is None:
            return
        worker.started = max(worker.started, event.count)
        served = self._plugins.get(worker.plugin)
        if served is None:
            return
        if served.worker is worker:
            self._expire_on_link(worker, now_ns, out, counted=True)
        recalled = self._to_recall(worker, served.spec)
        for _, call, refusal in recalled:
            call.recalled = refusal
        if recalled:
            out.append(act.RecallCalls(worker.id, [seq for seq, _, _ in recalled]))

    # ------------------------------------------------------------------ replacing
    def _retire(self, worker: Worker, served: Served, reason: str, now_ns: int, out: Actions) -> bool:
        """No more calls for ``worker``; True where it now leaves. A recycling waits where too many happen at once."""
        if worker.leaving or worker.state != "ready":
            return bool(worker.leaving)
        if reason == "recycled":
            if len(self._recycling) >= self._recycle.at_once_max:
                return False
            self._recycling.add(worker.id)
        worker.leaving = reason
        if served.worker is worker:
            if worker.link or served.queue:
                self._renew(served, now_ns, out)
            self._tend(served, now_ns, out)
        return True

    def _renew(self, served: Served, now_ns: int, out: Actions) -> None:
        """Starts the next worker now, where it may, so that it is warm when the old one has answered its last call."""
        if (served.successor is None and not self._waiting and self._may_start(now_ns)
                and served.breaker.open_until_ns == 0 and now_ns >= served.breaker.start_after_ns):
            served.successor = self._start(served.spec, now_ns, out)

    def _judge(self, served: Served, worker: Worker, code: str, message: str, out: Actions) -> None:
        """Says, once, what came of a prepared generation; one that failed is given up by the caller."""
        if worker.judged or worker.adopted:
            return
        worker.judged = True
        out.append(act.GenerationJudged(served.spec.id, worker.spec.digest, code, message))

    def _drop_successor(self, served: Served, message: str, now_ns: int, out: Actions) -> None:
        """Gives the successor up; its canary, if it still runs, is answered."""
        worker = served.successor
        if worker is None:
            return
        served.successor = None
        self._judge(served, worker, "CANCELLED", message, out)
        trial, worker.trial = worker.trial, None
        if trial is not None and trial.state != "done":
            self._finish(trial, "CANCELLED", message, trial.state == "linked", now_ns, out)
        if worker.state == "ready" and not worker.link:
            self._stop(worker, None, "drained", now_ns, out)
        elif worker.state != "killed":
            self._kill(worker, "drained", "", message, now_ns, out)

    # ------------------------------------------------------------------ life and end
    def _ready(self, event: ev.WorkerReady, now_ns: int, out: Actions) -> None:
        worker = self._workers.get(event.worker)
        if worker is None or worker.state == "killed":
            return
        if worker.state != "starting":
            self._kill(worker, "violation", "WORKER_VIOLATION", "the worker said twice that it is ready", now_ns, out)
            return
        worker.move("ready")
        worker.ready_ns = worker.answered_ns = worker.used_ns = now_ns
        self._forks_refused = 0
        served = self._plugins[worker.plugin]
        if served.worker is worker:
            self._feed(served, now_ns, out)
        elif worker.adopted:
            self._tend(served, now_ns, out)
        elif worker.trial is None:
            self._judge(served, worker, "", "", out)
        elif worker.trial.state == "queued":
            self._link(worker, worker.trial, now_ns, out)
        else:
            self._judge(served, worker, "CANCELLED", "its canary was cancelled", out)
            self._drop_successor(served, "its canary was cancelled", now_ns, out)
        self._rearm(worker, now_ns)

    def _stop(self, worker: Worker, served: Served | None, reason: str, now_ns: int, out: Actions) -> None:
        """Lets an idle worker leave by itself. It is detached: the next call gets another."""
        worker.move("stopping")
        worker.end_reason = reason
        worker.due_ns = now_ns + self._limits.stop_grace_ns
        if served is not None and served.worker is worker:
            served.worker = None
        elif served is not None and served.successor is worker:
            served.successor = None
        out.append(act.StopWorker(worker.id, reason))
        self._rearm(worker, now_ns)

    def _kill(self, worker: Worker, reason: str, code: str, message: str, now_ns: int, out: Actions,
              due_ns: int = 0) -> None:
        """SIGKILL. With a ``code`` the oldest call has its verdict now: it has begun as far as anyone can know.

        Without one, and for the calls behind it, the marks decide when the worker is gone.
        """
        if worker.state == "killed":
            return
        worker.move("killed")
        worker.end_reason = reason
        worker.end_code, worker.blame = code, message
        worker.due_ns = now_ns + KILL_SUSPECT_NS
        out.append(act.KillWorker(worker.id, reason, due_ns or now_ns))
        self._rearm(worker, now_ns)
        if worker.trial is not None and worker.trial.state == "queued":
            self._finish(worker.trial, code or "WORKER_CRASHED", message, False, now_ns, out)
        if code and worker.link:
            oldest = worker.link[0]
            self._finish(oldest, code, message, True, now_ns, out, begun_ns=max(oldest.sent_ns, worker.answered_ns))

    def _gone(self, event: ev.WorkerGone, now_ns: int, out: Actions) -> None:
        worker = self._workers.pop(event.worker, None)
        if worker is None:
            return
        self._timers.drop(worker)
        self._evicting.discard(worker.id)
        self._recycling.discard(worker.id)
        served = self._plugins.get(worker.plugin)
        booting = worker.state == "starting"
        reason = worker.end_reason or ("boot_failed" if booting else EVIDENCE.get(event.code, "crashed"))
        details: dict[str, object] = dict(event.details)
        charged = reason not in UNCHARGED and served is not None and worker.adopted
        out.append(act.WorkerEnded(worker.id, worker.plugin, reason, charged))
        if served is not None and charged and served.breaker.ended(
                now_ns, now_ns - worker.born_ns, self._random(), trip=reason == "violation"):
            out.append(act.BreakerChanged(worker.plugin, "open"))
        again = self._settle_link(worker, event, served, now_ns, out)
        if served is not None:
            if served.worker is worker:
                served.worker = None
            if served.breaker.probe not in self._calls:
                served.breaker.probe = NO_CALL
            for call in reversed(again):
                if (refusal := self._may_not_begin(call.request, served.spec)) is not None:
                    code, message, why = refusal
                    self._finish(call, code, message, False, now_ns, out, details=why)
                    continue
                call.state, call.recalled = "queued", None
                served.queue.push_front(call)
            if served.successor is worker:
                served.successor = None
                self._candidate_gone(served, worker, event, booting, now_ns, out)
            if served.breaker.state(now_ns) == "open":
                self._flush(served, "QUARANTINED", "the plugin failed too often and is paused", now_ns, out,
                            {"retryAfterMs": -(-served.breaker.refuses_ns(now_ns) // 1_000_000)})
            elif booting and charged and served.worker is None:
                self._flush(served, "BOOT_FAILED", event.message, now_ns, out, details)
            self._feed(served, now_ns, out)
            self._await_deadlines(served, now_ns)
        self._serve_waiting(now_ns, out)

    def _settle_link(self, worker: Worker, event: ev.WorkerGone, served: Served | None, now_ns: int,
                     out: Actions) -> list[Invocation]:
        """Verdicts for what a dead worker had on its link; returns, in order, what may run on the next one."""
        again: list[Invocation] = []
        answered = worker.next_seq - len(worker.link)
        begun = min(event.started - answered, len(worker.link))
        details: dict[str, object] = dict(event.details)
        for index, call in enumerate(worker.link):
            if call.state == "done":
                continue
            if index < begun:
                code, message = worker.end_code or "WORKER_CRASHED", worker.blame or event.message
                if not worker.end_reason:
                    code = event.code if index == 0 else "WORKER_CRASHED"
                elif code != "WORKER_VIOLATION":
                    code = "WORKER_CRASHED"  # the kill was for another call
                self._finish(call, code, message, True, now_ns, out, details=details)
            elif served is None or call.links >= LINKS_MAX or call is worker.trial:
                self._finish(call, "WORKER_CRASHED", "the worker died before this call began", False, now_ns, out,
                             details=details)
            else:
                again.append(call)
        return again

    def _candidate_gone(self, served: Served, worker: Worker, event: ev.WorkerGone, booting: bool, now_ns: int,
                        out: Actions) -> None:
        """A successor has ended before it took over. One that was being judged has its judgement now."""
        code = "BOOT_FAILED" if booting else worker.end_code or event.code or "WORKER_CRASHED"
        message = worker.blame or event.message
        if worker.trial is not None and worker.trial.state == "queued":
            self._finish(worker.trial, code, message, False, now_ns, out)
        self._judge(served, worker, code, message, out)

    def _fork_refused(self, event: ev.ForkRefused, now_ns: int, out: Actions) -> None:
        worker = self._workers.pop(event.worker, None)
        if worker is None:
            return
        self._timers.drop(worker)
        self._evicting.discard(worker.id)
        self._recycling.discard(worker.id)
        self._fork_after_ns = now_ns + min(FORK_BACKOFF_MAX_NS, FORK_BACKOFF_MIN_NS << min(self._forks_refused, 10))
        self._forks_refused += 1
        served = self._plugins.get(worker.plugin)
        if served is None:
            return
        if served.worker is worker:
            served.worker = None
        elif served.successor is worker:
            served.successor = None
            refused = ev.WorkerGone(worker.id, 0, "OVERLOADED", "the system gave no process for a worker", {})
            self._candidate_gone(served, worker, refused, False, now_ns, out)
        self._feed(served, now_ns, out)

    def _zygote_lost(self, event: ev.ZygoteLost, now_ns: int, out: Actions) -> None:
        """Every worker is dying: nobody is charged, and what had not begun goes to the next generation."""
        self._zygote_up = False
        for worker in list(self._workers.values()):
            if worker.state == "killed":
                if worker.end_reason == "boot_failed":
                    worker.end_reason = "zygote_lost"
                continue
            self._kill(worker, "zygote_lost", "", "the process that starts workers died", now_ns, out)

    def _zygote_is_up(self, event: ev.ZygoteUp, now_ns: int, out: Actions) -> None:
        self._zygote_up = True
        self._fork_after_ns = 0
        self._serve_waiting(now_ns, out)

    # ------------------------------------------------------------------ watching
    def _sampled(self, event: ev.WorkerSampled, now_ns: int, out: Actions) -> None:
        worker = self._workers.get(event.worker)
        if worker is None or worker.state != "ready":
            return
        served = self._plugins[worker.plugin]
        if served.worker is worker and recycle.outgrown(worker, self._recycle, event.memory_bytes, event.cpu_ns):
            self._retire(worker, served, "recycled", now_ns, out)

    def _throttle(self, event: ev.WorkerThrottled, now_ns: int, out: Actions) -> None:
        worker = self._workers.get(event.worker)
        if worker is None or worker.throttled == event.throttled:
            return
        worker.throttled = event.throttled
        if worker.ping_due_ns and not event.throttled:
            worker.ping_due_ns = now_ns + self._limits.ping_grace_ns
        self._rearm(worker, now_ns)

    def _exceeded(self, event: ev.LimitExceeded, now_ns: int, out: Actions) -> None:
        worker = self._workers.get(event.worker)
        if worker is None or worker.state in ("stopping", "killed"):
            return
        if worker.state == "starting":
            self._boot_failed(worker, event.message, now_ns, out)
            return
        self._kill(worker, EVIDENCE[event.code], event.code, event.message, now_ns, out)

    def _ran_on(self, event: ev.WorkerRanOn, now_ns: int, out: Actions) -> None:
        """Its calls were answered, by whomever; what still runs has no deadline, so the worker has no future."""
        worker = self._workers.get(event.worker)
        if worker is not None and worker.state == "ready" and not worker.link:
            self._kill(worker, "overrun", "", "its code went on after its call was answered", now_ns, out)

    def _violated(self, event: ev.WorkerViolated, now_ns: int, out: Actions) -> None:
        worker = self._workers.get(event.worker)
        if worker is not None:
            self._kill(worker, "violation", "WORKER_VIOLATION",
                       f"the worker broke the inner protocol and was killed: {event.message}"[:300], now_ns, out)

    def _ponged(self, event: ev.WorkerPonged, now_ns: int, out: Actions) -> None:
        worker = self._workers.get(event.worker)
        if worker is None or worker.state == "killed":
            return
        if not worker.ping_due_ns or event.nonce != worker.pings:
            self._violated(ev.WorkerViolated(worker.id, "a pong that nobody asked for"), now_ns, out)
            return
        worker.ping_due_ns = 0
        worker.answered_ns = now_ns

    def _boot_failed(self, worker: Worker, message: str, now_ns: int, out: Actions, due_ns: int = 0) -> None:
        """The worker did not come up: what waits for it is answered, and its end is charged when it is there."""
        served = self._plugins[worker.plugin]
        self._kill(worker, "boot_failed", "BOOT_FAILED", message, now_ns, out, due_ns)
        if served.worker is worker:
            self._flush(served, "BOOT_FAILED", message, now_ns, out)

    # ------------------------------------------------------------------ time
    def _due_ns(self, worker: Worker) -> int:
        """When ``worker`` must next be looked at."""
        if worker.state != "ready":
            return worker.due_ns
        due_ns = worker.due_ns if worker.link else worker.used_ns + self._idle_ns(worker)
        if worker.ping_due_ns:
            due_ns = min(due_ns, worker.ping_due_ns)
        elif not worker.link and not worker.throttled and self._limits.ping_ns:
            together_ns = self._limits.ping_ns // PINGS_TOGETHER or 1  # a common beat wakes the loop once
            due_ns = min(due_ns, -(-(worker.answered_ns + self._limits.ping_ns) // together_ns) * together_ns)
        return due_ns if worker.leaving else min(due_ns, worker.age_due_ns)

    def _idle_ns(self, worker: Worker) -> int:
        served = self._plugins[worker.plugin]
        return CANDIDATE_NS if served.successor is worker else self._limits.idle_ns

    def _rearm(self, worker: Worker, now_ns: int) -> None:
        self._timers.arm(worker, max(self._due_ns(worker), now_ns + 1))

    def _worker_due(self, worker: Worker, now_ns: int, out: Actions) -> None:
        """Does what is due about ``worker``, and nothing where it was woken early."""
        state = worker.state
        if state == "killed":
            if now_ns >= worker.due_ns:
                worker.due_ns = now_ns + KILL_SUSPECT_NS
                out.append(act.ReplaceZygote(worker.id))
        elif state == "stopping":
            if now_ns >= worker.due_ns:
                self._kill(worker, worker.end_reason, "", "the worker did not leave when told to", now_ns, out)
        elif now_ns >= worker.due_ns and (state == "starting" or worker.link):
            if now_ns - worker.due_ns > STALL_NS and not worker.graced:
                worker.graced = True  # the supervisor stood still: what the worker sent meanwhile is to be read first
                worker.due_ns = now_ns + STALL_GRACE_NS
            elif state == "starting":
                self._boot_failed(worker, "the worker was not ready in time (pool.boot_seconds)", now_ns, out,
                                  worker.due_ns)
            elif worker.link[0].cancelled:
                self._kill(worker, "cancelled", "CANCELLED", "its worker was killed for a cancelled call", now_ns, out,
                           worker.due_ns)
            else:
                served = self._plugins[worker.plugin]
                if served.worker is worker:
                    oldest = worker.link[0]
                    served.ran(oldest.request.hook, now_ns - max(oldest.sent_ns, worker.answered_ns))
                self._kill(worker, "deadline", "TIMEOUT", "the hook ran past its deadline and its worker was killed",
                           now_ns, out, worker.due_ns)
        else:
            self._ready_due(worker, now_ns, out)
        if worker.id in self._workers:
            self._rearm(worker, now_ns)

    def _ready_due(self, worker: Worker, now_ns: int, out: Actions) -> None:
        served = self._plugins[worker.plugin]
        if worker.state != "ready":
            return
        if worker.ping_due_ns and now_ns >= worker.ping_due_ns:
            if worker.throttled or (now_ns - worker.ping_due_ns > STALL_NS):
                worker.ping_due_ns = now_ns + self._limits.ping_grace_ns
                return
            self._kill(worker, "deadline", "", "the worker did not answer a ping", now_ns, out, worker.ping_due_ns)
        elif not worker.link and now_ns - worker.used_ns >= self._idle_ns(worker):
            if served.successor is worker:
                self._drop_successor(served, "nobody adopted it in time", now_ns, out)
            else:
                self._stop(worker, served, "idle", now_ns, out)
        elif now_ns >= worker.age_due_ns and not worker.leaving:
            if served.worker is not worker or not self._retire(worker, served, "recycled", now_ns, out):
                worker.age_due_ns = now_ns + HOLD_NS
        elif (self._limits.ping_ns and not (worker.link or worker.ping_due_ns or worker.throttled)
                and now_ns - worker.answered_ns >= self._limits.ping_ns):
            worker.pings += 1
            worker.ping_due_ns = now_ns + self._limits.ping_grace_ns
            out.append(act.PingWorker(worker.id, worker.pings))
