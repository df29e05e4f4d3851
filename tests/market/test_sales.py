"""Money moves once: purchases, subscriptions, refunds, what they entitle to; tickets and their 24 hours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from apex_exec.errors import Refusal
from apex_exec.market import support
from apex_exec.market.money import contracts, sales
from apex_exec.market.money.pricing import Price
from apex_exec.market.review import submissions as subs
from apex_exec.market.store import accounts, open_market, purchases, refunds
from apex_exec.registry.database import transact

USER = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"
MONTHLY = Price("subscription", 1995, "USD", "month")


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 10**9


@pytest.fixture
def store(url: str) -> Iterator[sa.Engine]:
    engine = open_market(url)
    yield engine
    engine.dispose()


def offer(db: sa.Connection, price: Price, plugin: str = "sums", state: str = "published") -> None:
    db.execute(sa.insert(subs.submissions).values(
        plugin=plugin, version="1.0.0", digest="a" * 64, author="ACME", author_key="", submitter="ann", state=state,
        price=subs.encode(price), contact="", sla_hours=0, submitted_ns=0, changed_ns=0, reviewer="", result="",
        result_signature=""))
    subs.set_price(db, 0, plugin, price)


def counts(engine: sa.Engine) -> tuple[int, int]:
    with engine.begin() as db:
        one, other = (db.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
                      for table in (purchases, refunds))
        return int(one), int(other)


def refused(engine: sa.Engine, reason: str, work: Callable[[sa.Connection], Any]) -> None:
    before = counts(engine)
    with pytest.raises(Refusal) as caught:
        transact(engine, "market", work)
    assert caught.value.reason == reason
    assert counts(engine) == before, "a refusal moved money"


def test_a_purchase_stores_its_price_fee_and_share(store: sa.Engine) -> None:
    with store.begin() as db:
        offer(db, Price("one-time", 1995, "EUR"))
        bought = sales.buy(db, 5, plugin="sums", user_id=USER.upper(), key="k1")
        assert (bought.gross, bought.fee, bought.author_share, bought.currency) == (1995, 599, 1396, "EUR")
        assert bought.user_id == USER and bought.ends_ns is None and bought.customer == USER
        subs.set_price(db, 6, "sums", Price("one-time", 9900, "EUR"))
        assert sales.get(db, "k1") == bought
        assert sales.entitled_until(db, "sums", USER, 10**18) is None


def test_the_same_key_buys_once_and_for_another_request_never(store: sa.Engine) -> None:
    with store.begin() as db:
        offer(db, MONTHLY)
    first = transact(store, "market", lambda db: sales.buy(db, 5, plugin="sums", user_id=USER, key="k1"))
    assert transact(store, "market", lambda db: sales.buy(db, 99, plugin="sums", user_id=USER, key="k1")) == first
    assert counts(store) == (1, 0)
    refused(store, "idempotency_conflict", lambda db: sales.buy(db, 6, plugin="sums", user_id=OTHER, key="k1"))
    refused(store, "key_invalid", lambda db: sales.buy(db, 6, plugin="sums", user_id=OTHER, key="a b"))


def test_what_cannot_be_bought_moves_no_money(store: sa.Engine) -> None:
    with store.begin() as db:
        offer(db, MONTHLY, "gone", "revoked")
        offer(db, MONTHLY, "old", "deprecated")
        offer(db, Price(), "free")
        offer(db, Price("one-time", 5, "USD"))
        sales.buy(db, 5, plugin="sums", user_id=USER, key="k1")
    for reason, plugin, user in (("plugin_revoked", "gone", USER), ("plugin_deprecated", "old", USER),
                                 ("plugin_free", "free", USER), ("already_owned", "sums", USER),
                                 ("plugin_unknown", "none", USER), ("user_invalid", "sums", "me")):
        refused(store, reason, lambda db, plugin=plugin, user=user: sales.buy(  # type: ignore[misc]  # bound at once
            db, 6, plugin=plugin, user_id=user, key="k2"))


def test_a_subscription_ends_exactly_at_its_boundary(store: sa.Engine) -> None:
    with store.begin() as db:
        offer(db, MONTHLY)
        bought = sales.buy(db, at("2026-01-31T10:00:00"), plugin="sums", user_id=USER, key="k1")
        end_ns = at("2026-02-28T10:00:00")
        assert bought.ends_ns == end_ns
        assert sales.entitled_until(db, "sums", USER, end_ns - 1) == end_ns
        with pytest.raises(Refusal, match="no purchase or running subscription"):
            sales.entitled_until(db, "sums", USER, end_ns)
        with pytest.raises(Refusal):
            sales.entitled_until(db, "sums", OTHER, end_ns - 1)


def test_an_extension_keeps_the_first_day_and_the_first_price(store: sa.Engine) -> None:
    with store.begin() as db:
        offer(db, MONTHLY)
        sales.buy(db, at("2026-01-31"), plugin="sums", user_id=USER, key="k1")
        subs.set_price(db, at("2026-02-01"), "sums", Price("subscription", 5000, "USD", "month"))
        second = sales.buy(db, at("2026-02-10"), plugin="sums", user_id=USER, key="k2")
        third = sales.buy(db, at("2026-02-10"), plugin="sums", user_id=USER, key="k3")
        assert (second.starts_ns, second.ends_ns) == (at("2026-02-28"), at("2026-03-31"))
        assert (third.starts_ns, third.ends_ns, third.gross) == (at("2026-03-31"), at("2026-04-30"), 1995)
        assert sales.entitled_until(db, "sums", USER, at("2026-02-01")) == at("2026-04-30")
        late = sales.buy(db, at("2026-05-02"), plugin="sums", user_id=USER, key="k4")
        assert (late.gross, late.ends_ns) == (5000, at("2026-06-02"))


def test_a_refund_reverses_the_stored_amounts_once_and_ends_the_right(store: sa.Engine) -> None:
    with store.begin() as db:
        offer(db, Price("one-time", 1995, "USD"))
        sales.buy(db, 5, plugin="sums", user_id=USER, key="k1")
        done = sales.refund(db, 50, purchase="k1", key="r1", reason="did not work")
        assert done.refunded_ns == 50
        row = db.execute(sa.select(refunds)).one()
        assert (row.gross, row.fee, row.author_share) == (1995, 599, 1396)
        assert sales.entitled_until(db, "sums", USER, 49) == 50
        with pytest.raises(Refusal):
            sales.entitled_until(db, "sums", USER, 50)
        assert sales.refund(db, 60, purchase="k1", key="r1", reason="did not work").refunded_ns == 50
    refused(store, "already_refunded", lambda db: sales.refund(db, 60, purchase="k1", key="r2", reason="again"))
    refused(store, "purchase_unknown", lambda db: sales.refund(db, 60, purchase="k9", key="r3", reason="again"))
    refused(store, "reason_missing", lambda db: sales.refund(db, 60, purchase="k1", key="r4", reason=" "))
    refused(store, "idempotency_conflict", lambda db: sales.refund(db, 60, purchase="k9", key="r1", reason="x"))
    with store.begin() as db:
        again = sales.buy(db, 70, plugin="sums", user_id=USER, key="k2")
        assert again.anchor_ns == 70


def test_free_and_unlisted_plugins_need_no_purchase(store: sa.Engine) -> None:
    with store.begin() as db:
        offer(db, Price(), "free")
        assert sales.entitled_until(db, "free", USER, 5) is None
        assert sales.entitled_until(db, "not-of-the-market", USER, 5) is None


def test_a_first_response_at_exactly_24_hours_is_a_breach(store: sa.Engine) -> None:
    day_ns = 24 * 3600 * 10**9
    with store.begin() as db:
        offer(db, MONTHLY)
        offer(db, Price(), "free")
        tickets = [support.open_ticket(db, 1000, name, USER, "help").id for name in ("sums", "sums", "sums", "free")]
        assert not support.breached(support.respond(db, 1000 + day_ns - 1, tickets[0], "ann"), 10**18)
        assert support.breached(support.respond(db, 1000 + day_ns, tickets[1], "ann"), 10**18)
        support.close(db, 2000, tickets[2])
        silent = support.get(db, tickets[2])
        assert not support.breached(silent, 1000 + day_ns - 1) and support.breached(silent, 1000 + day_ns)
        assert not support.breached(support.get(db, tickets[3]), 10**18)
        assert support.respond(db, 10**17, tickets[0], "bob").responder == "ann"
        row = next(one for one in support.report(db, 1000 + day_ns) if one["plugin"] == "sums")
        assert (row["tickets"], row["breached"], row["waiting"], row["slowestSeconds"]) == (3, 2, 1, 86400)
    with store.begin() as db:
        for call in (lambda: support.get(db, 99), lambda: support.open_ticket(db, 1, "none", USER, "x"),
                     lambda: support.open_ticket(db, 1, "sums", USER, " ")):
            with pytest.raises(Refusal):
                call()


def test_after_a_refund_the_next_purchase_buys_a_period_that_runs_now(store: sa.Engine) -> None:
    with store.begin() as db:
        offer(db, MONTHLY)
        sales.buy(db, at("2026-01-31"), plugin="sums", user_id=USER, key="k1")
        sales.buy(db, at("2026-02-01"), plugin="sums", user_id=USER, key="k2")  # 28 February to 31 March
        sales.refund(db, at("2026-02-10"), purchase="k1", key="r1", reason="did not work")
        again = sales.buy(db, at("2026-02-11"), plugin="sums", user_id=USER, key="k3")
        assert (again.starts_ns, again.ends_ns) == (at("2026-02-11"), at("2026-03-11"))
        assert sales.entitled_until(db, "sums", USER, at("2026-02-12")) == at("2026-03-31"), "nothing was lost"
        more = sales.buy(db, at("2026-02-12"), plugin="sums", user_id=USER, key="k4")
        assert (more.starts_ns, more.ends_ns) == (at("2026-03-31"), at("2026-04-30"))


def test_a_refund_in_the_middle_is_filled_before_anything_is_added_at_the_end(store: sa.Engine) -> None:
    with store.begin() as db:
        offer(db, MONTHLY)
        for number in (1, 2, 3):
            sales.buy(db, at("2026-01-01"), plugin="sums", user_id=USER, key=f"k{number}")
        sales.refund(db, at("2026-01-10"), purchase="k2", key="r1", reason="by mistake")
        filled = sales.buy(db, at("2026-01-11"), plugin="sums", user_id=USER, key="k4")
        assert (filled.starts_ns, filled.ends_ns) == (at("2026-02-01"), at("2026-03-01"))
        added = sales.buy(db, at("2026-01-11"), plugin="sums", user_id=USER, key="k5")
        assert added.starts_ns == at("2026-04-01")
        assert sales.entitled_until(db, "sums", USER, at("2026-01-12")) == at("2026-05-01")


def test_what_its_author_made_free_is_not_sold_any_longer_not_even_to_a_subscriber(store: sa.Engine) -> None:
    with store.begin() as db:
        offer(db, MONTHLY)
        sales.buy(db, at("2026-01-31"), plugin="sums", user_id=USER, key="k1")
        subs.set_price(db, at("2026-02-01"), "sums", Price())
    refused(store, "plugin_free", lambda db: sales.buy(db, at("2026-02-02"), plugin="sums", user_id=USER, key="k2"))


def test_a_key_covers_the_payer_and_a_retry_never_changes_who_pays(store: sa.Engine) -> None:
    with store.begin() as db:
        offer(db, MONTHLY)
        first = sales.buy(db, 5, plugin="sums", user_id=USER, key="k1", customer="initech")
        assert first.customer == "initech"
        sales.set_customer(db, 6, USER, "globex")
        assert sales.buy(db, 7, plugin="sums", user_id=USER, key="k1", customer=" initech ") == first
        assert sales.customer_of(db, USER) == "globex"
        assert sales.buy(db, 7, plugin="sums", user_id=USER, key="k1") == first, "it says nothing of who pays"
    for customer in ("hooli", "globex"):
        refused(store, "idempotency_conflict", lambda db, customer=customer: sales.buy(  # type: ignore[misc]  # at once
            db, 8, plugin="sums", user_id=USER, key="k1", customer=customer))
    refused(store, "plugin_unknown", lambda db: sales.buy(
        db, 8, plugin="none", user_id=USER, key="k2", customer="hooli"))
    with store.begin() as db:
        assert sales.customer_of(db, USER) == "globex", "a purchase that was refused changes nobody's payer"
        db.execute(sa.update(purchases).values(request=f"sums {USER}"))  # as an earlier release noted it
        assert sales.buy(db, 9, plugin="sums", user_id=USER, key="k1", customer="initech") == first
    refused(store, "idempotency_conflict", lambda db: sales.buy(
        db, 9, plugin="sums", user_id=USER, key="k1", customer="hooli"))


def test_a_customer_is_one_whatever_spaces_and_accents_are_written_with(store: sa.Engine) -> None:
    with store.begin() as db:
        offer(db, MONTHLY)
        for number, name in enumerate(("Café Ltd", " Café  Ltd ", "Cafe\u0301 Ltd", "Café\u00a0Ltd\n")):
            sales.set_customer(db, number, USER, name)
            assert sales.customer_of(db, USER) == "Café Ltd"
            booked = contracts.order(db, 10, customer=name, title="Work", cost=100, currency="EUR", key="c1")
            assert booked.customer == "Café Ltd"
        assert len(contracts.everything(db)) == 1
        assert db.execute(sa.select(sa.func.count()).select_from(accounts)).scalar_one() == 1
    for name in ("", "  ", "x" * 201, "AC\u200bME", "AC\u202eME", "AC\0ME", "\u200b", "AC\x1b[31mME"):
        refused(store, "customer_invalid", lambda db, name=name: sales.set_customer(db, 1, USER, name))  # type: ignore[misc]  # at once
        refused(store, "customer_invalid", lambda db, name=name: contracts.order(  # type: ignore[misc]  # at once
            db, 1, customer=name, title="Work", cost=1, currency="EUR", key="c2"))
