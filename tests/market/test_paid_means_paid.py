"""A paid plugin is served to who has paid, and to nobody else, whatever brought it into service."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client import AdminClient, CallError, Client
from apex_exec.config import load_settings
from apex_exec.market.money.pricing import Price
from apex_exec.market.review import submissions as subs
from apex_exec.market.shop.storefront import Shop
from apex_exec.registry.bundles.bundle import pack
from tests.support.bundles import bundle
from tests.support.daemon import Daemon, wait_for

PAYS, PAYS_NOT = "11111111-2222-4333-8444-555555555555", "22222222-2222-4333-8444-555555555555"
PRICING = {"pricing": {"model": "subscription", "amount": 500, "currency": "USD", "interval": "month"},
           "support": {"contact": "help@acme.example", "responseHours": 24}}
FREE = Price("free")
PAID = Price("subscription", 500, "USD", "month")


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon(plugins=None) as running:
        yield running


def admin(daemon: Daemon, op: str, **args: Any) -> Any:
    with AdminClient(daemon.admin) as client:
        return client.request(op, args, 60_000)


def served(daemon: Daemon, user: str) -> str:
    with Client(daemon.endpoint) as client:
        try:
            client.invoke("sample", "onDashboardLoad", user, {"dashboardId": "d"})
        except CallError as error:
            return f"{error.code} {error.details.get('reason')}"
    return "ok"


def offer(daemon: Daemon, version: str, price: Price) -> None:
    """Puts a version on the market, as a review and ``market publish`` would, but for the bytes."""
    settings = load_settings(None, {"state_dir": str(daemon.state)})
    shop = Shop(settings, time.time_ns)

    def work(db: Any, now_ns: int) -> None:
        made = subs.submit(db, now_ns, plugin="sample", version=version, digest=version.replace(".", "0") * 12,
                           author="ACME Corp", submitter="ann", uid=0, price=price)
        for state in ("scanning", "in_review", "approved", "published"):
            subs.move(db, now_ns, made.id, state, actor="x", uid=0, reason="x")
        subs.set_price(db, now_ns, "sample", price)

    shop.change(work)
    shop.close()


NOT = "PLUGIN_DISABLED not_entitled"


def expect(daemon: Daemon, pays: str, pays_not: str) -> None:
    wait_for(lambda: (served(daemon, PAYS), served(daemon, PAYS_NOT)) == (pays, pays_not), 5,
             f"{pays} / {pays_not}, not {served(daemon, PAYS)} / {served(daemon, PAYS_NOT)}")


@pytest.mark.parametrize("everybody", [True, False], ids=["for everybody", "for each"])
@pytest.mark.slow
def test_an_upgrade_to_a_paid_version_a_rollback_and_a_restart_serve_only_who_has_paid(
        daemon: Daemon, everybody: bool) -> None:
    admin(daemon, "plugin.install", bundle=pack(bundle(version="0.9.0")))
    for user in (None,) if everybody else (PAYS, PAYS_NOT):
        admin(daemon, "plugin.enable", id="sample", user=user)
    assert served(daemon, PAYS) == served(daemon, PAYS_NOT) == "ok"
    admin(daemon, "plugin.upgrade", bundle=pack(bundle(version="1.0.0", **PRICING)))
    assert served(daemon, PAYS) == served(daemon, PAYS_NOT) == NOT, "at once, not at the next sweep"
    with Client(daemon.endpoint) as client:
        assert client.plugins(PAYS_NOT) == []
    offer(daemon, "1.0.0", PAID)
    assert admin(daemon, "market.buy", plugin="sample", userId=PAYS, key="k1")["gross"] == 500
    if not everybody:  # what nobody paid for has ended meanwhile, and is enabled anew
        admin(daemon, "plugin.enable", id="sample", user=PAYS)
        with pytest.raises(CallError) as caught:
            admin(daemon, "plugin.enable", id="sample", user=PAYS_NOT)
        assert caught.value.details["reason"] == "not_entitled"
    expect(daemon, "ok", NOT)
    daemon.stop()
    daemon.start()
    assert (served(daemon, PAYS), served(daemon, PAYS_NOT)) == ("ok", NOT), "from the first moment"
    offer(daemon, "1.1.0", FREE)
    admin(daemon, "plugin.upgrade", bundle=pack(bundle(version="1.1.0")))
    if everybody:
        expect(daemon, "ok", "ok")
    admin(daemon, "plugin.rollback", id="sample")
    expect(daemon, "ok", NOT)
    admin(daemon, "market.refund", purchase="k1", key="r1", reason="no use")
    assert served(daemon, PAYS) == NOT


@pytest.mark.slow
def test_a_price_set_by_the_marketplace_holds_for_what_is_enabled_already(daemon: Daemon) -> None:
    offer(daemon, "1.0.0", FREE)
    admin(daemon, "plugin.install", bundle=pack(bundle()))
    admin(daemon, "plugin.enable", id="sample")
    assert served(daemon, PAYS) == served(daemon, PAYS_NOT) == "ok"
    offer(daemon, "1.1.0", PAID)
    admin(daemon, "market.buy", plugin="sample", userId=PAYS, key="k1")
    expect(daemon, "ok", NOT)


@pytest.mark.slow
def test_a_paid_plugin_is_served_to_nobody_while_the_market_cannot_be_read(daemon: Daemon) -> None:
    offer(daemon, "1.0.0", PAID)
    admin(daemon, "plugin.install", bundle=pack(bundle(**PRICING)))
    admin(daemon, "market.buy", plugin="sample", userId=PAYS, key="k1")
    admin(daemon, "plugin.enable", id="sample", user=PAYS)
    assert served(daemon, PAYS) == "ok"
    daemon.stop()
    store = daemon.state / "market.db"
    for path in daemon.state.glob("market.db*"):
        path.rename(Path(f"{path}.away"))
    store.write_bytes(b"this is no database, and it is longer than one page" * 100)
    daemon.start()
    assert served(daemon, PAYS) == NOT
    assert "paid plugins are served to nobody" in daemon.log
