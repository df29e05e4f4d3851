"""What must be true of every history, checked at every action and step against the simulator's own model."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.deadline import STALE_MAX
from apex_exec.core.limits import (
    CANCEL_GRACE_NS,
    FIRST_PING_NS,
    HELD_NS_MAX,
    PROBE_NS,
    SKIP_GRACE_NS,
    STALL_GRACE_NS,
    STALL_NS,
)
from apex_exec.core.scheduler.queue import DEAD_MAX
from apex_exec.core.scheduler.verdicts import HELD_BACK, TOO_LATE
from apex_exec.core.scheduler.worker import generation
from tests.sim.model import CHARGED, MS, Asked, RefBreaker, SimPlugin, SimWorker

if TYPE_CHECKING:
    from tests.sim.world import World

RECALL_NS = 8 * MS
"""Within so much time a worker of the simulation has heard that calls are recalled."""
ENDS_NS = 2 * (CANCEL_GRACE_NS + PROBE_NS) + SKIP_GRACE_NS
"""Within so much time after its deadline a call of a shared worker has ended, or its worker is killed."""
RESULTS = ("", "PLUGIN_ERROR", "INVALID_OUTPUT")
CAUSES: dict[str, tuple[type[Any], ...]] = {
    "PLUGIN_NOT_FOUND": (ev.InvokeRequested, ev.GenerationPrepared),
    "PLUGIN_DISABLED": (ev.InvokeRequested, ev.PluginSet, ev.PluginRemoved, ev.WorkerGone, ev.WorkerAnswered),
    "AUDIT_UNAVAILABLE": (ev.InvokeRequested, ev.WorkRefused, ev.WorkerGone, ev.WorkerAnswered, ev.GenerationPrepared),
    "OVERLOADED": (ev.InvokeRequested, ev.GenerationPrepared, ev.ForkRefused),
    "QUARANTINED": (ev.InvokeRequested, ev.WorkerGone, ev.PluginFaulted, ev.WorkerAnswered, ev.Tick,
                    ev.GenerationDropped, ev.PluginSet, ev.CancelRequested, ev.ForkRefused),
    "INTERNAL": (ev.PluginFaulted,),
    "TIMEOUT": (ev.Tick, ev.WorkerAnswered, ev.CallsStarted),
    "DEADLINE_EXCEEDED": (ev.Tick, ev.CallsStarted, ev.WorkerAnswered, ev.InvokeRequested, ev.WorkerReady,
                          ev.WorkerGone, ev.WorkerThrottled, ev.CancelRequested, ev.PluginSet, ev.ZygoteUp,
                          ev.ForkRefused, ev.RestartRequested, ev.BreakerReset),
    "MEMORY_LIMIT": (ev.LimitExceeded, ev.WorkerGone), "CPU_LIMIT": (ev.LimitExceeded, ev.WorkerGone),
    "WORKER_CRASHED": (ev.WorkerGone, ev.Tick, ev.ZygoteLost, ev.CallsStarted),
    "BOOT_FAILED": (ev.WorkerGone, ev.Tick, ev.LimitExceeded),
    "WORKER_VIOLATION": (ev.WorkerAnswered, ev.WorkerViolated, ev.WorkerPonged, ev.WorkerGone),
    "SHUTTING_DOWN": (ev.InvokeRequested, ev.Tick, ev.GenerationPrepared),
}
"""The events in whose step a verdict may come."""


class Invariants:
    """The checks of one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.event: Any = None
        self.lenient_until_ns = 0
        self.ended: set[int] = set()
        self.queue_max = 0
        self.recycled_max = 0
        self.stalls_ns: list[int] = []
        self.in_judgement: set[int] = set()  # workers that were prepared
        self.opened: list[str] = []
        self.blamed: int | None = None
        self.forged_by: SimWorker | None = None  # who has just answered a probe that was not sent
        self.before_it: list[Asked] = []  # what waited when the latest call came
        self.paused: list[tuple[str, str]] = []

    def need(self, condition: object, message: str) -> None:
        """Fails the history where ``condition`` does not hold."""
        if not condition:
            self.world.fail(f"{message} at {(self.world.now_ns - 10**12) / 1e6:.3f} ms in {self.event}")

    def stalled(self, length_ns: int) -> None:
        """The supervisor will stand still: nothing can be expected in time until well after it."""
        self.stalls_ns.append(self.world.now_ns)
        self.lenient_until_ns = self.world.now_ns + length_ns + STALL_GRACE_NS + SKIP_GRACE_NS + 5 * MS

    def queued(self, plugin: str) -> list[Asked]:
        """What waits in the plugin's queue."""
        return [a for a in self.world.open.values() if a.plugin == plugin and not a.on and not a.canary]

    # ------------------------------------------------------------------ around a step
    def before(self, event: ev.Event, actions: list[act.Action]) -> None:
        """The pool has decided and nothing is done yet: is this what the model expects?"""
        self.event = event
        world = self.world
        self.opened, self.paused = [], []
        if isinstance(event, ev.InvokeRequested):
            self._admission(event, actions)
        elif isinstance(event, ev.PluginSet):
            known = world.plugins.get(event.spec.id)
            if known is None:
                known = world.plugins[event.spec.id] = SimPlugin(event.spec, world.policy)
            elif known.spec.digest != event.spec.digest:
                known.breaker = RefBreaker(world.policy)
            if generation(known.spec) != generation(event.spec):
                known.version += 1
            known.ever_unordered = known.ever_unordered or event.spec.ordering == "none"
            known.ever_shared = known.ever_shared or event.spec.limits.concurrency > 1
            for worker in world.workers.values():
                if generation(worker.spec) == generation(event.spec) and not worker.killed:
                    self.in_judgement.discard(worker.id)  # adopted, or given up in this very step
            known.spec = event.spec
        elif isinstance(event, ev.PluginRemoved):
            world.plugins.pop(event.plugin, None)
        elif isinstance(event, ev.ForkRefused):
            world.fork_hold_ns = world.now_ns + 10 * MS
        elif isinstance(event, ev.ZygoteUp):
            world.fork_hold_ns = 0
        self.queue_max = max(self.queue_max, world.limits.queue_max)
        self.recycled_max = max(self.recycled_max, world.recycle.at_once_max)

    def _admission(self, event: ev.InvokeRequested, actions: list[act.Action]) -> None:
        world = self.world
        asked = world.calls[event.call]
        known = world.plugins.get(event.plugin)
        waiting = self.before_it = [a for a in self.queued(event.plugin) if a is not asked]
        expected = ""
        sure = True
        if known is None:
            expected = "PLUGIN_NOT_FOUND"
        elif world.draining and world.now_ns >= world.drain_at_ns:
            expected = "SHUTTING_DOWN"
        elif known.spec.state != "enabled":
            expected = "PLUGIN_DISABLED"
        elif world.refusing:
            expected = "AUDIT_UNAVAILABLE"
        elif known.spec.barred(asked.user):
            expected = "PLUGIN_DISABLED"
        elif len(world.open) - 1 >= world.limits.in_flight_max or self._has_no_room(waiting, asked.user):
            expected = "OVERLOADED"
        elif (state := known.breaker.state(world.now_ns)) != "closed":
            probe = known.breaker.probe
            if state == "open" or (probe is not None and probe.verdict is None):
                expected = "QUARANTINED"
            sure = probe is None or probe.verdict is None
        if not expected and sure and known is not None and known.breaker.user_paused(asked.user, world.now_ns):
            expected = "QUARANTINED"
        if not expected and sure and self._is_held(event.plugin, asked.deadline_ns):
            expected = "QUARANTINED"
        verdicts = [a for a in actions if isinstance(a, act.Verdict) and a.call == event.call]
        if sure:
            code = verdicts[0].code if verdicts else ""
            self.need(code == expected, f"call {event.call} was answered {code or 'nothing'} where "
                                        f"{expected or 'admission'} is due")
        if not verdicts and known is not None and known.breaker.state(world.now_ns) == "half_open":
            known.breaker.probe = asked

    def _has_no_room(self, waiting: list[Asked], user: str) -> bool:
        """Whether the queue takes no call of ``user``: no user has more than a quarter while others wait there."""
        limits, held = self.world.limits, Counter(a.user for a in waiting)
        share, full = max(1, limits.queue_max // 4), len(waiting) >= limits.queue_max
        if held[user] >= share and (full or len(held) > 1):
            return True
        return full and max(held.values()) <= share

    def _is_held(self, plugin: str, deadline_ns: int) -> bool:
        """Whether the plugin has no worker, and its backoff lasts beyond ``deadline_ns``."""
        slot = self.world.pool.slots.get(plugin)
        if slot is None or slot.worker is not None or slot.heir is not None:
            return False
        return slot.breaker.start_after_ns > self.world.now_ns and slot.breaker.start_after_ns >= deadline_ns

    def after(self, event: ev.Event, actions: list[act.Action]) -> None:
        """The actions are done: does the pool's state agree with the world?"""
        world, pool = self.world, self.world.pool
        self.need(pool.pending() == len(world.open), "the pool lost or kept a call")
        self.need(pool.workers.by_id.keys() == world.workers.keys(), "the pool lost or leaked a worker")
        owners = len(world.workers) + len(pool.slots) + 2
        self.need(len(pool.timers) <= 2 * (STALE_MAX + owners) + 2, "the timers grow")
        for name, slot in pool.slots.items():
            queue = slot.queue
            waiting = self.queued(name)
            self.need(len(queue) == len(waiting), "the queue is not what waits")
            self.need(len(queue) <= self.queue_max + 8, "a queue beyond its bound")
            self.need(not (waiting and world.refusing), "calls wait that can have no record")
            self.need(not any(world.plugins[name].spec.barred(asked.user) for asked in waiting),
                      "calls wait of a user that the plugin was taken from")
            self.need(len(queue._calls) <= 2 * self.queue_max + DEAD_MAX + 1, "tombstones beyond their bound")
            if waiting and not self._excused(name):
                self.need(any(w.spec.id == name and not (w.stopped or w.id in self.in_judgement)
                              for w in world.workers.values()), "calls wait and nobody works")
        if world.open:
            self.need(pool.next_wake_ns() is not None, "calls wait and nobody will wake")
        if isinstance(event, ev.WorkerGone):
            self.need(not (pool.places.waiting and pool.places.may_start(world.now_ns)),
                      "a place is free and somebody waits")
            for ended in actions:
                if isinstance(ended, act.WorkerEnded) and ended.reason == "boot_failed" and ended.charged:
                    self.need(not self.queued(ended.plugin) or self.gone_worker.killed or self._others(ended.plugin),
                              "calls wait on after the boot failed that they waited for")
        if self.forged_by is not None:
            self.need(self.forged_by.killed or self.forged_by.stopped, "a forged answer to a probe is taken")
            self.forged_by = None
        for plugin, user in self.paused:
            self.need(any(isinstance(a, act.UserPaused) and (a.plugin, a.user_id) == (plugin, user) for a in actions),
                      "a user was paused unsaid")
            self.need(not any(asked.user == user for asked in self.queued(plugin)), "calls of a paused user wait")
        for plugin in self.opened:
            self.need(any(isinstance(a, act.BreakerChanged) and a.plugin == plugin and a.state == "open"
                          for a in actions), "a breaker opened unsaid")

    def _others(self, plugin: str) -> bool:
        """Whether another worker of ``plugin`` is still there: its end decides what comes next."""
        return any(w.spec.id == plugin for w in self.world.workers.values())

    def _excused(self, plugin: str) -> bool:
        """Whether a plugin with calls may be without a worker now."""
        world = self.world
        return (not world.zygote_up or world.now_ns < world.fork_hold_ns + 1000 * MS and bool(world.fork_hold_ns)
                or len(world.workers) >= world.limits.workers_max or bool(world.pool.places.waiting)
                or world.now_ns < world.pool.slots[plugin].breaker.start_after_ns
                or world.now_ns < self.lenient_until_ns)

    def ticked(self) -> None:
        """A tick is done: nothing that was due may be left."""
        world = self.world
        wake_ns = world.pool.next_wake_ns()
        self.need(wake_ns is None or wake_ns > world.now_ns, "the pool spins")
        if world.now_ns < self.lenient_until_ns:
            return
        self.need(not world.draining or world.now_ns < world.drain_at_ns or not world.open, "calls outlive the drain")
        for asked in world.open.values():
            self.need(world.now_ns <= asked.deadline_ns + 160 * MS, f"call {asked.call} is overdue")
        for worker in world.workers.values():
            if worker.killed:
                continue
            if worker.stopped:
                self.need(world.now_ns <= worker.stopped_ns + 100 * MS, "a stopped worker stays")
            elif worker.ready and worker.shared:
                for asked in worker.crowd.values():
                    if not worker.paused and asked in worker.link.values():
                        since_ns = max(asked.deadline_ns, asked.ends_ns, self.lenient_until_ns)
                        self.need(world.now_ns <= since_ns + worker.held(world.now_ns) + ENDS_NS,
                                  f"call {asked.call} is kept past its time by a shared worker")
            elif worker.ready and worker.link:
                self.need(world.now_ns <= self._may_keep_until(worker), "a worker is kept past its time")
            elif not worker.ready and worker.forked:
                self.need(world.now_ns <= worker.boot_due_ns, "a worker boots past its time")

    def _may_keep_until(self, worker: SimWorker) -> int:
        """When the oldest call on the link must have cost its worker."""
        oldest = worker.oldest()
        due_ns = oldest.deadline_ns
        if due_ns <= worker.oldest_ns:
            due_ns = worker.oldest_ns + SKIP_GRACE_NS
        elif oldest.cancelled_ns and oldest.verdict == "CANCELLED":
            due_ns = min(due_ns, max(worker.oldest_ns, oldest.cancelled_ns) + CANCEL_GRACE_NS)
        return due_ns

    # ------------------------------------------------------------------ actions
    def action(self, action: act.Action) -> None:
        """Whether the pool may want this now."""
        if isinstance(action, act.Verdict):
            self._verdict(action)
        elif isinstance(action, act.SendCall):
            self._send(action)
        elif isinstance(action, act.StartWorker):
            self._start(action)
        elif isinstance(action, act.KillWorker):
            self._kill(action)
        elif isinstance(action, act.StopWorker):
            self._stop(action)
        elif isinstance(action, act.WorkerEnded):
            self._ended(action)
        elif isinstance(action, act.PingWorker):
            worker = self.world.workers[action.worker]
            self.need(worker.ready and not (worker.link or worker.killed or worker.stopped or worker.ping_ns
                                            or worker.paused), "a ping that has no place")
            silence_ns = self.world.limits.ping_ns
            if worker.ponged_ns < worker.used_ns:  # the first ping after its calls
                silence_ns = min(silence_ns, FIRST_PING_NS)
            self.need(self.world.now_ns - worker.heard_ns >= silence_ns, "a ping too early")
        elif isinstance(action, act.RecallCalls):
            worker = self.world.workers[action.worker]
            self.need(all(seq in worker.link for seq in action.seqs), "calls are recalled that are not there")
            self.need(worker.lied or all(seq >= worker.started for seq in action.seqs), "a call is recalled that began")
            self.need(not worker.asked_back.intersection(action.seqs), "a call is recalled twice")
        elif isinstance(action, act.CancelCall):
            worker = self.world.workers[action.worker]
            asked = worker.link.get(action.seq)
            self.need(worker.shared and asked is not None, "a call is to be ended that is not there")
            assert asked is not None
            self.need(asked.verdict in ("CANCELLED", "TIMEOUT", "SHUTTING_DOWN", "PLUGIN_DISABLED"),
                      "a call is to be ended that has no verdict")
            self.need(action.nonce > worker.last_probe, "a probe's number is used twice")
        elif isinstance(action, act.GenerationJudged):
            key = (action.plugin, action.digest)
            self.need(self.world.judging.get(key) == 0, "a judgement that nobody waits for")
            self.world.judging[key] = 1

    def _verdict(self, verdict: act.Verdict) -> None:
        world = self.world
        asked = world.calls.get(verdict.call)
        self.need(asked is not None, "a verdict for a call that nobody made")
        assert asked is not None
        self.need(asked.verdict is None, f"a second verdict for call {verdict.call}")
        asked.verdict, asked.started = verdict.code, verdict.started
        del world.open[verdict.call]
        code, now_ns = verdict.code, world.now_ns
        if code in CAUSES:
            self.need(isinstance(self.event, CAUSES[code]), f"{code} without its cause")
        if code in RESULTS:
            self.need(isinstance(self.event, ev.WorkerAnswered), "a result without an answer")
            worker = world.workers[self.event.worker]
            self.need(worker.lied or self.event.body == verdict.call, "the answer of another call")
            late_ns = now_ns - asked.deadline_ns
            self.need(late_ns < 0 or late_ns > STALL_NS, "a result past its deadline")
        elif code in ("TIMEOUT", "DEADLINE_EXCEEDED"):
            left_ns = asked.deadline_ns - now_ns
            shed = verdict.message == TOO_LATE and not asked.on and now_ns - asked.asked_ns > left_ns
            self.need(left_ns <= 0 or shed, f"{code} before the deadline")
            self.need(verdict.started == (code == "TIMEOUT"), f"{code} with started = {verdict.started}")
        elif code == "OVERLOADED" and isinstance(self.event, ev.InvokeRequested) and self.event.call != verdict.call:
            held = Counter(a.user for a in self.before_it)
            self.need(len(self.before_it) >= world.limits.queue_max, "a call is pushed out of a queue with room")
            self.need(held[asked.user] == max(held.values()) > max(1, world.limits.queue_max // 4),
                      "a call is pushed out whose user holds no more than others")
            self.need(all(a.call <= asked.call for a in self.before_it if a.user == asked.user),
                      "an earlier call is pushed out before a later one")
            self.need(self.event.user_id != asked.user, "a user pushes out a call of its own")
        elif code == "CANCELLED":
            self.need(asked.cancelled_ns or asked.canary, "CANCELLED, and nobody did")
        elif code == "SHUTTING_DOWN":
            self.need(world.draining, "SHUTTING_DOWN of a daemon that stays")
        elif code == "WORKER_VIOLATION":
            self.need(any(w.lied for w in world.workers.values()) or isinstance(self.event, ev.WorkerGone),
                      "a violation by honest workers")
        elif code == "QUARANTINED":
            known = world.plugins[verdict.plugin]
            self.need(known.breaker.state(now_ns) != "closed" or known.breaker.user_paused(asked.user, now_ns) or (
                verdict.message == HELD_BACK and self._is_held(verdict.plugin, asked.deadline_ns)),
                "QUARANTINED behind a closed breaker")
        elif code in ("AUDIT_UNAVAILABLE", "PLUGIN_DISABLED") and isinstance(self.event, ev.WorkerAnswered):
            worker = world.workers[self.event.worker]
            self.need(self.event.seq in worker.asked_back, f"{code} of a call that nobody recalled")
        elif code == "AUDIT_UNAVAILABLE":
            self.need(world.refusing, "AUDIT_UNAVAILABLE with a ledger that writes")
        elif code == "BOOT_FAILED" and isinstance(self.event, ev.WorkerGone):
            self.need(asked.on in (0, -1), "BOOT_FAILED of a call on a link")
        if verdict.started and isinstance(self.event, ev.WorkerGone) and not self.gone_worker.lied:
            self.need(asked.runs == 1, f"call {verdict.call} never ran, and its verdict says it did")
        if not verdict.started:
            self.need(asked.runs == 0, f"call {verdict.call} ran, and its verdict says it did not")
        if verdict.details.get("bystander"):
            worker = self.gone_worker
            self.need(worker.shared and isinstance(self.event, ev.WorkerGone) and verdict.code == "WORKER_CRASHED",
                      "a bystander of nothing")
            culprit = self._culprit(worker, self.event.started)
            self.need(culprit is not None and culprit is not asked, "a bystander of its own call, or of nobody's")
        elif verdict.started and isinstance(self.event, ev.WorkerGone) and self.gone_worker.shared and (
                self.gone_worker.killed in ("deadline", "cancelled")):
            culprit = self._culprit(self.gone_worker, self.event.started)
            self.need(culprit is None or culprit is asked, "a bystander that is not called one")
        self.need(verdict.run_ns >= 0 and verdict.queue_ns >= 0, "negative times")
        self.need(verdict.started or verdict.run_ns == 0, "a run time without a run")
        for known in world.plugins.values():
            if known.breaker.probe is asked and not verdict.started:
                known.breaker.probe = None

    def _send(self, action: act.SendCall) -> None:
        world = self.world
        worker = world.workers.get(action.worker)
        self.need(worker is not None and worker.ready and not worker.killed and not worker.stopped,
                  "a call for a worker that takes none")
        assert worker is not None
        asked = world.calls[action.request.call]
        self.need(action.seq == worker.sent, "a sequence number out of order")
        if worker.shared:
            places = world.plugins[asked.plugin].spec.limits.concurrency if not asked.canary else 1
            self.need(len(worker.link) < places, "more calls at once than the plugin may run")
        else:
            self.need(len(worker.link) < world.limits.prefetch, "more calls on a link than prefetch")
        self.need(asked.verdict is None and asked.on == 0 and asked.links < 2, "a call that may not be sent")
        if asked.canary:
            self.need(worker.id in self.in_judgement, "a canary on the live worker")
            return
        self.need(not world.refusing, "a call is sent that can have no record")
        self.need(not world.plugins[asked.plugin].spec.barred(asked.user), "a call of a barred user is sent")
        if worker.shared:
            self._among_users(worker, asked)
        else:
            waiting = self.queued(asked.plugin)
            self.need(all(a.call >= asked.call for a in waiting), "calls overtake each other")
        others = [w for w in world.workers.values() if w is not worker and w.spec.id == asked.plugin]
        self.need(not any(a.verdict is None and not a.canary for w in others for a in w.link.values()),
                  "two workers of one plugin run")
        known = world.plugins[asked.plugin]
        self.need(generation(worker.spec) == generation(known.spec) or asked.version < known.version,
                  "a call runs on a version that was replaced before it came")

    def _among_users(self, worker: SimWorker, asked: Asked) -> None:
        """Whether it is the turn of the call's user."""
        spec = self.world.plugins[asked.plugin].spec
        waiting = self.queued(asked.plugin)
        on_link: Counter[str] = Counter(a.user for a in worker.link.values())
        self.need(all(a.call >= asked.call for a in waiting if a.user == asked.user), "calls of one user overtake")
        if spec.ordering == "user":
            self.need(not on_link[asked.user], "two calls of one user run at once")
            return
        share = max(1, spec.limits.concurrency // 4)
        asking = {a.user for a in waiting if a.user != asked.user and on_link[a.user] < share}
        self.need(on_link[asked.user] < share or not asking, "a user has more than a quarter while others wait")

    def _start(self, action: act.StartWorker) -> None:
        world = self.world
        self.need(world.zygote_up, "a start without a zygote")
        self.need(len(world.workers) < world.limits.workers_max, "more workers than pool.max_workers")
        self.need(world.now_ns >= world.fork_hold_ns, "a fork right after a refused one")
        if isinstance(self.event, ev.GenerationPrepared):
            self.in_judgement.add(action.worker)
            return
        known = world.plugins[action.spec.id]
        self.need(action.spec == known.spec, "a worker of a version that is not in force")
        self.need(world.now_ns >= known.breaker.earliest_start_ns(), "a start within the backoff")
        self.need(known.breaker.state(world.now_ns) != "open", "a start behind an open breaker")
        serving = [w for w in world.workers.values() if w.spec.id == action.spec.id and not w.killed and not w.stopped]
        self.need(len(serving) <= 1, "a third worker of one plugin")

    def _kill(self, action: act.KillWorker) -> None:
        world, now_ns = self.world, self.world.now_ns
        worker = world.workers[action.worker]
        self.need(not worker.killed, "a worker is killed twice")
        if worker.shared and worker.ready and worker.link and action.reason in ("deadline", "cancelled"):
            self._kill_shared(worker, action)
            return
        silent = worker.ping_ns and now_ns >= worker.ping_ns + world.limits.ping_grace_ns
        if action.reason == "deadline" and not silent:
            self.need(worker.link and now_ns >= self._may_keep_until(worker), "a deadline kill too early")
            if now_ns > self._may_keep_until(worker) + STALL_NS and action.due_ns + STALL_NS < now_ns:
                graced = sum(at_ns >= worker.oldest_ns for at_ns in self.stalls_ns) > 1  # once only
                self.need(graced or not worker.oldest().replied,
                          "killed after a stall, with its answer waiting to be read")
        elif action.reason == "deadline":
            self.need(worker.link or not worker.paused, "a held worker is killed for its silence")
        elif action.reason == "cancelled":
            self.need(worker.link and worker.oldest().cancelled_ns and now_ns >= self._may_keep_until(worker),
                      "a kill for a cancelled call too early")
        elif action.reason == "boot_failed" and not isinstance(self.event, ev.LimitExceeded):
            canary = worker.id in self.in_judgement  # its canary's deadline may be the earlier one
            self.need(not worker.ready and (now_ns >= worker.boot_due_ns or canary), "a boot kill too early")
        elif action.reason == "overrun":
            idle = worker.ready and not worker.link and not worker.stopped
            hesitates = isinstance(self.event, ev.CallsStarted) and self.event.count <= worker.doubted and (
                worker.doubted == worker.oldest_seq() and not worker.stopped)
            self.need(hesitates or (isinstance(self.event, ev.WorkerRanOn) and idle),
                      "a worker is killed for going on that has begun a call, or leaves")
        elif action.reason == "faulted":
            self.need(isinstance(self.event, ev.PluginFaulted), "a fault that nobody told of")
        elif action.reason == "violation":
            self.need(worker.lied, "an honest worker is called a liar")
        if worker.stopped:
            self.need(action.reason in (worker.stopped, "zygote_lost", "violation", "drained", "faulted"),
                      "another reason at the end")

    def _kill_shared(self, worker: SimWorker, action: act.KillWorker) -> None:
        """A shared worker may be killed for a call that does not end: its loop stands still, or the call goes on."""
        now_ns = self.world.now_ns
        oldest, begun = worker.oldest(), [seq for seq in worker.link if seq < worker.started]
        silent = worker.ping_ns and now_ns >= worker.ping_ns + self.world.limits.ping_grace_ns
        is_held = worker.paused and now_ns - worker.paused_ns < HELD_NS_MAX
        free_ns = now_ns - (worker.held(now_ns) if is_held or not worker.paused else worker.held_ns)
        stands = not is_held and any(
            hard and free_ns >= sent_ns - held_ns + PROBE_NS for sent_ns, hard, held_ns in worker.probes.values())
        goes_on = [a for a in worker.link.values() if a.ends_ns and (
            free_ns >= a.ends_ns - a.held_ns + CANCEL_GRACE_NS) and (
                worker.probed_ns >= a.ends_ns or len(begun) == 1)]
        worker.went_on = goes_on
        due_ns = min(oldest.deadline_ns, oldest.cancelled_ns or oldest.deadline_ns)
        idles = not begun and now_ns >= due_ns + SKIP_GRACE_NS
        if action.reason == "cancelled":
            self.need(any(a.verdict == "CANCELLED" for a in goes_on), "a kill for a cancelled call that may go on")
        else:
            self.need(stands or goes_on or idles or silent or worker.lied, "a shared worker is killed too early")

    def probed(self, worker: SimWorker, nonce: int) -> None:
        """The answer to a probe reaches the pool."""
        if worker.killed:
            return  # too late: it is judged already
        if nonce not in worker.probes or nonce != min(worker.probes):
            worker.lied = True
            self.forged_by = worker
            return
        worker.probed_ns = worker.probes.pop(nonce)[0]
        worker.heard_ns = self.world.now_ns
        if not worker.probes:
            worker.named = None

    def _stop(self, action: act.StopWorker) -> None:
        world, now_ns = self.world, self.world.now_ns
        worker = world.workers[action.worker]
        self.need(worker.ready and not worker.killed and not worker.stopped, "a stop of what cannot be stopped")
        self.need(not worker.link, "a worker is stopped during a call")
        if action.reason == "idle":
            self.need(now_ns - worker.used_ns >= min(world.limits.idle_ns, 60_000 * MS), "an idle stop too early")
        elif action.reason == "recycled":
            others = [w for w in world.workers.values() if w.stopped == "recycled" and not w.killed]
            self.need(len(others) < self.recycled_max, "too many recyclings at once")
        elif action.reason == "evicted" and isinstance(self.event, ev.InvokeRequested):
            serving = {p.worker.id for p in world.pool.slots.values() if p.worker and p.worker.state != "leaving"}
            idle = [w.used_ns for w in world.workers.values() if w.id in serving and w.ready and not w.link]
            self.need(worker.used_ns <= min(idle, default=now_ns), "not the least recently used is evicted")

    def _ended(self, action: act.WorkerEnded) -> None:
        world = self.world
        self.need(action.worker not in self.ended, "a worker ends twice")
        self.ended.add(action.worker)
        worker = self.gone_worker
        known = world.plugins.get(action.plugin)
        expected = worker.killed or worker.stopped or ("boot_failed" if not worker.ready else
                                                       {"CPU_LIMIT": "cpu"}.get(self.gone_code, "crashed"))
        if self.gone_code == "BOOT_FAILED" and worker.ready:
            expected = action.reason
        self.need(action.reason in (expected, "zygote_lost", "drained"), f"{action.reason} where {expected} is due")
        if worker.id not in self.in_judgement and known is not None and action.reason == expected:
            self.need(action.charged == (expected in CHARGED), f"{expected} and charged = {action.charged}")
        if action.charged and known is not None:
            self.need(action.reason in CHARGED, f"{action.reason} is charged")
            assert isinstance(self.event, ev.WorkerGone)
            culprit = self._culprit(worker, self.event.started) if action.reason != "violation" else None
            user = "" if culprit is None or culprit.canary else culprit.user
            if user and known.breaker.user_ended(user, world.now_ns):
                self.paused.append((action.plugin, user))
            if known.breaker.ended(world.now_ns, world.now_ns - worker.born_ns, action.reason == "violation", user):
                self.opened.append(action.plugin)
        elif known is not None and known.breaker.probe is not None and known.breaker.probe.verdict is not None:
            known.breaker.probe = None

    def _culprit(self, worker: SimWorker, started: int) -> Asked | None:
        """The call by which a worker has ended."""
        begun = [asked for seq, asked in worker.link.items() if seq < started]
        if not worker.shared or len(begun) <= 1 and self.blamed is None:
            return begun[0] if begun else None
        if self.blamed is not None:
            told = [worker.named] if worker.named is not None else []
            self.need(self.blamed in {a.call for a in told + worker.went_on}, "a call is blamed that did nothing")
            return self.world.calls[self.blamed]
        return None

    # ------------------------------------------------------------------ what the world reports
    def hears(self, worker: SimWorker, event: ev.WorkerAnswered) -> None:
        """An answer reaches the pool."""
        world = self.world
        if worker.killed == "violation" or event.seq not in worker.link or (
                not worker.shared and event.seq != worker.oldest_seq()):
            worker.lied = True if not worker.killed else worker.lied
            return
        asked = worker.link[event.seq]
        if worker.lied and worker.shared and not asked.ends_ns and (event.code == "ended" or (
                event.code == "skipped" and world.now_ns < asked.deadline_ns and event.seq not in worker.asked_back)):
            return  # the pool kills it for that, or not; it is a liar's
        asked = worker.link.pop(event.seq)
        if worker.named is asked and not worker.killed:
            worker.named = None
        asked.on = -1
        if not worker.link:
            worker.probes = {nonce: (sent_ns, False, held_ns) for nonce, (sent_ns, _, held_ns) in worker.probes.items()}
        worker.heard_ns = worker.oldest_ns = world.now_ns
        known = world.plugins.get(worker.spec.id)
        if event.code == "skipped" and known is not None and not worker.killed and known.breaker.probe is asked:
            known.breaker.probe = None  # it was cancelled before it began
        if event.code != "skipped" and known is not None and not worker.killed and worker.id not in self.in_judgement:
            if known.breaker.probe is not None:
                known.breaker.probe = None
                known.breaker.open_until_ns = 0
            known.breaker.user_succeeded(asked.user, world.now_ns)
            if world.now_ns - worker.born_ns >= known.breaker.policy.stable_ns:
                known.breaker.consecutive = 0

    def begins(self, worker: SimWorker, asked: Asked) -> None:
        """A hook truly begins."""
        if not worker.lied:
            asked.runs += 1
            self.need(asked.runs == 1, f"call {asked.call} runs twice")
            self.need(asked.verdict is None or asked.started,
                      f"call {asked.call} runs after a verdict that says it never did")
            self.need(not self.world.refusing or self.world.now_ns <= self.world.refused_ns + RECALL_NS or (
                self.world.now_ns < self.lenient_until_ns),
                      "a call begins long after no record could be kept")
            known = self.world.plugins.get(asked.plugin)
            if known is not None and not asked.canary:
                self.need(known.ever_shared or not known.begun or known.begun[-1] < asked.call,
                          "hooks begin out of order")
                self.need(known.begun_of.get(asked.user, -1) < asked.call, "hooks of one user begin out of order")
                known.begun.append(asked.call)
                known.begun_of[asked.user] = asked.call
                if worker.shared and not known.ever_unordered:
                    self.need(sum(a.user == asked.user for a in worker.crowd.values()) == 1,
                              "two hooks of one user run at once")

    def gone(self, worker: SimWorker, code: str) -> None:
        """A worker's end is about to be reported."""
        self.gone_worker, self.gone_code = worker, code
        known = self.world.pool.workers.by_id.get(worker.id)
        blamed = known.blamed if known is not None else None
        is_told = blamed is not None and worker.killed in ("deadline", "cancelled")
        self.blamed = blamed.request.call if is_told else None
        for asked in worker.link.values():
            if asked.verdict is None:
                asked.on = 0

    def final(self) -> None:
        """All input has stopped and time has passed: nothing may be left."""
        world = self.world
        self.need(not world.open, f"{len(world.open)} calls without a verdict")
        self.need(not world.workers, f"{len(world.workers)} workers without an end")
        self.need(world.pool.next_wake_ns() is None, "timers without an end")
        self.need(not world.pool.places.waiting, "plugins that wait for ever")
        for key, count in world.judging.items():
            self.need(count == 1, f"the generation {key} was never judged")
