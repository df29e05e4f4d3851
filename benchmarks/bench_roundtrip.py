"""Round trips: calls per second and latency at 1 to 256 in flight, by payload, beside the peers, all protection on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.daemon import Host, context_of, serving, write_echo
from benchmarks.lab import PAYLOADS, Lab, Round
from benchmarks.peers import PEERS, Run

TITLE = "Round trip, beside the peers"
OURS = "apex-exec"
IN_FLIGHT = {1: 1500, 4: 3000, 16: 5000, 64: 8000, 256: 12_000}
FEW = ("ray, two actors", "bubblewrap + python a call", "loky(2)")
"""Peers that are slow, or have many processes of their own: they get a third of the calls."""


def run(lab: Lab) -> None:
    """Adds the rows."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="apxp")))
        write_echo(folder, "echo-one")
        write_echo(folder, "echo-two")
        daemon = stack.enter_context(serving(folder, limits__cpu_percent=100))
        host = Host(daemon.endpoint)
        stack.callback(host.close)
        welcome = host.request({"type": "hello", "protocol": [1]})
        lab.note(f"{OURS}: isolation {welcome['isolation']}, validation, audit (group), governor and a scrape a "
                 "second are on; limits.cpu_percent = 100, without which two plugins may not use the machine")
        plugins = ["echo-one", "echo-two"]
        host.rounds(plugins, 500, 8, {})
        contenders: dict[str, Run] = {OURS: lambda n, w, c: host.rounds(plugins, n, w, c)}
        for name, start in PEERS.items():
            lab.say(f"starting {name}")
            try:
                contenders[name] = stack.enter_context(start())
            except ImportError as error:
                lab.note(f"{name} is left out: {error}")
        for in_flight, total in IN_FLIGHT.items():
            _measure(lab, contenders, in_flight, total, "100 B")
        for size in list(PAYLOADS)[1:]:
            for in_flight, total in ((1, 600), (64, 2000)):
                _measure(lab, contenders, in_flight, total, size)


def _measure(lab: Lab, contenders: dict[str, Run], in_flight: int, total: int, size: str) -> None:
    context = context_of(PAYLOADS[size])

    def one(name: str, run_: Run) -> Callable[[], None]:
        def measure() -> None:
            calls = lab.scaled(total // 3 if name in FEW else total)
            try:
                round_: Round = run_(calls, in_flight, context)
            except LookupError:
                return  # this contender takes one call at a time
            lab.add_round(name, round_, **conditions)
        return measure

    conditions: dict[str, Any] = {"payload": size, "in flight": in_flight}
    lab.interleave({f"{name} × {in_flight}, {size}": one(name, run_) for name, run_ in contenders.items()})
