"""The scheduler: bounded queues, prefetch, deadlines, kills, restarts. ``pool.step(event, now_ns) -> actions``.

One worker per plugin, one call at a time in it, up to ``prefetch`` calls on its link. Every admitted
invocation gets exactly one Verdict and the first wins: a call leaves ``_calls`` with its verdict, and what
comes later for it finds nothing. The occupancy timer belongs to the oldest unanswered call on a link, not to
its verdict, so a worker that hangs is killed even where its caller was answered long ago.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable

from msgspec import Struct

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.breaker import Breaker, BreakerPolicy
from apex_exec.core.plugin import PluginSpec
from apex_exec.errors import SupervisorBug

MS_NS = 1_000_000
SKIP_GRACE_NS = 100 * MS_NS
"""How long a call that becomes the oldest after its deadline has to be answered ``skipped``."""
CANCEL_GRACE_NS = 250 * MS_NS
"""How long a cancelled call that has started may go on before it costs its worker."""


class PoolLimits(Struct, frozen=True):
    """Defaults of the ``[pool]`` configuration section. Full is an answer (OVERLOADED), never a wait."""

    workers_max: int = 1000
    idle_ns: int = 300_000 * MS_NS
    queue_max: int = 1024
    in_flight_max: int = 20_000
    prefetch: int = 8
    boot_ns: int = 10_000 * MS_NS


class _Invocation:
    __slots__ = ("arrived_ns", "attempts", "cancelled", "cold", "request", "sent_ns", "state")

    def __init__(self, request: ev.InvokeRequested, now_ns: int) -> None:
        self.request = request
        self.arrived_ns = now_ns
        self.sent_ns = 0
        self.state = "queued"  # queued → linked → done
        self.attempts = 0
        self.cancelled = False
        self.cold = False


class _Worker:
    __slots__ = ("answered_ns", "born_ns", "digest", "id", "kill_code", "kill_reason", "link", "next_seq",
                 "oldest_due_ns", "plugin", "state", "used_ns")

    def __init__(self, worker: int, plugin: str, digest: str, now_ns: int) -> None:
        self.id = worker
        self.plugin = plugin
        self.digest = digest
        self.state = "starting"  # starting → ready → dying (killed or stopped)
        self.link: deque[_Invocation] = deque()
        self.next_seq = 0  # seq of the next call put on the link; the oldest is next_seq - len(link)
        self.born_ns = now_ns
        self.answered_ns = now_ns
        self.used_ns = now_ns
        self.oldest_due_ns = 0
        self.kill_reason = ""
        self.kill_code = ""


class _Plugin:
    __slots__ = ("breaker", "per_user", "queue", "spec", "worker")

    def __init__(self, spec: PluginSpec, breaker: Breaker) -> None:
        self.spec = spec
        self.breaker = breaker
        self.queue: deque[_Invocation] = deque()
        self.per_user: Counter[str] = Counter()
        self.worker: _Worker | None = None


class Pool:
    """All plugins, workers and invocations of one daemon. Pure: no clock, no I/O; ``random`` gives [0, 1)."""

    def __init__(self, limits: PoolLimits, breaker: BreakerPolicy, random: Callable[[], float]) -> None:
        self._limits = limits
        self._breaker_policy = breaker
        self._random = random
        self._plugins: dict[str, _Plugin] = {}
        self._workers: dict[int, _Worker] = {}
        self._calls: dict[int, _Invocation] = {}
        self._timers: list[tuple[int, int, str, int]] = []  # (due_ns, tie, kind, call or worker); checked lazily
        self._tie = 0
        self._next_worker = 1
        self._draining = False

    # ------------------------------------------------------------------ what the shell may ask
    def next_wake_ns(self) -> int | None:
        """When a Tick is next due; None where nothing waits."""
        return self._timers[0][0] if self._timers else None

    def spec(self, plugin: str) -> PluginSpec | None:
        """The plugin as served now."""
        entry = self._plugins.get(plugin)
        return entry.spec if entry else None

    def specs(self) -> list[PluginSpec]:
        """Every plugin as served now, in (priority, id) order."""
        return sorted((p.spec for p in self._plugins.values()), key=lambda s: (s.priority, s.id))

    def pending(self) -> int:
        """Invocations without a verdict."""
        return len(self._calls)

    def gauges(self, now_ns: int) -> list[tuple[str, int, int, str, str]]:
        """Per plugin: (id, queued, in flight, worker state, breaker state)."""
        return [
            (p.spec.id, len(p.queue), len(p.worker.link) if p.worker else 0,
             p.worker.state if p.worker else "none", p.breaker.state(now_ns))
            for p in self._plugins.values()
        ]

    # ------------------------------------------------------------------ the step
    def step(self, event: ev.Event, now_ns: int) -> list[act.Action]:
        """What to do about ``event``. Never blocks; an unknown event raises SupervisorBug and changes nothing."""
        out: list[act.Action] = []
        kind = type(event)
        if kind is ev.InvokeRequested:
            self._invoke(event, now_ns, out)  # type: ignore[arg-type]  # narrowed by `kind`
        elif kind is ev.WorkerAnswered:
            self._answered(event, now_ns, out)  # type: ignore[arg-type]  # narrowed by `kind`
        elif isinstance(event, ev.Tick):
            self._tick(now_ns, out)
        elif isinstance(event, ev.CancelRequested):
            self._cancel(event.call, now_ns, out)
        elif isinstance(event, ev.WorkerReady):
            self._ready(event.worker, now_ns, out)
        elif isinstance(event, ev.WorkerGone):
            self._gone(event, now_ns, out)
        elif isinstance(event, ev.WorkerViolated):
            worker = self._workers.get(event.worker)
            if worker is not None:
                self._kill(worker, "violation", "WORKER_VIOLATION", now_ns, out)
        elif isinstance(event, ev.PluginSet):
            self._set(event.spec, now_ns, out)
        elif isinstance(event, ev.PluginRemoved):
            self._remove(event.plugin, now_ns, out)
        elif isinstance(event, ev.DrainRequested):
            self._draining = True
            self._arm(event.until_ns, "drain", 0)
        else:
            raise SupervisorBug(f"the pool knows no event {kind.__name__}")
        return out

    # ------------------------------------------------------------------ plugins
    def _set(self, spec: PluginSpec, now_ns: int, out: list[act.Action]) -> None:
        entry = self._plugins.get(spec.id)
        if entry is None:
            self._plugins[spec.id] = _Plugin(spec, Breaker(self._breaker_policy))
            return
        entry.spec = spec
        if spec.state != "enabled":
            self._end_plugin(entry, "PLUGIN_DISABLED", spec.reason or "the plugin was disabled", now_ns, out)

    def _remove(self, plugin: str, now_ns: int, out: list[act.Action]) -> None:
        entry = self._plugins.get(plugin)
        if entry is not None:
            self._end_plugin(entry, "PLUGIN_DISABLED", "the plugin was removed", now_ns, out)
            del self._plugins[plugin]

    def _end_plugin(self, entry: _Plugin, code: str, message: str, now_ns: int, out: list[act.Action]) -> None:
        while entry.queue:
            self._finish(self._unqueue(entry), code, message, False, now_ns, out)
        worker = entry.worker
        if worker is not None:
            for call in worker.link:
                self._finish(call, "CANCELLED", message, True, now_ns, out)
            self._kill(worker, "drained", "CANCELLED", now_ns, out)

    # ------------------------------------------------------------------ calls
    def _invoke(self, request: ev.InvokeRequested, now_ns: int, out: list[act.Action]) -> None:
        call = _Invocation(request, now_ns)
        entry = self._plugins.get(request.plugin)
        code = message = ""
        details: dict[str, object] = {}
        if entry is None:
            code, message = "PLUGIN_NOT_FOUND", f"no plugin {request.plugin!r} is registered"
        elif self._draining:
            code, message = "SHUTTING_DOWN", "the daemon is shutting down"
        elif len(self._calls) >= self._limits.in_flight_max:
            code, message = "OVERLOADED", "the daemon is full (pool.in_flight)"
        elif len(entry.queue) >= self._limits.queue_max:
            code, message = "OVERLOADED", "the plugin's queue is full (pool.queue_depth)"
        elif entry.per_user[request.user_id] >= max(1, self._limits.queue_max // 4):
            code, message = "OVERLOADED", "this user holds a quarter of the plugin's queue"
        elif wait_ns := entry.breaker.refuses_ns(now_ns):
            code, message = "QUARANTINED", "the plugin failed too often and is paused"
            details = {"retryAfterMs": -(-wait_ns // MS_NS)}
        if code:
            out.append(act.Verdict(request.call, request.plugin, request.hook, request.user_id, code, message,
                                   None, details, False, 0, 0, False))
            return
        assert entry is not None
        if entry.breaker.state(now_ns) == "half_open":
            entry.breaker.probing = True
        self._calls[request.call] = call
        self._queue(entry, call)
        self._arm(request.deadline_ns, "call", request.call)
        self._feed(entry, now_ns, out)

    def _queue(self, entry: _Plugin, call: _Invocation) -> None:
        entry.queue.append(call)
        entry.per_user[call.request.user_id] += 1

    def _unqueue(self, entry: _Plugin) -> _Invocation:
        call = entry.queue.popleft()
        self._leave_user(entry, call)
        return call

    @staticmethod
    def _leave_user(entry: _Plugin, call: _Invocation) -> None:
        user = call.request.user_id
        entry.per_user[user] -= 1
        if entry.per_user[user] <= 0:
            del entry.per_user[user]

    def _feed(self, entry: _Plugin, now_ns: int, out: list[act.Action]) -> None:
        """Moves queued calls to the link while it has room; starts a worker where there is none."""
        worker = entry.worker
        if worker is None:
            if entry.queue:
                if now_ns < entry.breaker.start_after_ns:
                    self._arm(entry.breaker.start_after_ns, "start", entry.queue[0].request.call)
                else:
                    self._start(entry, now_ns, out)
            return
        if worker.state != "ready":
            return
        if worker.digest != entry.spec.digest:
            if not worker.link:
                self._stop(worker, "drained", out)
            return
        link = worker.link
        while entry.queue and len(link) < self._limits.prefetch:
            call = self._unqueue(entry)
            call.state = "linked"
            call.attempts += 1
            call.sent_ns = now_ns
            link.append(call)
            out.append(act.SendCall(worker.id, worker.next_seq, call.request))
            worker.next_seq += 1
            if len(link) == 1:
                self._occupy(worker, now_ns)
        worker.used_ns = now_ns

    def _occupy(self, worker: _Worker, now_ns: int) -> None:
        """(Re)sets the occupancy timer for the oldest unanswered call."""
        if not worker.link:
            worker.oldest_due_ns = 0
            self._arm(now_ns + self._limits.idle_ns, "idle", worker.id)
            return
        oldest = worker.link[0]
        due_ns = max(oldest.request.deadline_ns, now_ns + SKIP_GRACE_NS if oldest.state == "done" else 0)
        if oldest.request.deadline_ns <= now_ns:
            due_ns = now_ns + SKIP_GRACE_NS
        if oldest.cancelled:
            due_ns = min(due_ns, now_ns + CANCEL_GRACE_NS)
        worker.oldest_due_ns = due_ns
        self._arm(due_ns, "occupied", worker.id)

    def _finish(self, call: _Invocation, code: str, message: str, started: bool, now_ns: int,
                out: list[act.Action], body: object = None, details: dict[str, object] | None = None,
                begun_ns: int = 0) -> None:
        """The one verdict. A call that has one is left alone."""
        if call.state == "done":
            return
        call.state = "done"
        request = call.request
        del self._calls[request.call]
        begun_ns = begun_ns or (call.sent_ns if started else now_ns)
        out.append(act.Verdict(request.call, request.plugin, request.hook, request.user_id, code, message, body,
                               details or {}, started, max(0, begun_ns - call.arrived_ns),
                               now_ns - begun_ns if started else 0, call.cold))

    def _answered(self, event: ev.WorkerAnswered, now_ns: int, out: list[act.Action]) -> None:
        worker = self._workers.get(event.worker)
        if worker is None or worker.state != "ready":
            return  # killed meanwhile: its verdicts are out, or come with WorkerGone
        if not worker.link or event.seq != worker.next_seq - len(worker.link):
            self._kill(worker, "violation", "WORKER_VIOLATION", now_ns, out)
            return
        call = worker.link.popleft()
        begun_ns = max(call.sent_ns, worker.answered_ns)
        worker.answered_ns = now_ns
        if event.code == "skipped":
            self._finish(call, "DEADLINE_EXCEEDED", "the deadline passed before the hook ran", False, now_ns, out)
        elif now_ns >= call.request.deadline_ns:
            self._finish(call, "TIMEOUT", "the hook ran past its deadline", True, now_ns, out, begun_ns=begun_ns)
        else:
            self._finish(call, event.code, "", True, now_ns, out, event.body, begun_ns=begun_ns)
        entry = self._plugins.get(worker.plugin)
        if entry is not None and entry.worker is worker:
            entry.breaker.succeeded(now_ns - worker.born_ns)
            self._feed(entry, now_ns, out)
        self._occupy(worker, now_ns)

    def _cancel(self, call_id: int, now_ns: int, out: list[act.Action]) -> None:
        call = self._calls.get(call_id)
        if call is None:
            return
        entry = self._plugins[call.request.plugin]
        if call.state == "queued":
            entry.queue.remove(call)
            self._leave_user(entry, call)
            self._finish(call, "CANCELLED", "cancelled by its caller", False, now_ns, out)
            return
        call.cancelled = True
        worker = entry.worker
        oldest = worker is not None and bool(worker.link) and worker.link[0] is call
        self._finish(call, "CANCELLED", "cancelled by its caller", oldest, now_ns, out)
        if worker is not None and oldest:
            self._occupy(worker, now_ns)

    # ------------------------------------------------------------------ workers
    def _start(self, entry: _Plugin, now_ns: int, out: list[act.Action]) -> None:
        if len(self._workers) >= self._limits.workers_max:
            idle = [w for w in self._workers.values() if w.state == "ready" and not w.link]
            if idle:
                self._stop(min(idle, key=lambda w: w.used_ns), "evicted", out)
            self._arm(now_ns + 5 * MS_NS, "start", entry.queue[0].request.call)  # when that one has left
            return
        worker = _Worker(self._next_worker, entry.spec.id, entry.spec.digest, now_ns)
        self._next_worker += 1
        self._workers[worker.id] = worker
        entry.worker = worker
        for call in entry.queue:
            call.cold = True
        out.append(act.StartWorker(worker.id, entry.spec))
        self._arm(now_ns + self._limits.boot_ns, "boot", worker.id)

    def _ready(self, worker_id: int, now_ns: int, out: list[act.Action]) -> None:
        worker = self._workers.get(worker_id)
        if worker is None or worker.state != "starting":
            return
        worker.state = "ready"
        worker.answered_ns = now_ns
        self._feed(self._plugins[worker.plugin], now_ns, out)
        self._occupy(worker, now_ns)

    def _stop(self, worker: _Worker, reason: str, out: list[act.Action]) -> None:
        worker.state = "dying"
        worker.kill_reason = reason
        out.append(act.StopWorker(worker.id, reason))

    def _kill(self, worker: _Worker, reason: str, code: str, now_ns: int, out: list[act.Action],
              due_ns: int = 0) -> None:
        if worker.kill_code:
            return
        worker.state = "dying"
        worker.kill_reason, worker.kill_code = reason, code
        out.append(act.KillWorker(worker.id, reason, due_ns or now_ns))
        if worker.link:  # the oldest has started as far as anyone can know; the rest wait for the marks
            oldest = worker.link[0]
            message = {"TIMEOUT": "the hook ran past its deadline and its worker was killed",
                       "WORKER_VIOLATION": "the worker broke the inner protocol and was killed"}.get(code, reason)
            begun_ns = max(oldest.sent_ns, worker.answered_ns)
            self._finish(oldest, code, message, True, now_ns, out, begun_ns=begun_ns)

    def _gone(self, event: ev.WorkerGone, now_ns: int, out: list[act.Action]) -> None:
        worker = self._workers.pop(event.worker, None)
        if worker is None:
            return
        entry = self._plugins.get(worker.plugin)
        answered = worker.next_seq - len(worker.link)
        begun = max(0, min(event.marks - answered, len(worker.link)))
        code = worker.kill_code or event.code
        booting = worker.next_seq == 0 and worker.state == "starting"
        again: list[_Invocation] = []
        details: dict[str, object] = dict(event.details)
        for index, call in enumerate(worker.link):
            if index < begun:
                self._finish(call, code, event.message, True, now_ns, out, details=details)
            elif call.attempts >= 2 or entry is None:
                self._finish(call, "WORKER_CRASHED", "the worker died twice before this call began", False,
                             now_ns, out, details=details)
            elif call.state != "done":
                again.append(call)
        if entry is None:
            return
        if entry.worker is worker:
            entry.worker = None
        if worker.kill_reason not in ("idle", "evicted", "recycled", "drained", "cancelled", "zygote_lost"):
            entry.breaker.ended(now_ns, now_ns - worker.born_ns, self._random(),
                                trip=worker.kill_reason == "violation")
        for call in reversed(again):
            call.state = "queued"
            entry.queue.appendleft(call)
            entry.per_user[call.request.user_id] += 1
        if booting or entry.breaker.refuses_ns(now_ns):
            final = code if booting else "QUARANTINED"
            message = event.message if booting else "the plugin failed too often and is paused"
            while entry.queue:
                self._finish(self._unqueue(entry), final, message, False, now_ns, out, details=details)
        self._feed(entry, now_ns, out)

    # ------------------------------------------------------------------ time
    def _arm(self, due_ns: int, kind: str, ref: int) -> None:
        self._tie += 1
        heapq.heappush(self._timers, (due_ns, self._tie, kind, ref))

    def _tick(self, now_ns: int, out: list[act.Action]) -> None:
        timers = self._timers
        while timers and timers[0][0] <= now_ns:
            due_ns, _, kind, ref = heapq.heappop(timers)
            if kind in ("call", "start"):
                self._call_due(kind, ref, now_ns, out)
                continue
            if kind == "drain":
                for call in list(self._calls.values()):
                    self._finish(call, "SHUTTING_DOWN", "the daemon is shutting down", call.state == "linked",
                                 now_ns, out)
                continue
            worker = self._workers.get(ref)
            if worker is None:
                continue
            if kind == "occupied" and worker.link and worker.oldest_due_ns == due_ns and worker.state == "ready":
                cancelled = worker.link[0].cancelled
                self._kill(worker, "cancelled" if cancelled else "deadline",
                           "CANCELLED" if cancelled else "TIMEOUT", now_ns, out, due_ns)
            elif kind == "boot" and worker.state == "starting":
                worker.kill_code = "BOOT_FAILED"
                worker.kill_reason = "boot_failed"
                out.append(act.KillWorker(worker.id, "boot_failed", due_ns))
            elif kind == "idle" and worker.state == "ready" and not worker.link:
                if now_ns - worker.used_ns >= self._limits.idle_ns:
                    self._stop(worker, "idle", out)

    def _call_due(self, kind: str, ref: int, now_ns: int, out: list[act.Action]) -> None:
        call = self._calls.get(ref)
        if call is None:
            return
        entry = self._plugins[call.request.plugin]
        if kind == "start":
            self._feed(entry, now_ns, out)
        elif call.state == "queued":
            entry.queue.remove(call)
            self._leave_user(entry, call)
            self._finish(call, "DEADLINE_EXCEEDED", "the deadline passed in the queue", False, now_ns, out)
        elif entry.worker is None or not entry.worker.link or entry.worker.link[0] is not call:
            # It waits on the link behind another: the caller is answered now, the worker will skip it.
            self._finish(call, "DEADLINE_EXCEEDED", "the deadline passed behind an earlier call", False,
                         now_ns, out)
