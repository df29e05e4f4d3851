"""The governor's figures, both ways: the share of a plugin that spins, a memory bomb, what short hooks lose."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from apex_exec.sandbox.cgroup import CgroupError, Cgroups
from benchmarks.daemon import Daemon, Host, invocation, serving, write_bundle, write_echo
from benchmarks.lab import Lab

TITLE = "Governor: CPU and memory of plugins"
SPIN = '''
from workers import Plugin
plugin = Plugin(id="spin", version="1.0.0", permissions=[])
@plugin.hook("onActionExecute")
def run(params):
    while True:
        pow(3, 9999)
'''
SHORT = '''
import time
from workers import Plugin
plugin = Plugin(id="short", version="1.0.0", permissions=[])
@plugin.hook("onActionExecute")
def run(params):
    until = time.process_time_ns() + 1_000_000
    while time.process_time_ns() < until:
        pass
    return {"result": None, "metadata": {}}
'''
BOMB = '''
from workers import Plugin
plugin = Plugin(id="bomb", version="1.0.0", permissions=[])
@plugin.hook("onActionExecute")
def run(params):
    kept = []
    while params["context"].get("go"):
        kept.append(bytearray(1 << 20))
    return {"result": None, "metadata": {}}
'''
BURST_SECONDS = 0.5
DEADLINE_MS = 1500
"""Short, so that the share is held across many kills."""
IDLE_WORKERS = 1000


def run(lab: Lab) -> None:
    """Adds the rows."""
    ways = ["psutil"]
    try:
        Cgroups("bench").close()
        ways.append("cgroup")
    except CgroupError as error:
        lab.note(f"no cgroup to be had: {error}")
    with tempfile.TemporaryDirectory(prefix="apxp") as name:
        folder = Path(name)
        for id_, code in (("spin", SPIN), ("short", SHORT), ("bomb", BOMB)):
            write_bundle(folder, id_, code)
        for way in ways:
            with serving(folder, sandbox__governor=way, breaker__ends=1000, breaker__backoff_min_seconds=0.001,
                         breaker__backoff_max_seconds=0.001, limits__cpu_burst_seconds=BURST_SECONDS) as daemon:
                host = Host(daemon.endpoint)
                _spin(lab, daemon, host, way)
                _short(lab, host, way)
                _bomb(lab, daemon, host, way)
                host.close()
    _idle(lab)


def _zygote(daemon: Daemon) -> psutil.Process:
    """The zygote: the daemon's child that has children of its own, the workers."""
    for _ in range(1000):
        for child in psutil.Process(daemon.pid).children():
            if child.children():
                return child
        time.sleep(0.005)
    raise SystemExit("the daemon has no zygote with workers")


def _cpu_seconds(zygote: psutil.Process) -> float:
    """CPU of all workers, dead and living, by the kernel's account of the zygote's children."""
    times = zygote.cpu_times()
    total: float = times.children_user + times.children_system
    for child in zygote.children():
        try:
            own = child.cpu_times()
        except psutil.Error:
            continue
        total += own.user + own.system
    return total


def _spin(lab: Lab, daemon: Daemon, host: Host, way: str) -> None:
    """Spins without a pause, killed at each deadline; the share is read after the burst."""
    seconds = max(3, lab.scaled(20))
    lab.say(f"{way}: a plugin that spins for {seconds} s")

    def spin_until(due: float) -> int:
        calls = 0
        while time.monotonic() < due:
            reply = host.invoke("spin", deadlineMs=DEADLINE_MS)
            calls += reply.get("code") == "TIMEOUT"
        return calls

    spin_until(time.monotonic() + BURST_SECONDS * 4 + 2)
    host.invoke("short")  # a worker by which the zygote is known
    zygote = _zygote(daemon)
    before, begun = _cpu_seconds(zygote), time.monotonic()
    kills = spin_until(begun + seconds)
    share = (_cpu_seconds(zygote) - before) / (time.monotonic() - begun)
    lab.add(f"governor = {way}", "share of a plugin that spins", "%", share * 100, kills=kills)


def _short(lab: Lab, host: Host, way: str) -> None:
    """Calls 1 ms of CPU 20 times a second, for ten seconds: how much the governor slows them."""
    host.invoke("short")
    held_ms = ran_ms = 0.0
    begun = time.monotonic()
    for n in range(lab.scaled(200)):
        time.sleep(max(0.0, begun + n / 20 - time.monotonic()))
        usage = host.invoke("short")["usage"]
        held_ms += usage["throttledMs"]
        ran_ms += usage["executionTimeMs"]
    lab.add(f"governor = {way}", "short hooks: time lost to the governor", "%", 100 * held_ms / ran_ms)


def _bomb(lab: Lab, daemon: Daemon, host: Host, way: str) -> None:
    """Takes a megabyte at a time until it is refused or killed. The figure is the largest resident size, less that of
    the idle worker."""
    host.invoke("bomb")
    (worker,) = daemon.workers("bomb")
    idle = worker.memory_full_info().uss
    begun = time.monotonic()
    host.socket.send(_message(invocation("bomb", {"go": True})))
    most = idle
    while not host.socket.poll(0):
        try:
            most = max(most, worker.memory_full_info().uss)
        except psutil.Error:
            break
    host.socket.poll(10_000)
    code = _decoded(host.socket.recv()).get("code")
    lab.add(f"governor = {way}", "memory bomb: the most it had above the idle worker", "MB", (most - idle) / 2**20)
    lab.add(f"governor = {way}", "memory bomb: until it was answered", "ms", (time.monotonic() - begun) * 1e3,
            code=code)


def _message(body: dict[str, Any]) -> bytes:
    import msgspec

    return msgspec.msgpack.encode({**body, "id": 10**9})


def _decoded(body: bytes) -> dict[str, Any]:
    import msgspec

    decoded: dict[str, Any] = msgspec.msgpack.decode(body)
    return decoded


def _idle(lab: Lab) -> None:
    """What it costs to look after many idle workers."""
    count = lab.scaled(IDLE_WORKERS)
    lab.say(f"{count} idle workers")
    with tempfile.TemporaryDirectory(prefix="apxp") as name:
        folder = Path(name)
        for n in range(count):
            write_echo(folder, f"idle-{n:04}")
        for way in ("psutil",):
            with serving(folder, scrape=False, sandbox__governor=way) as daemon:
                host = Host(daemon.endpoint)
                for n in range(count):
                    host.invoke(f"idle-{n:04}")
                time.sleep(6)
                process = psutil.Process(daemon.pid)
                before, begun = process.cpu_times(), time.monotonic()
                time.sleep(10)
                after = process.cpu_times()
                used = after.user + after.system - before.user - before.system
                lab.add(f"governor = {way}", "supervisor with idle workers", "% of a core",
                        100 * used / (time.monotonic() - begun), workers=count)
                host.close()
