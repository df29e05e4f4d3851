"""``market figures``: how an author's plugins do, by version."""

from __future__ import annotations

from typing import Annotated, Any

from apex_exec.cli.market.common import ask
from apex_exec.cli.output import print_json, print_table
from apex_exec.cli.root import AsJson, ConfigFile, RuntimeDir, examples, market_app, this_user
from apex_exec.cli.verbs import Argument, Option


@market_app.command(epilog=examples("apex-exec market figures --as ann",
                                    "apex-exec market figures sums --as ann --json"))
def figures(plugin: Annotated[str, Argument(help="One plugin; default: all of the author's.")] = "",
            author: Annotated[str, Option("--as", metavar="NAME", help="The author's or the submitter's name.")] = "",
            as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Shows by version how an author's plugins do: installs, calls, failures and where they fail, times.

    The daemons of this marketplace are counted, and no figure is about a user. A failure has the class of its exception
    and the line of the plugin's code, never a message.
    """
    found = ask(config, runtime_dir, "market.figures", submitter=author or this_user(), plugin=plugin)
    if as_json:
        print_json(found)
        return
    versions = [{"plugin": one["plugin"], **row} for one in found["plugins"] for row in one["versions"]]
    print_table([_for_people(row) for row in versions],
                {"plugin": "plugin", "version": "version", "state": "state", "installs": "installs", "calls": "calls",
                 "failures": "failures", "rate": "rate", "p50": "p50", "p95": "p95"}, as_json=False,
                empty="none of this author's plugins is on offer")
    failures = [{"plugin": row["plugin"], "version": row["version"], **one}
                for row in versions for one in row["signatures"]]
    if failures:
        print_table(failures, {"plugin": "plugin", "version": "version", "failures": "failures", "code": "code",
                               "exception": "exception", "place": "at"}, as_json=False)


def _for_people(row: dict[str, Any]) -> dict[str, Any]:
    state = f"{row['state']}, {row['percent']} %" if row["state"] in ("staged", "halted") else row["state"]
    times = {key: f"{row[name]:.3g} ms" if row[name] is not None else "–" for key, name in (
        ("p50", "p50Ms"), ("p95", "p95Ms"))}
    return {**row, "state": state, "rate": f"{100 * row['failureRate']:.2f} %" if row["calls"] else "–", **times}
