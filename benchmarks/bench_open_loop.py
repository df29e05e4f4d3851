"""Latency at fixed rates, beside the peers: calls leave on schedule, whatever the answers do."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.daemon import Host, context_of, serving, write_echo
from benchmarks.lab import Lab
from benchmarks.peers import RATED, AtRate, Run

TITLE = "Latency at a fixed rate (open loop)"
OURS = "apex-exec"
RATES = (1000, 5000, 10_000)
HALF = "half the maximum"
PLUGINS = ["echo-one", "echo-two"]
WARM_UP = 3000


@contextmanager
def _apex() -> Iterator[tuple[Run, AtRate]]:
    with tempfile.TemporaryDirectory(prefix="apxp") as name:
        for plugin in PLUGINS:
            write_echo(Path(name), plugin)
        with serving(Path(name), limits__cpu_percent=100) as daemon:
            host = Host(daemon.endpoint)
            try:
                yield (lambda total, in_flight, context: host.rounds(PLUGINS, total, in_flight, context),
                       lambda rate, seconds, context: host.open_loop(PLUGINS, rate, seconds, context))
            finally:
                host.close()


def run(lab: Lab) -> None:
    """Adds the rows. Each repetition has processes of its own and a maximum of its own: which process shares a core
    with which is settled in the first seconds, and stays."""
    context = context_of(100)
    seconds = 1.0 if lab.quick else 4.0
    for _ in range(lab.repetitions):
        for name, start in {OURS: _apex, **RATED}.items():
            try:
                with start() as (closed, at_rate):
                    closed(lab.scaled(WARM_UP), 64, context)
                    full = max(closed(lab.scaled(20_000), 256, context).rate for _ in range(3))
                    lab.add(name, "maximum", "1/s", full)
                    for rate in (*(rate for rate in RATES if rate < full / 2), full / 2):
                        lab.say(f"{name}, {rate:,.0f}/s")
                        round_ = at_rate(rate, seconds, context)
                        label = HALF if rate not in RATES else f"{rate:,}/s"
                        for percent in (50, 99, 99.9):
                            lab.add(name, f"p{percent:g}", "µs", round_.percentile(percent), rate=label)
            except ImportError as error:
                lab.note(f"{name} is left out: {error}")
    lab.note("maximum: closed loop, 256 in flight, the best of three rounds in the same processes; each contender is "
             "driven at half of its own")
