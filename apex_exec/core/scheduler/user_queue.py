"""The queue of a plugin that may run several calls at once: which user's call begins next, if a place is free.

This is start-time fair queueing. Every user has a *lane*, first in, first out, and every lane has a clock. A call
advances its lane's clock by what it has cost (``shared.cost_ns``: the place that it held, or the CPU that it used). The
next call is taken from the lane whose clock is furthest behind. *The present* is a clock of the whole queue, which each
call advances by its cost divided by the number of lanes that wait. A lane that comes back after a rest continues at the
present at the earliest, so that a rest cannot be saved up. So users get equal shares, however many calls one of them
sends.

If each user's calls keep their order (``one_each``), a lane is passed over as long as its user has a call on the link.
If they need not, a lane is passed over while its user has a quarter of the places and another user waits.

The calls of a plugin that runs one after another are served in the order in which they came (``CallQueue``).
``arrange`` says which of the two kinds the plugin is.
"""

from __future__ import annotations

import heapq
from collections import deque

from apex_exec.core.limits import MS_NS
from apex_exec.core.scheduler.invocation import Invocation
from apex_exec.core.scheduler.queue import DEAD_MAX, CallQueue

EXPECTED_NS = MS_NS
"""What a call is assumed to cost until it has been answered. Without this a user's calls would all be taken before any
of them is charged."""
LANES_KEPT = 1024
"""How many lanes are kept although no call waits in them, since their clocks are ahead of the present. If there are
more, those that are least ahead are forgotten."""


class _Lane:
    __slots__ = ("calls", "is_listed", "passed_ns", "user_id")

    def __init__(self, user_id: str, passed_ns: int) -> None:
        self.user_id = user_id
        self.calls: deque[Invocation] = deque()
        self.passed_ns = passed_ns
        self.is_listed = False


class UserQueue(CallQueue):
    """Calls that wait for a place, ordered by user."""

    __slots__ = ("_entries", "_is_shared", "_lanes", "_listed", "_now_ns", "_one_each", "_order", "_passed_over")

    def __init__(self) -> None:
        super().__init__()
        self._is_shared = False
        self._one_each = True
        self._lanes: dict[str, _Lane] = {}
        self._listed: list[tuple[int, int, _Lane]] = []  # a heap of the lanes that may be next, by their clocks
        self._passed_over: dict[str, _Lane] = {}  # lanes with calls whose users hold all the places that they may
        self._now_ns = 0  # the present of the lanes' clocks
        self._order = 0
        self._entries = 0  # calls in the lanes, tombstones included

    def arrange(self, *, is_shared: bool, one_each: bool) -> None:
        """Sets whether calls run at once from now on, and whether each user's calls keep their order. Calls that wait
        go on waiting."""
        if (is_shared, one_each) == (self._is_shared, self._one_each):
            return
        waiting = self.waiting()
        self._is_shared, self._one_each = is_shared, one_each
        self._calls = deque() if is_shared else deque(waiting)
        self._rebuild(waiting if is_shared else [])

    # ------------------------------------------------------------------ in
    def push(self, call: Invocation) -> None:
        """Puts ``call`` at the end of its lane."""
        if self._is_shared:
            self._join(call)
            self._enter(call)
        else:
            super().push(call)

    def push_front(self, call: Invocation) -> None:
        """Puts ``call``, which was on a link before and has not begun, at the head of its lane."""
        if not self._is_shared:
            super().push_front(call)
            return
        lane = self._lane(call)
        lane.calls.appendleft(call)
        self._entries += 1
        lane.passed_ns = min(lane.passed_ns, self._now_ns)  # the lane's last turn led to nothing, so it costs nothing
        if not lane.is_listed:
            self._list(lane)
        self._enter(call)

    def _join(self, call: Invocation) -> None:
        lane = self._lane(call)
        lane.calls.append(call)
        self._entries += 1
        if not lane.is_listed and lane.user_id not in self._passed_over:
            lane.passed_ns = max(lane.passed_ns, self._now_ns)  # a rest cannot be saved up
            self._list(lane)

    def _lane(self, call: Invocation) -> _Lane:
        user_id = call.request.user_id
        lane = self._lanes.get(user_id)
        if lane is None:
            lane = self._lanes[user_id] = _Lane(user_id, self._now_ns)
        return lane

    def _list(self, lane: _Lane) -> None:
        lane.is_listed = True
        self._passed_over.pop(lane.user_id, None)
        self._order += 1
        heapq.heappush(self._listed, (lane.passed_ns, self._order, lane))

    # ------------------------------------------------------------------ out
    def next_of(self, on_link: dict[str, int], places: int) -> Invocation | None:
        """The call that begins next, which stays in the queue; None if all calls that wait are of users who hold as
        many places as they may. ``on_link`` says how many calls each user has on the link, which has ``places``."""
        if not self._is_shared:
            return self.peek()
        listed = self._listed
        while listed:
            clock_ns, _, lane = listed[0]
            calls = lane.calls
            while calls and calls[0].state != "queued":
                calls.popleft()
                self._entries -= 1
            if lane.passed_ns > clock_ns and calls and len(listed) > 1:  # the lane was charged since it was listed
                heapq.heappop(listed)
                self._list(lane)
                continue
            if calls and on_link.get(lane.user_id, 0) < self._may_hold(places):
                return calls[0]
            heapq.heappop(listed)
            lane.is_listed = False
            if calls:
                self._passed_over[lane.user_id] = lane
            else:
                self._forget_lane(lane)
        if not self._one_each and self._passed_over:  # no other user asks for the places that are free
            lane = min(self._passed_over.values(), key=lambda lane: lane.passed_ns)
            self._list(lane)
            return lane.calls[0] if lane.calls[0].state == "queued" else self.next_of(on_link, places)
        return None

    def _may_hold(self, places: int) -> int:
        """How many places one user may hold, if others wait."""
        return 1 if self._one_each else max(1, places // 4)

    def take(self, call: Invocation) -> None:
        """Takes out ``call``, which ``next_of`` has just returned."""
        if not self._is_shared:
            self.pop()
            return
        lane = heapq.heappop(self._listed)[2]
        lane.is_listed = False
        lane.calls.popleft()
        self._entries -= 1
        self._now_ns = max(self._now_ns, lane.passed_ns)
        lane.passed_ns += EXPECTED_NS
        self._leave(call)
        if lane.calls:
            self._list(lane)

    def released(self, user_id: str, cost_ns: int) -> None:
        """A call of the user was answered and has cost ``cost_ns``: charges the user's lane, which may be next again.
        """
        lane = self._lanes.get(user_id)
        if lane is None:
            return
        lane.passed_ns += cost_ns - EXPECTED_NS
        self._now_ns += cost_ns // max(1, len(self._listed) + len(self._passed_over))
        if user_id in self._passed_over:
            self._list(lane)
        elif not lane.calls and not lane.is_listed:
            self._forget_lane(lane)

    def released_all(self) -> None:
        """The worker is gone, so no user holds a place any more."""
        for lane in list(self._passed_over.values()):
            self._list(lane)

    def _forget_lane(self, lane: _Lane) -> None:
        """No call waits in the lane. It is kept as long as its clock is ahead of the present, so that a user whose
        calls never wait is charged as well."""
        if lane.passed_ns <= self._now_ns:
            self._lanes.pop(lane.user_id, None)
        elif len(self._lanes) > LANES_KEPT + self.live:
            ahead = sorted((one for one in self._lanes.values() if not one.calls), key=lambda one: one.passed_ns)
            for one in ahead[: LANES_KEPT // 2]:
                self._lanes.pop(one.user_id, None)

    # ------------------------------------------------------------------ what CallQueue does with its own order
    def waiting(self) -> list[Invocation]:
        """All calls that wait here, in the order in which they came."""
        if not self._is_shared:
            return super().waiting()
        found = [call for lane in self._lanes.values() for call in lane.calls if call.state == "queued"]
        return sorted(found, key=lambda call: (call.arrived_ns, call.request.call))

    def pop(self) -> Invocation:
        """Takes out the oldest call; the queue must not be empty."""
        if not self._is_shared:
            return super().pop()
        call = self.waiting()[0]
        self._leave(call)
        return call

    def _sweep_if_worth_it(self) -> None:
        if not self._is_shared:
            super()._sweep_if_worth_it()
            return
        most = 2 * self.live + DEAD_MAX
        if len(self._by_deadline) > most or self._entries > most:
            self._rebuild(self.waiting())

    def _rebuild(self, waiting: list[Invocation]) -> None:
        """Makes lanes and deadlines anew for ``waiting``, without tombstones; the lanes' clocks stay."""
        clocks = {user_id: lane.passed_ns for user_id, lane in self._lanes.items() if lane.passed_ns > self._now_ns}
        self._lanes, self._listed, self._passed_over, self._entries = {}, [], {}, 0
        for call in waiting:
            self._join(call)
        for user_id, passed_ns in clocks.items():
            if user_id in self._lanes:
                self._lanes[user_id].passed_ns = passed_ns
        if self._is_shared:
            self._by_deadline = [(call.request.deadline_ns, tie, call) for tie, call in enumerate(waiting)]
            self._tie = max(self._tie, len(waiting))
            heapq.heapify(self._by_deadline)
