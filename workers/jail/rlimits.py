"""Layer ``rlimits``: the kernel's own limits, and the memory limit that is set once the plugin is known."""

from __future__ import annotations

import os
import resource
from typing import Any

from workers.jail.base import ACTIVE, Child, Outcome

CPU_SECONDS_MAX = 3600
"""Total seconds and not a rate: a backstop. The governor and the deadline act long before, and a worker is recycled."""
OPEN_FILES_MAX = 32
"""Bounds the socket buffers (kernel memory) that a worker can have: an event loop needs three."""
CORE_BYTES_MAX = 1
"""One byte is too small for a core file. If ``core_pattern`` is a pipe (apport, systemd-coredump), the kernel starts
the helper whatever the limit is, even with 0, and would give it a worker's memory at the machine's cost. Only the value
1 prevents that (core(5), and ``limit == 1`` in the kernel's fs/coredump.c)."""
STACK_BYTES_MAX = 8 * 1024 * 1024
DATA_SLACK_BYTES = 8 * 1024 * 1024
"""Room above the plugin's memory for the interpreter's own growth (measured)."""
ADDRESS_SLACK_BYTES = 64 * 1024 * 1024
"""RLIMIT_AS is the second wall, for what RLIMIT_DATA does not count; arenas reserve far more than they use."""

# NPROC counts all processes of a uid, and ignores root: seccomp is what forbids fork. SIGXCPU comes first, and SIGKILL
# 5 s later.
LIMITS: tuple[tuple[int, int, int], ...] = (
    (resource.RLIMIT_CORE, CORE_BYTES_MAX, CORE_BYTES_MAX),
    (resource.RLIMIT_FSIZE, 0, 0),
    (resource.RLIMIT_NOFILE, OPEN_FILES_MAX, OPEN_FILES_MAX),
    (resource.RLIMIT_CPU, CPU_SECONDS_MAX, CPU_SECONDS_MAX + 5),
    (resource.RLIMIT_STACK, STACK_BYTES_MAX, STACK_BYTES_MAX),
    (resource.RLIMIT_NPROC, 0, 0),
    (resource.RLIMIT_MEMLOCK, 0, 0),
    (resource.RLIMIT_MSGQUEUE, 0, 0),
    (resource.RLIMIT_SIGPENDING, 64, 64),
    (resource.RLIMIT_NICE, 0, 0),
    (resource.RLIMIT_RTPRIO, 0, 0),
)


class Rlimits:
    """The limits of every worker, whatever its plugin."""

    name = "rlimits"

    def __init__(self, _plan: dict[str, Any]) -> None:
        pass

    def apply(self, child: Child) -> Outcome:
        """A lower existing limit stays, except that of cores if it can be raised. Raises OSError."""
        files = child.scratch["bytes"] if child.scratch else 0
        for which, soft, hard in LIMITS:
            if which == resource.RLIMIT_FSIZE:
                soft = hard = files
            had = resource.getrlimit(which)[1]
            if had != resource.RLIM_INFINITY:
                hard = min(hard, had)
            resource.setrlimit(which, (min(soft, hard), hard))
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (CORE_BYTES_MAX, CORE_BYTES_MAX))
        except ValueError:  # the daemon's own hard limit is 0, and only root may raise it
            return Outcome("active", "RLIMIT_CORE stays 0: a core_pattern that is a pipe still receives cores")
        return ACTIVE

    def check(self, child: Child) -> str:
        """Checks nothing: the selftest tries to raise the limits at the end, when the capabilities are gone."""
        return ""


def limit_memory(statm: int, memory_bytes_max: int) -> int:
    """Limits the calling process to its present size plus ``memory_bytes_max``, and closes ``statm``. Returns VmData in
    bytes.

    RLIMIT_DATA is the limit that works for Python at once: a refused allocation is a MemoryError. What it does not
    count (shared, growing-down and file mappings), seccomp refuses, or RLIMIT_AS bounds if seccomp is not in force.
    """
    if statm < 0:
        size, data = 512 * 1024 * 1024, 64 * 1024 * 1024  # without /proc: about the size of a preloaded interpreter
    else:
        try:
            fields = os.read(statm, 256).split()
        finally:
            os.close(statm)
        page = resource.getpagesize()
        size, data = int(fields[0]) * page, int(fields[5]) * page
    bound = data + memory_bytes_max + DATA_SLACK_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
    wall = size + memory_bytes_max + DATA_SLACK_BYTES + ADDRESS_SLACK_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (wall, wall))
    return data
