"""What confines a worker, applied in order after the fork and before any byte of the plugin.

Level L0: fds, environment, session, rlimits, PDEATHSIG, no_new_privs. It bounds accidents; it is no boundary
against hostile code, and the daemon says so. A layer that fails ends the worker: nothing fails open.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import resource
import select
import signal
from typing import Any

from workers.wire import LayerReport

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
CPU_SECONDS_MAX = 3600
"""A backstop in total seconds, not a rate: the governor or the deadline fires long before."""
STACK_BYTES_MAX = 8 * 1024 * 1024


class JailError(Exception):
    """A required layer could not be applied."""

    def __init__(self, layer: str, number: int, detail: str) -> None:
        super().__init__(f"{layer}: {detail}")
        self.layer = layer
        self.errno = number


def apply(plan: dict[str, Any], worker: dict[str, Any],
          fds: tuple[int, int, int]) -> tuple[list[LayerReport], tuple[int, int, int]]:
    """Confines this process for good; returns what came of each layer and the renumbered three fds.

    Raises JailError. ``plan`` and ``worker`` are the daemon's: common to all workers, and for this one.
    """
    reports: list[LayerReport] = []
    kept = fds
    for name, layer in _LAYERS:
        try:
            kept = layer(plan, worker, kept) or kept
        except (OSError, ValueError) as error:
            raise JailError(name, getattr(error, "errno", None) or 0, str(error)) from None
        reports.append(LayerReport(name, "active"))
    return reports, kept


def _fds(_plan: dict[str, Any], _worker: dict[str, Any], fds: tuple[int, int, int]) -> tuple[int, int, int]:
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in fds]
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.closerange(3, min(high))
    kept = []
    for index, fd in enumerate(high):
        os.dup2(fd, 3 + index, inheritable=False)
        kept.append(3 + index)
    os.closerange(6, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return kept[0], kept[1], kept[2]


def _environment(_plan: dict[str, Any], _worker: dict[str, Any], _fds: tuple[int, int, int]) -> None:
    os.environ.clear()
    random.seed(os.urandom(32))  # forked workers must not share one stream


def _session(_plan: dict[str, Any], _worker: dict[str, Any], _fds: tuple[int, int, int]) -> None:
    os.setsid()
    os.umask(0o077)


def _rlimits(_plan: dict[str, Any], _worker: dict[str, Any], _fds: tuple[int, int, int]) -> None:
    for which, bound in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CPU, CPU_SECONDS_MAX),
        (resource.RLIMIT_STACK, STACK_BYTES_MAX),
    ):
        resource.setrlimit(which, (bound, bound))


def _pdeathsig(_plan: dict[str, Any], _worker: dict[str, Any], fds: tuple[int, int, int]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_PDEATHSIG was refused")
    if select.select([fds[2]], [], [], 0)[0]:
        os._exit(0)  # the supervisor died before the signal was armed


def _no_new_privs(_plan: dict[str, Any], _worker: dict[str, Any], _fds: tuple[int, int, int]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS was refused")


_LAYERS = (
    ("fds", _fds),
    ("environment", _environment),
    ("session", _session),
    ("rlimits", _rlimits),
    ("pdeathsig", _pdeathsig),
    ("no_new_privs", _no_new_privs),
)
