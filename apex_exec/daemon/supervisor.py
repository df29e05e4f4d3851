"""The supervisor: ties loop, hosts, workers and the pure core together. Everything it does, it does without waiting.

What other parts of the daemon bring is attached after it is made, and may be missing: ``audit`` (records what
happened), ``api`` (API calls of plugins), ``governing`` (CPU and memory), side processes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.deadline import NEVER_NS
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler.breaker import BreakerPolicy
from apex_exec.core.scheduler.pool import MS_NS, SECOND_NS, Pool, PoolLimits, RecyclePolicy
from apex_exec.daemon.gc_schedule import Heap
from apex_exec.daemon.hosts.connections import Open, Peer
from apex_exec.daemon.hosts.host_socket import HostSocket
from apex_exec.daemon.hosts.requests import Requests
from apex_exec.errors import Code, WireError
from apex_exec.executor.guard import Guard
from apex_exec.executor.local import LocalExecutor
from apex_exec.executor.loop import Loop
from apex_exec.executor.ports import BundleSource
from apex_exec.executor.zygote_link import ZygoteLink
from apex_exec.observe.logs import Logs
from apex_exec.observe.metrics import Metrics
from apex_exec.wire import messages as msg

if TYPE_CHECKING:
    from apex_exec.daemon.ports import ApiCalls
    from apex_exec.daemon.sides.audit_trail import AuditTrail
    from apex_exec.daemon.sides.side_process import SideProcess
    from apex_exec.executor.jails import Sandboxing
    from apex_exec.executor.ports import Governing

DRAIN_MARGIN_NS = 50 * MS_NS
"""What waits is answered SHUTTING_DOWN so long before the drain ends: the answers still have to leave."""
MEASURE_SECONDS = 0.25
MEASURED_AT_ONCE = 1000
"""Plugins whose gauges are set every MEASURE_SECONDS at most, about a millisecond; fewer where all have had their turn
within MEASURE_ROUNDS."""
MEASURE_ROUNDS = 4
_clock_ns = time.monotonic_ns
FAR_NS = 3600 * 1000 * MS_NS
CORES = len(os.sched_getaffinity(0))
SPIN_BELOW = CORES if CORES > 1 else 0
"""With fewer workers at a call than this, a core is taken to be left for a loop that looks awake. A call that waits for
the gateway counts as well: then the loop sleeps where it need not."""
DRAINED = "an operator has drained the daemon: it takes no new calls until it is undrained"
BREAKER_STATES = ("closed", "open", "half_open")


class Supervisor:
    """One daemon's decisions and their execution. ``pool`` decides, the tables act."""

    def __init__(self, *, pool: Pool, open_hosts: Open, start_zygote: Callable[[], ZygoteLink],
                 zygote: ZygoteLink, sandboxing: Sandboxing, source: BundleSource, spares: int,
                 bytes_max: int, per_host: int, welcome: Callable[[int | str], msg.Welcome], metrics: Metrics,
                 logs: Logs) -> None:
        self.pool = pool
        self.metrics = metrics
        self.logs = logs
        self.guard = Guard(metrics, logs)
        self.loop = Loop(lambda lag_ns: metrics.observe("loop_lag_seconds", (), lag_ns / 1e9), self.guard)
        metrics.health["zygote"] = "the zygote has not answered yet"
        self.audit: AuditTrail | None = None
        self.api: ApiCalls | None = None
        self.governing: Governing | None = None
        self.turns: list[Callable[[int], bool | None]] = []
        """Called in every round with the time: what must be done before the loop sleeps. True: there is more of it."""
        self.on_removed: list[Callable[[str], None]] = []
        """Called with the id of each plugin that is removed."""
        self.on_judged: list[Callable[[act.GenerationJudged], None]] = []
        """Called with what came of each prepared generation."""
        self.workers = LocalExecutor(
            self.loop, start_zygote=start_zygote, zygote=zygote, sandboxing=sandboxing, source=source, spares=spares,
            step=self.step, metrics=metrics, logs=logs, failed=self.guard.failed)
        self.hosts = HostSocket(
            self.loop, open_hosts, bytes_max=bytes_max, serve=self._serve, serve_large=self._serve_large,
            gone=self._peer_gone, metrics=metrics)
        self.requests = Requests(
            pool, step=self.step, reply=self.hosts.reply, welcome=welcome, metrics=metrics, per_host=per_host,
            used=self.workers.accounts.used, bug=logs.bug,
            failed=self.guard.failed)
        self.requests.logs = logs
        self.workers.neighbours.on_uncalled = self._uncalled
        self.workers.neighbours.oldest = pool.oldest
        self._plugins: dict[str, str] = {}  # id → its breaker's state, as last exported
        self._unmeasured: list[str] = []
        self._heap = Heap()
        self.loop.every(1.0, self._upkeep)
        self.loop.every(MEASURE_SECONDS, self._measure)
        self._drain_until_ns = 0
        self._governor_due_ns = NEVER_NS
        self._governor_rests = False
        self._look_ns = FAR_NS

    # ------------------------------------------------------------------ what others attach
    def attach(self, side: SideProcess, delay_seconds: float = 0.0) -> None:
        """Starts ``side``, if need be only when it is first needed (``Loop.attach``), and keeps it running; it is
        closed, draining, after the loop has ended."""
        def lost(how: str) -> None:
            self.logs.log("error", how)
            self.metrics.inc("side_process_restarts_total", (side.name,))

        side.on_lost = lost
        self.loop.attach(side, delay_seconds)

    def use(self, *, audit: AuditTrail | None = None, api: ApiCalls | None = None,
            governing: Governing | None = None) -> None:
        """Plugs in the parts that were made with this supervisor's own parts."""
        if audit is not None:
            self.audit = self.requests.audit = audit
            audit.on_refused, audit.on_admitted = self._refuse_work, self._admit_work
            self.loop.every(1.0, audit.upkeep)
        if api is not None:
            self.api = self.requests.api = self.workers.neighbours.api = api
        if governing is not None:
            self.governing = self.workers.neighbours.governing = self.workers.overhead.governing = governing
            self._look_ns = governing.busy_ns
            self._governor_due_ns = 0

    def _flush_audit(self, audit: AuditTrail, now_ns: int) -> None:
        audit.flush(now_ns)
        if audit.side.wants_write:  # a busy ledger: its link takes the rest as soon as there is room
            self.loop.side_changed(audit.side)

    # ------------------------------------------------------------------ plugins
    def set_plugin(self, spec: PluginSpec) -> None:
        """Serves ``spec`` from now on."""
        self.workers.overhead.tune(spec, time.monotonic_ns())
        self.step(ev.PluginSet(spec), time.monotonic_ns())
        if spec.id not in self._plugins:
            self._set_breaker(spec.id, "closed")

    def remove_plugin(self, plugin: str) -> None:
        """Serves ``plugin`` no longer; its series go."""
        self.step(ev.PluginRemoved(plugin), time.monotonic_ns())
        self._plugins.pop(plugin, None)
        self.workers.overhead.forget(plugin)
        self.metrics.forget_plugin(plugin)
        self.logs.forget_plugin(plugin)
        for callback in self.on_removed:
            callback(plugin)

    def reconfigure(self, limits: PoolLimits, breaker: BreakerPolicy, recycle: RecyclePolicy) -> None:
        """Other bounds from now on; what is admitted already stays."""
        self.step(ev.Reconfigured(limits, breaker, recycle), time.monotonic_ns())

    # ------------------------------------------------------------------ hosts
    def _serve(self, peer: Peer, frames: list[bytes], request: Any) -> None:
        try:
            self.requests.serve(peer, frames, request)
        except WireError:
            raise
        except Exception as error:
            self._failed(peer, request, error)

    def _serve_large(self, peer: Peer, frames: list[bytes], request: Any, size: int) -> None:
        try:
            self.requests.serve_large(peer, frames, request, size)
        except WireError:
            raise
        except Exception as error:
            self._failed(peer, request, error)

    def _failed(self, peer: Peer, request: Any, error: Exception) -> None:
        """A bug of ours may cost this request, not everybody's. Raises WireError."""
        self.logs.bug("a request failed", error)
        self.requests.abandon(peer, getattr(request, "id", None))
        raise WireError(Code.INTERNAL, "the daemon failed at this request; its log says how") from None

    def _peer_gone(self, peer: Peer) -> None:
        self.requests.peer_gone(peer)

    # ------------------------------------------------------------------ the core
    def step(self, event: ev.Event, now_ns: int) -> None:
        """Gives ``event`` to the core and does what it wants done."""
        for action in self.pool.step(event, now_ns):
            kind = type(action)
            try:
                if kind is act.SendCall:
                    self.workers.send(action, now_ns)  # type: ignore[arg-type]  # narrowed by `kind`
                elif kind is act.Verdict:
                    self.requests.verdict(action)  # type: ignore[arg-type]  # narrowed by `kind`
                else:
                    self._act(action, now_ns)
            except Exception as error:  # the actions after it are as due as they were
                self._action_failed(action, error)

    def _act(self, action: act.Action, now_ns: int) -> None:
        """Does what is wanted less often."""
        if isinstance(action, act.StartWorker):
            self.workers.start(action, now_ns)
        elif isinstance(action, act.KillWorker):
            self.workers.kill(action.worker, action.reason, action.due_ns, now_ns)
        elif isinstance(action, act.StopWorker):
            self.workers.stop(action.worker)
        elif isinstance(action, act.WorkerEnded):
            why = self.workers.tell_end(action)
            if why and action.reason == "boot_failed" and self.audit is not None:
                self.audit.event("security.anomaly", "", action.plugin, "boot", "failure", {"why": why})
            if self.pool.spec(action.plugin) is not None:  # the series of a removed plugin stay away
                self.metrics.inc("worker_exits_total", (action.plugin, action.reason))
        elif isinstance(action, act.BreakerChanged):
            self._breaker_changed(action)
        elif isinstance(action, act.CountStarted):
            self.workers.count_started(action.worker, now_ns)
        elif isinstance(action, act.RecallCalls):
            self.workers.recall(action)
        elif isinstance(action, act.PingWorker):
            self.workers.ping(action)
        elif isinstance(action, act.GenerationJudged):
            for listener in self.on_judged:
                listener(action)
        elif isinstance(action, act.ReplaceZygote):
            self.workers.zygote.replace()
        elif isinstance(action, act.Faulted):
            self.guard.failed("core timer", action.error, action.plugin)

    def _action_failed(self, action: act.Action, error: Exception) -> None:
        """Whoever the action was for has a fault; a call whose verdict could not be told is answered all the same."""
        plugin = getattr(action, "plugin", "")
        if isinstance(action, act.StartWorker):
            plugin = action.spec.id
            self.workers.never_started(action.worker)
        elif not plugin and (link := self.workers.link(getattr(action, "worker", 0))) is not None:
            plugin = link.spec.id
        self.guard.failed(f"action {type(action).__name__}", error, plugin)
        if isinstance(action, act.Verdict):
            self.requests.untold(action)

    def _quarantine(self, now_ns: int) -> None:
        """Pauses the plugins that a duty failed for since the last turn."""
        faulty = self.guard.faulty
        self.guard.faulty = {}
        for plugin, why in faulty.items():
            if self.audit is not None:
                self.audit.event("security.anomaly", "", plugin, "fault", "success", {"why": why})
            try:
                self.step(ev.PluginFaulted(plugin, why), now_ns)
            except Exception as error:  # then its workers at least end
                self.guard.failed("quarantine", error)
                self.workers.kill_plugin(plugin)

    def _uncalled(self, plugin: str, user_id: str, cpu_ns: int) -> None:
        """CPU time that was used without a call is on record too: it is metered."""
        if self.audit is not None:
            self.audit.event("plugin.cpu", user_id, plugin, "worker", "success", {"cpuMs": cpu_ns / 1e6})

    def _breaker_changed(self, action: act.BreakerChanged) -> None:
        self.logs.log("warning", f"plugin {action.plugin}: its breaker is {action.state}")
        if action.plugin in self._plugins:
            self._set_breaker(action.plugin, action.state)
        if self.audit is not None:
            self.audit.event("security.anomaly", "", action.plugin, "breaker", "success", {"state": action.state})

    def turn(self) -> int:
        """One round: hosts, timers, everything that was queued. When the next is due (CLOCK_MONOTONIC ns; 0: now)."""
        now_ns = _clock_ns()
        audit = self.audit
        workers, peers = self.workers, self.hosts.peers
        guard = self.guard
        if guard.faulty:
            self._quarantine(now_ns)
        if workers.dirty:  # calls and answers that came about since the last turn do not wait for what is taken in now
            workers.flush()
        busy = False
        try:
            peers.flush()
            if audit is not None and now_ns >= audit.due_ns:
                self._flush_audit(audit, now_ns)  # in strict durability these answers wait for their records
            held = audit is not None and now_ns > audit.fine_until_ns and audit.holds(now_ns)
            busy = not held and peers.receive()
            if self.requests.left and self.requests.cancel_left():
                busy = True
        except Exception as error:
            guard.failed("hosts", error)
        try:
            if workers.reading.size and workers.read_parked(now_ns):
                busy = True
        except Exception as error:
            guard.failed("links that wait", error)
        wake_ns = self.pool.next_wake_ns()
        if wake_ns is not None and wake_ns <= now_ns:
            self.step(ev.Tick(), now_ns)
            wake_ns = self.pool.next_wake_ns()
            busy = True
        if now_ns >= self._governor_due_ns:
            self._govern(now_ns)
        elif self._governor_rests and self.workers.activated:  # a call after a rest: it looks again soon
            self._governor_rests = False
            self._governor_due_ns = min(self._governor_due_ns, now_ns + self._look_ns)
        if workers.dirty:
            workers.flush()
        if workers.unsettled and workers.follow_up(now_ns):
            busy = True
        try:
            peers.flush()  # before the rest: a host waits for this, nobody for that
        except Exception as error:
            guard.failed("hosts", error)
        api = workers.neighbours.api
        if api is not None and now_ns >= api.due_ns:
            try:
                api.expire(now_ns)
            except Exception as error:
                guard.failed("API calls that nobody answered", error)
        for callback in self.turns:
            try:
                if callback(now_ns):
                    busy = True
            except Exception as error:
                guard.failed(f"turn {callback.__qualname__}", error)
        if audit is not None and now_ns >= audit.due_ns:
            try:
                self._flush_audit(audit, now_ns)
            except Exception as error:
                guard.failed("audit", error)
        if guard.faulty:
            busy = True  # who is to be quarantined is so at once
        if self._drain_until_ns and (now_ns > self._drain_until_ns or not (
                len(self.requests) or (audit is not None and audit.waiting))):
            self.loop.stop()
        if busy:
            return 0
        self.loop.core_free = len(workers.busy) < SPIN_BELOW
        due_ns = wake_ns if wake_ns is not None else now_ns + FAR_NS
        if audit is not None and audit.due_ns < due_ns:
            due_ns = audit.due_ns
        if api is not None and api.due_ns < due_ns:
            due_ns = api.due_ns
        if workers.reading.size and (read_ns := workers.next_read_ns(now_ns)) is not None and read_ns < due_ns:
            due_ns = read_ns
        return due_ns if due_ns < self._governor_due_ns else self._governor_due_ns

    def _govern(self, now_ns: int) -> None:
        """Samples workers, holds and lets go on. After a failure that names no plugin it looks again a second later."""
        governing = self.governing
        assert governing is not None  # else it is never due
        self._governor_due_ns = now_ns + SECOND_NS
        try:
            self._governor_due_ns = governing.tick(now_ns)
            self._governor_rests = governing.rests
            if not governing.halfway:  # as rarely as before, so that a spare does not compete with a cold call
                self.workers.refill(now_ns)
        except Exception as error:
            self.guard.failed("governing", error)

    def _upkeep(self, now_ns: int) -> None:
        self.guard.upkeep(now_ns)
        self.workers.upkeep(now_ns)
        self.logs.upkeep(now_ns)
        metrics = self.metrics
        metrics.upkeep(now_ns)
        metrics.set("host_connections", (), float(len(self.hosts.peers)))
        for state, count in self.pool.worker_states().items():
            metrics.set("workers", (state,), float(count))
        self._heap.upkeep(now_ns, self.requests.taken, len(self.requests))

    def _measure(self, now_ns: int) -> None:
        """Sets the gauges of some plugins, in turn: with ten thousand of them all at once would be felt."""
        metrics, gauge = self.metrics, self.pool.gauge
        for _ in range(min(MEASURED_AT_ONCE, -(-len(self._plugins) // MEASURE_ROUNDS))):
            if not self._unmeasured:
                self._unmeasured = list(self._plugins)
            plugin = self._unmeasured.pop()
            try:
                found = gauge(plugin, now_ns)
                if found is None or plugin not in self._plugins:
                    continue
                metrics.set("queued", (plugin,), float(found[0]))
                metrics.set("in_flight", (plugin,), float(found[1]))
                if self._plugins[plugin] != found[2]:
                    self._set_breaker(plugin, found[2])
            except Exception as error:
                self.guard.failed("gauges", error, plugin)

    def _set_breaker(self, plugin: str, state: str) -> None:
        self._plugins[plugin] = state
        for name in BREAKER_STATES:
            self.metrics.set("breaker_state", (plugin, name), float(name == state))

    def _refuse_work(self) -> None:
        """The ledger takes no record: what has not begun would run without one."""
        self.step(ev.WorkRefused("AUDIT_UNAVAILABLE", "the audit ledger cannot take a record; nothing was run"),
                  time.monotonic_ns())

    def _admit_work(self) -> None:
        self.step(ev.WorkAdmitted(), time.monotonic_ns())

    # ------------------------------------------------------------------ the end
    @property
    def drain_until_ns(self) -> int:
        """When the drain ends at the latest (CLOCK_MONOTONIC); 0 where none was asked for."""
        return self._drain_until_ns

    @property
    def draining(self) -> bool:
        """True while no new work is taken: for good, or until an operator undrains the daemon."""
        return bool(self.requests.draining)

    @property
    def ending(self) -> bool:
        """True once the daemon is on its way out."""
        return bool(self._drain_until_ns)

    def drain(self, seconds: float) -> None:
        """No new work; ``run`` returns when all is answered, after ``seconds`` at the latest. A second call may only
        shorten it."""
        now_ns = time.monotonic_ns()
        if self._drain_until_ns and now_ns + int(seconds * 1000) * MS_NS >= self._drain_until_ns:
            return
        until_ns = now_ns + int(seconds * 1000) * MS_NS
        self.requests.draining = "the daemon is shutting down"
        self.metrics.health["drain"] = "the daemon is shutting down"
        self.metrics.set("draining", (), 1.0)
        self.step(ev.DrainRequested(max(now_ns, until_ns - DRAIN_MARGIN_NS)), now_ns)
        self._drain_until_ns = max(until_ns, now_ns + 2 * DRAIN_MARGIN_NS)

    def set_admission(self, is_open: bool) -> bool:
        """Takes no new requests from now on, or takes them again; what is pending goes on, the calls that a dispatch
        has yet to make included, since they are not the host's. False where the daemon ends."""
        if self._drain_until_ns:
            return False
        self.requests.draining = "" if is_open else DRAINED
        self.metrics.health["drain"] = self.requests.draining
        self.metrics.set("draining", (), float(not is_open))
        return True

    def run(self) -> None:
        """Serves until drained. Blocks."""
        self._heap.settle(time.monotonic_ns())
        self.loop.run(self.turn)
