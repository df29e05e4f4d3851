"""What is billed is what ran: no hosting for calls that never did, and nothing from a ledger that was changed."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.errors import Refusal
from apex_exec.ledger.audit import AuditStore
from apex_exec.ledger.people import people_path
from apex_exec.ledger.reading import read_events
from apex_exec.ledger.records import AuditRecord
from apex_exec.ledger.report import review
from apex_exec.market.money.metering import meter
from apex_exec.market.shop import storefront
from tests.market.shops import OTHER, USER, Market, at


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    made = Market(tmp_path, f"sqlite:///{tmp_path}/market.db")
    yield made
    made.close()


def write(market: Market, *records: tuple[str, str, str, dict[str, Any]]) -> Path:
    """Puts (event type, user, result, metadata) into the ledger, of 5 October."""
    path = market.settings.state_path / "audit.db"
    store = AuditStore(path, market.settings.state_path)
    store.append([AuditRecord(at("2026-10-05"), kind, user, "sums", "fetch" if kind == "plugin.api" else "query",
                              result, metadata) for kind, user, result, metadata in records])
    store.close()
    return path


RAN = ("plugin.execution", USER, "success", {"executionTimeMs": 5.0, "cpuMs": 1.0})
NEVER_RAN: list[tuple[str, str, str, dict[str, Any]]] = [
    ("plugin.execution", OTHER, "failure", {"code": "BOOT_FAILED"}),
    ("plugin.execution", OTHER, "failure", {"code": "DEADLINE_EXCEEDED", "executionTimeMs": 0.0}),
    ("plugin.execution", OTHER, "failure", {"code": "CANCELLED", "executionTimeMs": 0.0}),
    ("plugin.execution", OTHER, "failure", {"code": "PLUGIN_DISABLED", "executionTimeMs": 0.0}),
    ("plugin.api", OTHER, "denied", {"code": "host_not_allowed"}),
    ("data.access", OTHER, "failure", {"code": "sql_forbidden"}),
]


@pytest.mark.parametrize("only", range(len(NEVER_RAN)))
def test_a_user_whose_every_call_never_ran_is_not_hosted_and_has_no_usage(market: Market, only: int) -> None:
    market.enable("sums", "")
    write(market, RAN, NEVER_RAN[only])
    market.now_ns = at("2026-11-02")
    found = market("billing.report", month="2026-10")
    assert {row["userId"] for row in found["usage"]} == {USER}
    assert {line["customer"] for line in found["lines"] if line["kind"] == "hosting"} == {USER}


def test_a_call_that_was_cancelled_or_died_while_it_ran_is_a_call(market: Market) -> None:
    path = write(market, *(("plugin.execution", USER, "failure", {"code": code, "executionTimeMs": 5.0})
                           for code in ("CANCELLED", "WORKER_CRASHED", "TIMEOUT")))
    (one,) = meter(read_events(path)).values()
    assert one.calls == 3


def test_each_call_is_billed_in_the_month_that_its_record_names_whatever_the_clock_did(market: Market) -> None:
    """Ahead by a year for a while, behind by a month, and right again: every call is counted, each once."""
    market.enable("sums", "")
    path = market.settings.state_path / "audit.db"
    store = AuditStore(path, market.settings.state_path)
    days = ["2026-10-05"] * 40 + ["2027-10-05"] * 300 + ["2026-10-06"] * 40 + ["2026-09-06"] * 7 + ["2026-10-07"] * 40
    for day in days:
        store.append([AuditRecord(at(day), RAN[0], USER, "sums", "onDataFetch", "success", RAN[3])])
    store.close()
    market.now_ns = at("2026-11-02")
    counted = {month: sum(row["calls"] for row in market("billing.report", month=month)["usage"])
               for month in ("2026-09", "2026-10")}
    assert counted == {"2026-09": 7, "2026-10": 120}


def test_a_second_report_reads_only_what_came_since_and_says_the_same_as_a_first(
        market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def counting(path: Path, wanted: Any) -> Iterator[Any]:
        for event in read_events(path, wanted):
            read.append(event.seq)
            yield event

    monkeypatch.setattr(storefront, "read_events", counting)
    market.now_ns = at("2026-11-02")
    other = ("plugin.execution", OTHER, "success", {"executionTimeMs": 5.0})
    write(market, *[RAN] * 20)
    first = market("billing.report", month="2026-10")
    assert len(read) == 20
    path = write(market, RAN, other, NEVER_RAN[0])
    read.clear()
    second = market("billing.report", month="2026-10")
    assert read == [21, 22, 23]
    assert [row["calls"] for row in first["usage"]] == [20]
    assert {row["userId"]: row["calls"] for row in second["usage"]} == {USER: 21, OTHER: 1}
    assert market.shop.usage("2026-10") == meter(read_events(path), "2026-10")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    store = AuditStore(elsewhere / "audit.db", elsewhere)
    store.append([AuditRecord(at("2026-10-06"), other[0], OTHER, "sums", "query", "success", other[3])] * 30)
    store.close()
    shutil.copy(elsewhere / "audit.db", path)  # another ledger in its place
    with pytest.raises(Refusal, match="another ledger's pseudonyms"):
        market.shop.usage("2026-10")
    shutil.copy(people_path(elsewhere / "audit.db"), people_path(path))
    assert {key[1]: one.calls for key, one in market.shop.usage("2026-10").items()} == {OTHER: 30}


def test_a_ledger_that_was_changed_is_not_billed(market: Market) -> None:
    path = write(market, RAN, RAN)
    market.now_ns = at("2026-11-02")
    with sqlite3.connect(path) as db:
        for (trigger,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {trigger}")
        db.execute("UPDATE events SET body = replace(CAST(body AS TEXT), '5.0', '9.0') WHERE seq = 1")
    with pytest.raises(Refusal) as caught:
        market("billing.close", month="2026-10")
    assert caught.value.reason == "ledger_damaged" and "edited at event 1" in caught.value.message
    assert market("billing.report", month="2026-10")["status"] == "open"


def test_a_ledger_that_is_gone_is_not_billed_and_one_that_never_was_is(market: Market) -> None:
    market.now_ns = at("2026-10-02")
    assert market("billing.close", month="2026-09")["status"] == "closed", "no daemon ever kept one here"
    write(market, RAN).unlink()
    market.now_ns = at("2026-11-02")
    with pytest.raises(Refusal) as caught:
        market("billing.close", month="2026-10")
    assert caught.value.reason == "ledger_damaged"


def test_the_security_review_counts_what_was_refused_as_denied_and_not_as_work(market: Market) -> None:
    refused = [("data.access", "sql_forbidden")] * 7 + [("access.denied", "host_not_allowed")] * 3 + [
        ("plugin.api", "url_invalid"), ("data.modification", "column_not_allowed"),
        ("data.modification", "column_not_allowed"), ("access.denied", "permission_denied")]
    records: list[tuple[str, str, str, dict[str, Any]]] = [
        (kind, USER, "denied" if kind == "access.denied" else "failure", {"code": code}) for kind, code in refused]
    records += [
        ("access.denied", USER, "denied", {"count": 5, "codes": {"sql_forbidden": 3, "sql_syntax": 2}}),
        ("data.modification", USER, "failure", {"code": "constraint"}), ("data.access", USER, "success", {}),
        ("data.modification", USER, "success", {}), ("security.rate_limit", USER, "denied", {"code": "rate_limited"})]
    records += [("plugin.cpu", USER, "success", {"cpuMs": 7.0}), ("plugin.api", USER, "success", {"effects": 4})]
    path = write(market, *records)
    (row,) = review(read_events(path))
    assert (row.denials, row.api_calls, row.data_changes, row.rate_limits) == (len(refused) + 3, 7, 1, 1)
    (usage,) = meter(read_events(path)).values()
    assert usage.api_calls == 7
