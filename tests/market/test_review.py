"""Review: only the table's moves, bound to the bytes, by somebody else than the author, with reasons kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
import sqlalchemy as sa

from apex_exec.errors import Refusal
from apex_exec.market.money.pricing import Price
from apex_exec.market.review import submissions as subs
from apex_exec.market.review.states import CHECKLIST, MOVES, State, check_move
from apex_exec.market.store import advance_clock, open_market
from apex_exec.registry.database import transact

ALL = list(CHECKLIST)


@pytest.fixture
def store(url: str) -> Iterator[sa.Engine]:
    engine = open_market(url)
    yield engine
    engine.dispose()


def submit(db: sa.Connection, now_ns: int = 1, **change: Any) -> subs.Submission:
    fields = {"plugin": "sums", "version": "1.0.0", "digest": "a" * 64, "author": "ACME Corp", "submitter": "ann",
              "uid": 1000, "price": Price()} | change
    return subs.submit(db, now_ns, **fields)


def in_review(db: sa.Connection, **change: Any) -> subs.Submission:
    one = submit(db, **change)
    subs.move(db, 2, one.id, "scanning", actor=subs.MACHINE, uid=0, reason="checks")
    return subs.record_checks(db, 3, one.id, "{}", "", passed=True)


def refused(expected: str, work: Any, /, *arguments: Any, **named: Any) -> None:
    with pytest.raises(Refusal) as caught:
        work(*arguments, **named)
    assert caught.value.reason == expected


def test_every_state_stands_in_the_table_and_every_other_move_is_refused() -> None:
    states = get_args(State)
    assert set(MOVES) == set(states)
    for state in states:
        for target in states:
            if target in MOVES[state]:
                check_move(state, target)
            else:
                refused("invalid_transition", check_move, state, target)


def test_an_illegal_move_changes_nothing(store: sa.Engine) -> None:
    one = transact(store, "market", submit)
    refused("invalid_transition", transact, store, "market", lambda db: subs.move(
        db, 9, one.id, "published", actor="x", uid=0, reason="y"))
    with store.begin() as db:
        assert subs.get(db, one.id) == one
        assert [row["to_state"] for row in subs.history(db, one.id)] == ["submitted"]


def test_from_submission_to_publication_every_move_is_kept_with_who_and_why(store: sa.Engine) -> None:
    with store.begin() as db:
        one = in_review(db)
        subs.decide(db, 4, one.id, "approved", reviewer="rita", uid=7, reason="read it all", digest=one.digest,
                    checklist=ALL)
        subs.move(db, 5, one.id, "published", actor="olga", uid=8, reason="go")
        moves = subs.history(db, one.id)
        assert [row["to_state"] for row in moves] == ["submitted", "scanning", "in_review", "approved", "published"]
        assert moves[3]["actor"] == "rita" and moves[3]["checklist"] == ALL and moves[3]["reason"] == "read it all"
        found = subs.listing(db, "sums")
        assert found is not None and found.reviewer == "rita" and found.state == "published"


@pytest.mark.parametrize(("change", "reason"), [
    ({"reviewer": "ACME  corp"}, "reviewer_is_author"), ({"reviewer": "Ann"}, "reviewer_is_author"),
    ({"reviewer": " "}, "reviewer_missing"), ({"reason": ""}, "reason_missing"),
    ({"checklist": ALL[1:]}, "checklist_incomplete"), ({"checklist": ["vibes"]}, "checklist_invalid"),
    ({"digest": "b" * 64}, "digest_changed")])
def test_a_decision_that_does_not_count_changes_nothing(store: sa.Engine, change: dict[str, Any], reason: str) -> None:
    with store.begin() as db:
        one = in_review(db)
        fields = {"reviewer": "rita", "uid": 1, "reason": "fine", "digest": one.digest, "checklist": ALL} | change
        refused(reason, subs.decide, db, 4, one.id, "approved", **fields)
        assert subs.get(db, one.id).state == "in_review"


def test_bytes_that_were_replaced_cannot_be_approved(store: sa.Engine) -> None:
    with store.begin() as db:
        old = in_review(db)
        new = in_review(db, digest="b" * 64)
        refused("digest_changed", subs.decide, db, 4, old.id, "approved", reviewer="rita", uid=1, reason="fine",
                digest=old.digest, checklist=ALL)
        subs.decide(db, 4, new.id, "approved", reviewer="rita", uid=1, reason="fine", digest=new.digest, checklist=ALL)
        assert [row["id"] for row in subs.queue(db, 5)] == []


def test_an_id_belongs_to_its_author_and_a_published_version_to_its_bytes(store: sa.Engine) -> None:
    with store.begin() as db:
        one = in_review(db)
        refused("already_submitted", submit, db)
        refused("author_mismatch", submit, db, author="Mallory", digest="c" * 64)
        subs.decide(db, 4, one.id, "approved", reviewer="r", uid=1, reason="x", digest=one.digest, checklist=ALL)
        subs.move(db, 5, one.id, "published", actor="o", uid=1, reason="go")
        refused("version_taken", submit, db, digest="c" * 64)
        assert submit(db, version="1.0.1", digest="c" * 64).state == "submitted"


def test_an_id_that_came_to_nothing_is_free_again_after_a_while(store: sa.Engine) -> None:
    with store.begin() as db:
        for plugin, target in (("squat", "changes_requested"), ("wrong", "rejected")):
            one = in_review(db, plugin=plugin, author="Squatter", author_key="k" * 8)
            subs.decide(db, 4, one.id, target, reviewer="r", uid=1, reason="x", digest=one.digest)
            other = {"plugin": plugin, "author": "Honest Ltd", "submitter": "bo", "digest": "b" * 64}
            refused("author_mismatch", submit, db, subs.HELD_NS, **other)
            assert submit(db, subs.HELD_NS + 5, **other).state == "submitted"
            refused("author_mismatch", submit, db, subs.HELD_NS + 6, plugin=plugin, author="Squatter",
                    author_key="k" * 8)
        waiting = submit(db, plugin="slow")  # the marketplace's own delay takes no id from anybody
        refused("author_mismatch", submit, db, 9 * subs.HELD_NS, plugin="slow", author="Mallory", digest="c" * 64)
        assert subs.get(db, waiting.id).state == "submitted"
        sold = in_review(db, plugin="sold")
        subs.decide(db, 4, sold.id, "approved", reviewer="r", uid=1, reason="x", digest=sold.digest, checklist=ALL)
        subs.move(db, 5, sold.id, "published", actor="o", uid=1, reason="go")
        later = in_review(db, plugin="sold", version="2.0.0", digest="d" * 64)
        subs.decide(db, 6, later.id, "rejected", reviewer="r", uid=1, reason="x", digest=later.digest)
        refused("author_mismatch", submit, db, 9 * subs.HELD_NS, plugin="sold", author="Mallory", digest="c" * 64)


def test_the_same_bytes_may_be_tried_again_after_changes_were_requested(store: sa.Engine) -> None:
    with store.begin() as db:
        one = submit(db)
        subs.move(db, 2, one.id, "scanning", actor=subs.MACHINE, uid=0, reason="checks")
        subs.record_checks(db, 3, one.id, "{}", "", passed=False)
        again = submit(db, 9, contact="help@acme.example", sla_hours=12)
        assert (again.id, again.state, again.contact) == (one.id, "submitted", "help@acme.example")


def test_the_author_sees_position_and_age_in_the_queue(store: sa.Engine) -> None:
    with store.begin() as db:
        submit(db, 10 * 10**9)
        submit(db, 20 * 10**9, plugin="other")
        assert [(row["plugin"], row["position"], row["waitingSeconds"]) for row in subs.queue(db, 65 * 10**9)] == [
            ("sums", 1, 55), ("other", 2, 45)]


def test_a_price_change_never_rewrites_the_past(store: sa.Engine) -> None:
    with store.begin() as db:
        for at, amount in ((10, 100), (20, 200), (30, 200)):
            subs.set_price(db, at, "sums", Price("one-time", amount, "USD"))
        assert [(one.from_ns, one.price.amount) for one in subs.price_history(db, "sums")] == [(10, 100), (20, 200)]


def test_a_clock_set_back_changes_nothing(store: sa.Engine) -> None:
    with store.begin() as db:
        assert advance_clock(db, 100 * 10**9) == 100 * 10**9
        assert advance_clock(db, 99 * 10**9) == 100 * 10**9
        refused("clock_set_back", advance_clock, db, 90 * 10**9)
        assert advance_clock(db, 101 * 10**9) == 101 * 10**9
