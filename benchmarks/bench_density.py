"""What a thousand live workers and ten thousand registered plugins cost; how rate and lag change as they grow."""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from pathlib import Path

import psutil
from sqlalchemy import Connection

from apex_exec.registry.bundles.blobs import BlobStore
from apex_exec.registry.bundles.bundle import read_folder
from apex_exec.registry.store import (
    EVERYBODY,
    PluginRow,
    Store,
    VersionRow,
    open_enablement,
    put_plugin,
    put_version,
)
from benchmarks.daemon import Daemon, Host, context_of, scraping, serving, write_echo
from benchmarks.lab import Lab

TITLE = "Density and growth"
LIVE = (1, 10, 100, 1000)
MIB = 1024 * 1024


def run(lab: Lab) -> None:
    """Adds the rows."""
    most = max(LIVE) // (10 if lab.quick else 1)
    with tempfile.TemporaryDirectory(prefix="apxp") as name:
        folder = Path(name)
        plugins = [f"echo-{n:04}" for n in range(most)]
        for plugin in plugins:
            write_echo(folder, plugin)
        with serving(folder, scrape=False, limits__cpu_percent=100, pool__max_workers=most) as daemon:
            host = Host(daemon.endpoint)
            for live in [n for n in LIVE if n <= most]:
                lab.say(f"{live} live workers")
                _live(lab, daemon, host, plugins[:live])
            _scraped(lab, daemon, host, plugins)
            lab.say("hosts")
            _hosts(lab, daemon, plugins[: min(16, most)])
            host.close()
    _registered(lab, 1000 if lab.quick else 10_000)


def _live(lab: Lab, daemon: Daemon, host: Host, plugins: list[str]) -> None:
    context = context_of(100)
    conditions = {"live workers": len(plugins)}
    for plugin in plugins:
        host.invoke(plugin)
    for _ in range(lab.repetitions):
        round_ = host.rounds(plugins, lab.scaled(10_000), 64, context)
        lab.add_round("apex-exec, round-robin, 64 in flight", round_, **conditions)
    supervisor = psutil.Process(daemon.pid)
    time.sleep(2)
    begun, cpu = time.monotonic(), _cpu_seconds(supervisor)
    time.sleep(5)
    share = (_cpu_seconds(supervisor) - cpu) / (time.monotonic() - begun)
    lab.add("supervisor at rest", "CPU", "% of a core", share * 100, **conditions)
    lab.add("supervisor at rest", "memory", "MiB", supervisor.memory_full_info().uss / MIB, **conditions)
    uss = [process.memory_full_info().uss / MIB for process in daemon.workers()[:100]]
    lab.add("worker, idle", "memory", "MiB", statistics.median(uss), **conditions)
    begun = time.monotonic()
    lines = daemon.metrics().count("\n")
    lab.add("scrape", "lines", "", float(lines), **conditions)
    lab.add("scrape", "time", "ms", (time.monotonic() - begun) * 1000, **conditions)


def _scraped(lab: Lab, daemon: Daemon, host: Host, plugins: list[str]) -> None:
    """What a scrape a second does to the calls of a host, at 2,000 a second."""
    lab.say("with and without a scrape a second")
    context = context_of(100)
    seconds = 1.0 if lab.quick else 5.0
    for _ in range(lab.repetitions):
        without = host.open_loop(plugins, 2000, seconds, context)
        with scraping(daemon.port):
            scraped = host.open_loop(plugins, 2000, seconds, context)
        conditions = {"live workers": len(plugins)}
        lab.add("calls at 2,000/s, nobody scrapes", "p99", "ms", without.percentile(99) / 1000, **conditions)
        lab.add("calls at 2,000/s, a scrape a second", "p99", "ms", scraped.percentile(99) / 1000, **conditions)
        lab.add("scrape", "added to p99", "ms", (scraped.percentile(99) - without.percentile(99)) / 1000, **conditions)


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _hosts(lab: Lab, daemon: Daemon, plugins: list[str]) -> None:
    for count in (1, 8, 64):
        hosts = [Host(daemon.endpoint) for _ in range(count)]
        for host in hosts:
            host.rounds(plugins, 4, 1, {})
        begun = time.perf_counter()
        total = lab.scaled(6400)
        for host in hosts:
            for n in range(total // count):
                host.socket.send(_message(n, plugins[n % len(plugins)]))
        for host in hosts:
            for _ in range(total // count):
                host.socket.recv()
        lab.add("apex-exec, by host connections", "calls/s", "1/s", total / (time.perf_counter() - begun),
                connections=count)
        for host in hosts:
            host.close()


def _message(number: int, plugin: str) -> bytes:
    import msgspec

    from benchmarks.daemon import invocation

    return msgspec.msgpack.encode({**invocation(plugin, context_of(100)), "id": number})


def _registered(lab: Lab, count: int) -> None:
    """``count`` plugins in the registry: start, memory, cold calls."""
    lab.say(f"{count} registered plugins")
    with tempfile.TemporaryDirectory(prefix="apxp") as name:
        state = Path(name) / "state"
        fill_registry(state, count)
        begun = time.monotonic()
        with serving(None, state=state, limits__cpu_percent=100) as daemon:
            lab.add(f"start, {count:,} in the registry", "time", "s", _answering(daemon, count) - begun,
                    registered=count)
            memory = psutil.Process(daemon.pid).memory_full_info().uss / MIB
            lab.add("supervisor", "memory", "MiB", memory, registered=count)
            host = Host(daemon.endpoint)
            latencies = []
            for n in range(0, count, max(1, count // 50)):
                started = time.perf_counter()
                reply = host.invoke(f"echo-{n:05}")
                latencies.append((time.perf_counter() - started) * 1000)
                if reply["type"] != "result":
                    raise SystemExit(f"a call failed: {reply}")
            lab.add("cold call", "p50", "ms", statistics.median(latencies), registered=count)
            lines = re.findall(r"^apex_exec_", daemon.metrics(), re.M)
            lab.add("scrape", "lines", "", float(len(lines)), registered=count)
            host.close()


def fill_registry(state: Path, count: int) -> None:
    """A registry with ``count`` enabled plugins, written as an installation leaves it."""
    state.mkdir(mode=0o700)
    blobs, store, now_ns = BlobStore(state / "bundles"), Store(f"sqlite:///{state}/registry.db"), time.time_ns()
    bundles = []
    with tempfile.TemporaryDirectory(prefix="apxf") as name:
        for n in range(count):
            write_echo(Path(name), f"echo-{n:05}")
            bundles.append(read_folder(Path(name) / f"echo-{n:05}"))
            blobs.put(bundles[-1])

    def rows(db: Connection) -> None:
        for bundle in bundles:
            m, text = bundle.manifest, bundle.files["manifest.json"].decode()
            put_plugin(db, PluginRow(m.id, m.name, m.author, m.version, "enabled", "", "", now_ns, now_ns))
            put_version(db, VersionRow(m.id, m.version, bundle.digest, text, "installed", "", "", now_ns, 0, now_ns))
            open_enablement(db, m.id, EVERYBODY, now_ns)

    store.transact(rows)
    store.close()


def _answering(daemon: Daemon, count: int) -> float:
    """When the last of ``count`` plugins was served."""
    host = Host(daemon.endpoint)
    try:
        while host.invoke(f"echo-{count - 1:05}").get("code") == "PLUGIN_NOT_FOUND":
            time.sleep(0.02)
        return time.monotonic()
    finally:
        host.close()
