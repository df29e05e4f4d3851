"""The governor's hands on processes that no jail bounds: what only it can stop, and that it lets go again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from msgspec import Raw

from apex_exec.catalogue.limits import Limits
from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler.breaker import BreakerPolicy
from apex_exec.core.scheduler.pool import Pool, PoolLimits
from apex_exec.executor.resource_monitor import AT_ONCE, SLICE_NS, Governing
from apex_exec.observe.metrics import Metrics
from tests.support.daemon import wait_for

HOG = "kept = []\nwhile True:\n    kept.append(bytearray(b'x' * (1 << 20)))\n    import time; time.sleep(0.005)"
SPIN = "while True: pass"


class Bench:
    """A governor over one plugin whose workers are plain processes."""

    def __init__(self, cpu_percent: float = 10, burst_seconds: float = 0.1) -> None:
        self.pool = Pool(PoolLimits(), BreakerPolicy(), lambda: 0.5)
        self.metrics = Metrics()
        self.heard: list[ev.Event] = []
        self.activated: set[int] = set()
        self.governing = Governing(pool=self.pool, step=self.step, metrics=self.metrics, activated=self.activated,
                                   burst_seconds=burst_seconds)
        self.spec = PluginSpec("aaa", "1.0.0", "d", "p.py", (), limits=Limits(memory_mb=20, cpu_percent=cpu_percent))
        self.children: list[subprocess.Popen[bytes]] = []
        self.pidfds: list[int] = []
        self.step(ev.PluginSet(self.spec), time.monotonic_ns())

    def step(self, event: ev.Event, now_ns: int) -> None:
        self.heard.append(event)
        self.activated.update(action.worker for action in self.pool.step(event, now_ns)
                              if isinstance(action, act.StartWorker | act.SendCall))

    def start(self, code: str) -> psutil.Process:
        """One more worker, with a call to run."""
        worker = len(self.children) + 1
        now_ns = time.monotonic_ns()
        self.step(ev.InvokeRequested(worker, "aaa", "onDataFetch", "u", Raw(b"\x80"), now_ns + 60 * 10**9), now_ns)
        child = subprocess.Popen([sys.executable, "-c", code])
        self.children.append(child)
        self.pidfds.append(os.pidfd_open(child.pid))
        self.governing.worker_started(worker, self.spec, child.pid, self.pidfds[-1])
        self.step(ev.WorkerReady(worker), now_ns)
        return psutil.Process(child.pid)

    def run(self, seconds: float) -> None:
        """The loop's part: ticks when they are due."""
        end_ns = time.monotonic_ns() + int(seconds * 1e9)
        while (now_ns := time.monotonic_ns()) < end_ns:
            due_ns = self.governing.tick(now_ns)
            assert due_ns > now_ns, "the governor spins"
            time.sleep(max(0, min(due_ns, end_ns) - time.monotonic_ns()) / 1e9)

    def exceeded(self) -> list[str]:
        return [event.code for event in self.heard if isinstance(event, ev.LimitExceeded)]


@pytest.fixture
def bench() -> Iterator[Bench]:
    yield from _bench(Bench())


@pytest.fixture
def generous() -> Iterator[Bench]:
    """One whose plugin may use a core for long."""
    yield from _bench(Bench(cpu_percent=100, burst_seconds=60))


def _bench(made: Bench) -> Iterator[Bench]:
    yield made
    for child in made.children:
        child.kill()
        child.wait()
    made.governing.close()
    for fd in made.pidfds:
        os.close(fd)


def test_memory_beyond_the_bound_is_reported_with_evidence_and_only_then(bench: Bench) -> None:
    process = bench.start(HOG)
    while not bench.exceeded():
        assert process.memory_full_info().uss < 120 * 2**20
        bench.run(0.02)
    assert bench.exceeded()[0] == "MEMORY_LIMIT"
    assert process.memory_full_info().uss > 28 * 2**20
    assert bench.governing.usage(1)[0] > 28


def test_a_worker_is_stopped_when_its_share_is_spent_and_always_let_go_again(bench: Bench) -> None:
    process = bench.start(SPIN)
    states = set()
    for _ in range(1000):
        bench.run(0.01)
        states.add(process.status())
        told = [event.throttled for event in bench.heard if isinstance(event, ev.WorkerThrottled)]
        if len(told) >= 6:
            break
    assert psutil.STATUS_STOPPED in states and len(told) >= 4, "it did not go on and spend again"
    assert told == [True, False] * (len(told) // 2) + [True] * (len(told) % 2)
    assert bench.governing.usage(1, 1)[1] > 0
    bench.governing.close()
    wait_for(lambda: process.status() != psutil.STATUS_STOPPED, 5, "its going on")


def test_the_next_worker_of_a_plugin_in_debt_waits_too(bench: Bench) -> None:
    bench.start(SPIN)
    bench.run(0.5)
    bench.children[0].kill()
    bench.children[0].wait()
    assert bench.governing.worker_gone(1, None) is None
    bench.step(ev.WorkerGone(1, 1, "WORKER_CRASHED", "killed", {"signal": signal.SIGKILL}), time.monotonic_ns())
    time.sleep(0.1)
    held = bench.governing._governor.is_throttled("aaa")
    process = bench.start(SPIN)
    if held:
        wait_for(lambda: process.status() == psutil.STATUS_STOPPED, 2, "its standing still")
    before = sum(process.cpu_times()[:2])
    bench.run(2)
    assert sum(process.cpu_times()[:2]) - before < 0.5


def test_many_busy_workers_are_sampled_a_few_in_each_turn_and_all_of_them(
        generous: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 2 * AT_ONCE + 3
    for _ in range(count):
        generous.start("import time; time.sleep(60)")
    portions: list[list[int]] = []
    sample = Governing._sample

    def counted(self: Governing, known: Any, now_ns: int) -> int:
        portions[-1].append(known.worker)
        return sample(self, known, now_ns)

    monkeypatch.setattr(Governing, "_sample", counted)
    now_ns = time.monotonic_ns()
    generous.governing._rotated_ns = now_ns  # the rotation has its turn later
    end_ns = now_ns + SLICE_NS * 4 // 5
    while now_ns < end_ns:  # a clock of the test's own: on a busy machine the real one leaves no time for all
        portions.append([])
        now_ns = max(now_ns + 1, generous.governing.tick(now_ns))
    sampled = [portion for portion in portions if portion]
    assert max(map(len, sampled)) <= AT_ONCE
    assert set().union(*sampled) == set(range(1, count + 1))


def test_a_process_that_died_before_it_was_known_is_left_alone(bench: Bench) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    pidfd = os.pidfd_open(child.pid)
    child.wait()
    bench.governing.worker_started(9, bench.spec, child.pid, pidfd)
    bench.run(0.05)
    assert bench.governing.usage(9) == (0.0, 0)
    os.close(pidfd)
