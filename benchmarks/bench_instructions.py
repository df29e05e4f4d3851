"""Instructions that the supervisor executes for one invocation, counted by callgrind: the guard that no noise moves.

Two runs of ``hot_path`` that differ in their number of calls are counted; the difference is the calls' own. A run
before them is not counted: in a fresh checkout it compiles every module, which would be taken off the calls. Run with
``--check`` (``python -m benchmarks.bench_instructions --check``) it fails if a count differs from the one kept in
``instructions.json`` by more than its tolerance. Far fewer instructions fail too, since they are a count that went
wrong, or a gain that has to be kept: ``--keep`` writes the present count there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.lab import Lab

TITLE = "Instructions per invocation in the supervisor"
KEPT = Path(__file__).parent / "instructions.json"
TOLERANCE = 0.10
"""The count is repeatable to well below 1 % on one machine and one build of Python; libraries move it more."""
ROUNDS = (20, 220)


def count(at_once: int) -> float:
    """Instructions of one invocation where ``at_once`` are on the link. Raises LookupError without valgrind."""
    subprocess.run([sys.executable, *_program(1, at_once)], capture_output=True, check=True)
    few, many = (_run(rounds, at_once) for rounds in ROUNDS)
    return (many - few) / ((ROUNDS[1] - ROUNDS[0]) * at_once)


def _run(rounds: int, at_once: int) -> int:
    program = shutil.which("valgrind")
    if program is None:
        raise LookupError("valgrind is not installed (Debian's package valgrind)")
    with tempfile.TemporaryDirectory(prefix="apxv") as folder:
        out = Path(folder) / "callgrind"
        command = [program, "--tool=callgrind", f"--callgrind-out-file={out}", sys.executable,
                   *_program(rounds, at_once)]
        done = subprocess.run(command, capture_output=True, text=True, check=False,
                              env={**os.environ, "PYTHONHASHSEED": "0"})
        found = re.search(r"Collected : (\d+)", done.stderr)
        if found is None or done.returncode:
            raise LookupError(f"callgrind counted nothing, or not all: {done.stderr[-300:]}")
        return int(found[1])


def _program(rounds: int, at_once: int) -> tuple[str, ...]:
    return "-m", "benchmarks.hot_path", str(rounds), str(at_once)


def differences(now: dict[str, int], kept: dict[str, int]) -> list[str]:
    """Returns each count that differs from the one kept by more than the tolerance, in words."""
    return [f"{n} at once: {now[n]:,} against {before:,}" for n, before in kept.items()
            if abs(now[n] - before) > before * TOLERANCE]


def key() -> str:
    """A count holds for one build of Python on one architecture."""
    return f"{platform.machine()} cpython {platform.python_version()}"


def run(lab: Lab) -> None:
    """Adds the rows."""
    for at_once in (1, 8):
        try:
            lab.add("supervisor, one invocation", "instructions", "thousand", count(at_once) / 1000,
                    **{"on the link": at_once})
        except LookupError as error:
            lab.note(str(error))
            return
    lab.note("the played host, worker and ledger of benchmarks/hot_path.py are in it; repeatable, so changes show")


def main() -> int:
    """The guard's command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the count kept; 1 where it is beyond")
    parser.add_argument("--keep", action="store_true", help="keep the present count")
    arguments = parser.parse_args()
    kept = json.loads(KEPT.read_text("utf-8")) if KEPT.exists() else {}
    now = {str(at_once): round(count(at_once)) for at_once in (1, 8)}
    print(f"{key()}: {now}")
    if arguments.keep:
        KEPT.write_text(json.dumps({**kept, key(): now}, indent=1) + "\n", "utf-8")
    if not arguments.check:
        return 0
    if key() not in kept:
        print(f"no count is kept for {key()}; nothing to compare with (--keep)")
        return 0
    beyond = differences(now, kept[key()])
    if beyond:
        print(f"instructions an invocation differ from those kept by more than {TOLERANCE:.0%}: {'; '.join(beyond)}")
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
