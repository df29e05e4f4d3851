"""What the daemon looks at once a second: children that a dead zygote left, its descriptors, its socket files."""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Callable

from apex_exec.daemon.runtime_folder import RuntimeFolder
from apex_exec.errors import ConfigError
from apex_exec.observe.metrics import Metrics
from apex_exec.sandbox.bare import active_children

log = logging.getLogger("apex_exec")

UPKEEP_SECONDS = 1.0
FDS_RESERVE = 32
"""With fewer free descriptors `/readyz` says no."""


class Upkeep:
    """``bind_again`` binds the endpoints whose files were deleted; it raises ConfigError. ``open_fd`` is any descriptor
    that stays open."""

    def __init__(self, runtime: RuntimeFolder, metrics: Metrics, bind_again: Callable[[], None], open_fd: int) -> None:
        self._runtime = runtime
        self._metrics = metrics
        self._bind_again = bind_again
        self._open_fd = open_fd

    def look(self, _: int) -> None:
        """Looks once; what is wrong is said by `/readyz`, and mended if it can be."""
        _reap_orphans()
        self._metrics.health["descriptors"] = "" if _has_descriptors(self._open_fd) else (
            "nearly all descriptors that RLIMIT_NOFILE allows are open: workers and hosts may find none")
        missing = self._runtime.missing()
        self._metrics.health["endpoint"] = missing
        if not missing:
            return
        log.error("%s; binding it again", missing)
        if not self._runtime.restore():
            return
        try:
            self._bind_again()
        except ConfigError as error:
            log.error("%s", error)
            return
        self._metrics.health["endpoint"] = self._runtime.missing()


def _has_descriptors(open_fd: int) -> bool:
    """Whether FDS_RESERVE descriptors are likely to be free: the kernel gives the lowest number that is."""
    try:
        lowest = os.dup(open_fd)
    except OSError:
        return False
    os.close(lowest)
    return lowest < resource.getrlimit(resource.RLIMIT_NOFILE)[0] - FDS_RESERVE


def _reap_orphans() -> None:
    """Reaps what became our child by its parent's death; our own children are left to those who started them."""
    ours = {process.pid for process in active_children()}  # reaps those of them that have ended
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid in ours:
            return
        os.waitpid(found.si_pid, os.WNOHANG)
