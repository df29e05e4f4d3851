"""Layer ``env``: nothing about the daemon's environment is left to read, and no two workers share randomness."""

from __future__ import annotations

import os
import random
import sys
from typing import Any

from workers.jail.base import ACTIVE, Child, Outcome


def forget_surroundings() -> None:
    """Clears what the interpreter knows about its start. The zygote does this once, so that workers need not."""
    os.environ.clear()
    sys.argv[:] = ["plugin"]
    sys.orig_argv[:] = ["plugin"]
    sys.path.clear()
    sys.path_importer_cache.clear()


class Env:
    """Clears environment, arguments, import path and working folder, and seeds ``random`` anew."""

    name = "env"

    def __init__(self, _plan: dict[str, Any]) -> None:
        """Prepares nothing: the zygote was started with a bare environment, so its stack has no secret either."""

    def apply(self, child: Child) -> Outcome:
        """Seeds only ``random``, whose state a fork copies: ``secrets`` and ``uuid4`` ask the kernel each time."""
        if os.environ or sys.path:
            forget_surroundings()
        os.chdir("/")
        random.seed(int.from_bytes(os.urandom(32), "little"))
        return ACTIVE

    def check(self, child: Child) -> str:
        """Looks where plugin code would look."""
        return "the environment is not empty" if os.environ or sys.path else ""
