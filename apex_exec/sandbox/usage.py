"""What a worker uses, read cheaply: one pread of an open /proc file where possible, psutil where it must be exact.

Measured: pread of an open ``statm`` or ``schedstat`` 1 µs; psutil's ``memory_full_info`` (unique set size) 125 µs. So
the exact figure is asked for only where the cheap one could matter.
"""

from __future__ import annotations

import os

import psutil

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
EXACT_STEP_BYTES = 1024 * 1024
"""How far the cheap figure must have moved before the exact one is read again."""


class ProcessUsage:
    """Open files on one process; they name that process only, whatever its pid is given to later.

    Raises OSError from the constructor where the process is gone already.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._statm = os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._stat = -1
        try:
            self._schedstat = os.open(f"/proc/{pid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # a kernel without CONFIG_SCHED_INFO: ticks of 10 ms have to do
            self._schedstat = -1
            try:
                self._stat = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                os.close(self._statm)
                raise
        self._process: psutil.Process | None = None
        self._exact_at_bytes = -EXACT_STEP_BYTES
        self._shared_bytes = 0

    def cpu_ns(self) -> int:
        """CPU time used so far (a worker has one thread). Raises ProcessLookupError where it is dead."""
        if self._schedstat >= 0:
            return int(os.pread(self._schedstat, 64, 0).split(b" ", 1)[0])
        fields = os.pread(self._stat, 1024, 0).rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK_NS

    def anonymous_bytes(self) -> int:
        """Resident anonymous pages, those still shared with the zygote included: never less than the unique size."""
        fields = os.pread(self._statm, 128, 0).split()
        return (int(fields[1]) - int(fields[2])) * PAGE_BYTES

    def memory_bytes(self, exact_above_bytes: int) -> int:
        """The process's own memory (USS), estimated from the resident size and the latest exact reading.

        Read exactly at first, and where the estimate is above ``exact_above_bytes`` and has moved by a megabyte.
        """
        anonymous = self.anonymous_bytes()
        moved = abs(anonymous - self._exact_at_bytes) >= EXACT_STEP_BYTES
        if moved and (self._process is None or anonymous > exact_above_bytes):
            self._exact(anonymous)
        return max(0, anonymous - self._shared_bytes)

    def _exact(self, anonymous: int) -> bool:
        try:
            if self._process is None:
                self._process = psutil.Process(self.pid)
            self._shared_bytes = max(0, anonymous - int(self._process.memory_full_info().uss))
        except (psutil.Error, OSError):  # dead meanwhile, or not ours to read
            return False
        self._exact_at_bytes = anonymous
        return True

    def exact_bytes(self) -> int | None:
        """The unique set size now; None where it cannot be had. Only this is evidence."""
        anonymous = self.anonymous_bytes()
        if not self._exact(anonymous):
            return None
        return max(0, anonymous - self._shared_bytes)

    def close(self) -> None:
        """Releases the files."""
        for fd in (self._statm, self._schedstat, self._stat):
            if fd >= 0:
                os.close(fd)
