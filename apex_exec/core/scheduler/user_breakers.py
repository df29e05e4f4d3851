"""Whose calls end a plugin's workers: one user's calls of one hook are paused before the plugin is. Pure.

A hook that kills its worker for one user's input takes the plugin away from all of its users. So an end that has a
culprit (the user whose call ended the worker, and the hook) is counted for that pair first, by the policy of the
plugin's own breaker: ``ends_max`` ends in ``window_ns`` pause the pair for ``open_ns``. After that the pair's calls are
let in again, and the first of them that ends a worker pauses the pair at once. The pair is also paused at once if the
call that a half-open breaker let through ends the worker, so that the next such call is another user's.
"""

from __future__ import annotations

from collections import deque

from apex_exec.core.scheduler.breaker import BreakerPolicy

PAIRS_MAX = 256
"""How many pairs of one plugin are remembered; the pair whose latest end is the longest ago is forgotten first. Each
pair has cost a worker, and the restart backoff bounds how fast different users can cost workers."""


class _Pair:
    __slots__ = ("ends", "open_until_ns")

    def __init__(self, ends_max: int) -> None:
        self.ends: deque[int] = deque(maxlen=ends_max)
        self.open_until_ns = 0


class UserBreakers:
    """The pairs of one plugin. ``known`` is empty until a call ends a worker. A pair stays until a call of it is
    answered after its pause, or when the window of its ends is over."""

    __slots__ = ("_policy", "known")

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self.known: dict[tuple[str, str], _Pair] = {}

    def reconfigure(self, policy: BreakerPolicy) -> None:
        """Uses ``policy`` from now on; what has happened stays counted."""
        self._policy = policy
        for pair in self.known.values():
            pair.ends = deque(pair.ends, maxlen=policy.ends_max)

    def ended(self, user_id: str, hook: str, now_ns: int, *, probed: bool = False) -> bool:
        """Counts the end of a worker by a call of ``user_id``; True if that pauses the user's calls of ``hook``.
        ``probed``: the call was the probe of the plugin's own breaker."""
        policy, key = self._policy, (user_id, hook)
        pair = self.known.pop(key, None) or _Pair(policy.ends_max)
        if len(self.known) >= PAIRS_MAX:
            del self.known[next(iter(self.known))]
        self.known[key] = pair
        if now_ns < pair.open_until_ns:
            return False  # the call had begun before the pause
        pair.ends.append(now_ns)
        full = len(pair.ends) == policy.ends_max and now_ns - pair.ends[0] <= policy.window_ns
        if not (full or probed or pair.open_until_ns):
            return False
        pair.open_until_ns = now_ns + policy.open_ns
        pair.ends.clear()
        return True

    def refuses_ns(self, user_id: str, hook: str, now_ns: int) -> int:
        """Nanoseconds until a call of the user's may be tried; 0 if it may be tried now."""
        pair = self.known.get((user_id, hook))
        return max(0, pair.open_until_ns - now_ns) if pair is not None else 0

    def succeeded(self, user_id: str, hook: str, now_ns: int) -> None:
        """A call of the user's was answered: the pair is forgotten if its pause, or the window of its ends, is over."""
        pair = self.known.get((user_id, hook))
        if pair is None or now_ns < pair.open_until_ns:
            return
        if pair.open_until_ns or now_ns - pair.ends[-1] > self._policy.window_ns:
            del self.known[user_id, hook]

    def paused(self, now_ns: int) -> int:
        """How many pairs are paused now."""
        return sum(1 for pair in self.known.values() if now_ns < pair.open_until_ns)

    def reset(self) -> None:
        """Forgets all that has happened."""
        self.known.clear()
