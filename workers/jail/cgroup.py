"""Layer ``cgroup``: enters the groups that the daemon made for this worker, which limit its memory and CPU."""

from __future__ import annotations

import errno
import os
from typing import Any

from workers.jail.base import ACTIVE, Child, Outcome


class Cgroup:
    """Writes itself into each ``cgroup.procs`` (or v1 ``tasks``) path of the worker's map under ``cgroup``."""

    name = "cgroup"

    def __init__(self, _plan: dict[str, Any]) -> None:
        pass

    def apply(self, child: Child) -> Outcome:
        """Must come before the empty root hides the paths. Raises OSError."""
        paths = child.worker.get("cgroup") or []
        if not paths:
            raise OSError(errno.ENOENT, "the daemon named no cgroup")
        for path in paths:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"0")  # 0 is the writer itself
            finally:
                os.close(fd)
        return ACTIVE

    def check(self, child: Child) -> str:
        """Checks nothing: the kernel's answer to the write is the proof, and reading it back would scan every
        controller."""
        return ""
