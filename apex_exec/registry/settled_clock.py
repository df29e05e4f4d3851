"""Decides when we trust the wall clock enough to end something for good. Pure: both clocks are arguments.

Whether an approval or a purchase counts is decided by the wall clock at each check, so it counts again once a clock
that was wrong is right. What cannot be undone (a row becomes ``expired``, an enablement ends) waits until the wall
clock has run in step with the monotonic clock, without a jump, for SETTLED_NS: by then a bad time server or a dead
real-time clock is usually corrected. After a start nothing is known about the clock, so the waiting begins anew.
"""

from __future__ import annotations

SETTLED_NS = 3600 * 10**9
JUMP_NS = 2 * 10**9
"""The largest difference between two checks that is not a jump. A time server slews by less; a machine that slept
counts as a jump."""


class SettledClock:
    """Call ``sample`` often: a jump that is undone between two calls is not seen, and did no harm."""

    def __init__(self, wall_ns: int, monotonic_ns: int) -> None:
        self._apart_ns = wall_ns - monotonic_ns
        self._since_ns = monotonic_ns

    def sample(self, wall_ns: int, monotonic_ns: int) -> int:
        """The wall clock's time, up to which everything that ended may be ended for good; 0 until the clock has
        settled."""
        apart_ns = wall_ns - monotonic_ns
        if abs(apart_ns - self._apart_ns) > JUMP_NS:
            self._since_ns = monotonic_ns
        self._apart_ns = apart_ns
        return wall_ns if monotonic_ns - self._since_ns >= SETTLED_NS else 0
