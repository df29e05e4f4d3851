"""The scheduler's promises one by one, each as a sequence of steps: what comes in, what is wanted."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import TypeVar

import pytest
from msgspec import Raw
from msgspec.structs import replace

from apex_exec.catalogue.limits import LIMITS as DECLARED
from apex_exec.catalogue.limits import Limits
from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler.breaker import BreakerPolicy
from apex_exec.core.scheduler.pool import MS_NS, SECOND_NS, Pool, PoolLimits, RecyclePolicy
from apex_exec.core.scheduler.user_breakers import PAIRS_MAX
from apex_exec.core.scheduler.worker import generation
from apex_exec.executor.local import LocalExecutor

T = TypeVar("T")
LIMITS = PoolLimits(workers_max=2, queue_max=8, prefetch=3, ping_ns=0)


def spec(plugin: str = "aaa", digest: str = "d", **changes: object) -> PluginSpec:
    return PluginSpec(plugin, "1.0.0", digest, "p.py", ("onDataFetch",), **changes)  # type: ignore[arg-type]  # by name


class Told:
    """A pool and its clock; everything it wanted so far is in ``wanted``."""

    def __init__(self, limits: PoolLimits = LIMITS, recycle: RecyclePolicy | None = None,
                 policy: BreakerPolicy | None = None) -> None:
        self.now_ns = 10**12
        self.started: dict[int, int] = {}  # worker → calls that it has started, for when the pool asks
        self.pool = Pool(limits, policy or BreakerPolicy(), lambda: 0.5, recycle)
        self.wanted: list[act.Action] = []
        self.numbers = itertools.count(1)
        for plugin in ("aaa", "bbb", "ccc"):
            self.tell(ev.PluginSet(spec(plugin)))

    def tell(self, event: ev.Event) -> list[act.Action]:
        actions = self.pool.step(event, self.now_ns)
        self.wanted += actions
        for asked in of(actions, act.CountStarted):
            actions = actions + self.tell(ev.CallsStarted(asked.worker, self.started.get(asked.worker, 0)))
        return actions

    def call(self, plugin: str = "aaa", deadline_ms: float = 5000, user: str = "u") -> int:
        call = next(self.numbers)
        deadline_ns = self.now_ns + int(deadline_ms * MS_NS)
        self.tell(ev.InvokeRequested(call, plugin, "onDataFetch", user, Raw(b"\x80"), deadline_ns))
        return call

    def passed(self, ms: float) -> list[act.Action]:
        """Time passes, with a tick whenever the pool asks for one."""
        end_ns = self.now_ns + int(ms * MS_NS)
        actions = []
        while (wake_ns := self.pool.next_wake_ns()) is not None and wake_ns <= end_ns:
            self.now_ns = max(self.now_ns, wake_ns)
            actions += self.tell(ev.Tick())
        self.now_ns = end_ns
        return actions

    def answer(self, worker: int, seq: int, code: str = "") -> list[act.Action]:
        return self.tell(ev.WorkerAnswered(worker, seq, code, None))

    def gone(self, worker: int, started: int = 0, code: str = "WORKER_CRASHED") -> list[act.Action]:
        return self.tell(ev.WorkerGone(worker, started, code, "died", {"signal": 9}))

    def ready(self, worker: int) -> list[act.Action]:
        return self.tell(ev.WorkerReady(worker))

    def refused(self, user: str = "u") -> str:
        """The code that one more call is answered with at once; "" where it is admitted."""
        call = self.call(user=user)
        return self.verdicts().get(call, ("", False))[0]

    def verdicts(self) -> dict[int, tuple[str, bool]]:
        return {a.call: (a.code, a.started) for a in self.wanted if isinstance(a, act.Verdict)}


def of(actions: list[act.Action], kind: type[T]) -> list[T]:
    return [a for a in actions if isinstance(a, kind)]


def test_a_cancelled_probe_makes_way_for_the_next_call() -> None:
    told = Told(policy=BreakerPolicy(ends_max=1))
    told.call()
    told.ready(1)
    told.gone(1, started=1)
    told.passed(60_001)
    probe = told.call()
    told.tell(ev.CancelRequested(probe))
    following = told.call()
    assert following not in told.verdicts()
    assert told.refused() == "QUARANTINED"


def test_a_probe_that_expires_in_the_queue_makes_way_too() -> None:
    told = Told(policy=BreakerPolicy(ends_max=1))
    told.call()
    told.ready(1)
    told.gone(1, started=1)
    told.passed(60_001)
    told.call(deadline_ms=10)
    told.passed(20)
    assert told.call() not in told.verdicts()


def test_a_probe_that_fails_opens_the_breaker_again_at_once() -> None:
    told = Told(policy=BreakerPolicy(ends_max=1))
    told.call()
    told.ready(1)
    told.gone(1, started=1)
    told.passed(60_001)
    told.call()
    told.ready(2)
    assert act.BreakerChanged("aaa", "open") in told.gone(2, started=1)
    assert told.refused() == "QUARANTINED"


def test_a_call_behind_another_expires_only_if_the_count_after_its_deadline_leaves_it_out() -> None:
    told = Told()
    first, second = told.call(), told.call(deadline_ms=50)
    told.ready(1)
    told.started[1] = 1
    told.passed(60)
    assert told.verdicts() == {second: ("DEADLINE_EXCEEDED", False)}
    third = told.call(deadline_ms=50)
    told.started[1] = 3  # it has started: the replies before it are on their way
    told.passed(55)
    assert third not in told.verdicts()
    told.answer(1, 0)
    told.answer(1, 1, "skipped")
    told.answer(1, 2)
    assert told.verdicts()[first] == ("", True) and told.verdicts()[third] == ("TIMEOUT", True)


def test_a_call_with_time_left_is_not_believed_to_have_been_skipped() -> None:
    """It would be no usage, and its caller would try again: a plugin that says so of everything that it ran is free."""
    told = Told()
    call = told.call(deadline_ms=50)
    told.ready(1)
    told.passed(49)
    told.answer(1, 0, "skipped")
    assert told.verdicts()[call] == ("WORKER_VIOLATION", True)


def test_a_cancelled_call_that_runs_costs_its_worker_after_250_ms_uncharged() -> None:
    told = Told()
    call = told.call()
    told.ready(1)
    told.tell(ev.CancelRequested(call))
    assert told.verdicts() == {call: ("CANCELLED", True)}
    assert not of(told.passed(249), act.KillWorker)
    assert [kill.reason for kill in of(told.passed(2), act.KillWorker)] == ["cancelled"]
    assert act.WorkerEnded(1, "aaa", "cancelled", False) in told.gone(1, started=1)


def test_a_reply_that_was_complete_before_the_kill_counts() -> None:
    told = Told()
    told.call(deadline_ms=100)
    second = told.call()
    told.ready(1)
    assert of(told.passed(100), act.KillWorker)
    told.answer(1, 0)
    told.answer(1, 1)
    assert told.verdicts()[second] == ("", True)
    told.gone(1, started=2)
    assert not of(told.wanted, act.StartWorker)[1:]


def test_after_a_stall_of_the_supervisor_answers_are_read_before_workers_are_judged() -> None:
    told = Told()
    call = told.call(deadline_ms=100)
    told.ready(1)
    told.now_ns += 30 * SECOND_NS  # SIGSTOP
    assert not of(told.tell(ev.Tick()), act.KillWorker)
    told.answer(1, 0)
    assert told.verdicts() == {call: ("", True)}
    hung = told.call(deadline_ms=100)
    told.now_ns += 30 * SECOND_NS
    assert not of(told.tell(ev.Tick()), act.KillWorker)
    assert of(told.passed(100), act.KillWorker) and told.verdicts()[hung] == ("TIMEOUT", True)


def test_a_worker_that_hesitates_to_begin_its_oldest_call_goes_and_the_call_runs_in_the_next_one() -> None:
    told = Told()
    first = told.call()
    told.ready(1)
    told.started[1] = 1
    told.answer(1, 0)
    second, third = told.call(), told.call()
    actions = told.tell(ev.WorkerHesitates(1))
    assert [(kill.worker, kill.reason) for kill in of(actions, act.KillWorker)] == [(1, "overrun")]
    (ended,) = of(told.gone(1, started=1), act.WorkerEnded)
    assert (ended.reason, ended.charged) == ("overrun", False)
    told.ready(2)
    assert [sent.request.call for sent in of(told.wanted, act.SendCall)] == [first, second, third, second, third]
    told.answer(2, 0)
    told.answer(2, 1)
    assert told.verdicts() == dict.fromkeys((first, second, third), ("", True))


def test_a_worker_that_has_begun_its_oldest_call_does_not_hesitate_whatever_it_looks_like() -> None:
    told = Told()
    call = told.call()
    told.ready(1)
    told.started[1] = 1
    assert not of(told.tell(ev.WorkerHesitates(1)), act.KillWorker), "its hook sleeps, or computes"
    told.call()
    told.answer(1, 0)
    told.tell(ev.CallsStarted(1, 1))
    assert not of(told.wanted, act.KillWorker), "what was said of the first call is not said of the second"
    assert told.verdicts() == {call: ("", True)}


def test_the_first_ping_after_a_call_comes_soon_and_the_next_ones_as_configured() -> None:
    told = Told(PoolLimits())
    told.call()
    told.ready(1)
    told.started[1] = 1
    told.answer(1, 0)
    assert not of(told.passed(4999), act.PingWorker)
    assert of(told.passed(1001), act.PingWorker) == [act.PingWorker(1, 1)], "and a second for the common beat"
    told.tell(ev.WorkerPonged(1, 1))
    assert not of(told.passed(29_000), act.PingWorker)
    assert of(told.passed(2000), act.PingWorker) == [act.PingWorker(1, 2)]


def test_an_idle_worker_that_does_not_answer_its_ping_is_replaced_and_a_held_one_is_excused() -> None:
    told = Told(PoolLimits(ping_ns=SECOND_NS, ping_grace_ns=SECOND_NS // 2))
    told.call()
    told.ready(1)
    told.answer(1, 0)
    pings = of(told.passed(1000), act.PingWorker)
    assert pings == [act.PingWorker(1, 1)]
    told.tell(ev.WorkerPonged(1, 1))
    assert of(told.passed(1000), act.PingWorker) == [act.PingWorker(1, 2)]
    told.tell(ev.WorkerThrottled(1, True))
    assert not of(told.passed(5000), act.KillWorker)
    told.tell(ev.WorkerThrottled(1, False))
    assert [kill.reason for kill in of(told.passed(500), act.KillWorker)] == ["deadline"]
    told.gone(1)
    told.call()
    assert len(of(told.wanted, act.StartWorker)) == 2


def test_a_pong_that_nobody_asked_for_is_a_violation() -> None:
    told = Told()
    told.call()
    told.ready(1)
    assert of(told.tell(ev.WorkerPonged(1, 1)), act.KillWorker)[0].reason == "violation"


def test_a_refused_fork_charges_nobody_and_is_tried_again_with_backoff() -> None:
    told = Told()
    call = told.call()
    told.tell(ev.ForkRefused(1))
    assert not told.verdicts() and not of(told.passed(9), act.StartWorker)
    assert len(of(told.passed(2), act.StartWorker)) == 1
    told.tell(ev.ForkRefused(2))
    assert not of(told.passed(19), act.StartWorker)
    told.passed(5000)
    assert told.verdicts() == {call: ("DEADLINE_EXCEEDED", False)}
    assert not of(told.wanted, act.WorkerEnded)


def test_the_zygotes_loss_charges_nobody_and_what_had_not_begun_runs_again() -> None:
    told = Told()
    began, waits = told.call(), told.call()
    told.ready(1)
    told.tell(ev.ZygoteLost())
    assert act.WorkerEnded(1, "aaa", "zygote_lost", False) in told.gone(1, started=1)
    assert told.verdicts() == {began: ("WORKER_CRASHED", True)}
    assert len(of(told.wanted, act.StartWorker)) == 1
    assert len(of(told.tell(ev.ZygoteUp()), act.StartWorker)) == 1
    assert [send.request.call for send in of(told.ready(2), act.SendCall)] == [waits]


def test_a_boot_that_fails_answers_what_waits_for_it_and_the_next_call_tries_again() -> None:
    told = Told()
    call = told.call()
    told.gone(1, code="BOOT_FAILED")
    assert told.verdicts() == {call: ("BOOT_FAILED", False)}
    told.call()
    assert len(of(told.wanted, act.StartWorker)) == 2


def test_a_boot_has_its_own_deadline_the_same_at_every_start() -> None:
    told = Told()
    for worker in (1, 2):
        call = told.call(deadline_ms=60_000)
        assert not of(told.passed(9999), act.KillWorker)
        assert of(told.passed(1), act.KillWorker)[0].reason == "boot_failed"
        assert told.verdicts()[call] == ("BOOT_FAILED", False)
        told.gone(worker)
        told.passed(31_000)


def test_a_plugin_that_is_removed_while_its_worker_starts_leaves_nothing() -> None:
    told = Told()
    call = told.call()
    kills = of(told.tell(ev.PluginRemoved("aaa")), act.KillWorker)
    assert [kill.reason for kill in kills] == ["drained"] and told.verdicts() == {call: ("PLUGIN_DISABLED", False)}
    told.ready(1)
    told.tell(ev.PluginSet(spec()))
    told.gone(1)
    assert told.pool.gauges(told.now_ns)[-1][4] == "closed" and not told.pool.worker_states()["draining"]


def test_a_new_version_is_warm_before_the_old_one_has_answered_and_nothing_overtakes() -> None:
    told = Told()
    old = [told.call(), told.call()]
    told.ready(1)
    assert [start.spec.digest for start in of(told.tell(ev.PluginSet(spec(digest="e"))), act.StartWorker)] == ["e"]
    new = told.call()
    assert not of(told.ready(2), act.SendCall)
    told.answer(1, 0)
    actions = told.answer(1, 1)
    assert [(send.worker, send.request.call) for send in of(actions, act.SendCall)] == [(2, new)]
    assert of(actions, act.StopWorker) == [act.StopWorker(1, "drained")]
    told.answer(2, 0)
    assert [told.verdicts()[call] for call in (*old, new)] == [("", True)] * 3


@pytest.mark.parametrize("name", DECLARED)
def test_a_limit_that_a_worker_is_given_with_its_plugin_is_part_of_its_generation(name: str) -> None:
    def given(limits: Limits) -> object:
        sent: list[object] = []
        executor = SimpleNamespace(reply=lambda link, message: sent.append(message), _fresh_realm=False,
                                   neighbours=SimpleNamespace(api=None))
        LocalExecutor.load(executor, SimpleNamespace(spec=spec(limits=limits)), {})  # type: ignore[arg-type]  # by name
        return sent[0]

    usual, other = Limits(), replace(Limits(), **{name: getattr(Limits(), name) + 1})
    assert (given(usual) != given(other)) == (generation(spec(limits=usual)) != generation(spec(limits=other)))


def test_a_canary_runs_on_the_prepared_generation_only_and_adoption_is_without_a_gap() -> None:
    told = Told()
    told.call()
    told.ready(1)
    told.answer(1, 0)
    canary = ev.InvokeRequested(99, "aaa", "onDataFetch", "u", Raw(b"\x80"), told.now_ns + SECOND_NS)
    told.tell(ev.GenerationPrepared(spec(digest="e"), canary))
    assert [(s.worker, s.request.call) for s in of(told.ready(2), act.SendCall)] == [(2, 99)]
    told.call()
    assert of(told.wanted, act.SendCall)[-1].worker == 1
    assert act.GenerationJudged("aaa", "e", "", "") in told.answer(2, 0)
    told.answer(1, 1)
    told.tell(ev.PluginSet(spec(digest="e")))
    told.call()
    assert of(told.wanted, act.SendCall)[-1].worker == 2 and len(of(told.wanted, act.StartWorker)) == 2


def test_a_canary_that_kills_its_worker_costs_the_live_plugin_nothing() -> None:
    told = Told(policy=BreakerPolicy(ends_max=1))
    told.call()
    told.ready(1)
    canary = ev.InvokeRequested(99, "aaa", "onDataFetch", "u", Raw(b"\x80"), told.now_ns + SECOND_NS)
    told.tell(ev.GenerationPrepared(spec(digest="e"), canary))
    told.ready(2)
    actions = told.gone(2, started=1)
    assert of(actions, act.GenerationJudged)[0].code == "WORKER_CRASHED"
    assert told.verdicts()[99] == ("WORKER_CRASHED", True)
    assert told.pool.gauges(told.now_ns)[0][4] == "closed"
    assert told.answer(1, 0)


def test_recycling_waits_for_the_last_answer_and_happens_to_few_at_once() -> None:
    told = Told(PoolLimits(prefetch=3), RecyclePolicy(calls_max=2, at_once_max=1))
    calls = [told.call() for _ in range(4)]
    assert [send.seq for send in of(told.ready(1), act.SendCall)] == [0, 1]
    for _ in range(4):
        told.call("bbb")
    assert [start.worker for start in of(told.wanted, act.StartWorker)] == [1, 2, 3]  # 2 will follow on 1
    assert len(of(told.ready(3), act.SendCall)) == 3  # one recycling at a time: this worker goes on
    told.answer(1, 0)
    assert of(told.answer(1, 1), act.StopWorker) == [act.StopWorker(1, "recycled")]
    assert [send.request.call for send in of(told.ready(2), act.SendCall)] == calls[2:]


def test_a_worker_that_has_grown_between_calls_is_recycled_and_never_during_one() -> None:
    told = Told(recycle=RecyclePolicy(growth_bytes_max=10_000_000))
    told.call()
    told.ready(1)
    told.answer(1, 0)
    told.tell(ev.WorkerSampled(1, 20_000_000, 0))
    told.call()
    assert not of(told.tell(ev.WorkerSampled(1, 60_000_000, 0)), act.StopWorker)
    told.answer(1, 1)
    assert of(told.tell(ev.WorkerSampled(1, 31_000_000, 0)), act.StopWorker) == [act.StopWorker(1, "recycled")]


def test_a_worker_near_its_cpu_hour_is_recycled() -> None:
    told = Told()
    told.call()
    told.ready(1)
    told.answer(1, 0)
    assert of(told.tell(ev.WorkerSampled(1, 1, 3301 * SECOND_NS)), act.StopWorker)


def test_a_full_pool_evicts_the_least_recently_used_and_only_as_many_as_wait() -> None:
    told = Told()
    for worker, plugin in ((1, "aaa"), (2, "bbb")):
        told.call(plugin)
        told.ready(worker)
        told.answer(worker, 0)
        told.passed(10)
    told.call("aaa")
    told.answer(1, 1)
    call = told.call("ccc")
    assert of(told.wanted, act.StopWorker) == [act.StopWorker(2, "evicted")]
    assert of(told.gone(2), act.StartWorker)[0].spec.id == "ccc"
    assert call not in told.verdicts()


def test_a_busy_pool_gives_every_plugin_a_turn() -> None:
    told = Told(PoolLimits(workers_max=1, ping_ns=0))
    told.call("aaa")
    told.ready(1)
    told.call("bbb", 4000)
    for seq in range(40):
        told.passed(50)
        told.call("aaa")
        told.answer(1, seq)
        if of(told.wanted, act.StopWorker):
            break
    assert of(told.wanted, act.StopWorker) == [act.StopWorker(1, "evicted")]
    assert of(told.gone(1), act.StartWorker)[0].spec.id == "bbb"


def test_a_worker_that_ignores_its_stop_is_killed_and_its_plugin_does_not_wait_for_it() -> None:
    told = Told()
    told.call()
    told.ready(1)
    told.answer(1, 0)
    assert of(told.passed(300_000), act.StopWorker)
    told.call()
    assert len(of(told.wanted, act.StartWorker)) == 2
    assert of(told.passed(1000), act.KillWorker)[0].reason == "idle"


def test_a_killed_worker_that_nobody_reports_dead_costs_the_zygote() -> None:
    told = Told()
    told.call(deadline_ms=100)
    told.ready(1)
    told.passed(100)
    assert of(told.passed(10_001), act.ReplaceZygote) == [act.ReplaceZygote(1)]


def test_memory_on_evidence_is_the_verdict_of_the_call_that_ran() -> None:
    told = Told()
    first, second = told.call(), told.call()
    told.ready(1)
    told.tell(ev.LimitExceeded(1, "MEMORY_LIMIT", "too much"))
    told.gone(1, started=1)
    told.ready(2)
    told.answer(2, 0)
    assert told.verdicts() == {first: ("MEMORY_LIMIT", True), second: ("", True)}
    told.call()
    told.gone(2, started=2, code="MEMORY_LIMIT")
    assert told.verdicts()[3] == ("MEMORY_LIMIT", True)


def test_other_limits_without_another_memory_bound_keep_the_worker() -> None:
    told = Told()
    told.call()
    told.ready(1)
    told.answer(1, 0)
    assert not told.tell(ev.PluginSet(spec(limits=Limits(cpu_percent=5))))
    assert of(told.tell(ev.PluginSet(spec(limits=Limits(memory_mb=10)))), act.StartWorker)


def test_timers_do_not_grow_with_the_calls() -> None:
    told = Told(PoolLimits(ping_ns=0))
    told.call()
    told.ready(1)
    told.answer(1, 0)
    for seq in range(1, 20_000):
        told.now_ns += 50_000
        told.call(deadline_ms=5000 - seq / 10)
        told.answer(1, seq)
    assert len(told.pool.timers) < 100


def test_a_call_that_cannot_be_started_before_its_deadline_is_told_so_at_once() -> None:
    told = Told(policy=BreakerPolicy(ends_max=1000, backoff_min_ns=10**9, backoff_max_ns=60 * 10**9))
    for number in range(1, 8):  # each end by another user's call doubles the backoff
        told.call(user=f"u{number}")
        told.ready(number)
        told.gone(number, started=1)
        told.passed(61_000)
    told.call()
    told.ready(8)
    short, long = told.call(deadline_ms=2000), told.call(deadline_ms=600_000)
    told.gone(8, started=1)
    assert told.verdicts()[short][0] == "QUARANTINED" and long not in told.verdicts()
    assert told.refused() == "QUARANTINED"
    last = [a for a in told.wanted if isinstance(a, act.Verdict)][-1]
    assert 5000 <= int(str(last.details["retryAfterMs"])) <= 60_000
    assert of(told.passed(61_000), act.StartWorker), "the patient one gets its worker"


def test_a_plugin_whose_workers_end_we_failed_at_is_answered_and_served_again_after_its_pause() -> None:
    told = Told(policy=BreakerPolicy(open_ns=SECOND_NS))
    begun, behind = told.call(), told.call()
    told.ready(1)
    with pytest.raises(TypeError):
        told.tell(ev.WorkerGone(1, 1, "WORKER_CRASHED", "died", None))  # type: ignore[arg-type]  # a bug of the shell
    told.tell(ev.PluginFaulted("aaa", "the supervisor failed at it"))
    assert told.verdicts() == {begun: ("INTERNAL", True), behind: ("INTERNAL", True)}
    told.passed(1001)
    again = told.call()
    assert of(told.wanted, act.StartWorker)[-1].worker == 2
    told.ready(2)
    told.answer(2, 0)
    assert told.verdicts()[again] == ("", True)


def test_only_a_call_that_is_refused_as_it_comes_in_is_said_not_to_be_admitted() -> None:
    told = Told()
    refused = [told.call("nobody")]
    told.call(user="modest")
    refused += [told.call(user="greedy") for _ in range(4)][2:]  # two fill a quarter, and somebody else waits
    expired, late = told.call("bbb", deadline_ms=10), told.call("ccc", deadline_ms=0)
    told.passed(20)
    told.tell(ev.PluginSet(spec(state="disabled")))
    refused.append(told.call())
    admitted = {a.call: a.admitted for a in told.wanted if isinstance(a, act.Verdict)}
    assert [call for call, was in admitted.items() if not was] == refused
    assert admitted[expired] and admitted[late], "both have expired, which is on record"


def ends_by(told: Told, user: str, times: int, wait_ms: float = 500) -> list[act.Action]:
    """``user`` calls ``times`` times, and each call ends its worker. What the pool wanted then."""
    wanted: list[act.Action] = []
    for _ in range(times):
        told.call(user=user)
        told.passed(wait_ms)
        worker = max(told.pool.workers.by_id)
        told.ready(worker)
        wanted += told.gone(worker, started=told.pool.workers.by_id[worker].next_seq)
    return wanted


def test_a_user_whose_calls_end_the_worker_is_paused_before_the_plugin_is() -> None:
    told = Told()
    wanted = ends_by(told, "bad", 5)
    assert of(wanted, act.UserPaused) == [act.UserPaused("aaa", "bad", "onDataFetch")]
    assert not of(wanted, act.BreakerChanged)
    call = told.call(user="bad")
    refusal = next(a for a in told.wanted if isinstance(a, act.Verdict) and a.call == call)
    assert refusal.code == "QUARANTINED" and refusal.details["scope"] == "user" and not refusal.admitted
    assert 50_000 < int(str(refusal.details["retryAfterMs"])) <= 60_000
    good = told.call(user="good")
    told.ready(max(told.pool.workers.by_id))
    told.answer(max(told.pool.workers.by_id), 0)
    assert told.verdicts()[good] == ("", True)


def test_other_hooks_of_a_paused_user_are_served_and_the_plugin_has_pauses_of_its_own() -> None:
    told = Told()
    ends_by(told, "bad", 5)
    call = next(told.numbers)
    told.tell(ev.InvokeRequested(call, "aaa", "onDashboardLoad", "bad", Raw(b"\x80"), told.now_ns + 5_000 * MS_NS))
    assert call not in told.verdicts()
    assert told.call("bbb", user="bad") not in told.verdicts()


def test_three_users_whose_calls_end_workers_pause_the_plugin() -> None:
    told = Told()
    assert not of(ends_by(told, "one", 2) + ends_by(told, "two", 2), act.BreakerChanged)
    assert of(ends_by(told, "three", 1, 1000), act.BreakerChanged) == [act.BreakerChanged("aaa", "open")]
    assert told.refused() == "QUARANTINED"


def test_two_users_alone_never_pause_the_plugin() -> None:
    told = Told()
    for _ in range(6):
        ends_by(told, "one", 1, 20_000)
        ends_by(told, "two", 1, 20_000)
    assert told.refused() == ""


def test_two_users_who_take_turns_do_not_delay_a_third_ones_worker() -> None:
    told = Told()
    for _ in range(4):
        ends_by(told, "one", 1, 0)
        ends_by(told, "two", 1, 0)
        assert told.pool.slots["aaa"].breaker.start_after_ns <= told.now_ns
    assert told.refused() == ""


def test_a_user_whose_call_was_the_probe_is_paused_and_the_next_ones_closes_the_breaker() -> None:
    """One user with a call a minute would keep a plugin from everybody, and be paused for it never."""
    told = Told()
    for user in ("one", "two", "three", "four", "five"):
        ends_by(told, user, 1, 1000)
    assert told.refused() == "QUARANTINED"
    told.passed(60_001)
    wanted = ends_by(told, "bad", 1, 0)
    assert of(wanted, act.UserPaused) == [act.UserPaused("aaa", "bad", "onDataFetch")]
    assert not of(wanted, act.BreakerChanged)
    assert told.refused(user="bad") == "QUARANTINED"
    good = told.call(user="good")
    told.passed(500)
    worker = max(told.pool.workers.by_id)
    told.ready(worker)
    told.answer(worker, 0)
    assert told.verdicts()[good] == ("", True)
    assert act.BreakerChanged("aaa", "closed") in told.wanted


def test_three_users_whose_probes_fail_open_the_breaker_again_and_so_does_an_end_that_is_nobodys() -> None:
    for users in (("one", "two", "three"), ("",)):
        told = Told()
        for user in ("one", "two", "three", "four", "five"):
            ends_by(told, user, 1, 1000)
        told.passed(60_001)
        opened = []
        for user in users:
            if user:
                opened = of(ends_by(told, user, 1, 500), act.BreakerChanged)
                continue
            told.call()
            told.passed(500)
            opened = of(told.gone(max(told.pool.workers.by_id), code="BOOT_FAILED"), act.BreakerChanged)
        assert opened == [act.BreakerChanged("aaa", "open")], users


def test_what_is_kept_of_a_user_goes_with_its_next_answer_when_its_ends_are_long_ago() -> None:
    told = Told()
    ends_by(told, "once", 1)
    told.passed(60_001)
    told.call(user="once")
    told.passed(500)
    worker = max(told.pool.workers.by_id)
    told.ready(worker)
    told.answer(worker, 0)
    assert not told.pool.slots["aaa"].users.known


def test_what_a_paused_user_has_waiting_is_refused_and_what_others_have_goes_on() -> None:
    told = Told(PoolLimits(prefetch=2))
    ends_by(told, "bad", 4)
    calls = [told.call(user="bad") for _ in range(4)]
    other = told.call(user="good")
    told.passed(500)
    worker = max(told.pool.workers.by_id)
    told.ready(worker)
    told.gone(worker, started=1)
    seen = told.verdicts()
    assert [seen[call] for call in calls] == [("WORKER_CRASHED", True)] + [("QUARANTINED", False)] * 3
    assert other not in seen


def test_after_its_pause_a_user_may_try_and_the_first_end_pauses_it_again_and_an_answer_ends_it() -> None:
    told = Told()
    ends_by(told, "bad", 5)
    told.passed(60_001)
    assert of(ends_by(told, "bad", 1), act.UserPaused)
    told.passed(60_001)
    call = told.call(user="bad")
    told.passed(500)
    worker = max(told.pool.workers.by_id)
    told.ready(worker)
    told.answer(worker, 0)
    assert told.verdicts()[call] == ("", True) and not told.pool.slots["aaa"].users.known


def test_an_operator_lets_a_paused_user_try_again() -> None:
    told = Told()
    ends_by(told, "bad", 5)
    told.tell(ev.BreakerReset("aaa"))
    assert told.call(user="bad") not in told.verdicts()


def test_ends_of_one_user_do_not_delay_the_next_worker_and_what_is_kept_of_users_is_bounded() -> None:
    told = Told(policy=BreakerPolicy(ends_max=1000, backoff_min_ns=10**9, backoff_max_ns=60 * 10**9))
    ends_by(told, "bad", 12, 0)
    assert told.pool.slots["aaa"].breaker.start_after_ns <= told.now_ns
    users = told.pool.slots["aaa"].users
    for number in range(1000):
        users.ended(f"u{number}", "onDataFetch", told.now_ns)
    assert len(users.known) == PAIRS_MAX


def test_a_cancel_gives_a_call_that_is_over_its_deadline_no_more_time() -> None:
    told = Told()
    told.call()
    told.ready(1)
    told.started[1] = 2
    late = told.call(deadline_ms=1)
    told.passed(5)
    told.answer(1, 0)  # the call behind has begun by its deadline, as far as anyone can know
    told.passed(60)
    told.tell(ev.CancelRequested(late))
    assert of(told.passed(45), act.KillWorker), "killed 100 ms after the call became the oldest"


def test_a_plugin_that_is_handed_over_has_its_worker_before_its_first_call() -> None:
    spec = PluginSpec("warm", "1.0.0", "d", "p.py", ("onDataFetch",))
    pool = Pool(PoolLimits(workers_max=1), BreakerPolicy(), lambda: 0.5)
    pool.step(ev.PluginSet(spec), 1)
    (start,) = pool.step(ev.WorkerWanted("warm"), 2)
    assert isinstance(start, act.StartWorker) and start.spec is spec
    assert pool.step(ev.WorkerWanted("warm"), 3) == [] and pool.step(ev.WorkerWanted("nobody"), 3) == []
    pool.step(ev.WorkerReady(start.worker), 4)
    sent = pool.step(ev.InvokeRequested(1, "warm", "onDataFetch", "u", Raw(b"\x80"), 10**12), 5)
    assert any(isinstance(action, act.SendCall) and action.worker == start.worker for action in sent)
    pool.step(ev.PluginSet(PluginSpec("other", "1.0.0", "e", "p.py", ("onDataFetch",))), 6)
    assert pool.step(ev.WorkerWanted("other"), 7) == [], "no place is taken from anybody for it"
