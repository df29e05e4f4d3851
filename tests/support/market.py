"""Plugins that pass the marketplace's checks on a real daemon, and books of months that are over."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from apex_exec.registry.trials.testing import Run
from tests.market.shops import Market, at

CODE = '''"""Adds up."""

from workers import Plugin

plugin = Plugin(id="{id}", version="{version}", permissions=[])


@plugin.hook("onDataFetch")
def total(params):
    values = params["filters"].get("values")
    if not values:
        return {{"transformedData": 0}}
    return {{"transformedData": sum(values)}}
'''
TESTS = '''from plugin import total


def test_sums():
    assert total({"filters": {"values": [1, 2]}}) == {"transformedData": 3}


def test_none():
    assert total({"filters": {}}) == {"transformedData": 0}
'''
ARCS = [(-1, 1), (1, 3), (3, 5), (5, 8), (8, 9), (9, -1), (-8, 10), (10, 11), (11, 12), (12, -8), (11, 13), (13, -8)]
"""What the tests run of the code."""
README = """# Sums

Adds up orders.

## Set-up

    apex-exec plugin install sums

## Example

Open the table of orders: the sum is below it.
"""
PAID = {"model": "subscription", "amount": 1995, "currency": "USD", "interval": "month"}
SUPPORT = {"contact": "help@acme.example", "responseHours": 12}


def write_sums(folder: Path, id_: str = "sums", version: str = "1.0.0", files: dict[str, str] | None = None,
               **change: Any) -> Path:
    """A bundle's folder; ``change`` goes into the manifest, ``files`` over the files."""
    manifest = {"id": id_, "name": "Sums", "version": version, "author": "ACME Corp", "permissions": [],
                "manifest": {"entrypoint": "plugin.py", "hooks": ["onDataFetch"]}, "pricing": PAID,
                "support": SUPPORT} | change
    everything = {"manifest.json": json.dumps(manifest), "plugin.py": CODE.format(id=id_, version=version),
                  "README.md": README, "tests/test_sums.py": TESTS} | (files or {})
    for name, body in everything.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)
    return folder


def books(state: Path) -> Market:
    """The marketplace whose store lies in ``state``, with a machine whose checks take no time: the jailed tests of
    submissions have tests of their own. A daemon may run on the same state meanwhile. Close it."""
    state.mkdir(parents=True, exist_ok=True)
    made = Market(state.parent, f"sqlite:///{state}/market.db", f"sqlite:///{state.parent}/books.db")
    assert made.settings.state_path == state
    made.now_ns = time.time_ns()
    made.run = Run(passed=2, arcs={"plugin.py": ARCS})
    return made


def sell(market: Market, month: str, plugin: str, buyers: list[tuple[str, str]]) -> None:
    """Sales on the 10th of ``month`` to (user, customer)."""
    market.now_ns = at(f"{month}-10")
    for number, (user_id, customer) in enumerate(buyers):
        market("market.buy", plugin=plugin, userId=user_id, key=f"{plugin}-{month}-{number}", customer=customer)


def close(market: Market, month: str, at_day: str) -> None:
    """Closes ``month`` on the day ``at_day``, however long that takes."""
    market.now_ns = at(at_day)
    found = market("billing.close", month=month)
    while found.get("status") != "closed":
        time.sleep(0.2)
        found = market("billing.report", month=month)


def user(number: int) -> str:
    """A user's id."""
    return f"{number:08x}-1111-4111-8111-111111111111"
