"""Workers that are forked and jailed ahead, before anybody knows for which plugin: a cold call waits for none of it.

A spare has passed its self-test and waits for its ``Load``; it has run no byte of any plugin. It serves one plugin
for the rest of its life like any other worker. Where there is none, a worker is forked as it is needed.
"""

from __future__ import annotations

import select
import time
from collections import deque
from typing import TYPE_CHECKING

from apex_exec.core.limits import MS_NS
from apex_exec.core.plugin import PluginSpec
from apex_exec.executor.worker_link import WorkerLink

if TYPE_CHECKING:
    from apex_exec.executor.zygote_keeper import ZygoteKeeper

BOOT_NS_MAX = 10_000 * MS_NS
"""How long a spare may take to be jailed; then it is killed."""
PAUSE_NS = 1000 * MS_NS
"""After a spare was refused or died no other is forked for so long: a machine without room is not pressed for it."""
NOBODY = PluginSpec("", "", "", "", ())
"""Whom a spare belongs to."""


class Spares:
    """At most ``wanted`` of them. ``take`` gives one away; ``refill`` asks for what is missing."""

    def __init__(self, keeper: ZygoteKeeper, wanted: int) -> None:
        self.wanted = wanted
        self._keeper = keeper
        self._coming: dict[int, WorkerLink] = {}
        self._waiting: deque[WorkerLink] = deque()
        self._paused_until_ns = 0

    def __len__(self) -> int:
        """How many wait for a plugin."""
        return len(self._waiting)

    def missing(self, now_ns: int) -> int:
        """How many are to be forked now."""
        if not self._keeper.ready or now_ns < self._paused_until_ns:
            return 0
        return self.wanted - len(self._waiting) - len(self._coming)

    def fork(self, link: WorkerLink) -> None:
        """Asks for one, with a link that was made for it."""
        self._coming[link.forked_as] = link
        self._keeper.ask(link)

    def check(self, link: WorkerLink) -> None:
        """It has booted, or its process is known: with both it may be taken."""
        if link.booted and link.pidfd >= 0 and self._coming.pop(link.forked_as, None) is not None:
            self._waiting.append(link)

    def take(self) -> WorkerLink | None:
        """One that is ready and lives, no spare any more; None where there is none."""
        while self._waiting:
            link = self._waiting.popleft()
            if not _is_dead(link.pidfd):
                return link
        return None  # the zygote will say of the dead ones that they are

    def lost(self, link: WorkerLink) -> None:
        """It was refused, or died."""
        self._paused_until_ns = time.monotonic_ns() + PAUSE_NS
        self._coming.pop(link.forked_as, None)
        if link in self._waiting:
            self._waiting.remove(link)

    def all(self) -> list[WorkerLink]:
        """Each, booting or waiting."""
        return [*self._coming.values(), *self._waiting]

    def upkeep(self, now_ns: int) -> None:
        """Kills what does not come to be. Call it once a second."""
        for link in self._coming.values():
            if now_ns - link.started_ns > BOOT_NS_MAX:
                self._keeper.kill(link)


def _is_dead(pidfd: int) -> bool:
    """A pidfd is readable once its process has ended."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
