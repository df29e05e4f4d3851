"""A release in stages: who is offered it, what its price does meanwhile, who has to wait."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from apex_exec.core.staged_release import is_offered
from apex_exec.errors import Refusal
from apex_exec.market.review.states import CHECKLIST
from apex_exec.market.shop.index import NAME, find, open_index, search
from apex_exec.registry.trust import keyring
from apex_exec.registry.trust.signing import key_id_of, raw_public
from tests.market.shops import PAID, USER, Market, write_bundle

CUSTOMERS = [f"customer {number}" for number in range(200)]
SUPPORT = {"contact": "help@acme.example", "responseHours": 24}


@pytest.fixture
def market(tmp_path: Path, url: str) -> Iterator[Market]:
    made = Market(tmp_path, url)
    made.store.transact(lambda db: keyring.register(
        db, name="market", role="market", owner="us", public_key=raw_public(made.shop.key()).hex(), days=365, uid=0,
        now_ns=made.now_ns))
    yield made
    made.close()


def approved(market: Market, folder: Path, **change: Any) -> dict[str, Any]:
    shown: dict[str, Any] = market("market.submit", path=str(write_bundle(folder, **change)), submitter="ann")
    market("market.approve", submission=shown["id"], reviewer="rita", reason="read it", digest=shown["digest"],
           checklist=list(CHECKLIST))
    return shown


def publish(market: Market, submission: int, percent: int = 0) -> dict[str, Any]:
    done: dict[str, Any] = market("market.publish", submission=submission, publisher="olga", percent=percent)
    return done


def refused(expected: str, market: Market, op: str, **args: Any) -> str:
    with pytest.raises(Refusal) as caught:
        market(op, **args)
    assert caught.value.reason == expected
    return caught.value.message


def offered(market: Market, version: str = "") -> dict[str, str]:
    """customer → the version of ``sums`` that the published index offers it; "" for none."""
    key = market.shop.key()
    index, _ = open_index((market.shop.public / NAME).read_bytes(), {
        key_id_of(raw_public(key)): raw_public(key).hex()}, market.now_ns, None)
    found = {}
    for customer in CUSTOMERS:
        try:
            found[customer] = find(index, "sums", version, customer).version
        except Refusal as error:
            assert error.reason in ("release_not_offered", "release_halted")
            found[customer] = ""
        assert [entry.version for entry in search(index, "sums", customer)] == [found[customer]] * bool(
            found[customer]) or version
    return found


def test_a_release_reaches_its_share_and_the_others_keep_the_version_before_it(market: Market, tmp_path: Path) -> None:
    market.publish(write_bundle(tmp_path / "one"))
    new = approved(market, tmp_path / "two", version="1.1.0")
    before: set[str] = set()
    for percent in (5, 25, 60):
        done = publish(market, new["id"], percent)
        assert (done["state"], done["percent"]) == ("staged", percent)
        found = offered(market)
        new_ones = {customer for customer, version in found.items() if version == "1.1.0"}
        assert new_ones == {one for one in CUSTOMERS if is_offered(new["digest"], one, percent)}
        assert before < new_ones and set(found.values()) == {"1.0.0", "1.1.0"}
        asked = offered(market, "1.1.0")
        assert {customer for customer, version in asked.items() if version} == new_ones, "by its name neither"
        before = new_ones
        assert market("market.search", words="sums")[0]["version"] == "1.0.0" == market(
            "market.show", plugin="sums")["version"], "what everybody is offered speaks for the plugin"
    refused("percent_not_greater", market, "market.publish", submission=new["id"], publisher="olga", percent=60)
    assert publish(market, new["id"], 100)["state"] == "published"
    assert set(offered(market).values()) == {"1.1.0"}
    refused("percent_not_greater", market, "market.publish", submission=new["id"], publisher="olga")
    moves = [(move["to_state"], move["reason"]) for move in market("market.status", submission=new["id"])["moves"]]
    assert moves[-2:] == [("staged", "offered to 5 % of the customers"), ("published", "published")]


def test_a_first_version_in_a_stage_is_offered_to_nobody_else(market: Market, tmp_path: Path) -> None:
    new = approved(market, tmp_path / "one")
    publish(market, new["id"], 25)
    assert offered(market) == {one: "1.0.0" if is_offered(new["digest"], one, 25) else "" for one in CUSTOMERS}
    assert market("market.show", plugin="sums")["versions"] == [
        {"version": "1.0.0", "state": "staged", "percent": 25}]
    assert [row["id"] for row in market("market.search", words="sums")] == ["sums"], "the marketplace's own view"
    assert publish(market, new["id"])["percent"] == 100, "without a share, everybody"


def test_a_price_changes_when_the_release_has_reached_everybody(market: Market, tmp_path: Path) -> None:
    dear = {**PAID, "amount": 2995}
    market.publish(write_bundle(tmp_path / "one", pricing=PAID, support=SUPPORT))
    new = approved(market, tmp_path / "two", version="1.1.0", pricing=dear, support=SUPPORT)
    publish(market, new["id"], 5)
    market.now_ns += 10**9
    assert market("market.buy", plugin="sums", userId=USER, key="k1")["gross"] == 1995
    publish(market, new["id"], 100)
    assert [one["amount"] for one in market("market.show", plugin="sums")["prices"]] == [1995, 2995]


def test_nothing_else_can_be_put_into_a_stage(market: Market, tmp_path: Path) -> None:
    market.publish(write_bundle(tmp_path / "one"))
    published = market("market.status", plugin="sums")["id"]
    refused("invalid_transition", market, "market.publish", submission=published, publisher="olga", percent=5)
    refused("invalid_transition", market, "market.publish", submission=published, publisher="olga")
    waiting = market("market.submit", path=str(write_bundle(tmp_path / "two", version="1.1.0")), submitter="ann")
    refused("invalid_transition", market, "market.publish", submission=waiting["id"], publisher="olga", percent=5)
    for percent in (-1, 101):
        with pytest.raises(msgspec.ValidationError):
            publish(market, waiting["id"], percent)


def test_an_index_with_a_state_that_is_not_known_here_offers_it_to_nobody(market: Market, tmp_path: Path) -> None:
    market.publish(write_bundle(tmp_path / "one"))
    index = market.shop.read(lambda db: market.shop.current(db, market.now_ns))
    later = msgspec.structs.replace(index, plugins=[
        msgspec.structs.replace(entry, state="later") for entry in index.plugins])
    with pytest.raises(Refusal) as caught:
        find(later, "sums", "", "a customer")
    assert caught.value.reason == "release_halted" and search(later, "", "a customer") == []


def test_a_daemon_is_the_same_customer_for_good(market: Market, tmp_path: Path) -> None:
    first = market.shop.customer
    other = Market(tmp_path / "elsewhere", f"sqlite:///{tmp_path}/other.db")
    assert len(first) == 32 and other.shop.customer != first
    again = Market(tmp_path, market.settings.market.url)
    assert again.shop.customer == first
    other.close()
    again.close()
