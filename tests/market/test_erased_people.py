"""A person who is erased leaves the books without a name, and not a cent of any bill changes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from apex_exec.errors import Refusal
from apex_exec.ledger import people as ledger_people
from apex_exec.ledger.audit import AuditStore
from apex_exec.ledger.records import AuditRecord
from apex_exec.market import people
from apex_exec.market.store import invoice_lines
from apex_exec.registry import people as registry_people
from tests.market.shops import OTHER, PAID, USER, Market, at, write_bundle

SUPPORT = {"contact": "help@acme.example", "responseHours": 24}


@pytest.fixture(params=["sqlite", "postgres"])
def market(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Market]:
    url = f"sqlite:///{tmp_path}/market.db"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").url("erased")
    made = Market(tmp_path, url)
    yield made
    made.close()


def ran(market: Market, day: str, *users: str) -> None:
    """Calls of these users, in the ledger."""
    store = AuditStore(market.settings.state_path / "audit.db", market.settings.state_path)
    store.append([AuditRecord(at(day), "plugin.execution", user, "sums", "onDataFetch", "success",
                              {"executionTimeMs": 5.0, "cpuMs": 1.0}) for user in users])
    store.close()


def erase(market: Market, user: str) -> str:
    """As the registrar does it."""
    database = market.settings.state_path / "audit.db"
    pseudonym = ledger_people.pseudonym_for_erasure(database, user)
    market.store.transact(lambda db: registry_people.rename(db, registry_people.TABLES, user, pseudonym))
    market.shop.change(lambda db, _now: people.erase(db, user, pseudonym))
    market.shop.forget_usage()
    ledger_people.erase(database, user)
    return pseudonym


def bills(market: Market, *months: str) -> list[Any]:
    return [market("billing.report", month=month) for month in months]


def renamed(value: Any, user: str, pseudonym: str) -> Any:
    """What it is expected to be after the erasure, in an order that does not depend on names."""
    if isinstance(value, dict):
        return {key: renamed(item, user, pseudonym) for key, item in value.items()}
    if isinstance(value, list):
        return sorted((renamed(item, user, pseudonym) for item in value), key=repr)
    return value.replace(user, pseudonym) if isinstance(value, str) else value


def test_bills_of_open_and_closed_months_recompute_and_name_nobody(market: Market, tmp_path: Path) -> None:
    market.publish(write_bundle(tmp_path / "sums", pricing=PAID, support=SUPPORT))
    market("market.buy", plugin="sums", userId=USER, key="k1")
    market("market.buy", plugin="sums", userId=OTHER, key="k2", customer="Other Inc")
    market("market.ticket.open", plugin="sums", userId=USER, subject=f"I am {USER}, call me")
    market.enable("sums", "")
    ran(market, "2026-10-05", USER, OTHER)
    market.now_ns = at("2026-11-02")
    market("billing.close", month="2026-10")
    market.enable("free", USER)
    ran(market, "2026-11-01", USER, OTHER)
    market.now_ns = at("2026-11-20")
    before = bills(market, "2026-10", "2026-11")
    assert USER in repr(before) and before[0]["status"] == "closed"
    pseudonym = erase(market, USER)
    after = bills(market, "2026-10", "2026-11")
    assert USER not in repr(after) and pseudonym in repr(after)
    assert renamed(after, USER, pseudonym) == renamed(before, USER, pseudonym)
    assert [line for line in after[1]["lines"] if line["kind"] == "correction"] == []
    market.now_ns = at("2026-12-02")
    market("billing.close", month="2026-11")
    assert all(line["kind"] != "correction" for line in bills(market, "2026-11")[0]["lines"])
    rows = list(market.shop.read(lambda db: list(registry_people.rows_about(db, people.TABLES, USER))))
    rows += market.store.transact(lambda db: list(registry_people.rows_about(db, registry_people.TABLES, USER)))
    assert rows == [], "no row of either store names the person"
    assert market("market.ticket.list")[0]["subject"] == people.ERASED_SUBJECT
    assert OTHER in repr(after), "nobody else is touched"


@pytest.mark.slow
def test_closed_months_are_guarded_again_afterwards_and_a_damaged_one_stops_the_erasure(
        market: Market, tmp_path: Path) -> None:
    market.publish(write_bundle(tmp_path / "sums", pricing=PAID, support=SUPPORT))
    market("market.buy", plugin="sums", userId=USER, key="k1")
    ran(market, "2026-10-05", USER)
    market.now_ns = at("2026-11-02")
    market("billing.close", month="2026-10")

    def change(amount: int) -> None:
        market.shop.change(lambda db, _now: db.execute(sa.update(invoice_lines).values(customer_minor=amount)))

    pseudonym = erase(market, USER)
    with pytest.raises(Refusal, match="immutable"):
        change(1)
    if not str(market.shop.engine.url).startswith("sqlite"):
        return
    with sqlite3.connect(tmp_path / "market.db") as database:
        database.execute("DROP TRIGGER invoice_lines_update")
        database.execute("UPDATE invoice_lines SET customer_minor = customer_minor + 1")
    database.close()
    with pytest.raises(Refusal, match="differ from those that were closed"):
        market.shop.change(lambda db, _now: people.erase(db, pseudonym, "p-" + "0" * 32))
    assert pseudonym in repr(market.shop.read(lambda db: db.execute(sa.select(invoice_lines.c.quantity)).all()))
