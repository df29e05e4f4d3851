"""The API calls of one invocation, as the loop keeps them until the invocation has its verdict."""

from __future__ import annotations

from collections import Counter

import msgspec

from apex_exec.core.effects import Effects
from apex_exec.core.limits import MS_NS
from apex_exec.executor.links.worker_link import WorkerLink
from apex_exec.observe.traces.messages import Call, Work
from workers.effect_rules import REFUSALS_RECORDED

MARGIN_NS = 150 * MS_NS
"""The deadline that the gateway or a host gets is this much before the invocation's (at most a fifth of the time). To
stop a query takes round trips, and the hook then still has time to react."""
LAST_WORD_NS = MARGIN_NS // 2
"""This much before the invocation's deadline (at most a tenth of the time) the supervisor itself answers an API call
that the gateway or a host has not answered. If one of them hangs, the worker must not be killed for that, and the hook
has time left to react."""


class Asked(msgspec.Struct, gc=False):
    """One API call without its answer. ``number`` is our number for it, ``api_id`` the worker's. ``host_call`` is the
    number of the call to a host, 0 if no host was called. ``is_over`` says that the invocation has ended, and that only
    the record of a write is still open. ``span`` is there if the call is traced; ``work`` then says when a database or
    a server was at work for it."""

    number: int
    api_id: int
    link: WorkerLink
    call: int
    plugin: str
    user_id: str
    method: str
    action: str
    begun_ns: int
    host_call: int = 0
    is_over: bool = False
    span: Call | None = None
    work: Work | None = None


class Running:
    """The API calls of one invocation so far. ``open`` has those without an answer, by the worker's numbers."""

    __slots__ = ("bytes", "calls", "containers", "effects", "last_word_ns", "open", "paced", "plugin", "recorded",
                 "refusals", "refused", "unrecorded", "user_id")

    def __init__(self, plugin: str, user_id: str, begun_ns: int, deadline_ns: int) -> None:
        self.plugin = plugin
        self.user_id = user_id
        self.last_word_ns = deadline_ns - min(LAST_WORD_NS, max(0, deadline_ns - begun_ns) // 10)
        self.refusals: dict[str, int] = {}  # by method
        self.unrecorded: dict[str, Counter[str]] = {}  # by method and code: refusals that have no record of their own
        self.effects = Effects()
        self.calls = 0
        self.recorded: set[str] = set()  # methods of effects that were taken and have a record
        self.paced = 0  # effects that count against the plugin's rate: refusals, and further records of taken ones
        self.bytes = 0
        self.containers = 0
        self.open: dict[int, Asked] = {}
        self.refused: set[str] = set()  # the codes of its refused API calls, all of the API's table, so there are few

    def refuse(self, method: str, code: str, count: int = 1) -> int:
        """Counts ``count`` refusals of one kind. Returns how many of them get a record of their own; one record at the
        invocation's end says how many more there were."""
        before = self.refusals.get(method, 0)
        self.refusals[method] = before + count
        own = min(count, max(0, REFUSALS_RECORDED - before))
        if count > own:
            self.unrecorded.setdefault(method, Counter())[code] += count - own
        return own
