"""Reads cheaply what a worker uses: one pread of an open /proc file if possible, psutil if the figure must be exact.

Measured: a pread of an open ``statm`` or ``schedstat`` takes 1 µs; psutil's ``memory_full_info`` (unique set size)
takes 125 µs. So we ask for the exact figure only if the cheap one could matter.
"""

from __future__ import annotations

import os

import psutil

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
EXACT_STEP_BYTES = 1024 * 1024
"""How far the cheap figure must have moved before we read the exact one again."""


class ProcessUsage:
    """Open files about one process. They are about that process only, even if its pid is reused.

    The constructor raises OSError if the process is already gone.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._statm = os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._stat = -1
        try:
            self._schedstat = os.open(f"/proc/{pid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # a kernel without CONFIG_SCHED_INFO; ticks of 10 ms have to suffice
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
        """The CPU time used so far (a worker has one thread). Raises ProcessLookupError if the worker is dead."""
        if self._schedstat >= 0:
            return int(os.pread(self._schedstat, 64, 0).split(b" ", 1)[0])
        fields = os.pread(self._stat, 1024, 0).rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK_NS

    def anonymous_bytes(self) -> int:
        """Resident anonymous pages, including those still shared with the zygote: never less than the unique size."""
        fields = os.pread(self._statm, 128, 0).split()
        return (int(fields[1]) - int(fields[2])) * PAGE_BYTES

    def memory_bytes(self, exact_above_bytes: int) -> int:
        """The process's own memory (USS), estimated from the resident size and the latest exact reading.

        It is read exactly the first time, and if the estimate is above ``exact_above_bytes`` and has moved by a
        megabyte.
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
        except (psutil.Error, OSError):  # dead meanwhile, or we may not read it
            return False
        self._exact_at_bytes = anonymous
        return True

    def exact_bytes(self) -> int | None:
        """The unique set size now; None if it is unavailable. Only this figure is evidence."""
        anonymous = self.anonymous_bytes()
        if not self._exact(anonymous):
            return None
        return max(0, anonymous - self._shared_bytes)

    def sleeps(self) -> bool:
        """Whether the process waits for something at this moment. One that waits for a core, or is held back by the
        kernel or by a signal, does not. Takes 20 µs."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                return file.read(1024).rpartition(b")")[2].split()[0] == b"S"
        except (OSError, IndexError):
            return False

    def close(self) -> None:
        """Closes the files."""
        for fd in (self._statm, self._schedstat, self._stat):
            if fd >= 0:
                os.close(fd)
