"""Misbehaves: it returns a value that its hook may not return."""

from typing import Any


def lie(params: dict[str, Any]) -> dict[str, Any]:
    """Returns widgets that are not a list."""
    return {"customWidgets": "many"}


plugin = {"id": "liar", "version": "1.0.0", "permissions": [], "hooks": {"onDashboardLoad": lie}}
