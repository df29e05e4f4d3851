"""Administrative operations that the supervisor carries out or answers from memory: the daemon itself."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from apex_exec.core import events as ev
from apex_exec.core.limits import MS_NS
from apex_exec.daemon.administration import operations
from apex_exec.daemon.administration.figures import Figures
from apex_exec.daemon.orders import Orders
from apex_exec.daemon.supervisor import Supervisor
from apex_exec.errors import Code, Refusal

if TYPE_CHECKING:
    from apex_exec.daemon.fleet.fleet import Fleet

log = logging.getLogger("apex_exec")


class LoopOperations:
    """``handlers`` by operation. ``figures`` answers what only looks."""

    def __init__(self, supervisor: Supervisor, orders: Orders, figures: Figures, fleet: Fleet | None = None) -> None:
        self._supervisor = supervisor
        self._orders = orders
        self._fleet = fleet
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
            "fleet.status": self._fleet_status,
            "fleet.owner": self._fleet_owner,
            "fleet.drain": self._fleet_drain,
            "fleet.rebalance": self._fleet_rebalance,
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
            raise Refusal("ending", "the daemon is shutting down, so it accepts no more work", code=Code.CONFLICT,
                          hint="start it again after it has ended")
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

    # ------------------------------------------------------------------ the fleet
    def _in_fleet(self) -> Fleet:
        if self._fleet is None:
            raise Refusal("no_fleet", "this daemon does not belong to a fleet", code=Code.CONFLICT,
                          hint="set fleet.engine to make it a member; see apex_exec/fleet/README.md")
        return self._fleet

    def _fleet_status(self, _: Any, uid: int) -> dict[str, Any]:
        fleet = self._in_fleet()
        return {"node": fleet.name, "engine": fleet.engine, "problem": fleet.problem, "nodes": fleet.nodes()}

    def _fleet_owner(self, args: Any, uid: int) -> dict[str, Any]:
        fleet = self._in_fleet()
        return {"id": args.id, "owner": fleet.owner(args.id), "served": self._supervisor.pool.spec(args.id) is not None,
                "fetchOpensMs": -(-fleet.closed_ns(args.id, time.monotonic_ns()) // MS_NS)
                if fleet.owner(args.id) == fleet.name else None}

    def _fleet_drain(self, args: Any, uid: int) -> dict[str, Any]:
        fleet = self._in_fleet()
        if args.node in ("", fleet.name):
            fleet.order("drain")
        elif not fleet.order_node(args.node, "drain"):
            raise Refusal("node_unreachable", f"there is no link to a node {args.node[:63]!a}", code=Code.NOT_FOUND,
                          hint="`apex-exec fleet nodes` shows the nodes")
        log.info("an operator drained the node %s", args.node[:63] or fleet.name)
        return {"node": args.node or fleet.name, "draining": True}

    def _fleet_rebalance(self, _: Any, uid: int) -> dict[str, Any]:
        fleet = self._in_fleet()
        fleet.order("rebalance")
        reached = [name for name in fleet.links if fleet.order_node(name, "rebalance")]
        log.info("an operator rebalanced the fleet")
        return {"nodes": sorted([fleet.name, *reached])}

    def _pids(self, plugin: str) -> list[int]:
        """The processes of a plugin that is served. Raises Refusal."""
        spec = self._supervisor.pool.spec(plugin)
        if spec is None:
            raise Refusal("plugin_not_found", f"no plugin {plugin[:50]!a} is served", code=Code.NOT_FOUND,
                          hint="`apex-exec status` shows the plugins that are served")
        if spec.state != "enabled":
            raise Refusal("not_enabled", f"{plugin} is {spec.state}{f': {spec.reason}' if spec.reason else ''}",
                          code=Code.CONFLICT, hint=f"`apex-exec plugin show {plugin}` says more")
        return [pid for _, named, pid in self._supervisor.workers.living() if named == plugin]
