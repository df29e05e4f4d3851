"""Misbehaves: it returns a value that its hook may not return."""


def lie(params):
    """Returns widgets that are not a list."""
    return {"customWidgets": "many"}


plugin = {"id": "liar", "version": "1.0.0", "permissions": [], "hooks": {"onDashboardLoad": lie}}
