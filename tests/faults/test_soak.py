"""A few seconds of the soak: nothing lost, doubled, mixed up, leaked or unrecorded while everything is being killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon import ROOT


@pytest.mark.slow
def test_a_short_soak_loses_nothing(tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    done = subprocess.run([sys.executable, "-m", "benchmarks.soak", "--seconds", "12", "--supervisor-seconds", "4",
                           "--json", str(out)], capture_output=True, text=True, timeout=110, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(out.read_text())
    assert figures["calls"] > 2000 and sum(figures["harm"].values()) > 10
