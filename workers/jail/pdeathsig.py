"""Layer ``pdeathsig``: the worker dies with the zygote, which dies with the supervisor.

The zygote learns about the supervisor's death twice: from a PDEATHSIG of its own, and from a pipe that no other process
has. A worker needs no such pipe: whatever ends the zygote, before or after this layer, ends the worker.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from workers.jail.base import ACTIVE, Child, Outcome, invoke

PR_SET_PDEATHSIG = 1


class Pdeathsig:
    """Set only now, because a change of uid disarms it; then we check whether the death came first."""

    name = "pdeathsig"

    def __init__(self, _plan: dict[str, Any]) -> None:
        pass

    def apply(self, child: Child) -> Outcome:
        """Exits if the zygote is already dead, because its death sends no further signal."""
        invoke("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != child.zygote:
            os._exit(0)
        return ACTIVE

    def check(self, child: Child) -> str:
        """Checks nothing: the kernel's answer to the call is the proof."""
        return ""
