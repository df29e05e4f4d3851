"""Latency at fixed rates, beside the peers: calls leave on schedule, whatever the answers do."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
PEERS_UP_TO = 0.8
DRIVEN = "driven at"
CONTEXT = context_of(100)


@contextmanager
def _apex() -> Iterator[tuple[Run, AtRate]]:
    with tempfile.TemporaryDirectory(prefix="apxp") as name:
        for plugin in PLUGINS:
            write_echo(Path(name), plugin)
        with serving(Path(name), limits__cpu_percent=100) as daemon:
            host = Host(daemon.endpoint)
            try:
                yield (lambda total, in_flight, context: host.rounds(PLUGINS, total, in_flight, context),
                       lambda rate, seconds, context: host.open_loop(PLUGINS, rate, seconds, context, may_fail=True))
            finally:
                host.close()


def run(lab: Lab) -> None:
    """Adds the rows. Each repetition has processes of its own and a maximum of its own: which process shares a core
    with which is settled in the first seconds, and stays."""
    contenders = {OURS: _apex, **RATED}
    rates: dict[str, tuple[int, ...]] = {OURS: RATES}
    for repetition in range(lab.repetitions):
        names = list(contenders)
        for name in names[repetition % len(names) :] + names[: repetition % len(names)]:
            with ExitStack() as stack:
                try:
                    closed, at_rate = stack.enter_context(contenders[name]())
                except ImportError as error:
                    lab.note(f"{name} is left out: {error}")
                    del contenders[name]
                    continue
                closed(lab.scaled(WARM_UP), 64, CONTEXT)
                full = max(closed(lab.scaled(20_000), 256, CONTEXT).rate for _ in range(3))
                lab.add(name, "maximum", "1/s", full)
                for rate in rates.setdefault(name, tuple(rate for rate in RATES if rate < full * PEERS_UP_TO)):
                    _measure(lab, name, at_rate, rate, f"{rate:,}/s")
                _measure(lab, name, at_rate, full / 2, HALF)
    lab.note("maximum: closed loop, 256 in flight, the best of three rounds in the same processes; each contender is "
             "driven at half of its own, and peers at the fixed rates below "
             f"{PEERS_UP_TO:.0%} of the maximum of their first repetition. A pool's time ends in its callback, that of "
             "the others when the client has read the reply")


def _measure(lab: Lab, name: str, at_rate: AtRate, rate: float, label: str) -> None:
    lab.say(f"{name}, {rate:,.0f}/s")
    round_ = at_rate(rate, 1.0 if lab.quick else 4.0, CONTEXT)
    lab.add(name, DRIVEN, "1/s", rate, rate=label)
    lab.add(name, "failed", "calls", round_.failed, rate=label)
    for percent in (50, 99, 99.9):
        lab.add(name, f"p{percent:g}", "µs", round_.percentile(percent), rate=label)
