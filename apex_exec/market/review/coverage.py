"""Test coverage, computed outside the jail from what was reported in it: the jumps between lines that a tracer saw, or
in JavaScript the counters that are not zero.

We fix what counts, not the plugin: every source file that a worker would load, lines (in JavaScript statements) and
branches together, without omit, pragma or configuration file. Only packages are left out: of npm, bundled into a file,
and of PyPI, vendored (``registry.trials.packages`` says by whose word). The share is (lines run + branches taken) /
(lines + branches). It must be at least 70 % exactly; nothing is rounded before the comparison.

The plugin's source is hostile to a parser, too, so ``measure`` runs coverage.py in a process of its own with limits on
time and memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable
from fractions import Fraction
from pathlib import Path

import msgspec

from apex_exec.common.child_process import run_module
from apex_exec.errors import Refusal
from apex_exec.registry.trials.packages import NOTHING, LeftOut

REQUIRED = Fraction(70, 100)
SECONDS_MAX = 60
MEMORY_BYTES_MAX = 1 << 30
_FORGED = "the tests reported"
ARCS_MAX = 200_000
"""How many jumps one run may report. 2 MiB of source have far fewer."""

Arcs = dict[str, list[tuple[int, int]]]
"""file → (from line, to line); a negative line is the entry or exit of the code object that begins there. In JavaScript
(number of a counter, how often it counted), the second number at least 1."""


class Measured(msgspec.Struct, frozen=True):
    """How much was run of what exists."""

    lines: int
    lines_run: int
    branches: int
    branches_run: int
    missing: dict[str, list[int]] = {}
    run: dict[str, list[int]] = {}
    """path → lines that are reported as run."""
    claims: dict[str, list[int]] = {}
    """path → what is to be proven: the lines of ``run``. In JavaScript the counters of statements that are reported as
    run, since all of a program may stand on one line."""

    @property
    def share(self) -> Fraction:
        """What was run divided by everything, exactly; 0 if there is nothing to run."""
        whole = self.lines + self.branches
        return Fraction(self.lines_run + self.branches_run, whole) if whole else Fraction(0)

    @property
    def enough(self) -> bool:
        """True from exactly 70 % on."""
        return self.share >= REQUIRED

    def percent(self) -> str:
        """The share with two decimals, cut and not rounded: 69.999 % reads 69.99."""
        hundredths = int(self.share * 10_000)
        return f"{hundredths // 100}.{hundredths % 100:02d}"


def measurable(files: dict[str, bytes], javascript: Collection[str] = (),
               left_out: LeftOut = NOTHING) -> dict[str, bytes]:
    """The files that count: the files ``javascript`` of a JavaScript bundle, else Python files other than the tests and
    what is left out."""
    if javascript:
        return {path: files[path] for path in javascript}
    skipped = set(left_out.files)
    return {path: body for path, body in files.items()
            if path.endswith(".py") and not path.startswith("tests/") and path not in skipped}


def ranges(lines: Iterable[int], characters_max: int) -> str:
    """``lines`` in order as 3-5,9; cut at a comma if that is longer than ``characters_max``."""
    parts: list[list[int]] = []
    for line in sorted(set(lines)):
        if parts and parts[-1][1] == line - 1:
            parts[-1][1] = line
        else:
            parts.append([line, line])
    text = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
    return text if len(text) <= characters_max else text[:characters_max].rpartition(",")[0]


def check_arcs(files: dict[str, bytes], arcs: Arcs, javascript: Collection[str] = ()) -> None:
    """Raises Refusal("report_forged") if a report names files or lines that the bundle does not have."""
    counted = measurable(files, javascript)
    if sum(map(len, arcs.values())) > ARCS_MAX:
        raise Refusal("report_forged", f"the tests reported more than {ARCS_MAX} jumps")
    for path, jumps in arcs.items():
        if path not in counted:
            raise Refusal("report_forged", f"the tests reported {path[:100]!a}, which is not a source of the bundle")
        if javascript:
            continue  # how many counters a file has is known only after it has been parsed
        last = counted[path].count(b"\n") + 1
        for jump in jumps:
            if any(abs(line) > last for line in jump):
                raise Refusal("report_forged", f"the tests reported line {max(map(abs, jump))} of {path}, but it ends "
                              f"at {last}")


def measure(files: dict[str, bytes], arcs: Arcs, javascript: Collection[str] = (),
            left_out: LeftOut = NOTHING) -> Measured:
    """The coverage of ``files`` by ``arcs``; ``javascript`` are the sources of a JavaScript bundle, and ``left_out`` is
    what does not count in them. Blocks for up to SECONDS_MAX.

    Raises Refusal: report_forged, source_not_measurable (it cannot be parsed within the limits on time and memory).
    """
    skipped = set(left_out.files)
    arcs = {path: jumps for path, jumps in arcs.items() if path not in skipped}
    check_arcs(files, arcs, javascript)
    counted = measurable(files, javascript, left_out)
    request = msgspec.msgpack.encode((counted, {path: arcs.get(path, []) for path in counted}, bool(javascript),
                                      left_out.ranges))
    try:
        done = run_module("apex_exec.market.review.coverage", data=request, seconds=SECONDS_MAX,
                          memory_bytes_max=MEMORY_BYTES_MAX, cpu_seconds_max=SECONDS_MAX)
        if done.status == 0:
            return msgspec.json.decode(done.output, type=Measured)
        why = done.last_words[:200]
        if why.startswith(_FORGED):
            raise Refusal("report_forged", why)
    except subprocess.TimeoutExpired:
        why = f"it took over {SECONDS_MAX} seconds"
    raise Refusal("source_not_measurable", f"coverage of the plugin's source cannot be computed: {why or 'it crashed'}",
                  hint="simplify the file that takes too long to parse")


def _report(files: dict[str, bytes], arcs: Arcs) -> Measured:
    from coverage import Coverage, CoverageData

    with tempfile.TemporaryDirectory() as temporary:
        root, store = Path(temporary) / "source", str(Path(temporary) / "data")
        paths = {name: root / name for name in files}
        for name, path in paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[name])
        data = CoverageData(basename=store)
        data.add_arcs({str(paths[name]): set(arcs[name]) for name in files})
        for path in paths.values():
            data.touch_file(str(path))  # a file that was never run counts with nothing run
        data.write()
        cover = Coverage(data_file=store, config_file=False, branch=True)
        for option in ("report:exclude_lines", "report:exclude_also", "report:partial_branches"):
            cover.set_option(option, [])
        cover.load()
        out = str(Path(temporary) / "report.json")
        cover.json_report(morfs=[str(path) for path in paths.values()], outfile=out)
        report = json.loads(Path(out).read_bytes())
        names = {str(path): name for name, path in paths.items()}
        totals = report["totals"]
        lines = {names[str(Path(path).absolute())]: found for path, found in report["files"].items()}
        missing, run = ({name: found[kind] for name, found in lines.items() if found[kind]}
                        for kind in ("missing_lines", "executed_lines"))
        return Measured(totals["num_statements"], totals["covered_lines"], totals["num_branches"],
                        totals["covered_branches"], missing, run, run)


def _counted(files: dict[str, bytes], arcs: Arcs, left_out: dict[str, list[tuple[int, int]]]) -> Measured:
    """The same for JavaScript: of the counters that a file was given, those that have counted."""
    from apex_exec.registry.scan.javascript.counters import points_of

    totals = [0, 0, 0, 0]
    missing: dict[str, list[int]] = {}
    run: dict[str, list[int]] = {}
    claims: dict[str, list[int]] = {}
    for path, body in files.items():
        points = points_of(body, left_out.get(path, ()))
        hit = {number for number, _ in arcs[path]}
        if any(not 0 <= number < len(points) for number in hit):
            sys.exit(f"{_FORGED} a counter that {path[:100]!a} does not have")
        lines: dict[int, bool] = {}
        for number, point in enumerate(points):
            totals[2 * point.is_branch] += 1
            totals[2 * point.is_branch + 1] += number in hit
            lines[point.line] = lines.get(point.line, False) or number in hit
        run[path] = sorted(line for line, is_run in lines.items() if is_run)
        missing[path] = sorted(line for line, is_run in lines.items() if not is_run)
        claims[path] = sorted(number for number in hit if not points[number].is_branch)
    missing, run, claims = ({path: found for path, found in lines.items() if found} for lines in (missing, run, claims))
    return Measured(totals[0], totals[1], totals[2], totals[3], missing, run, claims)


def _main() -> None:
    files, arcs, javascript, left_out = msgspec.msgpack.decode(
        sys.stdin.buffer.read(), type=tuple[dict[str, bytes], Arcs, bool, dict[str, list[tuple[int, int]]]])
    measured = Measured(0, 0, 0, 0)
    if files:
        measured = _counted(files, arcs, left_out) if javascript else _report(files, arcs)
    sys.stdout.buffer.write(msgspec.json.encode(measured))


if __name__ == "__main__":
    _main()
