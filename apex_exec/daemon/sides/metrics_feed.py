"""The hand-over of metrics to the exporter process: what changed, twice a second, a little in each turn of the loop."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from apex_exec.daemon.sides.side_process import SideProcess
from apex_exec.observe.metrics import Metrics

if TYPE_CHECKING:
    from apex_exec.daemon.supervisor import Supervisor

EXPORT_SECONDS = 0.5
EXPORT_SERIES = 2000
"""Series that are handed over in EXPORT_SECONDS at most."""
PORTION = 200
"""Of them in one turn: a third of a millisecond of the loop's time; all 2,000 at once were 3."""


class Exporting:
    """Keeps the exporter of ``supervisor`` up to date. Its process is started when somebody first connects to
    ``listener``, and after ``delay_seconds`` at the latest."""

    def __init__(self, supervisor: Supervisor, listener: socket.socket, metrics: Metrics,
                 delay_seconds: float) -> None:
        self._loop = supervisor.loop
        self._metrics = metrics
        self._left = 0
        self.side = SideProcess(
            "exporter", "apex_exec.observe.exporter:main",
            {"listener": listener, "per_plugin_histograms": metrics.per_plugin_histograms},
            on_message=lambda _: None, on_up=self._up)
        self._listener = listener
        self._loop.add(listener.fileno(), lambda _: self._loop.wake(self.side))
        supervisor.attach(self.side, delay_seconds)
        supervisor.turns.append(self._turn)
        self._loop.every(EXPORT_SECONDS, self._begin)

    def _up(self) -> None:
        """The process accepts connections from now on; a dead one's wait in the listener until the next is up."""
        self._loop.remove(self._listener.fileno())
        self._metrics.resend()
        self._begin(0)

    def _begin(self, _: int) -> None:
        self._left = EXPORT_SERIES
        self.side.send(["beat"])

    def _turn(self, _: int) -> bool:
        """Hands over one portion; True where there is more."""
        if not self._left:
            return False
        self._left -= PORTION
        for message in self._metrics.changes(PORTION):
            if not self.side.send(message) and self.side.up:
                self._metrics.resend()  # it is too slow to take them: all again, when it has room
                self._left = 0
                break
        if not self._metrics.changed:
            self._left = 0
        self._loop.side_changed(self.side)
        return self._left > 0
