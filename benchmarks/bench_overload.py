"""One plugin flooded to its bound: what another plugin's callers notice of it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.daemon import Host, context_of, serving, write_bundle, write_echo
from benchmarks.lab import Lab

TITLE = "Overload"
RATE = 200
NOISY = '''
import time
from workers import Plugin
plugin = Plugin(id="noisy", version="1.0.0", permissions=[])
@plugin.hook("onActionExecute")
def run(params):
    time.sleep(0.02)
    return {"result": None, "metadata": {}}
'''
FLOOD = '''
import sys, time, zmq, msgspec
from benchmarks.daemon import invocation
socket = zmq.Context().socket(zmq.DEALER)
socket.connect(sys.argv[1])
n, pending, counts = 0, 0, {}
while True:
    while pending < 1100:
        user = f"11111111-1111-4111-8111-{n % 10:012}"
        socket.send(msgspec.msgpack.encode({**invocation("noisy", {}), "userId": user, "id": n}))
        n += 1
        pending += 1
    while socket.poll(1):
        socket.recv()
        pending -= 1
    time.sleep(0.02)  # a host that is told OVERLOADED and tries again soon
'''
"""Another process, as another host would be; it keeps the plugin's queue full and is refused most of the time."""


def run(lab: Lab) -> None:
    """Adds the rows."""
    seconds = max(2, lab.scaled(10))
    with tempfile.TemporaryDirectory(prefix="apxp") as name:
        folder = Path(name)
        write_echo(folder, "quiet")
        write_bundle(folder, "noisy", NOISY)
        with serving(folder, scrape=False, limits__cpu_percent=100) as daemon:
            host = Host(daemon.endpoint)
            host.open_loop(["quiet"], RATE, 2, context_of(100))
            for _ in range(lab.repetitions):
                lab.say("alone")
                alone = host.open_loop(["quiet"], RATE, seconds, context_of(100))
                with _flooded(daemon.endpoint):
                    lab.say("beside a flood")
                    flooded = host.open_loop(["quiet"], RATE, seconds, context_of(100))
                lab.add_round("another plugin, alone", alone)
                lab.add_round("another plugin, beside the flood", flooded)
            host.close()


@contextmanager
def _flooded(endpoint: str) -> Iterator[None]:
    flood = subprocess.Popen([sys.executable, "-c", FLOOD, endpoint])
    time.sleep(1.0)
    try:
        yield
    finally:
        flood.kill()
        flood.wait()
        time.sleep(1.0)
