"""Layer ``env``: nothing of the daemon's surroundings is left to read, and no two workers share randomness."""

from __future__ import annotations

import os
import random
import sys
from typing import Any

from workers.jail.base import ACTIVE, Child, Outcome


def forget_surroundings() -> None:
    """Empties what the interpreter knows of where it was started. The zygote does it once, so that workers need not."""
    os.environ.clear()
    sys.argv[:] = ["plugin"]
    sys.orig_argv[:] = ["plugin"]
    sys.path.clear()
    sys.path_importer_cache.clear()


class Env:
    """Environment, arguments, import path and working folder are emptied; ``random`` is seeded anew."""

    name = "env"

    def __init__(self, _plan: dict[str, Any]) -> None:
        """The zygote itself was started with a bare environment: its stack holds no secret either."""

    def apply(self, child: Child) -> Outcome:
        """``secrets`` and ``uuid4`` ask the kernel each time; only ``random`` has a state that a fork copies."""
        if os.environ or sys.path:
            forget_surroundings()
        os.chdir("/")
        random.seed(int.from_bytes(os.urandom(32), "little"))
        return ACTIVE

    def check(self, child: Child) -> str:
        """Looks at what plugin code would look at."""
        return "the environment is not empty" if os.environ or sys.path else ""
