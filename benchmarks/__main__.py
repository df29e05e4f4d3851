"""``python -m benchmarks [NAME …]``: runs all benchmarks, or those named; results as JSON, tables and plots.

``python -m benchmarks ab OLD NEW [WORKLOAD …]`` compares two commits (``ab``)."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

from benchmarks.lab import RESULTS, Lab


def names() -> list[str]:
    """Every benchmark there is."""
    return sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))


def main() -> int:
    """The command line."""
    if sys.argv[1:2] == ["ab"]:
        from benchmarks import ab

        return ab.main(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of: {', '.join(names())}, report")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, once: does it run?")
    parser.add_argument("--repetitions", type=int, default=5, metavar="N", help="rounds per contender (default 5)")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="where results go")
    arguments = parser.parse_args()
    chosen = arguments.names or [*names(), "report"]
    unknown = set(chosen) - {*names(), "report"}
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    for name in chosen:
        if name == "report":
            from benchmarks import report

            report.write(arguments.out, Path(__file__).parent / "README.md")
            continue
        lab = Lab(name, arguments.quick, arguments.repetitions)
        begun = time.monotonic()
        importlib.import_module(f"benchmarks.bench_{name}").run(lab)
        path = lab.save(arguments.out)
        print(f"\n## {name}, {time.monotonic() - begun:.0f} s\n\n{lab.table()}\n", flush=True)
        for note in lab.notes:
            print(f"- {note}")
        print(f"written: {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
