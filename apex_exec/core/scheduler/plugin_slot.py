"""One plugin as the pool serves it: its version in force, its queue, its breaker, its worker and its next worker.

The state of the slot follows from the state of its worker:

========== ============================================= ==================================================
state      its worker is                                 what becomes of a call that comes now
========== ============================================= ==================================================
empty      not there                                     it waits, and a worker is started if there is a place
starting   ``starting``                                  it waits for the worker to boot
serving    ``ready``                                     it goes to the worker's link, or waits for room on it
changing   ``leaving`` or ``killed``: its answers or     it waits for the successor, so that no call overtakes another
           its end settle the calls on its link          or runs beside one on the old worker
========== ============================================= ==================================================
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from apex_exec.core.deadline import Timed
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler.breaker import Breaker, BreakerPolicy
from apex_exec.core.scheduler.invocation import Invocation
from apex_exec.core.scheduler.user_breakers import UserBreakers
from apex_exec.core.scheduler.user_queue import UserQueue
from apex_exec.core.scheduler.worker import Worker, WorkerState

RUNS_KEPT = 8

SlotState = Literal["empty", "starting", "serving", "changing"]
STATES: dict[WorkerState, SlotState] = {
    "starting": "starting", "ready": "serving", "leaving": "changing", "stopping": "changing", "killed": "changing",
}
"""The slot's state by its worker's. A stopping worker is taken out of its slot in the same step."""


class PluginSlot(Timed):
    """``worker`` gets the calls; ``successor`` is the next generation's worker beside it.

    A successor whose role is ``serving`` takes over as soon as ``worker`` has answered all calls on its link. In any
    other role it was prepared to be judged, and runs nothing but its canary.
    """

    __slots__ = ("_latest", "breaker", "queue", "spec", "successor", "users", "worker")

    def __init__(self, spec: PluginSpec, policy: BreakerPolicy) -> None:
        super().__init__()
        self.renew_breakers(policy)
        self.queue: UserQueue = UserQueue()
        self.serve(spec)
        self.worker: Worker | None = None
        self.successor: Worker | None = None
        self._latest: dict[str, deque[int]] = {}  # hook → how long its latest calls ran

    def serve(self, spec: PluginSpec) -> None:
        """``spec`` is in force from now on."""
        self.spec = spec
        self.queue.arrange(is_shared=spec.limits.concurrency > 1, one_each=spec.ordering == "user")

    def renew_breakers(self, policy: BreakerPolicy) -> None:
        """Forgets every end of a worker: there was none, or it was another version's."""
        self.breaker = Breaker(policy)
        self.users = UserBreakers(policy)

    @property
    def state(self) -> SlotState:
        """The state by the table above."""
        return STATES[self.worker.state] if self.worker is not None else "empty"

    @property
    def heir(self) -> Worker | None:
        """The successor, if it takes over when ``worker`` has left."""
        successor = self.successor
        return successor if successor is not None and successor.role == "serving" else None

    def ran(self, hook: str, run_ns: int) -> None:
        """``hook`` of the version in force ran for ``run_ns``, to its end or to its kill."""
        latest = self._latest.get(hook)
        if latest is None:
            latest = self._latest[hook] = deque(maxlen=RUNS_KEPT)
        latest.append(run_ns)

    def runs(self, hook: str) -> int:
        """How many runs of ``hook`` are known, RUNS_KEPT at most."""
        return len(self._latest.get(hook, ()))

    def forget_runs(self) -> None:
        """Forgets how long hooks ran: another version is in force, whose hooks may take another time."""
        self._latest.clear()

    def comes_too_late(self, call: Invocation, ahead: int, now_ns: int) -> bool:
        """Whether ``call``, behind ``ahead`` others on the link, has less time left than it usually takes to run them
        all: 1.5 times the median of its hook's latest runs for each, so that one slow run or a stall does not count.

        False if the call has not waited longer than the time that it has left. Without this check, under overload,
        every call would reach the worker just before its deadline and be killed there, and a healthy plugin would do
        nothing but start workers until its breaker opens.
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
        return f"plugin {self.spec.id} {self.spec.version} ({self.state}, {len(self.queue)} queued, {worker})"
