"""Layer ``session``: a session and process group of its own, so that no terminal and no group signal reaches it."""

from __future__ import annotations

import os
from typing import Any

from workers.jail.base import ACTIVE, Child, Outcome


class Session:
    """setsid, and a file mode mask that shares nothing."""

    name = "session"

    def __init__(self, _plan: dict[str, Any]) -> None:
        pass

    def apply(self, child: Child) -> Outcome:
        """A forked child never leads a group, so setsid cannot be refused."""
        os.setsid()
        os.umask(0o077)
        return ACTIVE

    def check(self, child: Child) -> str:
        """Asks the kernel."""
        return "" if os.getsid(0) == os.getpid() == os.getpgrp() else "the session is still the daemon's"
