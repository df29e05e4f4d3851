"""Whether this machine lets workers start: what `/readyz` and the daemon's log say about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apex_exec.core.limits import MS_NS

if TYPE_CHECKING:
    from apex_exec.observe.logs import Logs
    from apex_exec.observe.metrics import Metrics

UNSTARTED_NS = 10_000 * MS_NS
"""How long `/readyz` says no after a start that the machine has refused, unless another worker starts meanwhile."""


class StartHealth:
    """Is notified of starts of workers: of those that succeed, and of those that failed because of the machine and not
    because of a plugin."""

    def __init__(self, metrics: Metrics, logs: Logs) -> None:
        self._metrics = metrics
        self._logs = logs
        self._logged_ns = self._until_ns = 0

    def bad(self, why: str, now_ns: int) -> None:
        """A worker could not start. The log says each reason once in UNSTARTED_NS."""
        if now_ns - self._logged_ns > UNSTARTED_NS or why != self._metrics.health.get("workers"):
            self._logs.log("error", why)
            self._logged_ns = now_ns
        self._metrics.health["workers"] = why
        self._until_ns = now_ns + UNSTARTED_NS

    def good(self) -> None:
        """A worker has started."""
        self._metrics.health["workers"] = ""

    def upkeep(self, now_ns: int) -> None:
        """Forgets an old failure. Perhaps no worker was started since, and none would be while `/readyz` says no."""
        if now_ns > self._until_ns:
            self._metrics.health["workers"] = ""
