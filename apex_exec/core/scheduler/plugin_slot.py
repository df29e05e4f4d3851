"""One plugin as it is served: its version in force, its queue, its breaker, its worker and that worker's successor."""

from __future__ import annotations

from collections import deque

from apex_exec.core.deadline import Timed
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler.breaker import Breaker
from apex_exec.core.scheduler.invocation import Invocation
from apex_exec.core.scheduler.queue import CallQueue
from apex_exec.core.scheduler.worker import Worker

RUNS_KEPT = 8


class Served(Timed):
    """``worker`` gets the calls; ``successor`` is the next generation beside it.

    A successor is *adopted* where its spec is the one in force: it takes over as soon as the link of ``worker`` has
    been answered. Until then it is a candidate, prepared to be judged, and serves nobody but its canary.
    """

    __slots__ = ("_latest", "breaker", "queue", "removed", "spec", "successor", "worker")

    def __init__(self, spec: PluginSpec, breaker: Breaker) -> None:
        super().__init__()
        self.spec = spec
        self.breaker = breaker
        self.queue = CallQueue()
        self.worker: Worker | None = None
        self.successor: Worker | None = None
        self.removed = False
        self._latest: dict[str, deque[int]] = {}  # hook → how long its latest calls ran

    def ran(self, hook: str, run_ns: int) -> None:
        """``hook`` of the version in force ran so long, to its end or to its kill."""
        latest = self._latest.get(hook)
        if latest is None:
            latest = self._latest[hook] = deque(maxlen=RUNS_KEPT)
        latest.append(run_ns)

    def forget_runs(self) -> None:
        """Another version: what the old one took says nothing of it."""
        self._latest.clear()

    def comes_too_late(self, call: Invocation, ahead: int, now_ns: int) -> bool:
        """Whether ``call``, behind ``ahead`` others on the link, has less time left than its hook takes as a rule: half
        as much again as the median of its latest runs, so that neither one slow call nor a stall counts.

        Only of a call that has waited longer than it has left: under overload every call reaches the worker just before
        its deadline, each is killed there, and a healthy plugin does nothing but start workers until its breaker opens.
        """
        left_ns = call.request.deadline_ns - now_ns
        if now_ns - call.arrived_ns <= left_ns:
            return False
        latest = self._latest.get(call.request.hook)
        return latest is not None and len(latest) == RUNS_KEPT and (
            2 * left_ns < 3 * (ahead + 1) * sorted(latest)[RUNS_KEPT // 2])

    def story(self) -> str:
        """One line on where this plugin stands."""
        worker = self.worker.story() if self.worker else "no worker"
        return f"plugin {self.spec.id} {self.spec.version} ({len(self.queue)} queued, {worker})"
