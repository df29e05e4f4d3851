"""Whose work is done next, if one process works for many plugins and learns only afterwards what the work cost. Pure.

Two rules, for links that are to be read, results that are to be checked, queries that are to be compiled:

* **Equal turns by cost, not by number** (start-time fair queueing; a deficit round-robin whose quantum is one piece of
  work). Every owner has its own clock, which runs by what its work has cost; the owner whose clock is furthest behind
  is next. An owner that comes back after a rest begins at the present, so that rest cannot be saved up.
* **No more than a share of the process.** Every owner has a bucket: ``share`` CPU-seconds come in each second, up to
  ``burst_ns``. What is spent is taken out, and an owner in debt waits until the debt is paid off, however idle the
  process is. So four plugins that ask for all they can get use four times their share, and the rest stays idle.

A piece of work that has begun is not interrupted, so each piece has to be small.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import Generic, TypeVar

from apex_exec.core.deadline import NEVER_NS

T = TypeVar("T")

SHARE_MIN = 0.001
"""The least share that is believed: it is divided by."""
EXPECTED_NS = 100_000
"""The assumed cost of a piece of work until its real cost is reported. Without it an owner could be served again and
again while several of its pieces are still running."""
OWNERS_KEPT = 4096
"""Accounts that are kept. If there are more, those that rest with a full bucket are forgotten, which changes nothing
for them."""


class _Account(Generic[T]):
    __slots__ = ("at_ns", "deferred_until_ns", "expected_ns", "items", "level_ns", "listed", "owner", "passed_ns",
                 "share", "stopped")

    def __init__(self, owner: str, share: float, level_ns: float, now_ns: int) -> None:
        self.owner = owner
        self.share = share
        self.level_ns = level_ns
        self.at_ns = now_ns
        self.passed_ns = 0.0
        self.expected_ns = 0  # of passed_ns: the assumed cost of pieces whose real cost was not reported yet
        self.items: deque[T] = deque()
        self.listed = False  # in one of the two heaps
        self.deferred_until_ns = 0
        self.stopped = False


class FairQueue(Generic[T]):
    """Work of many owners. ``burst_ns`` is what an owner may use at once, and ``share`` is what it gets unless ``tune``
    says otherwise. An owner with a share of 1 or more never waits for its bucket."""

    def __init__(self, burst_ns: int, share: float = 1.0) -> None:
        self._burst_ns = burst_ns
        self._share = share
        self._accounts: dict[str, _Account[T]] = {}
        self._ready: list[tuple[float, int, _Account[T]]] = []
        self._waiting: list[tuple[int, int, _Account[T]]] = []
        self._passed_ns = 0.0  # the virtual time of the owner that was served last
        self._tie = 0
        self.size = 0
        """How many items wait. An attribute, not ``len()``: the loop looks at it twice a turn."""

    # ------------------------------------------------------------------ accounts
    def tune(self, owner: str, share: float, now_ns: int) -> None:
        """The owner's share from now on; what it owes stays."""
        account = self._account(owner, now_ns)
        if account.share != share:
            self._refill(account, now_ns)
            account.share = max(SHARE_MIN, share)

    def spend(self, owner: str, cost_ns: int, now_ns: int) -> None:
        """The work of ``owner`` has cost ``cost_ns``, whether it was queued here or not."""
        account = self._account(owner, now_ns)
        self._refill(account, now_ns)
        account.level_ns -= cost_ns
        known_ns = min(account.expected_ns, EXPECTED_NS)
        account.expected_ns -= known_ns
        account.passed_ns += cost_ns - known_ns

    def wait_ns(self, owner: str, now_ns: int) -> int:
        """How long until work of ``owner`` may be done; 0 if it may be done now."""
        account = self._accounts.get(owner)
        if account is None:
            return 0
        self._refill(account, now_ns)
        return NEVER_NS if account.stopped else self._due_ns(account, now_ns)

    def defer(self, owner: str, until_ns: int, now_ns: int) -> None:
        """Does nothing for ``owner`` before ``until_ns``, whatever its bucket holds: the owner is over another rate."""
        account = self._account(owner, now_ns)
        account.deferred_until_ns = max(account.deferred_until_ns, until_ns)

    def stop(self, owner: str, now_ns: int) -> None:
        """Does nothing for ``owner`` until ``go``: something that it began is not finished."""
        self._account(owner, now_ns).stopped = True

    def go(self, owner: str, now_ns: int) -> None:
        """Ends ``stop``."""
        account = self._accounts.get(owner)
        if account is not None and account.stopped:
            account.stopped = False
            if account.items and not account.listed:
                self._list(account, now_ns)

    def forget(self, owner: str) -> None:
        """The owner is gone, and its work with it."""
        account = self._accounts.pop(owner, None)
        if account is not None:
            self.size -= len(account.items)
            account.items.clear()

    def _account(self, owner: str, now_ns: int) -> _Account[T]:
        account = self._accounts.get(owner)
        if account is None:
            if len(self._accounts) >= OWNERS_KEPT:
                self._tidy(now_ns)
            account = self._accounts[owner] = _Account(owner, self._share, float(self._burst_ns), now_ns)
        return account

    def _tidy(self, now_ns: int) -> None:
        for owner, account in list(self._accounts.items()):
            self._refill(account, now_ns)
            if not account.items and account.level_ns >= self._burst_ns and not account.stopped:
                del self._accounts[owner]

    def _refill(self, account: _Account[T], now_ns: int) -> None:
        passed_ns = now_ns - account.at_ns
        if passed_ns > 0:  # a clock that stands or goes back adds nothing
            account.at_ns = now_ns
            account.level_ns = min(float(self._burst_ns), account.level_ns + passed_ns * account.share)

    @staticmethod
    def _due_ns(account: _Account[T], now_ns: int) -> int:
        """How long until the owner may be served, at the present level."""
        deferred_ns = max(0, account.deferred_until_ns - now_ns)
        if account.level_ns >= 0 or account.share >= 1:
            return deferred_ns
        return max(deferred_ns, int(-account.level_ns / account.share) + 1)

    # ------------------------------------------------------------------ the queue
    def push(self, owner: str, item: T, now_ns: int) -> None:
        """``item`` is to be done for ``owner``, after what it has queued before."""
        account = self._account(owner, now_ns)
        account.items.append(item)
        self.size += 1
        if not account.listed:
            self._list(account, now_ns)

    def pop(self, now_ns: int) -> tuple[str, T] | None:
        """The next (owner, item); None if nothing waits, or if all owners of what waits are in debt."""
        waiting, ready = self._waiting, self._ready
        while waiting and waiting[0][0] <= now_ns:
            account = heapq.heappop(waiting)[2]
            account.listed = False
            if account.items:
                self._list(account, now_ns)
        while ready:
            listed_at_ns, _, account = heapq.heappop(ready)
            account.listed = False
            if not account.items:
                continue
            if account.passed_ns > listed_at_ns and ready:  # what it had last has cost more since it was listed
                self._list(account, now_ns)
                continue
            self._refill(account, now_ns)
            if account.stopped or self._due_ns(account, now_ns):  # it has spent since it was listed
                self._list(account, now_ns)
                continue
            self._passed_ns = max(self._passed_ns, account.passed_ns)
            item = account.items.popleft()
            self.size -= 1
            account.passed_ns += EXPECTED_NS
            account.expected_ns += EXPECTED_NS
            if account.items:
                self._list(account, now_ns)
            return account.owner, item
        return None

    def next_due_ns(self, now_ns: int) -> int | None:
        """When ``pop`` may give something: ``now_ns`` if it may at once, None if nothing waits."""
        if self._ready:
            return now_ns
        return self._waiting[0][0] if self._waiting else None

    def _list(self, account: _Account[T], now_ns: int) -> None:
        if account.stopped:
            return
        account.listed = True
        self._tie += 1
        self._refill(account, now_ns)
        due_ns = self._due_ns(account, now_ns)
        if due_ns:
            heapq.heappush(self._waiting, (now_ns + due_ns, self._tie, account))
        else:
            account.passed_ns = max(account.passed_ns, self._passed_ns)
            heapq.heappush(self._ready, (account.passed_ns, self._tie, account))
