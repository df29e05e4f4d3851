"""What the jail costs: a cold plugin's first reply with every layer and with none, beside other fresh processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import multiprocess

from benchmarks.daemon import Daemon, Host, serving, write_echo
from benchmarks.lab import Lab, Round

TITLE = "The jail's price"
LAYERS = ["namespaces", "identity", "landlock", "seccomp", "rlimits", "cgroup"]
WAYS: dict[str, dict[str, Any]] = {
    "apex-exec, every layer": {},
    "apex-exec, full jail, no spare workers": {"pool__spare_workers": 0},
    "apex-exec, every layer but the cgroup": {"sandbox__governor": "psutil"},
    "apex-exec, no layer": {"sandbox__waive": LAYERS, "sandbox__min_level": "L0", "sandbox__governor": "psutil"},
}
BWRAP = ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]
MB = 1e6


def run(lab: Lab) -> None:
    """Adds the rows."""
    colds = lab.scaled(100)
    with tempfile.TemporaryDirectory(prefix="apxp") as name:
        folder = Path(name)
        for n in range(colds):
            write_echo(folder, f"cold-{n:03}")
        write_echo(folder, "first")
        for way, config in WAYS.items():
            lab.say(way)
            with serving(folder, scrape=False, limits__cpu_percent=100, **config) as daemon:
                host = Host(daemon.endpoint)
                host.invoke("first")
                _add(lab, way, lambda n, host=host: host.invoke(f"cold-{n:03}"), colds)  # type: ignore[misc]  # bound now
                _idle(lab, way, daemon)
                host.close()
    peers = max(5, colds // 4)
    lab.say("peers")
    _add(lab, "bare fork of this process", _fork, peers)
    _add(lab, "multiprocess, spawn", _spawn, peers)
    if shutil.which("bwrap"):
        _add(lab, "bubblewrap + python", _bubblewrap, peers)
    else:
        lab.note("bubblewrap is not installed here: no row for it")


def _add(lab: Lab, way: str, start: Callable[[int], object], count: int) -> None:
    latencies_us = []
    for n in range(count):
        begun = time.perf_counter()
        start(n)
        latencies_us.append((time.perf_counter() - begun) * 1e6)
        time.sleep(0.01)
    round_ = Round(count / (sum(latencies_us) / 1e6), latencies_us)
    for percent in (50, 99):
        lab.add(way, f"start to first answer, p{percent}", "ms", round_.percentile(percent) / 1000)


def _idle(lab: Lab, way: str, daemon: Daemon) -> None:
    time.sleep(0.5)
    sizes = sorted(process.memory_full_info().uss for process in daemon.workers())
    lab.add(way, "idle worker, unique memory, median", "MB", sizes[len(sizes) // 2] / MB)


def _fork(_n: int) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, b"1")
        os._exit(0)
    os.read(read, 1)
    os.waitpid(pid, 0)
    os.close(read)
    os.close(write)


def _answer(link: Any) -> None:
    link.send_bytes(b"1")


def _spawn(_n: int) -> None:
    context = multiprocess.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_answer, args=(theirs,))
    process.start()
    ours.recv_bytes()
    process.join()


def _bubblewrap(_n: int) -> None:
    subprocess.run([*BWRAP, sys.executable, "-c", "print(1)"], check=True, stdout=subprocess.PIPE)
