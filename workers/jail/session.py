"""Layer ``session``: a separate session and process group, so that no terminal and no group signal reaches the worker;
and its place among the processes that the kernel kills if memory runs out."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from workers.jail.base import ACTIVE, Child, Outcome

OOM_SCORE_MORE, OOM_SCORE_MAX = 500, 1000
"""Added to the daemon's own ``oom_score_adj``: a worker counts as if it used half of all memory (the machine's, or that
of the group which runs out) in addition to its own, hence more than its daemon and zygote. Not 1000: then the kernel
would kill every worker, and each of their successors, before a foreign process that uses nine tenths of the machine."""
_OOM_SCORE = "/proc/self/oom_score_adj"


class Session:
    """setsid, a file mode mask that shares nothing, and an ``oom_score_adj`` above the daemon's."""

    name = "session"

    def __init__(self, _plan: dict[str, Any]) -> None:
        self._score = b""
        with contextlib.suppress(OSError), open(_OOM_SCORE, "rb", 0) as file:
            self._score = b"%d" % min(OOM_SCORE_MAX, int(file.read(16)) + OOM_SCORE_MORE)

    def apply(self, child: Child) -> Outcome:
        """A forked child never leads a group, so setsid cannot be refused."""
        os.setsid()
        os.umask(0o077)
        try:
            score = os.open(_OOM_SCORE, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(score, self._score)
            finally:
                os.close(score)
        except OSError as error:  # not a boundary, hence not a reason to refuse a worker
            return Outcome("active", f"it is not killed before its daemon if memory runs out: {error.strerror}")
        return ACTIVE

    def check(self, child: Child) -> str:
        """Asks the kernel."""
        return "" if os.getsid(0) == os.getpid() == os.getpgrp() else "the session is still the daemon's"
