"""The whole way of one plugin, on SQLite and PostgreSQL; and a replayed ledger gives the same invoice to the byte."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest

from apex_exec.config import load_settings
from apex_exec.examples import walkthrough
from apex_exec.ledger.audit import AuditStore
from apex_exec.ledger.people import people_path
from apex_exec.ledger.reading import read_events
from apex_exec.ledger.records import AuditRecord
from apex_exec.ledger.verify import verify
from apex_exec.market.arguments import Month
from apex_exec.market.money.metering import meter
from apex_exec.market.service import Service
from apex_exec.market.shop.storefront import Shop
from tests.support import need


def replay(source: Path, folder: Path, at_once: int) -> Path:
    """The events of one ledger written into another, in batches of another size, for the same people: a database that
    has the first one's events takes no others."""
    records = []
    for event in read_events(source):
        seconds = int(datetime.fromisoformat(event.timestamp[:19] + "+00:00").timestamp())
        nanoseconds = int(event.timestamp[20:29])
        records.append(AuditRecord(seconds * 10**9 + nanoseconds, event.event_type, event.user_id, event.resource,
                                   event.action, event.result, event.metadata))
    folder.mkdir()
    with (closing(sqlite3.connect(people_path(source))) as people,
          closing(sqlite3.connect(people_path(folder / "audit.db"))) as same):
        people.backup(same)
    store = AuditStore(folder / "audit.db", folder)
    for start in range(0, len(records), at_once):
        store.append(records[start : start + at_once])
    store.close()
    return folder / "audit.db"


@pytest.mark.slow
def test_from_plugin_new_to_three_statements(url: str, tmp_path: Path) -> None:
    need(find_spec("coverage"), "coverage is not installed")
    world = walkthrough.World(tmp_path, url)
    walkthrough.review_and_publish(world, walkthrough.author(world, tmp_path))
    walkthrough.install(world)
    walkthrough.buy_and_enable(world)
    walkthrough.thirty_days(world)

    before = world("billing.report", month="2026-10")
    ledger = world.settings.state_path / "audit.db"
    again = replay(ledger, tmp_path / "replayed", at_once=7)
    settings = load_settings(None, {
        "state_dir": str(world.settings.state_path), "market.url": url, "audit.url": f"sqlite:///{again}"})
    other = Service(Shop(settings, lambda: world.now_ns))
    replayed = other.handlers["billing.report"](world.context, Month(month="2026-10"))
    assert msgspec.json.encode(replayed) == msgspec.json.encode(before), "a replay of the ledger gives another invoice"
    other.shop.close()

    made = walkthrough.statements(world)
    assert made["platform"]["totals"]["USD"] == {"customers": 2002, "authors": 1396, "platform": 606}
    assert [line["kind"] for line in made["platform"]["lines"]] == ["hosting", "refund", "sale", "sale"]
    usage = {row["userId"]: row for row in made["platform"]["usage"]}
    assert [usage[user]["calls"] for user in walkthrough.USERS] == [600, 50]
    assert usage[walkthrough.USERS[0]]["cpuSeconds"] == 2.55
    assert meter(read_events(ledger), "2026-10").keys() == {
        (walkthrough.PLUGIN, user, "2026-10") for user in walkthrough.USERS}
    (row,) = world("market.report")
    assert (row["sold"], row["refunded"], row["slaBreached"], row["activeInstalls"]) == (2, 1, 0, 1)
    world.sleep_until(world.now_ns + walkthrough.DAY_NS)
    assert world("market.report")[0]["activeInstalls"] == 0, "a subscription that ran out is still enabled"
    world.close()
    assert verify(ledger, world.settings.state_path).finding is None
