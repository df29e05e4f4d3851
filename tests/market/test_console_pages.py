"""What the console's pages ask of the marketplace: source beside what was approved, comments, months, tickets, an
author's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.errors import Refusal
from apex_exec.market.money import pages
from apex_exec.market.review import comments
from apex_exec.market.review.coverage import ranges
from apex_exec.market.support import NEAR_NS, RESPONSE_NS, clocks
from tests.market.shops import OTHER, PAID, PLUGIN, USER, Market, at, write_bundle

SUPPORT = {"contact": "help@acme.example", "responseHours": 12}


@pytest.fixture
def market(url: str, tmp_path: Path) -> Iterator[Market]:
    made = Market(tmp_path, url)
    yield made
    made.close()


def refused(reason: str, call: Any, *arguments: Any, **named: Any) -> None:
    with pytest.raises(Refusal) as caught:
        call(*arguments, **named)
    assert caught.value.reason == reason, caught.value


def test_a_reviewer_reads_the_files_beside_those_that_were_approved(market: Market, tmp_path: Path,
                                                                      request: pytest.FixtureRequest) -> None:
    market.publish(write_bundle(tmp_path / "one"))
    market.scan_warnings = ["plugin.py:4: a warning: mend it", "other.py:1: elsewhere: -", "no place"]
    shown = market("market.submit", path=str(write_bundle(
        tmp_path / "two", {"plugin.py": PLUGIN + b"\nX = 1\n", "new.py": b"Y = 2\n", "raw.bin": b"\xff\xfe"},
        version="1.1.0")), submitter="ann")
    found = market("market.source", submission=shown["id"])
    assert {row["path"]: row["change"] for row in found["files"]} == {
        "README.md": "same", "manifest.json": "changed", "new.py": "added", "plugin.py": "changed", "raw.bin": "added",
        "tests/test_sums.py": "same"}
    assert found["base"] == {"id": 1, "version": "1.0.0", "state": "published", "gone": False}
    one = market("market.source", submission=shown["id"], file="plugin.py")
    assert one["text"] == (PLUGIN + b"\nX = 1\n").decode() and one["baseText"] == PLUGIN.decode()
    assert one["findings"] == [{"line": 4, "severity": "warning", "text": "a warning: mend it"}]
    assert one["coverage"] == {"run": "4-7", "missed": "9"}
    assert market("market.source", submission=shown["id"], file="raw.bin")["binary"] is True
    alone = market("market.source", submission=shown["id"], base=-1)
    assert alone["base"] is None and {row["change"] for row in alone["files"]} == {""}
    refused("file_unknown", market, "market.source", submission=shown["id"], file="../../keys/market.key")
    refused("base_unknown", market, "market.source", submission=shown["id"], base=99)
    refused("submission_unknown", market, "market.source", submission=99)
    (market.shop.folder / "submitted" / f"{market('market.status', submission=1)['digest']}.apx").unlink()
    is_shared = "postgresql" in request.node.name  # a server has the bytes for every daemon
    assert market("market.source", submission=shown["id"])["base"]["gone"] is not is_shared
    (market.shop.folder / "submitted" / f"{shown['digest']}.apx").write_bytes(b"other bytes")
    with pytest.raises(Refusal):
        market("market.source", submission=shown["id"])


def test_a_comment_goes_back_to_the_author_with_the_submission(market: Market, tmp_path: Path) -> None:
    shown = market("market.submit", path=str(write_bundle(tmp_path / "one")), submitter="ann")
    said = {"submission": shown["id"], "reviewer": "rita", "file": "plugin.py", "line": 6, "text": " why 0? "}
    assert market("market.comment", **said)["comments"][0]["text"] == "why 0?"
    refused("line_unknown", market, "market.comment", **{**said, "line": 400})
    refused("line_unknown", market, "market.comment", **{**said, "file": "nope.py"})
    refused("line_unknown", market, "market.comment", **{**said, "line": -1})
    refused("comment_empty", market, "market.comment", **{**said, "text": "  "})
    refused("comment_empty", market, "market.comment", **{**said, "text": "x" * 2001})
    refused("reviewer_is_author", market, "market.comment", **{**said, "reviewer": "ANN"})
    refused("reviewer_missing", market, "market.comment", **{**said, "reviewer": " "})
    (kept,) = market("market.status", submission=shown["id"])["comments"]
    assert (kept["reviewer"], kept["path"], kept["line"]) == ("rita", "plugin.py", 6)
    market("market.reject", submission=shown["id"], reviewer="rita", reason="see my comment", digest=shown["digest"],
           changes=True)
    refused("not_in_review", market, "market.comment", **said)
    (mine,) = market("market.mine", submitter="Ann")["submissions"]
    assert mine["comments"] == [kept] and (mine["state"], mine["reason"]) == ("changes_requested", "see my comment")
    assert market("market.mine", submitter="ACME corp")["submissions"] == [mine], "the manifest's author is one, too"
    assert market("market.mine", submitter="an")["submissions"] == [] == market("market.mine", submitter="%")[
        "submissions"]
    refused("submitter_missing", market, "market.mine", submitter=" ")


def test_comments_have_a_bound(market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comments, "COMMENTS_MAX", 1)
    shown = market("market.submit", path=str(write_bundle(tmp_path / "one")), submitter="ann")
    said = {"submission": shown["id"], "reviewer": "rita", "file": "plugin.py", "text": "x"}
    market("market.comment", **said)
    refused("comments_full", market, "market.comment", **said)


def test_tickets_come_by_urgency_and_answers_are_kept(market: Market, tmp_path: Path) -> None:
    market.publish(write_bundle(tmp_path / "one", pricing=PAID, support=SUPPORT))
    market.publish(write_bundle(tmp_path / "two", id="free", name="Free"))
    begun = market.now_ns

    def opened(plugin: str, user: str) -> int:
        return int(market("market.ticket.open", plugin=plugin, userId=user, subject="help")["id"])

    late, free = opened("sums", USER), opened("free", USER)
    market.now_ns = begun + 3 * 3600 * 10**9
    near = opened("sums", OTHER)
    market.now_ns = begun + RESPONSE_NS
    fresh = opened("sums", OTHER)
    found = market("market.ticket.find")
    assert [one["id"] for one in found["tickets"]] == [late, near, fresh, free], "free ones last"
    assert found["counts"] == {"open": 4, "waiting": 4, "near": 1, "breached": 1} and found["total"] == 4
    assert market.shop.read(lambda db: clocks(db, market.now_ns)) == {"near": 1, "late": 1}
    assert [one["id"] for one in market("market.ticket.find", state="near")["tickets"]] == [near]
    assert [one["id"] for one in market("market.ticket.find", state="breached")["tickets"]] == [late]
    assert [one["id"] for one in market("market.ticket.find", plugin="free")["tickets"]] == [free]
    assert [one["id"] for one in market("market.ticket.find", offset=1, limit=1)["tickets"]] == [near]
    market.now_ns = begun + 3 * 3600 * 10**9 + RESPONSE_NS - NEAR_NS - 1
    assert near not in [one["id"] for one in market("market.ticket.find", state="near")["tickets"]], "not near yet"
    market.now_ns += 1
    assert near in [one["id"] for one in market("market.ticket.find", state="near")["tickets"]], "four hours before it"
    market.now_ns = begun + RESPONSE_NS
    refused("state_unknown", market, "market.ticket.find", state="x")
    market("market.ticket.respond", ticket=near, responder="ann", text=" try again ")
    market("market.ticket.respond", ticket=near, responder="ann")
    shown = market("market.ticket.show", ticket=near)
    assert [(one["responder"], one["text"]) for one in shown["answers"]] == [("ann", "try again")]
    assert market("market.ticket.find")["tickets"][-1]["id"] == near, "what was answered is not urgent"
    refused("answer_too_long", market, "market.ticket.respond", ticket=near, responder="ann", text="x" * 4001)
    refused("ticket_unknown", market, "market.ticket.show", ticket=99)
    (mine,) = [row for row in market("market.mine", submitter="ann")["plugins"] if row["plugin"] == "sums"]
    assert mine["tickets"]["waiting"] == 2


def test_a_month_is_shown_in_parts_that_add_up(market: Market, tmp_path: Path) -> None:
    market.publish(write_bundle(tmp_path / "one", pricing=PAID, support=SUPPORT, author="=cmd|' /C calc'!A0"))
    for number, user in enumerate((USER, OTHER)):
        market("market.buy", plugin="sums", userId=user, key=f"k{number}", customer=f"Customer {number}")
    assert market("billing.months") == {"now": "2026-10", "next": "", "digits": {}, "months": []}
    while "operation" in (whole := market("billing.page", month="2026-10")):  # it takes longer than a second
        pass
    assert (whole["status"], whole["total"], whole["digits"]) == ("open", 2, {"USD": 2})
    assert whole["totals"] == {"USD": {"customers": 3990, "authors": 2792, "platform": 1198}}
    assert [one["minor"] for one in whole["parties"]["customer"]] == [1995, 1995]
    parts = [market("billing.page", month="2026-10", offset=number, limit=1)["lines"] for number in range(3)]
    assert [line for part in parts for line in part] == whole["lines"] and parts[2] == []
    one = market("billing.page", month="2026-10", customer="Customer 1")
    assert one["due"] == {"USD": 1995} and one["total"] == 1
    market.now_ns = at("2026-12-02")
    market("billing.close", month="2026-10")
    found = market("billing.months")
    assert (found["now"], found["next"]) == ("2026-12", "2026-11")
    assert found["months"][0]["totals"] == whole["totals"] and found["months"][0]["lines"] == 2
    text = market("billing.csv", month="2026-10")["csv"]
    assert ",'=cmd|' /C calc'!A0," in text and not any(
        cell.startswith(("=", "+", "@")) for line in text.splitlines() for cell in line.split(","))


def test_a_csv_that_is_too_long_for_an_answer_is_refused(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "CSV_CHARS_MAX", 10)
    refused("csv_too_long", market, "billing.csv", month="2026-10")


@pytest.mark.parametrize(("lines", "text"), [
    ([], ""), ([3], "3"), ([5, 3, 4, 3, 9], "3-5,9"), (range(1, 100), "1-99"), ([1, 3, 5, 7, 9, 11, 13], "1,3,5,7,9")])
def test_lines_are_written_as_ranges(lines: Any, text: str) -> None:
    assert ranges(lines, 10) == text
