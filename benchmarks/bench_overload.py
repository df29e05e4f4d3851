"""One plugin flooded to its bound: what another plugin's callers notice of it.

The plugin can answer 50 calls a second. It is flooded by callers who do not know of each other (2,000 calls a second,
evenly), by a host that fills its queue and sends in bursts what was refused, and, since every process beside two cores
is felt, there is a process that uses the CPU in the burst's rhythm and sends nothing: what of it is the machine's.
Beyond the flood of a queue: a host that hammers a plugin whose breaker is open, a thousand calls at a time.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.daemon import Daemon, Host, context_of, serving, write_bundle, write_echo
from benchmarks.lab import Lab

TITLE = "Overload"
RATE = 200
FLOOD_RATE = 2000
ALONE = "another plugin, alone"
BESIDE_FLOOD = "another plugin, beside the flood"
BESIDE_BURSTS = "another plugin, beside a flood in bursts"
NOISY = '''
import time
from workers import Plugin
plugin = Plugin(id="noisy", version="1.0.0", permissions=[])
@plugin.hook("onActionExecute")
def run(params):
    time.sleep(0.02)
    return {"result": None, "metadata": {}}
'''
_HEAD = '''
import select, sys, time, zmq, msgspec
from benchmarks.daemon import invocation
socket = zmq.Context().socket(zmq.DEALER)
socket.connect(sys.argv[1])
def send(n):
    user = f"11111111-1111-4111-8111-{n % 10:012}"
    socket.send(msgspec.msgpack.encode({**invocation(sys.argv[2], {}), "userId": user, "id": n}))
'''
STEADY = _HEAD + '''
begun, n, rate = time.perf_counter(), 0, float(sys.argv[3])
while True:
    while begun + n / rate <= time.perf_counter():
        send(n)
        n += 1
    try:
        while True:
            socket.recv(zmq.NOBLOCK)
    except zmq.Again:
        pass
    time.sleep(max(0.0, begun + n / rate - time.perf_counter()))
'''
BURSTS = _HEAD + '''
n, pending = 0, 0
while True:
    while pending < 1100:
        send(n)
        n += 1
        pending += 1
    while socket.poll(1):
        socket.recv()
        pending -= 1
    time.sleep(0.02)  # a host that is answered OVERLOADED tries again soon
'''
SPIN = '''
import sys, time
while True:
    begun = time.perf_counter()
    while time.perf_counter() - begun < float(sys.argv[1]):
        pass
    time.sleep(0.02)
'''


def run(lab: Lab) -> None:
    """Adds the rows."""
    seconds = max(2, lab.scaled(10))
    with tempfile.TemporaryDirectory(prefix="apxp") as name:
        folder = Path(name)
        write_echo(folder, "quiet")
        write_bundle(folder, "noisy", NOISY)
        write_bundle(folder, "broken", "raise RuntimeError('it never starts')\n")
        with serving(folder, scrape=False, limits__cpu_percent=100) as daemon:
            host = Host(daemon.endpoint)
            host.open_loop(["quiet"], RATE, 2, context_of(100))
            for _ in range(lab.repetitions):
                lab.say("alone")
                lab.add_round(ALONE, host.open_loop(["quiet"], RATE, seconds, context_of(100)))
                with _beside(STEADY, daemon.endpoint, "noisy", str(FLOOD_RATE)):
                    lab.say("beside a flood")
                    flooded = host.open_loop(["quiet"], RATE, seconds, context_of(100))
                    _still_served(daemon)
                lab.add_round(BESIDE_FLOOD, flooded)
                with _beside(BURSTS, daemon.endpoint, "noisy") as flood:
                    lab.say("beside a flood in bursts")
                    used_s, begun = _cpu_s(flood), time.perf_counter()
                    bursts = host.open_loop(["quiet"], RATE, seconds, context_of(100))
                    share = (_cpu_s(flood) - used_s) / (time.perf_counter() - begun)
                    _still_served(daemon)
                lab.add_round(BESIDE_BURSTS, bursts)
                spin_s = 0.02 * share / (1 - share)
                with _beside(SPIN, f"{spin_s}"):
                    lab.say("beside that CPU use alone")
                    spun = host.open_loop(["quiet"], RATE, seconds, context_of(100))
                with _beside(BURSTS, daemon.endpoint, "broken"):
                    lab.say("beside a host that hammers a paused plugin")
                    hammered = host.open_loop(["quiet"], RATE, seconds, context_of(100))
                lab.add_round("another plugin, beside a host that hammers a paused one", hammered)
                lab.add_round("another plugin, beside a process of the bursts' CPU use that sends nothing", spun)
            host.close()


def _still_served(daemon: Daemon) -> None:
    """A flood that the breaker ended is none: says so, and ends."""
    if 'breaker_state{plugin="noisy",state="closed"} 1.0' not in daemon.metrics():
        raise SystemExit("the flooded plugin is paused: so this did not measure a flood of its queue")


def _cpu_s(process: subprocess.Popen[bytes]) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


@contextmanager
def _beside(code: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process, as another host would be."""
    process = subprocess.Popen([sys.executable, "-c", code, *arguments])
    time.sleep(1.0)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        time.sleep(1.0)
