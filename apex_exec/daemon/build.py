"""Builds the daemon on its ground (``ground.py``), top to bottom: each part is complete when it is made.

Side processes are attached last, when all that they may report to stands. How a daemon that has run is taken down is in
``main.py``.
"""

from __future__ import annotations

import logging
import math
import os
import random
from collections.abc import Callable, Collection
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from apex_exec import API_VERSION, __version__, extras
from apex_exec.catalogue.hooks import HOOKS
from apex_exec.config import Settings
from apex_exec.core.limits import SECOND_NS
from apex_exec.core.scheduler.pool import Pool
from apex_exec.daemon.administration import registrar_table
from apex_exec.daemon.administration.admin_socket import AdminSocket
from apex_exec.daemon.administration.figures import Figures
from apex_exec.daemon.administration.jail_requests import JailRequests
from apex_exec.daemon.administration.loop_operations import LoopOperations
from apex_exec.daemon.administration.registrar_link import NoRegistrar, RegistrarLink
from apex_exec.daemon.api_calls import ApiCalls
from apex_exec.daemon.core_driver import CoreDriver
from apex_exec.daemon.duties import Monitoring
from apex_exec.daemon.ground import Ground
from apex_exec.daemon.hosts.dispatch_runs import DispatchRuns
from apex_exec.daemon.hosts.endpoints import open_local
from apex_exec.daemon.hosts.host_socket import HostSocket
from apex_exec.daemon.hosts.pending_table import PendingTable
from apex_exec.daemon.hosts.replies import Replies
from apex_exec.daemon.hosts.requests import Requests
from apex_exec.daemon.hosts.verdicts import Verdicts
from apex_exec.daemon.orders import Orders
from apex_exec.daemon.plugin_gauges import MEASURE_SECONDS, PluginGauges
from apex_exec.daemon.plugin_settings import PluginSettings
from apex_exec.daemon.plugin_sources import PluginSources
from apex_exec.daemon.policies import breaker_policy, hosts_max, pool_limits, recycle_policy, spares_of
from apex_exec.daemon.ports import Trail
from apex_exec.daemon.reload import Changeable, Reloader
from apex_exec.daemon.settings_checks import needs_registry
from apex_exec.daemon.sides.audit_trail import AuditTrail
from apex_exec.daemon.sides.author_places import AuthorPlaces
from apex_exec.daemon.sides.metrics_feed import MetricsFeed
from apex_exec.daemon.sides.result_checks import ResultChecks
from apex_exec.daemon.sides.side_process import attach
from apex_exec.daemon.supervisor import Supervisor
from apex_exec.daemon.tenants import Tenants
from apex_exec.daemon.turn import Turn
from apex_exec.executor import ports
from apex_exec.executor.guard import Guard
from apex_exec.executor.local import LocalExecutor
from apex_exec.executor.loop import Loop
from apex_exec.executor.processes.runtimes import PYTHON, RUNTIMES
from apex_exec.executor.processes.zygote_keeper import ZygoteSource
from apex_exec.executor.processes.zygote_link import ZygoteLink
from apex_exec.executor.resource_monitor import Governing
from apex_exec.observe.metrics import Metrics
from apex_exec.wire import messages as msg

if TYPE_CHECKING:
    from apex_exec.daemon.fleet.build import FleetParts
    from apex_exec.daemon.hosts.connections import Connections
    from apex_exec.daemon.hosts.tcp_hosts import TcpHosts

log = logging.getLogger("apex_exec")

SLEEP_SECONDS = 30.0
"""After the start, when side processes that nobody has needed yet are started all the same: the registrar of a daemon
without a registry, which notes the ledger's head once a minute, the process that checks large results, the exporter if
nobody has asked for metrics yet, and the one that exports traces if no call was traced yet. Each costs up to a second
of CPU, which the first answers should not wait for."""



class Service(NamedTuple):
    """What serves hosts: the core, the workers, the connections, and what records, monitors and checks."""

    metrics: Metrics
    guard: Guard
    loop: Loop
    pool: Pool
    driver: CoreDriver
    workers: LocalExecutor
    governing: Governing
    audit: AuditTrail
    api: ApiCalls
    checks: ResultChecks
    places: AuthorPlaces
    table: PendingTable
    verdicts: Verdicts
    requests: Requests
    tcp_hosts: TcpHosts | None
    hosts: HostSocket
    peers: Connections
    fleet: FleetParts | None
    gauges: PluginGauges
    supervisor: Supervisor
    plugin_settings: PluginSettings
    tenants: Tenants


class Administration(NamedTuple):
    """What serves administrators and handles signals."""

    plugins: PluginSources
    registrar: RegistrarLink | NoRegistrar
    orders: Orders
    admin: AdminSocket


class Parts(NamedTuple):
    """A whole daemon."""

    ground: Ground
    service: Service
    administration: Administration
    turn: Turn


def build_daemon(ground: Ground, reread: Callable[[], Settings]) -> Parts:
    """A whole daemon with its side processes, not bound yet. Raises ConfigError."""
    settings, logs = ground.settings, ground.logs
    service = _make_service(ground)
    administration = _make_administration(ground, service, reread)
    loop, metrics = service.loop, service.metrics
    feed = MetricsFeed(loop, ground.listener, metrics)
    monitoring = Monitoring(service.governing, service.workers)
    turn = Turn(
        loop=loop, guard=service.guard, pool=service.pool, driver=service.driver, workers=service.workers,
        peers=service.peers, requests=service.requests, api=service.api, audit=service.audit,
        supervisor=service.supervisor, monitoring=monitoring,
        duties=(service.audit.duty, monitoring, service.api.duty, service.places.duty, service.tenants.duty,
                feed.duty, *(() if service.table.tracing is None else (service.table.tracing.duty,))),
        admin=administration.admin)
    loop.every(1.0, service.supervisor.upkeep)
    loop.every(MEASURE_SECONDS, service.gauges.measure)
    loop.every(1.0, service.audit.upkeep)
    attach(loop, service.audit.side, 0.0, metrics, logs)
    attach(loop, service.checks.side, SLEEP_SECONDS, metrics, logs)
    attach(loop, service.places.side, math.inf, metrics, logs)  # only if a bundle with source maps fails
    if isinstance(administration.registrar, RegistrarLink):
        if needs_registry(settings):
            administration.registrar.expect()
        attach(loop, administration.registrar.side, 0.0 if needs_registry(settings) else SLEEP_SECONDS, metrics, logs)
    # After the registrar, which the start waits for. A gateway that nothing is configured for refuses what it is asked,
    # and is started for that when it is asked.
    has_gateway = settings.data.tables or settings.fetch.allow
    attach(loop, service.api.side, 0.0 if has_gateway else math.inf, metrics, logs)
    attach(loop, feed.side, SLEEP_SECONDS, metrics, logs)
    if service.table.tracing is not None:
        attach(loop, service.table.tracing.side, SLEEP_SECONDS, metrics, logs)
    if service.fleet is not None:
        attach(loop, service.fleet.fleet.side, 0.0, metrics, logs)
    administration.plugins.replace("folder", ground.found.specs)
    return Parts(ground, service, administration, turn)


def _make_service(ground: Ground) -> Service:
    settings, logs, sandboxing = ground.settings, ground.logs, ground.sandboxing
    metrics = Metrics(per_plugin_histograms=settings.metrics.per_plugin_histograms)
    metrics.health["zygote"] = "the zygote has not answered yet"
    guard = Guard(metrics, logs)
    loop = Loop(lambda lag_ns: metrics.observe("loop_lag_seconds", (), lag_ns / 1e9), guard)
    pool = Pool(pool_limits(settings, ground.fds), breaker_policy(settings), random.random, recycle_policy(settings))
    driver = CoreDriver(pool, guard, metrics, logs)
    workers = LocalExecutor(
        loop, zygotes=[ZygoteSource(PYTHON.name, lambda: ZygoteLink(sandboxing.boot), ground.zygote)],
        sandboxing=sandboxing, source=ground.source, spares=spares_of(settings), step=driver.step,
        metrics=metrics, logs=logs, failed=guard.failed, fresh_realm=settings.sandbox.fresh_realm)
    governing = Governing(
        pool=pool, step=driver.step, metrics=metrics, activated=workers.activated,
        burst_seconds=settings.limits.cpu_burst_seconds, cgroups=sandboxing.cgroups, failed=guard.failed)
    tenants = Tenants(has_any=any(isinstance(table.owner, dict) for table in settings.data.tables.values()))
    plugin_settings = PluginSettings(is_known=not (needs_registry(settings) and extras.is_installed("registry")),
                                     tenant_of=tenants.of)
    logs.redactors = plugin_settings.redactors
    workers.neighbours.settings_of = plugin_settings.of_call
    audit = AuditTrail(settings, metrics, logs.log, on_refused=driver.refuse_work, on_admitted=driver.admit_work,
                       side_changed=loop.side_changed)
    api = ApiCalls(settings, pool, send=workers.reply, step=driver.step, side_changed=loop.side_changed,
                   wake=loop.wake, metrics=metrics, audit=audit, overhead=workers.overhead,
                   add_host_ns=workers.accounts.add_host_ns, plugin_settings=plugin_settings,
                   tenants=tenants)
    connect_executor(workers, pool=pool, governing=governing, api=api, audit=audit)
    audit.on_spent = workers.overhead.records
    checks = ResultChecks(workers.overhead, loop)
    places = AuthorPlaces(workers.overhead, loop, ground.source)
    workers.neighbours.locate = places.submit_line
    table = PendingTable()
    if settings.traces.endpoint:
        from apex_exec.daemon.sides.trace_feed import TraceFeed

        table.tracing, api.spans = TraceFeed(settings, loop, metrics), table.spans
    replies = Replies(table, audit)
    dispatches = DispatchRuns(pool, table, replies, driver.step, plugin_settings, tenants)
    verdicts = Verdicts(
        pool, table, replies, dispatches, used=workers.accounts.used, audit=audit, api=api, checks=checks,
        places=places, metrics=metrics, logs=logs, failed=guard.failed, plugin_settings=plugin_settings)
    in_fleet = settings.fleet.engine != "none"
    requests = (_in_fleet().make_requests if in_fleet else _alone)(
        pool, settings, table, replies, dispatches, step=driver.step,
        welcome=lambda id_: _welcome(id_, ground, workers.forks.lacking), per_host=settings.pool.per_host, audit=audit,
        api=api, metrics=metrics, plugin_settings=plugin_settings, tenants=tenants)
    tenants.ask, tenants.step, tenants.verdict = api.ask_tenants, driver.step, verdicts.verdict
    tcp_hosts = _tcp_hosts(settings, hosts_max(ground.fds))
    hosts = HostSocket(
        loop, open_local(settings, hosts_max(ground.fds)) if tcp_hosts is None else tcp_hosts.open, requests,
        bytes_max=settings.host.max_message_bytes, metrics=metrics, logs=logs)
    fleet = _in_fleet().join(
        settings, requests, hosts, loop=loop, pool=pool, table=table, api=api, driver=driver, workers=workers,
        metrics=metrics, logs=logs) if in_fleet else None
    peers: Connections = hosts.peers if fleet is None else fleet.peers
    gauges = PluginGauges(pool, metrics, guard.failed)
    supervisor = Supervisor(
        pool=pool, driver=driver, guard=guard, metrics=metrics, logs=logs, workers=workers, peers=peers,
        requests=requests, audit=audit, gauges=gauges,
        forget=(governing.forget, api.forget_plugin, plugin_settings.forget))
    if fleet is not None:
        supervisor.leave, supervisor.linger_ns = fleet.fleet.leave, int(settings.fleet.linger_seconds * SECOND_NS)
    return Service(metrics, guard, loop, pool, driver, workers, governing, audit, api, checks, places, table, verdicts,
                   requests, tcp_hosts, hosts, peers, fleet, gauges, supervisor, plugin_settings, tenants)


def _alone(pool: Pool, _: Settings, *args: Any, **kwargs: Any) -> Requests:
    """``Requests`` of a daemon that is in no fleet."""
    return Requests(pool, *args, **kwargs)


def _in_fleet() -> ModuleType:
    """The parts of a daemon that is in a fleet; libzmq comes with them."""
    from apex_exec.daemon.fleet import build

    return build


def _make_administration(ground: Ground, service: Service, reread: Callable[[], Settings]) -> Administration:
    settings, in_force, logs = ground.settings, ground.in_force, ground.logs
    pool, driver, workers, requests = service.pool, service.driver, service.workers, service.requests
    supervisor, metrics, audit = service.supervisor, service.metrics, service.audit
    plugins = PluginSources(
        served=pool.spec, serve=supervisor.set_plugin, withdraw=supervisor.remove_plugin, failed=service.guard.failed,
        overruled=lambda plugin, _, __: logs.log(
            "error", f"plugin {plugin} is served from plugins_dir; the installed one is not"),
        adjusted=service.plugin_settings.adjusted)
    service.plugin_settings.settle = plugins.settle
    jail_requests = JailRequests(
        pool, driver.step, workers, service.table, service.verdicts, lambda: in_force.settings.pool.boot_seconds)
    driver.connect(workers=workers, verdicts=service.verdicts, audit=audit, gauges=service.gauges,
                   judged=jail_requests.judged)
    registrar = NoRegistrar() if not extras.is_installed("registry") else RegistrarLink(
        settings.model_dump(), jail_requests.table, plugins, service.plugin_settings, loop=service.loop,
        guard=service.guard, metrics=metrics, logs=logs, audit=audit, overhead=workers.overhead)
    reloader = Reloader(in_force, reread, Changeable(
        step=driver.step, fds=ground.fds, requests=requests, workers=workers,
        api=service.api, governing=service.governing, sandboxing=ground.sandboxing, logs=logs, registrar=registrar,
        plugins=plugins, source=ground.source, tcp_hosts=service.tcp_hosts, tracing=service.table.tracing))
    orders = Orders(supervisor, reloader, in_force, ground.notifier, metrics)
    registrar_table.register_all()
    figures = Figures(supervisor, {
        "server": f"apex-exec/{__version__}", "isolation": ground.sandboxing.level,
        "waived": ground.sandboxing.waived, "pid": os.getpid(), "endpoint": settings.host_endpoint,
        "fleet": service.fleet is not None},
        lambda: in_force.settings.sandbox.min_level, plugins.winner, extras.listing())
    operations = LoopOperations(supervisor, orders, figures, service.fleet.fleet if service.fleet else None)
    admin = AdminSocket(service.loop, operations.handlers, lambda: in_force.access, registrar, audit=audit,
                        metrics=metrics, logs=logs)
    requests.administer = admin.serve_host
    return Administration(plugins, registrar, orders, admin)


def connect_executor(workers: LocalExecutor, *, pool: Pool, governing: ports.Governing, api: ports.ApiCalls,
                     audit: Trail) -> None:
    """Gives the workers the parts that were made with them."""
    neighbours = workers.neighbours
    neighbours.api = api
    neighbours.governing = workers.overhead.governing = governing
    neighbours.on_link = pool.on_link

    def record_uncalled(plugin: str, user_id: str, cpu_ns: int) -> None:
        """CPU time that was used without a call is metered, so it is on record too."""
        audit.event("plugin.cpu", user_id, plugin, "worker", "success", {"cpuMs": cpu_ns / 1e6})

    neighbours.on_uncalled = record_uncalled


def _tcp_hosts(settings: Settings, connections_max: int) -> TcpHosts | None:
    if not settings.host_endpoint.startswith("tcp://"):
        return None
    from apex_exec.daemon.hosts.tcp_hosts import TcpHosts  # libzmq is for those who need it

    return TcpHosts(settings, connections_max, lambda address: log.warning(
        "a connection from %s was refused, because its CURVE key is not in any file of host.curve_keys_dir", address))


def _welcome(id_: int | str, ground: Ground, lacking: Collection[str]) -> msg.Welcome:
    settings = ground.in_force.settings
    policy = settings.limits.policy()
    return msg.Welcome(
        id=id_, protocol=1, server=f"apex-exec/{__version__}", api_version=API_VERSION,
        isolation=ground.sandboxing.level, waived=ground.sandboxing.waived,
        runtimes=[name for name in RUNTIMES if name not in lacking], hooks=list(HOOKS), limits=msg.Limits(
            **msgspec.structs.asdict(policy), max_message_bytes=settings.host.max_message_bytes))
