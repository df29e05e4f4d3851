"""``pool.step`` as a Hypothesis state machine: any order of what may happen, the simulator's invariants, and rest."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from apex_exec.core import events as ev
from tests.sim.history import rest
from tests.sim.model import MS
from tests.sim.world import World

PLUGINS = st.sampled_from(("aaa", "bbb", "ccc"))


class Machine(RuleBasedStateMachine):
    """The world checks everything at every step; the rules only say what happens next."""

    world: World

    @initialize(seed=st.integers(0, 2**20), honest=st.booleans())
    def begin(self, seed: int, honest: bool) -> None:
        self.world = World(seed)
        if honest:
            self.world.rates = dict.fromkeys(self.world.rates, 0.0)

    @rule(plugin=PLUGINS, user=st.integers(0, 5), timeout_ms=st.sampled_from((1, 20, 100, 5000)))
    def ask(self, plugin: str, user: int, timeout_ms: int) -> None:
        self.world.ask(plugin, f"u{user}", timeout_ms)

    @rule(passed_ms=st.sampled_from((0, 1, 10, 101, 251, 1000, 6000)))
    def wait(self, passed_ms: int) -> None:
        self.world.run_until(self.world.now_ns + passed_ms * MS)

    @precondition(lambda self: self.world.open)
    @rule(pick=st.integers(0, 100))
    def cancel(self, pick: int) -> None:
        self.world.cancel(list(self.world.open)[pick % len(self.world.open)])

    @precondition(lambda self: self.world.workers)
    @rule(pick=st.integers(0, 100), what=st.sampled_from(("crash", "memory", "hold")))
    def trouble(self, pick: int, what: str) -> None:
        worker = list(self.world.workers.values())[pick % len(self.world.workers)]
        if not (worker.alive and worker.forked):
            return
        if what == "crash":
            self.world._die(worker, "WORKER_CRASHED")
        elif what == "memory":
            self.world.step(ev.LimitExceeded(worker.id, "MEMORY_LIMIT", "over its bound"))
        else:
            self.world.throttle(worker, True)

    @rule(plugin=PLUGINS, what=st.sampled_from(("toggle", "upgrade", "prepare")))
    def administer(self, plugin: str, what: str) -> None:
        if what == "toggle" or plugin in self.world.plugins:
            getattr(self.world, what)(plugin)

    @rule()
    def lose_the_zygote(self) -> None:
        self.world.lose_zygote()

    @rule(length_ms=st.sampled_from((10, 300, 30_000)), ticks_first=st.booleans())
    def stand_still(self, length_ms: int, ticks_first: bool) -> None:
        self.world.stall(length_ms * MS, ticks_first)

    @rule()
    def reconfigure(self) -> None:
        self.world.reconfigure()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            rest(self.world)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@pytest.mark.slow
class TestLongMachine(Machine.TestCase):  # type: ignore[misc, name-defined]
    """The same, for longer."""

    settings = settings(max_examples=1000, stateful_step_count=40, deadline=None)
