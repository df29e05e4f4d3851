"""Every limit of a plugin, declared once: a field of ``Limits`` with its ``Limit``.

To add a limit, write one field, run ``python -m apex_exec.catalogue``, and give the manifest's key its row in
``registry/bundles/README.md``; then hold plugins to it wherever the thing is that it limits (``spec.limits.NAME``).
That is all for a limit that the supervisor enforces; one that a process is given needs more, as "Limits of a plugin" in
``apex_exec/README.md`` says. The configuration's key ``limits.NAME``, the
manifest's key (``timeoutMs`` for ``timeout_ms``), a reload, `hello`, `plugin show` and the documentation read these
fields.
"""

from __future__ import annotations

from typing import Annotated, Any, get_type_hints

import msgspec


class Limit(msgspec.Struct, frozen=True):
    """What is known of one limit. ``low`` and ``high`` bound what an operator or a manifest may write. ``doc`` is the
    row of the configuration's documentation, and ``also`` what else may fire first. ``platform`` is the platform's
    default of a limit that a manifest asks for, instead of lowering it: one that says nothing gets the field's own
    default. ``unit`` stands behind the number in the guide for authors."""

    low: float
    high: float
    doc: str
    also: str = ""
    platform: float | None = None
    unit: str = ""


TIMEOUT_MS_MAX = 3_600_000
MEMORY_MB_MAX = 1_048_576
CONCURRENCY_MAX = 32
"""Calls that one worker may run at once. They share one thread and one memory, and a worker that must be killed takes
all of them with it, so more would add risk and no speed."""
CPU_PERCENT_MIN = 0.1
"""A thousandth of a core. The wait for CPU time is a debt divided by the share, so a share has a floor: with less of it
a plugin would wait for hours after a single call, and with far less the division overflows."""


class Limits(msgspec.Struct, frozen=True):
    """Caps in force for one plugin: the manifest's, never above the platform's policy."""

    timeout_ms: Annotated[int, Limit(
        1, TIMEOUT_MS_MAX, "longest deadline of a call; a manifest may lower each limit, never raise it",
        "the host's deadlineMs, a dispatch's share of it, and the end of the daemon", unit="ms")] = 5000
    memory_mb: Annotated[int, Limit(
        1, MEMORY_MB_MAX, "memory of a worker",
        "a MemoryError at RLIMIT_DATA, and the machine's own lack of memory", unit="MB")] = 50
    cpu_percent: Annotated[float, Limit(
        CPU_PERCENT_MIN, 100, "of one core, per plugin, over all its workers; 0.1 at least, here and in a manifest",
        "the deadline: a plugin that is throttled waits, and its call runs out of time", unit="% of one core")] = 10.0
    network_per_minute: Annotated[int, Limit(
        0, 1_000_000, "requests of a plugin in any 60 s", "limits.api_calls_per_second", unit="in any minute")] = 100
    concurrency: Annotated[int, Limit(
        1, CONCURRENCY_MAX, "calls at once in a plugin's worker; a manifest that does not ask for more than one gets 1",
        platform=CONCURRENCY_MAX, unit="at once")] = 1


class PlatformLimits(msgspec.Struct, frozen=True):
    """Limits that only the operator sets: no manifest can lower them."""

    cpu_burst_seconds: Annotated[float, Limit(
        0.001, 3600, "CPU time that may be used at once after a rest")] = 0.5
    api_calls_per_second: Annotated[int, Limit(
        1, 1_000_000, "API calls of a plugin, refused or not, a thousand at once after a rest; what is above waits; "
                      "effects count if they are refused, or take more than a record of each method in one call",
        "the thousand calls that one invocation may make")] = 500


def _limits_of(kind: type[msgspec.Struct]) -> dict[str, Limit]:
    hints = get_type_hints(kind, include_extras=True)
    return {name: hints[name].__metadata__[0] for name in kind.__struct_fields__}


LIMITS = _limits_of(Limits)
"""What a manifest may lower, by the field of ``Limits``."""
PLATFORM_LIMITS = _limits_of(PlatformLimits)


def default_of(name: str) -> float:
    """What the platform allows unless the configuration says otherwise."""
    if name in LIMITS and (platform := LIMITS[name].platform) is not None:
        return platform
    kind: Any = Limits if name in LIMITS else PlatformLimits
    return float(getattr(kind(), name))


def type_of(name: str) -> type[int] | type[float]:
    """Whether it is a whole number."""
    kind: Any = Limits if name in LIMITS else PlatformLimits
    return type(getattr(kind(), name))


def key_of(name: str) -> str:
    """The key of a manifest, of ``hello`` and of `plugin show`: ``timeoutMs`` for ``timeout_ms``."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
