"""Which plugin gets the next process: how many workers there may be, and which of them leave if plugins have to wait.

A plugin that finds no place waits in ``waiting``, in order of arrival. For each plugin that waits one worker leaves:
idle workers first, the least recently used before the others, then busy workers that have had their place for
EVICT_TENURE_NS.
"""

from __future__ import annotations

from apex_exec.core.deadline import Timed, Timers
from apex_exec.core.limits import EVICT_TENURE_NS, FORK_BACKOFF_MAX_NS, FORK_BACKOFF_MIN_NS, PLACE_RETRY_NS
from apex_exec.core.scheduler.bounds import Bounds
from apex_exec.core.scheduler.plugin_slot import PluginSlot
from apex_exec.core.scheduler.step import Step
from apex_exec.core.scheduler.worker import Worker
from apex_exec.core.scheduler.workers import Workers


class Places:
    """``retry`` is the timer by which waiting plugins are looked at again if no event frees a place."""

    def __init__(self, bounds: Bounds, timers: Timers, slots: dict[str, PluginSlot], workers: Workers) -> None:
        self._bounds = bounds
        self._timers = timers
        self._slots = slots
        self._workers = workers
        self._zygote_up = True
        self._fork_after_ns = 0
        self._forks_refused = 0
        self.waiting: dict[str, PluginSlot] = {}
        self.retry = Timed()

    # ------------------------------------------------------------------ what starts workers
    def may_start(self, now_ns: int) -> bool:
        """Whether one more worker may be started now."""
        return (self._zygote_up and now_ns >= self._fork_after_ns
                and len(self._workers.by_id) < self._bounds.limits.workers_max)

    def fork_refused(self, now_ns: int) -> None:
        """The system gave no process: the whole pool waits before it asks again, longer each time."""
        self._fork_after_ns = now_ns + min(FORK_BACKOFF_MAX_NS, FORK_BACKOFF_MIN_NS << min(self._forks_refused, 10))
        self._forks_refused += 1

    def fork_succeeded(self) -> None:
        """A worker is ready, so the system gives processes again."""
        self._forks_refused = 0

    def zygote_lost(self) -> None:
        """Nothing can be started until ``zygote_is_up``."""
        self._zygote_up = False

    def zygote_is_up(self) -> None:
        """Workers can be started. Forks that the last zygote was refused do not delay this one's."""
        self._zygote_up = True
        self._fork_after_ns = 0

    # ------------------------------------------------------------------ who gets a place
    def take(self, slot: PluginSlot, step: Step) -> bool:
        """True if a worker of the plugin may start now; else the plugin waits for its turn."""
        plugin = slot.spec.id
        if self.may_start(step.now_ns) and next(iter(self.waiting), plugin) == plugin:
            self.waiting.pop(plugin, None)
            return True
        self.waiting[plugin] = slot
        self.make_room(step)
        return False

    def next_in_turn(self) -> PluginSlot:
        """Takes out the plugin that has waited longest. There must be one."""
        return self.waiting.pop(next(iter(self.waiting)))

    def make_room(self, step: Step) -> None:
        """Has as many workers leave as plugins wait for a place."""
        self.waiting = {plugin: slot for plugin, slot in self.waiting.items() if slot.queue}
        if not self.waiting:
            return
        now_ns = step.now_ns
        self._timers.arm(self.retry, self._fork_after_ns if self._fork_after_ns > now_ns else now_ns + PLACE_RETRY_NS)
        workers, evicting = self._workers.by_id.values(), self._workers.evicting
        need = min(len(self.waiting) + len(workers) - self._bounds.limits.workers_max, len(self.waiting))
        if need - len(evicting) <= 0:
            return
        need -= sum(w.state in ("stopping", "killed") or w.id in evicting for w in workers)
        if need <= 0:
            return
        idle = self._idle()
        for worker in idle[:need]:
            self._evict(worker, step)
        old = sorted((w for w in self._serving() if w.link and now_ns - w.born_ns >= EVICT_TENURE_NS),
                     key=lambda w: w.born_ns)
        for worker in old[: max(0, need - len(idle))]:
            self._evict(worker, step)

    def shrink(self, step: Step) -> None:
        """The bound of workers may have become lower: idle workers above it leave."""
        over = len(self._workers.by_id) - self._bounds.limits.workers_max - len(self._workers.evicting)
        for worker in self._idle()[: max(0, over)]:
            self._evict(worker, step)

    def _serving(self) -> list[Worker]:
        return [w for w in self._workers.by_id.values() if w.state == "ready" and self._slots[w.plugin].worker is w]

    def _idle(self) -> list[Worker]:
        """Workers without a call, the least recently used first."""
        return sorted((w for w in self._serving() if not w.link), key=lambda w: w.used_ns)

    def _evict(self, worker: Worker, step: Step) -> None:
        self._workers.evicting.add(worker.id)
        worker.leaves_for = "evicted"
        worker.move("leaving")
        if not worker.link:
            self._workers.stop(worker, "evicted", step)
