"""``market submit`` and ``status``: a bundle on its way into the marketplace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from apex_exec.cli.market.common import ask, show_checks, show_queue
from apex_exec.cli.output import progress
from apex_exec.cli.plugin.common import bundle_bytes
from apex_exec.cli.root import EXIT_NO, AsJson, ConfigFile, RuntimeDir, examples, market_app, this_user
from apex_exec.cli.verbs import Argument, Exit, Option

CHECKS_TIMEOUT_MS = 300_000
"""A submission waits for its tests, which have a limit of their own."""


@market_app.command(epilog=examples("apex-exec market submit ./sums --as ann",
                                    "apex-exec market submit sums.apx --json"))
def submit(path: Annotated[Path, Argument(help="The bundle: a folder or an .apx file.")],
           submitter: Annotated[str, Option("--as", metavar="NAME", help="The submitter's name, for the record.")] = "",
           contact: Annotated[str, Option(help="The support contact, if the manifest has no `support`.")] = "",
           response_hours: Annotated[int, Option(help="Within how many hours, at most 24.")] = 0,
           as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Submits a bundle; the machine checks it at once. Exit status 1 if a requirement is not met."""
    with progress("scan, tests in the jail, coverage"):
        shown = ask(config, runtime_dir, "market.submit", CHECKS_TIMEOUT_MS, bundle=bundle_bytes(path, config),
                    submitter=submitter or this_user(), contact=contact, responseHours=response_hours)
    if not show_checks(shown, as_json):
        raise Exit(EXIT_NO)


@market_app.command(epilog=examples("apex-exec market status", "apex-exec market status 7",
                                    "apex-exec market status sums"))
def status(which: Annotated[str, Argument(help="A submission's number or a plugin; none: the queue.")] = "",
           as_json: AsJson = False, runtime_dir: RuntimeDir = None, config: ConfigFile = None) -> None:
    """Shows a submission: state, findings, moves, place in the queue and age."""
    args = {"submission": int(which)} if which.isdecimal() else {"plugin": which}
    shown = ask(config, runtime_dir, "market.status", **args)
    if isinstance(shown, list):
        show_queue(shown, as_json)
    else:
        show_checks(shown, as_json)
