"""Ten thousand histories with every fault there is: one verdict a call, order and bounds kept, nothing lost."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HISTORIES = (300, pytest.param(12_000, marks=pytest.mark.slow))


def test_a_seed_is_replayed_with_its_story() -> None:
    told = [subprocess.run([sys.executable, "-m", "tests.sim", "--seed", "7"], cwd=ROOT, capture_output=True, text=True,
                           check=True).stdout for _ in range(2)]
    assert "InvokeRequested" in told[0] and "→ Verdict" in told[0]
    first, second = (re.sub("at 0x[0-9a-f]+", "", story) for story in told)
    assert first == second


@pytest.mark.timeout(600)
@pytest.mark.parametrize("histories", HISTORIES)
def test_every_simulated_history_keeps_the_invariants(histories: int) -> None:
    share = histories // 2
    runs = [subprocess.Popen([sys.executable, "-m", "tests.sim", "--count", str(share), "--start", str(start)],
                             cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
            for start in (0, share)]
    told = [run.communicate(timeout=600)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], "\n".join(told)
