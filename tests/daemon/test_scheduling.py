"""The supervisor asks for a short slice, and its children do not inherit it."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import subprocess
import sys

from apex_exec.daemon.scheduling import SLICE_NS
from tests.support import need
from tests.support.daemon import ROOT

SYS_SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}
CHILD = """
import os, sys
from apex_exec.daemon.scheduling import ask_for_short_slice
os.nice(3)
assert ask_for_short_slice()
child = os.fork()
if child == 0:
    sys.stdin.read()
    os._exit(0)
print(child, flush=True)
sys.stdin.read()
"""


def attributes(pid: int) -> tuple[int, int]:
    """(nice, slice in ns) of a process, as the kernel says."""
    got = ctypes.create_string_buffer(48)
    assert ctypes.CDLL(None).syscall(SYS_SCHED_GETATTR[platform.machine()], pid, got, 48, 0) == 0
    _, _, _, nice, _, runtime, _, _ = struct.unpack("=IIQiIQQQ", got.raw)
    return nice, runtime


def test_the_slice_is_short_the_niceness_kept_and_children_begin_with_the_usual_one() -> None:
    need(attributes(0)[1] > 0, "this kernel (before 6.12) knows no slices of single threads")
    with subprocess.Popen([sys.executable, "-c", CHILD], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert attributes(process.pid) == (3, SLICE_NS)
        assert attributes(child) == (3, attributes(os.getpid())[1])
