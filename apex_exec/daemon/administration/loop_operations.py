"""Administrative operations that the supervisor carries out or answers from memory: the daemon itself."""

from __future__ import annotations

import logging
import time
from typing import Any

from apex_exec.core import events as ev
from apex_exec.daemon.administration import operations
from apex_exec.daemon.administration.figures import Figures
from apex_exec.daemon.orders import Orders
from apex_exec.daemon.supervisor import Supervisor
from apex_exec.errors import Code, Refusal

log = logging.getLogger("apex_exec")


class LoopOperations:
    """``handlers`` by operation. ``figures`` answers what only looks."""

    def __init__(self, supervisor: Supervisor, orders: Orders, figures: Figures) -> None:
        self._supervisor = supervisor
        self._orders = orders
        self.handlers: dict[str, operations.Handler] = {
            "ops": lambda _, uid: operations.listing(),
            "daemon.status": lambda _, uid: figures.status(),
            "daemon.overview": lambda _, uid: figures.overview(),
            "daemon.doctor": lambda _, uid: figures.doctor(),
            "plugin.find": lambda args, uid: figures.find(args),
            "plugin.live": lambda args, uid: figures.live(args),
            "daemon.reload": lambda _, uid: self._orders.reload(),
            "daemon.drain": self._start_drain,
            "daemon.undrain": self._undrain,
            "plugin.restart": self._restart,
            "breaker.reset": self._reset_breaker,
        }

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
