"""On another daemon than the marketplace's own, a paid plugin runs only for the users that the marketplace signed."""

from __future__ import annotations

import functools
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from apex_exec.client import AdminClient, CallError, Client
from apex_exec.config import load_settings
from apex_exec.errors import Refusal
from apex_exec.ledger.reading import read_events
from apex_exec.market.shop.granted import Grant, new_grant, open_grant, seal
from apex_exec.registry.bundles.bundle import pack
from apex_exec.registry.trust.signing import key_id_of, load_private, new_key, raw_public
from tests.market.shops import OTHER, PAID, USER, Market, write_bundle
from tests.support.bundles import bundle
from tests.support.daemon import Daemon, wait_for

SUPPORT = {"contact": "help@acme.example", "responseHours": 12}
HOUR_NS = 3600 * 10**9


@pytest.fixture
def key(tmp_path: Path) -> Any:
    return load_private(new_key(tmp_path / "keys", "market")[0])


Start = Callable[..., Daemon]


@pytest.fixture
def start(key: Any, tmp_path: Path) -> Iterator[Start]:
    """A customer's daemon with a paid plugin that is installed from its file."""
    running: list[Daemon] = []

    def begin(place: str = "", **config: Any) -> Daemon:
        daemon = Daemon(plugins=None, config={
            "market.entitlements": [place or str(tmp_path / "grant.json")], "market.refresh_seconds": 1, **config})
        running.append(daemon)
        admin(daemon, "keys.register", name="market", role="market", public_key=raw_public(key).hex())
        admin(daemon, "plugin.install", bundle=pack(bundle(pricing=PAID, support=SUPPORT), b""))
        return daemon

    yield begin
    for daemon in running:
        with daemon:
            pass


def admin(daemon: Daemon, op: str, **args: Any) -> Any:
    with AdminClient(daemon.admin) as client:
        return client.request(op, args, 60_000)


def put(path: Path, data: bytes) -> None:
    new = path.with_name("new")
    new.write_bytes(data)
    new.rename(path)


def grant(seconds: float = 3600, *, users: tuple[str, ...] = (USER,), customer: str = "", begun: float = 0) -> Grant:
    now_ns = time.time_ns() + int(begun * 1e9)
    return Grant("sample", list(users), customer, now_ns, now_ns + int(seconds * 1e9))


def served(daemon: Daemon, user: str = USER) -> str:
    with Client(daemon.endpoint) as client:
        try:
            client.invoke("sample", "onDashboardLoad", user, {"dashboardId": "d"})
        except CallError as error:
            return str(error.details.get("reason"))
    return "ok"


def enable(daemon: Daemon, **args: Any) -> str:
    try:
        admin(daemon, "plugin.enable", id="sample", **args)
    except CallError as error:
        return str(error.details.get("reason"))
    return "ok"


def records(daemon: Daemon, action: str) -> list[dict[str, Any]]:
    found = read_events(daemon.state / "audit.db")
    return [one.metadata for one in found if one.metadata.get("action") == action or one.action == action]


@pytest.mark.slow
def test_a_signed_user_is_served_until_the_moment_and_nobody_else_is(start: Start, key: Any, tmp_path: Path) -> None:
    daemon = start()
    assert enable(daemon, user=USER) == "not_entitled"
    put(tmp_path / "grant.json", seal(grant(8), key))
    wait_for(lambda: enable(daemon, user=USER) == "ok", 6, "the entitlement")
    assert served(daemon) == "ok"
    assert enable(daemon, user=OTHER) == "not_entitled" and enable(daemon) == "not_entitled"
    assert served(daemon, OTHER) != "ok"
    wait_for(lambda: served(daemon) != "ok", 14, "its end")
    assert enable(daemon, user=USER) == "not_entitled"
    put(tmp_path / "grant.json", seal(grant(), key))
    wait_for(lambda: enable(daemon, user=USER) == "ok", 15, "the next entitlement")


@pytest.mark.slow
def test_it_stays_through_restarts_without_a_network_and_goes_with_the_key(
        start: Start, key: Any, tmp_path: Path) -> None:
    put(tmp_path / "grant.json", seal(grant(users=(), customer="ACME Corp"), key))
    daemon = start(**{"market.customer": "ACME Corp"})
    wait_for(lambda: enable(daemon) == "ok", 6, "the entitlement")
    assert served(daemon) == "ok" and served(daemon, OTHER) == "ok"
    (tmp_path / "grant.json").unlink()
    daemon.stop()
    daemon.start()
    assert served(daemon) == "ok"
    admin(daemon, "keys.revoke", name="market", reason="lost")
    wait_for(lambda: served(daemon) == "not_entitled", 15, "the end")
    daemon.stop()
    daemon.start()
    assert served(daemon) == "not_entitled"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["other key", "edited", "expired", "to come", "customer", "older", "garbage",
                                  "plugin"])
def test_what_is_forged_expired_or_another_s_entitles_nobody(
        start: Start, key: Any, tmp_path: Path, kind: str) -> None:
    stranger = load_private(new_key(tmp_path / "stranger", "market")[0])
    good = seal(grant(), key)
    envelope = json.loads(good)
    envelope["index"] = envelope["index"].replace(USER, OTHER)
    forged = {"other key": seal(grant(), stranger), "edited": json.dumps(envelope).encode(),
              "expired": seal(grant(60, begun=-120), key), "to come": seal(grant(begun=3000), key),
              "customer": seal(grant(users=(), customer="Another"), key), "older": seal(grant(begun=-100), key),
              "garbage": b"\x00" * 2_000_000,
              "plugin": seal(msgspec.structs.replace(grant(), plugin="other"), key)}[kind]
    path = tmp_path / "grant.json"
    if kind != "older":
        put(path, forged)
    daemon = start()
    if kind == "older":  # than one that was had, and is over
        put(path, seal(grant(5, users=(OTHER,)), key))
        wait_for(lambda: records(daemon, "market.entitled") != [], 6, "the first")
        put(path, forged)
    time.sleep(6 if kind == "older" else 3.5)
    assert enable(daemon, user=USER) == "not_entitled"
    assert enable(daemon, user=OTHER) == "not_entitled" and enable(daemon) == "not_entitled"
    if kind != "plugin":
        assert records(daemon, "market.entitlement_refused")
        assert "does not count" in daemon.log


@pytest.mark.slow
def test_it_is_taken_from_a_url_and_a_shorter_one_replaces_it(start: Start, key: Any, tmp_path: Path) -> None:
    folder = tmp_path / "web"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        put(folder / "acme.json", seal(grant(), key))
        daemon = start(f"http://127.0.0.1:{server.server_port}/acme.json?token=x")
        wait_for(lambda: enable(daemon, user=USER) == "ok", 6, "the entitlement")
        assert served(daemon) == "ok"
        assert [one["users"] for one in records(daemon, "market.entitled")] == [1]
        put(folder / "acme.json", seal(grant(0.001), key))
        wait_for(lambda: served(daemon) != "ok", 10, "the end")
        server.shutdown()
        server.server_close()
        daemon.stop()
        daemon.start()
        assert served(daemon) != "ok"
    finally:
        server.server_close()


def test_the_marketplace_signs_for_whom_and_until_when_it_is_told(tmp_path: Path) -> None:
    market = Market(tmp_path, f"sqlite:///{tmp_path}/market.db")
    market.publish(write_bundle(tmp_path / "sums", pricing=PAID, support=SUPPORT))
    made = market("market.entitle", plugin="sums", users=[USER.upper(), OTHER], until="2026-11-01")
    public = {key_id_of(raw_public(market.shop.key())): raw_public(market.shop.key()).hex()}
    signed = open_grant(made["entitlement"], public)
    assert signed.users == [USER, OTHER] and signed.plugin == "sums"
    assert datetime.fromtimestamp(signed.ends_ns / 1e9, UTC).isoformat() == "2026-11-01T00:00:00+00:00"
    for args, reason in [({"users": [], "until": "2027-01-01"}, "scope_invalid"),
                         ({"users": [USER], "customer": "A", "until": "2027-01-01"}, "scope_invalid"),
                         ({"users": [USER], "until": "2026-09-01"}, "until_invalid"),
                         ({"users": [USER], "until": "soon"}, "until_invalid"),
                         ({"users": ["me"], "until": "2027-01-01"}, "user_invalid"),
                         ({"users": [USER], "until": "2027-01-01", "plugin": "ghost"}, "plugin_unknown")]:
        with pytest.raises(Refusal) as caught:
            market("market.entitle", **{"plugin": "sums"} | args)
        assert caught.value.reason == reason
    market.close()


def test_a_grant_counts_from_its_issue_to_its_end_whatever_the_clock_says(key: Any) -> None:
    now_ns = time.time_ns()
    made = new_grant("sample", [USER], "", now_ns, (datetime.now(UTC) + timedelta(days=1)).isoformat())
    assert made.covers(now_ns) and made.covers(now_ns + 23 * HOUR_NS)
    for wrong in (-50 * 365, -1, 1.01, 50 * 365):
        assert not made.covers(now_ns + int(wrong * 24 * HOUR_NS))
    with pytest.raises(Refusal, match="not a market key"):
        open_grant(seal(made, key), {})
    settings = load_settings(None, {"market.entitlements": ["a.json", "b.json"]})
    assert settings.market.entitlements == ("a.json", "b.json")
