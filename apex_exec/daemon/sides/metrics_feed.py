"""The hand-over of metrics to the exporter process: what changed, twice a second, a little in each turn of the loop."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from apex_exec.core.limits import SECOND_NS
from apex_exec.daemon.duties import Duty
from apex_exec.daemon.sides.side_process import SideProcess
from apex_exec.observe.messages import Beat
from apex_exec.observe.metrics import Metrics

if TYPE_CHECKING:
    from apex_exec.executor.loop import Loop

EXPORT_NS = SECOND_NS // 2
EXPORT_SERIES = 2000
"""Series that are handed over in EXPORT_NS at most."""
PORTION = 200
"""Of them in one turn: a third of a millisecond of the loop's time; all 2,000 at once were 3."""


class MetricsFeed:
    """Keeps the exporter up to date. ``side`` is its process, which is not attached yet and is started when somebody
    first connects to ``listener``; ``duty`` does the work."""

    def __init__(self, loop: Loop, listener: socket.socket, metrics: Metrics) -> None:
        self._loop = loop
        self._metrics = metrics
        self._left = 0
        self._begins_ns = 0
        self.side = SideProcess(
            "exporter", "apex_exec.observe.exporter:main",
            {"listener": listener, "per_plugin_histograms": metrics.per_plugin_histograms},
            handlers={}, on_up=self._up)
        self.duty = Duty("metrics feed", 0, self._hand_over)
        self._listener = listener
        loop.add(listener.fileno(), lambda _: loop.wake(self.side))

    def _up(self) -> None:
        """The process accepts connections from now on; a dead one's wait in the listener until the next is up."""
        self._loop.remove(self._listener.fileno())
        self._metrics.resend()
        self._begins_ns = 0
        self.duty.due_ns = 0
        self.side.send(Beat())

    def _hand_over(self, now_ns: int) -> bool:
        """Hands over one portion; True if there is more."""
        if now_ns >= self._begins_ns:
            self._begins_ns = now_ns + EXPORT_NS
            self._left = EXPORT_SERIES
            self.side.send(Beat())
        self._left -= PORTION
        for message in self._metrics.changes(PORTION):
            if not self.side.send(message) and self.side.up:
                self._metrics.resend()  # it is too slow to take them: all again, when it has room
                self._left = 0
                break
        if self._left <= 0 or not self._metrics.changed:
            self._left = 0
        self._loop.side_changed(self.side)
        self.duty.due_ns = 0 if self._left else self._begins_ns
        return bool(self._left)
