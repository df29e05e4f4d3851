"""Several calls at once in one worker: whose turn it is, what ends alone, what costs the worker, who is to blame."""

from __future__ import annotations

import pytest
from msgspec import Raw

from apex_exec.catalogue.limits import Limits
from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.scheduler.invocation import Invocation
from apex_exec.core.scheduler.pool import PoolLimits
from apex_exec.core.scheduler.shared import cost_ns
from apex_exec.core.scheduler.user_queue import UserQueue
from tests.core.test_pool_promises import Told, of, spec

BOUNDS = PoolLimits(workers_max=2, queue_max=16, prefetch=3, ping_ns=0)


def crowd(places: int, ordering: str = "user", limits: PoolLimits = BOUNDS) -> Told:
    """A pool whose plugin ``aaa`` has a worker, number 1, that is ready and has answered one call, number 1."""
    told = Told(limits)
    told.tell(ev.PluginSet(spec(limits=Limits(concurrency=places), ordering=ordering)))
    told.call(user="first")
    told.ready(1)
    told.started[1] = 1
    told.answer(1, 0)
    return told


def sent(told: Told) -> list[int]:
    return [action.request.call for action in told.wanted if isinstance(action, act.SendCall)]


def details(told: Told) -> dict[int, dict[str, object]]:
    return {a.call: a.details for a in told.wanted if isinstance(a, act.Verdict)}


def test_as_many_calls_run_as_the_manifest_says_and_answers_come_in_any_order() -> None:
    told = crowd(3)
    calls = [told.call(user=f"u{n}") for n in range(5)]
    assert sent(told)[1:] == calls[:3]
    told.answer(1, 2)
    assert told.verdicts()[calls[1]] == ("", True) and sent(told)[1:] == calls[:4]
    assert of(told.answer(1, 2), act.KillWorker), "an answer that came already is a violation"


def test_a_users_second_call_waits_for_the_first_and_keeps_nobody_waiting() -> None:
    told = crowd(4)
    first, second, other = told.call(user="a"), told.call(user="a"), told.call(user="b")
    assert sent(told)[1:] == [first, other]
    told.answer(1, 1)
    assert sent(told)[1:] == [first, other, second]


def test_without_order_a_user_has_all_places_alone_and_a_quarter_while_others_wait() -> None:
    told = crowd(8, "none")
    mine = [told.call(user="a") for _ in range(10)]
    assert sent(told)[1:] == mine[:8]
    others = [told.call(user="b") for _ in range(2)]
    told.answer(1, 1)
    told.answer(1, 2)
    assert sent(told)[9:] == others, "the next free places are the other's"


def test_a_call_at_its_deadline_ends_alone() -> None:
    told = crowd(4)
    short, long = told.call(deadline_ms=100, user="a"), told.call(user="b")
    told.started[1] = 3
    (cancel,) = of(told.passed(100), act.CancelCall)
    assert told.verdicts() == {1: ("", True), short: ("TIMEOUT", True)} and cancel.seq == 1
    told.tell(ev.WorkerPonged(1, cancel.nonce))
    told.passed(200)
    told.answer(1, 1, "ended")
    assert not of(told.passed(1000), act.KillWorker)
    told.answer(1, 2)
    assert told.verdicts()[long] == ("", True)


def test_a_loop_that_does_not_turn_costs_the_worker_after_50_ms_and_bystanders_are_not_charged() -> None:
    told = crowd(4)
    short, blamed, bystander, unbegun = (
        told.call(deadline_ms=100, user="a"), told.call(user="b"), told.call(user="c"), told.call(user="d"))
    told.started[1] = 4
    told.passed(100)
    told.tell(ev.WorkerBlocked(1, 2))
    assert not of(told.passed(49.9), act.KillWorker)
    (kill,) = of(told.passed(0.2), act.KillWorker)
    assert kill.reason == "deadline"
    told.gone(1, started=4)
    assert told.verdicts() == {1: ("", True), short: ("TIMEOUT", True), blamed: ("WORKER_CRASHED", True),
                               bystander: ("WORKER_CRASHED", True)}
    assert "bystander" not in details(told)[blamed] and details(told)[bystander]["bystander"] is True
    assert [user for user, _ in told.pool.slots["aaa"].users.known] == ["b"]
    told.ready(2)
    assert sent(told)[-1] == unbegun


def test_time_while_the_worker_is_held_back_is_no_fault_of_its_own() -> None:
    told = crowd(4)
    told.call(deadline_ms=100, user="a")
    told.call(user="b")
    told.started[1] = 3
    told.passed(100)
    told.tell(ev.WorkerThrottled(1, True))
    assert not of(told.passed(300), act.KillWorker)
    told.tell(ev.WorkerThrottled(1, False))
    assert not of(told.passed(49), act.KillWorker)
    assert of(told.passed(2), act.KillWorker)


def test_a_hook_that_swallows_its_cancellation_costs_the_worker_and_is_charged() -> None:
    told = crowd(4)
    told.call(deadline_ms=100, user="a")
    other = told.call(user="b")
    told.started[1] = 3
    (cancel,) = of(told.passed(100), act.CancelCall)
    told.tell(ev.WorkerPonged(1, cancel.nonce))
    assert not of(told.passed(249), act.KillWorker)
    assert of(told.passed(2), act.KillWorker)
    told.gone(1, started=3)
    assert details(told)[other]["bystander"] is True
    assert [user for user, _ in told.pool.slots["aaa"].users.known] == ["a"]


@pytest.mark.parametrize("others", [0, 1])
def test_a_caller_who_gives_up_costs_the_worker_only_if_nobody_else_has_a_call_there(others: int) -> None:
    told = crowd(4)
    given_up = told.call(user="a")
    for n in range(others):
        told.call(user=f"b{n}")
    told.started[1] = 2 + others
    assert of(told.tell(ev.CancelRequested(given_up)), act.CancelCall)
    assert bool(of(told.passed(260), act.KillWorker)) == (not others)


def test_a_call_that_has_not_begun_at_its_deadline_never_runs() -> None:
    told = crowd(4)
    plain, behind = told.call(user="a"), told.call(deadline_ms=100, user="b")
    told.started[1] = 2
    told.passed(100)
    assert told.verdicts()[behind] == ("DEADLINE_EXCEEDED", False)
    assert not of(told.passed(500), act.KillWorker), "it stands behind one that runs alone"
    told.answer(1, 1)
    assert of(told.passed(101), act.KillWorker), "and now the worker does not even skip it"
    assert told.verdicts()[plain] == ("", True)


def test_an_end_that_several_calls_may_have_caused_is_charged_to_no_user() -> None:
    told = crowd(4)
    calls = [told.call(user=f"u{n}") for n in range(3)]
    told.started[1] = 4
    told.gone(1, started=4)
    assert [told.verdicts()[call] for call in calls] == [("WORKER_CRASHED", True)] * 3
    assert not any("bystander" in details(told)[call] for call in calls)
    assert not told.pool.slots["aaa"].users.known


def test_fewer_places_hold_at_once_and_one_place_is_another_generation() -> None:
    told = crowd(4)
    for n in range(6):
        told.call(user=f"u{n}")
    told.tell(ev.PluginSet(spec(limits=Limits(concurrency=2))))
    told.answer(1, 1)
    told.answer(1, 2)
    assert len(sent(told)) == 5, "two are still there"
    told.answer(1, 3)
    assert len(sent(told)) == 6
    assert of(told.tell(ev.PluginSet(spec(limits=Limits(concurrency=1)))), act.StartWorker)


def test_who_holds_most_of_a_full_queue_makes_room_for_who_holds_less() -> None:
    told = crowd(2, limits=PoolLimits(workers_max=2, queue_max=8, prefetch=3, ping_ns=0))
    told.call(user="x"), told.call(user="y")
    mine = [told.call(user="a") for _ in range(8)]
    assert not any(call in told.verdicts() for call in mine), "alone it has the whole queue"
    other = told.call(user="b")
    assert told.verdicts()[mine[-1]] == ("OVERLOADED", False) and other not in told.verdicts()
    assert details(told)[mine[-1]] == {"limit": "queue"}
    mine.append(told.call(user="a"))
    assert told.verdicts()[mine[-1]] == ("OVERLOADED", False)


def test_users_take_turns_by_what_their_calls_have_held() -> None:
    queue = UserQueue()
    queue.arrange(is_shared=True, one_each=True)
    taken: list[str] = []
    for number in range(60):
        queue.push(Invocation(ev.InvokeRequested(
            number, "aaa", "h", "greedy" if number % 3 else "modest", Raw(b""), 10**15), number))
    for _ in range(20):
        call = queue.next_of({}, 1)
        assert call is not None
        queue.take(call)
        call.move("linked")
        taken.append(call.request.user_id)
        queue.released(call.request.user_id, 30_000_000 if call.request.user_id == "greedy" else 10_000_000)
    assert 13 <= taken.count("modest") <= 17, "its calls are three times as short"


@pytest.mark.parametrize(("cpu_ms", "expected"), [(0, 40), (10, 1), (1, 9), (10**6, 1)])
def test_users_take_turns_by_the_cpu_that_their_calls_use_too(cpu_ms: int, expected: int) -> None:
    """Both users' calls hold a place for 10 ms. A tenth of a core for eight places: a call that computes all the time
    takes eighty times as much of the CPU as of the places."""
    queue, limits = UserQueue(), Limits(concurrency=8, cpu_percent=10)
    queue.arrange(is_shared=True, one_each=True)
    for number in range(200):
        queue.push(Invocation(ev.InvokeRequested(
            number, "aaa", "h", "burns" if number % 2 else "waits", Raw(b""), 10**15), number))
    taken: list[str] = []
    for _ in range(80):
        call = queue.next_of({}, 8)
        assert call is not None
        queue.take(call)
        call.move("linked")
        taken.append(call.request.user_id)
        used_ns = cpu_ms * 1_000_000 if taken[-1] == "burns" else 0
        queue.released(call.request.user_id, cost_ns(10_000_000, used_ns, limits))
    assert abs(taken.count("burns") - expected) <= max(1, expected // 4), taken.count("burns")


def test_cpu_counts_as_far_as_the_core_is_told_of_it_and_no_further() -> None:
    limits = Limits(concurrency=8, cpu_percent=10)
    assert cost_ns(5, 0, limits) == cost_ns(5, -10**30, limits) == 5
    assert cost_ns(5, 10**30, limits) == cost_ns(5, 5, limits) == 400
    assert cost_ns(100, 1, Limits(concurrency=1, cpu_percent=100)) == 100


def test_ten_thousand_users_leave_nothing_behind_in_the_queue() -> None:
    queue = UserQueue()
    queue.arrange(is_shared=True, one_each=True)
    for number in range(10_000):
        queue.push(Invocation(ev.InvokeRequested(number, "aaa", "h", f"u{number}", Raw(b""), 10**15), number))
        call = queue.next_of({}, 8)
        assert call is not None
        queue.take(call)
        call.move("linked")
        queue.released(call.request.user_id, 5_000_000)
    assert len(queue) == 0 and len(queue._lanes) <= 1100
