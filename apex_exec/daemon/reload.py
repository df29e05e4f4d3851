"""Reload: one table of the keys that can change while the daemon runs, each with what applies it.

Every other key needs a restart; a reload that finds one changed applies the rest and says which were left.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from apex_exec.catalogue.limits import LIMITS
from apex_exec.config import Settings
from apex_exec.core import events as ev
from apex_exec.daemon.administration.roles import Access
from apex_exec.daemon.folder_plugins import scan_folder
from apex_exec.daemon.policies import breaker_policy, pool_limits, recycle_policy, spares_of
from apex_exec.observe.logs import LEVELS

if TYPE_CHECKING:
    from apex_exec.daemon.administration.registrar_link import Registrar
    from apex_exec.daemon.api_calls import ApiCalls
    from apex_exec.daemon.hosts.requests import Requests
    from apex_exec.daemon.hosts.tcp_hosts import TcpHosts
    from apex_exec.daemon.plugin_sources import PluginSources
    from apex_exec.daemon.sides.trace_feed import TraceFeed
    from apex_exec.executor.jails import Sandboxing
    from apex_exec.executor.local import LocalExecutor
    from apex_exec.executor.resource_monitor import Governing
    from apex_exec.observe.logs import Logs
    from apex_exec.registry.bundles.blobs import BundleSource


@dataclass(frozen=True, kw_only=True)
class Changeable:
    """The parts that a reload changes. ``fds`` is how many descriptors there may be; ``tcp_hosts`` is None if hosts are
    served on a unix socket, ``tracing`` if no traces are exported."""

    step: Callable[[ev.Event, int], None]
    fds: int
    requests: Requests
    workers: LocalExecutor
    api: ApiCalls
    governing: Governing
    sandboxing: Sandboxing
    logs: Logs
    registrar: Registrar
    plugins: PluginSources
    source: BundleSource
    tcp_hosts: TcpHosts | None
    tracing: TraceFeed | None


Applier = Callable[[Changeable, Settings], None]


def _when_read(_parts: Changeable, _settings: Settings) -> None:
    """Nothing to do: the part that needs the value reads it from the settings in force."""


def _with_every_reload(_parts: Changeable, _settings: Settings) -> None:
    """Every reload makes every spec anew, and looks up the users and groups of the roles: see ``Reloader``."""


def _pool(parts: Changeable, settings: Settings) -> None:
    parts.step(ev.Reconfigured(pool_limits(settings, parts.fds), breaker_policy(settings), recycle_policy(settings)),
               time.monotonic_ns())


def _per_host(parts: Changeable, settings: Settings) -> None:
    parts.requests.per_host = settings.pool.per_host


def _spares(parts: Changeable, settings: Settings) -> None:
    parts.workers.forks.want_spares(spares_of(settings))
    _pool(parts, settings)


def _burst(parts: Changeable, settings: Settings) -> None:
    parts.governing.burst_seconds = parts.sandboxing.burst_seconds = settings.limits.cpu_burst_seconds


def _api_rate(parts: Changeable, settings: Settings) -> None:
    parts.api.calls_per_second = settings.limits.api_calls_per_second


def _log(parts: Changeable, settings: Settings) -> None:
    parts.logs.level_min = LEVELS[settings.log.level]
    parts.logs.plugin_lines_per_second = settings.log.plugin_lines_per_second


def _traced_share(parts: Changeable, settings: Settings) -> None:
    if parts.tracing is not None:
        parts.tracing.sampler.ratio = settings.traces.sample_ratio


RELOADABLE: dict[str, Applier] = {
    "plugins_dir": _with_every_reload,
    "drain_seconds": _when_read,
    **{f"limits.{name}": _with_every_reload for name in LIMITS},
    "limits.cpu_burst_seconds": _burst,
    "limits.api_calls_per_second": _api_rate,
    "breaker.ends": _pool,
    "breaker.window_seconds": _pool,
    "breaker.open_seconds": _pool,
    "breaker.stable_seconds": _pool,
    "breaker.backoff_min_seconds": _pool,
    "breaker.backoff_max_seconds": _pool,
    "pool.idle_seconds": _pool,
    "pool.queue_depth": _pool,
    "pool.in_flight": _pool,
    "pool.prefetch": _pool,
    "pool.boot_seconds": _pool,  # and probes read it
    "pool.per_host": _per_host,
    "pool.spare_workers": _spares,
    "recycle.after_calls": _pool,
    "recycle.after_seconds": _pool,
    "recycle.growth_mb": _pool,
    "log.level": _log,
    "log.plugin_lines_per_second": _log,
    "traces.sample_ratio": _traced_share,
    "admin.roles": _with_every_reload,
}
"""What SIGHUP and ``daemon.reload`` apply, by key; besides, each reload reads ``plugins_dir`` and the client keys of
``host.curve_keys_dir`` again, and has the registrar do so with what it reads."""


CONSOLE = "console."
"""Keys that this process does not read: the console is a process of its own, and reads them when it starts."""


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
    different = sorted(key for key in after if after[key] != before[key] and not key.startswith(CONSOLE))
    return [key for key in different if key in RELOADABLE], [key for key in different if key not in RELOADABLE]


def merged(old: Settings, new: Settings) -> Settings:
    """``old`` with the reloadable values of ``new``: what is in force after a reload."""
    data, after = old.model_dump(), flat(new)
    for key in RELOADABLE:
        section, _, name = key.rpartition(".")
        (data[section] if section else data)[name or key] = after[key]
    return Settings.model_validate(data)


class InForce:
    """What is in force: the settings as they were at the start and as reloads have changed them since, and the roles of
    administrators that follow from them. Raises ConfigError if a role names nobody."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.access = Access(settings.admin.roles, os.geteuid())


class Reloader:
    """Runs reloads: ``reread`` reads the configuration anew. It may raise ConfigError."""

    def __init__(self, in_force: InForce, reread: Callable[[], Settings], parts: Changeable) -> None:
        self._in_force = in_force
        self._reread = reread
        self._parts = parts

    def reload(self) -> dict[str, Any]:
        """Reads the configuration and what it names, and applies it: ``{applied, restart}``. Raises ConfigError, and
        then nothing is changed: all that can fail is read before the first change."""
        new, parts = self._reread(), self._parts
        applied, restart = changed(self._in_force.settings, new)
        settings = merged(self._in_force.settings, new)
        found = scan_folder(settings.plugins_dir, settings.limits.policy(), settings.security.policy_file)
        access = Access(settings.admin.roles, os.geteuid())
        if parts.tcp_hosts is not None:
            parts.tcp_hosts.curve.read_clients()
        self._in_force.settings, self._in_force.access = settings, access
        for apply in dict.fromkeys(RELOADABLE[key] for key in applied):
            apply(parts, settings)
        parts.source.replace(found.bundles)
        parts.registrar.configure(settings.model_dump())
        parts.plugins.replace("folder", found.specs)
        return {"applied": applied, "restart": restart}
