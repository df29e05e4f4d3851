"""Makes the fleet's parts of a daemon, between the service's own: only a daemon that is in a fleet imports this."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from apex_exec.core import events as ev
from apex_exec.daemon.fleet.fleet import Fleet
from apex_exec.daemon.fleet.forwarding import FleetRequests
from apex_exec.daemon.fleet.many_peers import ManyPeers
from apex_exec.daemon.fleet.node_socket import NodeEndpoint, NodeSocket
from apex_exec.daemon.hosts.connections import Peer
from apex_exec.errors import ConfigError

if TYPE_CHECKING:
    from apex_exec.config import Settings
    from apex_exec.core.scheduler.pool import Pool
    from apex_exec.daemon.api_calls import ApiCalls
    from apex_exec.daemon.core_driver import CoreDriver
    from apex_exec.daemon.hosts.host_socket import HostSocket
    from apex_exec.daemon.hosts.pending_table import PendingTable
    from apex_exec.executor.local import LocalExecutor
    from apex_exec.executor.loop import Loop
    from apex_exec.observe.logs import Logs
    from apex_exec.observe.metrics import Metrics


class FleetParts(NamedTuple):
    """What a daemon in a fleet has besides."""

    fleet: Fleet
    endpoint: NodeEndpoint
    nodes: NodeSocket
    peers: ManyPeers

    def bind(self, settings: Settings) -> None:
        """Serves the other nodes. Raises ConfigError."""
        try:
            self.nodes.peers.bind(settings.fleet.endpoint)
        except OSError as error:
            raise ConfigError(f"fleet.endpoint: cannot listen on {settings.fleet.endpoint}: {error.strerror}; "
                              "choose another address") from None

    def close(self) -> None:
        """Ends the links and the connections of nodes."""
        self.fleet.close()
        self.endpoint.close()


def make_requests(pool: Pool, settings: Settings, *args: Any, **kwargs: Any) -> FleetRequests:
    """``Requests`` that forwards."""
    usual_ms = settings.limits.timeout_ms

    def timeout_ms(plugin: str) -> int:
        spec = pool.spec(plugin)
        return spec.limits.timeout_ms if spec is not None else usual_ms

    return FleetRequests(pool, *args, in_flight=settings.pool.in_flight, timeout_ms=timeout_ms, **kwargs)


def join(settings: Settings, requests: FleetRequests, hosts: HostSocket, *, loop: Loop, pool: Pool, table: PendingTable,
         api: ApiCalls, driver: CoreDriver, workers: LocalExecutor, metrics: Metrics, logs: Logs) -> FleetParts:
    """The fleet of this daemon, which has joined nothing yet. Raises ConfigError."""
    def warm(plugin: str) -> None:
        driver.step(ev.WorkerWanted(plugin), time.monotonic_ns())

    def came_from(call: int) -> Peer | None:
        pending = table.calls.get(call)
        return pending.peer if pending is not None and pending.peer.node else None

    endpoint = NodeEndpoint(settings)
    fleet = requests.fleet = Fleet(
        settings, loop, endpoint, pool=pool, metrics=metrics, api=api, warm=warm,
        running=lambda: list(dict.fromkeys(plugin for _, plugin, _ in workers.living())))
    fleet.requests = requests
    api.came_from = came_from
    nodes = NodeSocket(loop, endpoint, requests, bytes_max=settings.host.max_message_bytes, metrics=metrics, logs=logs,
                       said=fleet.says)
    return FleetParts(fleet, endpoint, nodes, ManyPeers((hosts.peers, nodes.peers), fleet.receive))


