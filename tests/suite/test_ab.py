"""``python -m benchmarks ab``: both commits run, are asked the same, and are compared."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon import ROOT


def ab(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "benchmarks", "ab", *arguments], cwd=ROOT, capture_output=True,
                          text=True, timeout=400)


@pytest.mark.slow
@pytest.mark.timeout(450)
def test_two_commits_are_compared_by_writes_and_queries(tmp_path: Path) -> None:
    done = ab(".", str(ROOT), "SQLite, writes, log", "SQLite, point query", "--repetitions", "2", "--calls", "20",
              "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "ab.json").read_text())["rows"]
    assert {(row["contender"], row["figure"]) for row in rows} == {
        (side, figure) for side in ("old", "new") for figure in ("calls/s", "p50", "p99", "CPU")}
    cases = {(row["conditions"]["workload"], row["conditions"]["case"]) for row in rows}
    assert len(cases) == 4 and all(len(row["values"]) == 2 and min(row["values"]) > 0 for row in rows)
    table = [line for line in done.stdout.splitlines() if "| SQLite, writes, log | one plugin |" in line]
    assert len(table) == 3, "old, new, and the one by the other"


def test_what_is_no_commit_and_no_workload_is_one_line() -> None:
    for arguments, words in (((".", ".", "tea"), "no such workload: tea"), (("no-such-commit", "."), "no-such-commit")):
        done = ab(*arguments)
        assert done.returncode and words in done.stderr.splitlines()[-1]
