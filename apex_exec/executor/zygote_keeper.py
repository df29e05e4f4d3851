"""The one zygote: watched, asked for forks as fast as it takes them, replaced where it dies or falls silent.

It knows nothing of what the workers do; who asked for a fork hears what came of it.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from apex_exec.common.backoff import Backoff
from apex_exec.core.limits import MS_NS
from apex_exec.executor.loop import Loop
from apex_exec.executor.worker_link import WorkerLink
from apex_exec.executor.zygote_link import ZygoteLink
from workers import wire as inner

if TYPE_CHECKING:
    from apex_exec.observe.logs import Logs
    from apex_exec.observe.metrics import Metrics

BACKOFF_NS_MIN = 100 * MS_NS
BACKOFF_NS_MAX = 5000 * MS_NS
STABLE_NS = 10_000 * MS_NS
"""A zygote that lived this long is replaced at once; one that did not waits twice as long each time."""
KEEP_SECONDS = 0.25
"""How often it is looked whether a new one is due."""
SAID_NS_MIN = 1000 * MS_NS
"""What a living zygote writes to its standard error is logged so often at most; the rest is dropped."""
BOOT_NS_MAX = 15_000 * MS_NS
"""How long a zygote may take until it says that it is ready."""


class Asker(Protocol):
    """Who hears of what the zygote did, by the link that the fork was asked with or the number that it bears."""

    def zygote_up(self) -> None:
        """It takes requests."""

    def zygote_lost(self, now_ns: int) -> None:
        """It is gone, and its workers with it (PDEATHSIG); another one is being started."""

    def jail_of(self, link: WorkerLink) -> dict[str, Any]:
        """The worker's map for ``Fork``. Raises RuntimeError where there is no room."""

    def forked(self, number: int, pid: int, pidfd: int) -> None:
        """There is a process; the pidfd is the asker's now."""

    def refused(self, number: int, why: str) -> None:
        """There is no process, and never was. ``why`` is for the log."""

    def exited(self, message: inner.Exited) -> None:
        """The process has ended and is reaped."""

    def failed(self, number: int, error: Exception) -> None:
        """One of these, or ``jail_of``, has failed for the worker ``number`` (0: for none)."""


class ZygoteKeeper:
    """Forks by way of one zygote at a time. ``link.forked_as`` is the number that the zygote knows a worker by."""

    def __init__(self, loop: Loop, *, start: Callable[[], ZygoteLink], zygote: ZygoteLink, asker: Asker,
                 metrics: Metrics, logs: Logs) -> None:
        self.ready = False
        """True while a zygote answers."""
        self._loop = loop
        self._start = start
        self._zygote = zygote
        self._asker = asker
        self._metrics = metrics
        self._logs = logs
        self._waiting: deque[WorkerLink] = deque()
        self._backoff = Backoff(BACKOFF_NS_MIN, BACKOFF_NS_MAX)
        self._due_ns = 0  # when a new one is tried; 0 where there is one
        self._started_ns = time.monotonic_ns()
        self._said_ns = 0
        self._loop.every(KEEP_SECONDS, self._keep)
        self._watch()

    @property
    def pid(self) -> int:
        """The zygote's process id."""
        return self._zygote.pid

    # ------------------------------------------------------------------ forks
    def ask(self, link: WorkerLink) -> None:
        """Asks for a process for ``link``, now or as soon as the zygote takes it."""
        self._waiting.append(link)
        self._hand_over()

    def unask(self, link: WorkerLink) -> bool:
        """Takes back what was asked; False where the zygote has it already."""
        if link not in self._waiting:
            return False
        self._waiting.remove(link)
        return True

    def kill(self, link: WorkerLink) -> OSError | None:
        """SIGKILL for the worker of ``link``: through its pidfd, or, if the kernel refuses that, by the zygote, whose
        child it is. Returns the refusal, for the caller to tell. A worker that does not end in spite of both costs the
        zygote, whose own end the kernel passes on to its children (PDEATHSIG)."""
        refusal = link.kill()
        if refusal is not None:
            self.kill_child(link.forked_as)
        return refusal

    def kill_child(self, number: int) -> None:
        """Has the zygote kill a worker that the supervisor has no pidfd of."""
        self._zygote.kill(number)

    def _hand_over(self) -> None:
        """Hands waiting requests to the zygote, as many as it takes."""
        while self._waiting and self.ready:
            link = self._waiting[0]
            try:
                jail = self._asker.jail_of(link)
            except RuntimeError as error:
                self._waiting.popleft()
                self._asker.refused(link.forked_as, str(error))
                continue
            except Exception as error:  # it would be the first in the row for ever
                self._waiting.popleft()
                self._asker.failed(link.forked_as, error)
                self._asker.refused(link.forked_as, "the supervisor failed at its jail")
                continue
            if not self._zygote.fork(link.forked_as, jail, link.theirs.fileno(), link.marks_write):
                return  # its socket is full: the next message from it, or the next second, tries again
            self._waiting.popleft()
            link.handed_over()

    # ------------------------------------------------------------------ the zygote's life
    def _watch(self) -> None:
        zygote = self._zygote
        self._loop.add(zygote.fileno(), lambda _: self._io(zygote))
        self._loop.add(zygote.said_fileno, lambda _: self._hear(zygote))

    def _hear(self, zygote: ZygoteLink) -> None:
        said = zygote.hear()
        if said is None:
            self._loop.remove(zygote.said_fileno)
        elif self.ready and said.strip() and (now_ns := time.monotonic_ns()) - self._said_ns > SAID_NS_MIN:
            self._said_ns = now_ns  # of one that dies before it is ready, the reason of its death is told
            self._logs.log("warning", f"the zygote says: {said.strip()}")

    def _io(self, zygote: ZygoteLink) -> None:
        try:
            messages = zygote.receive()
        except (OSError, EOFError, msgspec.DecodeError):
            self._lost(zygote)
            return
        for message, fd in messages:
            try:
                self._take(message, fd)
            except Exception as error:  # the other workers' news are as good as they were
                self._asker.failed(getattr(message, "worker", 0), error)
                if isinstance(message, inner.Forked):  # nobody may have noted how to kill it
                    self.kill_child(message.worker)
        self._hand_over()

    def _take(self, message: Any, fd: int) -> None:
        if isinstance(message, inner.ZygoteReady):
            self.ready = True
            self._metrics.health["zygote"] = ""
            self._asker.zygote_up()
        elif isinstance(message, inner.Forked):
            self._asker.forked(message.worker, message.pid, fd)
        elif isinstance(message, inner.Exited):
            self._asker.exited(message)
        elif isinstance(message, inner.ForkFailed):
            self._asker.refused(message.worker, os.strerror(message.errno))

    def _lost(self, zygote: ZygoteLink, *, silent: bool = False) -> None:
        if zygote is not self._zygote or self._due_ns:
            return  # known already
        now_ns = time.monotonic_ns()
        self.ready = False
        self._loop.remove(zygote.fileno())
        self._loop.remove(zygote.said_fileno)
        zygote.abandon(silent=silent)
        if now_ns - self._started_ns >= STABLE_NS:
            self._backoff.reset()
            self._due_ns = now_ns
        else:  # it may well die again as fast, and a start costs a core some tenths of a second
            self._due_ns = now_ns + self._backoff.take()
        self._failed(f"the zygote died ({zygote.why()})", now_ns)
        self._asker.zygote_lost(now_ns)
        self._keep(now_ns)

    def _failed(self, what: str, now_ns: int) -> None:
        when = f"in {(self._due_ns - now_ns) / 1e9:g} s" if self._due_ns > now_ns else "at once"
        self._logs.log("error", f"{what}; no worker runs without one, and a new one is started {when}")
        self._metrics.health["zygote"] = f"{what} and is being restarted; no worker can start"

    def replace(self) -> None:
        """Kills a zygote that reports no ends any more; its loss then takes the usual course."""
        self._logs.log("error", "the zygote does not report the end of a killed worker; it is replaced")
        self._lost(self._zygote, silent=True)

    def wait_ready(self) -> str:
        """Blocks until the zygote is ready or has ended, before the loop runs. Returns why none that is started in its
        place would do better; "" where this one is ready, or is slow, or was ended from outside."""
        zygote = self._zygote
        while not self.ready and not self._due_ns:
            left_ns = self._started_ns + BOOT_NS_MAX - time.monotonic_ns()
            if left_ns <= 0 or not select.select([zygote.fileno()], [], [], left_ns / 1e9)[0]:
                break
            self._io(zygote)
        return zygote.why() if self._due_ns and zygote.ended_by_itself else ""

    def _keep(self, now_ns: int) -> None:
        """Starts a new zygote once it is due."""
        if self._due_ns and now_ns >= self._due_ns:
            try:
                self._zygote = self._start()
            except OSError as error:
                self._due_ns = now_ns + self._backoff.take()
                self._failed(f"a new zygote could not be started ({error})", now_ns)
            else:
                self._due_ns = 0
                self._started_ns = now_ns
                self._watch()

    def upkeep(self, now_ns: int) -> None:
        """Replaces a zygote that does not become ready. Call it once a second."""
        if self.ready:
            self._hand_over()
        elif not self._due_ns and now_ns - self._started_ns > BOOT_NS_MAX:
            self._logs.log("error", "the zygote does not become ready; it is replaced")
            self._lost(self._zygote, silent=True)

    def close(self) -> None:
        """Ends the zygote, and with it every worker."""
        if self._due_ns:
            return  # there is none
        self._loop.remove(self._zygote.fileno())
        self._loop.remove(self._zygote.said_fileno)
        self._zygote.close()
