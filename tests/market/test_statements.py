"""The three statements balance to the cent, whatever the order; closed invoices stay; a replay is byte-identical."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from apex_exec.errors import Refusal
from apex_exec.ledger.reading import Event
from apex_exec.market.money import invoices, sales
from apex_exec.market.money.billing import split_sale
from apex_exec.market.money.metering import Enablement, hosted, meter
from apex_exec.market.money.pricing import Price
from apex_exec.market.money.sales import Purchase
from apex_exec.market.money.statements import expected, newly_due, statement, to_csv
from apex_exec.market.review import submissions as subs
from apex_exec.market.store import invoice_lines, open_market

USER = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 10**9


def bought(key: str, at_ns: int, gross: int, refunded_ns: int | None = None, **change: str) -> Purchase:
    split = split_sale(gross)
    fields: dict[str, Any] = {"plugin": "sums", "author": "ACME", "user_id": USER, "customer": "initech",
                              "currency": "USD"} | change
    return Purchase(key=key, version="1.0.0", price="{}", gross=gross, fee=split.fee, author_share=split.author,
                    at_ns=at_ns, anchor_ns=at_ns, starts_ns=at_ns, ends_ns=None, number=0, refunded_ns=refunded_ns,
                    **fields)


moments = st.integers(at("2026-01-01"), at("2026-04-30"))
names = st.sampled_from(["a", "b"])
histories = st.lists(st.tuples(moments, st.integers(1, 10**6), st.none() | moments, names, names,
                               st.sampled_from(["USD", "JPY"])), max_size=8)
enablements = st.lists(st.tuples(names, st.sampled_from([USER, OTHER]), moments, moments), max_size=8)


def facts(history: list[Any], spans: list[Any]) -> tuple[list[Purchase], list[Enablement]]:
    sold = [bought(f"k{index}", at_ns, gross, max(at_ns, back) if back is not None else None, author=author,
                   customer=customer, currency=currency)
            for index, (at_ns, gross, back, author, customer, currency) in enumerate(history)]
    return sold, [Enablement(plugin, user, min(one, two), max(one, two)) for plugin, user, one, two in spans]


@given(histories, enablements, st.integers())
def test_statements_always_balance_and_order_never_matters(history: list[Any], spans: list[Any], seed: int) -> None:
    sold, enabled = facts(history, spans)
    payers = {USER: [(at("2026-02-10") // 10**9, "a")]}
    lines = expected(sold, hosted(enabled, (), at("2026-05-01")), payers, "2026-04")
    shuffler = random.Random(seed)
    shuffler.shuffle(sold)
    shuffler.shuffle(enabled)
    assert msgspec.json.encode(expected(sold, hosted(enabled, (), at("2026-05-01")), payers, "2026-04")) == \
        msgspec.json.encode(lines)
    for month in ("2026-01", "2026-02", "2026-03", "2026-04"):
        mine = [line for line in lines if line.for_month == month]
        platform = statement(mine, month, False)["totals"]
        customers: dict[str, int] = {}
        authors: dict[str, int] = {}
        for party in {line.customer for line in mine}:
            for currency, due in statement(mine, month, False, customer=party)["due"].items():
                customers[currency] = customers.get(currency, 0) + due
        for party in {line.author for line in mine} - {""}:
            for currency, due in statement(mine, month, False, author=party)["due"].items():
                authors[currency] = authors.get(currency, 0) + due
        for currency, sums in platform.items():
            assert customers[currency] == sums["customers"]
            assert authors.get(currency, 0) == sums["authors"]
            assert sums["customers"] == sums["authors"] + sums["platform"]


@given(histories, st.integers(0, 8))
def test_closing_month_by_month_bills_everything_exactly_once(history: list[Any], late: int) -> None:
    sold, _ = facts(history, [])
    billed: list[Any] = []
    for index, month in enumerate(("2026-01", "2026-02", "2026-03", "2026-04")):
        known = sold[late:] if index == 0 else sold  # some sales become known only after January was closed
        billed += newly_due(expected(known, {}, {}, month), billed, month)
    whole = expected(sold, {}, {}, "2026-04")
    assert sum(line.customer_minor for line in billed) == sum(line.customer_minor for line in whole)
    assert sum(line.author_minor for line in billed) == sum(line.author_minor for line in whole)
    assert newly_due(whole, billed, "2026-04") == []


def test_hosting_of_1000_users_of_one_customer_is_one_line_of_16_13() -> None:
    users = [f"00000000-0000-4000-8000-{index:012d}" for index in range(1000)]
    enabled = [Enablement("sums", user, at("2026-10-01"), at("2026-10-11")) for user in users]
    lines = expected([], hosted(enabled, (), at("2026-11-01")), {user: [(0, "initech")] for user in users}, "2026-10")
    assert [(line.kind, line.customer, line.customer_minor, line.author_minor) for line in lines] == [
        ("hosting", "initech", 1613, 0)]


def test_enabled_for_everybody_is_hosted_for_the_users_who_called() -> None:
    calls = [("sums", USER, "2026-10"), ("other", OTHER, "2026-10")]
    spans = hosted([Enablement("sums", "", at("2026-09-15"), None)], calls, at("2026-11-05"))
    assert spans == {("sums", USER): [(at("2026-10-01") // 10**9, at("2026-11-01") // 10**9)]}


def test_metering_counts_what_ran_and_sums_whole_numbers() -> None:
    def event(kind: str, action: str, result: str = "success", day: str = "2026-10-05", **metadata: Any) -> Event:
        return Event(0, f"{day}T00:00:00.000000000Z", kind, USER, "sums", action, result, metadata)

    events = [event("plugin.execution", "onDataFetch", executionTimeMs=100.5, memoryUsedMb=20.0, cpuMs=3.25,
                    hostCpuMs=1.5),
              event("plugin.execution", "onDataFetch", "failure", executionTimeMs=50, memoryUsedMb=10, code="TIMEOUT"),
              event("plugin.execution", "onDataFetch", "failure", code="DEADLINE_EXCEEDED"),
              event("data.access", "query"), event("plugin.api", "fetch"), event("access.denied", "fetch", "denied"),
              event("plugin.execution", "onDataFetch", day="2026-11-01", executionTimeMs=1)]
    october = meter(events, "2026-10")
    assert list(october) == [("sums", USER, "2026-10")]
    assert october["sums", USER, "2026-10"].figures() == {
        "calls": 2, "cpuSeconds": 0.00325, "hostCpuSeconds": 0.0015, "memoryMbSeconds": 2.51, "apiCalls": 2,
        "networkRequests": 1}
    everything = meter(reversed(events))
    assert everything["sums", USER, "2026-10"] == october["sums", USER, "2026-10"] and len(everything) == 2


@pytest.fixture
def store(url: str) -> Iterator[sa.Engine]:
    engine = open_market(url)
    yield engine
    engine.dispose()


def _sell(db: sa.Connection, key: str, moment: str, user: str = USER) -> None:
    sales.buy(db, at(moment), plugin="sums", user_id=user, key=key)


def _offer(db: sa.Connection) -> None:
    price = Price("subscription", 1995, "USD", "month")
    db.execute(sa.insert(subs.submissions).values(
        plugin="sums", version="1.0.0", digest="a" * 64, author="ACME", author_key="", submitter="ann",
        state="published", price=subs.encode(price), contact="", sla_hours=0, submitted_ns=0, changed_ns=0, reviewer="",
        result="", result_signature=""))
    subs.set_price(db, 0, "sums", price)


def test_a_closed_month_stays_and_a_refund_is_a_new_line_of_its_own_month(store: sa.Engine) -> None:
    with store.begin() as db:
        _offer(db)
        _sell(db, "k1", "2026-01-31T12:00:00")
        closed = invoices.close_month(db, at("2026-02-01"), "2026-01", {})
        assert [(line.kind, line.customer_minor, line.author_minor, line.platform_minor) for line in closed] == [
            ("sale", 1995, 1396, 599)]
        _sell(db, "k2", "2026-02-10T00:00:00")
        sales.refund(db, at("2026-03-05"), purchase="k1", key="r1", reason="no use")
        assert invoices.month_lines(db, "2026-01", {}) == (True, closed)
        assert [line.kind for line in invoices.close_month(db, at("2026-03-10"), "2026-02", {})] == ["sale"]
        march = invoices.close_month(db, at("2026-04-01"), "2026-03", {})
        assert [(line.kind, line.for_month, line.customer_minor, line.author_minor) for line in march] == [
            ("refund", "2026-03", -1995, -1396)]


def test_what_turns_out_after_closing_is_a_correction_in_a_later_month(store: sa.Engine) -> None:
    full = hosted([Enablement("sums", USER, at("2026-01-01"), at("2026-02-01"))], (), at("2026-05-01"))
    half = hosted([Enablement("sums", USER, at("2026-01-01"), at("2026-01-11"))], (), at("2026-05-01"))
    with store.begin() as db:
        assert invoices.close_month(db, at("2026-02-01"), "2026-01", full)[0].customer_minor == 5
        february = invoices.close_month(db, at("2026-03-01"), "2026-02", half)
        assert [(line.kind, line.for_month, line.month, line.customer_minor) for line in february] == [
            ("correction", "2026-01", "2026-02", -3)]
        assert invoices.close_month(db, at("2026-04-01"), "2026-03", half) == []
        april = invoices.close_month(db, at("2026-05-01"), "2026-04", {})
        assert [(line.kind, line.customer_minor) for line in april] == [("correction", -2)]


def test_months_close_in_order_after_their_end_and_once(store: sa.Engine) -> None:
    with store.begin() as db:
        _offer(db)
        _sell(db, "k1", "2026-01-31T12:00:00")
        for now, month, reason in (("2026-01-31T23:59:59", "2026-01", "month_not_over"),
                                   ("2026-05-01", "2026-02", "month_order")):
            with pytest.raises(Refusal) as caught:
                invoices.close_month(db, at(now), month, {})
            assert caught.value.reason == reason
        invoices.close_month(db, at("2026-02-01"), "2026-01", {})
        for month, reason in (("2026-01", "month_closed"), ("2025-12", "month_order"), ("2026-04", "month_order")):
            with pytest.raises(Refusal) as caught:
                invoices.close_month(db, at("2026-06-01"), month, {})
            assert caught.value.reason == reason
        assert invoices.month_lines(db, "2026-02", {}) == (False, [])


@pytest.mark.parametrize("statement_text", ["UPDATE invoice_lines SET customer_minor = 1", "DELETE FROM invoice_lines",
                                            "DELETE FROM closed_months"])
def test_the_database_itself_refuses_to_change_a_closed_invoice(store: sa.Engine, statement_text: str) -> None:
    with store.begin() as db:
        _offer(db)
        _sell(db, "k1", "2026-01-31T12:00:00")
        invoices.close_month(db, at("2026-02-01"), "2026-01", {})
    with pytest.raises(sa.exc.DBAPIError, match="immutable"), store.begin() as db:
        db.execute(sa.text(statement_text))
    with store.begin() as db:
        db.execute(sa.insert(invoice_lines).values(
            month="2026-01", number=2, kind="sale", line_group="x", for_month="2026-01", plugin="", customer="",
            author="", currency="USD", customer_minor=1, author_minor=1, platform_minor=0, quantity=""))
    with store.begin() as db, pytest.raises(Refusal) as caught:
        invoices.month_lines(db, "2026-01", {})
    assert caught.value.reason == "invoice_damaged"


def test_the_order_of_bookkeeping_never_matters_to_the_invoice(url: str, tmp_path: Any) -> None:
    made = []
    for index, order in enumerate((("k1", "k2"), ("k2", "k1"))):
        engine = open_market(url if index == 0 else f"sqlite:///{tmp_path}/other.db")
        with engine.begin() as db:
            _offer(db)
            for key in order:
                _sell(db, key, "2026-01-10", USER if key == "k1" else OTHER)
            made.append(msgspec.json.encode(invoices.close_month(db, at("2026-02-01"), "2026-01", {})))
        engine.dispose()
    assert made[0] == made[1]


def test_csv_holds_the_same_money_and_starts_no_formula() -> None:
    lines = expected([bought("k1", at("2026-01-05"), 1995, customer="=cmd()")], {}, {}, "2026-01")
    rows = list(csv.DictReader(io.StringIO(to_csv(statement(lines, "2026-01", False)))))
    assert (rows[0]["customer_owes"], rows[0]["author_gets"], rows[0]["platform_keeps"]) == ("19.95", "13.96", "5.99")
    assert rows[0]["customer"] == "'=cmd()"
