"""Misbehaves: returns what its hook must not."""

from typing import Any


def lie(params: dict[str, Any]) -> dict[str, Any]:
    """Widgets that are no list."""
    return {"customWidgets": "many"}


plugin = {"id": "liar", "version": "1.0.0", "permissions": [], "hooks": {"onDashboardLoad": lie}}
