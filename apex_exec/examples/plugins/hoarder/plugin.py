"""Misbehaves: takes all the memory it can get."""

from typing import Any, NoReturn


def hoard(params: dict[str, Any]) -> NoReturn:
    """Grows until refused."""
    kept = []
    while True:
        kept.append(bytearray(1024 * 1024))


plugin = {"id": "hoarder", "version": "1.0.0", "permissions": [], "hooks": {"onActionExecute": hoard}}
