"""More than a plugin can do: it works on, is not taken for broken, and what is refused costs little at once."""

from __future__ import annotations

import pytest

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.calls import PASSED_IN_QUEUE, TOO_LATE
from apex_exec.core.limits import EXPIRED_AT_ONCE
from apex_exec.core.pool import MS_NS, PoolLimits
from tests.core.test_pool_promises import Told

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
                self.marks[1] = self.seq + 1
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


def test_no_call_is_given_up_for_a_guess_before_it_has_waited_longer_than_it_has_left() -> None:
    told = Told(PoolLimits(prefetch=1, ping_ns=0))
    told.call()
    told.ready(1)
    for seq in range(40):  # its hook is known to take 300 ms
        told.passed(300)
        told.call()
        told.answer(1, seq)
    short = told.call(deadline_ms=200)
    long = told.call(deadline_ms=1000)
    late = told.call(deadline_ms=400)
    told.passed(10)
    told.answer(1, 40)  # a quick one, for once
    assert short not in told.verdicts(), "it may be quick too"
    told.passed(180)
    told.answer(1, 41)
    told.passed(9)
    assert long not in told.verdicts()
    told.passed(100)
    told.answer(1, 42)
    assert told.verdicts()[late] == ("DEADLINE_EXCEEDED", False)
    assert [a.message for a in told.wanted if isinstance(a, act.Verdict) and a.call == late] == [TOO_LATE]


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
