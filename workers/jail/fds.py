"""Layer ``fds``: link, marks and death pipe stay; 0 to 2 are /dev/null; all else is closed.

The link, the marks and the death pipe lead to this worker's own daemon and to nothing else, so that a worker
cannot name itself, reach another one, or speak to the host's or the administrator's socket.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import Any

from workers.jail.base import ACTIVE, Child, Outcome

KEPT_MAX = 6
"""The highest descriptor that stays: 3 link, 4 marks, 5 death pipe, 6 own statm until the plugin is loaded."""
_HIGH = 64


class Fds:
    """Closes what a worker has no business with."""

    name = "fds"

    def __init__(self, _plan: dict[str, Any]) -> None:
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

    def apply(self, child: Child) -> Outcome:
        """Renumbers the kept descriptors to 3, 4, 5 and opens statm as 6: there is no /proc later."""
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, _HIGH) for fd in child.fds]
        for fd in (0, 1, 2):
            os.dup2(self._null, fd)
        for index, fd in enumerate(high):
            os.dup2(fd, 3 + index, inheritable=False)
        os.closerange(KEPT_MAX, 2**31 - 1)
        child.fds = (3, 4, 5)
        with contextlib.suppress(OSError):
            child.statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        return ACTIVE

    def check(self, child: Child) -> str:
        """Asks the kernel for a list; without /proc it tries the first numbers."""
        try:
            open_fds = {int(name) for name in os.listdir("/proc/self/fd")}
        except OSError:
            open_fds = set()
            for fd in range(KEPT_MAX + 1, _HIGH + 8):
                with contextlib.suppress(OSError):
                    fcntl.fcntl(fd, fcntl.F_GETFD)
                    open_fds.add(fd)
            return f"descriptors {sorted(open_fds)} are open" if open_fds else ""
        known = {0, 1, 2, *child.fds, child.statm}
        left = sorted(open_fds - known)
        # listdir's own descriptor is in its list, and is the lowest free number: one, and closed by now
        return f"descriptors {left} are open" if len(left) > 1 or any(_is_open(fd) for fd in left) else ""


def _is_open(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        return False
    return True
