"""What the loop does at certain times beside its traffic: a list of duties, each of which says when it is due."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from apex_exec.core.deadline import NEVER_NS
from apex_exec.core.limits import SECOND_NS

if TYPE_CHECKING:
    from apex_exec.executor.local import LocalExecutor
    from apex_exec.executor.ports import Governing


class Duty:
    """``run(now_ns)`` does a bounded part of the duty, sets ``due_ns``, and returns True if more can be done at once.
    The log and ``duty_failures_total`` name a failure by ``name``."""

    __slots__ = ("_due_ns", "agenda", "name", "run")

    def __init__(self, name: str, due_ns: int, run: Callable[[int], bool]) -> None:
        self.name = name
        self.run = run
        self.agenda: Agenda | None = None
        self._due_ns = due_ns

    @property
    def due_ns(self) -> int:
        """When (CLOCK_MONOTONIC) ``run`` is to be called; 0 for at once, NEVER_NS for not at all. The duty's owner may
        set it at any time."""
        return self._due_ns

    @due_ns.setter
    def due_ns(self, due_ns: int) -> None:
        self._due_ns = due_ns
        if self.agenda is not None and due_ns < self.agenda.soonest_ns:
            self.agenda.soonest_ns = due_ns


class Agenda:
    """The duties in their order. None of them is due before ``soonest_ns``, so the loop only compares two numbers in a
    turn in which no duty is due, however many there are. ``failed(name, error)`` is the guard's."""

    def __init__(self, duties: Iterable[Duty], failed: Callable[[str, Exception], None]) -> None:
        self.soonest_ns = 0
        self._duties = tuple(duties)
        self._failed = failed
        for duty in self._duties:
            duty.agenda = self

    def run(self, now_ns: int) -> bool:
        """Runs the duties that are due; True if more can be done at once. If a duty raises, the others still run."""
        busy = False
        for duty in self._duties:
            if now_ns >= duty.due_ns:
                try:
                    busy |= duty.run(now_ns)
                except Exception as error:
                    self._failed(duty.name, error)
        self.soonest_ns = min((duty.due_ns for duty in self._duties), default=NEVER_NS)
        return busy


class Monitoring(Duty):
    """The duty of looking at the workers' CPU and memory (``resource_monitor``). Only this class decides when.

    After a failure that concerns no single plugin, the next look is a second later. If no worker was busy at the last
    look, the next one is seconds away; ``wake`` brings it forward.
    """

    __slots__ = ("_governing", "_workers", "rests")

    def __init__(self, governing: Governing, workers: LocalExecutor) -> None:
        super().__init__("governing", 0, self._look)
        self.rests = False
        """True if no worker was busy at the last look; ``wake`` is then called when a worker is sent a call."""
        self._governing = governing
        self._workers = workers

    def _look(self, now_ns: int) -> bool:
        """Samples workers, holds back and lets go on."""
        self.due_ns = now_ns + SECOND_NS
        self.due_ns = self._governing.tick(now_ns)
        self.rests = self._governing.rests
        if not self._governing.halfway:  # once for each look, so that forks of spares seldom compete with a cold call
            self._workers.refill(now_ns)
        return False

    def wake(self, now_ns: int) -> None:
        """A worker has a call again after a rest."""
        self.rests = False
        self.due_ns = min(self.due_ns, now_ns + self._governing.busy_ns)
