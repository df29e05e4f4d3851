"""One plugin as it is served: its version in force, its queue, its breaker, its worker and that worker's successor."""

from __future__ import annotations

from apex_exec.core.breaker import Breaker
from apex_exec.core.deadline import Timed
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.queue import CallQueue
from apex_exec.core.worker import Worker


class Served(Timed):
    """``worker`` gets the calls; ``successor`` is the next generation beside it.

    A successor is *adopted* where its spec is the one in force: it takes over as soon as the link of ``worker`` has
    been answered. Until then it is a candidate, prepared to be judged, and serves nobody but its canary.
    """

    __slots__ = ("breaker", "queue", "removed", "spec", "successor", "worker")

    def __init__(self, spec: PluginSpec, breaker: Breaker) -> None:
        super().__init__()
        self.spec = spec
        self.breaker = breaker
        self.queue = CallQueue()
        self.worker: Worker | None = None
        self.successor: Worker | None = None
        self.removed = False

    def story(self) -> str:
        """One line on where this plugin stands."""
        worker = self.worker.story() if self.worker else "no worker"
        return f"plugin {self.spec.id} {self.spec.version} ({len(self.queue)} queued, {worker})"
