"""The shell, the workers and the clock of a simulation. Everything happens at a time; nothing waits.

The world obeys the pool's actions the way processes do: with delay, in order per link, or not at all where the seed
says so. ``check`` modules hold what must be true; the world only reports to them.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

from msgspec import Raw
from msgspec.structs import replace

from apex_exec.catalogue.limits import Limits
from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler.breaker import BreakerPolicy
from apex_exec.core.scheduler.pool import PoolLimits, RecyclePolicy
from apex_exec.core.scheduler.shared import PROBES_FROM
from tests.sim.crowd import Crowd
from tests.sim.invariants import Invariants
from tests.sim.model import MS, Asked, Broken, SimPlugin, SimWorker
from tests.sim.recording import Recording, encode

NIL = Raw(b"\x80")
FAULTS = ("crash", "hang", "slow", "lie", "boot_fail", "boot_hang", "fork", "deaf", "mute", "zygote", "stall", "cancel",
          "throttle", "limits", "samples", "upgrade", "prepare", "toggle", "reconfigure", "unreported", "idle_crash",
          "runs_on", "faulted")


BY_SUPERVISOR = ("_tell", "_tell_gone", "_tell_refused", "_tell_zygote_up", "_tell_started", "lose_zygote", "adopt",
                 "drop", "throttle")
"""What only a running supervisor does or hears."""


class World(Crowd):
    """One history. ``tell``, if given, gets the story's lines; with ``record`` every step is kept in ``recording``."""

    def __init__(self, seed: int, tell: Callable[[str], None] | None = None, record: bool = False) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.users = (6, 6, 2, 1)[seed % 4]
        """How many users call: one alone is paused before the plugin is."""
        self.tell = tell
        self.now_ns = 10**12
        self.future: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self.tie = 0
        rnd = self.random
        self.rates = {fault: rnd.choice((0, 0, 0.02, 0.1, 0.3)) for fault in FAULTS}
        self.limits = self._limits()
        self.policy = BreakerPolicy(rnd.choice((2, 3, 5)), rnd.choice((3000, 60_000)) * MS,
                                    rnd.choice((500, 5000)) * MS, rnd.choice((300, 10_000)) * MS, 100 * MS, 3000 * MS)
        self.recycle = self._recycle()
        self.workers: dict[int, SimWorker] = {}
        self.plugins: dict[str, SimPlugin] = {}
        self.calls: dict[int, Asked] = {}
        self.open: dict[int, Asked] = {}
        self.zygote_up = True
        self.fork_hold_ns = 0
        self.draining = False
        self.operator = random.Random(seed)
        """What an operator does has a chance of its own: the faults of a seed come as they do without one."""
        self.operates = self.operator.choice((0, 0, 0.02, 0.1))
        self.refusing = False
        self.refused_ns = 0
        self.ledger = random.Random(seed + 10**6)
        """The ledger's and the registry's chances are their own as well."""
        self.stops, self.takes = (self.ledger.choice((0, 0, 0.03, 0.1)) for _ in range(2))
        self.crowds = random.Random(seed + 2 * 10**6)
        """So are those of calls at once: how many, whose they are, what their hooks do."""
        self.places = self.crowds.choice((1, 2, 4, 8, 16, 32)) if seed % 3 else 1
        self.drain_at_ns = 0
        self.judging: dict[tuple[str, str], int] = {}
        self.next_call = 1
        self.versions = 0
        self.recording = Recording(seed, self.limits, self.policy, self.recycle)
        self.recorded = record
        self.pool = self.recording.pool()
        self.invariants = Invariants(self)
        for name in ("aaa", "bbb", "ccc")[: rnd.choice((1, 2, 3))]:
            self.step(ev.PluginSet(self._spec(name)))

    def _limits(self) -> PoolLimits:
        rnd = self.random
        return PoolLimits(rnd.choice((1, 2, 3, 6)), rnd.choice((500, 2000, 30_000)) * MS, rnd.choice((4, 8, 16)),
                          rnd.choice((6, 12, 60)), rnd.choice((1, 2, 4, 8)), rnd.choice((200, 1000)) * MS,
                          rnd.choice((0, 300, 1000)) * MS, 200 * MS, 100 * MS)

    def _recycle(self) -> RecyclePolicy:
        rnd = self.random
        return RecyclePolicy(rnd.choice((0, 0, 3, 10)), rnd.choice((0, 0, 400, 3000)) * MS, rnd.choice((0, 5_000_000)),
                             3300_000 * MS, rnd.choice((1, 2, 4)))

    def _spec(self, name: str, **changes: Any) -> PluginSpec:
        self.versions += 1
        made: dict[str, Any] = {"id": name, "version": f"1.0.{self.versions}", "digest": f"d{self.versions}",
                                "entrypoint": "p.py", "hooks": ("onDataFetch",),
                                "limits": Limits(memory_mb=self.random.choice((50, 50, 40)),
                                                 concurrency=self._places()),
                                "ordering": self.crowds.choice(("user", "user", "none"))}
        return PluginSpec(**{**made, **changes})

    def _places(self) -> int:
        """Calls at once of one version: as a rule the history's, sometimes fewer."""
        return self.places if self.crowds.random() < 0.7 else self.crowds.randint(1, self.places)

    def user(self, number: int) -> str:
        """Who calls: one of a few, or of many if calls run at once."""
        if self.places == 1 or self.crowds.random() < 0.4:
            return f"u{number % self.users}"
        return f"u{self.crowds.randrange(40 if self.users > 2 else self.users)}"

    # ------------------------------------------------------------------ time
    def at(self, delay_ns: int, what: Callable[..., None], *args: Any) -> None:
        """Has ``what(*args)`` happen ``delay_ns`` from now."""
        self.tie += 1
        heapq.heappush(self.future, (self.now_ns + delay_ns, self.tie, what, args))

    def hits(self, fault: str) -> bool:
        """Whether ``fault`` strikes here."""
        rate = self.rates[fault]
        return rate > 0 and self.random.random() < rate

    def run_until(self, until_ns: int) -> None:
        """Lets time pass to ``until_ns``, waking the pool when its timers ask for it, as the loop does."""
        while True:
            wake_ns = self.pool.timers.wake_ns
            next_ns = min(self.future[0][0] if self.future else until_ns, until_ns)
            if wake_ns <= min(next_ns, until_ns):
                self.now_ns = max(self.now_ns, wake_ns)
                self.step(ev.Tick())
                self.invariants.ticked()
            elif self.future and self.future[0][0] <= until_ns:
                due_ns, _, what, args = heapq.heappop(self.future)
                self.now_ns = max(self.now_ns, due_ns)
                what(*args)
            else:
                self.now_ns = max(self.now_ns, until_ns)
                return

    def stall(self, length_ns: int, ticks_first: bool) -> None:
        """The supervisor stands still: workers go on, nothing is delivered; then all at once."""
        self.invariants.stalled(length_ns)
        held = self.future
        self.future = []
        end_ns = self.now_ns + length_ns
        late = []
        while held:  # what workers do by themselves happens in time; what reaches the supervisor waits for it
            due_ns, tie, what, args = heapq.heappop(held)
            if due_ns > end_ns or what.__name__ in BY_SUPERVISOR:
                late.append((max(due_ns, end_ns) if due_ns <= end_ns else due_ns, tie, what, args))
                continue
            self.now_ns = max(self.now_ns, due_ns)
            what(*args)
            while self.future:
                heapq.heappush(held, heapq.heappop(self.future))
        self.future = late
        heapq.heapify(self.future)
        self.now_ns = end_ns
        if ticks_first:
            self.step(ev.Tick())

    # ------------------------------------------------------------------ the pool
    def step(self, event: ev.Event) -> list[act.Action]:
        """One event, and everything that the pool wants done about it."""
        given = encode(event) if self.recorded else None  # as it is before anybody has had it
        actions = self.pool.step(event, self.now_ns)
        if given is not None:
            self.recording.add(self.now_ns, type(event), given, actions)
        if self.tell is not None:
            self.tell(f"{(self.now_ns - 10**12) / 1e6:10.3f} ms  {event}")
            for action in actions:
                self.tell(f"{'':16}→ {action}")
        self.invariants.before(event, actions)
        for action in actions:
            self._do(action)
        self.invariants.after(event, actions)
        for action in actions:
            if isinstance(action, act.CountStarted):  # as a rule at once; from an executor elsewhere a little later
                if self.ledger.random() < 0.8:
                    self._tell_started(action.worker)
                else:
                    self.at(self.ledger.randrange(MS), self._tell_started, action.worker)
        return actions

    def _do(self, action: act.Action) -> None:
        self.invariants.action(action)
        if isinstance(action, act.StartWorker):
            self._start(action)
        elif isinstance(action, act.SendCall):
            worker, asked = self.workers[action.worker], self.calls[action.request.call]
            worker.link[action.seq] = asked
            worker.sent += 1
            worker.used_ns = self.now_ns
            asked.on, asked.links = worker.id, asked.links + 1
            if len(worker.link) == 1:
                worker.oldest_ns = self.now_ns
            if worker.shared:
                self._deliver(worker, ("call", action.seq, asked))
            else:
                worker.inbox.append((action.seq, asked))
                self.at(self.random.randrange(50_000), self._take, worker)
        elif isinstance(action, act.CancelCall):
            worker = self.workers[action.worker]
            asked = worker.link[action.seq]
            if not asked.ends_ns:
                asked.ends_ns, asked.held_ns = self.now_ns, worker.held(self.now_ns)
            worker.last_probe = action.nonce
            worker.probes[action.nonce] = self.now_ns, self.now_ns >= asked.deadline_ns, worker.held(self.now_ns)
            self._deliver(worker, ("cancel", action.seq, action.nonce))
            self.at(self.crowds.randrange(50_000), self._interrupt, worker)
        elif isinstance(action, act.RecallCalls):
            worker = self.workers[action.worker]
            worker.asked_back.update(action.seqs)
            self.at(self.ledger.randrange(6 * MS), worker.recalled.update, action.seqs)
        elif isinstance(action, act.KillWorker):
            worker = self.workers[action.worker]
            worker.killed = action.reason
            if worker.forked:
                self.at(self.random.choice((0, 100_000, 3 * MS)), self._die, worker, "WORKER_CRASHED")
        elif isinstance(action, act.StopWorker):
            worker = self.workers[action.worker]
            worker.stopped, worker.stopped_ns = action.reason, self.now_ns
            self.at(50_000, self._take, worker)
        elif isinstance(action, act.PingWorker):
            worker = self.workers[action.worker]
            worker.pings, worker.ping_ns = action.nonce, self.now_ns
            if not worker.pongs and self.random.random() < 0.5:  # held while it owes an answer
                self.at(self.random.randrange(200 * MS), self.throttle, worker, True)
            if worker.pongs:
                self.at(100_000, self._pong, worker, action.nonce)
        elif isinstance(action, act.ReplaceZygote):
            self.at(0, self.lose_zygote)

    def _tell_started(self, worker: int) -> None:
        if worker in self.workers:
            self.step(ev.CallsStarted(worker, self.workers[worker].started))

    # ------------------------------------------------------------------ workers
    def _start(self, action: act.StartWorker) -> None:
        rnd = self.random
        worker = SimWorker(action.worker, action.spec, self.now_ns, heard_ns=self.now_ns,
                           shared=action.spec.limits.concurrency > 1)
        worker.boot_due_ns = self.now_ns + self.limits.boot_ns
        self.workers[worker.id] = worker
        worker.honest = not self.hits("lie")
        worker.leaves, worker.pongs = not self.hits("deaf"), not self.hits("mute")
        worker.unreported = self.hits("unreported") and rnd.random() < 0.2
        if self.hits("fork"):
            worker.forked = worker.alive = False
            self.at(MS, self._tell_refused, worker)
        elif self.hits("boot_fail"):
            self.at(rnd.randrange(20 * MS), self._die, worker, rnd.choice(("BOOT_FAILED", "WORKER_CRASHED")))
        elif not self.hits("boot_hang"):
            self.at(rnd.randrange(20 * MS), self._boot, worker)

    def _boot(self, worker: SimWorker) -> None:
        if worker.paused:
            worker.stalled.append(("boot", None))
        elif worker.alive:
            worker.booted = True
            self._send(worker, ev.WorkerReady(worker.id))

    def _send(self, worker: SimWorker, event: ev.Event) -> None:
        """Puts a message on the link; messages of one link arrive in order (the heap's ties keep it)."""
        delay_ns = 20_000 if not self.hits("slow") else 5 * MS
        previous_ns = getattr(worker, "arrives_ns", 0)
        arrives_ns = max(previous_ns, self.now_ns + delay_ns)
        worker.arrives_ns = arrives_ns  # type: ignore[attr-defined]  # the link's own bookkeeping
        self.at(arrives_ns - self.now_ns, self._tell, worker, event)

    def _tell(self, worker: SimWorker, event: Any) -> None:
        if worker.id not in self.workers:
            return
        kind = type(event)
        if kind is ev.WorkerReady:
            worker.ready = True
            worker.heard_ns = worker.used_ns = self.now_ns
        elif kind is ev.WorkerAnswered:
            self.invariants.hears(worker, event)
        elif kind is ev.WorkerPonged:
            if event.nonce >= PROBES_FROM:
                self.invariants.probed(worker, event.nonce)
            else:
                worker.heard_ns, worker.ping_ns, worker.ponged_ns = self.now_ns, 0, self.now_ns
        elif kind is ev.WorkerBlocked and worker.probes:
            worker.named = worker.link.get(event.seq, worker.named)
        self.step(event)

    def _tell_refused(self, worker: SimWorker) -> None:
        if worker.id in self.workers:
            del self.workers[worker.id]
            self.step(ev.ForkRefused(worker.id))

    def _pong(self, worker: SimWorker, nonce: int) -> None:
        if worker.paused:
            worker.stalled.append(("pong", nonce))
        elif worker.alive:
            self._send(worker, ev.WorkerPonged(worker.id, nonce))

    def _take(self, worker: SimWorker) -> None:
        """The worker looks at its link: begins the next call, or leaves."""
        if worker.shared:
            self.loop_turns(worker)
            return
        if not worker.alive or not worker.booted or worker.running:
            return
        if worker.paused:
            worker.stalled.append(("take", None))
            return
        if not worker.inbox:
            if worker.stopped and worker.leaves:
                self._die(worker, "WORKER_CRASHED")
            return
        rnd = self.random
        seq, asked = worker.inbox.popleft()
        worker.started += 1
        if not worker.honest and rnd.random() < 0.3:
            worker.lied = True
            lie = rnd.randrange(5)
            if lie == 0:
                worker.started += 3
            elif lie == 1:
                self._send(worker, ev.WorkerAnswered(worker.id, seq + 1, "", None))
            elif lie == 2:
                self._send(worker, ev.WorkerAnswered(worker.id, max(0, seq - 1), "", None))
            elif lie == 3:
                self._send(worker, ev.WorkerPonged(worker.id, worker.pings + 1))
            else:
                self._send(worker, ev.WorkerViolated(worker.id, "nonsense"))
        if self.now_ns >= asked.deadline_ns or seq in worker.recalled:
            self._send(worker, ev.WorkerAnswered(worker.id, seq, "skipped", None))
            self.at(1000, self._take, worker)
            return
        worker.running = (seq, asked)
        self.invariants.begins(worker, asked)
        if self.hits("crash"):
            self.at(rnd.randrange(5 * MS), self._die, worker, rnd.choice(("WORKER_CRASHED", "CPU_LIMIT")))
        if not self.hits("hang"):
            length_ns = rnd.choice((100_000, 2 * MS, 40 * MS)) if not self.hits("slow") else rnd.randrange(900 * MS)
            self.at(rnd.randrange(length_ns), self._end_run, worker)

    def _end_run(self, worker: SimWorker) -> None:
        if worker.paused:
            worker.stalled.append(("end", None))
            return
        if not worker.alive or worker.running is None:
            return
        seq, asked = worker.running
        worker.running = None
        asked.replied = True
        code = self.random.choice(("", "", "", "PLUGIN_ERROR", "INVALID_OUTPUT"))
        self._send(worker, ev.WorkerAnswered(worker.id, seq, code, asked.call))
        if not worker.honest and self.random.random() < 0.2:
            worker.lied = True
            self._send(worker, ev.WorkerAnswered(worker.id, seq, code, asked.call))
        if self.hits("crash") and self.random.random() < 0.3:
            self._die(worker, "WORKER_CRASHED")  # right after its reply was written
        else:
            self.at(self.random.choice((0, 1000)), self._take, worker)

    def _die(self, worker: SimWorker, code: str) -> None:
        if not worker.alive:
            return
        worker.alive = False
        if not worker.unreported:
            # EOF after the data: its end is reported when what it wrote has been read
            arrives_ns = max(getattr(worker, "arrives_ns", 0), self.now_ns)
            self.at(arrives_ns - self.now_ns + self.random.choice((10_000, 2 * MS)), self._tell_gone, worker, code)

    def _tell_gone(self, worker: SimWorker, code: str) -> None:
        if worker.id not in self.workers:
            return
        del self.workers[worker.id]
        self.invariants.gone(worker, code)
        self.step(ev.WorkerGone(worker.id, worker.started, code, "died", {"signal": 9}))

    # ------------------------------------------------------------------ what may happen from outside
    def ask(self, plugin: str, user: str, timeout_ms: int) -> int:
        """One invocation."""
        call = self.next_call
        self.next_call += 1
        deadline_ns = self.now_ns + timeout_ms * MS
        known = self.plugins.get(plugin)
        asked = Asked(call, plugin, user, deadline_ns, self.now_ns, known.version if known else 0)
        self.calls[call] = self.open[call] = asked
        has_room = False
        if not self.pool.admission.draining and call & 1:  # a host's call, which the shell asks about first
            spec, refusal = self.pool.peek(plugin, user, self.now_ns)
            has_room = spec is not None and refusal is None
        self.step(ev.InvokeRequested(call, plugin, "onDataFetch", user, NIL, deadline_ns, has_room=has_room))
        return call

    def cancel(self, call: int) -> None:
        """The host gives up on ``call``."""
        asked = self.calls.get(call)
        if asked is not None and not asked.cancelled_ns and asked.verdict is None:
            asked.cancelled_ns = self.now_ns
        self.step(ev.CancelRequested(call))

    def prepare(self, plugin: str) -> None:
        """A new generation beside the live one, with a canary or without."""
        spec = self._spec(plugin)
        canary = None
        if self.random.random() < 0.7:
            call = self.next_call
            self.next_call += 1
            deadline_ns = self.now_ns + self.random.choice((5, 300, 2000)) * MS
            self.calls[call] = self.open[call] = Asked(call, plugin, "canary", deadline_ns, self.now_ns, 0, canary=True)
            canary = ev.InvokeRequested(call, plugin, "onDataFetch", "canary", NIL, deadline_ns, own=True)
        self.judging[(plugin, spec.digest)] = 0
        self.step(ev.GenerationPrepared(spec, canary))
        if self.random.random() < 0.8:
            decide = self.adopt if self.random.random() < 0.7 else self.drop
            self.at(self.random.choice((1, 30, 400, 70_000)) * MS, decide, spec)

    def adopt(self, spec: PluginSpec) -> None:
        """The registry decides for ``spec``."""
        if spec.id in self.plugins and not self.draining:
            self.step(ev.PluginSet(spec))

    def drop(self, spec: PluginSpec) -> None:
        """The registry decides against what was prepared."""
        self.step(ev.GenerationDropped(spec.id))

    def upgrade(self, plugin: str) -> None:
        """Other content, other limits, or only another priority."""
        old = self.plugins[plugin].spec
        kind = self.random.randrange(3)
        spec = self._spec(plugin) if kind == 0 else self._spec(plugin, digest=old.digest)
        if kind == 2:
            spec = self._spec(plugin, digest=old.digest, limits=old.limits, priority=5)
        self.step(ev.PluginSet(spec))

    def toggle(self, plugin: str) -> None:
        """Disables, enables, removes or brings back."""
        known = self.plugins.get(plugin)
        if known is None:
            self.step(ev.PluginSet(self._spec(plugin)))
        elif self.random.random() < 0.4:
            self.step(ev.PluginRemoved(plugin))
        else:
            state = "disabled" if known.spec.state == "enabled" else "enabled"
            self.step(ev.PluginSet(self._spec(plugin, digest=known.spec.digest, limits=known.spec.limits, state=state)))

    def fault(self, plugin: str) -> None:
        """The supervisor fails at something that it does for ``plugin``."""
        if plugin in self.plugins:
            self.plugins[plugin].breaker.trip(self.now_ns)
        self.step(ev.PluginFaulted(plugin, "a fault"))
        self.invariants.need(all(worker.killed for worker in self.workers.values() if worker.spec.id == plugin),
                             "a worker of a faulted plugin goes on")

    def lose_zygote(self) -> None:
        """The zygote dies with all its workers; another one comes up later."""
        if not self.zygote_up:
            return
        self.zygote_up = False
        for worker in list(self.workers.values()):
            worker.unreported = False
            if worker.forked:
                worker.alive, dead = False, not worker.alive
                arrives_ns = max(getattr(worker, "arrives_ns", 0), self.now_ns) if not dead else self.now_ns
                self.at(arrives_ns - self.now_ns + 20_000, self._tell_gone, worker, "WORKER_CRASHED")
        self.step(ev.ZygoteLost())
        self.at(self.random.choice((5, 500)) * MS, self._tell_zygote_up)

    def _tell_zygote_up(self) -> None:
        self.zygote_up = True
        self.step(ev.ZygoteUp())

    def throttle(self, worker: SimWorker, on: bool) -> None:
        """SIGSTOP or SIGCONT by the governor."""
        if worker.id not in self.workers or not worker.alive or worker.paused == on:
            return
        worker.held_ns, worker.paused = worker.held(self.now_ns), on
        worker.paused_ns = self.now_ns
        self.step(ev.WorkerThrottled(worker.id, on))
        if on:
            self.at(self.random.choice((20, 600)) * MS, self.throttle, worker, False)
            return
        stalled, worker.stalled = worker.stalled, []
        for what, argument in stalled:
            again: dict[str, Callable[..., None]] = {"boot": self._boot, "take": self._take, "end": self._end_run}
            if what == "crowd":
                self.end_one(worker, *argument)  # type: ignore[misc]  # a number and a code
            elif what == "pong":
                self._pong(worker, argument)  # type: ignore[arg-type]  # a pong's argument is its nonce
            else:
                again[what](worker)

    def reconfigure(self) -> None:
        """Other bounds for everything."""
        self.limits, self.recycle = self._limits(), self._recycle()
        self.step(ev.Reconfigured(self.limits, self.policy, self.recycle))

    def operate(self, plugin: str) -> None:
        """Restarts a plugin, resets its breaker, or wants it warm."""
        kind = self.operator.choice(("restart", "reset", "warm"))
        known = self.plugins.get(plugin)
        if kind == "warm":
            self.step(ev.WorkerWanted(plugin))
            return
        if kind == "restart":
            if known is not None:
                known.breaker.waived = True
            self.step(ev.RestartRequested(plugin))
        else:
            if known is not None:
                known.breaker.reset()
            self.step(ev.BreakerReset(plugin))

    def turn_ledger(self) -> None:
        """The ledger cannot take a record, says so again, or takes them again."""
        if self.refusing and self.ledger.random() < 0.5:
            self.refusing = False
            self.step(ev.WorkAdmitted())
        else:
            if not self.refusing:
                self.refusing, self.refused_ns = True, self.now_ns
            self.step(ev.WorkRefused("AUDIT_UNAVAILABLE", "no record"))

    def take(self, plugin: str) -> None:
        """The plugin is taken from some users, and from others no more; nothing else of it changes."""
        spec = self.plugins[plugin].spec
        users = frozenset(f"u{number}" for number in range(6) if self.ledger.random() < 0.5)
        changed = {"users": users} if self.ledger.random() < 0.5 else {"entitled": users}
        self.step(ev.PluginSet(replace(spec, **changed)))

    def drain(self, after_ms: int) -> None:
        """The daemon is asked to end."""
        self.draining, self.drain_at_ns = True, self.now_ns + after_ms * MS
        self.step(ev.DrainRequested(self.drain_at_ns))

    def fail(self, message: str) -> None:
        """An invariant does not hold: says so with the seed."""
        raise Broken(f"seed {self.seed}: {message} (python -m tests.sim --seed {self.seed} tells the story)")
