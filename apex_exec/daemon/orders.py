"""What a signal or an administrator can order the whole daemon to do: to reload, and to drain and end."""

from __future__ import annotations

import logging
import signal
from typing import Any

from apex_exec.daemon import notify
from apex_exec.daemon.reload import InForce, Reloader
from apex_exec.daemon.supervisor import Supervisor
from apex_exec.errors import ConfigError
from apex_exec.observe.metrics import Metrics

log = logging.getLogger("apex_exec")


class Orders:
    """Carries them out, and tells systemd, the metrics and the log."""

    def __init__(self, supervisor: Supervisor, reloader: Reloader, in_force: InForce, notifier: notify.Notifier,
                 metrics: Metrics) -> None:
        self._supervisor = supervisor
        self._reloader = reloader
        self._in_force = in_force
        self._notifier = notifier
        self._metrics = metrics

    def signalled(self, numbers: bytes) -> None:
        """Some of the three signals have arrived."""
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self.drain()
        elif signal.SIGHUP in numbers:
            try:
                self.reload()
            except ConfigError as error:
                log.error("the reload failed, and the configuration before it stays in force: %s", error)

    def drain(self) -> None:
        """Takes no new work, answers what is pending, ends; ordered a second time, it does not wait any longer."""
        if self._supervisor.ending:
            log.info("stopping at once, without waiting for pending calls")
            self._supervisor.drain(0)
            return
        seconds = self._in_force.settings.drain_seconds
        log.info("stopping: waiting at most %s s for pending calls to finish", seconds)
        self._notifier.say(notify.STOPPING)
        self._supervisor.drain(seconds)

    def reload(self) -> dict[str, Any]:
        """Applies what can be applied of the configuration as it is now. Raises ConfigError."""
        self._notifier.reloading()
        try:
            outcome = self._reloader.reload()
        except ConfigError:
            self._metrics.set("config_last_reload_successful", (), 0.0)
            raise
        finally:
            self._notifier.say(notify.READY)
        self._metrics.set("config_last_reload_successful", (), 1.0)
        log.info("reloaded: %s", ", ".join(outcome["applied"]) or "no key has changed")
        if outcome["restart"]:
            log.warning("a change of these keys takes effect after a restart: %s", ", ".join(outcome["restart"]))
        return outcome
