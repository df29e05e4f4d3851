"""One worker generation and the moves it may make.

::

    starting ──ready──▶ ready ──stop──▶ stopping (its link is half closed; it leaves by itself)
        │                 │                 │
        └───────kill──────┴──────kill───────┴──▶ killed

From every state WorkerGone ends it. ``leaving`` names why a ready worker gets no more calls; it is stopped when its
link has been answered. A move that the table does not have raises SupervisorBug with the worker's story.
"""

from __future__ import annotations

from collections import deque

from apex_exec.core.deadline import Timed
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler.invocation import Invocation
from apex_exec.errors import SupervisorBug

MOVES = {
    "starting": ("ready", "stopping", "killed"),
    "ready": ("stopping", "killed"),
    "stopping": ("killed",),
    "killed": (),
}
SEQ_NEVER = 1 << 62


def generation(spec: PluginSpec) -> tuple[str, int]:
    """What a worker is bound to for life: the content it loaded and the memory bound it was given."""
    return spec.digest, spec.limits.memory_mb


class Worker(Timed):
    """The pool's view of one worker. ``next_seq - len(link)`` is the seq of the oldest unanswered call."""

    __slots__ = (
        "adopted", "age_due_ns", "answered_ns", "baseline_bytes", "blame", "born_ns", "due_ns", "end_code",
        "end_reason", "generation", "graced", "id", "judged", "last_seq", "leaving", "link", "next_seq",
        "ping_due_ns", "pings", "plugin", "ready_ns", "spec", "started", "state", "throttled", "trial", "used_ns",
    )

    def __init__(self, worker: int, spec: PluginSpec, now_ns: int, boot_due_ns: int) -> None:
        super().__init__()
        self.id = worker
        self.plugin = spec.id
        self.spec = spec
        self.generation = generation(spec)
        self.state = "starting"
        self.link: deque[Invocation] = deque()
        self.next_seq = 0
        self.started = 0  # calls that it has started in all, as far as was told
        self.last_seq = SEQ_NEVER  # calls that it may be sent before it is recycled
        self.born_ns = now_ns
        self.ready_ns = 0
        self.answered_ns = now_ns  # last sign of life over the link
        self.used_ns = now_ns
        self.due_ns = boot_due_ns  # of what it is doing now: booting, the oldest call, leaving, being reaped
        self.age_due_ns = 0
        self.ping_due_ns = 0  # 0 where no ping is out
        self.pings = 0
        self.graced = False  # had its STALL_GRACE_NS for what it is doing now
        self.throttled = False
        self.baseline_bytes = 0
        self.leaving = ""
        self.end_reason = ""  # of the metrics table, once the end is decided
        self.end_code = ""  # of the call that the kill was for
        self.blame = ""  # what the others that had begun are told
        self.judged = False
        self.adopted = True  # False for a prepared generation that nobody has decided for yet
        self.trial: Invocation | None = None  # the canary of such a generation

    def move(self, state: str) -> None:
        """Enters ``state``. Raises SupervisorBug, changing nothing, where the table has no such move."""
        if state not in MOVES[self.state]:
            raise SupervisorBug(f"{self.story()} cannot become {state}")
        self.state = state

    def story(self) -> str:
        """One line on where this worker stands and how it got there."""
        return (f"worker {self.id} of {self.plugin} ({self.state}, {self.next_seq} calls sent, {len(self.link)} "
                f"unanswered, leaving {self.leaving or 'no'}, end {self.end_reason or 'open'})")
