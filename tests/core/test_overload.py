"""More than a plugin can do: it works on, is not taken for broken, and what is refused costs little at once."""

from __future__ import annotations

import pytest
from msgspec import Raw

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.limits import EXPIRED_AT_ONCE
from apex_exec.core.scheduler.pool import MS_NS, PoolLimits
from apex_exec.core.scheduler.verdicts import PASSED_IN_QUEUE, TOO_LATE
from tests.core.test_pool_promises import Told, spec

RUN_MS = 20


class Busy(Told):
    """One worker of ``aaa`` whose hook takes RUN_MS, as the real one: marks, reads the clock, skips or runs."""

    def __init__(self, limits: PoolLimits) -> None:
        super().__init__(limits)
        self.seq = 0
        self.until_ns = 0
        self.skips = False

    def work(self, until_ns: int) -> None:
        """What the worker does until then."""
        while True:
            sent = {a.seq: a for a in self.wanted if isinstance(a, act.SendCall)}
            if not self.until_ns:
                if self.seq not in sent:
                    return
                self.started[1] = self.seq + 1
                self.skips = self.now_ns >= sent[self.seq].request.deadline_ns
                self.until_ns = self.now_ns + (0 if self.skips else RUN_MS * MS_NS)
            if self.until_ns > until_ns:
                return
            self.passed(max(0, self.until_ns - self.now_ns) / MS_NS)
            if any(isinstance(a, act.KillWorker) for a in self.wanted):
                return
            self.answer(1, self.seq, "skipped" if self.skips else "")
            self.seq, self.until_ns = self.seq + 1, 0

    def until(self, end_ns: int) -> None:
        """Worker and clock go on to ``end_ns``."""
        self.work(end_ns)
        if end_ns > self.now_ns:
            self.passed((end_ns - self.now_ns) / MS_NS)


@pytest.mark.parametrize("prefetch", [1, 8])
@pytest.mark.parametrize("every_ms", [2, 10, 19])
@pytest.mark.slow
def test_a_healthy_plugin_under_twice_its_load_works_on_and_is_not_killed(prefetch: int, every_ms: int) -> None:
    busy = Busy(PoolLimits(queue_max=1024, prefetch=prefetch, ping_ns=0))
    busy.call()
    busy.ready(1)
    begun_ns = busy.now_ns
    for n in range(10_000 // every_ms):
        busy.until(begun_ns + n * every_ms * MS_NS)
        busy.call(deadline_ms=500, user=f"u{n % 64}")
    assert not any(isinstance(a, act.KillWorker | act.BreakerChanged) for a in busy.wanted)
    codes = [a.code for a in busy.wanted if isinstance(a, act.Verdict)]
    assert set(codes) <= {"", "DEADLINE_EXCEEDED", "OVERLOADED"}
    assert codes.count("") > 0.9 * 10_000 / RUN_MS  # nearly all that it can do


def known(run_ms: int, prefetch: int = 8) -> tuple[Told, int]:
    """A plugin whose hook is known to take ``run_ms``; the seq of the next call."""
    told = Told(PoolLimits(prefetch=prefetch, queue_max=1024, ping_ns=0))
    told.call()
    told.ready(1)
    for seq in range(20):
        told.passed(run_ms)
        told.answer(1, seq)
        told.call()
    told.answer(1, 20)
    return told, 21


def test_a_call_is_given_up_only_after_it_has_waited_longer_than_it_has_left() -> None:
    told, seq = known(300, prefetch=1)
    told.call()
    short, late = told.call(deadline_ms=200), told.call(deadline_ms=400)
    told.passed(90)
    told.answer(1, seq)
    assert short not in told.verdicts(), "it may be quick for once"
    told.passed(100)
    told.answer(1, seq + 1)
    assert late not in told.verdicts(), "it has waited 190 ms and has 210 left"
    told.answer(1, seq + 2)
    late = told.call(deadline_ms=1000)
    hopeless = told.call(deadline_ms=1000)
    told.passed(700)
    told.answer(1, seq + 3)
    assert told.verdicts()[hopeless] == ("DEADLINE_EXCEEDED", False)
    assert [a.message for a in told.wanted if isinstance(a, act.Verdict) and a.call == hopeless] == [TOO_LATE]


@pytest.mark.parametrize("slow_ms", [3000, 4000])
def test_one_slow_call_has_nobody_given_up_who_waited_behind_it(slow_ms: int) -> None:
    told, seq = known(1)
    told.call()
    told.passed(100)
    waiting = [told.call(user=f"u{n % 40}") for n in range(60)]
    told.passed(slow_ms)
    for _ in range(61):
        told.answer(1, seq)
        told.passed(1)
        seq += 1
    assert {told.verdicts()[call] for call in waiting} == {("", True)}


def test_a_call_that_would_come_too_late_behind_others_waits_until_they_are_through() -> None:
    told, seq = known(100)
    told.call()
    calls = [told.call(deadline_ms=1000, user=f"u{n}") for n in range(12)]
    told.passed(600)  # the first took six times as long
    for _ in range(5):
        told.answer(1, seq)
        told.passed(60)
        seq += 1
    assert not set(told.verdicts().values()) & {("DEADLINE_EXCEEDED", False)}
    assert calls


def test_another_version_and_a_canary_say_nothing_of_the_version_in_force() -> None:
    told, seq = known(300, prefetch=1)
    told.tell(ev.PluginSet(spec(digest="e")))
    told.ready(2)
    assert told.pool.slots["aaa"].runs("onDataFetch") == 0
    told.tell(ev.GenerationPrepared(spec(digest="f"), ev.InvokeRequested(
        10**6, "aaa", "onDataFetch", "u", Raw(b"\x80"), told.now_ns + 50 * MS_NS)))
    told.ready(3)
    told.passed(400)  # its canary hangs, and is killed
    assert told.verdicts()[10**6][0] == "TIMEOUT"
    assert told.pool.slots["aaa"].runs("onDataFetch") == 0


@pytest.mark.parametrize("ready", [False, True])
def test_a_queue_that_expires_at_one_moment_is_answered_in_parts_with_others_between(ready: bool) -> None:
    told = Told(PoolLimits(queue_max=1024, prefetch=1, ping_ns=0))
    first = told.call(deadline_ms=1000)
    if ready:
        told.ready(1)
    waiting = [told.call(deadline_ms=50, user=f"u{n % 64}") for n in range(1000)]
    told.now_ns += 60 * MS_NS
    steps, other = 0, 0
    while (wake_ns := told.pool.next_wake_ns()) is not None and wake_ns <= told.now_ns:
        ended = [a for a in told.tell(ev.Tick()) if isinstance(a, act.Verdict)]
        assert len(ended) <= 2 * EXPIRED_AT_ONCE  # what is due, and what stands where a worker is to be fed
        steps += 1
        told.now_ns += 1
        if steps == 3:
            other = told.call("bbb")
            told.ready(2 if ready else 3)
    assert steps > 10
    ended = {a.call: a for a in told.wanted if isinstance(a, act.Verdict)}
    assert ended.keys() == set(waiting) and {a.message for a in ended.values()} == {PASSED_IN_QUEUE}
    assert any(isinstance(a, act.SendCall) and a.request.call == other for a in told.wanted) or not ready
    assert first not in ended


def test_an_answer_that_finds_a_thousand_expired_calls_behind_it_is_one_step_too() -> None:
    told = Told(PoolLimits(queue_max=1024, prefetch=1, ping_ns=0))
    told.call()
    told.ready(1)
    for n in range(1000):
        told.call(deadline_ms=50, user=f"u{n % 64}")
    last = told.call()
    told.now_ns += 60 * MS_NS
    assert sum(isinstance(a, act.Verdict) for a in told.answer(1, 0)) == 1 + EXPIRED_AT_ONCE
    told.passed(1)
    assert len(told.verdicts()) == 1001
    assert any(isinstance(a, act.SendCall) and a.request.call == last for a in told.wanted)
