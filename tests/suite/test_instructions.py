"""The guard of the instructions of one invocation: what its two numbers make of a change."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.daemon import ROOT

KEPT = {"1": 240_000, "8": 159_000}
ASK = """
import json, sys
from benchmarks.bench_instructions import differences
print(json.dumps([differences(now, json.loads(sys.argv[1])) for now in json.loads(sys.argv[2])]))
"""


def test_a_count_that_is_far_from_the_one_kept_is_told_whichever_way_it_went() -> None:
    counts = [{"1": 245_000, "8": 150_000}, {"1": 270_000, "8": 159_000}, {"1": 240_000, "8": 122_352}]
    done = subprocess.run([sys.executable, "-c", ASK, json.dumps(KEPT), json.dumps(counts)], cwd=ROOT, check=True,
                          capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout) == [
        [], ["1 at once: 270,000 against 240,000"], ["8 at once: 122,352 against 159,000"]]
