"""``apex-exec serve``: builds the daemon from its settings, runs it, takes it down."""

from __future__ import annotations

import fcntl
import logging
import os
import random
import resource
import signal
import stat
import time
from pathlib import Path
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from apex_exec import __version__
from apex_exec.config import SOCKET_PATH_BYTES_MAX, Settings
from apex_exec.core.actions import Verdict
from apex_exec.core.breaker import SECOND_NS, BreakerPolicy
from apex_exec.core.plugin import Limits
from apex_exec.core.pool import Pool, PoolLimits
from apex_exec.daemon.loop import Supervisor
from apex_exec.daemon.sandboxing import Sandboxing
from apex_exec.daemon.zygote_link import ZygoteLink
from apex_exec.errors import ConfigError, Refusal
from apex_exec.registry.bundle import Bundle, read_folder

log = logging.getLogger("apex_exec")

LATENCY_BUCKETS_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


def read_plugins(folder: str) -> list[Bundle]:
    """Every bundle below ``folder``; a bad one is reported and left out. Two with one id: ConfigError."""
    bundles: dict[str, Bundle] = {}
    for path in sorted(Path(folder).iterdir()) if folder else ():
        if not path.is_dir():
            continue
        try:
            bundle = read_folder(path)
        except Refusal as error:
            log.error("plugin %s is left out: %s", ascii(path.name), ascii(error.message))
            continue
        if bundle.manifest.id in bundles:
            raise ConfigError(f"{folder}: two bundles have the id {bundle.manifest.id}; remove one")
        bundles[bundle.manifest.id] = bundle
    return list(bundles.values())


def prepare_runtime(settings: Settings) -> int:
    """Makes the runtime folder (0700, ours) and takes its lock; returns the lock's fd. Raises ConfigError."""
    path = settings.runtime_path
    if len(os.fsencode(path / "admin.sock")) > SOCKET_PATH_BYTES_MAX:
        raise ConfigError(f"runtime_dir: {path} is too long for a socket path ({SOCKET_PATH_BYTES_MAX} bytes)")
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.lstat()
    except OSError as error:
        raise ConfigError(f"runtime_dir: {error}") from None
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
        raise ConfigError(f"runtime_dir: {path} belongs to somebody else; choose another folder")
    path.chmod(0o700)
    lock = os.open(path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ConfigError(f"a daemon is already running on {path}; stop it or choose another runtime_dir") from None
    (path / "host.sock").unlink(missing_ok=True)
    return lock


class Metrics:
    """The daemon's own registry; the loop only increments."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made: dict[str, Any] = {"registry": self.registry}
        self.invocations = Counter("apex_exec_invocations", "Invocations by outcome.",
                                   ["plugin", "hook", "outcome"], **made)
        self.duration = Histogram("apex_exec_invocation_duration_seconds", "Run time of hooks.", ["hook"],
                                  buckets=LATENCY_BUCKETS_SECONDS, **made)
        self.queue = Histogram("apex_exec_queue_duration_seconds", "Time before a hook began.", ["hook"],
                               buckets=LATENCY_BUCKETS_SECONDS, **made)
        self.in_flight = Gauge("apex_exec_in_flight", "Calls on a worker's link.", ["plugin"], **made)
        self.queued = Gauge("apex_exec_queued", "Calls that wait.", ["plugin"], **made)
        self.memory = Gauge("apex_exec_worker_memory_bytes", "Unique set size of a worker.", ["plugin"], **made)
        build = Gauge("apex_exec_build_info", "The daemon's version.", ["version", "python"], **made)
        build.labels(__version__, ".".join(map(str, os.sys.version_info[:3]))).set(1)  # type: ignore[attr-defined]  # os.sys is sys
        self.level = Gauge("apex_exec_isolation_level", "0 to 4.", **made)
        self.layers = Gauge("apex_exec_sandbox_layer_active", "1 where the layer is in force.", ["layer"], **made)

    def observe(self, verdict: Verdict) -> None:
        """Counts one verdict."""
        self.invocations.labels(verdict.plugin, verdict.hook, verdict.code or "ok").inc()
        self.queue.labels(verdict.hook).observe(verdict.queue_ns / 1e9)
        if verdict.started:
            self.duration.labels(verdict.hook).observe(verdict.run_ns / 1e9)


def serve(settings: Settings) -> int:
    """Runs the daemon in the foreground until SIGTERM or SIGINT; blocks. Raises ConfigError."""
    logging.basicConfig(level=settings.log.level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    if not settings.host_endpoint.startswith("ipc://"):
        raise ConfigError("host.endpoint: only ipc:// is served; tcp:// would need CURVE")
    sandboxing = Sandboxing(settings)
    bundles = read_plugins(settings.plugins_dir)
    lock = prepare_runtime(settings)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    zygote = ZygoteLink(sandboxing.boot)

    import zmq  # only now: its threads must not exist when the zygote is started

    context = zmq.Context()
    router: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 1000)
    router.setsockopt(zmq.MAXMSGSIZE, 4 * settings.host.max_message_bytes)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    metrics = Metrics()
    metrics.level.set(int(sandboxing.level[1:]))
    for report in sandboxing.reports:
        metrics.layers.labels(report.layer).set(report.state in ("active", "degraded"))
    # before bind: it watches connections
    supervisor = _supervisor(settings, sandboxing, zygote, router, bundles, metrics)
    old = os.umask(0o177)
    try:
        router.bind(settings.host_endpoint)
    except zmq.ZMQError as error:
        raise ConfigError(f"host.endpoint: {settings.host_endpoint}: {error}") from None
    finally:
        os.umask(old)
    server = _expose(settings, metrics)
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)

    def on_signal(numbers: bytes) -> None:
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            log.info("draining for at most %s s", settings.drain_seconds)
            supervisor.drain(time.monotonic_ns() + int(settings.drain_seconds * SECOND_NS))
        elif signal.SIGHUP in numbers:
            log.info("nothing is reloaded by this version; restart to change the configuration")

    def upkeep() -> None:
        for plugin, queued, in_flight, _, _ in supervisor.pool.gauges(time.monotonic_ns()):
            metrics.queued.labels(plugin).set(queued)
            metrics.in_flight.labels(plugin).set(in_flight)
        for plugin, pid in supervisor.living():
            try:
                metrics.memory.labels(plugin).set(psutil.Process(pid).memory_full_info().uss)
            except psutil.Error:
                continue  # it has just died; its exit is reported by the zygote

    log.info("serving %d plugins on %s", len(bundles), settings.host_endpoint)
    try:
        supervisor.run(wake_read, on_signal, upkeep)
    finally:
        zygote.close()
        router.disable_monitor()
        router.close()
        context.destroy(linger=1000)  # the monitor included: term alone would wait for it
        server.shutdown()
        (settings.runtime_path / "host.sock").unlink(missing_ok=True)
        os.close(lock)
    return 0


def _supervisor(settings: Settings, sandboxing: Sandboxing, zygote: ZygoteLink, router: Any, bundles: list[Bundle],
                metrics: Metrics) -> Supervisor:
    pool, breaker = settings.pool, settings.breaker
    supervisor = Supervisor(
        pool=Pool(
            PoolLimits(pool.max_workers, int(pool.idle_seconds * SECOND_NS), pool.queue_depth, pool.in_flight,
                       pool.prefetch, int(pool.boot_seconds * SECOND_NS)),
            BreakerPolicy(breaker.ends, int(breaker.window_seconds * SECOND_NS),
                          int(breaker.open_seconds * SECOND_NS), int(breaker.stable_seconds * SECOND_NS),
                          int(breaker.backoff_min_seconds * SECOND_NS), int(breaker.backoff_max_seconds * SECOND_NS)),
            random.random),
        zygote=zygote, router=router, level=sandboxing.level, waived=sandboxing.waived,
        jail_for=sandboxing.jail_for, worker_gone=sandboxing.worker_gone,
        bundles={bundle.digest: (bundle.loaded, bundle.sha256) for bundle in bundles},
        bytes_max=settings.host.max_message_bytes, per_host=pool.per_host,
        log=lambda level, text: log.log(_LEVELS.get(level, logging.INFO), "%s", ascii(text)),
        observe=metrics.observe, layer_lied=lambda layer: metrics.layers.labels(layer).set(0))
    policy = Limits(timeout_ms=settings.limits.timeout_ms, memory_mb=settings.limits.memory_mb)
    for bundle in bundles:
        supervisor.set_plugin(bundle.spec(policy))
    return supervisor


_LEVELS = {"debug": logging.DEBUG, "warning": logging.WARNING, "error": logging.ERROR, "stderr": logging.WARNING}


def _expose(settings: Settings, metrics: Metrics) -> Any:
    host, _, port = settings.http.address.rpartition(":")
    try:
        server, _ = start_http_server(int(port), host, metrics.registry)
    except (OSError, ValueError) as error:
        raise ConfigError(f"http.address: {settings.http.address}: {error}") from None
    log.info("metrics on http://%s:%d/metrics", host, server.server_port)
    return server
