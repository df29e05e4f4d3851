"""``plugin test``: the author's tests, in the real jail."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apex_exec.cli.output import clean, print_json, say
from apex_exec.cli.root import EXIT_NO, AsJson, ConfigFile, examples, plugin_app


@plugin_app.command(epilog=examples("apex-exec plugin test ./my-plugin"))
def test(
    folder: Annotated[Path, typer.Argument(metavar="DIR|FILE", help="The bundle.")],
    as_json: AsJson = False, config: ConfigFile = None,
) -> None:
    """Runs a bundle's tests/ by pytest in a jailed worker, as the marketplace does. No test is a failure.

    Tests play the platform with workers.fake.FakePlatform; there are no files and no network in there.
    """
    import msgspec

    from apex_exec.config import load_settings
    from apex_exec.registry.bundle import read_path
    from apex_exec.registry.testing import run_tests

    bundle, _ = read_path(folder)
    run = run_tests(bundle, load_settings(config))
    good = not run.ended and not run.failed and run.passed > 0
    if as_json:
        facts = msgspec.to_builtins(run)
        del facts["arcs"]
        print_json({**facts, "ok": good})
    else:
        for line in (*run.output, *run.failures):
            say(clean(line))
        if run.ended:
            say(clean(f"the run did not come to its end: {run.ended}"))
        elif not run.passed and not run.failed:
            say("there is no test: add tests/test_plugin.py")
        say(f"{bundle.manifest.id} {bundle.manifest.version}: {run.passed} passed, {run.failed} failed "
              f"in {run.seconds:.1f} s, isolation {run.level}")
    raise typer.Exit(0 if good else EXIT_NO)
