"""Keeps one zygote running: hands it requests as fast as it takes them, and replaces it if it dies or falls silent.

The keeper knows nothing of what the workers do. The part that asked for a fork (``Asker``) is notified of the outcome.
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
from apex_exec.executor.links.worker_link import WorkerLink
from apex_exec.executor.loop import Loop
from apex_exec.executor.processes.zygote_link import ZygoteLink
from workers import wire as inner

if TYPE_CHECKING:
    from apex_exec.observe.logs import Logs
    from apex_exec.observe.metrics import Metrics

BACKOFF_NS_MIN = 100 * MS_NS
BACKOFF_NS_MAX = 5000 * MS_NS
STABLE_NS = 10_000 * MS_NS
"""A zygote that lived for this long is replaced at once. After a shorter life we wait, twice as long each time."""
KEEP_SECONDS = 0.25
"""How often the keeper looks whether a new zygote is due."""
SAID_NS_MIN = 1000 * MS_NS
"""What a living zygote writes to its standard error is logged at most once in this time; the rest is dropped."""
BOOT_NS_MAX = 15_000 * MS_NS
"""How long a zygote may take until it says that it is ready."""


class ZygoteSource(msgspec.Struct, frozen=True):
    """Where the zygotes of one runtime come from: ``first`` was started before any thread, ``start`` starts others."""

    runtime: str
    start: Callable[[], ZygoteLink]
    first: ZygoteLink


class Asker(Protocol):
    """Is notified of what the zygote did. ``number`` is the ``forked_as`` of the worker's link."""

    def zygote_up(self) -> None:
        """The zygote takes requests."""

    def zygote_lost(self, runtime: str, now_ns: int) -> None:
        """The zygote is gone, and its workers with it (PDEATHSIG); another zygote is being started."""

    def jail_of(self, link: WorkerLink) -> dict[str, Any]:
        """Returns the worker's map for ``Fork``. Raises RuntimeError if there is no room for the worker."""

    def forked(self, number: int, pid: int, pidfd: int) -> None:
        """There is a process; the pidfd is the asker's from now on."""

    def refused(self, number: int, why: str) -> None:
        """There is no process, and never was. ``why`` is for the log."""

    def exited(self, message: inner.Exited) -> None:
        """The process has ended and was reaped."""

    def failed(self, number: int, error: Exception) -> None:
        """One of these methods has failed for the worker ``number``, or for none if it is 0."""


class ZygoteKeeper:
    """Forks the workers of one runtime by way of one zygote at a time. ``link.forked_as`` is the number that the zygote
    knows a worker by."""

    def __init__(self, loop: Loop, source: ZygoteSource, *, asker: Asker, metrics: Metrics, logs: Logs) -> None:
        self.runtime = source.runtime
        self.ready = False
        """True while a zygote answers."""
        self.lacking: dict[str, str] = {}
        """The languages that this zygote cannot run on this machine, and why."""
        self.why_lost = ""
        """How the zygote that was lost last ended, and the last line that it wrote."""
        self._loop = loop
        self._start = source.start
        self._zygote = source.first
        self._asker = asker
        self._metrics = metrics
        self._logs = logs
        self._waiting: deque[WorkerLink] = deque()
        self._backoff = Backoff(BACKOFF_NS_MIN, BACKOFF_NS_MAX)
        self._due_ns = 0  # when a new zygote is tried; 0 while there is one
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
        """Withdraws the request. Returns False if the zygote has been handed it already."""
        if link not in self._waiting:
            return False
        self._waiting.remove(link)
        return True

    def kill(self, link: WorkerLink) -> OSError | None:
        """Kills the worker of ``link`` through its pidfd, or, if the kernel refuses that, has the zygote kill it, whose
        child it is. Returns the kernel's refusal, for the caller to report. If a worker does not end in spite of both,
        its zygote is killed (``replace``), and the kernel passes that end on to the zygote's children (PDEATHSIG)."""
        refusal = link.kill()
        if refusal is not None:
            self.kill_child(link.forked_as)
        return refusal

    def kill_child(self, number: int) -> None:
        """Has the zygote kill a worker whose pidfd we do not have."""
        self._zygote.kill(number)

    def _hand_over(self) -> None:
        """Hands as many waiting requests to the zygote as it takes."""
        while self._waiting and self.ready:
            link = self._waiting[0]
            try:
                jail = self._asker.jail_of(link)
            except RuntimeError as error:
                self._waiting.popleft()
                self._asker.refused(link.forked_as, str(error))
                continue
            except Exception as error:  # else the request would stay at the head of the queue for ever
                self._waiting.popleft()
                self._asker.failed(link.forked_as, error)
                self._asker.refused(link.forked_as, "the supervisor failed at its jail")
                continue
            if not self._zygote.fork(link.forked_as, jail, link.theirs.fileno(), link.marks_write):
                return  # its socket is full: we try again at its next message, or in a second
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
            self._said_ns = now_ns  # before a zygote is ready, its words are logged as the reason of its death
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
            except Exception as error:  # the other messages are about other workers, and are handled
                self._asker.failed(getattr(message, "worker", 0), error)
                if isinstance(message, inner.Forked):  # perhaps its pidfd was not stored, so we could not kill it
                    self.kill_child(message.worker)
        self._hand_over()

    def _take(self, message: Any, fd: int) -> None:
        if isinstance(message, inner.ZygoteReady):
            self.ready = True
            self.lacking = message.lacking
            for name, why in self.lacking.items():
                self._logs.log("warning", f"plugins in {name} are not available: {why}")
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
            return  # its loss was handled before
        now_ns = time.monotonic_ns()
        self.ready = False
        self._loop.remove(zygote.fileno())
        self._loop.remove(zygote.said_fileno)
        zygote.abandon(silent=silent)
        if now_ns - self._started_ns >= STABLE_NS:
            self._backoff.reset()
            self._due_ns = now_ns
        else:  # the next one may die as fast, and a start costs a core some tenths of a second
            self._due_ns = now_ns + self._backoff.take()
        self.why_lost = zygote.why()
        self._failed(f"the zygote died ({self.why_lost})", now_ns)
        self._asker.zygote_lost(self.runtime, now_ns)
        self._keep(now_ns)

    def _failed(self, what: str, now_ns: int) -> None:
        when = f"in {(self._due_ns - now_ns) / 1e9:g} s" if self._due_ns > now_ns else "at once"
        self._logs.log("error", f"{what}; no worker runs without one, and a new one is started {when}")
        self._metrics.health["zygote"] = f"{what} and is being restarted; no worker can start"

    def replace(self) -> None:
        """Kills a zygote that does not report ends any more, and handles its loss as usual."""
        self._logs.log("error", "the zygote does not report the end of a killed worker; it is replaced")
        self._lost(self._zygote, silent=True)

    def wait_ready(self, seconds: float = BOOT_NS_MAX / 1e9) -> str:
        """Blocks, before the loop runs, until the zygote is ready or has ended, for ``seconds`` at most. Returns why no
        zygote started in its place would do better; "" if this one is ready, is slow, or was ended from outside."""
        until_ns = self._started_ns + int(seconds * 1e9)
        zygote = self._zygote
        while not self.ready and not self._due_ns:
            left_ns = until_ns - time.monotonic_ns()
            if left_ns <= 0 or not select.select([zygote.fileno()], [], [], left_ns / 1e9)[0]:
                break
            self._io(zygote)
        return zygote.why() if self._due_ns and zygote.ended_by_itself else ""

    def _keep(self, now_ns: int) -> None:
        """Starts a new zygote once one is due."""
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
        """Replaces a zygote that does not become ready. Call this once a second."""
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
