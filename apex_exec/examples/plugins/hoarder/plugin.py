"""Misbehaves: it takes all the memory that it can get."""

from typing import Any, NoReturn


def hoard(params: dict[str, Any]) -> NoReturn:
    """Grows until an allocation is refused."""
    kept = []
    while True:
        kept.append(bytearray(1024 * 1024))


plugin = {"id": "hoarder", "version": "1.0.0", "permissions": [], "hooks": {"onActionExecute": hoard}}
