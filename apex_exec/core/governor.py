"""CPU and memory of plugins as decisions: a bucket of CPU time per plugin, and when memory is too much. Pure.

The bucket is the **plugin's** and outlives its workers, so a plugin whose workers are killed at every deadline gets no
more CPU than any other. CPU time is charged when it is measured (by samples, and by the zygote's rusage at a worker's
end). What was overdrawn between two samples is a debt, and the plugin is throttled until it is made up; so the average
is exact however coarse the samples are.
"""

from __future__ import annotations

from collections.abc import Iterator

from apex_exec.core.limits import MS_NS, SECOND_NS

QUANTUM_NS = 10 * MS_NS
"""CPU time that must have come back before a throttled plugin goes on: 100 ms of waiting at 10 %. With less, a plugin
would be stopped and continued more often than it is sampled; with more, users would notice a stutter."""
WAIT_NS_MAX = 3600 * SECOND_NS
"""The longest wait for one debt, however much CPU time a worker used between two samples."""
SHARE_MIN, SHARE_MAX = 0.001, 1000.0
"""A share outside these bounds becomes the nearer bound. Configuration and manifests refuse such shares, but the
governor divides by the share, so the result must be finite even if a check elsewhere is missing."""
BURST_SECONDS_MAX = 3600.0
SLACK_BYTES = 8 * 1024 * 1024
"""Beyond the plugin's memory, for the interpreter's own growth; RLIMIT_DATA allows the same and fires first."""
IDLE_BYTES_MAX = 6 * 1024 * 1024
"""What a worker's own first sample may claim as the cost of an idle worker (measured: 2 to 4 MB)."""


class CpuBucket:
    """``share`` CPU-seconds are added each second, up to ``burst_ns``. A ``level_ns`` below zero is a debt."""

    __slots__ = ("_at_ns", "burst_ns", "level_ns", "share")

    def __init__(self, share: float, burst_ns: int, now_ns: int) -> None:
        self.share = share
        self.burst_ns = burst_ns
        self.level_ns = float(burst_ns)
        self._at_ns = now_ns

    def refill(self, now_ns: int) -> None:
        """Brings the level to ``now_ns``; a clock that stands or goes back adds nothing."""
        if now_ns > self._at_ns:
            self.level_ns = min(float(self.burst_ns), self.level_ns + (now_ns - self._at_ns) * self.share)
            self._at_ns = now_ns

    def spend(self, cpu_ns: int, now_ns: int) -> None:
        """Takes out what was used up to ``now_ns``, and only then adds what has come in, which the burst may cut."""
        self.level_ns -= cpu_ns
        self.refill(now_ns)

    def wait_ns(self) -> int:
        """How long it takes from the present level until the bucket holds a quantum."""
        lacking_ns = min(QUANTUM_NS, self.burst_ns) - self.level_ns
        return max(0, int(min(float(WAIT_NS_MAX - 1), lacking_ns / self.share)) + 1)


class Governor:
    """The buckets of all plugins. ``charge`` says when a plugin is to be throttled, ``due`` when it may go on."""

    def __init__(self) -> None:
        self._buckets: dict[str, CpuBucket] = {}
        self._throttled: dict[str, int] = {}  # plugin → when it may go on

    def tune(self, plugin: str, cpu_percent: float, burst_seconds: float, now_ns: int) -> None:
        """The plugin's share from now on. What it has used, or owes, stays; a smaller burst cuts its savings."""
        share = _within(cpu_percent / 100, SHARE_MIN, SHARE_MAX)
        burst_ns = int(_within(burst_seconds, 0.0, BURST_SECONDS_MAX) * SECOND_NS)
        bucket = self._buckets.get(plugin)
        if bucket is None:
            self._buckets[plugin] = CpuBucket(share, burst_ns, now_ns)
            return
        if (bucket.share, bucket.burst_ns) != (share, burst_ns):
            bucket.refill(now_ns)
            bucket.share, bucket.burst_ns = share, burst_ns
            bucket.level_ns = min(bucket.level_ns, float(burst_ns))
            if plugin in self._throttled:
                self._throttled[plugin] = now_ns + bucket.wait_ns()

    def forget(self, plugin: str) -> None:
        """The plugin is removed."""
        self._buckets.pop(plugin, None)
        self._throttled.pop(plugin, None)

    def charge(self, plugin: str, cpu_ns: int, now_ns: int) -> bool:
        """Counts ``cpu_ns``; True if the plugin is to be throttled now and was not before.

        A plugin that is not known is not counted: the last worker of a removed plugin may end after the removal.
        """
        bucket = self._buckets.get(plugin)
        if bucket is None:
            return False
        bucket.spend(cpu_ns, now_ns)
        if bucket.share >= 1:
            return False  # a whole core: a worker has one thread and cannot take more
        if plugin in self._throttled:
            if cpu_ns:
                self._throttled[plugin] = now_ns + bucket.wait_ns()
            return False
        if bucket.level_ns > 0:
            return False
        self._throttled[plugin] = now_ns + bucket.wait_ns()
        return True

    def is_throttled(self, plugin: str) -> bool:
        """Whether the plugin's workers are stopped until CPU time has come back."""
        return plugin in self._throttled

    def next_due_ns(self) -> int | None:
        """When the first of the throttled plugins may go on; None if there is none."""
        return min(self._throttled.values(), default=None)

    def due(self, now_ns: int) -> Iterator[str]:
        """The plugins that may go on now; each is given once and is throttled no more."""
        for plugin in [plugin for plugin, until_ns in self._throttled.items() if until_ns <= now_ns]:
            del self._throttled[plugin]
            yield plugin


def _within(value: float, least: float, most: float) -> float:
    """``value``, or the bound nearest to it; ``least`` for NaN, since every comparison with NaN is false."""
    return min(value, most) if value >= least else least


def memory_bytes_max(memory_mb: int, idle_bytes: int) -> int:
    """The bound of a worker's own memory: the plugin's limit, the interpreter's slack, and the idle worker's size."""
    return memory_mb * 1024 * 1024 + SLACK_BYTES + min(idle_bytes, IDLE_BYTES_MAX)
