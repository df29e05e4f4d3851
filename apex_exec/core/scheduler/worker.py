"""One worker generation, and the moves that it may make.

::

    starting ──▶ ready ──▶ leaving ──▶ stopping
       │           │ └──────────────────▶ │
       └───────────┴──────────┬───────────┘
                              ▼
                            killed

``starting``: it was asked for and has not loaded its plugin. ``ready``: it gets calls. ``leaving``: it gets no more
calls, and is stopped as soon as it has answered all calls on its link; ``leaves_for`` says why. ``stopping``: its link
is half closed, and it ends by itself. ``killed``: SIGKILL was sent. WorkerGone ends a worker in every state.

Beside its state a worker has a *role*, which says whether it may serve hosts::

    candidate ──▶ judged ──▶ serving

Most workers are ``serving`` from the start: they are, or will be, their plugin's worker. A prepared generation is a
``candidate`` until its judgement was given, then it is ``judged``, and it serves once a PluginSet has adopted it.

A move that a table does not have raises SupervisorBug with the worker's story. Two facts are not states, since they
come and go in any state: ``throttled`` (the governor has stopped the process) and ``had_grace`` (the worker was given
more time for what is due now, because the supervisor itself had stood still).

A worker is ``shared`` if its plugin may run several calls at once (``shared.py``); otherwise it runs one after the
other.
"""

from __future__ import annotations

from collections import deque
from typing import Literal, NamedTuple

from msgspec import Struct

from apex_exec.core.deadline import Timed
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler.invocation import Invocation
from apex_exec.errors import SupervisorBug

WorkerState = Literal["starting", "ready", "leaving", "stopping", "killed"]
MOVES: dict[WorkerState, tuple[WorkerState, ...]] = {
    "starting": ("ready", "killed"),
    "ready": ("leaving", "stopping", "killed"),
    "leaving": ("stopping", "killed"),
    "stopping": ("killed",),
    "killed": (),
}
AT_WORK = ("ready", "leaving")
"""The states in which a worker answers calls."""

Role = Literal["candidate", "judged", "serving"]
ROLES: dict[Role, tuple[Role, ...]] = {"candidate": ("judged",), "judged": ("serving",), "serving": ()}

SEQ_NEVER = 1 << 62


class End(Struct, frozen=True, gc=False):
    """Why the pool has decided that a worker ends. ``reason`` is an exit reason of the metrics table. ``code`` is the
    code for the call that the worker is killed for, "" if it is not killed for one call. ``message`` is also for the
    other calls that had started."""

    reason: str
    code: str = ""
    message: str = ""


class Probe(NamedTuple):
    """A probe that has no answer yet: when it was sent, and when the worker must have answered it. ``due_ns`` is 0 if
    the worker is not killed for a missing answer."""

    sent_ns: int
    due_ns: int


Generation = tuple[str, int, bool]


def generation(spec: PluginSpec) -> Generation:
    """What a worker keeps for life: the bundle that it loaded, the memory bound that it was given, and whether it runs
    several calls at once. How many calls it is sent can change at any time."""
    return spec.digest, spec.limits.memory_mb, spec.limits.concurrency > 1


class Worker(Timed):
    """One worker as the pool sees it. ``link`` has its unanswered calls by their numbers, the oldest first."""

    __slots__ = (
        "age_due_ns", "answered_ns", "baseline_bytes", "blamed", "born_ns", "canary", "doubted_seq", "due_ns", "end",
        "generation", "had_grace", "id", "last_seq", "leaves_for", "link", "next_seq", "ping_due_ns", "pings",
        "plugin", "ponged_ns", "probed_ns", "probes", "probing", "ready_ns", "role", "shared", "spec",
        "started", "state", "throttled", "throttled_ns", "used_ns", "users")

    def __init__(self, worker: int, spec: PluginSpec, now_ns: int, boot_due_ns: int) -> None:
        super().__init__()
        self.id = worker
        self.plugin = spec.id
        self.spec = spec
        self.generation = generation(spec)
        self.state: WorkerState = "starting"
        self.role: Role = "serving"
        self.link: dict[int, Invocation] = {}
        self.shared = self.generation[2]
        self.users: dict[str, int] = {}  # of a shared worker: unanswered calls of each user
        self.probes = 0  # of a shared worker: how often it was probed
        self.probing: deque[Probe] = deque()  # the probes that it has not answered, in order
        self.probed_ns = 0  # when the latest of the probes that it has answered was sent
        self.blamed: Invocation | None = None  # the call for which it is killed, or would be if no probe is answered
        self.next_seq = 0
        self.started = 0  # calls that it has started in all, by the latest count
        self.last_seq = SEQ_NEVER  # calls that it may be sent before it is recycled
        self.born_ns = now_ns
        self.ready_ns = 0
        self.answered_ns = now_ns  # when the last sign of life came over the link
        self.used_ns = now_ns
        self.due_ns = boot_due_ns  # when what it does now must be done: booting, the oldest call, leaving, dying
        self.had_grace = False
        self.age_due_ns = 0
        self.ping_due_ns = 0  # when its pong is due; 0 if it owes none
        self.pings = 0
        self.ponged_ns = 0  # when it last answered a ping
        self.doubted_seq = -1  # the call that the governor last said it had not begun in time
        self.throttled = False
        self.throttled_ns = 0  # since when
        self.baseline_bytes = 0
        self.leaves_for = ""  # an exit reason, once it gets no more calls
        self.end: End | None = None
        self.canary: Invocation | None = None  # the call by which a candidate is judged

    def move(self, state: WorkerState) -> None:
        """Enters ``state``. Raises SupervisorBug and changes nothing if the table has no such move."""
        if state not in MOVES[self.state]:
            raise SupervisorBug(f"{self.story()} cannot become {state}")
        self.state = state

    def become(self, role: Role) -> None:
        """Takes ``role``. Raises SupervisorBug and changes nothing if the table has no such move."""
        if role not in ROLES[self.role]:
            raise SupervisorBug(f"{self.story()} cannot become {role}")
        self.role = role

    def probe_due_ns(self) -> int:
        """When the worker must have answered its earliest probe that has such a time; 0 if none has."""
        return next((probe.due_ns for probe in self.probing if probe.due_ns), 0)

    def oldest(self) -> Invocation:
        """The oldest unanswered call; the link must not be empty."""
        return next(iter(self.link.values()))

    def oldest_seq(self) -> int:
        """The number of the oldest unanswered call; of the next one if there is none."""
        return next(iter(self.link), self.next_seq)

    def story(self) -> str:
        """One line on where this worker stands and how it got there."""
        return (f"worker {self.id} of {self.plugin} ({self.state}, {self.role}, {self.next_seq} calls sent, "
                f"{len(self.link)} unanswered, leaves for {self.leaves_for or 'nothing'}, "
                f"end {self.end.reason if self.end else 'open'})")
