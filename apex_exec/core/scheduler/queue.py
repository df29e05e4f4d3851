"""The queue of one plugin: first in, first out, with cheap removal, expiry and a count for each user.

A call that is cancelled or expires stays where it stands as a tombstone: its state is no longer ``queued``. A tombstone
is dropped when it comes to the head, or when tombstones outnumber the calls that wait. So nothing here is worse than
O(log n) for each call, amortised.
"""

from __future__ import annotations

import heapq
from collections import deque

from apex_exec.core.deadline import NEVER_NS
from apex_exec.core.scheduler.invocation import Invocation

DEAD_MAX = 16
"""Tombstones tolerated beyond twice the number of calls that wait."""


class CallQueue:
    """Calls that wait for room on a link. The pool checks the queue's bound before it calls ``push``."""

    __slots__ = ("_by_deadline", "_calls", "_by_user", "_tie", "live")

    def __init__(self) -> None:
        self._calls: deque[Invocation] = deque()
        self._by_deadline: list[tuple[int, int, Invocation]] = []
        self._by_user: dict[str, int] = {}
        self.live = 0
        """How many calls wait here. The hot path reads this; ``len`` gives the same at the price of a call."""
        self._tie = 0

    def __len__(self) -> int:
        return self.live

    def waiting_of(self, user_id: str) -> int:
        """Calls of ``user_id`` that wait here."""
        return self._by_user.get(user_id, 0)

    def has_others(self, user_id: str) -> bool:
        """Whether calls of anybody else wait here."""
        return len(self._by_user) > (user_id in self._by_user)

    def holds_most(self, share: int) -> str:
        """The user who has the most calls here, if these are more than ``share``; "" if no user has more."""
        user_id = max(self._by_user, key=self._by_user.__getitem__, default="")
        return user_id if self._by_user.get(user_id, 0) > share else ""

    def push(self, call: Invocation) -> None:
        """Puts ``call`` at the end."""
        self._calls.append(call)
        self._enter(call)

    def push_front(self, call: Invocation) -> None:
        """Puts ``call``, which was on a link before and has not begun, at the head."""
        self._calls.appendleft(call)
        self._enter(call)

    def waiting(self) -> list[Invocation]:
        """All calls that wait here, in order."""
        return [call for call in self._calls if call.state == "queued"]

    def peek(self) -> Invocation:
        """The oldest call, which stays in the queue; the queue must not be empty."""
        calls = self._calls
        while calls[0].state != "queued":
            calls.popleft()
        return calls[0]

    def pop(self) -> Invocation:
        """Takes out the oldest call; the queue must not be empty."""
        call = self.peek()
        self._calls.popleft()
        self._leave(call)
        return call

    def forget(self, call: Invocation) -> None:
        """Takes out ``call``, which the caller moves to its next state in the same step."""
        self._leave(call)
        self._sweep_if_worth_it()

    def pop_expired(self, now_ns: int) -> Invocation | None:
        """Takes out a call whose deadline has passed; None if there is none."""
        heap = self._by_deadline
        while heap and heap[0][0] <= now_ns:
            call = heapq.heappop(heap)[2]
            if call.state == "queued":
                self._leave(call)
                self._sweep_if_worth_it()
                return call
        return None

    def next_deadline_ns(self) -> int:
        """The earliest deadline of the calls that wait; NEVER_NS if none waits."""
        heap = self._by_deadline
        while heap and heap[0][2].state != "queued":
            heapq.heappop(heap)
        return heap[0][0] if heap else NEVER_NS

    def _enter(self, call: Invocation) -> None:
        self.live += 1
        user_id = call.request.user_id
        self._by_user[user_id] = self._by_user.get(user_id, 0) + 1
        self._tie += 1
        heapq.heappush(self._by_deadline, (call.request.deadline_ns, self._tie, call))
        self._sweep_if_worth_it()

    def _leave(self, call: Invocation) -> None:
        self.live -= 1
        user_id = call.request.user_id
        left = self._by_user[user_id] - 1
        if left:
            self._by_user[user_id] = left
        else:
            del self._by_user[user_id]
        if not self.live:  # only tombstones are left
            self._calls.clear()
            self._by_deadline.clear()

    def _sweep_if_worth_it(self) -> None:
        """Drops the tombstones if they are many. Their calls hold payloads, so tombstones must not stay until they come
        to the head."""
        most = 2 * self.live + DEAD_MAX
        if len(self._by_deadline) <= most and len(self._calls) <= most:
            return
        self._calls = deque(call for call in self._calls if call.state == "queued")
        self._by_deadline = [(call.request.deadline_ns, tie, call) for tie, call in enumerate(self._calls)]
        self._tie = max(self._tie, len(self._calls))
        heapq.heapify(self._by_deadline)
