"""Misbehaves: returns what its hook must not."""


def lie(params):
    """Widgets that are no list."""
    return {"customWidgets": "many"}


plugin = {"id": "liar", "version": "1.0.0", "permissions": [], "hooks": {"onDashboardLoad": lie}}
