"""The breaker and the restart backoff of one plugin, as Erlang's supervisors bound restarts. Pure.

What counts is an *abnormal end of a worker*: a crash, a kill at a deadline or at a limit, a violation, a failed boot.
Stops that the daemon commanded, kills for a cancelled call and the loss of the zygote do not count.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from msgspec import Struct

from apex_exec.core.limits import SECOND_NS

__all__ = ["NO_CALL", "SECOND_NS", "UNCHARGED", "Breaker", "BreakerPolicy"]

NO_CALL = -1
UNCHARGED = frozenset(("idle", "evicted", "recycled", "drained", "cancelled", "zygote_lost", "faulted", "overrun"))
"""Exit reasons that the breaker does not count. Most of them are not the plugin's fault. The breaker of a ``faulted``
plugin is open already, and an ``overrun`` worker, whose code went on after its answer, has kept nobody waiting."""
USERS_MIN = 3
"""Ends whose culprits are known open the breaker only if at least this number of users caused them. If it was fewer
users, these are paused one by one."""
BreakerState = Literal["closed", "open", "half_open"]


class BreakerPolicy(Struct, frozen=True):
    """Defaults of the ``[breaker]`` configuration section."""

    ends_max: int = 5
    window_ns: int = 60 * SECOND_NS
    open_ns: int = 60 * SECOND_NS
    stable_ns: int = 10 * SECOND_NS
    backoff_min_ns: int = SECOND_NS // 10
    backoff_max_ns: int = 30 * SECOND_NS


class Breaker:
    """One plugin's breaker. Its state follows from the time, and these are its moves::

        from        by                                                          to
        closed      the ``ends_max``-th abnormal end in the window (if three    open
                    users or more caused them, see ``ended``), a
                    violation (``trip=True``), a fault of ours (``trip``)
        open        ``open_ns`` have passed                                     half_open
        half_open   the one call that is let through, the probe, is answered    closed
        half_open   another abnormal end, while the probe is out (if it is a    open
                    user's, only with those of two others, see ``ended``)
        any         an operator closes it (``reset``)                           closed

    ``probe`` is the call that a half-open breaker let through; it is NO_CALL while there is none. A probe that proves
    nothing (cancelled, or expired before it ran) is forgotten, and the next call may try.
    """

    __slots__ = ("_culprits", "_ends", "_policy", "consecutive", "open_until_ns", "probe", "start_after_ns")

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._ends: deque[int] = deque(maxlen=policy.ends_max)
        self._culprits: deque[str] = deque(maxlen=policy.ends_max)  # the users of the ends; "" where none is known
        self.consecutive = 0
        self.open_until_ns = 0
        self.probe = NO_CALL
        self.start_after_ns = 0

    def reconfigure(self, policy: BreakerPolicy) -> None:
        """Uses ``policy`` from now on. Earlier ends stay counted, and an open breaker stays open until its time."""
        self._policy = policy
        self._ends = deque(self._ends, maxlen=policy.ends_max)
        self._culprits = deque(self._culprits, maxlen=policy.ends_max)

    def state(self, now_ns: int) -> BreakerState:
        """The state by the table above."""
        if self.open_until_ns == 0:
            return "closed"
        return "open" if now_ns < self.open_until_ns else "half_open"

    def refuses_ns(self, now_ns: int) -> int:
        """Nanoseconds until a call may be tried; 0 if it may be tried now. Half-open lets one probe through."""
        if self.open_until_ns == 0:
            return 0
        if now_ns < self.open_until_ns:
            return self.open_until_ns - now_ns
        return SECOND_NS if self.probe != NO_CALL else 0

    def ended(self, now_ns: int, ran_ns: int, jitter: float, *, trip: bool = False, culprit: str = "") -> bool:
        """Counts one abnormal end after ``ran_ns`` of life; True if it opened the breaker.

        ``jitter`` is in [0, 1). ``trip`` opens the breaker at once (a violation). ``culprit`` is the user whose call
        ended the worker, "" if that is not known. One or two users neither open the breaker nor keep it open, because
        they are paused one by one (``UserBreakers``). An end without a culprit counts as one of another user.

        The first restart is immediate. From the second consecutive end on a restart waits, twice as long each time
        within the policy's bounds, and the jitter takes away up to half of the wait. Ends by one or two culprits count
        as a single consecutive end, since those users' calls are soon refused and other users wait for the worker.
        """
        policy, culprits = self._policy, self._culprits
        again = bool(culprit and culprits and culprits[-1] == culprit)
        self._ends.append(now_ns)
        culprits.append(culprit)
        many = culprits.count("") + len({*culprits} - {""}) >= min(USERS_MIN, policy.ends_max)
        if ran_ns >= policy.stable_ns:
            self.consecutive = 1
        elif not self.consecutive or not culprit or (many and not again):
            self.consecutive += 1
        full = len(self._ends) == policy.ends_max and now_ns - self._ends[0] <= policy.window_ns
        opens = trip or (many and full) or (self.probe != NO_CALL and (many or not culprit))
        if opens:
            self.open_until_ns = now_ns + policy.open_ns
            self._ends.clear()
            culprits.clear()
        self.probe = NO_CALL
        if self.consecutive >= 2:
            backoff_ns = min(policy.backoff_max_ns, policy.backoff_min_ns << min(self.consecutive - 2, 20))
            self.start_after_ns = now_ns + max(policy.backoff_min_ns, int(backoff_ns * (0.5 + jitter / 2)))
        return opens

    def trip(self, now_ns: int) -> None:
        """Opens the breaker at once, for a reason other than the end of a worker."""
        self.open_until_ns = now_ns + self._policy.open_ns
        self._ends.clear()
        self._culprits.clear()
        self.probe = NO_CALL

    def reset(self) -> bool:
        """Closes the breaker and forgets all earlier ends; True if it was not closed."""
        was_open = self.open_until_ns != 0
        self._ends.clear()
        self._culprits.clear()
        self.consecutive = self.open_until_ns = self.start_after_ns = 0
        self.probe = NO_CALL
        return was_open

    def succeeded(self, ran_ns: int) -> bool:
        """A call was answered, by a worker that has lived for ``ran_ns``; True if that closed the breaker. A stable
        worker finishes the series of consecutive ends."""
        closes = self.probe != NO_CALL
        if closes:
            self.probe = NO_CALL
            self.open_until_ns = 0
        if ran_ns >= self._policy.stable_ns:
            self.consecutive = 0
        return closes
