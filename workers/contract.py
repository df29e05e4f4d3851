"""What workers have to know of the platform's catalogue, written by ``python -m apex_exec.catalogue``.

Workers may import nothing of the daemon, so that a plugin finds nothing of it in its process.
"""

from __future__ import annotations

FILLS_USER = frozenset(("onDashboardLoad", "onAuthSuccess"))
"""Hooks whose params get ``userId`` if the host has left it out."""
WIDGETS = {"onDashboardLoad": "customWidgets"}
"""Hooks whose results hold widgets, and in which field."""
