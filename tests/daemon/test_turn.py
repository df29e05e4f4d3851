"""What one round of the loop does first: what is ready to go leaves before more is taken in."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from apex_exec.core.deadline import NEVER_NS
from apex_exec.core.scheduler.breaker import BreakerPolicy
from apex_exec.core.scheduler.pool import Pool, PoolLimits
from apex_exec.daemon import turn
from apex_exec.daemon.duties import Duty
from apex_exec.daemon.turn import Turn


class Parts:
    """The parts that a round calls, each of which notes what it is asked, with a pool that is real."""

    def __init__(self, *duties: Duty, taken_in: bool = True, admits: bool = True) -> None:
        self.noted: list[str] = []
        self.failures: list[str] = []
        self.pool = Pool(PoolLimits(), BreakerPolicy(), lambda: 0.5)
        self.loop = SimpleNamespace(core_free=False, stop=self.note("stop"))
        self.guard = SimpleNamespace(faulty=set(), failed=lambda name, error: self.failures.append(name))
        self.workers = SimpleNamespace(
            dirty=True, flush=self.note("calls leave"), reading=SimpleNamespace(size=0), activated=False,
            unsettled=False, busy=set())
        self.peers = SimpleNamespace(flush=self.note("answers leave"), receive=self.note("requests are read", taken_in),
                                     unread=True, unsent=True)
        self.operators = SimpleNamespace(unread=False, unsent=False)
        admin = SimpleNamespace(peers=self.operators, run=lambda _now_ns: self.serve_operators())
        self.requests = SimpleNamespace(left=False)
        self.api = SimpleNamespace(at_gateway={})
        self.audit = SimpleNamespace(fine_until_ns=NEVER_NS if admits else 0, is_stalling=lambda _now_ns: True)
        self.supervisor = SimpleNamespace(drain_until_ns=0)
        self.monitoring = SimpleNamespace(rests=False)
        self.turn = Turn(
            loop=self.loop, guard=self.guard, pool=self.pool, driver=self, workers=self.workers,
            peers=self.peers, requests=self.requests, api=self.api, audit=self.audit,
            supervisor=self.supervisor, monitoring=self.monitoring, duties=duties, admin=admin)

    def serve_operators(self) -> bool:
        """The admin endpoint's part: it reads all that came."""
        self.noted.append("operators are served")
        self.operators.unread = False
        return False

    def note(self, what: str, answer: Any = None) -> Any:
        """A function that notes that it was called."""
        def noted() -> Any:
            self.noted.append(what)
            return answer
        return noted


def duty(parts: list[str], name: str, due_ns: int, error: Exception | None = None) -> Duty:
    def run(_now_ns: int) -> bool:
        parts.append(name)
        if error is not None:
            raise error
        return False
    return Duty(name, due_ns, run)


def test_answers_and_the_calls_after_them_leave_before_more_is_taken_in() -> None:
    parts = Parts()
    assert parts.turn.run() == 0, "what was taken in may bring more: at once again"
    assert parts.noted == ["calls leave", "answers leave", "requests are read", "calls leave", "answers leave"]


def test_only_duties_that_are_due_are_run_and_the_next_one_says_when_to_wake() -> None:
    ran: list[str] = []
    soon_ns = time.monotonic_ns() + 10**9
    parts = Parts(duty(ran, "now", 0), duty(ran, "later", soon_ns), taken_in=False)
    due_ns = parts.turn.run()
    assert ran == ["now"] and due_ns == 0, "a duty that is due at once keeps the loop awake"
    parts = Parts(duty(ran, "later", soon_ns), taken_in=False)
    assert parts.turn.run() == soon_ns


def test_a_duty_that_becomes_due_sooner_is_run_at_its_new_time() -> None:
    ran: list[str] = []
    late = duty(ran, "moved", NEVER_NS)
    parts = Parts(duty(ran, "other", NEVER_NS), late, taken_in=False)
    assert parts.turn.run() > time.monotonic_ns() + 10**12
    late.due_ns = soon_ns = time.monotonic_ns() + 10**9
    assert parts.turn.run() == soon_ns and not ran
    late.due_ns = 0
    parts.turn.run()
    assert ran == ["moved"]
    late.due_ns = NEVER_NS
    parts.turn.run()
    assert ran == ["moved"] and parts.turn.run() > time.monotonic_ns() + 10**12


def test_operators_are_served_when_they_have_sent_something_and_the_loop_comes_back_for_what_is_unsent() -> None:
    parts = Parts(taken_in=False)
    parts.peers.unread = parts.peers.unsent = False
    parts.turn.run()
    assert parts.noted == ["calls leave", "calls leave"], "nobody has sent anything"
    parts.operators.unread = True
    assert parts.turn.run() > 0 and parts.noted.count("operators are served") == 1
    parts.operators.unsent = True
    assert parts.turn.run() == 0, "an answer waits to be written"


def test_a_core_is_free_to_poll_on_only_while_neither_workers_nor_the_gateway_need_it(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn, "SPIN_BELOW", 2)
    parts = Parts(taken_in=False)
    for busy, at_gateway, free in ((0, 0, True), (1, 0, True), (2, 0, False), (1, 1, False), (0, 1, False)):
        parts.workers.busy, parts.api.at_gateway = set(range(busy)), dict.fromkeys(range(at_gateway))
        parts.turn.run()
        assert parts.loop.core_free is free, (busy, at_gateway)


def test_a_duty_that_fails_costs_itself_and_not_the_round() -> None:
    ran: list[str] = []
    parts = Parts(duty(ran, "bad", 0, ValueError("no")), duty(ran, "good", 0))
    parts.turn.run()
    assert ran == ["bad", "good"] and parts.failures == ["bad"] and "requests are read" in parts.noted


@pytest.mark.parametrize("admits", [True, False])
def test_nothing_is_taken_in_while_nothing_can_be_recorded(admits: bool) -> None:
    parts = Parts(admits=admits)
    parts.turn.run()
    assert ("requests are read" in parts.noted) is admits
