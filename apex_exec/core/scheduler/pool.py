"""The scheduler: bounded queues, prefetch, deadlines, kills, restarts. ``pool.step(event, now_ns) -> actions``.

One worker per plugin serves, one call at a time in it, up to ``prefetch`` calls on its link. Every admitted invocation
gets exactly one Verdict and the first wins. The occupancy timer belongs to the oldest unanswered call on a link, not to
its verdict, so a worker that hangs is killed even where its caller was answered long ago.

Three layers, each in its file: ``calls`` (verdicts), ``fleet`` (workers) and this one (what may come in).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.deadline import NEVER_NS, Timed
from apex_exec.core.limits import MS_NS, SECOND_NS, STALL_NS, PoolLimits, RecyclePolicy
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler.breaker import NO_CALL, Breaker, BreakerPolicy
from apex_exec.core.scheduler.calls import HELD_BACK, Actions
from apex_exec.core.scheduler.fleet import Fleet
from apex_exec.core.scheduler.invocation import Invocation, Refusal
from apex_exec.core.scheduler.plugin_slot import Served
from apex_exec.core.scheduler.worker import Worker, generation
from apex_exec.errors import SupervisorBug

__all__ = ["MS_NS", "SECOND_NS", "Pool", "PoolLimits", "RecyclePolicy", "Refusal"]
PASSED_BEFORE_IT_RAN: Refusal = ("DEADLINE_EXCEEDED", "the deadline passed before the hook ran", {})


class Pool(Fleet):
    """All plugins, workers and invocations of one daemon. Pure: no clock, no I/O.

    ``random`` gives [0, 1). Whatever else the pool knows it was told by an event: with the same draws, the same events
    at the same times give the same actions.
    """

    def __init__(self, limits: PoolLimits, breaker: BreakerPolicy, random: Callable[[], float],
                 recycle: RecyclePolicy | None = None) -> None:
        super().__init__(limits, breaker, random, recycle or RecyclePolicy())
        self._draining = False
        self._drained = False
        """Whether the drain's time is over."""
        self._drain = Timed()
        self._handlers: dict[type[Any], Callable[[Any, int, Actions], None]] = {
            ev.InvokeRequested: self._invoke, ev.WorkerAnswered: self._answered, ev.Tick: self._tick,
            ev.CancelRequested: self._cancel, ev.WorkerReady: self._ready, ev.WorkerGone: self._gone,
            ev.WorkerPonged: self._ponged, ev.WorkerViolated: self._violated, ev.WorkerSampled: self._sampled,
            ev.WorkerThrottled: self._throttle, ev.LimitExceeded: self._exceeded,
            ev.WorkerRanOn: self._ran_on, ev.CallsStarted: self._calls_started, ev.ForkRefused: self._fork_refused,
            ev.ZygoteLost: self._zygote_lost, ev.ZygoteUp: self._zygote_is_up, ev.PluginSet: self._set,
            ev.PluginRemoved: self._remove, ev.PluginFaulted: self._faulted, ev.GenerationPrepared: self._prepare,
            ev.GenerationDropped: self._generation_dropped, ev.Reconfigured: self._reconfigure,
            ev.DrainRequested: self._drain_requested,
            ev.RestartRequested: self._restart, ev.BreakerReset: self._reset_breaker,
            ev.WorkRefused: self._refuse_work, ev.WorkAdmitted: self._admit_work,
        }

    # ------------------------------------------------------------------ what the shell may ask
    def next_wake_ns(self) -> int | None:
        """When a Tick is next due; None where nothing waits."""
        return self._timers.next_ns()

    def spec(self, plugin: str) -> PluginSpec | None:
        """The plugin as served now."""
        served = self._plugins.get(plugin)
        return served.spec if served else None

    def spec_of(self, plugin: str, worker: int) -> PluginSpec | None:
        """What is in force for the code that runs in ``worker``: the plugin's spec as it is now, or the worker's own if
        that is another version's. None if the plugin is not served."""
        served = self._plugins.get(plugin)
        if served is None:
            return None
        known = self._workers.get(worker)
        return served.spec if known is None or known.spec.digest == served.spec.digest else known.spec

    def look(self, plugin: str, user_id: str, now_ns: int) -> tuple[PluginSpec | None, Refusal | None]:
        """The plugin, and why a call of it that came now would find no room, or the plugin paused.

        ``step`` would say the same; to be told first spares a refused call the way through the core and back.
        """
        served = self._plugins.get(plugin)
        if served is None:
            return None, None
        return served.spec, None if self._draining else self._full(served, user_id, now_ns)

    def specs(self) -> list[PluginSpec]:
        """Every plugin as served now, in (priority, id) order."""
        return sorted((p.spec for p in self._plugins.values()), key=lambda s: (s.priority, s.id))

    def pending(self) -> int:
        """Invocations without a verdict."""
        return len(self._calls)

    def is_open(self, call: int) -> bool:
        """Whether ``call`` still has no verdict. An API call in the name of one that has is refused."""
        return call in self._calls

    def oldest(self, worker: int) -> tuple[int, ev.InvokeRequested] | None:
        """Seq and request of the oldest unanswered call on the worker's link: the one that may be running.

        It may have its verdict already (cancelled); ``is_open`` says so. None where the link is empty.
        """
        known = self._workers.get(worker)
        if known is None or not known.link:
            return None
        return known.next_seq - len(known.link), known.link[0].request

    def resting(self, worker: int) -> int | None:
        """How many calls the worker was sent in all, where it has answered each of them; None where it has not."""
        known = self._workers.get(worker)
        return None if known is None or known.link or known.state != "ready" else known.next_seq

    def worker_states(self) -> dict[str, int]:
        """Workers by state of the metrics table: ``starting ready busy throttled draining``."""
        counts = dict.fromkeys(("starting", "ready", "busy", "throttled", "draining"), 0)
        for worker in self._workers.values():
            counts[self._state_name(worker)] += 1
        return counts

    def gauge(self, plugin: str, now_ns: int) -> tuple[int, int, str] | None:
        """(queued, in flight, breaker state) of one plugin; None where it is not served."""
        p = self._plugins.get(plugin)
        if p is None:
            return None
        return len(p.queue), len(p.worker.link) if p.worker else 0, p.breaker.state(now_ns)

    def gauges(self, now_ns: int) -> list[tuple[str, int, int, str, str]]:
        """Per plugin: (id, queued, in flight, worker state, breaker state)."""
        return [
            (p.spec.id, len(p.queue), len(p.worker.link) if p.worker else 0,
             self._state_name(p.worker) if p.worker else "none", p.breaker.state(now_ns))
            for p in self._plugins.values()
        ]

    @staticmethod
    def _state_name(worker: Worker) -> str:
        if worker.state == "starting":
            return "starting"
        if worker.state != "ready" or worker.leaving:
            return "draining"
        return "throttled" if worker.throttled else "busy" if worker.link else "ready"

    # ------------------------------------------------------------------ the step
    def step(self, event: ev.Event, now_ns: int) -> list[act.Action]:
        """What to do about ``event``. Never blocks; an unknown event raises SupervisorBug and changes nothing."""
        out: list[act.Action] = []
        try:
            handler = self._handlers[type(event)]
        except KeyError:
            raise SupervisorBug(f"the pool knows no event {type(event).__name__}") from None
        handler(event, now_ns, out)
        return out

    # ------------------------------------------------------------------ calls
    def _invoke(self, request: ev.InvokeRequested, now_ns: int, out: Actions) -> None:
        served = self._plugins.get(request.plugin)
        refusal = self._refusal(request, served, now_ns)
        if refusal is not None:
            code, message, details = refusal
            out.append(act.Verdict(request.call, request.plugin, request.hook, request.user_id, code, message,
                                   None, details, False, 0, 0, False))
            return
        assert served is not None
        call = Invocation(request, now_ns)
        self._calls[request.call] = call
        if served.breaker.open_until_ns:
            served.breaker.probe = request.call
            out.append(act.BreakerChanged(request.plugin, "half_open"))
        worker = served.worker
        if (worker is not None and worker.state == "ready" and not worker.leaving and not served.queue.live
                and len(worker.link) < self._limits.prefetch and worker.next_seq < worker.last_seq):
            self._link(worker, call, now_ns, out)
            if len(worker.link) == 1:
                return  # the oldest is the worker's timer's
        else:
            served.queue.push(call)
            self._feed(served, now_ns, out)
        if request.deadline_ns < served.armed_ns:
            self._timers.arm(served, max(request.deadline_ns, now_ns + 1))

    def _refusal(self, request: ev.InvokeRequested, served: Served | None,
                 now_ns: int) -> Refusal | None:
        """Why ``request`` is not admitted; None where it is."""
        if served is None:
            return "PLUGIN_NOT_FOUND", f"no plugin {request.plugin!r} is registered", {}
        if self._drained:  # until then the shell refuses hosts, and what comes here is the rest of what it had taken
            return "SHUTTING_DOWN", "the daemon is shutting down", {}
        if served.spec.state != "enabled":
            reason = served.spec.reason
            return "PLUGIN_DISABLED", reason or "the plugin is disabled", {"reason": reason or served.spec.state}
        if request.deadline_ns <= now_ns:
            return "DEADLINE_EXCEEDED", "the deadline passed before the call came in", {}
        refusal = self._may_not_begin(request, served.spec) or self._full(served, request.user_id, now_ns)
        if refusal is None and served.breaker.start_after_ns > now_ns:
            refusal = self._held(served, request.deadline_ns, now_ns)
        return refusal

    def _held(self, served: Served, deadline_ns: int, now_ns: int) -> Refusal | None:
        """Why a call cannot be started before its deadline: a worker that ended again and again is started later."""
        start_ns = served.breaker.start_after_ns
        if start_ns < deadline_ns or served.worker is not None or (
                served.successor is not None and served.successor.adopted):
            return None
        return "QUARANTINED", HELD_BACK, {"retryAfterMs": -(-(start_ns - now_ns) // MS_NS)}

    def _full(self, served: Served, user_id: str, now_ns: int) -> Refusal | None:
        """Why there is no room for a call of ``served``, or that its breaker is open."""
        if len(self._calls) >= self._limits.in_flight_max:
            return "OVERLOADED", "the daemon is full (pool.in_flight)", {}
        queued = served.queue.live
        if queued:
            if queued >= self._limits.queue_max:
                return "OVERLOADED", "the plugin's queue is full (pool.queue_depth)", {}
            if served.queue.held_by(user_id) >= max(1, self._limits.queue_max // 4):
                return "OVERLOADED", "this user holds a quarter of the plugin's queue", {}
        if served.breaker.open_until_ns and (wait_ns := served.breaker.refuses_ns(now_ns)):
            return ("QUARANTINED", "the plugin failed too often and is paused",
                    {"retryAfterMs": -(-wait_ns // MS_NS)})
        return None

    def _answered(self, event: ev.WorkerAnswered, now_ns: int, out: Actions) -> None:
        worker = self._workers.get(event.worker)
        if worker is None or worker.end_reason == "violation":
            return
        link = worker.link
        if not link or event.seq != worker.next_seq - len(link):
            self._violated(ev.WorkerViolated(worker.id, "an answer out of turn"), now_ns, out)
            return
        if event.code == "skipped" and now_ns < link[0].request.deadline_ns and link[0].recalled is None:
            # else what ran would be no usage
            self._violated(ev.WorkerViolated(worker.id, "it skipped a call that had time left"), now_ns, out)
            return
        call = link.popleft()
        begun_ns = worker.answered_ns if worker.answered_ns > call.sent_ns else call.sent_ns
        worker.answered_ns = now_ns
        if call.state == "linked":
            late_ns = now_ns - call.request.deadline_ns
            if event.code == "skipped":
                code, message, details = call.recalled or PASSED_BEFORE_IT_RAN
                self._finish(call, code, message, False, now_ns, out, details=details)
            elif 0 <= late_ns <= STALL_NS:
                self._finish(call, "TIMEOUT", "the hook ran past its deadline", True, now_ns, out, begun_ns=begun_ns)
            else:  # far too late with the worker alive: it was this process that stood still, and the answer counts
                self._finish(call, event.code, "", True, now_ns, out, event.body, begun_ns=begun_ns)
        if worker.state != "ready":
            return  # killed meanwhile: an answer that was complete before counts all the same
        served = self._plugins[worker.plugin]
        if served.worker is not worker:
            self._trial_answered(served, worker, call, event.code, now_ns, out)
            return
        if event.code != "skipped":
            served.ran(call.request.hook, now_ns - begun_ns)
        if served.breaker.consecutive or served.breaker.probe != NO_CALL:
            self._well(served, worker, event.code, now_ns, out)
        if link:
            self._occupy(worker, now_ns)
        if served.queue.live or worker.leaving:
            self._feed(served, now_ns, out)
        if not link:
            self._idle(worker, now_ns, out)

    def _idle(self, worker: Worker, now_ns: int, out: Actions) -> None:
        due_ns = now_ns + min(self._limits.ping_ns or NEVER_NS, self._limits.idle_ns)
        if due_ns < worker.armed_ns:
            self._timers.arm(worker, due_ns)
        if self._waiting:
            self._make_room(now_ns, out)

    def _well(self, served: Served, worker: Worker, code: str, now_ns: int, out: Actions) -> None:
        """The worker has answered, which may close the breaker. A skip shows nothing of the hook."""
        if code != "skipped" and served.breaker.succeeded(now_ns - worker.born_ns):
            out.append(act.BreakerChanged(worker.plugin, "closed"))

    def _trial_answered(self, served: Served, worker: Worker, call: Invocation, code: str, now_ns: int,
                        out: Actions) -> None:
        """The canary of a prepared generation is through. A failure gives the generation up."""
        worker.trial = None
        code = "CANCELLED" if call.cancelled else "DEADLINE_EXCEEDED" if code == "skipped" else code
        self._judge(served, worker, code, "the canary failed" if code else "", out)
        if code:
            self._drop_successor(served, "its canary failed", now_ns, out)
        else:
            self._rearm(worker, now_ns)

    def _cancel(self, event: ev.CancelRequested, now_ns: int, out: Actions) -> None:
        call = self._calls.get(event.call)
        if call is None:
            return
        served = self._plugins.get(call.request.plugin)
        successor = served.successor if served is not None else None
        if call.state == "linked":  # it may have begun, or may still: the worker cannot be told
            call.cancelled = True
            self._finish(call, "CANCELLED", "cancelled by its caller", True, now_ns, out)
            for worker in (served.worker if served else None, successor):
                if worker is not None and worker.state == "ready" and worker.link and worker.link[0] is call:
                    self._occupy(worker, now_ns)
            return
        if served is not None and (successor is None or successor.trial is not call):
            served.queue.forget(call)
        self._finish(call, "CANCELLED", "cancelled by its caller", False, now_ns, out)

    # ------------------------------------------------------------------ plugins
    def _set(self, event: ev.PluginSet, now_ns: int, out: Actions) -> None:
        spec = event.spec
        served = self._plugins.get(spec.id)
        if served is None:
            self._plugins[spec.id] = Served(spec, Breaker(self._breaker_policy))
            return
        if spec.digest != served.spec.digest:  # other code: what the old one did says nothing of it
            served.breaker = Breaker(self._breaker_policy)
            served.forget_runs()
        served.spec = spec
        if spec.state != "enabled":
            self._end_plugin(served, spec.reason or "the plugin was disabled", now_ns, out)
            return
        if spec.users is not None or spec.entitled is not None:
            self._hold_back(served, now_ns, out)
            self._recall(served, out)
        self._adopt(served, now_ns, out)
        self._feed(served, now_ns, out)

    def _adopt(self, served: Served, now_ns: int, out: Actions) -> None:
        """Brings the plugin's workers to the generation in force: the prepared one, else a new one beside the old."""
        successor, wanted = served.successor, generation(served.spec)
        if successor is not None and (successor.generation != wanted or successor.trial is not None
                                      or successor.state == "killed"):
            self._drop_successor(served, "another generation was decided for", now_ns, out)
        elif successor is not None:
            self._judge(served, successor, "CANCELLED", "it was set before it was judged", out)
            successor.adopted = True
        worker = served.worker
        if worker is None or worker.generation == wanted:
            if served.successor is not None and not (worker and worker.leaving):
                self._drop_successor(served, "the live generation stays", now_ns, out)
            return
        if worker.state == "starting":
            self._kill(worker, "drained", "", "another version was set", now_ns, out)
            return
        if worker.state == "ready":
            worker.leaving = worker.leaving or "drained"
            self._renew(served, now_ns, out)

    def _remove(self, event: ev.PluginRemoved, now_ns: int, out: Actions) -> None:
        served = self._plugins.get(event.plugin)
        if served is None:
            return
        self._end_plugin(served, "the plugin was removed", now_ns, out)
        served.removed = True
        self._timers.drop(served)
        self._waiting.pop(event.plugin, None)
        del self._plugins[event.plugin]

    def _end_plugin(self, served: Served, message: str, now_ns: int, out: Actions) -> None:
        """Answers all that the plugin has and kills its workers, uncharged."""
        self._flush(served, "PLUGIN_DISABLED", message, now_ns, out)
        self._drop_successor(served, message, now_ns, out)
        for worker in [w for w in self._workers.values() if w.plugin == served.spec.id]:
            for call in worker.link:  # any of them may begin before the kill arrives
                self._finish(call, "PLUGIN_DISABLED", message, True, now_ns, out)
            self._kill(worker, "drained", "", message, now_ns, out)
            worker.end_reason = "drained"

    def _faulted(self, event: ev.PluginFaulted, now_ns: int, out: Actions) -> None:
        """Pauses the plugin: its workers are killed, what waits is refused; its breaker lets a probe through later."""
        served = self._plugins.get(event.plugin)
        if served is None:
            return
        opens = served.breaker.state(now_ns) != "open"
        served.breaker.trip(now_ns)
        if opens:
            out.append(act.BreakerChanged(event.plugin, "open"))
        self._flush(served, "QUARANTINED", event.message, now_ns, out,
                    {"retryAfterMs": -(-served.breaker.refuses_ns(now_ns) // MS_NS)})
        self._drop_successor(served, event.message, now_ns, out)
        for worker in [w for w in self._workers.values() if w.plugin == event.plugin]:
            self._kill(worker, "faulted", "INTERNAL", event.message, now_ns, out)

    # ------------------------------------------------------------------ generations
    def _prepare(self, event: ev.GenerationPrepared, now_ns: int, out: Actions) -> None:
        spec, canary = event.spec, event.canary
        served = self._plugins.get(spec.id)
        trial = Invocation(canary, now_ns) if canary is not None else None
        if trial is not None:
            self._calls[trial.request.call] = trial
        code = message = ""
        if served is None:
            code, message = "PLUGIN_NOT_FOUND", f"no plugin {spec.id!r} is registered"
        elif self._draining:
            code, message = "SHUTTING_DOWN", "the daemon is shutting down"
        elif canary is not None and self._refused is not None:
            code, message, _ = self._refused
        elif served.successor is not None and served.successor.adopted:
            code, message = "OVERLOADED", "the plugin is changing its worker; try again"
        elif not self._may_start(now_ns):
            code, message = "OVERLOADED", "there is no place for another worker now"
        if served is None or code:
            if trial is not None:
                self._finish(trial, code, message, False, now_ns, out)
            out.append(act.GenerationJudged(spec.id, spec.digest, code, message))
            return
        if served.successor is not None:
            self._drop_successor(served, "another generation was prepared", now_ns, out)
        worker = self._start(spec, now_ns, out)
        worker.adopted = False
        worker.trial = trial
        if trial is not None:
            worker.due_ns = max(now_ns + 1, min(worker.due_ns, trial.request.deadline_ns))
            self._rearm(worker, now_ns)
        served.successor = worker

    def _generation_dropped(self, event: ev.GenerationDropped, now_ns: int, out: Actions) -> None:
        served = self._plugins.get(event.plugin)
        if served is not None and served.successor is not None and not served.successor.adopted:
            self._drop_successor(served, "the prepared generation was dropped", now_ns, out)

    # ------------------------------------------------------------------ time and bounds
    def _tick(self, event: ev.Tick, now_ns: int, out: Actions) -> None:
        while (owner := self._timers.pop_due(now_ns)) is not None:
            try:
                self._due(owner, now_ns, out)
            except Exception as error:  # a bug of ours costs the owner, not all that is due after it
                named = owner.spec.id if isinstance(owner, Worker | Served) else ""
                out.append(act.Faulted(named, error))

    def _due(self, owner: Timed, now_ns: int, out: Actions) -> None:
        """Does what ``owner`` asked to be woken for."""
        if isinstance(owner, Worker):
            self._worker_due(owner, now_ns, out)
        elif isinstance(owner, Served):
            self._expire(owner, now_ns, out)
            self._feed(owner, now_ns, out)
            self._await_deadlines(owner, now_ns)
        elif owner is self._hold:
            self._serve_waiting(now_ns, out)
        else:
            self._drained = True
            for call in list(self._calls.values()):
                served = self._plugins.get(call.request.plugin)
                if call.state == "queued" and served is not None and not (
                        served.successor is not None and served.successor.trial is call):
                    served.queue.forget(call)
                self._finish(call, "SHUTTING_DOWN", "the daemon is shutting down", call.state == "linked", now_ns, out)

    def _drain_requested(self, event: ev.DrainRequested, now_ns: int, out: Actions) -> None:
        self._draining = True
        self._timers.arm(self._drain, max(event.until_ns, now_ns + 1))

    def _restart(self, event: ev.RestartRequested, now_ns: int, out: Actions) -> None:
        served = self._plugins.get(event.plugin)
        if served is None:
            return
        served.breaker.start_after_ns = 0  # who restarts it does not want to wait for its backoff
        worker = served.worker
        if worker is None:
            self._feed(served, now_ns, out)
        elif worker.state == "starting":
            self._kill(worker, "drained", "", "an operator restarted the plugin", now_ns, out)
        else:
            self._retire(worker, served, "drained", now_ns, out)

    def _reset_breaker(self, event: ev.BreakerReset, now_ns: int, out: Actions) -> None:
        served = self._plugins.get(event.plugin)
        if served is None:
            return
        if served.breaker.reset():
            out.append(act.BreakerChanged(event.plugin, "closed"))
        self._feed(served, now_ns, out)

    def _refuse_work(self, event: ev.WorkRefused, now_ns: int, out: Actions) -> None:
        self._refused = event.code, event.message, {}
        for served in self._plugins.values():
            self._hold_back(served, now_ns, out)
            successor = served.successor
            if successor is not None and successor.trial is not None and successor.trial.state == "queued":
                self._finish(successor.trial, event.code, event.message, False, now_ns, out)
                self._judge(served, successor, event.code, event.message, out)
                self._drop_successor(served, event.message, now_ns, out)
            self._recall(served, out)

    def _admit_work(self, event: ev.WorkAdmitted, now_ns: int, out: Actions) -> None:
        self._refused = None

    def _reconfigure(self, event: ev.Reconfigured, now_ns: int, out: Actions) -> None:
        self._limits, self._breaker_policy, self._recycle = event.limits, event.breaker, event.recycle
        for served in self._plugins.values():
            served.breaker.reconfigure(event.breaker)
        for worker in list(self._workers.values()):
            if worker.state == "ready":
                self._rearm(worker, now_ns)
        over = len(self._workers) - event.limits.workers_max - len(self._evicting)
        idle = sorted((w for w in self._workers.values() if w.state == "ready" and not w.link and not w.leaving
                       and self._plugins[w.plugin].worker is w), key=lambda w: w.used_ns)
        for worker in idle[: max(0, over)]:
            self._evict(worker, now_ns, out)
        self._serve_waiting(now_ns, out)
