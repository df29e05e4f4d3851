"""Rates, on the caller's clock. Pure.

``SharedWindow`` refuses: it allows at most ``limit`` tries in any ``window_ns``, and divides them among users. It is
exact, because it keeps the time of each of the last ``limit`` tries, and bounded, because it keeps no more. ``Pace``
never refuses, and says how long to wait instead.
"""

from __future__ import annotations

from collections import deque

MINUTE_NS = 60_000_000_000


USERS_SEEN = 16
"""Users of one plugin that are remembered: enough to know of everybody that somebody else is there, and to divide the
tries among more users than a plugin of 100 requests a minute can serve well."""
USERS_MIN = 4
"""The tries are divided among this number of users at least, even if fewer try."""


class SharedWindow:
    """The tries of one plugin, shared by its users. The plugin never makes more than ``limit`` in any ``window_ns``.
    While another user is present, none makes more than a quarter of them, or than its part if more than four users try.

    Alone, a user may make them all, and a refused try counts like any other: who keeps trying keeps waiting. Among
    several no refused try counts: it would keep the others waiting, for ever if together they try more often than they
    may. ``limit`` 0 refuses every try.
    """

    __slots__ = ("_limit", "_of", "_present", "_tries", "_trying", "_window_ns")

    def __init__(self, limit: int, window_ns: int = MINUTE_NS) -> None:
        self._limit = limit
        self._window_ns = window_ns
        self._tries: deque[tuple[int, str]] = deque()
        self._of: dict[str, deque[int]] = {}  # user → when each of the user's tries was
        self._present: dict[str, int] = {}  # user → when the user was last seen, the latest at the end
        self._trying: dict[str, int] = {}  # the same, of those who made a try

    def present(self, user_id: str, now_ns: int) -> None:
        """A call of ``user_id`` asks the platform for something, whatever it is."""
        _see(self._present, user_id, now_ns)

    def take(self, user_id: str, now_ns: int) -> tuple[int, bool]:
        """Counts one try of ``user_id``. Gives (0, False) if it may pass, else the nanoseconds until one may, and
        whether it is the user's share that is used up."""
        since_ns, limit = now_ns - self._window_ns, self._limit
        _see(self._trying, user_id, now_ns)
        while self._tries and self._tries[0][0] <= since_ns:
            self._forget_one()
        if not limit:
            return self._window_ns, False
        mine = self._of.get(user_id, ())
        alone = not any(seen_ns > since_ns for user, seen_ns in self._present.items() if user != user_id)
        if not alone:
            users = sum(1 for seen_ns in self._trying.values() if seen_ns > since_ns)
            share = max(1, limit // max(USERS_MIN, users))
            if len(mine) >= share:
                return mine[-share] + self._window_ns - now_ns, True
        full = len(self._tries) >= limit
        if not full or alone:
            if full:
                self._forget_one()
            self._tries.append((now_ns, user_id))
            self._of.setdefault(user_id, deque()).append(now_ns)
        return (self._tries[0][0] + self._window_ns - now_ns if full else 0), False

    def resize(self, limit: int) -> None:
        """Sets another limit; the latest tries still count."""
        self._limit = limit
        while len(self._tries) > limit:
            self._forget_one()

    def handed_over(self, now_ns: int) -> list[tuple[int, str]]:
        """What was counted in the last ``window_ns``, for another node: the age of each try, and whose it was."""
        return [(now_ns - at_ns, user_id) for at_ns, user_id in self._tries if at_ns > now_ns - self._window_ns]

    def adopt(self, tries: list[tuple[int, str]], now_ns: int) -> None:
        """Counts what another node has counted (``handed_over``), beside what is here."""
        merged = sorted([*self._tries, *((now_ns - max(0, age_ns), user_id) for age_ns, user_id in tries)])
        self._tries.clear()
        self._of.clear()
        for at_ns, user_id in merged[-self._limit:] if self._limit else ():
            self._tries.append((at_ns, user_id))
            self._of.setdefault(user_id, deque()).append(at_ns)
            _see(self._trying, user_id, at_ns)
            _see(self._present, user_id, at_ns)

    def _forget_one(self) -> None:
        """Forgets the oldest try."""
        _, user_id = self._tries.popleft()
        mine = self._of[user_id]
        mine.popleft()
        if not mine:
            del self._of[user_id]


def _see(users: dict[str, int], user_id: str, now_ns: int) -> None:
    """Notes when a user was seen; of more than USERS_SEEN, the one who was seen first is forgotten."""
    users.pop(user_id, None)
    users[user_id] = now_ns
    if len(users) > USERS_SEEN:
        del users[next(iter(users))]


class Pace:
    """What may come in: ``rate`` a second, ``burst`` at once. What is over that is taken all the same, and the next one
    waits for it."""

    __slots__ = ("_at_ns", "_level", "burst", "rate")

    def __init__(self, rate: float, burst: int, now_ns: int) -> None:
        self.rate = rate
        self.burst = burst
        self._level = float(burst)
        self._at_ns = now_ns

    def take(self, now_ns: int, count: int = 1) -> int:
        """Counts ``count``; gives the nanoseconds after which the next may come, 0 if it may come at once."""
        if now_ns > self._at_ns:
            self._level = min(float(self.burst), self._level + (now_ns - self._at_ns) * self.rate / 1e9)
            self._at_ns = now_ns
        self._level -= count
        return 0 if self._level >= 0 else int(-self._level / self.rate * 1e9) + 1
