"""Rates, on the caller's clock. Pure.

``SlidingWindow`` refuses: it allows at most ``limit`` tries in any ``window_ns``. It is exact, because it keeps the
time of each of the last ``limit`` tries, and bounded, because it keeps no more. A refused try counts like any other, so
a plugin that keeps trying keeps waiting. ``Pace`` never refuses, and says how long to wait instead.
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
        """Counts one try. Gives 0 if it may pass, else the nanoseconds until the next one may, if none comes before."""
        tries = self._tries
        if not self.limit:
            return self.window_ns
        allowed = len(tries) < self.limit or now_ns - tries[0] >= self.window_ns
        tries.append(now_ns)
        return 0 if allowed else tries[0] + self.window_ns - now_ns

    def resize(self, limit: int) -> None:
        """Sets another limit; the latest tries still count."""
        if limit != self.limit:
            self._tries = deque(self._tries, maxlen=limit)
            self.limit = limit


class Pace:
    """What may come in: ``rate`` a second, ``burst`` at once. What is over that is taken all the same, and the next one
    waits for it."""

    __slots__ = ("_at_ns", "_level", "burst", "rate")

    def __init__(self, rate: float, burst: int, now_ns: int) -> None:
        self.rate = rate
        self.burst = burst
        self._level = float(burst)
        self._at_ns = now_ns

    def take(self, now_ns: int) -> int:
        """Counts one; gives the nanoseconds after which the next may come, 0 if it may come at once."""
        if now_ns > self._at_ns:
            self._level = min(float(self.burst), self._level + (now_ns - self._at_ns) * self.rate / 1e9)
            self._at_ns = now_ns
        self._level -= 1.0
        return 0 if self._level >= 0 else int(-self._level / self.rate * 1e9) + 1
