"""Whether a process sleeps by its own wish: how a test knows that a hook has come to its ``time.sleep``."""

from __future__ import annotations

import subprocess
import time
from functools import cache
from pathlib import Path

UNKNOWN_SECONDS = 0.5
"""What a hook gets to reach its sleep where the kernel does not tell."""


def _where(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return ""


def _sleeps(pid: int, seconds: float) -> bool:
    due = time.monotonic() + seconds
    while "nanosleep" not in _where(pid):
        if time.monotonic() > due:
            return False
        time.sleep(0.005)
    return True


@cache
def _told() -> bool:
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            return _sleeps(child.pid, 5)
        finally:
            child.kill()


def wait_asleep(pid: int, seconds: float = 10.0) -> None:
    """Returns once the process is in a sleep; fails after ``seconds``. It reads where the kernel says that it waits."""
    if _told():
        assert _sleeps(pid, seconds), f"process {pid} did not come to its sleep within {seconds} s"
    else:
        time.sleep(UNKNOWN_SECONDS)
