"""The marketplace of a real daemon, by the command line: submitted, reviewed, published, bought, enabled, billed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client import AdminClient, AdminRefused, CallError
from apex_exec.ledger.reading import read_events
from apex_exec.registry.trust.signing import new_key
from tests.market.shops import PAID, README, USER, write_bundle
from tests.support import need
from tests.support.daemon import Daemon, wait_for

SUPPORT = {"contact": "help@acme.example", "responseHours": 12}
PLUGIN = b"""from workers import Plugin

plugin = Plugin(id="sums", version="1.0.0", permissions=[])


@plugin.hook("onDataFetch")
def total(params):
    values = params["filters"].get("values")
    if not values:
        return {"transformedData": 0}
    return {"transformedData": sum(values)}
"""
TESTS = b"""from plugin import total


def test_sums():
    assert total({"filters": {"values": [1, 2]}}) == {"transformedData": 3}
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    need(find_spec("coverage"), "coverage is not installed")
    with Daemon(None, None, {"security.require_signature": "market"}) as running:
        yield running


def cli(daemon: Daemon, *arguments: str, status: int = 0) -> Any:
    done = subprocess.run([sys.executable, "-m", "apex_exec", *arguments, "--runtime-dir", str(daemon.runtime)],
                          capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, (done.stdout, done.stderr)
    return json.loads(done.stdout) if "--json" in arguments and status == 0 else done.stdout + done.stderr


def see_where_it_fails(daemon: Daemon) -> None:
    """A call fails, and the author sees of it the class and the line."""
    from apex_exec.client import Client

    with Client(daemon.endpoint) as host, pytest.raises(CallError):
        host.invoke("sums", "onDataFetch", USER, {"query": "q", "filters": {"values": ["alice@example.com"]}})
    wait_for(lambda: (row := cli(daemon, "market", "figures", "--as", "ann", "--json")["plugins"][0]["versions"][0])
             and row["calls"] >= 4 and row["signatures"], 60, "the figures")
    (row,) = cli(daemon, "market", "figures", "sums", "--as", "ACME corp", "--json")["plugins"][0]["versions"]
    assert (row["version"], row["installs"], row["failures"], row["codes"]) == ("1.0.0", 1, 1, {"PLUGIN_ERROR": 1})
    (kind,) = row["signatures"]
    assert (kind["code"], kind["exception"], kind["place"]) == ("PLUGIN_ERROR", "TypeError", "plugin.py:11")
    said = cli(daemon, "market", "figures", "--as", "ann")
    assert "plugin.py:11" in said and "alice" not in said and row["p50Ms"] <= row["p95Ms"]


@pytest.mark.slow
@pytest.mark.timeout(400)  # a whole life of two plugins: half a minute where nothing else runs
def test_from_submission_to_statement(daemon: Daemon, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "sums", {"plugin.py": PLUGIN, "tests/test_sums.py": TESTS.replace(b"[1, 2]", b"")
                                              .replace(b"3", b"0")}, pricing=PAID, support=SUPPORT)
    (folder / "tests/test_sums.py").write_bytes(b"def test_nothing():\n    assert True\n")
    said = cli(daemon, "market", "submit", str(folder), "--as", "ann", status=1)
    assert "changes_requested" in said and "70 % are required" in said
    (folder / "tests/test_sums.py").write_bytes(TESTS + b"\n\ndef test_none():\n"
                                                b"    assert total({'filters': {}}) == {'transformedData': 0}\n")
    shown = cli(daemon, "market", "submit", str(folder), "--as", "ann", "--json")
    assert shown["state"] == "in_review" and shown["result"]["coverage"] == "100.00"
    number, digest = str(shown["id"]), shown["digest"]
    assert "sums" in cli(daemon, "market", "review")
    assert "no such submission" not in cli(daemon, "market", "review", number, "--reviewer", "rita")
    said = cli(daemon, "market", "approve", number, "--reviewer", "ann", "--digest", digest, "--confirm-all",
               "--reason", "mine", status=1)
    assert "somebody else must review it" in said
    yes = ("market", "approve", number, "--reviewer", "rita", "--digest", digest, "--confirm-all", "--reason", "good")
    new_key(daemon.state / "keys", "rita")
    cli(daemon, "keys", "register", "rita", "--role", "approver", "--state-dir", str(daemon.state))
    assert "signed with one" in cli(daemon, *yes, status=1)
    cli(daemon, *yes, "--key", "rita", "--state-dir", str(daemon.state))
    signed = cli(daemon, "market", "status", number, "--json")["decisions"]
    assert len(signed) == 1
    cli(daemon, "market", "publish", number, "--by", "olga")
    assert cli(daemon, "market", "search", "sums", "--json")[0]["coverage"] == "100.00"
    assert "19.95 USD a month" in cli(daemon, "market", "show", "sums")

    cli(daemon, "keys", "register", "market", "--role", "market", "--state-dir", str(daemon.state))
    daemon.write_config({"market.index": str(daemon.state / "market" / "public")})
    said = cli(daemon, "plugin", "install", "sums", "--config", str(daemon.config_file))
    assert "bytes (100 %)" in said and "sums 1.0.0: installed" in said
    with AdminClient(daemon.admin) as admin:
        with pytest.raises(AdminRefused, match="no purchase or running subscription"):
            admin.request("plugin.enable", {"id": "sums", "user": USER})
        bought = cli(daemon, "market", "buy", "sums", "--user", USER, "--customer", "initech", "--key", "k1", "--json")
        assert (bought["gross"], bought["fee"], bought["authorShare"]) == (1995, 599, 1396)
        assert cli(daemon, "market", "buy", "sums", "--user", USER, "--key", "k1", "--json") == bought
        admin.request("plugin.enable", {"id": "sums", "user": USER})
    from apex_exec.client import Client

    with Client(daemon.endpoint) as host:
        for _ in range(3):
            host.invoke("sums", "onDataFetch", USER, {"query": "q", "filters": {"values": [1, 2]}})
    month = time.strftime("%Y-%m", time.gmtime())
    time.sleep(1.2)  # hosting counts whole seconds
    report = cli(daemon, "billing", "report", "--month", month, "--json")
    assert report["totals"]["USD"]["authors"] == 1396 and report["totals"]["USD"]["customers"] >= 1995
    assert report["usage"][0]["calls"] == 3 and 0 < report["usage"][0]["cpuSeconds"] < 1
    mine = cli(daemon, "billing", "report", "--month", month, "--author", "ACME Corp", "--json")
    assert mine["due"] == {"USD": 1396}
    see_where_it_fails(daemon)
    assert "purchase k1" in cli(daemon, "billing", "report", "--month", month, "--customer", "initech", "--csv")
    assert "not over yet" in cli(daemon, "billing", "close", "--month", month, status=1)
    ticket = cli(daemon, "market", "ticket", "open", "sums", "--user", USER, "--subject", "no totals", "--json")
    cli(daemon, "market", "ticket", "respond", str(ticket["id"]), "--by", "ann")
    assert cli(daemon, "market", "report", "--json")[0]["activeInstalls"] == 1
    assert cli(daemon, "market", "report", "--csv").startswith("plugin,version,state")
    cli(daemon, "market", "refund", "k1", "--reason", "did not help")
    with Client(daemon.endpoint) as host:
        assert host.plugins(USER) == [], "what was refunded is still enabled"
    cli(daemon, "market", "revoke", "sums", "--by", "olga", "--reason", "leaks data")
    assert "was revoked" in cli(daemon, "market", "buy", "sums", "--user", USER, status=1)
    daemon.stop()
    actions = [event.action for event in read_events(daemon.state / "audit.db")
               if event.event_type == "admin.action"]
    for op in ("market.submit", "market.approve", "market.publish", "market.buy", "market.refund", "market.revoke"):
        assert op in actions, f"{op} was not audited"


@pytest.mark.slow
def test_a_shop_that_cannot_open_its_store_refuses_and_the_daemon_serves_on(tmp_path: Path) -> None:
    (tmp_path / "market.db").write_bytes(b"not a database " * 100)
    with Daemon(None, None, config={"market.url": f"sqlite:///{tmp_path}/market.db"}) as daemon:
        said = cli(daemon, "market", "status", status=1)
        assert "the market store cannot be used" in said
        cli(daemon, "plugin", "list")
    assert README
