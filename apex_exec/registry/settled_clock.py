"""When the wall clock is believed enough to end something for good. Pure: both clocks are arguments.

Whether an approval or a purchase counts is decided by the wall clock at each look, and so it comes back when a
clock that was wrong is right again. What cannot be undone (a row becomes ``expired``, an enablement ends) waits
until the wall clock has gone with the monotonic one, without a jump, for SETTLED_NS: a bad time server or a dead
real-time clock is usually right again by then. At a start nothing is known of the clock, so that time begins anew.
"""

from __future__ import annotations

SETTLED_NS = 3600 * 10**9
JUMP_NS = 2 * 10**9
"""Between two looks; what a time server slews is less, and a machine that slept counts as a jump."""


class SettledClock:
    """``look`` often: a jump and its return between two looks is not seen, and harmed nothing."""

    def __init__(self, wall_ns: int, monotonic_ns: int) -> None:
        self._apart_ns = wall_ns - monotonic_ns
        self._since_ns = monotonic_ns

    def look(self, wall_ns: int, monotonic_ns: int) -> int:
        """What ended up to this moment may be ended for good: the wall clock's time, 0 as long as it is not settled."""
        apart_ns = wall_ns - monotonic_ns
        if abs(apart_ns - self._apart_ns) > JUMP_NS:
            self._since_ns = monotonic_ns
        self._apart_ns = apart_ns
        return wall_ns if monotonic_ns - self._since_ns >= SETTLED_NS else 0
