"""Administrative operations that the supervisor answers from memory: the daemon itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from apex_exec.core.plugin import PluginSpec
from apex_exec.daemon import operations
from apex_exec.daemon.supervisor import Supervisor


class LoopOperations:
    """``handlers`` by operation. ``facts`` are what the daemon says of itself in ``daemon.status``."""

    def __init__(self, supervisor: Supervisor, reload: Callable[[], dict[str, Any]], drain: Callable[[], None],
                 facts: dict[str, Any]) -> None:
        self._supervisor = supervisor
        self._reload = reload
        self._drain = drain
        self._facts = facts
        self._started_ns = time.monotonic_ns()
        self.handlers: dict[str, operations.Handler] = {
            "ops": lambda _, uid: operations.listing(),
            "daemon.status": lambda _, uid: self.status(),
            "daemon.reload": lambda _, uid: self._reload(),
            "daemon.drain": self._start_drain,
        }

    def status(self) -> dict[str, Any]:
        """The daemon as it is now."""
        supervisor, now_ns = self._supervisor, time.monotonic_ns()
        pids: dict[str, list[int]] = {}
        for _, plugin, pid in supervisor.workers.living():
            pids.setdefault(plugin, []).append(pid)
        plugins = []
        for plugin, queued, in_flight, worker, breaker in supervisor.pool.gauges(now_ns):
            spec = supervisor.pool.spec(plugin)
            assert spec is not None
            memory_mb, throttled_ns = supervisor.workers.usage_of(plugin)
            plugins.append({
                **_short(spec), "queued": queued, "inFlight": in_flight, "worker": worker, "breaker": breaker,
                "pids": pids.get(plugin, []), "memoryMb": memory_mb, "throttledMs": throttled_ns / 1e6,
                **supervisor.metrics.tally(plugin, now_ns)})
        return {
            **self._facts, "uptimeSeconds": (now_ns - self._started_ns) / 1e9, "draining": supervisor.draining,
            "connections": len(supervisor.hosts.peers), "pending": len(supervisor.requests),
            "health": {name: reason for name, reason in supervisor.metrics.health.items() if reason},
            "zygotePid": supervisor.workers.zygote.pid,
            "spares": {"ready": len(supervisor.workers.spares),
                       "pids": [link.pid for link in supervisor.workers.spares.all() if link.pid]},
            "layers": [{"layer": r.layer, "state": r.state, "detail": r.detail} for r in supervisor.workers.layers],
            "plugins": plugins}

    def _start_drain(self, _: Any, uid: int) -> dict[str, Any]:
        self._drain()
        return {"draining": True}


def _short(spec: PluginSpec) -> dict[str, Any]:
    return {"id": spec.id, "version": spec.version, "hooks": list(spec.hooks), "state": spec.state,
            "reason": spec.reason}
