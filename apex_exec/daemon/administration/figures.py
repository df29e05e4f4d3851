"""What the supervisor knows of itself and its plugins at this moment, as data for people: `status`, `top`, the console.

Everything is answered from memory, and each answer has a bound: a page of plugins has at most ``PAGE_MAX`` rows, and an
overview ranks only plugins that have a worker or a failure, of which there are at most as many as workers.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import msgspec

from apex_exec.core.plugin import PluginSpec
from apex_exec.daemon.administration.figures_arguments import PAGE_MAX, FindArgs, LiveArgs
from apex_exec.daemon.supervisor import Supervisor
from apex_exec.errors import Code, Refusal
from apex_exec.executor.processes.runtimes import PYTHON
from apex_exec.observe.metrics import LATENCY_SECONDS
from apex_exec.sandbox.probe import advice
from apex_exec.sandbox.walls import STOPS

HURTING = 5
WINDOW_SECONDS = 5.0
"""CPU and refusals are rates since the last look that is at least this old: shorter ones jump about."""
WINDOW_SECONDS_MAX = 120.0
"""An older look says nothing about now: rates are then averages since the daemon's start."""
Gauges = tuple[str, int, int, str, str]
"""What ``Pool.gauges`` says of one plugin: id, queued, in flight, worker, breaker"""
Look = dict[str, tuple[float, float]]
"""plugin -> (CPU seconds, refusals) at one moment"""


class Figures:
    """``facts`` are what never changes while the daemon runs. ``min_level()`` is the configured level now,
    ``source(plugin)`` where a plugin comes from; ``extras`` says which extras are installed."""

    def __init__(self, supervisor: Supervisor, facts: Mapping[str, Any], min_level: Callable[[], str],
                 source: Callable[[str], str | None], extras: Mapping[str, bool]) -> None:
        self._supervisor = supervisor
        self._facts = dict(facts)
        self._min_level = min_level
        self._source = source
        self._extras = dict(extras)
        self._started_ns = time.monotonic_ns()
        self._past: tuple[int, Look] = (self._started_ns, {})
        self._latest: tuple[int, Look] = (self._started_ns, {})

    # ------------------------------------------------------------------ the daemon
    def general(self, now_ns: int) -> dict[str, Any]:
        """The daemon without its plugins."""
        supervisor = self._supervisor
        return {
            **self._facts, "uptimeSeconds": (now_ns - self._started_ns) / 1e9, "draining": supervisor.draining,
            "ending": supervisor.ending, "connections": len(supervisor.peers), "pending": len(supervisor.requests),
            "health": {name: reason for name, reason in supervisor.metrics.health.items() if reason}}

    def status(self) -> dict[str, Any]:
        """The daemon as it is now, with every plugin."""
        supervisor, now_ns = self._supervisor, time.monotonic_ns()
        warm = supervisor.workers.forks.warm
        pids = self._pids()
        return {
            **self.general(now_ns),
            "zygotePid": warm[PYTHON.name].keeper.pid,
            "spares": {"ready": sum(len(pool) for pool in warm.values()),
                       "pids": [link.pid for pool in warm.values() for link in pool.all() if link.pid]},
            "layers": self._layers(),
            "plugins": [self._row(gauges, pids, now_ns) for gauges in supervisor.pool.gauges(now_ns)]}

    def overview(self) -> dict[str, Any]:
        """The daemon in a few figures, and for each way to hurt the plugins that do so most, worst first."""
        supervisor, now_ns = self._supervisor, time.monotonic_ns()
        pids, metrics = self._pids(), supervisor.metrics
        states, queued, in_flight, paused = supervisor.pool.summary(now_ns)
        active = [self._row(gauges, pids, now_ns) for gauges in supervisor.pool.gauges(
            now_ns, {*pids, *paused, *metrics.failing})]
        seconds = self._add_rates(active, now_ns)
        return {
            **self.general(now_ns), "states": states, "plugins": sum(states.values()), "paused": len(paused),
            "queued": queued, "inFlight": in_flight, "workers": sum(map(len, pids.values())), **metrics.totals(),
            "minLevel": self._min_level(),
            "durations": {"seconds": list(LATENCY_SECONDS), "counts": metrics.durations()},
            "windowSeconds": seconds,
            "hurting": {by: [row for row in heapq.nlargest(HURTING, active, key=key) if key(row) > 0]
                        for by, key in MEASURES.items()}}

    def doctor(self) -> dict[str, Any]:
        """The layers as the latest worker reported them; none before the first worker."""
        facts = self._facts
        reports = self._supervisor.workers.protocol.layers
        return {"isolation": facts["isolation"], "minLevel": self._min_level(), "waived": facts["waived"],
                "layers": [{"layer": report.layer, "state": report.state, "detail": report.detail,
                            "stops": STOPS.get(report.layer, ""),
                            "change": advice(report) if report.state != "waived" else "take it out of sandbox.waive"}
                           for report in reports],
                "extras": self._extras}

    # ------------------------------------------------------------------ plugins
    def find(self, args: FindArgs) -> dict[str, Any]:
        """One page of the plugins in the order asked for, and how many there are in all. Raises Refusal."""
        if args.limit < 1 or args.limit > PAGE_MAX or args.offset < 0:
            raise Refusal("bad_page", f"`limit` must be 1 to {PAGE_MAX}, and `offset` 0 or greater",
                          code=Code.INVALID_INPUT, hint="ask for the next page by `offset`")
        now_ns, words, pool = time.monotonic_ns(), args.search.strip().lower(), self._supervisor.pool
        pids = self._pids()
        found = [plugin for plugin in self._in_state(args.state, pids, now_ns) if words in plugin]
        found.sort(key=None if args.sort == "id" else self._order(args.sort))
        page = pool.gauges(now_ns, found[args.offset : args.offset + args.limit])
        return {"total": len(found), "offset": args.offset, "plugins": [self._row(row, pids, now_ns) for row in page]}

    def live(self, args: LiveArgs) -> dict[str, Any]:
        """One plugin now. Raises Refusal if the supervisor has none of that id."""
        now_ns, pool = time.monotonic_ns(), self._supervisor.pool
        found = pool.gauges(now_ns, [args.id])
        if not found:
            raise Refusal("plugin_not_found", f"there is no plugin {args.id[:50]!a}", code=Code.NOT_FOUND,
                          hint="`apex-exec plugin list` shows the plugins that exist")
        pids, spec = self._pids(), self._spec(args.id)
        ages = self._supervisor.workers.ages(args.id, now_ns)
        trial = pool.trial(args.id)
        return {**self._row(found[0], pids, now_ns), "ages": ages,
                "trial": trial and {"version": trial[0], "worker": trial[1]},
                "limits": msgspec.structs.asdict(spec.limits),
                "network": self._supervisor.metrics.get("rate_limited_total", (args.id, "network"))}

    def _in_state(self, state: str, pids: Mapping[str, list[int]], now_ns: int) -> Iterable[str]:
        """The ids of the plugins that a page is narrowed to."""
        pool, metrics = self._supervisor.pool, self._supervisor.metrics
        if state == "failing":
            return [plugin for plugin in metrics.failing if plugin in pool.slots]
        if state == "breaker":
            return pool.summary(now_ns)[3]
        if state == "working":
            return [plugin for plugin in pids if plugin in pool.slots]
        return [plugin for plugin, slot in pool.slots.items() if not state or slot.spec.state == state]

    def _order(self, by: Literal["calls", "failures", "cpu", "memory"]) -> Callable[[str], tuple[float, str]]:
        metrics, accounts = self._supervisor.metrics, self._supervisor.workers.accounts

        def key(plugin: str) -> tuple[float, str]:
            value = (accounts.usage_of(plugin)[0] if by == "memory" else
                     metrics.get("worker_cpu_seconds_total", (plugin,)) if by == "cpu" else
                     metrics.count(plugin, by))
            return -value, plugin

        return key

    def _row(self, gauges: Gauges, pids: Mapping[str, list[int]], now_ns: int) -> dict[str, Any]:
        plugin, queued, in_flight, worker, breaker = gauges
        supervisor, spec = self._supervisor, self._spec(plugin)
        memory_mb, throttled_ns = supervisor.workers.accounts.usage_of(plugin)
        return {
            "id": plugin, "version": spec.version, "hooks": list(spec.hooks), "state": spec.state,
            "reason": spec.reason, "source": self._source(plugin), "queued": queued, "inFlight": in_flight,
            "concurrency": spec.limits.concurrency, "worker": worker, "breaker": breaker,
            "pausedUsers": supervisor.pool.paused_users(plugin, now_ns), "pids": pids.get(plugin, []),
            "memoryMb": memory_mb, "throttledMs": throttled_ns / 1e6, **supervisor.metrics.tally(plugin, now_ns)}

    def _add_rates(self, rows: Iterable[dict[str, Any]], now_ns: int) -> float:
        """Adds ``cpuPercent`` and ``refusals`` to each row, since a look that is old enough; how old it was, in
        seconds."""
        get = self._supervisor.metrics.get
        now: Look = {}
        if now_ns - self._latest[0] >= WINDOW_SECONDS * 1e9:
            self._past = self._latest
        if now_ns - self._past[0] > WINDOW_SECONDS_MAX * 1e9:
            self._past = (self._started_ns, {})
        past_ns, past = self._past
        seconds = max(1e-3, (now_ns - past_ns) / 1e9)
        for row in rows:
            plugin = row["id"]
            cpu, refusals = now[plugin] = row["cpuSeconds"], get("rate_limited_total", (plugin, "network"))
            cpu_before, refused_before = past.get(plugin, (0.0, 0.0))
            row["cpuPercent"] = 100 * max(0.0, cpu - cpu_before) / seconds
            row["refusals"] = max(0.0, refusals - refused_before)
        if now_ns - self._latest[0] >= WINDOW_SECONDS * 1e9:
            self._latest = (now_ns, now)
        return seconds

    def _layers(self) -> list[dict[str, Any]]:
        return [{"layer": report.layer, "state": report.state, "detail": report.detail}
                for report in self._supervisor.workers.protocol.layers]

    def _pids(self) -> dict[str, list[int]]:
        pids: dict[str, list[int]] = {}
        for _, plugin, pid in self._supervisor.workers.living():
            pids.setdefault(plugin, []).append(pid)
        return pids

    def _spec(self, plugin: str) -> PluginSpec:
        spec = self._supervisor.pool.spec(plugin)
        assert spec is not None  # the pool has just named it
        return spec


MEASURES: dict[str, Callable[[dict[str, Any]], float]] = {
    "failures": lambda row: row["failedRecently"], "time": lambda row: row["p99Ms"] or 0.0,
    "cpu": lambda row: row["cpuPercent"], "memory": lambda row: row["memoryMb"],
    "refusals": lambda row: row["refusals"]}
"""The ways to hurt, each with its figure: the worst have the highest."""
