"""What a worker has used, and whose it is: CPU time by call, memory and waits by the governor's latest sample.

The CPU time of a call is the difference of two readings of its process's clock. What a worker uses without a call is
nobody's figure; it is reported (``Neighbours.on_uncalled``) so that it goes on record all the same.
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
"""CPU time without a call that makes a record of its own: a worker at a tenth of a core makes ten a second at most."""


class Accounts:
    """Reads ``links``, which are the executor's by worker number, and keeps which worker of a plugin is its latest."""

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
        plugin's latest; nothing for ``worker`` 0, of a call that no worker has begun. Asked at each call's verdict.

        Without a ``run_ns``, how long the call ran, its CPU time is left for the next call's figure.
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

        If calls run at once, what all of them have used since is the figure of the one that is answered next: the
        figures' sum is exact, and each alone is not. The figure is ``run_ns`` at most, how long the call ran: one
        thread uses no more. What is above that was used without a call. A little of it comes from comparing two clocks
        and is left to the next call's figure; more of it is reported as uncalled. A killed worker has a figure until
        the zygote has reaped it; afterwards it is 0.
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
        """The worker is ready: what it has used until now was for booting and is charged to no caller."""
        with contextlib.suppress(OSError):
            link.cpu_ns = time.clock_gettime_ns(~link.pid << 3 | CPUCLOCK_SCHED)

    def close(self, link: WorkerLink, exited: inner.Exited) -> None:
        """The worker is dead: reports what it used after its figure was last read, in the call that it died in or
        after it."""
        left_ns = exited.user_ns + exited.system_ns - link.cpu_ns
        if link.ready and left_ns >= UNCALLED_NS // 10:
            self._neighbours.on_uncalled(link.spec.id, link.user_id, left_ns)

    def add_host_ns(self, plugin: str, spent_ns: int) -> None:
        """Another process of the daemon has spent ``spent_ns`` on the plugin's call under way. The time goes on the
        account of its latest worker, or of an older one if that still owes an answer and the latest does not."""
        link = self._links.get(self._latest.get(plugin, 0))
        if link is None or link.owed <= 0:
            link = next((one for one in self._links.values() if one.spec.id == plugin and one.owed > 0), link)
        if link is not None:
            link.host_ns += spent_ns
