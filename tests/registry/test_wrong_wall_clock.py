"""A wall clock that is wrong for a while ends no approval and no purchase for good, and makes none last longer."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client import AdminClient, CallError, Client
from apex_exec.config import load_settings
from apex_exec.ledger.reading import read_events
from apex_exec.market.money.pricing import Price
from apex_exec.market.review import submissions as subs
from apex_exec.market.shop.storefront import Shop
from apex_exec.registry.bundles.bundle import pack
from apex_exec.registry.settled_clock import JUMP_NS, SETTLED_NS, SettledClock
from apex_exec.registry.trust import approvals
from apex_exec.registry.trust.approvals import Statement, signed_message
from apex_exec.registry.trust.signing import key_id_of, load_private, new_key, raw_public
from tests.registry.conftest import SECOND_NS, Stage
from tests.registry.test_approvals import ADMIN, Approver, bob  # noqa: F401 - a fixture
from tests.support.bundles import bundle
from tests.support.daemon import USER, Daemon, wait_for
from tests.support.wrong_clock import WrongClock

DAY = 86_400
JUMPS = [sign * size for size in (1, 3600, DAY, 40 * DAY, 400 * DAY, 50 * 365 * DAY) for sign in (1, -1)]
NOW_NS = 1_795_000_000 * SECOND_NS


@pytest.mark.parametrize("jump", [jump for jump in JUMPS if abs(jump) * SECOND_NS > JUMP_NS])
def test_a_clock_that_jumped_is_believed_when_it_has_gone_right_for_an_hour(jump: int) -> None:
    clock = SettledClock(NOW_NS, 0)
    shift = 0
    for second in range(4 * 3600):
        if second == 4000:
            shift = jump
        if second == 4005:
            shift = 0
        found = clock.sample(NOW_NS + (second + shift) * SECOND_NS, second * SECOND_NS)
        settled = 3600 <= second < 4000 or second >= 4005 + 3600
        assert found == (NOW_NS + second * SECOND_NS if settled else 0)
    assert SETTLED_NS == 3600 * SECOND_NS


@pytest.mark.parametrize("ahead", [jump for jump in JUMPS if jump > 60])
def test_an_approval_that_a_clock_ended_counts_again_even_if_it_was_asked_for_anew(
        stage: Stage, bob: Approver, ahead: int) -> None:  # noqa: F811 - the fixture
    settled = 0
    stage.change(settled_ns=lambda: settled)
    stage.install(bundle(**ADMIN))
    bob.decide(stage, expires_ns=stage.now_ns + 60 * SECOND_NS)
    stage.run("plugin.enable", id="sample")
    right = stage.now_ns
    stage.now_ns += ahead * SECOND_NS
    stage.context.store.transact(lambda db: approvals.expire(db, stage.context.over_ns()))
    stage.run("plugin.disable", id="sample")
    stage.run("plugin.enable", id="sample")
    assert stage.served["sample"].approved == ()
    asked = stage.run("plugin.request", id="sample", permission="admin:users")
    assert asked["state"] == "requested" and stage.run("plugin.request", id="sample", permission="admin:users") == asked
    stage.now_ns = right
    stage.run("plugin.disable", id="sample")
    stage.run("plugin.enable", id="sample")
    assert stage.served["sample"].approved == ("admin:users",)
    settled = stage.now_ns = right + 61 * SECOND_NS  # and now it is over indeed
    stage.context.store.transact(lambda db: approvals.expire(db, stage.context.over_ns()))
    stage.now_ns = right
    stage.run("plugin.disable", id="sample")
    stage.run("plugin.enable", id="sample")
    assert stage.served["sample"].approved == ()


def admin(daemon: Daemon, op: str, **args: Any) -> Any:
    with AdminClient(daemon.admin) as client:
        return client.request(op, args, 60_000)


def served(daemon: Daemon) -> str:
    with Client(daemon.endpoint) as client:
        try:
            client.invoke("sums", "onDashboardLoad", USER, {"dashboardId": "d"})
        except CallError as error:
            return str(error.details.get("reason") or error.code)
    return "ok"


def told(daemon: Daemon, action: str) -> bool:
    return any(event.action == action for event in read_events(daemon.state / "audit.db"))


def approved(daemon: Daemon) -> bool:
    return bool(admin(daemon, "plugin.show", id="boss")["approved"] == ["admin:users"])


def approve(daemon: Daemon, key: Any, plugin: str, lasts_ns: int) -> None:
    """Installs ``plugin`` with one permission, which is approved for ``lasts_ns``."""
    admin(daemon, "plugin.install", bundle=pack(bundle(id=plugin, permissions=["admin:users", "ui:render"]), b""))
    asked = admin(daemon, "plugin.request", id=plugin, permission="admin:users")
    text = Statement(asked["request"], plugin, asked["version"], asked["digest"], "admin:users", "approve", "ok",
                     os.getuid(), key_id_of(raw_public(key)), time.time_ns(), time.time_ns() + lasts_ns).text()
    admin(daemon, "plugin.approve", id=plugin, statement=text, signature=key.sign(signed_message(text)).hex())


@pytest.fixture
def clock(tmp_path: Path) -> WrongClock:
    return WrongClock(tmp_path)


@pytest.fixture
def daemon(clock: WrongClock, tmp_path: Path) -> Iterator[Daemon]:
    """One plugin with an approval of 30 days, one that a user has paid for until the month's end."""
    with Daemon(plugins=None, env=clock.environment) as running:
        private = load_private(new_key(tmp_path / "keys", "bob")[0])
        admin(running, "keys.register", name="bob", role="approver", public_key=raw_public(private).hex())
        approve(running, private, "boss", 30 * DAY * SECOND_NS)
        admin(running, "plugin.enable", id="boss")
        price = Price("subscription", 500, "USD", "month")
        shop = Shop(load_settings(None, {"state_dir": str(running.state)}), time.time_ns)

        def offer(db: Any, now_ns: int) -> None:
            made = subs.submit(db, now_ns, plugin="sums", version="1.0.0", digest="1" * 64, author="ACME Corp",
                               submitter="ann", uid=0, price=price)
            for state in ("scanning", "in_review", "approved", "published"):
                subs.move(db, now_ns, made.id, state, actor="x", uid=0, reason="x")
            subs.set_price(db, now_ns, "sums", price)

        shop.change(offer)
        shop.close()
        admin(running, "plugin.install", bundle=pack(bundle(
            id="sums", pricing={"model": "subscription", "amount": 500, "currency": "USD", "interval": "month"},
            support={"contact": "help@acme.example", "responseHours": 24}), b""))
        admin(running, "market.buy", plugin="sums", userId=USER, key="k")
        admin(running, "plugin.enable", id="sums", user=USER)
        yield running


@pytest.mark.slow
def test_seconds_of_a_wrong_clock_end_nothing_for_good(clock: WrongClock, daemon: Daemon) -> None:
    wait_for(lambda: served(daemon) == "ok" and approved(daemon), 10, "the beginning")
    for seconds in (400 * DAY, -50 * 365 * DAY):
        clock.set(seconds)
        wait_for(lambda: served(daemon) != "ok", 10, "the wrong clock")  # fail closed, in either direction
        if seconds > 0:
            wait_for(lambda: not approved(daemon) and told(daemon, "approval.expired"), 20, "the wrong clock")
        time.sleep(2.5)
        clock.set(0)
        wait_for(lambda: served(daemon) == "ok" and approved(daemon), 20, "the right clock")
        wait_for(lambda: told(daemon, "approval.resumed"), 20, "the record of it")


@pytest.mark.slow
@pytest.mark.parametrize("jump", JUMPS)
def test_a_start_with_a_wrong_clock_ends_nothing_for_good(clock: WrongClock, daemon: Daemon, jump: int) -> None:
    daemon.stop()
    clock.set(jump)
    daemon.start()
    time.sleep(2.5)
    clock.set(0)
    wait_for(lambda: served(daemon) == "ok" and approved(daemon), 15, "the right clock")
    clock.set(jump)
    time.sleep(2.5)
    clock.set(0)
    wait_for(lambda: served(daemon) == "ok" and approved(daemon), 15, "the right clock")
    daemon.stop()
    daemon.start()
    assert served(daemon) == "ok" and approved(daemon)


@pytest.mark.slow
def test_an_approval_that_begins_and_ends_between_two_looks_is_recorded_as_ended(tmp_path: Path) -> None:
    key = load_private(new_key(tmp_path / "keys", "bob")[0])
    with Daemon(plugins=None) as daemon:
        admin(daemon, "keys.register", name="bob", role="approver", public_key=raw_public(key).hex())
        for number in range(5):  # the registrar looks once a second
            approve(daemon, key, f"brief{number}", SECOND_NS // 5)
        ended = {f"brief{number}" for number in range(5)}
        wait_for(lambda: {event.resource for event in read_events(daemon.state / "audit.db")
                          if event.action == "approval.expired"} == ended, 10, "a record of each end")
