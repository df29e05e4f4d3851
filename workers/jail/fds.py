"""Layer ``fds``: link, marks and death pipe stay; 0 to 2 are /dev/null; all else is closed.

The link, the marks and the death pipe lead to this worker's own daemon and to nothing else, so that a worker
cannot name itself, reach another one, or speak to the host's or the administrator's socket.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import select
from typing import Any

from workers.jail.base import ACTIVE, PLACE_FDS, Child, Outcome, libc

KEPT_MAX = 6
"""The highest descriptor that stays: 3 link, 4 marks, 5 death pipe, 6 own statm until the plugin is loaded."""
_HIGH = 64
_ASKED_MAX = 1000


class _Poll(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


class Fds:
    """Closes what a worker has no business with."""

    name = "fds"

    def __init__(self, _plan: dict[str, Any]) -> None:
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        asked = min(_ASKED_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        numbers = [fd for fd in range(KEPT_MAX + 1, asked) if fd not in PLACE_FDS]
        self._questions = (_Poll * len(numbers))(*(_Poll(fd, 0, 0) for fd in numbers))
        self._all_closed = bytes((_Poll * len(numbers))(*(_Poll(fd, 0, select.POLLNVAL) for fd in numbers)))

    def apply(self, child: Child) -> Outcome:
        """Renumbers the kept descriptors to 3, 4, 5 and opens statm as 6: there is no /proc later."""
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, _HIGH) for fd in child.fds]
        for fd in (0, 1, 2):
            os.dup2(self._null, fd)
        for index, fd in enumerate(high):
            os.dup2(fd, 3 + index, inheritable=False)
        os.closerange(KEPT_MAX, PLACE_FDS.start)
        os.closerange(PLACE_FDS.stop, 2**31 - 1)
        child.fds = (3, 4, 5)
        with contextlib.suppress(OSError):
            child.statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        return ACTIVE

    def check(self, child: Child) -> str:
        """Asks about the first thousand numbers in one poll(2): each closed one is answered POLLNVAL."""
        libc.poll(self._questions, len(self._questions), 0)
        return "" if bytes(self._questions) == self._all_closed else "other descriptors are open"
