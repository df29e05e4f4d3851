"""The breaker and the restart backoff of one plugin, as Erlang's supervisors bound restarts. Pure."""

from __future__ import annotations

from collections import deque

from msgspec import Struct

SECOND_NS = 1_000_000_000


class BreakerPolicy(Struct, frozen=True):
    """Defaults of the ``[breaker]`` configuration section."""

    ends_max: int = 5
    window_ns: int = 60 * SECOND_NS
    open_ns: int = 60 * SECOND_NS
    stable_ns: int = 10 * SECOND_NS
    backoff_min_ns: int = SECOND_NS // 10
    backoff_max_ns: int = 30 * SECOND_NS


class Breaker:
    """closed → open after ``ends_max`` abnormal ends in the window → half-open probe → closed or open again."""

    __slots__ = ("_ends", "_policy", "consecutive", "open_until_ns", "probing", "start_after_ns")

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._ends: deque[int] = deque(maxlen=policy.ends_max)
        self.consecutive = 0
        self.open_until_ns = 0
        self.probing = False
        self.start_after_ns = 0

    def state(self, now_ns: int) -> str:
        """``closed``, ``open`` or ``half_open``."""
        if self.open_until_ns == 0:
            return "closed"
        return "open" if now_ns < self.open_until_ns else "half_open"

    def refuses_ns(self, now_ns: int) -> int:
        """Nanoseconds until a call may be tried; 0 where it may be now. Half-open lets one probe through."""
        if self.open_until_ns == 0:
            return 0
        if now_ns < self.open_until_ns:
            return self.open_until_ns - now_ns
        return SECOND_NS if self.probing else 0

    def ended(self, now_ns: int, ran_ns: int, jitter: float, *, trip: bool = False) -> None:
        """One abnormal end after ``ran_ns`` of life; ``jitter`` in [0, 1). ``trip`` opens at once (a violation)."""
        policy = self._policy
        self.consecutive = 1 if ran_ns >= policy.stable_ns else self.consecutive + 1
        self._ends.append(now_ns)
        full = len(self._ends) == policy.ends_max and now_ns - self._ends[0] <= policy.window_ns
        if trip or full or self.probing:
            self.open_until_ns = now_ns + policy.open_ns
            self._ends.clear()
        self.probing = False
        if self.consecutive >= 2:  # the first restart is immediate
            backoff_ns = min(policy.backoff_max_ns, policy.backoff_min_ns << min(self.consecutive - 2, 20))
            self.start_after_ns = now_ns + int(backoff_ns * (0.5 + jitter / 2))

    def succeeded(self, ran_ns: int) -> None:
        """A call was answered: a half-open breaker closes; a stable worker forgets its past."""
        if self.probing:
            self.probing = False
            self.open_until_ns = 0
        if ran_ns >= self._policy.stable_ns:
            self.consecutive = 0
