"""What happens if a duty of the loop fails: the plugin for which it was done is quarantined, and the others are served.

A *duty* is one thing that the loop does by itself, often for one plugin: taking a sample, handling a message of a
worker, of the zygote or of a side process, a timer, carrying out an action of the core, handing over metrics. Each duty
runs inside a ``try`` whose ``except`` calls the guard, and the loop goes on with the next duty. The guard

- counts the failure (``duty_failures_total``) and logs its traceback, once a minute for each duty and plugin;
- has the plugin concerned quarantined in the next turn, since in the middle of a step the core's state is not settled;
- if no plugin is concerned, has the loop rest for a moment, longer each time, so that a duty that fails again and again
  does not use a whole core, and says so in ``/readyz``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from apex_exec.common.backoff import Backoff
from apex_exec.core.limits import MS_NS, SECOND_NS

if TYPE_CHECKING:
    from apex_exec.observe.logs import Logs
    from apex_exec.observe.metrics import Metrics

LOG_NS = 60 * SECOND_NS
TOLD_MAX = 256
"""How many pairs of duty and plugin are remembered as logged. If there are more, all may be logged again."""
REST_NS_MIN = MS_NS
REST_NS_MAX = 100 * MS_NS
WELL_NS = 10 * SECOND_NS
"""If no other failure comes in this time, ``/readyz`` says yes again, and the next rest is the shortest again."""


class Guard:
    """``failed`` is called from ``except`` blocks all over the loop, ``upkeep`` about once a second."""

    def __init__(self, metrics: Metrics, logs: Logs) -> None:
        self.faulty: dict[str, str] = {}
        """Plugins that are to be quarantined, and what failed."""
        self.rest_ns = 0
        """How long the loop rests before its next round; the loop sets this back to 0."""
        self._metrics = metrics
        self._logs = logs
        self._told: dict[tuple[str, str], int] = {}
        self._rests = Backoff(REST_NS_MIN, REST_NS_MAX)
        self._failed_ns = 0

    def failed(self, duty: str, error: Exception, plugin: str = "") -> None:
        """``duty`` has raised ``error``. It was done for ``plugin``, or, if that is "", for no plugin. Never raises."""
        now_ns = time.monotonic_ns()
        self._metrics.inc("duty_failures_total", (duty,))
        if plugin:
            self.faulty[plugin] = f"the supervisor failed at it ({duty}); the daemon's log says how"
        else:
            self.rest_ns = self._rests.take()
            self._failed_ns = now_ns
            self._metrics.health["loop"] = f"a duty of the supervisor fails ({duty}); its log says how"
        key = duty, plugin
        if now_ns - self._told.get(key, -LOG_NS) >= LOG_NS:
            if len(self._told) >= TOLD_MAX:
                self._told.clear()
            self._told[key] = now_ns
            whose = f" for plugin {plugin}, which is quarantined" if plugin else ""
            self._logs.bug(f"the duty {duty!r} of the supervisor failed{whose}", error)

    def upkeep(self, now_ns: int) -> None:
        """Forgets a failure that concerned no plugin, if none has followed it for WELL_NS."""
        if self._failed_ns and now_ns - self._failed_ns > WELL_NS:
            self._failed_ns = 0
            self._rests.reset()
            self._metrics.health["loop"] = ""


def raise_it(_duty: str, error: Exception, _plugin: str) -> None:
    """Takes the place of a guard in tests and tools, where a fault is to be seen at once."""
    raise error
