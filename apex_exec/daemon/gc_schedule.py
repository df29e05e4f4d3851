"""When the garbage collector may walk the loop's whole heap: once an hour, and if it can be at rest.

A full collection visits every container there is and stops the loop meanwhile: 25 ms after a start, 50 to 100 ms with
1,000 plugins (measured), there about every 70,000 calls. It finds next to nothing: in 120,000 calls of 1,000 hosts that
came and went not one cycle, in 30 reloads four objects. New objects are still collected as usual; what is there after
the start is set aside (``gc.freeze``), and what grows old waits for this time-table.
"""

from __future__ import annotations

import gc

NEVER = 1 << 30
REST_NS = 5 * 1_000_000_000
"""Without a call for this time, the loop is at rest."""
WHOLE_NS = 3600 * 1_000_000_000
"""How often the whole heap is walked, at rest: cycles that grew old may have died."""
WHOLE_NS_MAX = 2 * WHOLE_NS
"""If there is no rest: then calls wait for it."""


class GcSchedule:
    """The time-table. ``settle`` once the daemon is made, ``upkeep`` about once a second."""

    def __init__(self) -> None:
        self._walked_ns = 0
        self._walked_calls = 0
        self._calls = 0
        self._rests_ns = 0

    def settle(self, now_ns: int) -> None:
        """What there is now is set aside; from now on no full collection comes by itself. Blocks."""
        young, middle, _ = gc.get_threshold()
        gc.set_threshold(young, middle, NEVER)
        self._rests_ns = now_ns + REST_NS
        self._walk(now_ns)

    def upkeep(self, now_ns: int, calls: int, pending: int) -> None:
        """Walks the heap if it is time for it, which blocks for some tenths of a second at most.

        ``calls`` is how many were taken so far, ``pending`` how many of them have no answer.
        """
        if pending or calls != self._calls:
            self._calls, self._rests_ns = calls, now_ns + REST_NS
        if calls == self._walked_calls:
            return
        age_ns = now_ns - self._walked_ns
        if age_ns >= WHOLE_NS_MAX or (age_ns >= WHOLE_NS and now_ns >= self._rests_ns):
            gc.unfreeze()
            self._walk(now_ns)

    def _walk(self, now_ns: int) -> None:
        gc.collect()
        gc.freeze()
        self._walked_ns, self._walked_calls = now_ns, self._calls
