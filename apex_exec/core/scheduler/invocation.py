"""One invocation on its way, and the moves that it may make.

::

    queued ───▶ linked ───▶ done ───▶ cancelled
      │ ▲         │          ▲
      │ └─────────┘          │
      └──────────────────────┘

``queued``: it waits, in its plugin's queue or as the canary of a generation that still boots. ``linked``: it stands on
a worker's link, where it waits for its turn or runs. It goes back to ``queued`` only if its worker ended before the
call began, and only once. ``done``: it has its verdict. It may still stand on a link, because the worker will answer or
skip it. ``cancelled``: its caller gave it up while it stood on a link, which is its verdict. It still stands on the
link, and a worker that goes on running it is killed soon.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from apex_exec.core.events import InvokeRequested
from apex_exec.errors import SupervisorBug

CallState = Literal["queued", "linked", "done", "cancelled"]
MOVES: dict[CallState, tuple[CallState, ...]] = {
    "queued": ("linked", "done"),
    "linked": ("queued", "done"),
    "done": ("cancelled",),
    "cancelled": (),
}

Refusal = tuple[str, str, dict[str, object]]
"""Why a call may not begin: code, message, details."""

LINKS_MAX = 2
"""Links that one call may be put on: its first worker's, and the next worker's if the first ended before it began."""


class Invocation(Struct, gc=False, eq=False):
    """One call of the pool. ``links`` counts the links that the call was put on, ``worker`` is the worker of the latest
    of them, and ``seq`` is the call's number there. ``cold`` says that the worker was not ready when the call arrived.
    ``recalled`` is the refusal that the call is answered with if its worker skips it after a recall.

    On the link of a shared worker, ``cancelled_ns`` is when the worker was asked to end the call, 0 if it was not;
    ``ends_ns`` is when the call must have ended, 0 if there is no such time yet, and NEVER_NS if the worker will skip
    the call in its turn."""

    request: InvokeRequested
    arrived_ns: int
    state: CallState = "queued"
    sent_ns: int = 0
    links: int = 0
    cold: bool = False
    worker: int = 0
    recalled: Refusal | None = None
    seq: int = 0
    cancelled_ns: int = 0
    ends_ns: int = 0

    def move(self, state: CallState) -> None:
        """Enters ``state``. Raises SupervisorBug and changes nothing if the table has no such move."""
        if state not in MOVES[self.state]:
            raise SupervisorBug(f"{self.story()} cannot become {state}")
        self.state = state

    def story(self) -> str:
        """One line on where this call stands and how it got there."""
        request = self.request
        return (f"call {request.call} of {request.plugin} ({self.state}, put on {self.links} links, latest worker "
                f"{self.worker}, recalled {self.recalled[0] if self.recalled else 'no'})")
