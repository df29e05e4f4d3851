"""The scheduler under random histories with a fake clock: one verdict per call, order and bounds kept, quiescence.

A failure prints Hypothesis' reproducing choices; nothing here waits or touches a process.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler.breaker import BreakerPolicy
from apex_exec.core.scheduler.pool import MS_NS, Pool, PoolLimits

LIMITS = PoolLimits(workers_max=3, queue_max=12, prefetch=4)
PLUGINS = ("aaa", "bbb")


class World:
    """Workers that obey, a clock that is played, and the invariants, checked after every step."""

    def __init__(self, policy: BreakerPolicy | None = None, limits: PoolLimits = LIMITS) -> None:
        self.now_ns = 10**12
        self.limits = limits
        self.pool = Pool(limits, policy or BreakerPolicy(), lambda: 0.5)
        self.links: dict[int, list[tuple[int, int]]] = {}  # worker → unanswered (seq, call)
        self.started: dict[int, int] = {}
        self.owner: dict[int, str] = {}
        self.asked: set[int] = set()
        self.verdicts: dict[int, act.Verdict] = {}
        self.ran: list[int] = []
        self.dead: list[int] = []
        for plugin in PLUGINS:
            self.step(ev.PluginSet(PluginSpec(plugin, "1.0.0", "d", "p.py", ("onDataFetch",))))

    def step(self, event: ev.Event) -> None:
        for action in self.pool.step(event, self.now_ns):
            if isinstance(action, act.Verdict):
                assert action.call in self.asked, "a verdict before its cause"
                assert action.call not in self.verdicts, "a second verdict"
                self.verdicts[action.call] = action
            elif isinstance(action, act.StartWorker):
                self.links[action.worker], self.started[action.worker] = [], 0
                self.owner[action.worker] = action.spec.id
            elif isinstance(action, act.SendCall):
                link = self.links[action.worker]
                link.append((action.seq, action.request.call))
                assert len(link) <= self.limits.prefetch
            elif isinstance(action, act.KillWorker | act.StopWorker) and action.worker not in self.dead:
                self.dead.append(action.worker)
            elif isinstance(action, act.CountStarted):
                self.step(ev.CallsStarted(action.worker, self.started[action.worker]))
        assert len(self.links) <= self.limits.workers_max
        owners = [self.owner[w] for w in self.links]
        assert len(owners) == len(set(owners)), "two workers of one plugin"

    def invoke(self, call: int, plugin: str, deadline_ms: int = 5000, user: str = "u") -> None:
        self.asked.add(call)
        deadline_ns = self.now_ns + deadline_ms * MS_NS
        self.step(ev.InvokeRequested(call, plugin, "onDataFetch", user, Raw(b"\x80"), deadline_ns))

    def begin(self, worker: int) -> None:
        if self.links[worker] and self.started[worker] <= self.links[worker][0][0]:
            self.started[worker] += 1
            call = self.links[worker][0][1]
            assert call not in self.ran, "a call ran twice"
            self.ran.append(call)

    def answer(self, worker: int) -> None:
        if self.links[worker]:
            self.begin(worker)
            seq, _ = self.links[worker].pop(0)
            self.step(ev.WorkerAnswered(worker, seq, "", None))

    def gone(self, worker: int) -> None:
        del self.links[worker]
        self.dead = [w for w in self.dead if w != worker]
        self.step(ev.WorkerGone(worker, self.started[worker], "WORKER_CRASHED", "killed", {"signal": 9}))

    def tick(self, ms: int) -> None:
        self.now_ns += ms * MS_NS
        self.step(ev.Tick())


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("iiiirbaaakctg"), st.integers(0, 7), st.integers(1, 400)), max_size=120))
def test_every_history_gives_each_call_exactly_one_verdict_and_comes_to_rest(moves: list[tuple[str, int, int]]) -> None:
    world = World()
    for number, (move, pick, amount) in enumerate(moves):
        workers = list(world.links)
        worker = workers[pick % len(workers)] if workers else None
        if move == "i":
            world.invoke(number, PLUGINS[pick % 2], amount * 10, f"u{pick}")
        elif move == "t":
            world.tick(amount)
        elif move == "c":
            world.step(ev.CancelRequested(pick))
        elif move == "g" and world.dead:
            world.gone(world.dead[0])
        elif worker is None:
            continue
        elif move == "r":
            world.step(ev.WorkerReady(worker))
        elif move == "b":
            world.begin(worker)
        elif move == "a":
            world.answer(worker)
        elif move == "k":
            world.gone(worker)
    for _ in range(300):
        world.tick(100)
        while world.dead:
            world.gone(world.dead[0])
    assert set(world.verdicts) == world.asked
    assert world.pool.pending() == 0


def test_a_plugin_runs_its_calls_in_arrival_order_with_prefetch() -> None:
    world = World()
    for call in range(6):
        world.invoke(call, "aaa", user=f"u{call}")
    world.step(ev.WorkerReady(1))
    assert [call for _, call in world.links[1]] == [0, 1, 2, 3]
    for _ in range(6):
        world.answer(1)
    assert world.ran == list(range(6)) and all(v.code == "" for v in world.verdicts.values())


def test_a_hang_costs_its_worker_at_the_deadline_and_spares_the_calls_behind_it() -> None:
    world = World()
    world.invoke(0, "aaa", 100)
    world.invoke(1, "aaa", 5000)
    world.step(ev.WorkerReady(1))
    world.begin(1)
    world.tick(100)
    assert world.verdicts[0].code == "TIMEOUT" and world.dead == [1]
    world.gone(1)
    world.step(ev.WorkerReady(2))
    world.answer(2)
    assert world.verdicts[1].code == "" and world.ran == [0, 1]


def test_a_death_charges_only_the_started_call() -> None:
    world = World()
    for call in range(4):
        world.invoke(call, "aaa", user=f"u{call}")
    world.step(ev.WorkerReady(1))
    world.begin(1)
    world.gone(1)
    assert {c: v.code for c, v in world.verdicts.items()} == {0: "WORKER_CRASHED"}
    world.step(ev.WorkerReady(2))
    for _ in range(3):
        world.answer(2)
    assert world.ran == [0, 1, 2, 3] and world.verdicts[3].code == ""


def test_full_is_an_answer_and_one_user_holds_at_most_a_quarter_while_others_wait() -> None:
    world = World()
    world.invoke(9, "aaa", user="modest")
    for call in range(4):
        world.invoke(call, "aaa", user="greedy")
    assert world.verdicts[3].code == "OVERLOADED"
    for call in range(10, 30):
        world.invoke(call, "aaa", user=f"u{call}")
    assert sum(v.code == "OVERLOADED" for v in world.verdicts.values()) == 25 - LIMITS.queue_max


def test_five_abnormal_ends_open_the_breaker_and_a_probe_closes_it() -> None:
    world = World()
    for call in range(5):
        world.tick(31_000 if call > 4 else 4_000)
        world.invoke(call, "aaa", 60_000, f"u{call}")
        world.tick(3_000)
        worker = max(world.links)
        world.step(ev.WorkerReady(worker))
        world.begin(worker)
        world.gone(worker)
    world.invoke(100, "aaa")
    assert world.verdicts[100].code == "QUARANTINED" and world.verdicts[100].details["retryAfterMs"] == 60_000
    world.tick(60_001)
    world.invoke(101, "aaa", 60_000)
    world.invoke(102, "aaa", 60_000)
    assert world.verdicts[102].code == "QUARANTINED", "only one probe at a time"
    worker = max(world.links)
    world.step(ev.WorkerReady(worker))
    world.answer(worker)
    world.invoke(103, "aaa")
    world.answer(worker)
    assert world.verdicts[101].code == world.verdicts[103].code == ""


def test_a_reply_out_of_turn_kills_the_worker_and_opens_the_breaker() -> None:
    world = World()
    world.invoke(0, "aaa")
    world.step(ev.WorkerReady(1))
    world.step(ev.WorkerAnswered(1, 7, "", None))
    assert world.verdicts[0].code == "WORKER_VIOLATION"
    world.gone(1)
    world.invoke(1, "aaa")
    assert world.verdicts[1].code == "QUARANTINED"


def test_the_summary_of_all_plugins_agrees_with_the_gauges_of_each() -> None:
    world, seen = World(), []
    for call in range(8):
        world.invoke(call, PLUGINS[call % 2], 60_000, f"u{call}")
    world.step(ev.WorkerReady(min(world.links)))
    for call in range(10, 16):
        worker = max(world.links)
        world.step(ev.WorkerReady(worker))
        world.begin(worker)
        world.gone(worker)
        world.tick(3_000)
        world.invoke(call, "bbb", 60_000, f"u{call}")
        gauges = world.pool.gauges(world.now_ns)
        states, queued, in_flight, paused = world.pool.summary(world.now_ns)
        seen.append((queued, in_flight))
        assert states == {"enabled": 2}
        assert (queued, in_flight) == (sum(row[1] for row in gauges), sum(row[2] for row in gauges))
        assert paused == [row[0] for row in gauges if row[4] != "closed"]
        assert world.pool.gauges(world.now_ns, ["bbb", "nobody"]) == [row for row in gauges if row[0] == "bbb"]
    assert paused and any(sum(one) for one in seen), "there was something to agree on"
