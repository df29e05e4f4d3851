"""What the daemon as a whole does beside its traffic: which plugins are served, whether work is taken, its upkeep."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from apex_exec.core import events as ev
from apex_exec.core.limits import MS_NS
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler.pool import Pool
from apex_exec.daemon.core_driver import CoreDriver
from apex_exec.daemon.gc_schedule import GcSchedule
from apex_exec.daemon.plugin_gauges import PluginGauges

if TYPE_CHECKING:
    from apex_exec.daemon.hosts.connections import Connections
    from apex_exec.daemon.hosts.requests import Requests
    from apex_exec.daemon.ports import Trail
    from apex_exec.executor.guard import Guard
    from apex_exec.executor.local import LocalExecutor
    from apex_exec.observe.logs import Logs
    from apex_exec.observe.metrics import Metrics

DRAIN_MARGIN_NS = 50 * MS_NS
"""What waits is answered SHUTTING_DOWN this long before the drain ends: the answers still have to leave."""
DRAINED = "an operator has drained the daemon: it takes no new calls until it is undrained"


class Supervisor:
    """``forget`` are called with the id of each plugin that is served no longer, for the parts that keep anything."""

    def __init__(self, *, pool: Pool, driver: CoreDriver, guard: Guard, metrics: Metrics, logs: Logs,
                 workers: LocalExecutor, peers: Connections, requests: Requests, audit: Trail, gauges: PluginGauges,
                 forget: Sequence[Callable[[str], None]]) -> None:
        self.pool = pool
        self.metrics = metrics
        self.logs = logs
        self.workers = workers
        self.peers = peers
        self.requests = requests
        self.step = driver.step
        self._guard = guard
        self._audit = audit
        self._gauges = gauges
        self._forget = tuple(forget)
        self._gc = GcSchedule()
        self.drain_until_ns = 0
        """When the drain ends at the latest (CLOCK_MONOTONIC); 0 if none was asked for."""
        self.leave: Callable[[], None] = lambda: None
        self.linger_ns = 0
        """In a fleet: what tells the other nodes that this one leaves, and how long it still answers those that have
        not heard of it."""
        self._linger_until_ns = 0

    # ------------------------------------------------------------------ plugins
    def set_plugin(self, spec: PluginSpec) -> None:
        """Serves ``spec`` from now on."""
        self.workers.overhead.tune(spec, time.monotonic_ns())
        self.step(ev.PluginSet(spec), time.monotonic_ns())
        self.workers.grant(spec)
        self._gauges.add(spec.id)

    def remove_plugin(self, plugin: str) -> None:
        """Serves ``plugin`` no longer; its series go."""
        self.step(ev.PluginRemoved(plugin), time.monotonic_ns())
        self._gauges.forget(plugin)
        self.workers.overhead.forget(plugin)
        self.logs.forget_plugin(plugin)
        for forget in self._forget:
            forget(plugin)

    # ------------------------------------------------------------------ about once a second
    def upkeep(self, now_ns: int) -> None:
        """Forgets what is over, sets the daemon's own gauges, walks the heap if it is time for it."""
        self._guard.upkeep(now_ns)
        self.workers.upkeep(now_ns)
        self.logs.upkeep(now_ns)
        for plugin, spent_ns in self.logs.spent_ns().items():
            self.workers.overhead.count(plugin, "log", spent_ns)
            self.workers.overhead.charge(plugin, spent_ns, now_ns)
        metrics = self.metrics
        metrics.upkeep(now_ns)
        metrics.set("host_connections", (), float(len(self.peers)))
        for state, count in self.pool.worker_states().items():
            metrics.set("workers", (state,), float(count))
        self._gc.upkeep(now_ns, self.requests.taken, len(self.requests))

    def settle(self) -> None:
        """All parts are made: what there is now outlives every call, and the garbage collector need not walk it.
        Blocks for some hundredths of a second."""
        self._gc.settle(time.monotonic_ns())

    # ------------------------------------------------------------------ admission
    @property
    def draining(self) -> bool:
        """True while no new work is taken: for good, or until an operator undrains the daemon."""
        return bool(self.requests.draining)

    @property
    def ending(self) -> bool:
        """True once the daemon is on its way out."""
        return bool(self.drain_until_ns)

    def drain(self, seconds: float) -> None:
        """Takes no new work; the daemon ends when all is answered, after ``seconds`` at the latest. A second call may
        only shorten it."""
        now_ns = time.monotonic_ns()
        until_ns = now_ns + int(seconds * 1000) * MS_NS
        if self.drain_until_ns and until_ns >= self.drain_until_ns:
            return
        self.requests.draining = "the daemon is shutting down"
        self.metrics.health["drain"] = "the daemon is shutting down"
        self.metrics.set("draining", (), 1.0)
        self.step(ev.DrainRequested(max(now_ns, until_ns - DRAIN_MARGIN_NS)), now_ns)
        self.drain_until_ns = max(until_ns, now_ns + 2 * DRAIN_MARGIN_NS)
        self._linger_until_ns = now_ns + self.linger_ns
        self.leave()

    def drained(self, now_ns: int) -> bool:
        """Whether the drain is over: all is answered, or its time is."""
        return now_ns > self.drain_until_ns or (
            now_ns >= self._linger_until_ns and not (len(self.requests) or self._audit.waiting))

    def set_admission(self, is_open: bool) -> bool:
        """Takes no new requests from now on, or takes them again; what is pending goes on, the calls that a dispatch
        has yet to make included, since they are not the host's. False if the daemon is on its way out."""
        if self.drain_until_ns:
            return False
        self.requests.draining = "" if is_open else DRAINED
        self.metrics.health["drain"] = self.requests.draining
        self.metrics.set("draining", (), float(not is_open))
        return True
