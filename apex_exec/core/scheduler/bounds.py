"""The bounds in force. The parts of the pool share one of these, so that a reload reaches all of them at once."""

from __future__ import annotations

from apex_exec.core.limits import PoolLimits, RecyclePolicy
from apex_exec.core.scheduler.breaker import BreakerPolicy


class Bounds:
    """``[pool]``, ``[breaker]`` and ``[recycle]`` of the configuration. Only ``Reconfigured`` writes them."""

    __slots__ = ("breaker", "limits", "recycle")

    def __init__(self, limits: PoolLimits, breaker: BreakerPolicy, recycle: RecyclePolicy) -> None:
        self.limits = limits
        self.breaker = breaker
        self.recycle = recycle
