"""A plugin's life on the marketplace, from ``plugin new`` to three statements, with a simulated clock.

    python -m apex_exec.examples.walkthrough [--dir DIR] [--url URL]

An author makes a plugin and submits it; it is refused for its coverage, and the author improves it. A reviewer
approves, and the marketplace publishes. A customer buys it for two users and installs it from the signed index. The
calls of 30 days go into a real ledger; the month is closed, and the platform, the author and the customer each get
their statement. The scan, the jail, the coverage, the stores and the ledger are real; the clock, and the calls during
the 30 days, are simulated. No daemon runs: this module writes to the ledger what the loop would record of each call.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from apex_exec.config import load_settings
from apex_exec.errors import Refusal
from apex_exec.ledger.audit import AuditStore
from apex_exec.ledger.records import AuditRecord, ExecutionMetadata
from apex_exec.market.arguments import OPERATIONS as MARKET
from apex_exec.market.money.money import format_minor
from apex_exec.market.money.statements import to_csv
from apex_exec.market.review.states import CHECKLIST
from apex_exec.market.service import Service
from apex_exec.market.shop.download import fetch
from apex_exec.market.shop.index import INDEX_BYTES_MAX, NAME, check_bundle
from apex_exec.market.shop.storefront import Shop
from apex_exec.registry.arguments import OPERATIONS as REGISTRY
from apex_exec.registry.bundles.blobs import BlobStore
from apex_exec.registry.bundles.bounds import Bounds
from apex_exec.registry.bundles.scaffold import write_scaffold
from apex_exec.registry.context import Context
from apex_exec.registry.operations import HANDLERS
from apex_exec.registry.scan.scanner import scan
from apex_exec.registry.store import Store
from apex_exec.registry.trust import keyring
from apex_exec.registry.trust.signing import raw_public

SECOND_NS = 1_000_000_000
DAY_NS = 86_400 * SECOND_NS
USERS = ("11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222")
CUSTOMER = "Initech"
AUTHOR = "ACME Corp"
PLUGIN = "sales-by-region"
PRICE = {"model": "subscription", "amount": 1995, "currency": "USD", "interval": "month"}

CODE = '''"""Sums up the orders of each region."""

from workers import HookContext, Plugin

plugin = Plugin(id="sales-by-region", version="1.0.0", permissions=[])


@plugin.hook("onDataFetch")
def on_data_fetch(context: HookContext, params: dict) -> dict:
    """Totals by region; rows without a total are left out."""
    totals: dict = {}
    for row in params.get("data") or []:
        if "total" not in row:
            continue
        region = row.get("region", "nowhere")
        totals[region] = totals.get(region, 0) + row["total"]
    if not totals:
        return {"transformedData": None}
    return {"transformedData": totals}
'''
POOR_TESTS = '''from plugin import plugin


def test_it_has_a_hook():
    assert list(plugin.hooks) == ["onDataFetch"]
'''
GOOD_TESTS = '''from plugin import on_data_fetch


def test_orders_are_summed_by_region():
    rows = [{"region": "n", "total": 3}, {"region": "n", "total": 4}, {"total": 1}, {"region": "s"}]
    assert on_data_fetch(None, {"data": rows}) == {"transformedData": {"n": 7, "nowhere": 1}}


def test_without_orders_nothing_is_changed():
    assert on_data_fetch(None, {}) == {"transformedData": None}
'''
README = """# Sales by region

Sums up the orders on a dashboard by region, for regional managers.

## Set-up

    apex-exec plugin install sales-by-region
    apex-exec plugin enable sales-by-region --user UUID

## Example

`onDataFetch` with `{"query": "sales", "filters": {}, "data": [{"region": "n", "total": 3}]}` gives `{"n": 3}`.
"""


class World:
    """One operator's registry, marketplace and ledger below ``folder``, and the clock that they all use."""

    def __init__(self, folder: Path, url: str = "", start: str = "2026-10-01T09:00:00") -> None:
        self.now_ns = int(datetime.fromisoformat(start).replace(tzinfo=UTC).timestamp()) * SECOND_NS
        url = url or f"sqlite:///{folder}/market.db"
        self.settings = load_settings(None, {"state_dir": str(folder / "state"), "market.url": url,
                                             "registry.url": url, "security.require_signature": "market"})
        self.service = Service(Shop(self.settings, lambda: self.now_ns))
        self.context = Context(
            settings=self.settings, store=Store(url), blobs=BlobStore(self.settings.state_path / "bundles"),
            now_ns=lambda: self.now_ns, ask=self._ask, publish=lambda _specs: None, withdraw=lambda _plugin: None,
            scan=lambda files, manifest: scan(files, manifest, with_bandit=False), uid=1000,
            gates=(self.service.entitlements.gate,))
        self.ledger = AuditStore(self.settings.state_path / "audit.db", self.settings.state_path)
        handlers = {**HANDLERS, **self.service.handlers}
        self.operations = {one.name: (one.args, handlers[one.name]) for one in (*REGISTRY, *MARKET)}

    @staticmethod
    def _ask(kind: str, params: dict[str, Any], _seconds: float) -> Any:
        """Replaces the supervisor, which would load the bundle in a worker and ask it what it declares."""
        assert kind == "probe"
        return {"hooks": params["spec"]["hooks"], "permissions": params["spec"]["permissions"]}

    def __call__(self, op: str, **args: Any) -> Any:
        """Runs one administrative operation as the registrar does; a second passes."""
        self.now_ns += SECOND_NS
        kind, handler = self.operations[op]
        done = handler(self.context, msgspec.convert(args, kind))
        self.ledger.append([AuditRecord(self.now_ns, "admin.action", f"uid:{self.context.uid}",
                                        str(args.get("plugin", args.get("id", ""))), op, "success")])
        return done

    def use(self, user: str, calls: int) -> None:
        """Records ``calls`` calls of the plugin by ``user``, a minute apart, as the loop would."""
        for number in range(calls):
            self.now_ns += 60 * SECOND_NS
            self.ledger.append([AuditRecord(
                self.now_ns, "plugin.execution", user, PLUGIN, "onDataFetch", "success",
                ExecutionMetadata(12.5 + number, 18.0, cpu_ms=4.25))])

    def sleep_until(self, moment_ns: int) -> None:
        """Lets time pass; whatever ends meanwhile ends."""
        self.now_ns = max(self.now_ns, moment_ns)
        self.service.keep(self.context)

    def close(self) -> None:
        """Signs the ledger's head and closes the stores."""
        self.ledger.close()
        self.service.shop.close()
        self.context.store.close()


def author(world: World, folder: Path) -> dict[str, Any]:
    """``plugin new``, a submission that is refused for its coverage, and an improved one that waits for a reviewer."""
    plugin = write_scaffold(folder, PLUGIN, AUTHOR)
    manifest = json.loads((plugin / "manifest.json").read_text())
    manifest |= {"version": "1.0.0", "pricing": PRICE, "support": {"contact": "help@acme.example", "responseHours": 12},
                 "manifest": {"entrypoint": "plugin.py", "hooks": ["onDataFetch"]}}
    (plugin / "manifest.json").write_text(json.dumps(manifest, indent=2))
    (plugin / "plugin.py").write_text(CODE)
    (plugin / "tests" / "test_plugin.py").write_text(POOR_TESTS)
    refused = world("market.submit", path=str(plugin), submitter="ann")
    say(f"submitted with poor tests and the scaffold's README: {refused['state']}")
    for check in refused["result"]["checks"]:
        for problem in check["problems"]:
            say(f"  {check['name']}: {problem}")
    assert refused["state"] == "changes_requested" and not refused["result"]["coverage"].startswith("100")
    (plugin / "tests" / "test_plugin.py").write_text(GOOD_TESTS)
    (plugin / "README.md").write_text(README)
    mended: dict[str, Any] = world("market.submit", path=str(plugin), submitter="ann")
    say(f"submitted again: {mended['state']}, coverage {mended['result']['coverage']} %, place "
        f"{mended['queue']['position']} in the queue")
    assert mended["state"] == "in_review", mended["result"]
    return mended


def review_and_publish(world: World, submission: dict[str, Any]) -> None:
    """A reviewer, who is not the author, approves exactly these bytes; the market key counter-signs them."""
    number, digest = submission["id"], submission["digest"]
    try:
        world("market.approve", submission=number, reviewer=AUTHOR, reason="mine", digest=digest,
              checklist=list(CHECKLIST))
    except Refusal as error:
        say(f"the author cannot review it: {error.message}")
    world("market.review", submission=number, reviewer="rita")
    world("market.approve", submission=number, reviewer="rita", reason="read and tried", digest=digest,
          checklist=list(CHECKLIST))
    done = world("market.publish", submission=number, publisher="olga")
    say(f"published: {done['plugin']} {done['version']}, index version {done['index']}")


def install(world: World) -> None:
    """Installs from the signed index: we check the index, then the bundle against it, then the market's signature."""
    key = raw_public(world.service.shop.key()).hex()
    world.context.store.transact(lambda db: keyring.register(
        db, name="market", role="market", owner="the marketplace", public_key=key, days=365, uid=0,
        now_ns=world.now_ns))
    place = str(world.service.shop.public)
    entry = world("market.index", place=place, index=fetch(place, NAME, INDEX_BYTES_MAX), plugin=PLUGIN)
    data = fetch(place, entry["path"], Bounds.apx_bytes_max())
    check_bundle(PLUGIN, entry["size"], entry["sha256"], data)
    done = world("plugin.install", bundle=data)
    say(f"installed from the index: {done['id']} {done['version']} is {done['state']}")


def buy_and_enable(world: World) -> None:
    """Two users of one customer buy the plugin; without a purchase it is not enabled."""
    try:
        world("plugin.enable", id=PLUGIN, user=USERS[0])
    except Refusal as error:
        say(f"not enabled before it is paid: {error.message}")
    for number, user in enumerate(USERS, 1):
        world("market.buy", plugin=PLUGIN, userId=user, key=f"order-{number}", customer=CUSTOMER)
        world("plugin.enable", id=PLUGIN, user=user)
    say(f"{CUSTOMER} bought it for {len(USERS)} users")


def thirty_days(world: World) -> None:
    """Calls every day, a ticket that is answered in time, and a refund for one user on the eleventh day."""
    first_ns = world.now_ns
    for day in range(30):
        if day == 3:
            ticket = world("market.ticket.open", plugin=PLUGIN, userId=USERS[0], subject="totals of an empty region")
            world.now_ns += 3 * 3600 * SECOND_NS
            world("market.ticket.respond", ticket=ticket["id"], responder="ann")
        if day == 10:
            world("market.refund", purchase="order-2", key="refund-2", reason="bought twice by mistake")
        world.use(USERS[0], 20)
        if day < 10:
            world.use(USERS[1], 5)
        world.sleep_until(first_ns + (day + 1) * DAY_NS)
    say("30 days have passed")


def statements(world: World) -> dict[str, Any]:
    """The month is over and closed; three views of the same lines. It is closed a little later than it ends: a closing
    waits until every ledger has said that nothing of the month is to come."""
    world.sleep_until(int(datetime(2026, 11, 1, 1, tzinfo=UTC).timestamp()) * SECOND_NS)
    world("billing.close", month="2026-10")
    made = {"platform": world("billing.report", month="2026-10"),
            "author": world("billing.report", month="2026-10", author=AUTHOR),
            "customer": world("billing.report", month="2026-10", customer=CUSTOMER)}
    sums = made["platform"]["totals"]["USD"]
    assert made["author"]["due"]["USD"] == sums["authors"] and made["customer"]["due"]["USD"] == sums["customers"]
    assert sums["customers"] == sums["authors"] + sums["platform"]
    for name, document in made.items():
        say(f"\n--- statement of the {name}, {document['month']}, {document['status']}")
        say(to_csv(document).rstrip())
    say(f"\ncustomer {format_minor(sums['customers'], 'USD')} = author {format_minor(sums['authors'], 'USD')} "
        f"+ platform {format_minor(sums['platform'], 'USD')} USD")
    return made


def walk(folder: Path, url: str = "") -> dict[str, Any]:
    """Runs everything. Returns the three statements and the market's report."""
    world = World(folder, url)
    try:
        review_and_publish(world, author(world, folder))
        install(world)
        buy_and_enable(world)
        thirty_days(world)
        return {**statements(world), "report": world("market.report")}
    finally:
        world.close()


def say(text: str) -> None:
    """Prints one line."""
    print(text, flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="A plugin's life on the marketplace, simulated for 30 days.")
    parser.add_argument("--dir", type=Path, help="the folder for all files; default: a temporary folder")
    parser.add_argument("--url", default="", help="an empty database (SQLAlchemy URL); default: SQLite in the folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="apex-market-") as temporary:
        walk(given.dir or Path(temporary), given.url)


if __name__ == "__main__":
    main()
