"""One plugin as it is served: its version in force, its queue, its breaker, its worker and that worker's successor."""

from __future__ import annotations

from apex_exec.core.breaker import Breaker
from apex_exec.core.deadline import Timed
from apex_exec.core.invocation import Invocation
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.queue import CallQueue
from apex_exec.core.worker import Worker


class Served(Timed):
    """``worker`` gets the calls; ``successor`` is the next generation beside it.

    A successor is *adopted* where its spec is the one in force: it takes over as soon as the link of ``worker`` has
    been answered. Until then it is a candidate, prepared to be judged, and serves nobody but its canary.
    """

    __slots__ = ("breaker", "mean_run_ns", "queue", "removed", "spec", "successor", "worker")

    def __init__(self, spec: PluginSpec, breaker: Breaker) -> None:
        super().__init__()
        self.spec = spec
        self.breaker = breaker
        self.queue = CallQueue()
        self.worker: Worker | None = None
        self.successor: Worker | None = None
        self.removed = False
        self.mean_run_ns = 0  # of the latest calls, each weighing an eighth of what was

    def ran(self, run_ns: int) -> None:
        """One of its hooks ran so long, to its end or to its kill."""
        self.mean_run_ns += (run_ns - self.mean_run_ns) >> 3

    def comes_too_late(self, call: Invocation, ahead: int, now_ns: int) -> bool:
        """Whether ``call``, behind ``ahead`` others, would be killed at its deadline as things are.

        Only of a call that has waited longer than it has left: under overload every call reaches the worker just before
        its deadline, each is killed there, and a healthy plugin does nothing but start workers until its breaker opens.
        """
        left_ns = call.request.deadline_ns - now_ns
        return now_ns - call.arrived_ns > left_ns and 2 * left_ns < 3 * (ahead + 1) * self.mean_run_ns

    def story(self) -> str:
        """One line on where this plugin stands."""
        worker = self.worker.story() if self.worker else "no worker"
        return f"plugin {self.spec.id} {self.spec.version} ({len(self.queue)} queued, {worker})"
