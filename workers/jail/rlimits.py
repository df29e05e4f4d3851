"""Layer ``rlimits``: the kernel's own caps, and the memory cap that is set when the plugin is known."""

from __future__ import annotations

import os
import resource
from typing import Any

from workers.jail.base import ACTIVE, Child, Outcome

CPU_SECONDS_MAX = 3600
"""Total seconds, not a rate: a backstop. The governor and the deadline fire long before, and a worker is recycled."""
OPEN_FILES_MAX = 32
"""Bounds the socket buffers (kernel memory) that a worker can hold: an event loop needs three."""
CORE_BYTES_MAX = 1
"""One byte is too little for a core file. If ``core_pattern`` is a pipe (apport, systemd-coredump), the kernel starts
the helper whatever the limit is, 0 too, and would hand it a worker's memory, at the machine's cost: 1 is the value by
which it is told not to (core(5), and ``limit == 1`` in the kernel's fs/coredump.c)."""
STACK_BYTES_MAX = 8 * 1024 * 1024
DATA_SLACK_BYTES = 8 * 1024 * 1024
"""Room above the plugin's memory for the interpreter's own growth (measured)."""
ADDRESS_SLACK_BYTES = 64 * 1024 * 1024
"""RLIMIT_AS is the second wall, for what RLIMIT_DATA does not count; arenas reserve far more than they use."""

# NPROC counts the whole uid, and root not at all: seccomp is what forbids fork. SIGXCPU comes first, SIGKILL 5 s later.
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
    """What every worker gets, whatever its plugin."""

    name = "rlimits"

    def __init__(self, _plan: dict[str, Any]) -> None:
        pass

    def apply(self, child: Child) -> Outcome:
        """A limit that already stands lower stays, but for that of cores, if it can be raised. Raises OSError."""
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
            return Outcome("active", "RLIMIT_CORE stays 0: a core_pattern that is a pipe is given cores all the same")
        return ACTIVE

    def check(self, child: Child) -> str:
        """Whether they can be raised again is tried at the end, when the capabilities are gone."""
        return ""


def limit_memory(statm: int, memory_bytes_max: int) -> int:
    """Caps the calling process at what it has now and ``memory_bytes_max``; closes ``statm``. Returns VmData, bytes.

    RLIMIT_DATA is the cap that works for Python at once: a refused allocation is a MemoryError. What it does not count
    (shared, growing-down and file mappings) seccomp refuses, and RLIMIT_AS bounds where seccomp is not.
    """
    if statm < 0:
        size, data = 512 * 1024 * 1024, 64 * 1024 * 1024  # without /proc: about what a preloaded interpreter has
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
