"""Layer ``pdeathsig``: the worker dies with the zygote, which dies with the supervisor."""

from __future__ import annotations

import os
import select
import signal
from typing import Any

from workers.jail.base import ACTIVE, Child, Outcome, invoke

PR_SET_PDEATHSIG = 1


def _ended(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))


class Pdeathsig:
    """Armed only now, since a change of uid disarms it; then looks whether the death came first."""

    name = "pdeathsig"

    def __init__(self, _plan: dict[str, Any]) -> None:
        pass

    def apply(self, child: Child) -> Outcome:
        """Ends the process where supervisor or zygote are dead already: they can send no signal any more."""
        invoke("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != child.zygote or _ended(child.fds[2]):
            os._exit(0)
        return ACTIVE

    def check(self, child: Child) -> str:
        """The kernel's answer to the call is the proof."""
        return ""
