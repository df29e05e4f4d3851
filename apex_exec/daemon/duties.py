"""What the loop does at certain times beside its traffic: one list, in which each duty says when it is due."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from apex_exec.core.limits import SECOND_NS

if TYPE_CHECKING:
    from apex_exec.executor.local import LocalExecutor
    from apex_exec.executor.ports import Governing


class Due(Protocol):
    """Anything that can stand in the list of duties."""

    name: str
    """What a failure of it is called in the log and in ``duty_failures_total``."""

    @property
    def due_ns(self) -> int:
        """When (CLOCK_MONOTONIC) ``run`` is to be called; 0 for at once, NEVER_NS for not at all. A duty may change it
        at any time: it is looked at in every round of the loop."""

    @property
    def run(self) -> Callable[[int], bool]:
        """``run(now_ns)`` does a bounded part of it and sets ``due_ns``; True if more can be done at once."""


class Duty:
    """A duty whose owner sets ``due_ns``."""

    __slots__ = ("due_ns", "name", "run")

    def __init__(self, name: str, due_ns: int, run: Callable[[int], bool]) -> None:
        self.name = name
        self.due_ns = due_ns
        self.run = run


class Monitoring:
    """The duty of looking at the workers' CPU and memory (``resource_monitor``): its whole cadence is here.

    After a failure that concerns no single plugin it is tried again a second later. If no worker was busy at the last
    look the next one is far; ``wake`` has it come soon.
    """

    name = "governing"

    def __init__(self, governing: Governing, workers: LocalExecutor) -> None:
        self.due_ns = 0
        self.rests = False
        """True if no worker was busy at the last look: a call that is sent now needs a look soon."""
        self._governing = governing
        self._workers = workers

    def run(self, now_ns: int) -> bool:
        """Samples workers, holds back and lets go on."""
        self.due_ns = now_ns + SECOND_NS
        self.due_ns = self._governing.tick(now_ns)
        self.rests = self._governing.rests
        if not self._governing.halfway:  # as rarely as before, so that a spare does not compete with a cold call
            self._workers.refill(now_ns)
        return False

    def wake(self, now_ns: int) -> None:
        """A worker has a call again after a rest."""
        self.rests = False
        self.due_ns = min(self.due_ns, now_ns + self._governing.busy_ns)
