"""Layer ``fds``: the link and the start counter stay; 0 to 2 become a private object that leads nowhere; everything
else is closed.

Link and start counter lead to this worker's own daemon and nowhere else, so that a worker can neither change its
identity nor reach another worker, nor talk to the host's or the administrator's socket. No other process has any of a
worker's open files: attributes of a shared file (its mode, owner, locks, offset, times) would be a channel between two
plugins that no permission allows. So there is no /dev/null either, whose times and locks the whole machine shares, and
no pipe that reports the supervisor's death to all workers: the link's end and PDEATHSIG do that.
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

LINK, START_COUNTER = 3, 4
KEPT_MAX = 5
"""The highest descriptor that stays: the worker's own statm, until the plugin is loaded. The numbers after
START_COUNTER then belong to the plugin, and only their modes may be changed (see the rules of ioctl in the seccomp
policy)."""
_HIGH = 64
_ASKED_MAX = 1000


class _Poll(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


class Fds:
    """Closes every descriptor that a worker does not need."""

    name = "fds"

    def __init__(self, _plan: dict[str, Any]) -> None:
        asked = min(_ASKED_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        numbers = [fd for fd in range(KEPT_MAX + 1, asked) if fd not in PLACE_FDS]
        self._questions = (_Poll * len(numbers))(*(_Poll(fd, 0, 0) for fd in numbers))
        self._all_closed = bytes((_Poll * len(numbers))(*(_Poll(fd, 0, select.POLLNVAL) for fd in numbers)))

    def apply(self, child: Child) -> Outcome:
        """Renumbers the kept descriptors to 3 and 4 and opens statm as 5, because there is no /proc later. Raises
        OSError.

        Reading 0 returns end-of-file at once, and writing 1 or 2 fails: it is a socket whose other end is closed.
        """
        nowhere, other_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        link, started, nothing = (fcntl.fcntl(fd, fcntl.F_DUPFD, _HIGH) for fd in (*child.fds, nowhere.detach()))
        other_end.close()
        for fd in (0, 1, 2):
            os.dup2(nothing, fd)
        os.dup2(link, LINK, inheritable=False)
        os.dup2(started, START_COUNTER, inheritable=False)
        os.closerange(KEPT_MAX, PLACE_FDS.start)
        os.closerange(PLACE_FDS.stop, 2**31 - 1)
        child.fds = (LINK, START_COUNTER)
        os.set_blocking(LINK, True)  # the filter lets nobody change this later
        with contextlib.suppress(OSError):
            child.statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        return ACTIVE

    def check(self, child: Child) -> str:
        """Asks about the first thousand numbers in one poll(2), which answers POLLNVAL for each closed one."""
        libc.poll(self._questions, len(self._questions), 0)
        return "" if bytes(self._questions) == self._all_closed else "other descriptors are open"
