"""The TypeScript client: calls a second, latency, and what a call costs the host's own process."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import apex_exec
from benchmarks.daemon import USER, serving, write_echo
from benchmarks.lab import Lab

TITLE = "The TypeScript client"
CLIENT = "TypeScript client"
FOLDER = Path(apex_exec.__file__).parent / "examples" / "host-ts"
DRIVER = Path(__file__).parent / "host_client.mjs"
IN_FLIGHT = {1: 1500, 64: 10_000, 256: 20_000}


def run(lab: Lab) -> None:
    """Adds the rows. ``npm ci`` in the client's folder has to have been run."""
    if shutil.which("node") is None or not (FOLDER / "node_modules/.bin/tsc").exists():
        lab.note(f"left out: it needs Node, and `npm ci` in {FOLDER.name}")
        return
    subprocess.run(["node", "pack.mjs"], cwd=FOLDER, check=True)
    with tempfile.TemporaryDirectory(prefix="apxp") as name:
        folder = Path(name)
        write_echo(folder, "echo-one")
        write_echo(folder, "echo-two")
        with serving(folder, limits__cpu_percent=100) as daemon:
            for in_flight, total in IN_FLIGHT.items():
                def measure(in_flight: int = in_flight, total: int = total) -> None:
                    done = subprocess.run(
                        ["node", str(DRIVER), str(FOLDER / "dist/esm/client.js"), daemon.endpoint, USER,
                         str(lab.scaled(total)), str(in_flight)], capture_output=True, text=True, check=True)
                    found = json.loads(done.stdout)
                    for figure, key, unit in (("rate", "rate", "calls/s"), ("p50", "p50", "µs"),
                                              ("CPU of the host per call", "cpu", "µs")):
                        lab.add(CLIENT, figure, unit, found[key], **{"in flight": in_flight})

                lab.interleave({f"{CLIENT} × {in_flight}": measure})
