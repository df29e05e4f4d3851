"""A review is somebody's: of the key that signed it, where approvers' keys are registered; never the author's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.errors import Refusal
from apex_exec.market.review.reviewers import SLACK_NS, Statement, signed_message
from apex_exec.market.review.states import CHECKLIST
from apex_exec.registry.bundles.bundle import pack, read_path
from apex_exec.registry.trust import keyring
from apex_exec.registry.trust.signing import (
    key_id_of,
    load_private,
    new_key,
    raw_public,
    sign_digest,
    verify_bytes,
    write_signatures,
)
from tests.market.shops import Market, write_bundle


class Signer:
    """A key pair, registered in a role."""

    def __init__(self, market: Market, folder: Path, name: str, role: str, owner: str = "") -> None:
        self.market, self.name = market, name
        self.private = load_private(new_key(folder, name)[0])
        self.public = raw_public(self.private)
        self.key_id = key_id_of(self.public)
        market.store.transact(lambda db: keyring.register(
            db, name=name, role=role, public_key=self.public.hex(), owner=owner or name, days=90, uid=1000,
            now_ns=market.now_ns))

    def decide(self, shown: dict[str, Any], decision: str = "approved", **change: Any) -> dict[str, str]:
        """A signed decision, as the command line makes it; ``change`` alters what is signed."""
        asked = {"submission": shown["id"], "digest": shown["digest"], "decision": decision, "reason": "read it",
                 "uid": 1000, "key_id": self.key_id, "at_ns": self.market.now_ns} | change
        text = Statement(**asked).text()
        return {"statement": text, "signature": self.private.sign(signed_message(text)).hex()}


@pytest.fixture
def market(url: str, tmp_path: Path) -> Iterator[Market]:
    made = Market(tmp_path, url)
    yield made
    made.close()


@pytest.fixture
def shown(market: Market, tmp_path: Path) -> dict[str, Any]:
    """A submission in review, signed by the author's registered key."""
    author = Signer(market, tmp_path / "keys", "acme-laptop", "author", "ACME Corp")
    bundle, _ = read_path(write_bundle(tmp_path / "sums"))
    signatures = write_signatures([sign_digest(author.private, "author", bundle.digest, market.now_ns)])
    found: dict[str, Any] = market("market.submit", bundle=pack(bundle, signatures), submitter="ann")
    assert found["state"] == "in_review" and found["author_key"] == author.key_id
    return found


def approve(market: Market, shown: dict[str, Any], reviewer: str, **signed: str) -> Any:
    return market("market.approve", submission=shown["id"], reviewer=reviewer, reason="read it",
                  digest=shown["digest"], checklist=list(CHECKLIST), **signed)


def refused(reason: str, call: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    with pytest.raises(Refusal) as caught:
        call(*arguments, **named)
    assert caught.value.reason == reason, caught.value


def test_a_signed_decision_is_taken_from_its_signer_alone_and_kept(
        market: Market, shown: dict[str, Any], tmp_path: Path) -> None:
    rita = Signer(market, tmp_path / "keys", "rita", "approver")
    mallory = Signer(market, tmp_path / "keys", "mallory", "author")
    refused("decision_unsigned", approve, market, shown, "rita")
    refused("reviewer_not_signer", approve, market, shown, "bob", **rita.decide(shown))
    refused("not_an_approver", approve, market, shown, "mallory", **mallory.decide(shown))
    refused("signature_invalid", approve, market, shown, "rita", statement=rita.decide(shown)["statement"],
            signature=mallory.decide(shown)["signature"])
    refused("statement_malformed", approve, market, shown, "rita", **{**rita.decide(shown), "statement": "{}"})
    for change in ({"submission": 99}, {"digest": "0" * 64}, {"decision": "rejected"}, {"reason": "other"}, {"uid": 7}):
        refused("statement_differs", approve, market, shown, "rita", **rita.decide(shown, **change))
    for late_ns in (-SLACK_NS - 1, SLACK_NS + 1):
        refused("statement_stale", approve, market, shown, "rita", **rita.decide(shown, at_ns=market.now_ns + late_ns))
    assert market("market.status", submission=shown["id"])["state"] == "in_review", "none of them moved it"
    signed = rita.decide(shown)
    done = approve(market, shown, "Rita", **signed)
    assert done["state"] == "approved" and done["decisions"] == [{"keyId": rita.key_id, **signed}]
    assert verify_bytes(rita.public.hex(), signed_message(signed["statement"]), signed["signature"])


def test_nobody_who_had_a_part_in_it_reviews_whatever_the_name(
        market: Market, shown: dict[str, Any], tmp_path: Path) -> None:
    for name in ("acme corp", "Ann", "acme-laptop"):  # the author, the submitter, the key that signed the bundle
        refused("reviewer_is_author", approve, market, shown, name)
    other = Signer(market, tmp_path / "keys", "independent", "approver", "ACME  corp")
    refused("reviewer_is_author", approve, market, shown, "independent", **other.decide(shown))
    ann = Signer(market, tmp_path / "keys", "reviewer-7", "approver", "ann")
    refused("reviewer_is_author", approve, market, shown, "reviewer-7", **ann.decide(shown))


def test_a_revoked_approvers_key_decides_nothing_and_opens_no_other_way(
        market: Market, shown: dict[str, Any], tmp_path: Path) -> None:
    rita = Signer(market, tmp_path / "keys", "rita", "approver")
    market.store.transact(lambda db: keyring.revoke(db, keyring.find(db, "rita")[0], "left", market.now_ns))
    refused("key_revoked", approve, market, shown, "rita", **rita.decide(shown))
    refused("decision_unsigned", approve, market, shown, "rita")


def test_where_no_approver_was_ever_registered_the_name_has_to_do(market: Market, shown: dict[str, Any]) -> None:
    done = approve(market, shown, "rita")
    assert done["state"] == "approved" and done["decisions"] == []
