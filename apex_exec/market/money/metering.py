"""Usage computed from the ledger: calls, CPU, memory, API calls and network requests per plugin, user and month. Pure.

No figure comes from the plugin: times are the supervisor's, memory is from its samples. Every figure is a sum of whole
numbers over events of the chain, so the order of reading never matters, and anyone with the chain gets the same
figures.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from apex_exec.errors import CODES, Code, Retry
from apex_exec.ledger.reading import Event
from apex_exec.ledger.records import API_EVENTS
from apex_exec.ledger.refusals import made, was_refused
from apex_exec.market.money.months import Interval, merge, month_interval, parse_month, whole_seconds

EXECUTION = "plugin.execution"
CPU = "plugin.cpu"
"""CPU time that a worker used outside a call, or in a call during which it died."""
METERED = frozenset((EXECUTION, CPU, *API_EVENTS))
NEVER_RAN = frozenset(code.value for code, (_, retry) in CODES.items() if retry is Retry.YES) | {Code.BOOT_FAILED}
"""Verdicts which mean that the hook did not run: no call is counted."""

NOT_RUN_WITHOUT_TIME = frozenset((
    Code.CANCELLED, Code.PLUGIN_DISABLED, Code.SHUTTING_DOWN, Code.INTERNAL, Code.WORKER_CRASHED))
"""Verdicts that can end a call in the queue or a running one: without any run time, the call never ran."""

Key = tuple[str, str, str]
"""plugin, user, month"""


class Usage(msgspec.Struct):
    """Sums. ``cpu_us`` and ``host_cpu_us`` are in microseconds and ``memory_mb_ms`` in MB times milliseconds, so that
    they stay whole."""

    calls: int = 0
    cpu_us: int = 0
    memory_mb_ms: int = 0
    api_calls: int = 0
    network_requests: int = 0
    host_cpu_us: int = 0

    def add(self, event: Event) -> None:
        """Counts one event; an event that is not usage changes nothing."""
        if event.event_type == EXECUTION:
            if not has_run(event):
                return
            run_ms = _number(event.metadata.get("executionTimeMs"))
            self.calls += 1
            self.cpu_us += round(_number(event.metadata.get("cpuMs")) * 1000)
            self.host_cpu_us += round(_number(event.metadata.get("hostCpuMs")) * 1000)
            self.memory_mb_ms += round(_number(event.metadata.get("memoryUsedMb")) * run_ms)
        elif event.event_type == CPU:
            self.cpu_us += round(_number(event.metadata.get("cpuMs")) * 1000)
        elif event.event_type in API_EVENTS and not was_refused(event):
            self.api_calls += made(event)
            self.network_requests += event.action == "fetch"

    def figures(self) -> dict[str, int | float]:
        """The figures in the units that people read."""
        return {"calls": self.calls, "cpuSeconds": self.cpu_us / 1e6, "hostCpuSeconds": self.host_cpu_us / 1e6,
                "memoryMbSeconds": self.memory_mb_ms / 1e3,
                "apiCalls": self.api_calls, "networkRequests": self.network_requests}


def has_run(event: Event) -> bool:
    """Whether the hook of an execution ran: only then it is a call that counts."""
    code = event.metadata.get("code")
    if code in NEVER_RAN:
        return False
    return code not in NOT_RUN_WITHOUT_TIME or bool(_number(event.metadata.get("executionTimeMs")))


def meter(events: Iterable[Event], month: str = "", before: Mapping[Key, Usage] | None = None) -> dict[Key, Usage]:
    """Usage per plugin, user and UTC month, sorted by key; only that of ``month`` if it is given.

    ``before`` is the usage counted from earlier events, which are not among ``events``; it is not modified.
    """
    found = {key: copy.copy(usage) for key, usage in (before or {}).items()}
    for event in events:
        if event.event_type not in METERED:
            continue
        name = event.timestamp[:7]  # RFC 3339, UTC
        if not month or name == month:
            found.setdefault((event.resource, event.user_id, name), Usage()).add(event)
    return {key: usage for key, usage in sorted(found.items()) if usage != Usage()}


def callers(usage: Mapping[Key, Usage]) -> list[Key]:
    """Who had a call run, by plugin and month: a user whose calls never ran is not hosted."""
    return [key for key, one in usage.items() if one.calls]


class Enablement(msgspec.Struct, frozen=True, order=True):
    """A plugin was enabled from ``start_ns`` until ``end_ns`` (None: still enabled), for one user or ("") for
    everybody."""

    plugin: str
    user_id: str
    start_ns: int
    end_ns: int | None = None


def hosted(enablements: Iterable[Enablement], usage: Iterable[Key], until_ns: int) -> dict[tuple[str, str],
                                                                                         list[Interval]]:
    """The seconds per (plugin, user), merged: each second counts once, however often the plugin was enabled.

    A plugin that is enabled for everybody is hosted for the users who called it: for each of them, in each month with a
    call, for the whole time of that month during which it was enabled. A plugin that is still enabled counts until
    ``until_ns``.
    """
    called: dict[str, set[tuple[str, str]]] = {}
    for plugin, user, month in usage:
        called.setdefault(plugin, set()).add((user, month))
    parts: dict[tuple[str, str], list[Interval]] = {}
    for one in enablements:
        end_ns = until_ns if one.end_ns is None else min(one.end_ns, until_ns)
        span = whole_seconds(one.start_ns, end_ns)
        if one.user_id:
            parts.setdefault((one.plugin, one.user_id), []).append(span)
            continue
        for user, month in called.get(one.plugin, ()):
            window = month_interval(*parse_month(month))
            clipped = (max(span[0], window[0]), min(span[1], window[1]))
            parts.setdefault((one.plugin, user), []).append(clipped)
    merged = {key: merge(spans) for key, spans in sorted(parts.items())}
    return {key: spans for key, spans in merged.items() if spans}


def _number(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0:
        return float(value)
    return 0.0
