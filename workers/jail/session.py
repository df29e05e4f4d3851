"""Layer ``session``: a session and process group of its own, so that no terminal and no group signal reaches it; and
its place among those whom the kernel ends if memory runs out."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from workers.jail.base import ACTIVE, Child, Outcome

OOM_SCORE_MORE, OOM_SCORE_MAX = 500, 1000
"""Above the daemon's own ``oom_score_adj``: a worker counts as if it held half of the memory there is (the machine's,
or that of the group which runs out) on top of its own, hence more than its daemon and zygote. Not 1000: that would make
every worker go before a stranger that holds nine tenths of the machine, and the next ones as they are started."""
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
        except OSError as error:  # no boundary, hence nothing to refuse a worker for
            return Outcome("active", f"it does not go before its daemon if memory runs out: {error.strerror}")
        return ACTIVE

    def check(self, child: Child) -> str:
        """Asks the kernel."""
        return "" if os.getsid(0) == os.getpid() == os.getpgrp() else "the session is still the daemon's"
