"""What workers have to know of the platform's catalogue, written by ``python -m apex_exec.catalogue``.

Workers may import nothing of the daemon, so that a plugin finds nothing of it in its process.
"""

from __future__ import annotations

FILLS_USER = frozenset(("onDashboardLoad", "onAuthSuccess"))
"""Hooks whose params get ``userId`` if the host has left it out."""
WIDGETS = {"onDashboardLoad": "customWidgets"}
"""Hooks whose results hold widgets, and in which field."""
PERMISSIONS = {
    "query": "data:read",
    "insert": "data:write",
    "upsert": "data:write",
    "update": "data:write",
    "delete": "data:write",
    "renderWidget": "ui:render",
    "emit": "events:emit",
    "fetch": "network:fetch",
    "storage.get": "data:read",
    "storage.set": "data:write",
    "storage.delete": "data:write",
    "storage.list": "data:read",
}
"""The permission that each API method takes."""
PREFIXES = {
    "admin.users.": "admin:users",
    "admin.billing.": "admin:billing",
    "system.config.": "system:config",
}
"""The permission that a host method takes, by the beginning of its name."""
CARRIED = frozenset(("renderWidget", "emit", "storage.set", "call"))
"""API methods whose parameters a host reads, or the plugin later: they are held to the rule for results. Those of any
other method are the gateway's, which takes a UUID or a Decimal as text."""
EFFECTS = frozenset(("renderWidget", "emit"))
"""API methods that ask for something which the reply carries to the host."""
API_AT_ONCE = 8
"""API calls of one invocation that the supervisor takes at once; more wait in the worker."""
