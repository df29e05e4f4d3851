"""The scheduler: bounded queues, prefetch, deadlines, kills, restarts. ``pool.step(event, now_ns) -> actions``.

Theory of operation
===================

The pool decides, and does nothing else: it has no clock, no process and no socket. Whatever happens reaches the pool as
an *event* with the time, and the pool answers with *actions* that the shell carries out. Nothing reaches it in another
way, so a history can be written down as its events and played again (``tests/sim``). One event is one ``Step``: the
time, and a list to which each part that takes part in the step appends its actions.

A **call** comes in as InvokeRequested. ``Admission`` says at once if it is refused; a full queue is an answer and never
a wait. An admitted call is in ``Verdicts.open`` until it has its one verdict, and the first verdict wins. It waits in
the queue of its plugin's **slot** until it is put on a worker's **link**, where at most ``prefetch`` calls stand. The
worker runs the oldest of them, one at a time, and finds the next without waiting for us. A **shared** worker, whose
plugin allows several calls at once, runs all that are on its link; ``Sharing`` looks after those.

A **worker** serves one plugin, and a plugin has one worker that serves. ``Feeding`` keeps the link full and sees to it
that a plugin with calls has a worker; ``Places`` says whether there may be one more process, and which worker leaves if
not. ``Watch`` has a timer for each worker. The timer belongs to the oldest call that the worker itself has not
answered, even if that call's caller was answered long ago. So a worker that hangs is killed in any case.

What has a worker **started**? We cannot see it: a reply may be on its way, or a call may begin as we look. The worker
counts each call as started before it runs it, and reads the clock after that. So the pool may say that a call never ran
only on a count that was read after the call's deadline, or after the worker's death. The pool asks for such a count
with CountStarted and decides when CallsStarted brings it; WorkerGone carries the last one. A call that had not started
when its worker died goes to the head of the queue, for the next worker, once.

A worker's **end** is charged to its plugin's **breaker**, unless we caused it for reasons of our own. Repeated ends
delay the next start, and too many open the breaker: then calls are refused, until one is let through to try the plugin.

**Generations** follow each other without a gap. The successor boots beside its predecessor, gets the calls that are
admitted from then on, and is sent the first of them when the last call before it has been answered. So no call
overtakes another.

Each part is given the parts below it, and none knows a part above it::

    Pool  the entrance: which part handles which event, time, what the shell may ask
     ├─ Calls  in, answered, cancelled      ├─ Plugins  set, removed, restarted
     ├─ Lifecycle  ready, gone, zygote      ├─ Watch  timers, samples, pings
     │                                      └─ Sharing  shared workers, for Calls and Watch
     └─── Feeding  from the queue to the link
           └─ Generations  successors, canaries
               └─ Places  who gets the next process
                   └─ Workers  start, send, stop, kill
                       └─ Admission · Verdicts
                           └─ PluginSlot: CallQueue, Breaker, two Workers with their Invocations

The states of calls, workers and slots, and the moves between them, stand in one table each: ``invocation.MOVES``,
``worker.MOVES`` and ``worker.ROLES``, ``plugin_slot.STATES``; ``breaker.Breaker`` opens with the breaker's. A move that
a table does not have raises SupervisorBug, with the story of the call, worker or slot concerned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.deadline import Timed, Timers
from apex_exec.core.limits import MS_NS, SECOND_NS, PoolLimits, RecyclePolicy
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler.admission import Admission
from apex_exec.core.scheduler.bounds import Bounds
from apex_exec.core.scheduler.breaker import BreakerPolicy
from apex_exec.core.scheduler.calls import Calls
from apex_exec.core.scheduler.feeding import Feeding
from apex_exec.core.scheduler.generations import Generations
from apex_exec.core.scheduler.invocation import Refusal
from apex_exec.core.scheduler.lifecycle import Lifecycle
from apex_exec.core.scheduler.places import Places
from apex_exec.core.scheduler.plugin_slot import PluginSlot
from apex_exec.core.scheduler.plugins import Plugins
from apex_exec.core.scheduler.shared import Sharing
from apex_exec.core.scheduler.step import Step
from apex_exec.core.scheduler.subscribers import Subscribers
from apex_exec.core.scheduler.verdicts import Verdicts
from apex_exec.core.scheduler.watch import Watch
from apex_exec.core.scheduler.worker import AT_WORK, Worker
from apex_exec.core.scheduler.workers import Workers
from apex_exec.errors import SupervisorBug

__all__ = ["MS_NS", "SECOND_NS", "Pool", "PoolLimits", "RecyclePolicy", "Refusal"]


class Pool:
    """All plugins, workers and invocations of one daemon.

    ``random()`` returns a number in [0, 1). Whatever else the pool knows came with an event: with the same numbers, the
    same events at the same times give the same actions. Tests read the parts; the shell uses the methods only.
    """

    def __init__(self, limits: PoolLimits, breaker: BreakerPolicy, random: Callable[[], float],
                 recycle: RecyclePolicy | None = None) -> None:
        self._step = Step(0, [])  # one for all events, since they are handled one at a time
        bounds = self._bounds = Bounds(limits, breaker, recycle or RecyclePolicy())
        timers = self.timers = Timers()
        slots = self.slots = dict[str, PluginSlot]()
        verdicts = self.verdicts = Verdicts(slots)
        admission = self.admission = Admission(bounds, verdicts)
        workers = self.workers = Workers(bounds, timers, slots, verdicts)
        places = self.places = Places(bounds, timers, slots, workers)
        generations = Generations(slots, verdicts, admission, workers, places)
        feeding = self._feeding = Feeding(bounds, timers, verdicts, admission, workers, places, generations)
        sharing = Sharing(slots, verdicts, workers)
        calls = self._calls = Calls(
            bounds, timers, slots, verdicts, admission, workers, places, generations, feeding, sharing=sharing)
        self._subscribers = Subscribers()
        plugins = Plugins(
            bounds, timers, slots, verdicts, workers, places, generations, feeding, self._subscribers)
        watch = self._watch = Watch(bounds, slots, verdicts, workers, generations, feeding, sharing)
        life = Lifecycle(random, slots, verdicts, admission, workers, places, generations, feeding)
        self._handlers: dict[type[Any], Callable[[Any, Step], None]] = {
            ev.InvokeRequested: calls.invoke, ev.WorkerAnswered: calls.answered, ev.CancelRequested: calls.cancel,
            ev.CallsStarted: calls.started, ev.WorkRefused: calls.refuse_work, ev.WorkAdmitted: calls.admit_work,
            ev.DrainRequested: calls.drain,
            ev.PluginSet: plugins.set, ev.PluginRemoved: plugins.remove, ev.PluginFaulted: plugins.faulted,
            ev.RestartRequested: plugins.restart, ev.WorkerWanted: plugins.warm,
            ev.BreakerReset: plugins.reset_breaker,
            ev.GenerationPrepared: generations.prepare, ev.GenerationDropped: generations.dropped,
            ev.WorkerReady: life.ready, ev.WorkerGone: life.gone, ev.ForkRefused: life.fork_refused,
            ev.ZygoteLost: life.zygote_lost, ev.ZygoteUp: life.zygote_is_up,
            ev.WorkerSampled: watch.sampled, ev.WorkerThrottled: watch.throttled, ev.LimitExceeded: watch.exceeded,
            ev.WorkerRanOn: watch.ran_on, ev.WorkerHesitates: watch.hesitates, ev.WorkerViolated: watch.violated,
            ev.WorkerPonged: watch.ponged, ev.WorkerBlocked: watch.blocked,
            ev.Tick: self._tick, ev.Reconfigured: self._reconfigure,
        }

    # ------------------------------------------------------------------ the step
    def step(self, event: ev.Event, now_ns: int) -> list[act.Action]:
        """What to do about ``event``. Never blocks; an unknown event raises SupervisorBug and changes nothing."""
        try:
            handler = self._handlers[type(event)]
        except KeyError:
            raise SupervisorBug(f"the pool knows no event {type(event).__name__}") from None
        step = self._step
        step.now_ns = now_ns
        actions = step.actions = []
        handler(event, step)
        return actions

    def _tick(self, event: ev.Tick, step: Step) -> None:
        while (owner := self.timers.pop_due(step.now_ns)) is not None:
            try:
                self._due(owner, step)
            except Exception as error:  # a bug of ours costs the owner, not all that is due after it
                named = owner.spec.id if isinstance(owner, Worker | PluginSlot) else ""
                step.actions.append(act.Faulted(named, error))

    def _due(self, owner: Timed, step: Step) -> None:
        """Does what ``owner`` asked to be woken for."""
        if isinstance(owner, Worker):
            self._watch.due(owner, step)
        elif isinstance(owner, PluginSlot):
            self._feeding.due(owner, step)
        elif owner is self.places.retry:
            self._feeding.serve_waiting(step)
        else:
            self._calls.drained(step)

    def _reconfigure(self, event: ev.Reconfigured, step: Step) -> None:
        bounds = self._bounds
        bounds.limits, bounds.breaker, bounds.recycle = event.limits, event.breaker, event.recycle
        for slot in self.slots.values():
            slot.breaker.reconfigure(event.breaker)
            slot.users.reconfigure(event.breaker)
        for worker in list(self.workers.by_id.values()):
            if worker.state in AT_WORK:
                self.workers.rearm(worker, step.now_ns)
        self.places.shrink(step)
        self._feeding.serve_waiting(step)

    # ------------------------------------------------------------------ what the shell may ask
    def next_wake_ns(self) -> int | None:
        """When a Tick is next due; None if nothing waits."""
        return self.timers.next_ns()

    def spec(self, plugin: str) -> PluginSpec | None:
        """The plugin as served now."""
        slot = self.slots.get(plugin)
        return slot.spec if slot else None

    def spec_of(self, plugin: str, worker: int) -> PluginSpec | None:
        """The spec that applies to the code in ``worker``: the plugin's spec as it is now, or, if the worker runs
        another version, the spec that it was started with. None if the plugin is not served."""
        slot = self.slots.get(plugin)
        if slot is None:
            return None
        known = self.workers.by_id.get(worker)
        return slot.spec if known is None or known.spec.digest == slot.spec.digest else known.spec

    def peek(self, plugin: str, user_id: str, now_ns: int) -> tuple[PluginSpec | None, Refusal | None]:
        """The plugin's spec, and the refusal of a call that came now, if there is no room for it or the plugin is
        paused. ``step`` would refuse the call too; asking first saves the event and the action."""
        slot = self.slots.get(plugin)
        if slot is None:
            return None, None
        return slot.spec, None if self.admission.draining else self.admission.full(slot, user_id, now_ns)

    def specs(self) -> list[PluginSpec]:
        """Every plugin as served now, in (priority, id) order."""
        return sorted((p.spec for p in self.slots.values()), key=lambda s: (s.priority, s.id))

    def subscribers(self, hook: str, user_id: str) -> list[str]:
        """The plugins that declare ``hook`` and serve ``user_id``, in (priority, id) order. The time that this takes
        grows with their number, not with the number of all plugins."""
        return self._subscribers.of(hook, user_id)

    def pending(self) -> int:
        """Invocations without a verdict."""
        return len(self.verdicts.open)

    def is_open(self, call: int) -> bool:
        """Whether ``call`` still has no verdict. Once it has one, API calls in its name are refused."""
        return call in self.verdicts.open

    def oldest(self, worker: int) -> tuple[int, ev.InvokeRequested] | None:
        """Seq and request of the oldest unanswered call on the worker's link: the one that may be running.

        If that call was cancelled it has its verdict already; ``is_open`` says so. None if the link is empty.
        """
        known = self.workers.by_id.get(worker)
        if known is None or not known.link:
            return None
        return known.oldest_seq(), known.oldest().request

    def on_link(self, worker: int, seq: int) -> tuple[str, ev.InvokeRequested | None]:
        """How call ``seq`` of the worker stands: ``open``, with its request, if the worker may be running it; ``over``
        if it was answered; ``never`` if it was not sent, or if it waits behind the one call that the worker runs."""
        known = self.workers.by_id.get(worker)
        if known is None:
            return "never", None
        call = known.link.get(seq)
        if call is None:
            return ("over" if 0 <= seq < known.next_seq else "never"), None
        if not known.shared and seq != known.oldest_seq():
            return "never", None
        return "open", call.request

    def resting(self, worker: int) -> int | None:
        """How many calls the worker was sent in all, if it has answered all of them; None if it has not."""
        known = self.workers.by_id.get(worker)
        return None if known is None or known.link or known.state not in AT_WORK else known.next_seq

    def worker_states(self) -> dict[str, int]:
        """Workers by state of the metrics table: ``starting ready busy throttled draining``."""
        counts = dict.fromkeys(("starting", "ready", "busy", "throttled", "draining"), 0)
        for worker in self.workers.by_id.values():
            counts[self._state_name(worker)] += 1
        return counts

    def gauge(self, plugin: str, now_ns: int) -> tuple[int, int, str] | None:
        """(queued, in flight, breaker state) of one plugin; None if it is not served."""
        p = self.slots.get(plugin)
        if p is None:
            return None
        return len(p.queue), len(p.worker.link) if p.worker else 0, p.breaker.state(now_ns)

    def gauges(self, now_ns: int, plugins: Iterable[str] | None = None) -> list[tuple[str, int, int, str, str]]:
        """Per plugin, or per plugin of ``plugins`` that is known: (id, queued, in flight, worker state, breaker state).
        """
        slots = self.slots
        return [
            (p.spec.id, len(p.queue), len(p.worker.link) if p.worker else 0,
             self._state_name(p.worker) if p.worker else "none", p.breaker.state(now_ns))
            for p in (slots.values() if plugins is None else (slots[plugin] for plugin in plugins if plugin in slots))
        ]

    def summary(self, now_ns: int) -> tuple[dict[str, int], int, int, list[str]]:
        """(state -> how many plugins are in it, queued, in flight, the plugins whose breaker is not closed), of all.

        Five milliseconds for ten thousand plugins.
        """
        states: dict[str, int] = {}
        queued = in_flight = 0
        paused = []
        for p in self.slots.values():
            state = p.spec.state
            states[state] = states.get(state, 0) + 1
            queued += len(p.queue)
            if p.worker:
                in_flight += len(p.worker.link)
            if p.breaker.state(now_ns) != "closed":
                paused.append(p.spec.id)
        return states, queued, in_flight, paused

    def paused_users(self, plugin: str, now_ns: int) -> int:
        """How many pairs of a user and a hook of the plugin are paused now."""
        slot = self.slots.get(plugin)
        return slot.users.paused(now_ns) if slot is not None and slot.users.known else 0

    def trial(self, plugin: str) -> tuple[str, str] | None:
        """(version, worker state) of the generation that is being tried beside the one that serves; None if none is."""
        slot = self.slots.get(plugin)
        tried = slot.successor if slot is not None else None
        return None if tried is None or tried.role == "serving" else (tried.spec.version, self._state_name(tried))

    @staticmethod
    def _state_name(worker: Worker) -> str:
        if worker.state == "starting":
            return "starting"
        if worker.state != "ready":
            return "draining"
        return "throttled" if worker.throttled else "busy" if worker.link else "ready"
