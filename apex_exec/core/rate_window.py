"""Rates, on the caller's clock. Pure.

``SlidingWindow`` refuses: it allows at most ``limit`` tries in any ``window_ns``. It is exact, because it keeps the
time of each of the last ``limit`` tries, and bounded, because it keeps no more. A refused try counts like any other, so
a plugin that keeps trying keeps waiting. ``SharedWindow`` is one whose tries are divided among users. ``Pace`` never
refuses, and says how long to wait instead.
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


USERS_SEEN = 8
"""Users of one plugin that are remembered as present: enough to know of everybody that somebody else is."""


class SharedWindow:
    """The tries of one plugin, shared by its users: as exact as ``SlidingWindow`` for the plugin, and beside that no
    user makes more than a quarter of the tries while another user is present. Alone, a user may make them all."""

    __slots__ = ("_present", "_tries", "_window")

    def __init__(self, limit: int, window_ns: int = MINUTE_NS) -> None:
        self._window = SlidingWindow(limit, window_ns)
        self._tries: deque[tuple[int, str]] = deque(maxlen=limit)
        self._present: dict[str, int] = {}  # user → when the user was last seen, the latest at the end

    def present(self, user_id: str, now_ns: int) -> None:
        """A call of ``user_id`` asks the platform for something, whatever it is."""
        self._present.pop(user_id, None)
        self._present[user_id] = now_ns
        if len(self._present) > USERS_SEEN:
            del self._present[next(iter(self._present))]

    def take(self, user_id: str, now_ns: int) -> tuple[int, bool]:
        """Counts one try of ``user_id``. Gives (0, False) if it may pass, else the nanoseconds until one may, and
        whether it is the user's share that is used up. A try over the user's share does not count for the plugin."""
        since_ns = now_ns - self._window.window_ns
        if any(seen_ns > since_ns for user, seen_ns in self._present.items() if user != user_id):
            mine = [at_ns for at_ns, user in self._tries if user == user_id and at_ns > since_ns]
            share = -(-self._window.limit // 4)
            if len(mine) >= share:
                return mine[-share] + self._window.window_ns - now_ns, True
        self._tries.append((now_ns, user_id))
        return self._window.take(now_ns), False

    def resize(self, limit: int) -> None:
        """Sets another limit; the latest tries still count."""
        if limit != self._window.limit:
            self._window.resize(limit)
            self._tries = deque(self._tries, maxlen=limit)


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
