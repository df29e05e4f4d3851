"""Reload: one table of the keys that can change while the daemon runs, and what changes with them.

Every other key needs a restart; a reload that finds one changed applies the rest and says which were left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from apex_exec.config import Settings
from apex_exec.errors import ConfigError

RELOADABLE = frozenset((
    "plugins_dir", "drain_seconds", "limits.timeout_ms", "limits.memory_mb", "limits.cpu_percent",
    "limits.cpu_burst_seconds", "limits.network_per_minute", "limits.api_calls_per_second", "breaker.ends",
    "breaker.window_seconds", "breaker.open_seconds", "breaker.stable_seconds", "breaker.backoff_min_seconds",
    "breaker.backoff_max_seconds",
    "pool.idle_seconds", "pool.queue_depth", "pool.in_flight", "pool.per_host", "pool.prefetch", "pool.boot_seconds",
    "pool.spare_workers",
    "recycle.after_calls", "recycle.after_seconds", "recycle.growth_mb", "log.level", "log.plugin_lines_per_second",
    "admin.roles",
))
"""Keys that SIGHUP and ``daemon.reload`` apply; besides them ``plugins_dir`` is read again, and the client keys of
``host.curve_keys_dir``."""


def flat(settings: Settings) -> dict[str, Any]:
    """Every value by its dotted key. A map of named things, as ``hooks``, is one value."""
    out: dict[str, Any] = {}
    for name, value in settings.model_dump().items():
        if isinstance(getattr(settings, name), BaseModel):
            out.update({f"{name}.{key}": inner for key, inner in value.items()})
        else:
            out[name] = value
    return out


def changed(old: Settings, new: Settings) -> tuple[list[str], list[str]]:
    """(keys to apply, keys that need a restart), both sorted."""
    before, after = flat(old), flat(new)
    different = sorted(key for key in after if after[key] != before[key])
    return [key for key in different if key in RELOADABLE], [key for key in different if key not in RELOADABLE]


def merged(old: Settings, new: Settings) -> Settings:
    """``old`` with the reloadable values of ``new``: what is in force after a reload."""
    data, after = old.model_dump(), flat(new)
    for key in RELOADABLE:
        section, _, name = key.rpartition(".")
        (data[section] if section else data)[name or key] = after[key]
    return Settings.model_validate(data)


class Reloader:
    """Runs reloads. ``appliers`` are called with (settings in force, keys applied); one that raises ConfigError makes
    the reload fail."""

    def __init__(self, settings: Settings, reread: Callable[[], Settings]) -> None:
        self.settings = settings
        self.appliers: list[Callable[[Settings, list[str]], None]] = []
        self._reread = reread

    def reload(self) -> dict[str, Any]:
        """Reads the configuration and applies it: ``{applied, restart}``. Raises ConfigError."""
        new = self._reread()
        applied, restart = changed(self.settings, new)
        settings = merged(self.settings, new)
        before = self.settings
        self.settings = settings
        try:
            for apply in self.appliers:
                apply(settings, applied)
        except ConfigError:
            self.settings = before
            raise
        return {"applied": applied, "restart": restart}
