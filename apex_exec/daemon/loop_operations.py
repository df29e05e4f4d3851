"""Administrative operations that the supervisor answers from memory, and registration without a registry."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apex_exec.core.plugin import Limits, PluginSpec
from apex_exec.daemon import operations
from apex_exec.daemon.supervisor import Supervisor
from apex_exec.errors import Code, Refusal
from apex_exec.registry.blobs import BundleSource
from apex_exec.registry.bundle import read_path, unpack


class LoopOperations:
    """``handlers`` by operation. ``facts`` are what the daemon says of itself in ``daemon.status``."""

    def __init__(self, supervisor: Supervisor, source: BundleSource, policy: Callable[[], Limits],
                 reload: Callable[[], dict[str, Any]], drain: Callable[[], None], facts: dict[str, Any]) -> None:
        self._supervisor = supervisor
        self._source = source
        self._policy = policy
        self._reload = reload
        self._drain = drain
        self._facts = facts
        self._started_ns = time.monotonic_ns()
        self.handlers: dict[str, operations.Handler] = {
            "ops": lambda _, uid: operations.listing(),
            "daemon.status": lambda _, uid: self.status(),
            "daemon.reload": lambda _, uid: self._reload(),
            "daemon.drain": self._start_drain,
            "plugin.register": self._register,
            "plugin.list": lambda _, uid: {"plugins": [_short(spec) for spec in supervisor.pool.specs()]},
            "plugin.show": self._show,
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
                **supervisor.metrics.tally(plugin)})
        return {
            **self._facts, "uptimeSeconds": (now_ns - self._started_ns) / 1e9, "draining": supervisor.draining,
            "connections": len(supervisor.hosts.peers), "pending": len(supervisor.requests),
            "health": {name: reason for name, reason in supervisor.metrics.health.items() if reason},
            "zygotePid": supervisor.workers.zygote_pid,
            "layers": [{"layer": r.layer, "state": r.state, "detail": r.detail} for r in supervisor.workers.layers],
            "plugins": plugins}

    def _start_drain(self, _: Any, uid: int) -> dict[str, Any]:
        self._drain()
        return {"draining": True}

    def _register(self, args: operations.RegisterArgs, uid: int) -> dict[str, Any]:
        """Until the registry takes it over: read, check, serve for the daemon's life."""
        if (args.path is None) == (args.bundle is None):
            raise Refusal("path_or_bundle", "give either a path or the bytes of a bundle", code=Code.INVALID_INPUT)
        if args.bundle is not None:
            bundle, _ = unpack(args.bundle)
        else:
            assert args.path is not None
            bundle, _ = read_path(Path(args.path))
        spec = bundle.spec(self._policy())
        known = self._supervisor.pool.spec(spec.id)
        if known is not None and known.digest == spec.digest:
            return _short(known)
        self._source.hold(bundle)
        self._supervisor.set_plugin(spec)
        return _short(spec)

    def _show(self, args: operations.PluginArgs, uid: int) -> dict[str, Any]:
        spec = self._supervisor.pool.spec(args.id)
        if spec is None:
            raise Refusal("plugin_not_found", f"no plugin {args.id[:50]!r} is registered", code=Code.NOT_FOUND)
        limits = spec.limits
        return {
            **_short(spec), "name": spec.name, "author": spec.author, "digest": spec.digest,
            "entrypoint": spec.entrypoint, "permissions": list(spec.permissions), "approved": list(spec.approved),
            "priority": spec.priority, "network": list(spec.network_allow), "tables": list(spec.tables),
            "limits": {"timeoutMs": limits.timeout_ms, "memoryMb": limits.memory_mb,
                       "cpuPercent": limits.cpu_percent, "networkPerMinute": limits.network_per_minute},
            "users": sorted(spec.users) if spec.users is not None else None}


def _short(spec: PluginSpec) -> dict[str, Any]:
    return {"id": spec.id, "version": spec.version, "hooks": list(spec.hooks), "state": spec.state,
            "reason": spec.reason}
