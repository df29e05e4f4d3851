"""The checks that a submission must pass before a person reviews it, done by the machine; the findings are signed.

scan · tests · coverage · readme · pricing · support. The parts that run plugin code (the jailed tests) and the static
scan are passed in as functions, so that this file decides and runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from apex_exec.common.canonical_json import canonical_json
from apex_exec.errors import Refusal
from apex_exec.market.money.pricing import Price, parse_price
from apex_exec.market.review.coverage import REQUIRED, Measured, measurable, measure, ranges
from apex_exec.market.review.readme import readme_problems
from apex_exec.registry.bundles.bundle import Bundle
from apex_exec.registry.scan.findings import STEERS
from apex_exec.registry.trials.packages import by_its_own_maps
from apex_exec.registry.trials.testing import Proof, Run, sources_of

RESPONSE_HOURS_MAX = 24
MESSAGES_MAX = 50
Lines = dict[str, list[int]]
"""path → line numbers."""
LIMIT_CHARACTERS_MAX = 400
RANGED_FILES_MAX, RANGES_CHARS_MAX = 200, 20_000
"""Of how many files, and how much of each, the findings say line by line what was run."""
Scanned = tuple[list[str], list[str]]
"""The scan's errors and its warnings, one line each."""
SIGNED_PREFIX = b"apex-exec checks v1\n"


class Check(msgspec.Struct, frozen=True):
    """One requirement and its result; ``problems`` is empty if it is met."""

    name: str
    problems: list[str]
    detail: dict[str, Any] = {}

    @property
    def passed(self) -> bool:
        """Whether the requirement is met."""
        return not self.problems


class Findings(msgspec.Struct, frozen=True):
    """All requirements for one bundle's bytes. Percentages are cut to two decimals: ``coverage`` is what the tests'
    process claims, for lines and branches; ``proven`` is the share of lines that were observed, from outside, to be
    executed."""

    digest: str
    plugin: str
    version: str
    checked_ns: int
    checks: list[Check]
    coverage: str = ""
    proven: str = ""

    @property
    def passed(self) -> bool:
        """Whether a person may review it."""
        return all(check.passed for check in self.checks)

    def text(self) -> str:
        """Canonical JSON, which is stored and signed."""
        return canonical_json(self)


def check(bundle: Bundle, *, now_ns: int, scan: Callable[[Bundle], Scanned], run_tests: Callable[[Bundle], Run],
          prove: Callable[[Bundle, Lines], Proof], contact: str, response_hours: int,
          scaffold: str) -> Findings:
    """Runs every check; a failing check does not keep the others from being reported. Blocks while the tests run.

    ``scan`` returns the findings; its warnings stop nothing and are for the reviewer. ``prove`` watches lines that the
    report claims were run. ``contact`` and ``response_hours`` come from the submission, for a manifest without
    ``support``.
    """
    manifest = bundle.manifest
    price, pricing = _pricing(bundle)
    errors, warnings = scan(bundle)
    steering = next((line for line in (*errors, *warnings) if STEERS in line), "")
    tests, covered, shares = _tests(bundle, run_tests, prove, steering)
    checks = [Check("scan", errors[:MESSAGES_MAX], {"warnings": warnings[:MESSAGES_MAX]}), tests, covered,
              Check("readme", readme_problems(bundle.files.get("README.md"), scaffold)), pricing,
              _support(bundle, price, contact, response_hours)]
    return Findings(bundle.digest, manifest.id, manifest.version, now_ns, checks, *shares)


def price_of(bundle: Bundle) -> Price:
    """The manifest's price. Raises Refusal: pricing_invalid, amount_invalid, unknown_currency."""
    return parse_price(bundle.manifest.pricing.model_dump(exclude_none=True))


def support_of(bundle: Bundle, contact: str, response_hours: int) -> tuple[str, int]:
    """Who answers and within how many hours: from the manifest, otherwise from the submission."""
    support = bundle.manifest.support
    return (support.contact, support.responseHours) if support is not None else (contact.strip(), response_hours)


def _pricing(bundle: Bundle) -> tuple[Price | None, Check]:
    try:
        price = price_of(bundle)
    except Refusal as error:
        return None, Check("pricing", [error.message])
    return price, Check("pricing", [], msgspec.to_builtins(price))


def _support(bundle: Bundle, price: Price | None, contact: str, response_hours: int) -> Check:
    contact, hours = support_of(bundle, contact, response_hours)
    problems = []
    if price is None or price.paid:
        if len(contact) < 3:
            problems.append("a paid plugin must name a contact for its users: `support.contact` in the manifest, or "
                            "--contact")
        if not 1 <= hours <= RESPONSE_HOURS_MAX:
            problems.append(f"a paid plugin must answer within {RESPONSE_HOURS_MAX} hours: "
                            f"`support.responseHours` in the "
                            "manifest, or --response-hours")
    return Check("support", problems, {"contact": contact, "responseHours": hours})


def _tests(bundle: Bundle, run_tests: Callable[[Bundle], Run],
           prove: Callable[[Bundle, Lines], Proof], steering: str) -> tuple[Check, Check, tuple[str, str]]:
    suffixes, place = ((".js", ".mjs"), "tests/*.test.js") if sources_of(bundle) else ((".py",), "tests/test_*.py")
    if not any(path.startswith("tests/") and path.endswith(suffixes) for path in bundle.files):
        nothing = [f"the bundle has no tests: put them into {place}"]
        return Check("tests", nothing), Check("coverage", ["nothing was measured"]), ("", "")
    try:
        run = run_tests(bundle)
    except Refusal as error:
        return Check("tests", [error.message]), Check("coverage", ["nothing was measured"]), ("", "")
    problems = [run.ended] if run.ended else []
    if not run.ended and run.passed + run.failed == 0:
        problems.append("no test was found: name files tests/*.test.js and call test()" if sources_of(bundle) else
                        "no test was found: name files test_*.py and functions test_*")
    if run.failed:
        problems += [f"{run.failed} of {run.passed + run.failed} tests failed", *run.failures[:MESSAGES_MAX]]
    tests = Check("tests", problems, {"passed": run.passed, "failed": run.failed, "seconds": round(run.seconds, 3)})
    if run.ended or run.passed == 0:
        return tests, Check("coverage", ["nothing was measured: the tests did not finish"
                                         if run.ended else "nothing was measured"]), ("", "")
    return tests, *_coverage(bundle, run, prove, steering)


def _coverage(bundle: Bundle, run: Run, prove: Callable[[Bundle, Lines], Proof],
              steering: str) -> tuple[Check, tuple[str, str]]:
    try:
        found = measure(bundle.files, run.arcs, sources_of(bundle), run.left_out)
        proof = prove(bundle, found.claims) if found.enough else Proof()
    except Refusal as error:
        return Check("coverage", [error.message]), ("", "")
    if steering:  # who can write to the interpreter's memory can have any line executed: seeing it proves nothing
        proof.proven, proof.limit = 0, f"what was observed proves nothing: {steering}"[:LIMIT_CHARACTERS_MAX]
    proven = Measured(found.lines, proof.proven, 0, 0).percent()
    detail = {"lines": found.lines, "linesRun": found.lines_run, "branches": found.branches,
              "branchesRun": found.branches_run, "percent": found.percent(),
              "files": sorted(measurable(bundle.files, sources_of(bundle), run.left_out)), "proven": proof.proven,
              "provenPercent": proven, "claimed": found.lines_run - proof.proven,
              "claimedBranches": found.branches_run, "limit": proof.limit, "packages": run.left_out.packages,
              "run": _by_line(found.run), "missed": _by_line(found.missing)}
    if proof.path:
        return Check("coverage", [f"the report is forged: {proof.path}:{proof.line} is reported as run by the tests, "
                                  "but is not"], detail), ("", "")
    problems = [] if found.enough else [
        f"{found.percent()} % of lines and branches are covered; {float(REQUIRED * 100):.0f} % are required", *(
            f"{path}: not run: {', '.join(map(str, lines[:40]))}" for path, lines in sorted(found.missing.items()))]
    if problems and (claimed := set(by_its_own_maps(bundle, sources_of(bundle)).packages) - set(run.left_out.packages)):
        problems.append(f"the code of {', '.join(sorted(claimed))} counts, since this marketplace has no source map of "
                        f"its own for these bytes: its operator builds src/ and puts the map into `market.maps`")
    return Check("coverage", problems[:MESSAGES_MAX], detail), (found.percent(), proven)


def _by_line(lines: Lines) -> dict[str, str]:
    """Which lines of each file, for the page that shows a reviewer the source."""
    return {path: ranges(numbers, RANGES_CHARS_MAX) for path, numbers in sorted(lines.items())[:RANGED_FILES_MAX]}
