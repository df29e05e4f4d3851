"""Misbehaves: ends its own process."""

import os
from typing import Any


def crash(params: dict[str, Any]) -> None:
    """Exits without an answer."""
    os._exit(3)


plugin = {"id": "crasher", "version": "1.0.0", "permissions": [], "hooks": {"onActionExecute": crash}}
