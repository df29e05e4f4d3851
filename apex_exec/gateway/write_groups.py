"""Gathers the writes that wait for one database, so that one commit serves all of them.

A commit waits for the disk, which takes longer than most statements. So whatever waits when the database is free forms
a group: one transaction in which each write has a savepoint of its own. A group holds writes of several plugins in fair
order (``core.fair``: the plugin that has used the database least is next), and what the commit takes is divided among
them. A write that fails, is cancelled, or runs out of time leaves the others as they are; if it takes the transaction
with it, they are run again, and its plugin pays for what they did in vain.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from apex_exec.core.fair import FairQueue
from apex_exec.gateway.costs import COST, Cost
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.lock_turns import Turns
from apex_exec.gateway.threads import until_done

W = TypeVar("W")

GROUP_MAX = 64
"""The most writes of one group. Another limit may apply first: a plugin has at most two calls at a database at once."""
GROUP_NS = 20_000_000
"""No write of a group begins once its statements have taken this long: the group is committed, and the rest forms the
next one. A write that is not the group's first may take twice this long since the group began; one that needs longer is
taken back and begins a later group. So a slow statement delays the writes before it by some 20 ms, and those behind
it as if there were no groups."""


class Member(Generic[W]):
    """One write of a group. The thread that runs the group sets all that stands below ``is_slow``, and nobody else
    reads it before the group has ended."""

    __slots__ = ("answer", "cost", "cpu_ns", "due_ns", "error", "is_over", "is_slow", "is_taken", "owner", "result",
                 "stopped", "wall_ns", "write")

    def __init__(self, owner: str, due_ns: int, write: W) -> None:
        self.owner = owner
        self.due_ns = due_ns
        self.write = write
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.cost: Cost | None = COST.get()
        self.stopped = False
        """Whether nobody waits for the write any longer. It may be set while the write runs."""
        self.is_taken = False
        self.is_slow = False
        """Whether it took too long for a group and has to be the first of one."""
        self.is_over = False
        """Whether it has taken effect (``result``) or failed (``error``). Otherwise it is to be run later."""
        self.result: Any = None
        self.error: Exception | None = None
        self.wall_ns = 0
        self.cpu_ns = 0

    def end(self, error: Exception | None = None) -> None:
        """It has taken effect, or has failed with ``error``."""
        self.is_over, self.error = True, error


class Groups(Generic[W]):
    """The writes that wait for one database. ``run`` runs a group in a thread and ends each member of it, or leaves it
    to a later group; ``turns`` says when the database is free."""

    def __init__(self, turns: Turns, run: Callable[[Sequence[Member[W]]], Awaitable[None]]) -> None:
        self._turns = turns
        self._run = run
        self._queue: FairQueue[Member[W]] = FairQueue(0)
        self._next: Member[W] | None = None
        self._running: asyncio.Task[None] | None = None

    async def write(self, owner: str, due_ns: int, write: W) -> Any:
        """What ``write``, which is on behalf of ``owner``, results in, once it is committed.

        If the caller is cancelled, the write is stopped; if it was committed nevertheless, its result counts. Raises
        what the write raised."""
        member = Member(owner, due_ns, write)
        self._queue.push(owner, member, time.monotonic_ns())
        if self._running is None:
            self._running = asyncio.ensure_future(self._serve())
        try:
            return await asyncio.shield(member.answer)
        except asyncio.CancelledError:
            member.stopped = True
            if not member.is_taken:
                member.answer.cancel()
                raise
            await until_done(member.answer)
            if member.answer.exception() is None:
                return member.answer.result()
            raise

    async def close(self) -> None:
        """Waits for the group that runs."""
        if self._running is not None:
            await until_done(self._running)

    # ------------------------------------------------------------------ groups, one after another
    async def _serve(self) -> None:
        try:
            while self._queue.size or self._next is not None:
                async with self._turns.writing(""):
                    group = self._take()
                    if not group:
                        continue
                    error: Exception = ApiFailure("data_unavailable", "internal error of the gateway")
                    try:
                        await self._run(group)
                    except Exception as raised:  # noqa: BLE001 - it is the answer to each call, which its router logs
                        error = raised
                        for member in group:
                            if not member.is_over:
                                member.end(error)
                for member in group:
                    self._settle(member)
        finally:
            self._running = None

    def _take(self) -> list[Member[W]]:
        """The members of the next group, in the order in which they are to be run."""
        group: list[Member[W]] = []
        now_ns = time.monotonic_ns()
        while len(group) < GROUP_MAX:
            member, self._next = self._next, None
            if member is None:
                found = self._queue.pop(now_ns)
                if found is None:
                    break
                member = found[1]
            if member.answer.done():  # its call has ended while it waited
                self._queue.spend(member.owner, 0, now_ns)
            elif member.is_slow and group:
                self._next = member
                break
            else:
                member.is_taken = True
                group.append(member)
                if member.is_slow:  # whatever came with it would wait for it
                    break
        return group

    def _settle(self, member: Member[W]) -> None:
        """Answers a member's call, or lets it wait for a later group; either way its plugin pays."""
        now_ns = time.monotonic_ns()
        self._queue.spend(member.owner, member.wall_ns, now_ns)
        if member.cost is not None:
            member.cost.cpu_ns += member.cpu_ns
        member.wall_ns = member.cpu_ns = 0
        if not member.is_over and member.stopped:
            member.end(ApiFailure("cancelled", "the invocation has ended; nothing was changed"))
        if not member.is_over:
            member.is_taken = False
            self._queue.push(member.owner, member, now_ns)
        elif member.error is not None:
            member.answer.set_exception(member.error)
            member.answer.exception()  # it counts as seen, even if the call was cancelled meanwhile
        else:
            member.answer.set_result(member.result)


def divided(members: Sequence[Member[Any]], wall_ns: int, cpu_ns: int) -> None:
    """Charges what was spent for all ``members``, such as a commit, in equal parts (ns)."""
    for member in members:
        member.wall_ns += wall_ns // len(members)
        member.cpu_ns += cpu_ns // len(members)


def taken_back(members: Sequence[Member[Any]]) -> tuple[int, int]:
    """What ``members`` were charged so far, wall time and CPU time (ns): they are not charged that any longer."""
    spent = sum(member.wall_ns for member in members), sum(member.cpu_ns for member in members)
    for member in members:
        member.wall_ns = member.cpu_ns = 0
    return spent


@contextlib.contextmanager
def charged(*members: Member[Any]) -> Any:
    """Charges what this thread spends within the block to ``members``, in equal parts."""
    wall_ns, cpu_ns = time.monotonic_ns(), time.thread_time_ns()
    try:
        yield
    finally:
        if members:
            divided(members, time.monotonic_ns() - wall_ns, time.thread_time_ns() - cpu_ns)
