"""What one plugin sustains at the default of 10 % of a core, over 30 seconds: the governor holds it there."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.daemon import Host, context_of, serving, write_echo
from benchmarks.lab import Lab

TITLE = "Sustained rate of one plugin at the default 10 % of a core"


def run(lab: Lab) -> None:
    """Adds the rows."""
    seconds = 5.0 if lab.quick else 30.0
    context = context_of(100)
    with tempfile.TemporaryDirectory(prefix="apxp") as name:
        folder = Path(name)
        write_echo(folder, "echo-one")
        with serving(folder) as daemon:
            host = Host(daemon.endpoint)
            host.rounds(["echo-one"], 20, 2, context)
            workers = daemon.workers()
            for window in ("first", "second"):  # the first still has the burst
                before = sum(w.cpu_times().user + w.cpu_times().system for w in workers)
                round_ = host.for_seconds(["echo-one"], seconds / 2, 8, context)
                cpu = sum(w.cpu_times().user + w.cpu_times().system for w in workers) - before
                lab.add_round("apex-exec, limits.cpu_percent = 10", round_, window=f"{window} {seconds / 2:g} s")
                lab.add("apex-exec, limits.cpu_percent = 10", "CPU of its worker", "% of a core",
                        cpu / (seconds / 2) * 100, window=f"{window} {seconds / 2:g} s")
            host.close()
