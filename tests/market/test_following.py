"""What a marketplace revokes stops in every daemon that follows its index; an index that is held back is noticed."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from apex_exec.client import AdminClient, CallError, Client
from apex_exec.config import load_settings
from apex_exec.market.money.pricing import Price
from apex_exec.market.review import submissions as subs
from apex_exec.market.shop.index import NAME, Entry, Index, seal
from apex_exec.market.shop.storefront import Shop
from apex_exec.registry.bundles.bundle import Bundle, pack
from apex_exec.registry.trust.signing import load_private, new_key, raw_public, sign_digest, write_signatures
from tests.support.bundles import bundle
from tests.support.daemon import USER, Daemon, wait_for

HOUR_NS = 3600 * 10**9
FAR_SECONDS = 3600


class Place:
    """A marketplace's published folder, as a mirror has it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir()
        self.private = load_private(new_key(folder / "keys", "market")[0])
        self.version = 0
        self.states: dict[str, str] = {}
        self.made: dict[str, Bundle] = {}

    def sell(self, made: Bundle) -> bytes:
        """Puts a bundle on the index; its bytes, signed by the marketplace."""
        self.made[made.manifest.id] = made
        self.states[made.manifest.id] = "published"
        self.write()
        return pack(made, write_signatures([sign_digest(self.private, "market", made.digest, time.time_ns())]))

    def write(self, lifetime_ns: int = HOUR_NS) -> bytes:
        self.version += 1
        now_ns = time.time_ns()
        entries = [Entry(id_, made.manifest.version, made.digest, "0" * 64, 1, id_, "ACME", self.states[id_],
                         Price("free")) for id_, made in self.made.items()]
        data = seal(Index(self.version, now_ns, now_ns + lifetime_ns, entries), self.private)
        temporary = self.folder / ".new"
        temporary.write_bytes(data)
        temporary.rename(self.folder / NAME)
        return data

    def revoke(self, id_: str) -> None:
        self.states[id_] = "revoked"
        self.write()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "place")


Start = Callable[..., Daemon]


@pytest.fixture
def start(place: Place) -> Iterator[Start]:
    running: list[Daemon] = []

    def begin(seconds: float = 1, **config: Any) -> Daemon:
        daemon = Daemon(plugins=None, config={
            "market.index": str(place.folder), "market.refresh_seconds": seconds, **config})
        running.append(daemon)
        admin(daemon, "keys.register", name="market", role="market", public_key=raw_public(place.private).hex())
        return daemon

    yield begin
    for daemon in running:
        with daemon:
            pass


def admin(daemon: Daemon, op: str, **args: Any) -> Any:
    with AdminClient(daemon.admin) as client:
        return client.request(op, args, 60_000)


def install(daemon: Daemon, data: bytes, id_: str = "sample") -> None:
    admin(daemon, "plugin.install", bundle=data)
    admin(daemon, "plugin.enable", id=id_)


def served(daemon: Daemon, id_: str = "sample") -> str:
    with Client(daemon.endpoint) as client:
        try:
            client.invoke(id_, "onDashboardLoad", USER, {"dashboardId": "d"})
        except CallError as error:
            return f"{error.code} {error.details.get('reason')}"
    return "ok"


@pytest.mark.slow
def test_what_the_index_revokes_is_quarantined_audited_told_and_stays_so(place: Place, start: Start) -> None:
    sold, other, never = (place.sell(bundle(id=name)) for name in ("sample", "other", "never"))
    daemon = start()
    install(daemon, sold)
    install(daemon, other, "other")
    wait_for(lambda: daemon.metric('market_index_refreshes_total{outcome="ok"}') > 0, 5, "a look")
    assert admin(daemon, "plugin.verify", id="sample")["ok"]
    place.revoke("never")
    place.revoke("sample")
    wait_for(lambda: served(daemon).startswith("PLUGIN_DISABLED"), 10, "the stop")
    assert served(daemon, "other") == "ok"
    failed = {line["check"]: line["message"] for line in admin(daemon, "plugin.verify", id="sample")["checks"]
              if not line["ok"]}
    assert "by the marketplace" in failed["revocation"]
    shown = admin(daemon, "plugin.show", id="sample")
    assert shown["state"] == "quarantined" and "by the marketplace" in shown["reason"]
    daemon.wait_metric("market_revoked_total", 1)
    assert "sample 1.0.0 was revoked by the marketplace and is stopped" in daemon.log
    for op in ("plugin.release", "plugin.enable"):
        with pytest.raises(CallError):
            admin(daemon, op, id="sample")
    (place.folder / NAME).unlink()  # the network is gone, and the daemon starts again
    daemon.stop()
    daemon.start()
    assert served(daemon).startswith("PLUGIN_DISABLED") and served(daemon, "other") == "ok"
    wait_for(lambda: daemon.metric('market_index_refreshes_total{outcome="not_fetched"}') > 0, 5, "a look")
    assert "could not be fetched" in daemon.log
    admin(daemon, "plugin.remove", id="sample")
    for bytes_, plugin in ((sold, "sample"), (never, "never")):  # removed meanwhile, and never installed
        with pytest.raises(CallError) as caught:
            install(daemon, bytes_, plugin)
        assert caught.value.details["reason"] == "version_revoked"


@pytest.mark.parametrize("wake", ["start", "SIGHUP"])
@pytest.mark.slow
def test_the_index_is_read_at_every_start_and_reload_however_rare_the_looks(
        place: Place, start: Start, wake: str) -> None:
    sold = place.sell(bundle())
    daemon = start(FAR_SECONDS)
    install(daemon, sold)
    admin(daemon, "daemon.reload")  # the first look was before the key was registered
    wait_for(lambda: daemon.metric('market_index_refreshes_total{outcome="ok"}') > 0, 5, "a look")
    place.revoke("sample")
    time.sleep(2)
    assert served(daemon) == "ok"
    if wake == "start":
        daemon.stop()
        daemon.start()
    else:
        daemon.signal(signal.SIGHUP)
    wait_for(lambda: served(daemon).startswith("PLUGIN_DISABLED"), 10, "the stop")


@pytest.mark.parametrize("stale", ["serve", "stop"])
@pytest.mark.slow
def test_an_index_past_its_expiry_is_told_and_stops_what_came_from_it_where_that_is_configured(
        place: Place, start: Start, stale: str) -> None:
    sold = place.sell(bundle())
    place.write(8 * 10**9)
    daemon = start(**{"market.stale": stale})
    install(daemon, sold)
    admin(daemon, "plugin.install", bundle=pack(bundle(id="own")))
    admin(daemon, "plugin.enable", id="own")
    if stale == "stop":
        wait_for(lambda: served(daemon) == "PLUGIN_DISABLED market_index_stale", 20, "the stop")
        assert admin(daemon, "plugin.show", id="sample")["state"] == "enabled", "its row is as it was"
    daemon.wait_metric("market_index_stale", 1, 20)
    assert served(daemon, "own") == "ok", "it came from nowhere else"
    assert served(daemon) == ("ok" if stale == "serve" else "PLUGIN_DISABLED market_index_stale")
    daemon.stop()
    (place.folder / NAME).rename(place.folder / "away")
    daemon.start()
    assert served(daemon) == ("ok" if stale == "serve" else "PLUGIN_DISABLED market_index_stale")
    place.write()
    wait_for(lambda: served(daemon) == "ok", 30, "service")
    daemon.wait_metric("market_index_stale", 0)


@pytest.mark.slow
def test_an_index_that_is_forged_rolled_back_or_never_ends_changes_nothing_and_holds_nobody_up(
        place: Place, start: Start) -> None:
    sold = place.sell(bundle())
    old = place.write()
    daemon = start()
    install(daemon, sold)
    place.write()
    looks = daemon.metric('market_index_refreshes_total{outcome="ok"}')
    wait_for(lambda: daemon.metric('market_index_refreshes_total{outcome="ok"}') > looks + 1, 10, "the newest")
    (place.folder / NAME).write_bytes(old)
    wait_for(lambda: daemon.metric('market_index_refreshes_total{outcome="rolled_back"}') > 0, 20, "a look")
    forged = msgspec.json.decode(place.write())
    forged["index"] = forged["index"].replace("published", "revoked")
    (place.folder / NAME).write_bytes(msgspec.json.encode(forged))
    wait_for(lambda: daemon.metric('market_index_refreshes_total{outcome="refused"}') > 0, 60, "a look")
    assert served(daemon) == "ok"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        daemon.write_config({"market.index": f"http://127.0.0.1:{silent.getsockname()[1]}"})
        daemon.stop()
        daemon.start()
        silent.settimeout(10)
        with silent.accept()[0]:  # and never answered
            begun = time.monotonic()
            assert admin(daemon, "plugin.list")["plugins"] and served(daemon) == "ok"
            assert time.monotonic() - begun < 3


@pytest.mark.slow
def test_what_this_marketplace_revoked_itself_is_stopped_although_the_registry_was_never_told(start: Start) -> None:
    """As after a registrar that died between the market's commit and the registry's."""
    daemon = start()
    install(daemon, pack(bundle()))
    assert served(daemon) == "ok"
    daemon.stop()
    shop = Shop(load_settings(None, {"state_dir": str(daemon.state)}), time.time_ns)

    def withdraw(db: Any, now_ns: int) -> None:
        made = subs.submit(db, now_ns, plugin="sample", version="1.0.0", digest=bundle().digest, author="ACME Corp",
                           submitter="ann", uid=0, price=Price("free"))
        for state in ("scanning", "in_review", "approved", "published", "revoked"):
            subs.move(db, now_ns, made.id, state, actor="x", uid=0, reason="x")

    shop.change(withdraw)
    shop.close()
    daemon.start()
    assert served(daemon).startswith("PLUGIN_DISABLED")
    assert admin(daemon, "plugin.show", id="sample")["state"] == "quarantined"
