"""One invocation on its way: ``queued`` → ``linked`` (on a worker's link) → ``done``.

Back from ``linked`` to ``queued`` only where its worker ended before it began, and once. ``done`` is where it has its
verdict; it may still stand on a link then, because the worker will answer or skip it all the same.
"""

from __future__ import annotations

from msgspec import Struct

from apex_exec.core.events import InvokeRequested

Refusal = tuple[str, str, dict[str, object]]
"""Why a call may not begin: code, message, details."""

LINKS_MAX = 2
"""Links that one call may be put on: its first worker's, and the next one's where that ended before the call began."""


class Invocation(Struct, gc=False, eq=False):
    """``links`` counts the links it has been put on, ``worker`` is the latest of them. ``recalled`` says what it is
    answered with where that worker, which was asked to, skips it."""

    request: InvokeRequested
    arrived_ns: int
    state: str = "queued"
    sent_ns: int = 0
    links: int = 0
    cold: bool = False
    cancelled: bool = False
    worker: int = 0
    recalled: Refusal | None = None
