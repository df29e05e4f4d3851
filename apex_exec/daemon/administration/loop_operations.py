"""Administrative operations that the supervisor answers from memory: the daemon itself."""

from __future__ import annotations

import logging
import time
from typing import Any

from apex_exec.core import events as ev
from apex_exec.core.plugin import PluginSpec
from apex_exec.daemon.administration import operations
from apex_exec.daemon.orders import Orders
from apex_exec.daemon.supervisor import Supervisor
from apex_exec.errors import Code, Refusal
from apex_exec.executor.processes.runtimes import PYTHON

log = logging.getLogger("apex_exec")


class LoopOperations:
    """``handlers`` by operation. ``facts`` are what the daemon says of itself in ``daemon.status``."""

    def __init__(self, supervisor: Supervisor, orders: Orders, facts: dict[str, Any]) -> None:
        self._supervisor = supervisor
        self._orders = orders
        self._facts = facts
        self._started_ns = time.monotonic_ns()
        self.handlers: dict[str, operations.Handler] = {
            "ops": lambda _, uid: operations.listing(),
            "daemon.status": lambda _, uid: self.status(),
            "daemon.reload": lambda _, uid: self._orders.reload(),
            "daemon.drain": self._start_drain,
            "daemon.undrain": self._undrain,
            "plugin.restart": self._restart,
            "breaker.reset": self._reset_breaker,
        }

    def status(self) -> dict[str, Any]:
        """The daemon as it is now."""
        supervisor, now_ns = self._supervisor, time.monotonic_ns()
        warm = supervisor.workers.forks.warm
        pids: dict[str, list[int]] = {}
        for _, plugin, pid in supervisor.workers.living():
            pids.setdefault(plugin, []).append(pid)
        plugins = []
        for plugin, queued, in_flight, worker, breaker in supervisor.pool.gauges(now_ns):
            spec = supervisor.pool.spec(plugin)
            assert spec is not None
            memory_mb, throttled_ns = supervisor.workers.accounts.usage_of(plugin)
            plugins.append({
                **_short(spec), "queued": queued, "inFlight": in_flight,
                "concurrency": spec.limits.concurrency, "worker": worker, "breaker": breaker,
                "pausedUsers": supervisor.pool.paused_users(plugin, now_ns),
                "pids": pids.get(plugin, []), "memoryMb": memory_mb, "throttledMs": throttled_ns / 1e6,
                **supervisor.metrics.tally(plugin, now_ns)})
        return {
            **self._facts, "uptimeSeconds": (now_ns - self._started_ns) / 1e9, "draining": supervisor.draining,
            "ending": supervisor.ending,
            "connections": len(supervisor.peers), "pending": len(supervisor.requests),
            "health": {name: reason for name, reason in supervisor.metrics.health.items() if reason},
            "zygotePid": warm[PYTHON.name].keeper.pid,
            "spares": {"ready": sum(len(pool) for pool in warm.values()),
                       "pids": [link.pid for pool in warm.values() for link in pool.all() if link.pid]},
            "layers": [{"layer": r.layer, "state": r.state, "detail": r.detail}
                       for r in supervisor.workers.protocol.layers],
            "plugins": plugins}

    def _start_drain(self, args: Any, uid: int) -> dict[str, Any]:
        if args.stop:
            self._orders.drain()
        else:
            self._admit(False)
        return {"draining": True, "pending": len(self._supervisor.requests)}

    def _undrain(self, _: Any, uid: int) -> dict[str, Any]:
        self._admit(True)
        return {"draining": False, "pending": len(self._supervisor.requests)}

    def _admit(self, is_open: bool) -> None:
        if not self._supervisor.set_admission(is_open):
            raise Refusal("ending", "the daemon is on its way out, and takes no new work again", code=Code.CONFLICT,
                          hint="start it again once it has ended")
        log.info("an operator %s the daemon", "undrained" if is_open else "drained")

    def _restart(self, args: Any, uid: int) -> dict[str, Any]:
        pids = self._pids(args.id)
        self._supervisor.step(ev.RestartRequested(args.id), time.monotonic_ns())
        log.info("an operator restarted plugin %s", args.id)
        return {"id": args.id, "restarted": bool(pids), "pids": pids}

    def _reset_breaker(self, args: Any, uid: int) -> dict[str, Any]:
        self._pids(args.id)
        now_ns = time.monotonic_ns()
        gauge = self._supervisor.pool.gauge(args.id, now_ns)
        assert gauge is not None
        self._supervisor.step(ev.BreakerReset(args.id), now_ns)
        log.info("an operator reset the breaker of plugin %s, which was %s", args.id, gauge[2])
        return {"id": args.id, "was": gauge[2], "breaker": "closed"}

    def _pids(self, plugin: str) -> list[int]:
        """The processes of a plugin that is served. Raises Refusal."""
        spec = self._supervisor.pool.spec(plugin)
        if spec is None:
            raise Refusal("plugin_not_found", f"no plugin {plugin[:50]!a} is served", code=Code.NOT_FOUND,
                          hint="`apex-exec status` shows those there are")
        if spec.state != "enabled":
            raise Refusal("not_enabled", f"{plugin} is {spec.state}{f': {spec.reason}' if spec.reason else ''}",
                          code=Code.CONFLICT, hint=f"see `apex-exec plugin show {plugin}`")
        return [pid for _, named, pid in self._supervisor.workers.living() if named == plugin]


def _short(spec: PluginSpec) -> dict[str, Any]:
    return {"id": spec.id, "version": spec.version, "hooks": list(spec.hooks), "state": spec.state,
            "reason": spec.reason}
