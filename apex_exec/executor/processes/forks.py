"""Processes for workers: asks the zygote of a worker's runtime for a process, and handles what zygotes report of them.

A worker has here the number that its zygote uses for it (``WorkerLink.forked_as``), from the moment its link is made
until the link is closed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from apex_exec.core import events as ev
from apex_exec.executor.links.start_health import StartHealth
from apex_exec.executor.links.worker_exits import LOST_NS_MAX, WorkerExits
from apex_exec.executor.links.worker_link import WorkerLink
from apex_exec.executor.loop import Loop
from apex_exec.executor.ports import Jails, Neighbours
from apex_exec.executor.processes.runtimes import zygote_of
from apex_exec.executor.processes.warm_pool import WarmPool
from apex_exec.executor.processes.zygote_keeper import ZygoteKeeper, ZygoteSource
from workers import wire as inner

if TYPE_CHECKING:
    from apex_exec.observe.logs import Logs
    from apex_exec.observe.metrics import Metrics


class Forks:
    """``warm`` holds for each runtime its spares and the keeper of its zygote; ``links`` every link by its number."""

    def __init__(self, loop: Loop, zygotes: Sequence[ZygoteSource], spares: int, *, jails: Jails, exits: WorkerExits,
                 neighbours: Neighbours, health: StartHealth,
                 failed: Callable[[str, Exception, WorkerLink | None], None], metrics: Metrics, logs: Logs) -> None:
        self.links: dict[int, WorkerLink] = {}
        self.warm = {one.runtime: WarmPool(ZygoteKeeper(loop, one, asker=self, metrics=metrics, logs=logs), spares)
                     for one in zygotes}
        self._loop = loop
        self._jails = jails
        self._exits = exits
        self._neighbours = neighbours
        self._health = health
        self._duty_failed = failed

    def pool_of(self, link: WorkerLink) -> WarmPool:
        """Returns the warm pool of the zygote that the worker is forked by."""
        return self.warm[zygote_of(link.spec.runtime)]

    @property
    def lacking(self) -> dict[str, str]:
        """Returns the languages that no zygote can run here, and why."""
        return {name: why for pool in self.warm.values() for name, why in pool.keeper.lacking.items()}

    # ------------------------------------------------------------------ what the executor asks for
    def ask(self, link: WorkerLink) -> None:
        """Asks for a process for the worker."""
        self.pool_of(link).keeper.ask(link)

    def unask(self, link: WorkerLink) -> bool:
        """Withdraws the request for a process. Returns False if the zygote has been asked already."""
        return self.pool_of(link).keeper.unask(link)

    def kill(self, link: WorkerLink) -> OSError | None:
        """Kills the worker now, or as soon as there is a process. Returns the kernel's answer if it refuses."""
        return self.pool_of(link).keeper.kill(link)

    def forget(self, link: WorkerLink) -> None:
        """The link is closed: reports of a zygote about its number are ignored from now on."""
        self.unask(link)
        if link.pidfd >= 0:
            self._loop.remove(link.pidfd)
        del self.links[link.forked_as]

    def orphaned(self, link: WorkerLink) -> None:
        """The worker is gone with its zygote."""
        if self.links.get(link.forked_as) is link:
            self._exits.lost(link)

    # ------------------------------------------------------------------ the zygotes' life
    def wait_ready(self) -> str:
        """Blocks, before the loop runs, until every zygote is ready or has ended. Returns why no other would do better,
        or "" (``ZygoteKeeper.wait_ready``)."""
        return next(filter(None, (pool.keeper.wait_ready() for pool in self.warm.values())), "")

    def replace(self, link: WorkerLink | None) -> None:
        """The end of a killed worker was not reported: kills its zygote, and thereby the worker. If ``link`` is None,
        the zygote is not known, and all zygotes are killed."""
        for pool in [self.pool_of(link)] if link is not None else self.warm.values():
            pool.keeper.replace()

    def want_spares(self, count: int) -> None:
        """Keeps ``count`` spares of each runtime from now on."""
        for pool in self.warm.values():
            pool.wanted = count

    def upkeep(self, now_ns: int) -> None:
        """Ends workers whose end a dead zygote never reported; looks after zygotes and spares. Call this once a second.
        """
        for link in list(self.links.values()):
            if link.lost_ns and now_ns - link.lost_ns > LOST_NS_MAX:
                self.orphaned(link)
        for pool in self.warm.values():
            pool.keeper.upkeep(now_ns)
            pool.upkeep(now_ns)

    def close(self) -> None:
        """Ends every zygote, and with it every worker."""
        for pool in self.warm.values():
            pool.keeper.close()

    # ------------------------------------------------------------------ what a zygote says (zygote_keeper.Asker)
    def failed(self, number: int, error: Exception) -> None:
        """A report of the zygote about a worker could not be handled."""
        self._duty_failed("message of the zygote", error, self.links.get(number))

    def zygote_up(self) -> None:
        """The zygote takes requests."""
        self._neighbours.step(ev.ZygoteUp(), time.monotonic_ns())

    def zygote_lost(self, runtime: str, now_ns: int) -> None:
        """A zygote is gone. We wait for the end of each of its workers by pidfd, so that the link is read to its end.
        """
        self._neighbours.step(ev.ZygoteLost(), now_ns)  # kills each worker whose pidfd is known
        for link in [link for link in self.links.values() if zygote_of(link.spec.runtime) == runtime]:
            link.lost_ns = now_ns
            link.kind.orphaned(link)
            if link.pidfd >= 0:
                self._loop.add(link.pidfd, lambda _, link=link: self.orphaned(link))  # type: ignore[misc]  # bound now

    def jail_of(self, link: WorkerLink) -> dict[str, Any]:
        """Returns what the zygote needs to know of the worker. Raises RuntimeError."""
        return self._jails.jail_for(link.worker, link.kind.jail_spec(link))

    def forked(self, number: int, pid: int, pidfd: int) -> None:
        """There is a process."""
        link = self.links.get(number)
        if link is None:
            if pidfd >= 0:
                os.close(pidfd)
            return
        link.pid, link.pidfd = pid, pidfd
        if link.pending_kill:
            self.kill(link)
        else:
            link.kind.forked(link)

    def refused(self, number: int, why: str) -> None:
        """There is no process."""
        link = self.links.get(number)
        if link is not None:
            now_ns = time.monotonic_ns()
            self._health.bad(f"no worker for {link.spec.id or 'a spare'}: {why}", now_ns)
            self._exits.refuse(link.worker, link.kind, link, now_ns)

    def exited(self, message: inner.Exited) -> None:
        """A process has ended."""
        link = self.links.get(message.worker)
        if link is not None:
            self._exits.exited(link, message)
