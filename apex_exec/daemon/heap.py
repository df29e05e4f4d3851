"""When the collector of cyclic garbage may walk the loop's heap: never the whole of it while somebody waits.

A full collection visits every container there is and stops the loop meanwhile: 25 ms after a start, 50 to 100 ms with
1,000 plugins (measured), after some ten thousand calls and so again and again. It finds next to nothing, since what
the hot path makes goes by reference counts. So what is there after the start is set aside (``gc.freeze``), the young
generations are collected as ever, and a full collection comes only when this module says so.
"""

from __future__ import annotations

import gc

FEW = 10
"""Collections of the middle generation after which a full one may follow, at rest: CPython's own figure."""
MANY = 1000
"""The same while there is work: what was made since the last one is walked, which then is little."""
NEVER = 1 << 30
REST_NS = 5 * 1_000_000_000
"""Without a call for so long, the loop is at rest."""
WHOLE_NS = 3600 * 1_000_000_000
"""How often, at most and only at rest, what was set aside is walked too: of that, cycles may have died as well."""


class Heap:
    """The collector's time-table. ``settle`` once the daemon is made, ``upkeep`` about once a second."""

    def __init__(self) -> None:
        self._whole_ns = 0
        self._calls = 0
        self._rests_ns = 0

    def settle(self, now_ns: int) -> None:
        """What there is now stays and is not walked; from now on no full collection comes by itself. Blocks."""
        self._collect(now_ns)
        self._rests_ns = now_ns + REST_NS
        young, middle, _ = gc.get_threshold()
        gc.set_threshold(young, middle, NEVER)

    def upkeep(self, now_ns: int, calls: int, pending: int) -> None:
        """Collects where it is time for it; at rest it may block for some tenths of a second, once an hour.

        ``calls`` is how many were taken so far, ``pending`` how many of them have no answer.
        """
        if pending or calls != self._calls:
            self._calls, self._rests_ns = calls, now_ns + REST_NS
        at_rest = now_ns >= self._rests_ns
        since = gc.get_count()[2]
        if at_rest and since >= FEW and now_ns - self._whole_ns >= WHOLE_NS:
            gc.unfreeze()
            self._collect(now_ns)
        elif since >= (FEW if at_rest else MANY):
            gc.collect()
            gc.freeze()

    def _collect(self, now_ns: int) -> None:
        gc.collect()
        gc.freeze()
        self._whole_ns = now_ns
