"""What others decide about a plugin: it is set, removed, restarted, or paused for a fault, or its breaker is closed."""

from __future__ import annotations

from msgspec.structs import replace

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.deadline import Timers
from apex_exec.core.scheduler.admission import retry_after
from apex_exec.core.scheduler.bounds import Bounds
from apex_exec.core.scheduler.feeding import Feeding
from apex_exec.core.scheduler.generations import Generations
from apex_exec.core.scheduler.places import Places
from apex_exec.core.scheduler.plugin_slot import PluginSlot
from apex_exec.core.scheduler.step import Step
from apex_exec.core.scheduler.subscribers import Subscribers
from apex_exec.core.scheduler.verdicts import Verdicts
from apex_exec.core.scheduler.worker import End
from apex_exec.core.scheduler.workers import Workers


class Plugins:
    """Makes and removes the slots, and handles the events that name a plugin."""

    def __init__(self, bounds: Bounds, timers: Timers, slots: dict[str, PluginSlot], verdicts: Verdicts,
                 workers: Workers, places: Places, generations: Generations, feeding: Feeding,
                 subscribers: Subscribers) -> None:
        self._bounds = bounds
        self._timers = timers
        self._slots = slots
        self._verdicts = verdicts
        self._workers = workers
        self._places = places
        self._generations = generations
        self._feeding = feeding
        self._subscribers = subscribers

    def set(self, event: ev.PluginSet, step: Step) -> None:
        """Serves the plugin as the spec says from now on."""
        spec = event.spec
        self._subscribers.set(spec)
        slot = self._slots.get(spec.id)
        if slot is None:
            self._slots[spec.id] = PluginSlot(spec, self._bounds.breaker)
            return
        if spec.digest != slot.spec.digest:  # other code, about which the old code's failures say nothing
            slot.renew_breakers(self._bounds.breaker)
            slot.forget_runs()
        slot.serve(spec)
        if spec.state != "enabled":
            self._end(slot, spec.reason or "the plugin was disabled", step)
            return
        if spec.users is not None or spec.entitled is not None:
            self._feeding.hold_back(slot, step)
            self._feeding.prepare_recall(slot, step)
        self._generations.adopt(slot, step)
        self._feeding.feed(slot, step)

    def remove(self, event: ev.PluginRemoved, step: Step) -> None:
        """Serves the plugin no longer."""
        slot = self._slots.get(event.plugin)
        if slot is None:
            return
        self._end(slot, "the plugin was removed", step)
        self._timers.drop(slot)
        self._places.waiting.pop(event.plugin, None)
        del self._slots[event.plugin]
        self._subscribers.remove(event.plugin)

    def _end(self, slot: PluginSlot, message: str, step: Step) -> None:
        """Answers all that the plugin has and kills its workers, uncharged."""
        self._verdicts.flush(slot, ("PLUGIN_DISABLED", message, {}), step)
        self._generations.drop_successor(slot, message, step)
        for worker in self._workers.of(slot.spec.id):
            for call in worker.link.values():  # any of them may begin before the kill arrives
                self._verdicts.ran(call, "PLUGIN_DISABLED", message, step)
            self._workers.kill(worker, End("drained", message=message), step)
            if worker.end is not None:  # a worker that was killed before is not charged either
                worker.end = replace(worker.end, reason="drained")

    def faulted(self, event: ev.PluginFaulted, step: Step) -> None:
        """Pauses the plugin: its workers are killed and the calls that wait are refused. Its breaker lets one call
        through later, as a probe."""
        slot = self._slots.get(event.plugin)
        if slot is None:
            return
        opens = slot.breaker.state(step.now_ns) != "open"
        slot.breaker.trip(step.now_ns)
        if opens:
            step.actions.append(act.BreakerChanged(event.plugin, "open"))
        paused = retry_after(slot.breaker.refuses_ns(step.now_ns))
        self._verdicts.flush(slot, ("QUARANTINED", event.message, paused), step)
        self._generations.drop_successor(slot, event.message, step)
        for worker in self._workers.of(event.plugin):
            self._workers.kill(worker, End("faulted", "INTERNAL", event.message), step)
        for call in list(self._verdicts.open.values()):  # calls on the link of a worker at whose end we failed
            if call.request.plugin == event.plugin and call.worker not in self._workers.by_id:
                self._verdicts.ran(call, "INTERNAL", event.message, step)

    def restart(self, event: ev.RestartRequested, step: Step) -> None:
        """Gives the plugin another worker, at once: an operator does not want to wait for its backoff."""
        slot = self._slots.get(event.plugin)
        if slot is None:
            return
        slot.breaker.start_after_ns = 0
        worker = slot.worker
        if worker is None:
            self._feeding.feed(slot, step)
        elif worker.state == "starting":
            self._workers.kill(worker, End("drained", message="an operator restarted the plugin"), step)
        else:
            self._feeding.retire(slot, worker, "drained", step)

    def warm(self, event: ev.WorkerWanted, step: Step) -> None:
        """Starts the plugin's worker before its first call, if no other plugin has to wait for a place because of it.
        """
        slot = self._slots.get(event.plugin)
        if (slot is not None and slot.spec.state == "enabled" and slot.worker is None and slot.successor is None
                and not self._places.waiting and self._places.may_start(step.now_ns)
                and slot.breaker.open_until_ns == 0 and step.now_ns >= slot.breaker.start_after_ns):
            slot.worker = self._workers.start(slot.spec, step)

    def reset_breaker(self, event: ev.BreakerReset, step: Step) -> None:
        """Lets the plugin be called again."""
        slot = self._slots.get(event.plugin)
        if slot is None:
            return
        slot.users.reset()
        if slot.breaker.reset():
            step.actions.append(act.BreakerChanged(event.plugin, "closed"))
        self._feeding.feed(slot, step)
