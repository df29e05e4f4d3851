"""``apex-exec serve``: builds the daemon from its settings, runs it, takes it down."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from apex_exec import __version__
from apex_exec.config import Settings
from apex_exec.daemon import notify
from apex_exec.daemon.ground import prepare
from apex_exec.daemon.hosts.endpoints import bind
from apex_exec.daemon.signals import Ended, Signals
from apex_exec.daemon.upkeep import UPKEEP_SECONDS, Upkeep
from apex_exec.errors import ConfigError
from apex_exec.executor import scheduling_priority
from apex_exec.executor.loop import CLOSE_SECONDS
from apex_exec.observe.logs import Logs

if TYPE_CHECKING:
    from apex_exec.daemon.build import Parts

log = logging.getLogger("apex_exec")

LEDGER_SECONDS = 10.0
"""How long the start waits for a ledger that can write."""
REGISTRY_SECONDS = 10.0
"""How long the start waits for the installed plugins."""


def serve(settings: Settings, reread: Callable[[], Settings] | None = None) -> int:
    """Runs the daemon in the foreground until SIGTERM or SIGINT; blocks. Raises ConfigError.

    ``reread`` reads the configuration again for a reload; without it a reload only reads ``plugins_dir`` anew.
    """
    if platform.system() != "Linux":
        raise ConfigError("a daemon needs Linux, whose kernel confines the plugins, and this machine runs another "
                          "system")
    logs = Logs(level=settings.log.level, format=settings.log.format,
                plugin_lines_per_second=settings.log.plugin_lines_per_second, folder=settings.state_path / "logs",
                node=settings.fleet.node)
    root = logging.getLogger()
    root.addHandler(logs)
    root.setLevel(logging.DEBUG if settings.log.level == "debug" else logging.INFO)
    signals = Signals()
    try:
        with ExitStack() as undo:
            ground = prepare(settings, logs, undo)
            from apex_exec.daemon.build import build_daemon  # most of the code, while the zygote starts

            return _run(build_daemon(ground, reread or (lambda: settings)), signals)
    except Ended:
        log.info("the daemon was stopped before it was ready")
        return 0
    finally:
        root.removeHandler(logs)
        logs.close()


def _run(parts: Parts, signals: Signals) -> int:
    """Starts, serves until drained, ends. 1 if records were lost, else 0."""
    try:
        _start(parts, signals)
        parts.service.loop.run(parts.turn.run)
    except BaseException:
        signals.quiet()
        _end(parts)
        raise
    lost = _end(parts)
    log.info("the daemon has ended")
    return 1 if lost else 0


def _start(parts: Parts, signals: Signals) -> None:
    """Waits for what the first call needs, binds both endpoints, says that it is ready. Raises ConfigError."""
    ground, service, administration = parts.ground, parts.service, parts.administration
    settings, metrics, loop, supervisor = ground.settings, service.metrics, service.loop, service.supervisor
    metrics.set("build_info", (__version__, platform.python_version()), 1.0)
    metrics.set("isolation_level", (), float(ground.sandboxing.level[1:]))
    metrics.set("isolation_level_min", (), float(settings.sandbox.min_level[1:]))
    for report in ground.sandboxing.reports:
        metrics.set("sandbox_layer_active", (report.layer,), float(report.state in ("active", "degraded")))
    metrics.set("config_last_reload_successful", (), 1.0)
    metrics.set("draining", (), 0.0)
    upkeep = Upkeep(ground.runtime, metrics, lambda: _bind(parts, again=True), ground.state_lock)
    loop.every(UPKEEP_SECONDS, upkeep.look)
    if ground.notifier.watchdog_seconds:
        loop.every(ground.notifier.watchdog_seconds / 3, lambda _: ground.notifier.say(notify.WATCHDOG))
    if not service.audit.wait_ready(LEDGER_SECONDS):
        log.error("the ledger cannot take records yet (%s); calls are answered AUDIT_UNAVAILABLE until it can",
                  service.audit.reason)
    if not administration.registrar.wait_ready(REGISTRY_SECONDS):
        log.error("the registry does not answer (%s); what is installed is served as soon as it does",
                  metrics.health.get("registry") or "it is still being opened")
    if why := service.workers.forks.wait_ready():
        raise ConfigError(f"no worker can be started: the zygote, which they are forked from, cannot run: {why}"
                          + ground.sandboxing.extra_modules_hint)
    signals.to_loop(loop, administration.orders.signalled)  # who is said to be ready ends as one that was
    log.info("metrics on http://%s:%d/metrics", *ground.listener.getsockname()[:2])
    if service.fleet is None:
        _serve_hosts(parts)
    else:  # hosts are served once this node has found the others; they find it, and so does an administrator
        service.fleet.bind(settings)
        bind(administration.admin.peers, settings.admin_endpoint, ground.runtime, "admin.endpoint")
        service.fleet.fleet.serve_hosts = lambda: _serve_hosts(parts)
    scheduling_priority.raise_loop()
    supervisor.settle()


def _serve_hosts(parts: Parts) -> None:
    """Binds the endpoints, and says that the daemon is ready. Raises ConfigError."""
    ground, service = parts.ground, parts.service
    _bind(parts)
    log.info("serving %d plugins on %s", len(service.pool.specs()), ground.settings.host_endpoint)
    ground.notifier.say(notify.READY)


def _bind(parts: Parts, *, again: bool = False) -> None:
    """Serves both endpoints; ``again`` if a socket file was deleted under us. Raises ConfigError."""
    ground = parts.ground
    endpoint = ground.settings.host_endpoint
    if not again or endpoint.startswith("ipc://"):
        bind(parts.service.peers, endpoint, ground.runtime, "host.endpoint")
    if again or parts.service.fleet is None:
        bind(parts.administration.admin.peers, ground.settings.admin_endpoint, ground.runtime, "admin.endpoint")


def _end(parts: Parts) -> int:
    """Takes down what ran, from the workers to the side processes, CLOSE_SECONDS after the drain at the latest;
    whatever fails of it, the rest is done. Returns how many audit records could not be written."""
    service = parts.service
    until = max(time.monotonic(), service.supervisor.drain_until_ns / 1e9) + CLOSE_SECONDS
    lost = 0

    def records() -> None:
        nonlocal lost
        lost = service.audit.close(until)
        if lost:
            log.error("audit: %d records could not be written before the daemon ended (%s); the ledger "
                      "lacks these events", lost, service.audit.reason or "the ledger did not take them in time")

    def sides() -> None:
        if killed := service.loop.close_sides(until):
            log.error("these processes did not end in time and were killed: %s", ", ".join(killed))

    for step in (service.workers.forks.close, service.governing.close, records, service.requests.end,
                 service.peers.close, parts.administration.admin.peers.close,
                 *(part.close for part in (service.tcp_hosts, service.fleet, service.table.tracing)
                   if part is not None), sides):
        try:
            step()
        except Exception:
            log.exception("a step of the shutdown failed; the others were carried out")
    return lost
