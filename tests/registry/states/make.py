"""Makes the state of a registry and a marketplace with the code that is checked out. Run it at a release.

``python -m tests.registry.states.make FOLDER`` writes ``registry.sql``, ``market.sql`` (what SQLite's own dump gives),
``index.json``, ``entitlement.json`` and ``facts.json``, which says what a reader must find in them. The upgrade tests
open what earlier releases have left here; nothing in these folders is ever made again.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import tempfile
from pathlib import Path

from apex_exec.market.review.states import CHECKLIST
from apex_exec.registry.bundles.bundle import pack, read_path
from apex_exec.registry.trust.signing import sign_digest, write_signatures
from tests.market.shops import OTHER, PAID, USER, Market, at, write_bundle
from tests.market.test_reviewers import Signer, approve
from tests.registry.conftest import Stage
from tests.registry.test_approvals import Approver
from tests.support.bundles import bundle


def make_registry(folder: Path) -> None:
    """Two plugins, one upgraded and enabled for some, one whose admin permission was approved by a signature."""
    stage = Stage(folder / "registry-state", f"sqlite:///{folder}/registry.db")
    bob = Approver(folder / "keys", "bob")
    bob.register(stage, "approver")
    stage.install(bundle(id="plain", name="Ünïcode \U0001f642"))
    stage.run("plugin.enable", id="plain", user=USER)
    stage.later(60)
    stage.run("plugin.upgrade", bundle=pack(bundle("new", id="plain", version="1.4.0")))
    stage.run("plugin.enable", id="plain", user=OTHER)
    stage.later(60)
    stage.run("plugin.disable", id="plain", user=USER)
    stage.install(bundle(permissions=["admin:users", "ui:render"]))
    bob.decide(stage)
    stage.run("plugin.enable", id="sample")
    stage.context.store.close()


def make_market(folder: Path, into: Path) -> None:
    """A paid plugin that was reviewed by a signature, published, bought twice and refunded once; a closed month."""
    market = Market(folder, f"sqlite:///{folder}/market.db", f"sqlite:///{folder}/market-registry.db")
    author = Signer(market, folder / "keys", "acme-laptop", "author", "ACME Corp")
    rita = Signer(market, folder / "keys", "rita", "approver")
    sums = write_bundle(folder / "sums", pricing=PAID, support={"contact": "help@acme.example", "responseHours": 12})
    made, _ = read_path(sums)
    signatures = write_signatures([sign_digest(author.private, "author", made.digest, market.now_ns)])
    shown = market("market.submit", bundle=pack(made, signatures), submitter="ann")
    assert shown["state"] == "in_review", shown["result"]
    approve(market, shown, "rita", **rita.decide(shown))
    market("market.publish", submission=shown["id"], publisher="olga")
    for number, user in enumerate((USER, OTHER), 1):
        market("market.buy", plugin="sums", userId=user, key=f"order-{number}", customer="Größe & Co")
    market.now_ns = at("2026-10-05")
    market("market.refund", purchase="order-2", key="refund-2", reason="bought twice")
    ticket = market("market.ticket.open", plugin="sums", userId=USER, subject="of an empty list")
    market("market.ticket.respond", ticket=ticket["id"], responder="ann")
    grant = market("market.entitle", plugin="sums", users=[USER], until="2099-01-01")
    (into / "entitlement.json").write_bytes(grant["entitlement"])
    market.now_ns = at("2026-11-02")
    market("billing.close", month="2026-10")
    (into / "index.json").write_bytes((market.shop.public / "index.json").read_bytes())
    facts = {
        "marketKey": market.shop.key().public_key().public_bytes_raw().hex(), "authorKey": author.public.hex(),
        "approverKey": rita.public.hex(), "digest": made.digest, "checklist": len(CHECKLIST),
        "platform": market("billing.report", month="2026-10")["totals"], "nowNs": market.now_ns}
    (into / "facts.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    (into / "sums.apx").write_bytes(next((market.shop.public / "bundles").iterdir()).read_bytes())
    market.close()


def dump(database: Path, into: Path) -> None:
    """The whole database as SQL."""
    with contextlib.closing(sqlite3.connect(database)) as db:
        into.write_text("\n".join(db.iterdump()) + "\n", "utf-8")


def main() -> None:
    """The command line."""
    into = Path(sys.argv[1])
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        make_registry(Path(temporary))
        make_market(Path(temporary), into)
        dump(Path(temporary) / "registry.db", into / "registry.sql")
        dump(Path(temporary) / "market.db", into / "market.sql")


if __name__ == "__main__":
    main()
