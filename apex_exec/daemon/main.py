"""``apex-exec serve``: builds the daemon from its settings, runs it, takes it down.

The order matters: the zygote is started before any thread or ZeroMQ context exists; endpoints are bound when all
that they need stands; readiness is told when all of it stands.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import random
import resource
import signal
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from apex_exec import API_VERSION, __version__, extras
from apex_exec.catalogue.declared import declare_all
from apex_exec.catalogue.hooks import HOOKS
from apex_exec.config import Settings
from apex_exec.core.plugin import Limits
from apex_exec.core.scheduler.breaker import BreakerPolicy
from apex_exec.core.scheduler.pool import SECOND_NS, Pool, PoolLimits, RecyclePolicy
from apex_exec.daemon import notify
from apex_exec.daemon.administration import registrar_table
from apex_exec.daemon.administration.admin_socket import AdminSocket
from apex_exec.daemon.administration.jail_requests import Asks
from apex_exec.daemon.administration.loop_operations import LoopOperations
from apex_exec.daemon.administration.registrar_link import RegistrarLink
from apex_exec.daemon.administration.roles import Access
from apex_exec.daemon.api_calls import make_gateway
from apex_exec.daemon.folder_plugins import scan_folder
from apex_exec.daemon.hosts.endpoints import bind, open_local
from apex_exec.daemon.hosts.stream_peers import CONNECTIONS_MAX
from apex_exec.daemon.plugin_sources import PluginSources
from apex_exec.daemon.reload import Reloader
from apex_exec.daemon.runtime_folder import RuntimeFolder, own_folder, take_lock
from apex_exec.daemon.settings_checks import check_settings, needs_registry
from apex_exec.daemon.sides.audit_trail import AuditTrail
from apex_exec.daemon.sides.metrics_feed import Exporting
from apex_exec.daemon.sides.result_checks import ResultChecks
from apex_exec.daemon.sides.side_process import SideProcess
from apex_exec.daemon.supervisor import Supervisor
from apex_exec.errors import ConfigError
from apex_exec.executor import scheduling_priority
from apex_exec.executor.jails import Sandboxing
from apex_exec.executor.loop import CLOSE_SECONDS, Loop
from apex_exec.executor.resource_monitor import Governing
from apex_exec.executor.zygote_link import ZygoteLink
from apex_exec.observe.logs import LEVELS, Logs
from apex_exec.observe.metrics import Metrics
from apex_exec.registry.bundles.blobs import BlobStore, BundleSource
from apex_exec.sandbox.bare import active_children
from apex_exec.wire import messages as msg

if TYPE_CHECKING:
    from apex_exec.daemon.hosts.tcp_hosts import TcpHosts

log = logging.getLogger("apex_exec")

FDS_PER_WORKER = 4
"""Link, marks, pidfd, and one in passing."""
FDS_OWN = 256
"""What the daemon itself, its administrators and its side processes may use."""
FDS_RESERVE = 32
"""With fewer free `/readyz` says so."""
LEDGER_SECONDS = 10.0
"""How long the start waits for a ledger that can write."""
REGISTRY_SECONDS = 10.0
"""How long the start waits for the installed plugins."""
SLEEP_SECONDS = 30.0
"""After the start, when side processes that nobody has needed yet are started all the same: the registrar of a daemon
without a registry, which notes the ledger's head once a minute, and the process that checks large results. Each costs
up to a second of CPU time, which the first answers should not wait for."""
WATCH_SECONDS = 1.0
PR_SET_CHILD_SUBREAPER = 36


def limits_of(settings: Settings) -> Limits:
    """The platform's policy for plugins."""
    given = settings.limits
    return Limits(timeout_ms=given.timeout_ms, memory_mb=given.memory_mb, cpu_percent=given.cpu_percent,
                  network_per_minute=given.network_per_minute)


def hosts_max(fds: int) -> int:
    """Connections of hosts: never so many that workers find no descriptors."""
    return min(CONNECTIONS_MAX, max(2, fds // 4))


def pool_limits(settings: Settings, fds: int) -> PoolLimits:
    """The pool's bounds; the number of workers is clamped to what ``fds`` descriptors allow."""
    pool = settings.pool
    room = max(1, (fds - FDS_OWN - hosts_max(fds)) // FDS_PER_WORKER)
    if pool.max_workers > room:
        log.warning("pool.max_workers = %d is lowered to %d: RLIMIT_NOFILE is %d", pool.max_workers, room, fds)
    uids = max(1, _uids(settings) - pool.spare_workers)
    if uids < min(pool.max_workers, room):
        log.warning("pool.max_workers = %d is lowered to %d: sandbox.uid_range has no more", pool.max_workers, uids)
        room = uids
    return PoolLimits(
        workers_max=min(pool.max_workers, room), idle_ns=int(pool.idle_seconds * SECOND_NS),
        queue_max=pool.queue_depth, in_flight_max=pool.in_flight, prefetch=pool.prefetch,
        boot_ns=int(pool.boot_seconds * SECOND_NS))


def _uids(settings: Settings) -> int:
    """How many workers there can be at once, spares included: as root each has a uid of its own."""
    low, high = settings.sandbox.uid_range
    return high - low + 1 if os.geteuid() == 0 else 1 << 32


def spares_of(settings: Settings) -> int:
    """The number of spare workers: ``pool.spare_workers``, or fewer if ``sandbox.uid_range`` is small. At least one uid
    of the range stays free for a plugin's worker."""
    return min(settings.pool.spare_workers, _uids(settings) - 1)


def breaker_policy(settings: Settings) -> BreakerPolicy:
    """When a failing plugin is paused."""
    given = settings.breaker
    return BreakerPolicy(given.ends, int(given.window_seconds * SECOND_NS), int(given.open_seconds * SECOND_NS),
                         int(given.stable_seconds * SECOND_NS), int(given.backoff_min_seconds * SECOND_NS),
                         int(given.backoff_max_seconds * SECOND_NS))


def recycle_policy(settings: Settings) -> RecyclePolicy:
    """When a healthy worker is replaced."""
    given = settings.recycle
    return RecyclePolicy(given.after_calls, int(given.after_seconds * SECOND_NS), int(given.growth_mb * 1024 * 1024))


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), int(port)))
        listener.listen(64)
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(f"http.address: {address}: {error}; choose another, port 0 takes a free one") from None
    return listener


def serve(settings: Settings, reread: Callable[[], Settings] | None = None) -> int:
    """Runs the daemon in the foreground until SIGTERM or SIGINT; blocks. Raises ConfigError.

    ``reread`` reads the configuration again for a reload; without it a reload only reads ``plugins_dir`` anew.
    """
    if platform.system() != "Linux":
        raise ConfigError("apex-exec confines plugins with Linux's own means; this is no Linux")
    logs = Logs(level=settings.log.level, format=settings.log.format,
                plugin_lines_per_second=settings.log.plugin_lines_per_second, folder=settings.state_path / "logs")
    root = logging.getLogger()
    root.addHandler(logs)
    root.setLevel(logging.DEBUG if settings.log.level == "debug" else logging.INFO)
    signals = Signals()
    try:
        return _Daemon(settings, reread or (lambda: settings), logs, signals).serve()
    except Ended:
        log.info("ended before it was ready")
        return 0
    finally:
        root.removeHandler(logs)
        logs.close()


class Ended(BaseException):
    """The daemon was told to end before its loop could be told so."""


class Signals:
    """SIGTERM, SIGINT and SIGHUP: until ``to_loop`` the first of the former two raises ``Ended`` wherever the start is.

    PID 1 has no default action, so a container that is stopped while it starts would serve on. A mask that whoever
    started the daemon had is no concern of it.
    """

    NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __init__(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        signal.signal(signal.SIGHUP, lambda *_: None)  # the configuration has just been read
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, children would have no exit status
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _end(self, *_: object) -> None:
        self.quiet()
        raise Ended

    def quiet(self) -> None:
        """From now on none of them does anything by itself: the end is under way."""
        for number in self.NUMBERS:
            signal.signal(number, lambda *_: None)

    def to_loop(self, loop: Loop, told: Callable[[bytes], None]) -> None:
        """Hands them to the loop, which calls ``told(numbers)``."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        loop.add(wake_read, lambda _: told(os.read(wake_read, 64)))
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self.quiet()


class _Daemon:
    """The parts of one running daemon, in the order in which they are made."""

    def __init__(self, settings: Settings, reread: Callable[[], Settings], logs: Logs, signals: Signals) -> None:
        check_settings(settings)
        declare_all(settings.declared_hooks())
        access = Access(settings.admin.roles, os.geteuid())
        self.settings = settings
        self.logs = logs
        self.signals = signals
        self.notifier = notify.Notifier()
        self.sandboxing = Sandboxing(settings)
        self.policy = limits_of(settings)
        _own_state(settings)
        self.source = BundleSource(BlobStore(settings.state_path / "bundles"))
        found = scan_folder(settings.plugins_dir, self.policy, settings.security.policy_file)
        self.source.replace(found.bundles)
        self.runtime = RuntimeFolder(settings)
        self.state_lock = take_lock(settings.state_path / "state.lock", "state_dir")  # ledger, registry: one writer
        for endpoint in (settings.host_endpoint, settings.admin_endpoint):
            self.runtime.sweep(endpoint)
        self.listener = _listen(settings.http.address)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # a dead zygote's workers come to us to be reaped
        self.fds = hard
        zygote = self._start_zygote()

        logs.start()
        self.metrics = Metrics(per_plugin_histograms=settings.metrics.per_plugin_histograms)
        self.tcp_hosts: TcpHosts | None = None
        if settings.host_endpoint.startswith("tcp://"):
            from apex_exec.daemon.hosts.tcp_hosts import TcpHosts  # libzmq is for those who need it

            self.tcp_hosts = TcpHosts(settings, hosts_max(self.fds), lambda address: log.warning(
                "a connection from %s was refused: its CURVE key is in no client's file", address))
        self.supervisor = self._supervisor(zygote)
        self.reloader = Reloader(settings, reread)
        self.reloader.appliers.append(self._apply)
        self.audit = AuditTrail(settings, self.metrics, logs.log)
        self.supervisor.attach(self.audit.side)
        self.governing = Governing(
            pool=self.supervisor.pool, step=self.supervisor.step, metrics=self.metrics,
            activated=self.supervisor.workers.activated,
            burst_seconds=settings.limits.cpu_burst_seconds, cgroups=self.sandboxing.cgroups,
            failed=self.supervisor.guard.failed)
        self.supervisor.on_removed.append(self.governing.forget)
        self.supervisor.use(audit=self.audit, governing=self.governing)
        checks = ResultChecks(self.supervisor.workers.overhead, self.supervisor.loop)
        self.supervisor.attach(checks.side, SLEEP_SECONDS)
        self.supervisor.requests.checks = checks
        self.api, self.gateway = make_gateway(self.supervisor, settings)
        self.supervisor.use(api=self.api)
        self.supervisor.on_removed.append(self.api.forget_plugin)
        operations = LoopOperations(
            self.supervisor, self.reload, self.drain,
            {"server": f"apex-exec/{__version__}", "isolation": self.sandboxing.level, "waived": self.sandboxing.waived,
             "pid": os.getpid(), "endpoint": settings.host_endpoint})
        asks = Asks(self.supervisor, lambda: self.settings.pool.boot_seconds)
        self.plugins = PluginSources(
            served=self.supervisor.pool.spec, serve=self.supervisor.set_plugin, withdraw=self.supervisor.remove_plugin,
            failed=self.supervisor.guard.failed, overruled=lambda plugin, _, __: logs.log(
                "error", f"plugin {plugin} is served from plugins_dir; the installed one is not"))
        self.registrar = RegistrarLink(self.supervisor, asks.table, self.plugins)
        self.registrar_settings = settings.model_dump()
        if extras.is_installed("registry"):  # without it there is no registrar, and its operations say why
            side = SideProcess("registrar", "apex_exec.daemon.administration.registrar:main", self.registrar_settings,
                               on_message=self.registrar.message, on_down=self.registrar.down)
            self.registrar.bind(side)
            self.supervisor.attach(side, 0.0 if needs_registry(settings) else SLEEP_SECONDS)
        self.supervisor.attach(self.gateway)  # after the registrar: the start waits for that one
        registrar_table.register_all()
        self.admin = AdminSocket(self.supervisor, operations.handlers, access, self.registrar)
        self.plugins.replace("folder", found.specs)

    def _start_zygote(self) -> ZygoteLink:
        return ZygoteLink(self.sandboxing.boot)

    def _supervisor(self, zygote: ZygoteLink) -> Supervisor:
        settings = self.settings
        pool = Pool(pool_limits(settings, self.fds), breaker_policy(settings), random.random,
                    recycle_policy(settings))
        return Supervisor(
            pool=pool, open_hosts=self.tcp_hosts.open if self.tcp_hosts else open_local(settings, hosts_max(self.fds)),
            start_zygote=self._start_zygote, zygote=zygote,
            sandboxing=self.sandboxing, source=self.source, spares=spares_of(settings),
            bytes_max=settings.host.max_message_bytes, per_host=settings.pool.per_host, welcome=self._welcome,
            metrics=self.metrics, logs=self.logs)

    def _welcome(self, id_: int | str) -> msg.Welcome:
        policy = self.policy
        return msg.Welcome(
            id=id_, protocol=1, server=f"apex-exec/{__version__}", api_version=API_VERSION,
            isolation=self.sandboxing.level, waived=self.sandboxing.waived, hooks=list(HOOKS), limits=msg.Limits(
                timeout_ms=policy.timeout_ms, memory_mb=policy.memory_mb, cpu_percent=policy.cpu_percent,
                network_per_minute=policy.network_per_minute,
                max_message_bytes=self.settings.host.max_message_bytes))

    # ------------------------------------------------------------------ running
    def serve(self) -> int:
        """Binds, says that it is ready, serves, takes everything down. 1 if records were lost, else 0."""
        settings, supervisor, metrics = self.settings, self.supervisor, self.metrics
        metrics.set("build_info", (__version__, platform.python_version()), 1.0)
        metrics.set("isolation_level", (), float(self.sandboxing.level[1:]))
        for report in self.sandboxing.reports:
            metrics.set("sandbox_layer_active", (report.layer,), float(report.state in ("active", "degraded")))
        metrics.set("config_last_reload_successful", (), 1.0)
        metrics.set("draining", (), 0.0)
        Exporting(supervisor, self.listener, metrics)
        supervisor.loop.every(WATCH_SECONDS, self._watch)
        if self.notifier.watchdog_seconds:
            supervisor.loop.every(self.notifier.watchdog_seconds / 3, lambda _: self.notifier.say(notify.WATCHDOG))
        try:
            if not self.audit.wait_ready(LEDGER_SECONDS):
                log.error("the ledger cannot take records yet (%s); calls are answered AUDIT_UNAVAILABLE until it can",
                          self.audit.reason)
            if not self.registrar.wait_ready(REGISTRY_SECONDS):
                log.error("the registry does not answer (%s); what is installed is served as soon as it does",
                          metrics.health.get("registry") or "it is still being opened")
            if why := supervisor.workers.zygote.wait_ready():
                raise ConfigError(f"no worker can be started: the zygote, which they are forked from, cannot run: {why}"
                                  + self.sandboxing.extra_modules_hint)
            self._bind()
            self.signals.to_loop(supervisor.loop, self._signalled)
            log.info("metrics on http://%s:%d/metrics", *self.listener.getsockname()[:2])
            log.info("serving %d plugins on %s", len(supervisor.pool.specs()), settings.host_endpoint)
            self.notifier.say(notify.READY)
            scheduling_priority.raise_loop()
            supervisor.run()
        except BaseException:
            self.signals.quiet()
            self._close()
            raise
        lost = self._close()
        log.info("the daemon has ended")
        return 1 if lost else 0

    def _bind(self, *, again: bool = False) -> None:
        """Serves both endpoints; ``again`` where a socket file was deleted under us. Raises ConfigError."""
        endpoint = self.settings.host_endpoint
        if not again or endpoint.startswith("ipc://"):
            bind(self.supervisor.hosts.peers, endpoint, self.runtime, "host.endpoint")
        bind(self.admin.peers, self.settings.admin_endpoint, self.runtime, "admin.endpoint")

    def _signalled(self, numbers: bytes) -> None:
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self.drain()
        elif signal.SIGHUP in numbers:
            self._reload_logged()

    def drain(self) -> None:
        """Takes no new work, answers what is pending, ends; told a second time, it does not wait any longer."""
        if self.supervisor.ending:
            log.info("ending at once")
            self.supervisor.drain(0)
            return
        log.info("draining for at most %s s", self.settings.drain_seconds)
        self.notifier.say(notify.STOPPING)
        self.supervisor.drain(self.settings.drain_seconds)

    # ------------------------------------------------------------------ reload
    def reload(self) -> dict[str, Any]:
        """Applies what can be applied of the configuration as it is now. Raises ConfigError."""
        self.notifier.reloading()
        try:
            outcome = self.reloader.reload()
        except ConfigError:
            self.metrics.set("config_last_reload_successful", (), 0.0)
            raise
        finally:
            self.notifier.say(notify.READY)
        self.metrics.set("config_last_reload_successful", (), 1.0)
        log.info("reloaded: %s", ", ".join(outcome["applied"]) or "no key has changed")
        if outcome["restart"]:
            log.warning("these need a restart and were left as they are: %s", ", ".join(outcome["restart"]))
        return outcome

    def _reload_logged(self) -> None:
        try:
            self.reload()
        except ConfigError as error:
            log.error("the reload failed and nothing was changed: %s", error)

    def _apply(self, settings: Settings, keys: list[str]) -> None:
        policy = limits_of(settings)
        found = scan_folder(settings.plugins_dir, policy, settings.security.policy_file)
        if self.tcp_hosts is not None:
            self.tcp_hosts.curve.read_clients()
        access = Access(settings.admin.roles, os.geteuid())
        self.source.replace(found.bundles)  # from here on nothing raises: a reload that is refused changes nothing
        self.settings, self.policy = settings, policy
        self.admin.access = access
        self.supervisor.requests.per_host = settings.pool.per_host
        self.governing.burst_seconds = self.sandboxing.burst_seconds = settings.limits.cpu_burst_seconds
        self.api.calls_per_second = settings.limits.api_calls_per_second
        self.logs.level_min = LEVELS[settings.log.level]
        self.logs.plugin_lines_per_second = settings.log.plugin_lines_per_second
        self.supervisor.workers.spares.wanted = spares_of(settings)
        self.supervisor.reconfigure(pool_limits(settings, self.fds), breaker_policy(settings), recycle_policy(settings))
        self.registrar_settings.update(settings.model_dump())  # a registrar that starts later begins with these
        self.registrar.configure(self.registrar_settings)
        self.plugins.replace("folder", found.specs)

    # ------------------------------------------------------------------ now and then
    def _watch(self, now_ns: int) -> None:
        _reap_orphans()
        self.metrics.health["descriptors"] = "" if _has_descriptors(self.state_lock) else (
            "nearly all descriptors that RLIMIT_NOFILE allows are open: workers and hosts may find none")
        missing = self.runtime.missing()
        self.metrics.health["endpoint"] = missing
        if not missing:
            return
        log.error("%s; binding it again", missing)
        if not self.runtime.restore():
            return
        try:
            self._bind(again=True)
        except ConfigError as error:
            log.error("%s", error)
            return
        self.metrics.health["endpoint"] = self.runtime.missing()

    def _close(self) -> int:
        """Takes everything down, CLOSE_SECONDS after the drain at the latest; whatever fails of it, the rest is done.
        Returns how many audit records could not be written."""
        supervisor = self.supervisor
        until = max(time.monotonic(), supervisor.drain_until_ns / 1e9) + CLOSE_SECONDS
        lost = 0

        def records() -> None:
            nonlocal lost
            lost = self.audit.close(until)
            if lost:
                log.error("audit: %d records could not be written before the daemon ended (%s); what they are about is "
                          "not on record", lost, self.audit.reason or "the ledger did not take them in time")

        def sides() -> None:
            if killed := supervisor.loop.close_sides(until):
                log.error("these did not end in time and were killed: %s", ", ".join(killed))

        for step in (supervisor.workers.zygote.close, self.governing.close, records, supervisor.requests.end,
                     supervisor.hosts.peers.close, self.admin.peers.close,
                     *((self.tcp_hosts.close,) if self.tcp_hosts is not None else ()), sides, self.listener.close,
                     self.runtime.close, lambda: os.close(self.state_lock)):
            try:
                step()
            except Exception:
                log.exception("something could not be taken down in order")
        return lost


def _own_state(settings: Settings) -> None:
    path = settings.state_path
    own_folder(path, "state_dir")
    try:
        (path / "bundles").mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"state_dir: {path / 'bundles'}: {error.strerror} for uid {os.geteuid()}; "
                          "choose another folder") from None


def _has_descriptors(open_fd: int) -> bool:
    """Whether FDS_RESERVE descriptors are likely to be free: the kernel gives the lowest number that is."""
    try:
        lowest = os.dup(open_fd)
    except OSError:
        return False
    os.close(lowest)
    return lowest < resource.getrlimit(resource.RLIMIT_NOFILE)[0] - FDS_RESERVE


def _reap_orphans() -> None:
    """Reaps what became our child by its parent's death; our own children are left to those who started them."""
    ours = {process.pid for process in active_children()}  # reaps those of them that have ended
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid in ours:
            return
        os.waitpid(found.si_pid, os.WNOHANG)
