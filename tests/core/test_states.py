"""The scheduler's tables: whatever they do not have is refused with the story, and changes nothing."""

from __future__ import annotations

import itertools
from typing import Any, get_args

import pytest
from msgspec import Raw

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.scheduler import invocation, plugin_slot, worker
from apex_exec.core.scheduler.breaker import Breaker, BreakerPolicy
from apex_exec.core.scheduler.invocation import Invocation
from apex_exec.core.scheduler.plugin_slot import PluginSlot
from apex_exec.core.scheduler.worker import Worker
from apex_exec.errors import SupervisorBug
from tests.core.test_pool_promises import Told, of, spec


def a_call() -> Invocation:
    return Invocation(ev.InvokeRequested(7, "aaa", "onDataFetch", "u", Raw(b"\x80"), 10**9), 0)


def a_worker() -> Worker:
    return Worker(3, spec(), 0, 10**9)


TABLES = {
    "call": (a_call, "state", "move", invocation.MOVES, invocation.CallState),
    "worker": (a_worker, "state", "move", worker.MOVES, worker.WorkerState),
    "role": (a_worker, "role", "become", worker.ROLES, worker.Role),
}
PAIRS = [(kind, one, other) for kind, (_, _, _, table, _) in TABLES.items()
         for one, other in itertools.product(table, repeat=2)]


@pytest.mark.parametrize(("kind", "one", "other"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_a_move_is_made_or_refused_with_the_story_as_the_table_says(kind: str, one: str, other: str) -> None:
    make, attribute, move, table, _ = TABLES[kind]
    thing: Any = make()  # type: ignore[operator]  # one of the two functions above
    setattr(thing, attribute, one)
    if other in table[one]:  # type: ignore[index]  # the tables have keys of different types
        getattr(thing, move)(other)
        assert getattr(thing, attribute) == other
        return
    with pytest.raises(SupervisorBug) as refused:
        getattr(thing, move)(other)
    assert one in str(refused.value) and str(refused.value).endswith(f"cannot become {other}")
    assert ("call 7 of aaa" if kind == "call" else "worker 3 of aaa") in str(refused.value)
    assert getattr(thing, attribute) == one


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_names_every_state_and_leads_to_every_state_but_the_first(kind: str) -> None:
    _, _, _, table, states = TABLES[kind]
    assert set(table) == set(get_args(states))
    assert {state for after in table.values() for state in after} | {next(iter(table))} == set(table)


def test_a_slot_is_what_its_worker_is_at() -> None:
    slot = PluginSlot(spec(), BreakerPolicy())
    assert slot.state == "empty"
    assert set(plugin_slot.STATES) == set(worker.MOVES)
    seen = []
    slot.worker = a_worker()
    for state in ("ready", "leaving", "killed"):
        seen.append(slot.state)
        slot.worker.move(state)  # type: ignore[arg-type]  # a plain string is one of the literals
    assert [*seen, slot.state] == ["starting", "serving", "changing", "changing"]
    assert "changing" in slot.story()


def test_a_breaker_makes_the_moves_of_its_table() -> None:
    breaker = Breaker(BreakerPolicy(ends_max=2, open_ns=100))
    seen = [breaker.state(0)]
    assert [breaker.ended(0, 0, 0.0), breaker.ended(1, 0, 0.0)] == [False, True]
    seen += [breaker.state(1), breaker.state(101)]
    breaker.probe = 7
    assert breaker.succeeded(0)
    seen.append(breaker.state(101))
    breaker.trip(200)
    breaker.probe = 8
    assert breaker.ended(300, 0, 0.0), "an end while the probe is out opens it again"
    seen.append(breaker.state(300))
    assert breaker.reset()
    assert [*seen, breaker.state(300)] == ["closed", "open", "half_open", "closed", "open", "closed"]


def test_an_event_that_the_pool_does_not_know_is_refused_and_changes_nothing() -> None:
    told = Told()
    call = told.call()
    before = told.pool.next_wake_ns()
    with pytest.raises(SupervisorBug, match="no event Verdict"):
        told.pool.step(act.Verdict(1, "aaa", "h", "u", "", "", None, {}, False, 0, 0, False), told.now_ns)  # type: ignore[arg-type]  # that is the point
    assert told.pool.next_wake_ns() == before and told.pool.is_open(call)
    assert of(told.ready(1), act.SendCall)


def test_every_event_has_a_handler() -> None:
    told = Told()
    known = set(told.pool._handlers)  # the one table of who handles what; no public question tells all of it
    assert known == set(get_args(ev.Event))
