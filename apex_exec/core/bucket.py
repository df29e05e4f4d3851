"""An exact sliding window: at most ``limit`` tries in any ``window_ns``, on the caller's clock. Pure.

Exact, because it keeps the time of each of the last ``limit`` tries, and bounded, because it keeps no more. A refused
try counts like any other: who keeps knocking keeps waiting.
"""

from __future__ import annotations

from collections import deque

MINUTE_NS = 60_000_000_000


class SlidingWindow:
    """The tries of one plugin. ``limit`` 0 refuses every try."""

    __slots__ = ("_tries", "limit", "window_ns")

    def __init__(self, limit: int, window_ns: int = MINUTE_NS) -> None:
        self.limit = limit
        self.window_ns = window_ns
        self._tries: deque[int] = deque(maxlen=limit)

    def take(self, now_ns: int) -> int:
        """Counts one try. 0 where it may pass, else the nanoseconds until the next one may if none comes before it."""
        tries = self._tries
        if not self.limit:
            return self.window_ns
        allowed = len(tries) < self.limit or now_ns - tries[0] >= self.window_ns
        tries.append(now_ns)
        return 0 if allowed else tries[0] + self.window_ns - now_ns

    def resize(self, limit: int) -> None:
        """Another limit from now on; the latest tries still count."""
        if limit != self.limit:
            self._tries = deque(self._tries, maxlen=limit)
            self.limit = limit
