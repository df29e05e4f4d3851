"""``tests/vm/run`` itself boots machines by hand only; here is what it says where it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

RUN = Path(__file__).with_name("run")


def test_what_is_missing_is_one_line_that_says_how_to_get_it(tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    done = subprocess.run([sys.executable, RUN], env={"PATH": str(tmp_path), "TMPDIR": str(tmp_path)}, check=False,
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.count("\n") == 1 and "apt-get install" in done.stderr and "qemu-system-x86" in done.stderr
    assert set(tmp_path.iterdir()) == before


def test_it_can_be_started() -> None:
    assert os.access(RUN, os.X_OK)
    done = subprocess.run([sys.executable, RUN, "--help"], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "--kernel" in done.stdout
