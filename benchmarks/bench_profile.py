"""Where the time of one invocation goes: the supervisor's own code by part, the worker, the host, and the waiting.

The supervisor's share is taken by cProfile from ``hot_path`` (own time by module) and scaled to what the same calls
take without a profiler; the others are CPU times of the processes over real calls. What is left of the round trip
then is system calls' waiting: wake-ups and the scheduler.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import resource
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.daemon import Host, context_of, serving, write_echo
from benchmarks.hot_path import Rig
from benchmarks.lab import Lab

TITLE = "Where the time of one invocation goes"
PARTS = (
    ("host connection: ZMTP, frames, socket calls", ("stream_peers", "zmtp_router", "host_socket")),
    ("host codec: decode, validate, encode", ("wire/codec", "wire/hooks", "wire/messages", "msgspec")),
    ("requests: admission, verdict to reply", ("hosts/requests", "hosts/verdicts", "hosts/replies", "hosts/pending")),
    ("core: queues, deadlines, decisions", ("apex_exec/core",)),
    ("worker link: frames, socket calls", ("worker_link", "local", "link_reader", "worker_protocol", "workers/zmtp")),
    ("metrics and audit", ("observe/", "ledger/", "audit_trail")),
    ("loop and supervisor", ("executor/loop", "daemon/turn", "daemon/core_driver", "daemon/supervisor", "epoll")),
)


def run(lab: Lab) -> None:
    """Adds the rows."""
    for at_once in (1, 8):
        _supervisor(lab, at_once)
    _processes(lab)


def _supervisor(lab: Lab, at_once: int) -> None:
    rounds = lab.scaled(8000) // at_once
    with tempfile.TemporaryDirectory(prefix="apxh") as folder:
        rig = Rig(Path(folder))
        rig.start_worker()
        rig.calls(50, at_once)
        begun = time.perf_counter()
        rig.calls(rounds, at_once)
        whole_us = (time.perf_counter() - begun) / rounds / at_once * 1e6
        profile = cProfile.Profile()
        profile.runcall(rig.calls, rounds, at_once)
        stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]  # documented, missing in the stubs
    own: dict[str, float] = dict.fromkeys([name for name, _ in PARTS], 0.0)
    ours = total = 0.0
    for (file, _, function), (_, _, seconds, _, callers) in stats.items():
        total += seconds
        if file == "~":  # a builtin: its time belongs to its caller
            for (caller, _, _), (_, _, inner, _) in callers.items():
                ours += _give(own, f"{caller} {function}", inner)
        else:
            ours += _give(own, file, seconds)
    for name, seconds in own.items():
        lab.add(name, "time", "µs", seconds / total * whole_us, **{"on the link": at_once})
    lab.add("supervisor in all (without the played host and worker)", "time", "µs", ours / total * whole_us,
            **{"on the link": at_once})


def _give(own: dict[str, float], text: str, seconds: float) -> float:
    for name, marks in PARTS:
        if "benchmarks" not in text and any(mark in text for mark in marks):
            own[name] += seconds
            return seconds
    return 0.0


def _processes(lab: Lab) -> None:
    context = context_of(100)
    with tempfile.TemporaryDirectory(prefix="apxp") as name:
        folder = Path(name)
        write_echo(folder, "echo-one")
        with serving(folder, limits__cpu_percent=100) as daemon:
            host = Host(daemon.endpoint)
            host.rounds(["echo-one"], 500, 8, context)
            supervisor = psutil.Process(daemon.pid)
            children = supervisor.children()
            (worker,) = daemon.workers()
            for in_flight, total in ((1, 6000), (64, 20_000)):
                total = lab.scaled(total)
                watched = {"supervisor": supervisor, "worker": worker}
                before = {name: _cpu_us(process) for name, process in watched.items()}
                sides = sum(map(_cpu_us, children))
                own = _own_cpu_us()
                round_ = host.rounds(["echo-one"], total, in_flight, context)
                conditions = {"in flight": in_flight}
                for name, process in watched.items():
                    lab.add(f"CPU of the {name}", "time", "µs", (_cpu_us(process) - before[name]) / total, **conditions)
                lab.add("CPU of ledger, exporter, gateway, registrar, zygote", "time", "µs",
                        (sum(map(_cpu_us, children)) - sides) / total, **conditions)
                lab.add("CPU of the host (this client)", "time", "µs", (_own_cpu_us() - own) / total, **conditions)
                lab.add("a call, by the clock", "time", "µs", 1e6 / round_.rate, **conditions)
            host.close()
    lab.note("on two cores, a call at 1 in flight waits for four wake-ups: supervisor, worker, supervisor, host")


def _cpu_us(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system) * 1e6


def _own_cpu_us() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return (usage.ru_utime + usage.ru_stime) * 1e6


if os.sysconf("SC_CLK_TCK") < 100:
    raise SystemExit("process CPU times are too coarse here")
