"""The same executor for a process that has nothing else to do: runs one job after the other and waits for each.

``plugin validate`` loads a bundle with it; ``plugin test`` and the marketplace run a bundle's tests with it. Zygote,
jail, link, protocol and ends are the daemon's (``local.LocalExecutor``). There is no core, no warm pool, no governor.
"""

from __future__ import annotations

import io
import time
from typing import Any

from apex_exec.core.limits import MS_NS, SECOND_NS
from apex_exec.executor.links.jobs import Job
from apex_exec.executor.local import LocalExecutor
from apex_exec.executor.loop import Loop
from apex_exec.executor.ports import Jails
from apex_exec.executor.processes.runtimes import PYTHON
from apex_exec.executor.processes.zygote_keeper import ZygoteSource
from apex_exec.executor.processes.zygote_link import ZygoteLink
from apex_exec.observe.logs import Logs
from apex_exec.observe.metrics import Metrics

START_SECONDS_MAX = 30.0
"""How long the zygote may take to start."""
END_NS_MAX = 5 * SECOND_NS
"""How long a killed worker may take to end; then its zygote is replaced, whose end the kernel passes on to it."""


class BlockingExecutor:
    """Starts a zygote with ``boot`` and waits for it. Only for a process without threads: it forks.

    Raises OSError, which says why, if no worker can be started.
    """

    def __init__(self, boot: dict[str, Any], jails: Jails, *, start_seconds: float = START_SECONDS_MAX) -> None:
        self.loop = Loop()
        self._executor = LocalExecutor(
            self.loop, zygotes=[ZygoteSource(PYTHON.name, lambda: ZygoteLink(boot), ZygoteLink(boot))],
            sandboxing=jails, source=_NoSource(), spares=0, step=lambda _event, _now_ns: None, metrics=Metrics(),
            logs=Logs(level="error", format="text", stream=_Silence()))  # each job tells its own end
        self.loop.every(1.0, self._executor.upkeep)
        self._job: Job | None = None
        self._killed_ns = 0
        self._keeper = self._executor.forks.warm[PYTHON.name].keeper
        self._keeper.wait_ready(start_seconds)
        if not self._keeper.ready:
            self.close()
            raise OSError(self._keeper.why_lost or "the zygote did not become ready")

    @property
    def lacking(self) -> dict[str, str]:
        """Returns the languages that the zygote cannot run on this machine, and why."""
        return self._keeper.lacking

    @property
    def zygote_pid(self) -> int:
        """The zygote's process id."""
        return self._keeper.pid

    def run(self, job: Job) -> None:
        """Runs ``job`` to its end, which the job itself hears of. Blocks until its worker is dead."""
        self._job, self._killed_ns = job, 0
        self._executor.start_job(job)
        self.loop.run(self._turn)

    def close(self) -> None:
        """Ends the zygote, and with it whatever is left of its workers."""
        self._keeper.close()

    def _turn(self) -> int:
        executor, job = self._executor, self._job
        assert job is not None
        now_ns = time.monotonic_ns()
        executor.read_parked(now_ns)
        if executor.unsettled:
            executor.follow_up(now_ns)
        executor.flush()
        if job.is_over:
            self.loop.stop()
            return 0
        if now_ns > job.due_ns:
            self._end(now_ns)
        due_ns = job.due_ns + 1 if now_ns <= job.due_ns else now_ns + 50 * MS_NS
        read_ns = executor.next_read_ns(now_ns)
        return due_ns if read_ns is None else min(due_ns, read_ns)

    def _end(self, now_ns: int) -> None:
        if not self._killed_ns:
            self._killed_ns = now_ns
            self._executor.upkeep(now_ns)
        elif now_ns - self._killed_ns > END_NS_MAX:
            self._killed_ns = now_ns
            self._keeper.replace()


class _Silence(io.StringIO):
    """Where lines go that nobody is to see: neither the executor's own nor what a plugin prints."""

    def write(self, text: str, /) -> int:
        """Drops ``text``."""
        return len(text)


class _NoSource:
    """Every job here brings its own files."""

    def load(self, digest: str) -> tuple[dict[str, bytes], dict[str, str]]:
        """Raises OSError."""
        raise OSError("no bundle is stored here")
