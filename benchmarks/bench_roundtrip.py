"""Round trips per second and their latency, beside the pools that people use today."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import msgspec
import zmq

import apex_exec

USER = "11111111-2222-4333-8444-555555555555"
PLUGINS = ("hello-world", "custom-analytics")
ROUNDS = 3


def hook(params: dict[str, Any]) -> dict[str, Any]:
    """What custom-analytics does, for the peers."""
    return {"customWidgets": [{"id": "chart", "component": "Chart", "props": {"dashboard": params["dashboardId"]}}]}


def daemon_round(socket: zmq.Socket[bytes], total: int, in_flight: int) -> tuple[float, list[float]]:
    """(calls per second, latencies in µs) of ``total`` calls through the daemon."""
    sent_at: dict[int, float] = {}
    latencies_us: list[float] = []
    begun = time.perf_counter()
    sent = 0
    while len(latencies_us) < total:
        while sent < total and len(sent_at) < in_flight:
            sent_at[sent] = time.perf_counter()
            socket.send(msgspec.msgpack.encode({
                "type": "invoke", "id": sent, "plugin": PLUGINS[sent % 2], "action": "onDashboardLoad", "userId": USER,
                "payload": {"dashboardId": "main"}}))
            sent += 1
        reply = msgspec.msgpack.decode(socket.recv())
        if reply["type"] != "result":
            raise SystemExit(f"a call failed: {reply}")
        latencies_us.append((time.perf_counter() - sent_at.pop(reply["id"])) * 1e6)
    return total / (time.perf_counter() - begun), latencies_us


def pool_round(submit: Callable[[], Future[Any]], total: int, in_flight: int) -> tuple[float, list[float]]:
    """The same through a process pool."""
    pending: dict[Future[Any], float] = {}
    latencies_us: list[float] = []
    begun = time.perf_counter()
    sent = 0
    while len(latencies_us) < total:
        while sent < total and len(pending) < in_flight:
            started = time.perf_counter()
            pending[submit()] = started
            sent += 1
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            latencies_us.append((time.perf_counter() - pending.pop(future)) * 1e6)
    return total / (time.perf_counter() - begun), latencies_us


def main() -> None:
    """Prints the table."""
    plugins = Path(apex_exec.__file__).parent / "examples" / "plugins"
    with tempfile.TemporaryDirectory(prefix="apx") as folder, ProcessPoolExecutor(2) as executor:
        runs: dict[str, Callable[[int, int], tuple[float, list[float]]]] = {}
        payload = {"dashboardId": "main"}
        list(executor.map(hook, [payload] * 4))
        runs["ProcessPoolExecutor(2)"] = lambda n, w: pool_round(lambda: executor.submit(hook, payload), n, w)
        try:
            from pebble import ProcessPool
        except ImportError:
            print("pebble is not installed (extra `bench`): its rows are missing", file=sys.stderr)
        else:
            pebble = ProcessPool(2)
            runs["pebble(2, timeout 5)"] = lambda n, w: pool_round(
                lambda: pebble.schedule(hook, args=[payload], timeout=5), n, w)
        command = [sys.executable, "-m", "apex_exec", "serve", "--runtime-dir", folder, "--plugins-dir", str(plugins),
                   "--http-address", "127.0.0.1:0"]
        daemon = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.linger = 0
            socket.connect(f"ipc://{folder}/host.sock")
            daemon_round(socket, 100, 8)
            runs["apex-exec"] = lambda n, w: daemon_round(socket, n, w)
            print(f"{'who':<24}{'in flight':>10}{'calls/s':>10}{'p50 µs':>10}{'p99 µs':>10}")
            for in_flight, total in ((1, 1000), (16, 3000), (256, 6000)):
                seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in runs}
                for _ in range(ROUNDS):
                    for name, run in runs.items():
                        rate, latencies = run(total, in_flight)
                        cuts = statistics.quantiles(latencies, n=100)
                        seen[name].append((rate, cuts[49], cuts[98]))
                for name, figures in seen.items():
                    rate, p50, p99 = (statistics.median(column) for column in zip(*figures, strict=True))
                    print(f"{name:<24}{in_flight:>10}{rate:>10.0f}{p50:>10.0f}{p99:>10.0f}")
        daemon.terminate()
        daemon.wait()
        if "pebble(2, timeout 5)" in runs:
            pebble.stop()
            pebble.join()


if __name__ == "__main__":
    main()
