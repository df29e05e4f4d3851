"""The scheduler alone: CPU time of one call's way through it, from the event that asks to the event that answers."""

from __future__ import annotations

import time

from msgspec import Raw

from apex_exec.core import events as ev
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler.breaker import BreakerPolicy
from apex_exec.core.scheduler.pool import MS_NS, Pool, PoolLimits
from benchmarks.lab import Lab

TITLE = "Decision core"
DEPTHS = (1, 8, 64)


def run(lab: Lab) -> None:
    """Adds the rows."""
    calls = lab.scaled(200_000)
    for _ in range(lab.repetitions):
        for depth in DEPTHS:
            lab.add("pool.step", "CPU per call", "µs", _one(calls, depth), **{"in flight": depth})


def _one(calls: int, depth: int) -> float:
    """µs of CPU per call with ``depth`` in flight: invoke and answer, the making of both events included."""
    pool = Pool(PoolLimits(), BreakerPolicy(), lambda: 0.5)
    now_ns = 10**12
    pool.step(ev.PluginSet(PluginSpec("aaa", "1.0.0", "d", "p.py", ("onDataFetch",))), now_ns)
    params = Raw(b"\x80")
    pool.step(ev.InvokeRequested(0, "aaa", "onDataFetch", "u", params, now_ns + 5000 * MS_NS), now_ns)
    pool.step(ev.WorkerReady(1), now_ns)
    pool.step(ev.WorkerAnswered(1, 0, "", None), now_ns)
    seq = 1
    begun = time.process_time()
    for first in range(1, calls, depth):
        for call in range(first, first + depth):
            now_ns += 50_000
            pool.step(ev.InvokeRequested(call, "aaa", "onDataFetch", "u", params, now_ns + 5000 * MS_NS), now_ns)
        for _ in range(depth):
            pool.step(ev.WorkerAnswered(1, seq, "", None), now_ns)
            seq += 1
        wake_ns = pool.next_wake_ns()
        if wake_ns is not None and wake_ns <= now_ns:
            pool.step(ev.Tick(), now_ns)
    return (time.process_time() - begun) / (seq - 1) * 1e6
