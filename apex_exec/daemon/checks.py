"""What ``serve`` refuses before it starts anything, and ``config check`` too: settings that contradict each other."""

from __future__ import annotations

from apex_exec.config import Settings
from apex_exec.daemon.endpoints import check_endpoints
from apex_exec.daemon.roles import check_peers
from apex_exec.errors import ConfigError
from apex_exec.gateway.tables import read_tables
from apex_exec.sandbox.modules import check_modules


def check_settings(settings: Settings) -> None:
    """Raises ConfigError for the first thing that could not be served, or should not."""
    check_modules(settings.sandbox.extra_modules)
    check_peers(settings)
    check_endpoints(settings)
    read_tables({name: entry.model_dump() for name, entry in settings.data.tables.items()})
    others = {"audit.url": settings.audit.url, "registry.url": settings.registry.url, "market.url": settings.market.url}
    for key, url in others.items():
        if settings.database_url(url) == settings.database_url(settings.data.url):
            raise ConfigError(f"data.url and {key} are the same database; what plugins reach is one of its own")
