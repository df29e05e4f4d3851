"""Cheap readings of a real process agree with psutil's."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from apex_exec.sandbox.usage import ProcessUsage

CHILD = """
import sys
kept = bytearray(int(sys.argv[1]) << 20)
kept[::4096] = b"x" * len(kept[::4096])
n = 0
while n < 3_000_000:
    n += 1
print("ready", flush=True)
sys.stdin.read()
"""


def start(megabytes: int) -> subprocess.Popen[str]:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(megabytes)], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    return child


def test_memory_and_cpu_are_what_psutil_says() -> None:
    with start(40) as child:
        usage = ProcessUsage(child.pid)
        other = psutil.Process(child.pid)
        uss = other.memory_full_info().uss
        assert abs(usage.memory_bytes(10**9) - uss) < 2**20
        exact = usage.exact_bytes()
        assert exact is not None and abs(exact - uss) < 2**20
        times = other.cpu_times()
        assert abs(usage.cpu_ns() / 1e9 - times.user - times.system) < 0.05
        usage.close()
        child.kill()


def test_the_files_stay_those_of_the_dead_process() -> None:
    child = start(1)
    usage = ProcessUsage(child.pid)
    child.kill()
    child.communicate()
    with pytest.raises((OSError, IndexError, ValueError)):
        usage.cpu_ns()
        usage.memory_bytes(0)
    usage.close()
    with pytest.raises(OSError):
        ProcessUsage(child.pid)
