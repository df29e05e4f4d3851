"""Layer ``pdeathsig``: the worker dies with the zygote, which dies with the supervisor.

The zygote is told twice of the supervisor's death, by a PDEATHSIG of its own and by a pipe that nobody else holds. A
worker needs no such pipe: whatever ends the zygote, before or after this layer, ends the worker.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from workers.jail.base import ACTIVE, Child, Outcome, invoke

PR_SET_PDEATHSIG = 1


class Pdeathsig:
    """Armed only now, since a change of uid disarms it; then looks whether the death came first."""

    name = "pdeathsig"

    def __init__(self, _plan: dict[str, Any]) -> None:
        pass

    def apply(self, child: Child) -> Outcome:
        """Ends the process if the zygote is dead already, since its death then sends no signal any more."""
        invoke("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != child.zygote:
            os._exit(0)
        return ACTIVE

    def check(self, child: Child) -> str:
        """The kernel's answer to the call is the proof."""
        return ""
