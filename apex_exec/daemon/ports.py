"""What the loop asks of the parts for which others can stand in (``absent.py``). Nothing here blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from apex_exec.core.plugin import PluginSpec
from apex_exec.daemon.hosts.connections import Peer
from apex_exec.executor import ports
from apex_exec.ledger.records import AuditRecord
from apex_exec.wire import hooks
from apex_exec.wire import messages as msg

if TYPE_CHECKING:
    from apex_exec.daemon.duties import Duty
    from apex_exec.daemon.hosts.connections import Connections


class ApiCalls(ports.ApiCalls, Protocol):
    """API calls of plugins, and the hosts that serve some of them. ``at_gateway`` holds the calls that the gateway is
    at work on."""

    at_gateway: Mapping[int, object]

    def provide(self, peer: Peer, methods: list[str]) -> tuple[list[str], list[str]]:
        """``peer`` offers to serve host methods; those it serves now, and those it stands by for. Raises WireError."""

    def host_reply(self, peer: Peer, reply: msg.HostReply) -> None:
        """``peer`` answers a hostCall, or says it does."""

    def peer_gone(self, peer: Peer) -> None:
        """The connection ended: it provides nothing any longer, and owes no answer."""


class Administering(Protocol):
    """What serves the admin endpoint, whose connections are ``peers``."""

    @property
    def peers(self) -> Connections:
        """The connections of operators."""

    def run(self, now_ns: int) -> bool:
        """Serves a bounded part of what has come; True if there is more."""


class Trail(Protocol):
    """Everything that must be on record goes through here (``sides/audit_trail.py`` says more of each)."""

    strict: bool
    fine_until_ns: int

    @property
    def duty(self) -> Duty:
        """Hands over what has gathered."""

    @property
    def reason(self) -> str:
        """Why nothing is admitted; "" if it is."""

    @property
    def waiting(self) -> int:
        """How many replies wait for their records."""

    def admits(self, now_ns: int) -> bool:
        """Whether new work would have its record."""

    @property
    def has_room(self) -> bool:
        """Whether a record can be taken now, however late its commit may be."""

    def is_stalling(self, now_ns: int) -> bool:
        """Whether requests are to be left unread for now."""

    def record(self, record: AuditRecord) -> int:
        """Takes one record; its index."""

    def event(self, event_type: str, user_id: str, resource: str, action: str, result: str,
              metadata: dict[str, Any] | None = None) -> int:
        """Records something that happens now; its index."""

    def execution(self, user_id: str, plugin: str, hook: str, code: str, run_ns: int, memory_mb: float,
                  traceparent: str = "", cpu_ns: int = 0, host_ns: int = 0) -> int:
        """Records the verdict of one admitted invocation; its index."""

    def durable(self, index: int) -> bool:
        """Whether the reply that follows record ``index`` may go now."""

    def when_durable(self, index: int, then: Callable[[], None], never: Callable[[], None]) -> None:
        """Calls ``then`` once it may go, ``never`` if the daemon ends before."""

    def when_committed(self, index: int, then: Callable[[], None]) -> None:
        """Calls ``then`` once record ``index`` stands in the database."""


class Places(Protocol):
    """Finds the places of tracebacks in the author's source."""

    def submit(self, spec: PluginSpec, text: str, located: Callable[[str, int], None], now_ns: int) -> bool:
        """Has the places of ``text`` found; ``located(text, cpu_ns)`` is called once, then or later. False, without a
        call, if the bundle has no source maps."""


class Checks(Protocol):
    """Checks results that take too long for the loop."""

    def submit(self, plugin: str, hook: str, result: bytes, rendering: hooks.Rendering,
               checked: Callable[[str, str, dict[str, Any], int], None], now_ns: int) -> None:
        """Has ``result`` checked; ``checked(code, message, details, cpu_ns)`` is called once, then or later."""
