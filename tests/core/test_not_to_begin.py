"""What was admitted and has not begun does not begin once it must not: no ledger, or a user who lost the plugin."""

from __future__ import annotations

import pytest
from msgspec import Raw

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.scheduler.pool import SECOND_NS, PoolLimits
from tests.core.test_pool_promises import Told, of, spec

ROOMY = PoolLimits(workers_max=2, queue_max=40, prefetch=3, ping_ns=0)
REFUSED = ev.WorkRefused("AUDIT_UNAVAILABLE", "no record can be taken")


def busy() -> Told:
    """Three calls on the link of worker 1, the first of them begun, and two that wait in the queue."""
    told = Told(ROOMY)
    for _ in range(5):
        told.call()
    told.ready(1)
    told.started[1] = 1
    return told


def test_what_waits_in_the_queue_or_behind_another_call_does_not_begin_without_a_ledger() -> None:
    told = busy()
    actions = told.tell(REFUSED)
    assert of(actions, act.CountStarted) == [act.CountStarted(1)]
    assert of(actions, act.RecallCalls) == [act.RecallCalls(1, [1, 2])]
    assert told.verdicts() == {4: ("AUDIT_UNAVAILABLE", False), 5: ("AUDIT_UNAVAILABLE", False)}
    assert not told.tell(REFUSED), "said again, it asks for nothing again"
    told.answer(1, 0)
    told.answer(1, 1, "skipped")
    told.answer(1, 2, "skipped")
    assert told.verdicts()[1] == ("", True)
    assert told.verdicts()[2] == told.verdicts()[3] == ("AUDIT_UNAVAILABLE", False)
    assert not of(told.wanted, act.KillWorker)


def test_a_recalled_call_that_had_begun_all_the_same_has_its_own_outcome() -> None:
    told = busy()
    told.tell(REFUSED)
    told.answer(1, 0)
    told.answer(1, 1)
    assert told.verdicts()[2] == ("", True)


def test_a_call_that_nobody_recalled_is_not_skipped() -> None:
    told = busy()
    told.answer(1, 0)
    told.answer(1, 1, "skipped")
    assert [kill.reason for kill in of(told.wanted, act.KillWorker)] == ["violation"]


def test_nothing_is_admitted_or_given_to_the_next_worker_until_the_ledger_writes_again() -> None:
    told = busy()
    told.tell(REFUSED)
    assert told.refused() == "AUDIT_UNAVAILABLE"
    told.gone(1, started=1)
    assert told.verdicts()[2] == told.verdicts()[3] == ("AUDIT_UNAVAILABLE", False)
    assert not of(told.wanted[-4:], act.StartWorker)
    told.tell(ev.WorkAdmitted())
    assert told.refused() == ""


def test_a_canary_does_not_begin_without_a_ledger() -> None:
    told = Told()
    canary = ev.InvokeRequested(99, "aaa", "onDataFetch", "u", Raw(b"\x80"), told.now_ns + SECOND_NS)
    told.tell(ev.GenerationPrepared(spec(digest="e"), canary))
    told.tell(REFUSED)
    assert told.verdicts()[99] == ("AUDIT_UNAVAILABLE", False)
    assert [judged.code for judged in of(told.wanted, act.GenerationJudged)] == ["AUDIT_UNAVAILABLE"]
    told.ready(1)
    assert not of(told.wanted, act.SendCall)
    told.gone(1)
    told.tell(ev.GenerationPrepared(spec(digest="f"), ev.InvokeRequested(
        98, "aaa", "onDataFetch", "u", Raw(b"\x80"), told.now_ns + SECOND_NS)))
    assert told.verdicts()[98] == ("AUDIT_UNAVAILABLE", False)


@pytest.mark.parametrize("taken", [{"users": frozenset({"other"})}, {"entitled": frozenset({"other"})},
                                   {"users": frozenset()}])
def test_what_waits_of_a_user_does_not_begin_once_the_plugin_is_taken_from_him(
        taken: dict[str, frozenset[str]]) -> None:
    told = Told(ROOMY)
    mine = [told.call(), told.call(), told.call()]
    others = told.call(user="other")
    late = [told.call(), told.call(user="other")]
    told.ready(1)
    told.started[1] = 1
    told.tell(ev.PluginSet(spec(**taken)))
    served = "other" in next(iter(taken.values()))
    assert told.verdicts()[late[0]] == ("PLUGIN_DISABLED", False)
    assert of(told.wanted, act.RecallCalls) == [act.RecallCalls(1, [1, 2])]
    told.answer(1, 0)
    told.gone(1, started=1)
    assert told.verdicts()[mine[0]] == ("", True)
    assert told.verdicts()[mine[1]] == told.verdicts()[mine[2]] == ("PLUGIN_DISABLED", False)
    told.ready(2)
    sent = [send.request.call for send in of(told.wanted, act.SendCall) if send.worker == 2]
    assert sent == ([others, late[1]] if served else [])
    assert told.refused() == "PLUGIN_DISABLED", "a later part of a dispatch comes without the host's own check"


def test_one_of_the_daemons_own_calls_is_nobodys() -> None:
    told = Told()
    told.tell(ev.PluginSet(spec(users=frozenset({"other"}))))
    told.tell(ev.InvokeRequested(77, "aaa", "onDataFetch", "nobody", Raw(b"\x80"), told.now_ns + SECOND_NS, own=True))
    assert 77 not in told.verdicts()
    told.tell(ev.PluginSet(spec(users=frozenset({"third"}))))
    assert 77 not in told.verdicts()


def test_a_verdict_names_the_worker_that_its_call_ran_on() -> None:
    told = busy()
    told.tell(ev.PluginSet(spec(digest="e")))
    told.ready(2)
    told.answer(1, 0)
    told.tell(ev.CancelRequested(5))
    workers = {a.call: a.worker for a in told.wanted if isinstance(a, act.Verdict)}
    assert workers == {1: 1, 5: 0}


def test_code_of_an_older_version_has_its_own_grants_and_figures_until_its_end() -> None:
    told = busy()
    told.tell(ev.PluginSet(spec(permissions=("ui:render",))))  # the same code: what was granted counts at once
    now = told.pool.spec_of("aaa", 1)
    assert now is not None and now.permissions == ("ui:render",)
    told.tell(ev.PluginSet(spec(digest="e", permissions=("admin:users",))))
    told.ready(2)
    old, new = told.pool.spec_of("aaa", 1), told.pool.spec_of("aaa", 2)
    assert old is not None and new is not None
    assert (old.digest, old.permissions, new.digest, new.permissions) == ("d", (), "e", ("admin:users",))
    told.tell(ev.PluginRemoved("aaa"))
    assert told.pool.spec_of("aaa", 1) is None
