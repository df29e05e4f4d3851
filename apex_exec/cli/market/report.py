"""``market report`` and ``clock``: the marketplace as a whole."""

from __future__ import annotations

import csv
from typing import Annotated

from apex_exec.cli.market.common import ask, show_facts
from apex_exec.cli.output import Said, print_json, print_table
from apex_exec.cli.root import AsJson, ConfigFile, RuntimeDir, examples, market_app
from apex_exec.cli.verbs import Option


@market_app.command(epilog=examples("apex-exec market report", "apex-exec market report --csv > market.csv"))
def report(as_csv: Annotated[bool, Option("--csv", help="Print CSV instead of a table.")] = False,
           as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Per plugin: revenue, active installs, coverage, support times, review times."""
    from apex_exec.cli.facts import words
    from apex_exec.common.spreadsheet import safe_cell
    from apex_exec.market.money.money import format_minor
    from apex_exec.market.money.reports import COLUMNS, MONEY

    rows = ask(config, runtime_dir, "market.report")
    if as_json:
        print_json(rows)
        return
    if as_csv:
        shown = [{**row, **{name: format_minor(row[name], row["currency"]) if row["currency"] else ""
                            for name in MONEY}} for row in rows]
        writer = csv.writer(Said(), lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([safe_cell(str(row[name])) for name in COLUMNS] for row in shown)
        return
    print_table(rows, {name: words(name) for name in COLUMNS if name != "currency"}, as_json=False,
                empty="the marketplace is empty")


@market_app.command(epilog=examples("apex-exec market clock",
                                    "apex-exec market clock --accept --reason 'NTP was wrong'"))
def clock(accept: Annotated[bool, Option("--accept", help="Continue from this machine's clock.")] = False,
          reason: Annotated[str, Option(help="The reason; required with --accept.")] = "", as_json: AsJson = False,
          runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Says how far this clock is behind the store's latest change; with --accept the store continues from it."""
    done = ask(config, runtime_dir, "market.clock", accept=accept, reason=reason)
    show_facts(done, as_json, ("behindSeconds", "accepted", "datedAnew"))
