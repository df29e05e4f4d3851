"""What Prometheus sees of each plugin between calls: its queue, its calls in flight, the state of its breaker."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from apex_exec.core.scheduler.pool import Pool

if TYPE_CHECKING:
    from apex_exec.observe.metrics import Metrics

MEASURE_SECONDS = 0.25
MEASURED_AT_ONCE = 1000
"""Set the gauges of at most this many plugins in MEASURE_SECONDS, which takes about a millisecond."""
MEASURE_ROUNDS = 4
"""Fewer at once if all of them have their turn within this many rounds."""
BREAKER_STATES = ("closed", "open", "half_open")


class PluginGauges:
    """The gauges of the plugins that are served. ``failed(duty, error, plugin)`` is the guard's."""

    def __init__(self, pool: Pool, metrics: Metrics, failed: Callable[[str, Exception, str], None]) -> None:
        self._pool = pool
        self._metrics = metrics
        self._failed = failed
        self._breakers: dict[str, str] = {}  # plugin → its breaker's state, as last exported
        self._unmeasured: list[str] = []

    def add(self, plugin: str) -> None:
        """``plugin`` is served; nothing happens if it was before."""
        if plugin not in self._breakers:
            self._set_breaker(plugin, "closed")

    def forget(self, plugin: str) -> None:
        """``plugin`` is served no longer; its series go."""
        self._breakers.pop(plugin, None)
        self._metrics.forget_plugin(plugin)

    def breaker_changed(self, plugin: str, state: str) -> None:
        """Exports the new state, unless the plugin was removed meanwhile."""
        if plugin in self._breakers:
            self._set_breaker(plugin, state)

    def measure(self, now_ns: int) -> None:
        """Sets the gauges of some plugins, in turn: with ten thousand of them all at once would be felt."""
        for _ in range(min(MEASURED_AT_ONCE, -(-len(self._breakers) // MEASURE_ROUNDS))):
            if not self._unmeasured:
                self._unmeasured = list(self._breakers)
            plugin = self._unmeasured.pop()
            try:
                self._measure(plugin, now_ns)
            except Exception as error:
                self._failed("gauges", error, plugin)

    def _measure(self, plugin: str, now_ns: int) -> None:
        found = self._pool.gauge(plugin, now_ns)
        if found is None or plugin not in self._breakers:
            return
        self._metrics.set("queued", (plugin,), float(found[0]))
        self._metrics.set("in_flight", (plugin,), float(found[1]))
        if self._breakers[plugin] != found[2]:
            self._set_breaker(plugin, found[2])

    def _set_breaker(self, plugin: str, state: str) -> None:
        self._breakers[plugin] = state
        for name in BREAKER_STATES:
            self._metrics.set("breaker_state", (plugin, name), float(name == state))
