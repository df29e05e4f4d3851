"""A daemon that follows an index judges a release in a stage by its own calls, and goes back if it is configured to."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from apex_exec.client import CallError, Client
from apex_exec.ledger.reading import read_events
from apex_exec.market.money.pricing import Price
from apex_exec.market.shop.index import NAME, Entry, Index, seal
from apex_exec.registry.bundles.bundle import Bundle, pack
from apex_exec.registry.trust.signing import load_private, new_key, raw_public
from tests.market.test_following import HOUR_NS, admin, install
from tests.support.bundles import bundle
from tests.support.daemon import USER, Daemon, wait_for

FAILS = '''from workers import Plugin

plugin = Plugin(id="sample", version="1.1.0", permissions=["ui:render"])


@plugin.hook("onDashboardLoad")
def on_dashboard_load(params: dict) -> dict:
    if params["dashboardId"] == "real":
        raise KeyError("alice@example.com")
    return {"customWidgets": []}
'''


def write_index(folder: Path, version: int, states: dict[str, str], made: list[Bundle]) -> None:
    """An index that offers each version as ``states`` says, a staged one to everybody."""
    now_ns = time.time_ns()
    entries = [Entry("sample", one.manifest.version, one.digest, "0" * 64, 1, "Sample", "ACME",
                     states[one.manifest.version], Price("free")) for one in made]
    folder.mkdir(exist_ok=True)
    private = load_private(folder / "keys" / "market.key")
    new = folder / ".new"
    new.write_bytes(seal(Index(version, now_ns, now_ns + HOUR_NS, entries), private))
    new.rename(folder / NAME)


def call(daemon: Daemon, times: int) -> set[str]:
    """The codes of this number of calls; "" is a result."""
    codes = set()
    with Client(daemon.endpoint) as client:
        for _ in range(times):
            try:
                client.invoke("sample", "onDashboardLoad", USER, {"dashboardId": "real"})
                codes.add("")
            except CallError as error:
                codes.add(str(error.code))
    return codes


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_what_fails_here_is_halted_here_and_the_plugin_goes_back(tmp_path: Path) -> None:
    place = tmp_path / "place"
    private = load_private(new_key(place / "keys", "market")[0])
    old, new = bundle(), bundle(code=FAILS, version="1.1.0")
    write_index(place, 1, {"1.0.0": "published", "1.1.0": "staged"}, [old, new])
    with Daemon(plugins=None, config={"market.index": str(place), "market.refresh_seconds": 1,
                                      "market.halted": "go_back"}) as daemon:
        admin(daemon, "keys.register", name="market", role="market", public_key=raw_public(private).hex())
        install(daemon, pack(old))
        wait_for(lambda: daemon.metric('market_index_refreshes_total{outcome="ok"}') > 0, 20, "a look at the index")
        assert call(daemon, 40) == {""}
        assert admin(daemon, "plugin.upgrade", bundle=pack(new))["version"] == "1.1.0"
        assert call(daemon, 40) == {"PLUGIN_ERROR"}
        wait_for(lambda: admin(daemon, "plugin.show", id="sample")["version"] == "1.0.0", 60, "the way back")
        assert call(daemon, 5) == {""}
        daemon.wait_metric("market_halts_total", 1, 20)
        with pytest.raises(CallError) as caught:
            admin(daemon, "plugin.upgrade", bundle=pack(new))
        assert caught.value.details["reason"] == "release_halted"
        admin(daemon, "market.resume", plugin="sample", reason="the host was at fault", actor="olga")
        assert admin(daemon, "plugin.upgrade", bundle=pack(new))["version"] == "1.1.0"
        write_index(place, 2, {"1.0.0": "published", "1.1.0": "halted"}, [old, new])
        wait_for(lambda: admin(daemon, "plugin.show", id="sample")["version"] == "1.0.0", 60, "the way back again")
        daemon.stop()
        found = {event.action: event.metadata for event in read_events(daemon.state / "audit.db")
                 if event.resource == "sample" and event.event_type == "admin.action"}
    assert found["market.halted"].items() >= {"version": "1.1.0", "calls": 40, "failures": 40, "callsBefore": 40,
                                              "failuresBefore": 0, "own": False}.items()
    assert found["market.went_back"].items() >= {"version": "1.1.0", "to": "1.0.0", "reason": "by the marketplace"
                                                 }.items()
