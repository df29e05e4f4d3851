"""Layer ``no_new_privs``: an exec cannot grant further rights; Landlock and seccomp require this."""

from __future__ import annotations

from typing import Any

from workers.jail.base import ACTIVE, Child, Outcome, invoke

PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS = 38, 39


class NoNewPrivs:
    """One bit that cannot be cleared again."""

    name = "no_new_privs"

    def __init__(self, _plan: dict[str, Any]) -> None:
        pass

    def apply(self, child: Child) -> Outcome:
        """Raises OSError."""
        invoke("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        return ACTIVE

    def check(self, child: Child) -> str:
        """Asks the kernel."""
        return "" if invoke("prctl", PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 else "the bit is not set"
