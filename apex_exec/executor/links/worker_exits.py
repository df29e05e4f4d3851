"""How workers end: makes one ``ProvenEnd`` of the evidence, and reports it once.

A worker has ended when the zygote has reaped it, when its zygote is lost, when it was killed before the zygote was
asked to fork it, or when the machine gave it no process. Before an end is reported, the link is read to its end,
because what the worker wrote before its death counts.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from apex_exec.core import actions as act
from apex_exec.core.limits import MS_NS
from apex_exec.executor.links.accounts import Accounts
from apex_exec.executor.links.link_reader import LinkReader
from apex_exec.executor.links.worker_link import Kind, ProvenEnd, WorkerLink
from apex_exec.executor.ports import Neighbours
from apex_exec.observe.metrics import UNWANTED_EXITS
from workers import wire as inner

if TYPE_CHECKING:
    from apex_exec.observe.logs import Logs
    from apex_exec.observe.metrics import Metrics

DRAIN_NS_MAX = 100 * MS_NS
"""How long the link of a dead worker is read at most; what the worker wrote before its death is there at once."""
LOST_NS_MAX = 1000 * MS_NS
"""How long after its zygote's death a worker without a pidfd may take to show its end."""
DEAD_NS = MS_NS
"""How long the link of one dead worker is read at most in one turn of the loop."""
QUIET_ENDS = ("idle", "drained")
"""Ends of workers that are not logged."""


LOST = ProvenEnd("WORKER_CRASHED", "the worker was lost with the daemon's zygote")
NEVER_STARTED = ProvenEnd("BOOT_FAILED", "the worker was not started in time")


def end_of(status: int, failure: str) -> ProvenEnd:
    """Returns the end that a process's raw wait status proves; ``failure`` is why the worker said it could not boot."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        code = "CPU_LIMIT" if number == signal.SIGXCPU else "WORKER_CRASHED"
        return ProvenEnd(code, f"the worker died of {name}", {"signal": number})
    number = os.waitstatus_to_exitcode(status)
    if number in (inner.EXIT_JAIL, inner.EXIT_LOAD) or failure:
        return ProvenEnd("BOOT_FAILED", failure or f"the worker exited with {number}", {"exitCode": number})
    return ProvenEnd("WORKER_CRASHED", f"the worker exited with {number}", {"exitCode": number})


class _Closing(msgspec.Struct, gc=False):
    """A dead worker whose link is still being read, until ``due_ns`` at most."""

    link: WorkerLink
    exited: inner.Exited | None
    lost: ProvenEnd
    due_ns: int


class WorkerExits:
    """Settles the ends of workers. ``release(link)`` frees what a link holds; ``unsettle()`` has ``follow_up`` called
    in this turn."""

    def __init__(self, reader: LinkReader, neighbours: Neighbours, accounts: Accounts, *,
                 release: Callable[[WorkerLink], None], failed: Callable[[str, Exception, WorkerLink | None], None],
                 unsettle: Callable[[], None], metrics: Metrics, logs: Logs) -> None:
        self._reader = reader
        self._neighbours = neighbours
        self._accounts = accounts
        self._release = release
        self._failed = failed
        self._unsettle = unsettle
        self._metrics = metrics
        self._logs = logs
        self._closing: list[_Closing] = []
        self._never: list[WorkerLink] = []  # killed before the zygote was asked to fork them
        self._refused: list[tuple[int, Kind, WorkerLink | None]] = []
        self._told: dict[int, tuple[int, str, str]] = {}  # (pid, code, message) while an end is being reported

    # ------------------------------------------------------------------ what has happened
    def exited(self, link: WorkerLink, message: inner.Exited) -> None:
        """The zygote has reaped the worker."""
        self._gone(link, message, LOST)

    def lost(self, link: WorkerLink) -> None:
        """The worker is gone with its zygote, so there will be no exit status."""
        self._gone(link, None, LOST)

    def never(self, link: WorkerLink) -> None:
        """The worker was killed before the zygote was asked to fork it; ``follow_up`` reports its end."""
        self._never.append(link)
        self._unsettle()

    def refuse_later(self, worker: int, kind: Kind, link: WorkerLink | None) -> None:
        """There is no process for the worker. ``follow_up`` reports that, since the core is in the middle of a step."""
        self._refused.append((worker, kind, link))
        self._unsettle()

    def refuse(self, worker: int, kind: Kind, link: WorkerLink | None, now_ns: int) -> None:
        """There is no process for the worker, and never was."""
        if link is not None and not link.closed:
            self._release(link)
        kind.refused(worker, now_ns)

    def follow_up(self, now_ns: int) -> bool:
        """Goes on with every end that had to wait. Returns True if any had to."""
        if not self._refused and not self._never and not self._closing:
            return False
        closing, self._closing = self._closing, []
        for one in closing:
            try:
                self._close(one)
            except Exception as error:
                one.link.closing = False  # the next news of the end may report it
                self._failed("end of a worker", error, one.link)
        while self._refused:
            worker, kind, link = self._refused.pop()
            try:
                self.refuse(worker, kind, link, now_ns)
            except Exception as error:
                self._failed("refused fork", error, link)
        never, self._never = self._never, []
        for link in never:
            try:
                self._gone(link, None, NEVER_STARTED)
            except Exception as error:
                self._failed("end of a worker", error, link)
        return True

    # ------------------------------------------------------------------ the end of one
    def _gone(self, link: WorkerLink, exited: inner.Exited | None, lost: ProvenEnd) -> None:
        if link.closing or link.closed:
            return
        link.closing = True
        try:
            self._close(_Closing(link, exited, lost, time.monotonic_ns() + DRAIN_NS_MAX))
        except Exception:
            link.closing = False  # the next news of the end may report it
            raise

    def _close(self, dead: _Closing) -> None:
        """Reads what the worker wrote before its death, for DEAD_NS in a turn, and then reports its end."""
        link, exited = dead.link, dead.exited
        if not self._reader.drain(link, dead.due_ns, DEAD_NS):
            self._closing.append(dead)
            self._unsettle()
            return
        end = end_of(exited.status, link.failure) if exited is not None else dead.lost
        if (evidence := self._over_a_limit(link, exited)) is not None:
            end = ProvenEnd(*evidence, end.details)
        if exited is not None:
            self._accounts.close(link, exited)
        begun = link.drain_marks()
        self._release(link)
        self._told[link.worker] = (link.pid, end.code, end.message)
        try:
            link.kind.ended(link, end, begun, time.monotonic_ns())
        finally:
            self._told.pop(link.worker, None)

    def _over_a_limit(self, link: WorkerLink, exited: inner.Exited | None) -> tuple[str, str] | None:
        """Returns (code, message) if the governor has evidence that a limit ended the worker."""
        governing = self._neighbours.governing
        if governing is None or not link.pid:
            return None
        try:
            return governing.worker_gone(link.worker, exited)
        except Exception as error:  # its end is reported all the same
            self._failed("governing", error, link)
            return None

    def tell(self, ended: act.WorkerEnded) -> str:
        """Writes a line into the daemon's log and the plugin's log, except for ends of QUIET_ENDS and if the plugin's
        room for failures is used up. Returns why the worker ended, or "" if no line was written."""
        if ended.reason in QUIET_ENDS:
            return ""
        now_ns = time.monotonic_ns()
        pid, code, message = self._told.get(ended.worker, (0, "", "it was never started"))
        if ended.reason == "boot_failed":
            self._metrics.failure(ended.plugin, "BOOT_FAILED", now_ns)
        why = ""
        if self._logs.failure_room(ended.plugin, now_ns):
            why = f"{code}: {message}" if code and code not in message else message
            self._logs.failure(ended.plugin, f"its worker{f' (pid {pid})' if pid else ''} ended, {ended.reason}: {why}"
                                             + ("; its breaker counts it" if ended.charged else ""),
                               "warning" if ended.reason in UNWANTED_EXITS else "info")
        return why
