"""A release in stages that fails more often than the version before it is halted: nobody gets it, and somebody decides.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from apex_exec.errors import Refusal
from apex_exec.market.releases import watching
from apex_exec.market.releases.figures import bring_up_to_date, by_version, percentile_ms, time_class
from apex_exec.market.shop.index import Entry, find
from tests.market.staging import Operator


@pytest.fixture
def operator(tmp_path: Path, url: str) -> Iterator[Operator]:
    made = Operator(tmp_path, url if url.startswith("postgresql") else "")
    yield made
    made.close()


def begin(operator: Operator, good: int = 200, bad: int = 2) -> dict[str, object]:
    """1.0.0 was called for a while; 1.1.0 is at a quarter of the customers, and served here."""
    operator.publish(operator.approved("1.0.0")["id"])
    operator.install("1.0.0")
    operator.call(good, bad)
    new = operator.approved("1.1.0")
    operator.publish(new["id"], 25)
    operator.install("1.1.0")
    return new


def state(operator: Operator, version: str = "1.1.0") -> str:
    shown = operator.market("market.show", plugin="sums")
    return str({one["version"]: one["state"] for one in shown["versions"]}[version])


def entry(operator: Operator, version: str = "1.1.0") -> Entry:
    index = operator.market.shop.read(lambda db: operator.market.shop.current(db, operator.market.now_ns))
    return find(index, "sums", version)


def test_a_release_that_fails_more_often_is_halted_recorded_and_said_to_its_author(operator: Operator) -> None:
    new = begin(operator)
    operator.call(19)
    operator.look()
    assert state(operator) == "staged", "too few calls"
    operator.call(10, 15)
    operator.look()
    assert state(operator) == "halted" and entry(operator).state == "halted"
    (halted,) = [one for one in operator.audited if one[1] == "market.halted"]
    assert halted[0] == "sums" and halted[2].items() >= {
        "version": "1.1.0", "calls": 44, "failures": 15, "callsBefore": 202, "failuresBefore": 2, "own": True}.items()
    assert halted[2]["likelihood"] <= halted[2]["allowed"] < 0.01
    assert operator.measured["market_halts_total"] == 1 and operator.measured["market_halted_served"] == 1
    (mine,) = [one for one in operator.market("market.mine", submitter="ann")["submissions"] if one["id"] == new["id"]]
    assert (mine["state"], mine["by"]) == ("halted", "market")
    assert "at 25 % of the customers, 15 of 44 calls failed, 2 of 202 of the version before it" in mine["reason"]
    operator.look()
    assert len([one for one in operator.audited if one[1] == "market.halted"]) == 1, "once"


def test_a_release_that_is_no_worse_goes_on_and_then_is_not_watched_for_ever(operator: Operator) -> None:
    new = begin(operator, 180, 20)
    operator.call(450, 50)
    operator.look()
    assert operator.publish(int(str(new["id"])), 100)["state"] == "published"
    operator.market.now_ns += 8 * 86_400 * 10**9
    operator.call(0, 400)
    operator.look()
    assert state(operator) == "published", "its week is over: what fails now has other causes"


def test_what_reached_everybody_is_watched_for_a_week(operator: Operator) -> None:
    new = begin(operator)
    operator.call(30)
    operator.publish(int(str(new["id"])), 100)
    operator.call(0, 40)
    operator.look()
    assert state(operator) == "halted"


@pytest.mark.parametrize("code", ["DEADLINE_EXCEEDED", "OVERLOADED", "CANCELLED", "INVALID_INPUT", "AUDIT_UNAVAILABLE"])
def test_what_is_not_the_plugins_fault_halts_nothing(operator: Operator, code: str) -> None:
    begin(operator)
    operator.call(20, 60, code)
    operator.look()
    assert state(operator) == "staged"


def test_a_halted_release_is_installed_nowhere_and_goes_to_no_other_stage(operator: Operator) -> None:
    new = begin(operator)
    operator.call(10, 15)
    operator.look()
    assert operator.served() == "1.1.0", "the policy is to keep it"
    operator.stage.run("plugin.rollback", id="sums")
    for do in (lambda: operator.install("1.1.0"), lambda: operator.publish(int(str(new["id"])), 50),
               lambda: operator.stage.run("plugin.rollback", id="sums", version="1.1.0")):
        with pytest.raises(Refusal) as caught:
            do()
        assert caught.value.reason == "release_halted"
    assert operator.served() == "1.0.0"
    operator.stage.run("plugin.remove", id="sums")
    operator.stage.served.clear()
    with pytest.raises(Refusal) as caught:
        operator.install("1.1.0")
    assert caught.value.reason == "release_halted"
    operator.install("1.0.0")


def test_what_is_halted_while_it_is_being_installed_is_not_served(operator: Operator) -> None:
    operator.publish(operator.approved("1.0.0")["id"])
    operator.install("1.0.0")
    operator.publish(operator.approved("1.1.0")["id"], 25)

    def halt(point: str) -> None:
        if point == "canary-passed":
            operator.market("market.halt", plugin="sums", actor="olga", reason="totals are wrong")

    operator.stage.change(at_point=halt)
    with pytest.raises(Refusal) as caught:
        operator.install("1.1.0")
    assert caught.value.reason == "release_halted" and "totals are wrong" in caught.value.message
    assert operator.served() == "1.0.0"


def test_where_the_operator_says_so_the_plugin_goes_back_to_the_version_before(tmp_path: Path) -> None:
    operator = Operator(tmp_path, policy="go_back")
    begin(operator)
    operator.stage.fails["canary"] = Refusal("boot_failed", "no worker")
    operator.call(10, 15)
    operator.look()
    assert operator.served() == "1.1.0" and state(operator) == "halted", "its trial failed: it stays"
    del operator.stage.fails["canary"]
    operator.look()
    assert operator.served() == "1.1.0", "not tried again at once"
    operator.market.seconds += watching.BACK_AGAIN_SECONDS
    operator.look()
    assert operator.served() == "1.0.0"
    assert [one[2]["to"] for one in operator.audited if one[1] == "market.went_back"] == ["1.0.0"]
    assert operator.measured["market_halted_served"] == 0
    operator.close()


def test_only_a_person_resumes_it_and_what_failed_before_does_not_count_again(operator: Operator) -> None:
    begin(operator)
    operator.call(10, 15)
    operator.look()
    market, named = operator.market, {"plugin": "sums", "actor": "olga"}
    for reason, args in (("reason_missing", {**named, "reason": " "}),
                         ("release_unknown", {**named, "version": "9.0.0", "reason": "y"}),
                         ("release_unknown", {**named, "plugin": "other", "reason": "y"})):
        with pytest.raises(Refusal) as caught:
            market("market.resume", **args)
        assert caught.value.reason == reason
    done = market("market.resume", **named, reason="the host was at fault")
    assert (done["state"], done["percent"]) == ("staged", 25) and state(operator) == "staged"
    with pytest.raises(Refusal) as caught:
        market("market.resume", **named, reason="again")
    assert caught.value.reason == "release_not_halted"
    operator.look()
    operator.call(15)
    operator.look()
    assert state(operator) == "staged" and operator.watching.halted(entry(operator).digest) == ""
    operator.call(0, 25)
    operator.look()
    assert state(operator) == "halted", "it is watched again"
    market("market.resume", **named, reason="mended")
    assert market("market.halt", **named, reason="it is not")["reason"] == "it is not"
    assert state(operator) == "halted" and market("market.halt", **named, reason="twice")["reason"] == "it is not"


def test_figures_that_cannot_be_had_let_no_release_go_on_and_halt_it_after_a_while(
        operator: Operator) -> None:
    new = begin(operator)
    operator.call(30)
    operator.ledger.close()
    path = operator.market.shop.ledger
    shutil.copy(path, path.with_suffix(".kept"))
    for name in ("audit.db", "audit.db-wal", "audit.db-shm"):
        (path.parent / name).unlink(missing_ok=True)
    path.write_bytes(b"this is not a database, and never was" * 100)
    with pytest.raises(Refusal) as caught:
        operator.publish(int(str(new["id"])), 50)
    assert caught.value.reason == "figures_unknown"
    operator.look()
    assert state(operator) == "staged", "it may be over in a moment"
    operator.market.seconds += watching.UNKNOWN_SECONDS
    operator.look()
    assert state(operator) == "halted" and "could not be counted" in operator.audited[-1][2]["reason"]


def test_calls_belong_to_the_version_that_was_served_when_they_began(operator: Operator) -> None:
    begin(operator, 200, 2)
    operator.call(1, run_ms=60_000.0)  # it began before the upgrade, and ended after it
    operator.call(37, 3, "TIMEOUT", run_ms=40.0)
    steps = 1
    while not bring_up_to_date(operator.market.shop, operator.context.store, 50):
        steps += 1
    assert steps == 5, "243 calls, 50 at a time"
    found = {one.version: one for one in operator.market.shop.read(lambda db: by_version(db, ["sums"]))}
    assert found["1.0.0"].figures.codes == {"": 201, "PLUGIN_ERROR": 2} and found["1.0.0"].installs == 0
    assert found["1.1.0"].figures.codes == {"": 37, "TIMEOUT": 3} and found["1.1.0"].installs == 1
    middle = percentile_ms(found["1.1.0"].figures.times, 0.5)
    assert middle is not None and 40 <= middle < 50
    assert percentile_ms({}, 0.5) is None and time_class(0.0) == 0 == time_class(0.1)
    before = msgspec.to_builtins(found["1.1.0"])
    operator.look()
    again = {one.version: one for one in operator.market.shop.read(lambda db: by_version(db, ["sums"]))}
    assert msgspec.to_builtins(again["1.1.0"]) == before, "nothing is counted twice"
