"""Two ray actors beside us, by themselves: ray brings a crowd of busy processes that everybody else would pay for."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.daemon import Host, context_of, serving, write_echo
from benchmarks.lab import Lab
from benchmarks.peers import APART

TITLE = "Beside ray's actors"
IN_FLIGHT = {1: 600, 16: 1500, 64: 2000}


def run(lab: Lab) -> None:
    """Adds the rows."""
    context = context_of(100)
    for name, start in APART.items():
        try:
            with start() as run_:
                run_(20, 2, context)
                for _ in range(lab.repetitions):
                    for in_flight, total in IN_FLIGHT.items():
                        lab.add_round(name, run_(lab.scaled(total), in_flight, context), **{"in flight": in_flight})
        except ImportError as error:
            lab.note(f"{name} is left out: {error}")
    with tempfile.TemporaryDirectory(prefix="apxp") as folder:
        write_echo(Path(folder), "echo-one")
        write_echo(Path(folder), "echo-two")
        with serving(Path(folder), limits__cpu_percent=100) as daemon:
            host = Host(daemon.endpoint)
            plugins = ["echo-one", "echo-two"]
            host.rounds(plugins, 200, 8, context)
            for _ in range(lab.repetitions):
                for in_flight, total in IN_FLIGHT.items():
                    lab.add_round("apex-exec", host.rounds(plugins, lab.scaled(total), in_flight, context),
                                  **{"in flight": in_flight})
            host.close()
