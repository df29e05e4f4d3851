"""Parts that do nothing, for benchmarks and tests that run the loop without ledger, gateway, monitor or checks.

A daemon always has the real ones. These make the absence a part like any other, so that no code asks whether it is
there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from apex_exec.core.deadline import NEVER_NS
from apex_exec.core.plugin import PluginSpec
from apex_exec.daemon.duties import Duty
from apex_exec.daemon.hosts.connections import Connections, Peer
from apex_exec.errors import Code, WireError
from apex_exec.executor.links.worker_link import WorkerLink
from apex_exec.executor.links.worker_protocol import NO_GATEWAY
from apex_exec.ledger.records import AuditRecord
from apex_exec.wire import hooks
from apex_exec.wire import messages as msg
from workers import wire as inner


def _nothing_due(_now_ns: int) -> bool:
    return False


class NoTrail:
    """Admits everything and records nothing."""

    strict = False
    fine_until_ns = NEVER_NS
    waiting = 0
    reason = ""
    has_room = True

    def __init__(self) -> None:
        self.duty = Duty("audit", NEVER_NS, _nothing_due)

    def admits(self, now_ns: int) -> bool:
        """Always."""
        return True

    def is_stalling(self, now_ns: int) -> bool:
        """Never."""
        return False

    def record(self, record: AuditRecord) -> int:
        """Drops it."""
        return 0

    def event(self, event_type: str, user_id: str, resource: str, action: str, result: str,
              metadata: dict[str, Any] | None = None) -> int:
        """Drops it."""
        return 0

    def execution(self, user_id: str, plugin: str, hook: str, code: str, run_ns: int, memory_mb: float,
                  traceparent: str = "", cpu_ns: int = 0, host_ns: int = 0) -> int:
        """Drops it."""
        return 0

    def durable(self, index: int) -> bool:
        """Always: there is nothing to wait for."""
        return True

    def when_durable(self, index: int, then: Callable[[], None], never: Callable[[], None]) -> None:
        """At once."""
        then()

    def when_committed(self, index: int, then: Callable[[], None]) -> None:
        """At once."""
        then()


class NoApiCalls:
    """Refuses every API call, and every host that would provide methods."""

    components: frozenset[str] = frozenset()
    at_gateway: Mapping[int, object] = {}

    def handle(self, link: WorkerLink, message: inner.ApiCall, now_ns: int) -> None:
        """Leaves it without an answer: no plugin that makes API calls is served without this part."""

    def effects(self, link: WorkerLink, message: inner.Effects, now_ns: int) -> None:
        """Refuses them."""
        link.refused = {message.seq: NO_GATEWAY}

    def give_up(self, link: WorkerLink, message: inner.ApiCancel, now_ns: int) -> None:
        """There is no call to end."""

    def refused(self, worker: int, seq: int, code: str) -> bool:
        """True of the one thing that a worker without an API can be refused."""
        return code == "permission_denied"

    def invocation_ended(self, call: int) -> list[Any]:
        """It had no effects."""
        return []

    def provide(self, peer: Peer, methods: list[str]) -> tuple[list[str], list[str]]:
        """Nothing can be provided."""
        raise WireError(Code.NOT_PROVIDED, "this daemon runs without a gateway, so host methods cannot be provided")

    def host_reply(self, peer: Peer, reply: msg.HostReply) -> None:
        """Nobody was asked."""

    def peer_gone(self, peer: Peer) -> None:
        """It provided nothing."""


class NoAdministration:
    """Serves nobody: nothing has bound its endpoint."""

    def __init__(self, peers: Connections) -> None:
        self.peers = peers

    def run(self, now_ns: int) -> bool:
        """Nobody asks."""
        return False


class NoMonitor:
    """Looks at no worker, and holds none back."""

    busy_ns = NEVER_NS
    rests = False
    halfway = False

    def worker_started(self, worker: int, spec: PluginSpec, pid: int, pidfd: int) -> None:
        """Not looked at."""

    def worker_gone(self, worker: int, exited: inner.Exited | None) -> tuple[str, str] | None:
        """No evidence."""
        return None

    def charge_host(self, plugin: str, cost_ns: int, now_ns: int) -> None:
        """Not charged."""

    def tick(self, now_ns: int) -> int:
        """Never again."""
        return NEVER_NS

    def usage(self, worker: int, call: int = 0) -> tuple[float, int]:
        """Unknown."""
        return 0.0, 0

    def held_ns(self, worker: int, run_ns: int) -> int:
        """Unknown."""
        return 0


class NoPlaces:
    """Leaves every traceback as it is."""

    def submit(self, spec: PluginSpec, text: str, located: Callable[[str, int], None], now_ns: int) -> bool:
        """Finds nothing."""
        return False


class NoChecks:
    """Lets no large result through unchecked."""

    def submit(self, plugin: str, hook: str, result: bytes, rendering: hooks.Rendering,
               checked: Callable[[str, str, dict[str, Any], int], None], now_ns: int) -> None:
        """Answers at once that nobody checks it."""
        checked(Code.INTERNAL, "large results are not checked here", {}, 0)
