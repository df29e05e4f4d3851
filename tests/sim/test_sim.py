"""Ten thousand histories with every fault there is: one verdict a call, order and bounds kept, nothing lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HISTORIES = 12_000


@pytest.mark.timeout(600)
def test_every_simulated_history_keeps_the_invariants() -> None:
    share = HISTORIES // 2
    runs = [subprocess.Popen([sys.executable, "-m", "tests.sim", "--count", str(share), "--start", str(start)],
                             cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
            for start in (0, share)]
    told = [run.communicate(timeout=600)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], "\n".join(told)
