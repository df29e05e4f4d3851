"""Layer ``fds``: link and marks stay; 0 to 2 are an object of the worker's own that leads nowhere; all else is closed.

The link and the marks lead to this worker's own daemon and to nothing else, so that a worker cannot name itself, reach
another one, or speak to the host's or the administrator's socket. No other process holds any of a worker's open files:
what is set on one (its mode, owner, locks, offset, times) would be read by whoever shares it, a line between two
plugins that no permission allows. So there is no /dev/null either, whose times and locks the whole machine shares, and
no pipe that tells all workers of the supervisor's death: the link's end and PDEATHSIG do that.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import select
import socket
from typing import Any

from workers.jail.base import ACTIVE, PLACE_FDS, Child, Outcome, libc

LINK, MARKS = 3, 4
KEPT_MAX = 5
"""The highest descriptor that stays: own statm until the plugin is loaded. The numbers after MARKS are then the
plugin's, and only their modes may be changed (see the rules of ioctl in the seccomp policy)."""
_HIGH = 64
_ASKED_MAX = 1000


class _Poll(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


class Fds:
    """Closes what a worker has no business with."""

    name = "fds"

    def __init__(self, _plan: dict[str, Any]) -> None:
        asked = min(_ASKED_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        numbers = [fd for fd in range(KEPT_MAX + 1, asked) if fd not in PLACE_FDS]
        self._questions = (_Poll * len(numbers))(*(_Poll(fd, 0, 0) for fd in numbers))
        self._all_closed = bytes((_Poll * len(numbers))(*(_Poll(fd, 0, select.POLLNVAL) for fd in numbers)))

    def apply(self, child: Child) -> Outcome:
        """Renumbers the kept descriptors to 3 and 4 and opens statm as 5: there is no /proc later. Raises OSError.

        Reading 0 is at its end at once, and writing 1 or 2 fails: a socket whose other end is closed.
        """
        nowhere, other_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        link, marks, nothing = (fcntl.fcntl(fd, fcntl.F_DUPFD, _HIGH) for fd in (*child.fds, nowhere.detach()))
        other_end.close()
        for fd in (0, 1, 2):
            os.dup2(nothing, fd)
        os.dup2(link, LINK, inheritable=False)
        os.dup2(marks, MARKS, inheritable=False)
        os.closerange(KEPT_MAX, PLACE_FDS.start)
        os.closerange(PLACE_FDS.stop, 2**31 - 1)
        child.fds = (LINK, MARKS)
        os.set_blocking(LINK, True)  # the filter lets nobody change it later
        with contextlib.suppress(OSError):
            child.statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        return ACTIVE

    def check(self, child: Child) -> str:
        """Asks about the first thousand numbers in one poll(2): each closed one is answered POLLNVAL."""
        libc.poll(self._questions, len(self._questions), 0)
        return "" if bytes(self._questions) == self._all_closed else "other descriptors are open"
