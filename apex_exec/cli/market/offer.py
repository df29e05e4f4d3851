"""``market search`` and ``show``: what is on offer."""

from __future__ import annotations

from typing import Annotated, Any

from apex_exec.cli import connect
from apex_exec.cli.market.common import PluginId, ask, show_facts
from apex_exec.cli.output import print_table
from apex_exec.cli.root import AsJson, ConfigFile, RuntimeDir, examples, market_app
from apex_exec.cli.verbs import Argument, Option

Index = Annotated[str, Option(metavar="PLACE", help="Folder or URL of an index; default: market.index.")]


@market_app.command(epilog=examples("apex-exec market search analytics"))
def search(words: Annotated[list[str] | None, Argument(help="Words of id, name or author.")] = None,
           index: Index = "", as_json: AsJson = False, runtime_dir: RuntimeDir = None,
           config: ConfigFile = None) -> None:
    """Lists what is on offer, here or in an index elsewhere."""
    from apex_exec.cli.market.fetch import read_index

    text = " ".join(words or [])
    place = index or connect.settings_for(config, runtime_dir).market.index
    with connect.admin(config, runtime_dir) as client:
        rows = read_index(client, place, words=text) if place else client.request("market.search", {"words": text})
    if not as_json:
        rows = [{**row, "price": _price(row["price"])} for row in rows]
    print_table(rows, ["id", "version", "name", "author", "price", "coverage", "state"], as_json=as_json,
                empty="nothing found")


@market_app.command(epilog=examples("apex-exec market show sums"))
def show(plugin: PluginId, as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Shows one plugin on offer: versions, price history, coverage, who answers."""
    found = ask(config, runtime_dir, "market.show", plugin=plugin)
    if not as_json:
        found["prices"] = [_price(price) for price in found["prices"]]
        found["versions"] = [f"{one['version']} {one['state']}" for one in found["versions"]]
    show_facts(found, as_json, ("id", "version", "author", "state", "prices", "versions", "coverage", "contact",
                                "responseHours", "digest"))


def _price(price: dict[str, Any]) -> str:
    from apex_exec.market.money.money import format_minor

    if price["model"] == "free":
        return "free"
    amount = f"{format_minor(price['amount'], price['currency'])} {price['currency']}"
    return f"{amount} a {price['interval']}" if price["model"] == "subscription" else amount
