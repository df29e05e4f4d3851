"""The way into the core and out of it: gives the core an event, and carries out each action that comes back.

The core is pure, so whatever it decides is done here. If an action fails, the plugin that it was for is quarantined,
and the actions after it are still carried out. If a verdict could not be delivered, its call is answered INTERNAL.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.scheduler.pool import Pool

if TYPE_CHECKING:
    from apex_exec.daemon.hosts.verdicts import Verdicts
    from apex_exec.daemon.plugin_gauges import PluginGauges
    from apex_exec.daemon.ports import Trail
    from apex_exec.executor.guard import Guard
    from apex_exec.executor.ports import Executor
    from apex_exec.observe.logs import Logs
    from apex_exec.observe.metrics import Metrics


class CoreDriver:
    """This object is made before the parts that carry actions out, since each of them is given ``step``. ``connect``
    names these parts once they exist; an action before that raises AttributeError."""

    def __init__(self, pool: Pool, guard: Guard, metrics: Metrics, logs: Logs) -> None:
        self._pool = pool
        self._guard = guard
        self._metrics = metrics
        self._logs = logs

    def connect(self, *, workers: Executor, verdicts: Verdicts, audit: Trail, gauges: PluginGauges,
                judged: Callable[[act.GenerationJudged], None]) -> None:
        """Names the parts; ``judged`` is called with the outcome of each prepared generation."""
        self._workers = workers
        self._verdicts = verdicts
        self._audit = audit
        self._gauges = gauges
        self._judged = judged

    def step(self, event: ev.Event, now_ns: int) -> None:
        """Gives ``event`` to the core and carries out what the core decides. Never raises for an action."""
        for action in self._pool.step(event, now_ns):
            kind = type(action)
            try:
                if kind is act.SendCall:
                    self._workers.send(action, now_ns)  # type: ignore[arg-type]  # narrowed by `kind`
                elif kind is act.Verdict:
                    self._verdicts.verdict(action)  # type: ignore[arg-type]  # narrowed by `kind`
                else:
                    self._act(action, now_ns)
            except Exception as error:  # the actions after it must still be carried out
                self._failed(action, error)

    def refuse_work(self) -> None:
        """The ledger takes no record: calls that have not begun must not begin, since they would have none."""
        self.step(ev.WorkRefused("AUDIT_UNAVAILABLE", "the audit ledger cannot take a record; nothing was run"),
                  time.monotonic_ns())

    def admit_work(self) -> None:
        """The ledger takes records again."""
        self.step(ev.WorkAdmitted(), time.monotonic_ns())

    def _act(self, action: act.Action, now_ns: int) -> None:
        """Carries out the less frequent actions."""
        workers = self._workers
        if isinstance(action, act.StartWorker):
            workers.start(action, now_ns)
        elif isinstance(action, act.KillWorker):
            workers.kill(action.worker, action.reason, action.due_ns, now_ns)
        elif isinstance(action, act.StopWorker):
            workers.stop(action.worker)
        elif isinstance(action, act.WorkerEnded):
            self._ended(action)
        elif isinstance(action, act.BreakerChanged):
            self._breaker_changed(action)
        elif isinstance(action, act.UserPaused):
            self._user_paused(action)
        elif isinstance(action, act.CountStarted):
            workers.count_started(action.worker, now_ns)
        elif isinstance(action, act.RecallCalls):
            workers.recall(action)
        elif isinstance(action, act.CancelCall):
            workers.cancel(action)
        elif isinstance(action, act.PingWorker):
            workers.ping(action)
        elif isinstance(action, act.GenerationJudged):
            self._judged(action)
        elif isinstance(action, act.ReplaceZygote):
            workers.replace_zygote(action.worker)
        elif isinstance(action, act.Faulted):
            self._guard.failed("core timer", action.error, action.plugin)

    def _ended(self, action: act.WorkerEnded) -> None:
        why = self._workers.tell_end(action)
        if why and action.reason == "boot_failed":
            self._audit.event("security.anomaly", "", action.plugin, "boot", "failure", {"why": why})
        if self._pool.spec(action.plugin) is not None:  # the series of a removed plugin stay away
            self._metrics.inc("worker_exits_total", (action.plugin, action.reason))

    def _breaker_changed(self, action: act.BreakerChanged) -> None:
        self._logs.log("warning", f"plugin {action.plugin}: its breaker is {action.state}")
        self._gauges.breaker_changed(action.plugin, action.state)
        self._audit.event("security.anomaly", "", action.plugin, "breaker", "success", {"state": action.state})

    def _user_paused(self, action: act.UserPaused) -> None:
        self._logs.log("warning", f"plugin {action.plugin}: {action.hook} is paused for one user, whose calls ended "
                                  "the worker too often")
        self._metrics.inc("user_limited_total", (action.plugin, "breaker"))
        self._audit.event("security.anomaly", action.user_id, action.plugin, "breaker", "success",
                          {"state": "open", "scope": "user", "hook": action.hook})

    def _failed(self, action: act.Action, error: Exception) -> None:
        """An action has failed: reports it to the guard, with the plugin that the action was for."""
        plugin = getattr(action, "plugin", "")
        if isinstance(action, act.StartWorker):
            plugin = action.spec.id
            self._workers.never_started(action.worker)
        elif not plugin:
            plugin = self._workers.plugin_of(getattr(action, "worker", 0))
        self._guard.failed(f"action {type(action).__name__}", error, plugin)
        if isinstance(action, act.Verdict):
            self._verdicts.untold(action)

    def quarantine(self, now_ns: int) -> None:
        """Pauses the plugins for which a duty has failed since this was last called."""
        faulty = self._guard.faulty
        self._guard.faulty = {}
        for plugin, why in faulty.items():
            self._audit.event("security.anomaly", "", plugin, "fault", "success", {"why": why})
            try:
                self.step(ev.PluginFaulted(plugin, why), now_ns)
            except Exception as error:  # its workers are killed at least
                self._guard.failed("quarantine", error)
                self._workers.kill_plugin(plugin)
