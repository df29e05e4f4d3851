"""Workers that are forked and jailed before it is known for which plugin, so that a cold call need not wait for that.

A spare has passed its self-test and waits for its ``Load``; it has run no byte of any plugin. Once it is given to a
plugin it serves that plugin for the rest of its life, like any other worker. If no spare waits, a worker is forked when
it is needed.
"""

from __future__ import annotations

import select
import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from apex_exec.core.limits import MS_NS
from apex_exec.executor.links.worker_link import UNCLAIMED, WorkerLink

if TYPE_CHECKING:
    from apex_exec.executor.processes.zygote_keeper import ZygoteKeeper

BOOT_NS_MAX = 10_000 * MS_NS
"""How long a spare may take until it is jailed; after that it is killed."""
PAUSE_NS = 1000 * MS_NS
"""After a spare was refused or died, no other spare is forked for this time, since the machine may have no room."""


class WarmPool:
    """Keeps ``wanted`` spares of one runtime. ``take`` gives one away; ``missing`` says how many are to be forked."""

    def __init__(self, keeper: ZygoteKeeper, wanted: int) -> None:
        self.wanted = wanted
        self.keeper = keeper
        self.placeholder = msgspec.structs.replace(UNCLAIMED, runtime=keeper.runtime)
        """The spec of a spare."""
        self._coming: dict[int, WorkerLink] = {}
        self._waiting: deque[WorkerLink] = deque()
        self._paused_until_ns = 0

    def __len__(self) -> int:
        """How many spares wait for a plugin."""
        return len(self._waiting)

    def missing(self, now_ns: int) -> int:
        """Returns how many spares are to be forked now."""
        if not self.keeper.ready or now_ns < self._paused_until_ns:
            return 0
        return self.wanted - len(self._waiting) - len(self._coming)

    def fork(self, link: WorkerLink) -> None:
        """Asks the zygote for a spare, with a link that was made for it."""
        self._coming[link.forked_as] = link
        self.keeper.ask(link)

    def check(self, link: WorkerLink) -> None:
        """The spare has booted, or its pidfd has come. Once both are so, it may be taken."""
        if link.booted and link.pidfd >= 0 and self._coming.pop(link.forked_as, None) is not None:
            self._waiting.append(link)

    def take(self) -> WorkerLink | None:
        """Takes out and returns a spare that is ready and alive; None if there is none."""
        while self._waiting:
            link = self._waiting.popleft()
            if not _is_dead(link.pidfd):
                return link
        return None  # the zygote will report the dead ones

    def lost(self, link: WorkerLink) -> None:
        """The spare was refused, or died."""
        self._paused_until_ns = time.monotonic_ns() + PAUSE_NS
        self._coming.pop(link.forked_as, None)
        if link in self._waiting:
            self._waiting.remove(link)

    def all(self) -> list[WorkerLink]:
        """Returns every spare, booting or waiting."""
        return [*self._coming.values(), *self._waiting]

    def upkeep(self, now_ns: int) -> None:
        """Kills spares that do not finish booting. Call it once a second."""
        for link in self._coming.values():
            if now_ns - link.started_ns > BOOT_NS_MAX:
                self.keeper.kill(link)


def _is_dead(pidfd: int) -> bool:
    """Whether the process has ended: its pidfd is readable from then on."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
