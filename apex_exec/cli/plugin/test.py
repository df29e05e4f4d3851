"""``plugin test``: the author's tests, in the real jail."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from apex_exec.cli.output import print_json, progress, say
from apex_exec.cli.plugin.common import settings_with_hooks
from apex_exec.cli.root import EXIT_NO, AsJson, ConfigFile, examples, need_linux, plugin_app
from apex_exec.cli.verbs import Argument, Exit, Option
from apex_exec.common.words import clean

if TYPE_CHECKING:
    from apex_exec.market.review.coverage import Measured
    from apex_exec.registry.bundles.bundle import Bundle
    from apex_exec.registry.trials.testing import Run

MISSING_LINES_TOLD = 40


@plugin_app.command(epilog=examples("apex-exec plugin test ./my-plugin", "apex-exec plugin test . --seconds 10"))
def test(
    folder: Annotated[Path, Argument(metavar="DIR|FILE", help="The bundle.")],
    seconds: Annotated[float, Option(
        "--seconds", min=0.1, max=60.0, help="How long all tests together may take; the marketplace gives them 60.")
        ] = 60.0,
    as_json: AsJson = False, config: ConfigFile = None,
) -> None:
    """Runs a bundle's tests/ in a jailed worker and shows their coverage, as the marketplace measures it.

    Python tests are pytest's, with its fixtures such as capsys and caplog, and play the platform with
    workers.fake.FakePlatform. JavaScript tests (tests/*.test.js) use node:test, node:assert/strict and FakePlatform of
    @apex-exec/plugin/testing, and run under node --test, too. Its run_together (runTogether) runs hooks at once, to
    find races between calls where the manifest asks for limits.concurrency. The jail has no network, and no files
    except those in tmp_path. A bundle without any test fails.
    """
    need_linux()
    import msgspec

    from apex_exec import extras
    from apex_exec.market.review.coverage import REQUIRED
    from apex_exec.registry.bundles.bundle import read_path
    from apex_exec.registry.trials.packages import by_its_own_maps
    from apex_exec.registry.trials.testing import run_tests, sources_of

    extras.need("market", "plugin test")
    settings = settings_with_hooks(config)
    bundle, _ = read_path(folder)
    with progress(f"the tests of {bundle.manifest.id}, at most {seconds:g} s"):
        run = run_tests(bundle, settings, run_seconds=seconds, left_out=by_its_own_maps(bundle, sources_of(bundle)))
    good = not run.ended and not run.failed and run.passed > 0
    measured, why = _coverage(bundle, run)
    if as_json:
        facts = msgspec.to_builtins(run)
        del facts["arcs"], facts["left_out"]
        print_json({**facts, "ok": good, "coverage": None if measured is None else {
            "percent": float(measured.percent()), "requiredPercent": float(100 * REQUIRED), "lines": measured.lines,
            "linesRun": measured.lines_run, "branches": measured.branches, "branchesRun": measured.branches_run,
            "packages": run.left_out.packages,
            "missing": [{"path": path, "lines": lines} for path, lines in sorted(measured.missing.items())]}})
    else:
        for line in (*run.output, *run.failures):
            say(clean(line))
        if run.ended:
            where = f" in {run.test}" if run.test else " before the first test began"
            say(clean(f"the run did not finish{where}: {run.ended}"))
        elif not run.passed and not run.failed:
            say(f"there is no test: add tests/{'index.test.js' if sources_of(bundle) else 'test_plugin.py'}")
        if measured is not None:
            _say_coverage(measured)
            if run.left_out.packages:
                listed = ", ".join(run.left_out.packages)
                say(clean(f"  not counted, vendored by the bundle's lock: {listed}" if run.left_out.files else
                          f"  not counted, by the bundle's source map: {listed} "
                          "(a marketplace believes only a map that its operator has made)"))
        elif why:
            say(f"coverage: nothing was measured: {why}")
        say(f"{bundle.manifest.id} {bundle.manifest.version}: {run.passed} passed, {run.failed} failed "
              f"in {run.seconds:.1f} s, isolation {run.level}")
    raise Exit(0 if good else EXIT_NO)


def _coverage(bundle: Bundle, run: Run) -> tuple[Measured | None, str]:
    """How much of the plugin's code the tests ran, or why that is not known."""
    from apex_exec.errors import Refusal
    from apex_exec.market.review.coverage import measure
    from apex_exec.registry.trials.testing import sources_of

    if run.ended or not run.passed:
        return None, "the run did not finish" if run.ended else ""
    try:
        return measure(bundle.files, run.arcs, sources_of(bundle), run.left_out), ""
    except Refusal as error:
        return None, error.message


def _say_coverage(measured: Measured) -> None:
    from apex_exec.market.review.coverage import REQUIRED

    say(f"coverage {measured.percent()} %: {measured.lines_run} of {measured.lines} lines, {measured.branches_run} of "
        f"{measured.branches} branches (the marketplace asks for {float(100 * REQUIRED):g} %)")
    for path, lines in sorted(measured.missing.items()):
        more = f" and {len(lines) - MISSING_LINES_TOLD} more" if len(lines) > MISSING_LINES_TOLD else ""
        say(f"  {path}: not run: {', '.join(map(str, lines[:MISSING_LINES_TOLD]))}{more}")
