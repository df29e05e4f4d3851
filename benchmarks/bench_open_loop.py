"""Latency at fixed rates: calls leave on schedule, whatever the answers do (no coordinated omission)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.daemon import Host, context_of, serving, write_echo
from benchmarks.lab import Lab

TITLE = "Latency at a fixed rate (open loop)"
RATES = (1000, 5000, 10_000)


def run(lab: Lab) -> None:
    """Adds the rows."""
    context = context_of(100)
    plugins = ["echo-one", "echo-two"]
    with tempfile.TemporaryDirectory(prefix="apxp") as name:
        folder = Path(name)
        for plugin in plugins:
            write_echo(folder, plugin)
        with serving(folder, limits__cpu_percent=100) as daemon:
            host = Host(daemon.endpoint)
            host.rounds(plugins, 2000, 64, context)
            full = max(host.rounds(plugins, lab.scaled(20_000), 256, context).rate for _ in range(3))
            lab.note(f"maximum rate in the same run (closed loop, 256 in flight): {full:,.0f} calls/s")
            seconds = 1.0 if lab.quick else 4.0
            for _ in range(lab.repetitions):
                for rate in (*RATES, round(full / 2)):
                    label = "half the maximum" if rate not in RATES else f"{rate:,}/s"
                    lab.say(f"{rate}/s")
                    round_ = host.open_loop(plugins, rate, seconds, context)
                    for percent in (50, 99, 99.9):
                        lab.add("apex-exec", f"p{percent:g}", "µs", round_.percentile(percent), rate=label)
            host.close()
