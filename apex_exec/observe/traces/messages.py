"""What the supervisor and the process ``traces`` say to each other. Times are CLOCK_MONOTONIC in ns, which all
processes share.

Nothing in here holds a payload, a result, a message of an error, SQL, a URL or a user: only what ``facts.py`` lets
through, and names that an operator has configured or approved.
"""

from __future__ import annotations

import msgspec

Work = tuple[int, int]
"""From when to when the gateway had a database or a server at work for an API call."""


class Api(msgspec.Struct, array_like=True, gc=False):
    """One API call of a plugin. ``outcome`` is "ok" or one of the API's codes."""

    method: str
    outcome: str
    begun_ns: int
    ended_ns: int
    work: Work | None
    facts: dict[str, str | int]


class Call(msgspec.Struct, array_like=True, tag="call", gc=False):
    """One invocation. It is made when the call arrives, and completed when the call ends.

    ``parent_id`` is the host's span, "" if the trace begins here; with ``is_part`` it is the span of the dispatch.
    ``judged_ns`` is when its verdict came, ``ended_ns`` when its outcome was known: a large result is checked between
    the two. ``code`` is "" for a result. ``left_out`` counts API calls that are not in ``api``.
    """

    trace_id: str
    parent_id: str
    begun_ns: int
    is_part: bool = False
    judged_ns: int = 0
    ended_ns: int = 0
    run_ns: int = 0
    plugin: str = ""
    version: str = ""
    hook: str = ""
    code: str = ""
    started: bool = False
    cold: bool = False
    cpu_ns: int = 0
    memory_mb: float = 0.0
    api: list[Api] = []
    left_out: int = 0

    @property
    def spans(self) -> int:
        """How many spans become of it."""
        return 2 + self.started + (self.ended_ns > self.judged_ns) + len(self.api) + sum(
            api.work is not None for api in self.api)


class Dispatch(msgspec.Struct, array_like=True, tag="dispatch", gc=False):
    """One event for many plugins. The span of each part has ``span_id`` as its parent."""

    trace_id: str
    parent_id: str
    span_id: str
    begun_ns: int
    hook: str
    ended_ns: int = 0
    code: str = ""
    parts: int = 0

    @property
    def spans(self) -> int:
        """How many spans become of it."""
        return 1

    @property
    def traceparent(self) -> str:
        """What another node gets that runs a part."""
        return f"00-{self.trace_id}-{self.span_id}-01"


class Batch(msgspec.Struct, array_like=True, tag="batch"):
    """Calls that have ended. ``clock_ns`` is what the wall clock is ahead of CLOCK_MONOTONIC."""

    clock_ns: int
    records: list[Call | Dispatch]


# ---------------------------------------------------------------------- from the process
class Delivered(msgspec.Struct, array_like=True, tag="delivered", gc=False):
    """What has become of spans since the last such message: how many the endpoint has taken, how many it has not, and
    how many found no room to wait."""

    exported: int
    undelivered: int
    dropped: int
