"""What a worker has used, and for which call: CPU time by call, memory and throttling by the governor's latest sample.

The CPU time of a call is the difference between two readings of its process's CPU clock. CPU time that a worker uses
without a call belongs to no call; it is reported (``Neighbours.on_uncalled``) so that it is recorded nevertheless.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping

from apex_exec.core.limits import MS_NS
from apex_exec.executor.links.overhead import Used
from apex_exec.executor.links.worker_link import WorkerLink
from apex_exec.executor.ports import Neighbours
from workers import wire as inner

CPUCLOCK_SCHED = 2
"""The kernel's clock id for the CPU time of process p is ``~p << 3 | 2`` (clock_getcpuclockid)."""
UNCALLED_NS = 10 * MS_NS
"""From this much CPU time without a call on it gets a record of its own. A worker at a tenth of a core makes ten such
records a second at most."""


class Accounts:
    """Reads ``links``, the executor's links by worker number, and remembers the latest worker of each plugin."""

    def __init__(self, links: Mapping[int, WorkerLink], neighbours: Neighbours) -> None:
        self._links = links
        self._neighbours = neighbours
        self._latest: dict[str, int] = {}

    def opened(self, link: WorkerLink) -> None:
        """The worker of ``link`` is its plugin's latest."""
        self._latest[link.spec.id] = link.worker

    def released(self, link: WorkerLink) -> None:
        """The worker is gone."""
        if self._latest.get(link.spec.id) == link.worker:
            del self._latest[link.spec.id]

    def sample(self, worker: int, call: int = 0) -> tuple[float, int]:
        """Returns (memory in MB, throttled ns) by the latest sample: of ``call`` alone, or of the worker's life."""
        governing = self._neighbours.governing
        return governing.usage(worker, call) if governing is not None else (0.0, 0)

    def usage_of(self, plugin: str) -> tuple[float, int]:
        """Returns the sample of the plugin's latest worker."""
        worker = self._latest.get(plugin)
        return self.sample(worker) if worker is not None else (0.0, 0)

    def used(self, worker: int, call: int, run_ns: int) -> Used:
        """Returns what ``call`` has used, from the accounts of the worker that it ran on, which need not be its
        plugin's latest worker. All figures are 0 if ``worker`` is 0, which means that the call never ran. This is asked
        once for each call, at its verdict.

        ``run_ns`` is how long the call ran. If it is 0, the CPU time is left for the next call's figure.
        """
        link = self._links.get(worker)
        if link is None:
            return Used()
        used = Used()
        governing = self._neighbours.governing
        if governing is not None:
            used.memory_mb, used.throttled_ns = governing.usage(link.worker, call)
            if link.shared:
                used.throttled_ns = governing.held_ns(link.worker, run_ns)
        if link.host_ns > 0:
            used.host_ns, link.host_ns = link.host_ns, 0
        if run_ns and link.pid:
            used.cpu_ns = self._cpu_since(link, run_ns)
        return used

    def _cpu_since(self, link: WorkerLink, run_ns: int) -> int:
        """Returns the CPU time (ns) that the worker has used since this was last asked, by the kernel's count. Costs
        0.4 µs.

        If calls run at once, the call that is answered next gets what all of them have used since the last answer: the
        sum of the figures is exact, but a single figure is not. A figure is at most ``run_ns``, how long the call ran,
        since a worker has one thread. CPU time above that was used without a call. A little of it comes from comparing
        two clocks and is left to the next call's figure; more than that is reported as uncalled. The clock of a killed
        worker can be read until the zygote has reaped it; after that the figure is 0.
        """
        try:
            total_ns = time.clock_gettime_ns(~link.pid << 3 | CPUCLOCK_SCHED)
        except OSError:
            return 0
        spent_ns, link.cpu_ns = total_ns - link.cpu_ns, total_ns
        if spent_ns <= run_ns:
            return spent_ns
        if spent_ns - run_ns < UNCALLED_NS or (link.shared and link.owed):  # other calls ran meanwhile
            link.cpu_ns -= spent_ns - run_ns
        else:
            self._neighbours.on_uncalled(link.spec.id, link.user_id, spent_ns - run_ns)
        return run_ns

    def begin(self, link: WorkerLink) -> None:
        """The worker is ready. What it has used so far was for booting, and belongs to no call."""
        with contextlib.suppress(OSError):
            link.cpu_ns = time.clock_gettime_ns(~link.pid << 3 | CPUCLOCK_SCHED)

    def close(self, link: WorkerLink, exited: inner.Exited) -> None:
        """The worker is dead: reports the CPU time that it used after its clock was last read, during the call in which
        it died or afterwards."""
        left_ns = exited.user_ns + exited.system_ns - link.cpu_ns
        if link.ready and left_ns >= UNCALLED_NS // 10:
            self._neighbours.on_uncalled(link.spec.id, link.user_id, left_ns)

    def add_host_ns(self, plugin: str, spent_ns: int) -> None:
        """Another process of the daemon has spent ``spent_ns`` on a call of the plugin. The time goes to the account of
        the plugin's latest worker, or of an older worker if that one still owes an answer and the latest does not."""
        link = self._links.get(self._latest.get(plugin, 0))
        if link is None or link.owed <= 0:
            link = next((one for one in self._links.values() if one.spec.id == plugin and one.owed > 0), link)
        if link is not None:
            link.host_ns += spent_ns
