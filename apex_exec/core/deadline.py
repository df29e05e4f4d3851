"""When something is next due: a heap with at most one live entry for each owner, so it does not grow with the calls.

An owner (a worker, a plugin) keeps its own due times and asks to be woken at the earliest of them. It is harmless to
wake it too early: it looks at its times and asks again. So a due time that moves later costs nothing, and only one that
moves earlier pushes an entry. The entries that become outdated by this are counted and swept. If all timeouts are
equal, that is one push for each owner and timeout, and not one for each call.
"""

from __future__ import annotations

import heapq

NEVER_NS = 1 << 62
STALE_MAX = 16
"""Outdated entries tolerated beyond the live ones."""


class Timed:
    """Something that can be woken. ``armed_ns`` is when it is woken, NEVER_NS if it is not armed; ``entry`` is the
    number of its one live entry in the heap. Only Timers writes these two."""

    __slots__ = ("armed_ns", "entry")

    def __init__(self) -> None:
        self.armed_ns = NEVER_NS
        self.entry = 0


class Timers:
    """The heap. Owners that are due at the same time are woken in the order in which they were armed. ``wake_ns`` is
    when the first entry is due, NEVER_NS if there is none. It may be too early, because that entry is outdated, but is
    never too late; so the loop may compare it with the clock in every round. ``pop_due`` corrects it."""

    __slots__ = ("_heap", "_stale", "_tie", "wake_ns")

    def __init__(self) -> None:
        self.wake_ns = NEVER_NS
        self._heap: list[tuple[int, int, Timed]] = []
        self._tie = 0
        self._stale = 0

    def __len__(self) -> int:
        return len(self._heap)

    def arm(self, owner: Timed, due_ns: int) -> None:
        """Wakes ``owner`` at ``due_ns`` at the latest. Does nothing if it will be woken earlier anyway."""
        if due_ns >= owner.armed_ns:
            return
        if owner.armed_ns != NEVER_NS:
            self._outdate()
        owner.armed_ns = due_ns
        owner.entry = self._tie = self._tie + 1
        heapq.heappush(self._heap, (due_ns, self._tie, owner))
        if due_ns < self.wake_ns:
            self.wake_ns = due_ns

    def drop(self, owner: Timed) -> None:
        """Wakes ``owner`` no more."""
        if owner.armed_ns != NEVER_NS:
            owner.armed_ns = NEVER_NS
            owner.entry = 0
            self._outdate()

    def next_ns(self) -> int | None:
        """When the first owner is due; None if no owner is armed."""
        heap = self._heap
        while heap:
            due_ns, entry, owner = heap[0]
            if owner.entry == entry:
                self.wake_ns = due_ns
                return due_ns
            heapq.heappop(heap)
            self._stale -= 1
        self.wake_ns = NEVER_NS
        return None

    def pop_due(self, now_ns: int) -> Timed | None:
        """Takes out the first owner that is due, and disarms it; None if none is due."""
        due_ns = self.next_ns()
        if due_ns is None or due_ns > now_ns:
            return None
        owner = heapq.heappop(self._heap)[2]
        owner.armed_ns = NEVER_NS
        owner.entry = 0
        return owner

    def _outdate(self) -> None:
        """One more entry is stale; sweeps them if they are many."""
        self._stale += 1
        if self._stale <= STALE_MAX + len(self._heap) // 2:
            return
        self._heap = [entry for entry in self._heap if entry[2].entry == entry[1]]
        heapq.heapify(self._heap)
        self._stale = 0
