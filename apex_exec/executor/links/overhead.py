"""Charges the daemon's own work for plugins to the plugin for which it is done.

``plugin_overhead_seconds_total`` counts all of that work. What goes beyond an ordinary answer is also taken out of the
plugin's CPU bucket, from which its workers' CPU time is taken as well. What the loop has spent on a plugin's links
decides when they are read next: a plugin over its share waits, and other plugins do not.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from apex_exec.core.fair import FairQueue
from apex_exec.core.limits import MS_NS
from apex_exec.core.plugin import PluginSpec

if TYPE_CHECKING:
    from apex_exec.executor.links.worker_link import WorkerLink
    from apex_exec.executor.ports import Governing
    from apex_exec.observe.metrics import Metrics

BURST_NS = 10 * MS_NS
"""How much of the loop's time a plugin may take at once beyond its share: a large result, or a hundred API calls."""
ORDINARY_NS = 50_000
"""What one ordinary answer costs the loop, from the link to the host's reply (20 to 45 µs). This part is the caller's,
who asked for the call and has bounds of its own; only what goes beyond it is charged to the plugin."""


class Used(msgspec.Struct, gc=False):
    """What one invocation has used: ``memory_mb`` of its worker by the latest sample, ``throttled_ns`` for which it was
    held back, ``host_ns`` of the daemon's own CPU time beyond an ordinary answer, and ``cpu_ns`` of its worker."""

    memory_mb: float = 0.0
    throttled_ns: int = 0
    host_ns: int = 0
    cpu_ns: int = 0


class Overhead:
    """The accounts. ``reading`` holds the parked links, which wait for their plugin's turn to be read, in fair order.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.governing: Governing | None = None
        self.reading: FairQueue[WorkerLink] = FairQueue(BURST_NS)
        self._metrics = metrics
        self._plugins: set[str] = set()

    def tune(self, spec: PluginSpec, now_ns: int) -> None:
        """Serves the plugin with these limits from now on."""
        self._plugins.add(spec.id)
        self.reading.tune(spec.id, spec.limits.cpu_percent / 100, now_ns)

    def forget(self, plugin: str) -> None:
        """The plugin is not served any more."""
        self._plugins.discard(plugin)
        self.reading.forget(plugin)

    def count(self, plugin: str, where: str, spent_ns: int) -> None:
        """Counts CPU time for Prometheus without charging it."""
        if plugin in self._plugins:
            self._metrics.inc("plugin_overhead_seconds_total", (plugin, where), spent_ns / 1e9)

    def charge(self, plugin: str, cost_ns: int, now_ns: int) -> None:
        """Takes CPU time of any of the daemon's processes out of the plugin's bucket."""
        if self.governing is not None and plugin in self._plugins:
            self.governing.charge_host(plugin, cost_ns, now_ns)

    def records(self, plugin: str, executions_ns: int, others_ns: int) -> None:
        """Counts what the ledger process has spent on records. The record of a call is not charged, since a host has
        asked for the call; every other record is caused by the plugin and charged to it."""
        self.count(plugin, "ledger", executions_ns + others_ns)
        if others_ns:
            self.charge(plugin, others_ns, time.monotonic_ns())

    def read(self, plugin: str, cost_ns: int, now_ns: int) -> None:
        """Charges what the loop has spent on a link of ``plugin`` beyond ordinary answers."""
        self.reading.spend(plugin, cost_ns, now_ns)
        self.charge(plugin, cost_ns, now_ns)
