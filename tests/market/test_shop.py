"""The operations end to end: what the machine refuses, what a reviewer may do, what publishing signs, what ends."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from apex_exec.errors import Refusal
from apex_exec.market.arguments import OPERATIONS
from apex_exec.market.review.states import CHECKLIST
from apex_exec.market.store import purchases, submissions
from apex_exec.registry.bundles.bundle import unpack
from apex_exec.registry.trials.testing import Proof, Run
from apex_exec.registry.trust.signing import raw_public, read_signatures, verify_digest
from tests.market.shops import GOOD_RUN, OTHER, PAID, POOR_RUN, README, USER, Market, at, write_bundle

ALL = list(CHECKLIST)


@pytest.fixture
def market(url: str, tmp_path: Path) -> Iterator[Market]:
    made = Market(tmp_path, url)
    yield made
    made.close()


def refused(market: Market, expected: str, op: str, /, **args: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        market(op, **args)
    assert caught.value.reason == expected
    return caught.value


def problems(shown: dict[str, Any]) -> dict[str, list[str]]:
    return {check["name"]: check["problems"] for check in shown["result"]["checks"] if check["problems"]}


def test_every_operation_has_arguments_a_line_of_documentation_and_a_handler(market: Market) -> None:
    assert set(market.handlers) == {one.name for one in OPERATIONS}
    assert all(one.doc.endswith(".") for one in OPERATIONS)


@pytest.mark.parametrize(("run", "name", "words"), [
    (POOR_RUN, "coverage", "70 % are required"),
    (Run(passed=0), "tests", "no test was found"),
    (Run(passed=1, failed=1, failures=["test_x: 1 != 2"], arcs=GOOD_RUN.arcs), "tests", "1 of 2 tests failed"),
    (Run(passed=3, ended="the tests ended their own process"), "coverage", "did not finish"),
    (Run(passed=3, arcs={"plugin.py": [(-1, 900)]}), "coverage", "line 900"),
    (Refusal("no_jail", "this machine cannot jail tests"), "tests", "cannot jail")])
def test_tests_that_do_not_show_enough_send_a_submission_back(market: Market, tmp_path: Path, run: Any, name: str,
                                                              words: str) -> None:
    market.run = run
    shown = market("market.submit", path=str(write_bundle(tmp_path / "sums")), submitter="ann")
    assert shown["state"] == "changes_requested"
    assert any(words in line for line in problems(shown)[name]), problems(shown)


def test_a_claimed_line_that_is_not_run_makes_the_report_forged(market: Market, tmp_path: Path) -> None:
    market.proof = Proof(5, 6, "plugin.py", 7)
    shown = market("market.submit", path=str(write_bundle(tmp_path / "sums")), submitter="ann")
    assert problems(shown) == {"coverage": ["the report is forged: plugin.py:7 is reported as run by the tests, but "
                                            "is not"]}


def test_what_is_proven_and_what_is_only_claimed_stand_apart_in_the_signed_report(market: Market,
                                                                                  tmp_path: Path) -> None:
    market.proof = Proof(3, 5, limit="this machine lets no process be watched: reason")
    market.scan_warnings = ["tests/test_sums.py:3: reaches sys.gettrace"]
    shown = market("market.submit", path=str(write_bundle(tmp_path / "sums")), submitter="ann")
    assert (shown["result"]["coverage"], shown["result"]["proven"]) == ("100.00", "75.00")
    details = {check["name"]: check["detail"] for check in shown["result"]["checks"]}
    assert details["scan"] == {"warnings": market.scan_warnings}
    detail = details["coverage"]
    assert (detail["proven"], detail["claimed"], detail["claimedBranches"]) == (3, 1, 2)
    assert detail["provenPercent"] == "75.00" and detail["limit"].endswith("reason")


@pytest.mark.parametrize(("files", "change", "name"), [
    ({"README.md": b"# Sums\n"}, {}, "readme"), ({}, {"pricing": PAID}, "support"),
    ({}, {"pricing": {"model": "one-time", "amount": 5, "currency": "XXX"}}, "unknown_currency")])
def test_readme_pricing_and_support_are_required(market: Market, tmp_path: Path, files: dict[str, bytes],
                                                 change: dict[str, Any], name: str) -> None:
    folder = write_bundle(tmp_path / "sums", files, **change)
    if name == "unknown_currency":
        refused(market, name, "market.submit", path=str(folder), submitter="ann")
        assert market("market.status") == []
        return
    shown = market("market.submit", path=str(folder), submitter="ann")
    assert list(problems(shown)) == [name] and shown["state"] == "changes_requested"


def test_a_bundle_without_tests_or_with_scan_errors_goes_back(market: Market, tmp_path: Path) -> None:
    market.scan_errors = ["plugin.py:3: eval"]
    folder = write_bundle(tmp_path / "sums")
    (folder / "tests/test_sums.py").unlink()
    shown = market("market.submit", path=str(folder), submitter="ann")
    assert problems(shown).keys() == {"scan", "tests", "coverage"}


def test_a_missing_contact_is_mended_by_the_submission_with_the_same_bytes(market: Market, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "sums", pricing=PAID)
    first = market("market.submit", path=str(folder), submitter="ann")
    again = market("market.submit", path=str(folder), submitter="ann", contact="help@acme.example", responseHours=24)
    assert (again["id"], again["state"]) == (first["id"], "in_review")
    refused(market, "already_submitted", "market.submit", path=str(folder), submitter="ann")


def test_an_interrupted_check_is_run_again(market: Market, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "sums")
    market.run = KeyboardInterrupt()  # type: ignore[assignment]  # as where the registrar dies in the middle
    with pytest.raises(KeyboardInterrupt):
        market.run = RuntimeError("killed")
        try:
            market("market.submit", path=str(folder), submitter="ann")
        except RuntimeError:
            raise KeyboardInterrupt from None
    assert market("market.status", plugin="sums")["state"] == "scanning"
    market.run = GOOD_RUN
    assert market("market.submit", path=str(folder), submitter="ann")["state"] == "in_review"


def test_a_reviewer_sees_findings_checklist_and_place_in_the_queue(market: Market, tmp_path: Path) -> None:
    shown = market("market.submit", path=str(write_bundle(tmp_path / "sums")), submitter="ann")
    market.now_ns += 90 * 10**9
    taken = market("market.review", submission=shown["id"], reviewer="rita")
    assert taken["reviewer"] == "rita" and set(taken["checklist"]) == set(CHECKLIST)
    assert taken["queue"] == {"position": 1, "waitingSeconds": 90} and taken["result"]["coverage"] == "100.00"
    refused(market, "reviewer_is_author", "market.review", submission=shown["id"], reviewer="Acme CORP")
    back = market("market.reject", submission=shown["id"], reviewer="rita", reason="say more", digest=shown["digest"],
                  changes=True)
    assert back["state"] == "changes_requested" and back["moves"][-1]["reason"] == "say more"


def test_forged_findings_and_changed_bytes_stop_a_review(market: Market, tmp_path: Path) -> None:
    market.run = POOR_RUN
    shown = market("market.submit", path=str(write_bundle(tmp_path / "sums")), submitter="ann")
    decide = {"submission": shown["id"], "reviewer": "rita", "reason": "fine", "digest": shown["digest"],
              "checklist": ALL}
    with market.shop.engine.begin() as db:
        text = shown_text = db.execute(sa.select(submissions.c.result)).scalar_one()
        db.execute(sa.update(submissions).values(state="in_review", result=text.replace("required", "forgiven")))
    refused(market, "result_forged", "market.approve", **decide)
    with market.shop.engine.begin() as db:
        db.execute(sa.update(submissions).values(result=shown_text))
    refused(market, "result_forged", "market.approve", **decide)
    kept = market.shop.folder / "submitted" / f"{shown['digest']}.apx"
    other = write_bundle(tmp_path / "other", {"plugin.py": b"x = 1\n"})
    market("market.submit", path=str(other), submitter="ann")
    kept.write_bytes((market.shop.folder / "submitted" / f"{market('market.status', plugin='sums')['digest']}.apx"
                      ).read_bytes())
    refused(market, "digest_changed", "market.approve", **decide)
    assert market("market.status", submission=shown["id"])["state"] == "in_review"


def test_publishing_counter_signs_the_digest_with_the_market_key(market: Market, tmp_path: Path) -> None:
    shown = market("market.submit", path=str(write_bundle(tmp_path / "sums")), submitter="ann")
    refused(market, "invalid_transition", "market.publish", submission=shown["id"], publisher="olga")
    market("market.approve", submission=shown["id"], reviewer="rita", reason="fine", digest=shown["digest"],
           checklist=ALL)
    market("market.publish", submission=shown["id"], publisher="olga")
    data = (market.shop.public / "bundles" / f"{shown['digest']}.apx").read_bytes()
    assert unpack(data)[0].digest == shown["digest"]
    (signature,) = read_signatures(unpack(data)[1])
    assert signature.role == "market"
    assert verify_digest(raw_public(market.shop.key()).hex(), shown["digest"], signature)
    assert [row["id"] for row in market("market.search", words="SUMS acme")] == ["sums"]
    assert market("market.search", words="nothing") == []
    assert market("market.show", plugin="sums")["versions"] == [
        {"version": "1.0.0", "state": "published", "percent": 100}]


def test_the_bytes_of_a_bundle_may_be_submitted_over_the_wire(market: Market, tmp_path: Path) -> None:
    from apex_exec.registry.bundles.bundle import pack, read_folder

    data = pack(read_folder(write_bundle(tmp_path / "sums")))
    wire = base64.b64encode(data).decode()  # how msgspec turns bytes into builtins and back
    assert market("market.submit", bundle=wire, submitter="ann")["state"] == "in_review"
    refused(market, "bundle_missing", "market.submit", submitter="ann")
    refused(market, "submitter_missing", "market.submit", bundle=wire, submitter=" ")


def test_what_is_revoked_is_stopped_and_cannot_be_bought(market: Market, tmp_path: Path) -> None:
    support = {"contact": "help@acme.example", "responseHours": 12}
    published = market.publish(write_bundle(tmp_path / "sums", pricing=PAID, support=support))
    market("market.buy", plugin="sums", userId=USER, key="k1")
    assert market("market.revoke", plugin="sums", actor="olga", reason="leaks")["versions"] == ["1.0.0"]
    assert market.stopped == [published["digest"]]
    refused(market, "plugin_revoked", "market.buy", plugin="sums", userId=OTHER, key="k2")
    with market.shop.engine.begin() as db:
        assert db.execute(sa.select(sa.func.count()).select_from(purchases)).scalar_one() == 1
    assert market("market.search") == []


def test_a_paid_plugin_is_enabled_only_for_who_paid_and_until_that_ends(market: Market, tmp_path: Path) -> None:
    support = {"contact": "help@acme.example", "responseHours": 12}
    folder = write_bundle(tmp_path / "sums", pricing=PAID, support=support)
    market.publish(folder)
    from apex_exec.registry.bundles.bundle import read_folder

    manifest = read_folder(folder).manifest
    for user in (USER, ""):
        with pytest.raises(Refusal) as caught:
            market.entitlements.gate(market.context, manifest, user)
        assert caught.value.reason == "not_entitled"
    bought = market("market.buy", plugin="sums", userId=USER, key="k1", customer="initech")
    assert bought["customer"] == "initech"
    market.entitlements.gate(market.context, manifest, USER)
    market.enable("sums", USER)
    assert market.entitlements.sweep(market.context) == bought["ends_ns"]
    market.now_ns = bought["ends_ns"] - 1
    market.entitlements.sweep(market.context)
    assert market.disabled == []
    market.now_ns += 1
    market.entitlements.sweep(market.context)
    assert market.disabled == [("sums", USER, "not_entitled")]
    again = market("market.buy", plugin="sums", userId=USER, key="k2")
    market.enable("sums", USER)
    market("market.refund", purchase=again["key"], key="r1", reason="no use")
    assert len(market.disabled) == 2


def test_the_report_names_revenue_installs_coverage_support_and_review_times(market: Market, tmp_path: Path) -> None:
    support = {"contact": "help@acme.example", "responseHours": 12}
    shown = market("market.submit", path=str(write_bundle(tmp_path / "sums", pricing=PAID, support=support)),
                   submitter="ann")
    market.now_ns += 3600 * 10**9
    market("market.approve", submission=shown["id"], reviewer="rita", reason="fine", digest=shown["digest"],
           checklist=ALL)
    market("market.publish", submission=shown["id"], publisher="olga")
    market("market.buy", plugin="sums", userId=USER, key="k1")
    market("market.buy", plugin="sums", userId=OTHER, key="k2")
    market("market.refund", purchase="k2", key="r2", reason="no use")
    market.enable("sums", USER)
    ticket = market("market.ticket.open", plugin="sums", userId=USER, subject="no totals")
    market.now_ns += 24 * 3600 * 10**9
    market("market.ticket.respond", ticket=ticket["id"], responder="ann")
    market("market.ticket.close", ticket=ticket["id"])
    assert market("market.ticket.list", plugin="sums")[0]["breached"]
    (row,) = market("market.report")
    assert {key: row[key] for key in ("revenue", "fee", "author", "currency", "sold", "refunded", "activeInstalls",
                                      "coverage", "slaBreached", "slowestResponseSeconds", "slowestReviewSeconds")} == {
        "revenue": 1995, "fee": 599, "author": 1396, "currency": "USD", "sold": 2, "refunded": 1, "activeInstalls": 1,
        "coverage": "100.00", "slaBreached": 1, "slowestResponseSeconds": 86400, "slowestReviewSeconds": 3600}


def test_a_clock_set_back_stops_every_change(market: Market, tmp_path: Path) -> None:
    market.publish(write_bundle(tmp_path / "sums", {"README.md": README.encode()}))
    market.now_ns = at("2026-09-01")
    refused(market, "clock_set_back", "market.ticket.open", plugin="sums", userId=USER, subject="x")
    refused(market, "clock_set_back", "billing.close", month="2026-08")


def test_a_clock_that_was_ahead_stops_the_market_until_the_operator_says_that_it_is_right_now(
        market: Market, tmp_path: Path) -> None:
    support = {"contact": "help@acme.example", "responseHours": 12}
    market.publish(write_bundle(tmp_path / "sums", pricing=PAID, support=support))
    bought = market("market.buy", plugin="sums", userId=USER, key="k1")
    right_ns = market.now_ns + 3600 * 10**9
    market.now_ns = at("2027-10-01")  # for a moment, a year ahead
    market("market.customer", userId=USER, customer="initech")
    market("market.buy", plugin="sums", userId=OTHER, key="k2")
    market.now_ns = right_ns
    refused(market, "clock_set_back", "market.buy", plugin="sums", userId=USER, key="k3")
    assert [row["id"] for row in market("market.search", words="sums")] == ["sums"], "only changes are stopped"
    assert market.entitlements.of("sums", True) is not None
    refused(market, "reason_missing", "market.clock", accept=True)
    looked = market("market.clock")
    assert not looked["accepted"] and looked["behindSeconds"] > 360 * 86400
    refused(market, "clock_set_back", "market.customer", userId=USER, customer="globex")
    assert market("market.clock", accept=True, reason="the time server was wrong")["datedAnew"] == 2
    market.now_ns += 10**9
    market("market.customer", userId=USER, customer="globex")
    more = market("market.buy", plugin="sums", userId=USER, key="k3")
    assert more["customer"] == "globex" and more["starts_ns"] == bought["ends_ns"]
    again = market("market.buy", plugin="sums", userId=OTHER, key="k2")
    assert (again["at_ns"], again["starts_ns"]) == (right_ns, right_ns), "bought in a future that never came"
    assert market.entitlements.of("sums", True) == {USER, OTHER}
    assert not market("market.clock", accept=True, reason="again")["accepted"]
    report = market("billing.report", month="2026-10")
    assert [line["kind"] for line in report["lines"]] == ["sale"] * 3


def test_a_month_that_was_closed_says_so_before_the_ledger_is_read(
        market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    market.now_ns = at("2026-10-02")
    market("billing.close", month="2026-09")

    def read(*_: Any) -> Any:
        raise AssertionError("a month of the ledger was read for an answer that is known")

    monkeypatch.setattr(market.shop, "usage", read)
    monkeypatch.setattr(market.shop, "check_ledger", read)
    refused(market, "month_closed", "billing.close", month="2026-09")
    refused(market, "month_not_over", "billing.close", month="2026-10")
    assert market("billing.report", month="2026-09")["status"] == "closed"


def test_what_was_paid_for_ends_in_time_also_while_the_store_cannot_be_read(
        market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    support = {"contact": "help@acme.example", "responseHours": 12}
    market.publish(write_bundle(tmp_path / "sums", pricing=PAID, support=support))
    bought = market("market.buy", plugin="sums", userId=USER, key="k1")
    assert market.entitlements.of("sums", True) == {USER}

    def down(*_: Any) -> Any:
        raise Refusal("store_unusable", "the market store cannot be used")

    monkeypatch.setattr(market.shop, "read", down)
    for now_ns, users in ((bought["ends_ns"] - 1, {USER}), (bought["ends_ns"], set())):
        market.now_ns = now_ns
        with pytest.raises(Refusal):
            market.entitlements.sweep(market.context)
        assert market.entitlements.of("sums", True) == users


def test_a_plugin_that_was_signed_once_is_not_taken_from_another_key(market: Market, tmp_path: Path) -> None:
    from apex_exec.registry.bundles.bundle import pack, read_folder
    from apex_exec.registry.trust import keyring
    from apex_exec.registry.trust.signing import load_private, new_key, sign_digest, write_signatures

    folder = write_bundle(tmp_path / "sums")
    keys = {}
    for name in ("acme", "mallory"):
        keys[name] = load_private(new_key(tmp_path / "keys", name)[0])
        market.store.transact(lambda db, name=name: keyring.register(  # type: ignore[misc]  # bound at once
            db, name=name, role="author", owner=name, public_key=raw_public(keys[name]).hex(), days=365, uid=0,
            now_ns=market.now_ns))

    def signed(name: str) -> str:
        bundle = read_folder(folder)
        signature = sign_digest(keys[name], "author", bundle.digest, market.now_ns)
        return base64.b64encode(pack(bundle, write_signatures([signature]))).decode()

    shown = market("market.submit", bundle=signed("acme"), submitter="ann")
    market("market.approve", submission=shown["id"], reviewer="rita", reason="fine", digest=shown["digest"],
           checklist=ALL)
    market("market.publish", submission=shown["id"], publisher="olga")
    published = (market.shop.public / "bundles" / f"{shown['digest']}.apx").read_bytes()
    kept = [one.role for one in read_signatures(unpack(published)[1])]
    assert kept == ["author", "market"], "the author's signature is kept"
    write_bundle(folder, version="1.0.1")
    refused(market, "author_key_changed", "market.submit", bundle=signed("mallory"), submitter="mallory")
    refused(market, "author_key_changed", "market.submit", path=str(folder), submitter="ann")
    assert market("market.submit", bundle=signed("acme"), submitter="ann")["state"] == "in_review"


def test_enterprise_work_is_billed_once_at_half_margin_and_belongs_to_the_platform(market: Market) -> None:
    order = {"customer": "initech", "title": "Forecasts", "cost": 1_000_000, "key": "c1"}
    assert market("billing.enterprise", **order)["price"] == 2_000_000
    assert market("billing.enterprise", **order)["price"] == 2_000_000
    refused(market, "idempotency_conflict", "billing.enterprise", **order | {"cost": 5})
    for change, expected in (({"cost": -1}, "amount_invalid"), ({"cost": 10**12}, "amount_invalid"),
                             ({"currency": "XXX"}, "unknown_currency"), ({"title": " "}, "title_missing"),
                             ({"customer": ""}, "customer_invalid")):
        refused(market, expected, "billing.enterprise", **order | {"key": "c2"} | change)
    found = market("billing.report", month="2026-10")
    assert [(line["kind"], line["customer_minor"], line["platform_minor"]) for line in found["lines"]] == [
        ("enterprise", 2_000_000, 2_000_000)]
    assert market("billing.report", month="2026-10", customer="initech")["due"] == {"USD": 2_000_000}
