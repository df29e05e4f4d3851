"""Calls over the HTTP door, beside the same calls over ZeroMQ: rate, latency and CPU per call, all protection on."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from apex_exec.client import AdminClient
from benchmarks.daemon import HOOK, USER, Daemon, Host, context_of, serving, write_echo
from benchmarks.lab import PAYLOADS, Lab, Round

TITLE = "The HTTP door"
DOOR, ZEROMQ = "HTTP door", "ZeroMQ"
IN_FLIGHT = {1: 1500, 64: 8000, 256: 8000}
KEYED = 3000


def run(lab: Lab) -> None:
    """Adds the rows."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="apxp")))
        write_echo(folder, "echo-one")
        write_echo(folder, "echo-two")
        daemon = stack.enter_context(serving(folder, limits__cpu_percent=100))
        host = Host(daemon.endpoint)
        stack.callback(host.close)
        process, callers = stack.enter_context(_door(daemon, max(IN_FLIGHT)))
        plugins, context = ["echo-one", "echo-two"], context_of(PAYLOADS["100 B"])
        host.rounds(plugins, 500, 8, {})
        callers.rounds(plugins, 500, 8, {})
        for in_flight, total in IN_FLIGHT.items():
            def over_door(in_flight: int = in_flight, total: int = total) -> None:
                before, calls = _seconds(process), lab.scaled(total)
                lab.add_round(DOOR, callers.rounds(plugins, calls, in_flight, context), **{"in flight": in_flight})
                lab.add(DOOR, "CPU of the door per call", "µs", 1e6 * (_seconds(process) - before) / calls,
                        **{"in flight": in_flight})

            def over_zeromq(in_flight: int = in_flight, total: int = total) -> None:
                lab.add_round(ZEROMQ, host.rounds(plugins, lab.scaled(total), in_flight, context),
                              **{"in flight": in_flight})

            lab.interleave({f"{DOOR} × {in_flight}": over_door, f"{ZEROMQ} × {in_flight}": over_zeromq})
        lab.add_round(f"{DOOR}, each with a key", callers.rounds(plugins, lab.scaled(KEYED), 64, context, keyed=True),
                      **{"in flight": 64})
        lab.add(DOOR, "memory (PSS)", "MiB", process.memory_full_info().pss / 2**20)


@contextmanager
def _door(daemon: Daemon, connections: int) -> Iterator[tuple[psutil.Process, Callers]]:
    token = secrets.token_urlsafe(32)
    with AdminClient(daemon.admin_endpoint) as admin:
        while True:
            try:
                admin.request("door.token.new", {
                    "name": "benchmark", "digest": hashlib.sha256(token.encode()).hexdigest(), "user": USER,
                    "scopes": ["invoke"], "requestsPerMinute": 10_000_000}, 60_000)
                break
            except Exception as error:  # the registry is being opened
                if "store_unusable" not in str(getattr(error, "details", "")):
                    raise
                time.sleep(0.5)
    command = [sys.executable, "-m", "apex_exec", "door", "--config", str(daemon.config_file), "--address",
               "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    callers = None
    try:
        assert process.stdout is not None
        found = re.search(r":(\d+)\n", process.stdout.readline())
        assert found, "the door has not started"
        callers = Callers(int(found[1]), token, connections)
        yield psutil.Process(process.pid), callers
    finally:
        if callers is not None:
            callers.close()
        process.terminate()
        process.wait()


class Callers:
    """Keep-alive connections, each with one call at a time, driven by one epoll: what they cost is not the door's."""

    def __init__(self, port: int, token: str, connections: int) -> None:
        self._head = (f"POST /v1/invoke HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
                      "Content-Type: application/json\r\n").encode()
        self._peers = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
        for peer in self._peers:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        """Ends every connection."""
        for peer in self._peers:
            peer.close()

    def rounds(self, plugins: list[str], total: int, in_flight: int, context: dict[str, Any], *,
               keyed: bool = False) -> Round:
        """``total`` calls, ``in_flight`` at a time."""
        bodies = [json.dumps({"plugin": plugin, "action": HOOK, "payload": {"action": "echo", "context": context}}
                             ).encode() for plugin in plugins]
        requests = [self._head + b"Content-Length: %d\r\n" % len(body) for body in bodies]
        name = secrets.token_hex(8).encode()
        by_fd = {peer.fileno(): peer for peer in self._peers[:in_flight]}
        begun_at: dict[int, float] = {}
        got: dict[int, bytes] = {}
        latencies: list[float] = []
        sent = 0

        def send(fd: int) -> None:
            nonlocal sent
            at = sent % len(bodies)
            key = b"Idempotency-Key: %s-%d\r\n" % (name, sent) if keyed else b""
            sent += 1
            begun_at[fd], got[fd] = time.perf_counter(), b""
            by_fd[fd].sendall(requests[at] + key + b"\r\n" + bodies[at])

        poll = select.epoll()
        begun = time.perf_counter()
        for fd in by_fd:
            poll.register(fd, select.EPOLLIN)
            if sent < total:
                send(fd)
        while len(latencies) < total:
            for fd, _ in poll.poll():
                got[fd] += by_fd[fd].recv(65536)
                if not _is_whole(got[fd]):
                    continue
                latencies.append((time.perf_counter() - begun_at[fd]) * 1e6)
                if sent < total:
                    send(fd)
        seconds = time.perf_counter() - begun
        poll.close()
        return Round(total / seconds, latencies)


def _is_whole(text: bytes) -> bool:
    head, end, body = text.partition(b"\r\n\r\n")
    if not end:
        if not text:
            raise RuntimeError("the door has closed a connection")
        return False
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(text[:500].decode(errors="replace"))
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
    return len(body) >= length


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
