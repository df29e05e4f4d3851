"""The supervisor's share of one invocation, alone: frames in, decision, call out, reply in, verdict, frames out.

Host, worker and ledger are played by this process over real sockets with ready-made bytes, so that what is left is the
supervisor's own code. Run by itself it does N calls and prints the time of each; under callgrind, the difference of
two runs is instructions per invocation (``bench_instructions``).
"""

from __future__ import annotations

import os
import random
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from apex_exec.config import Settings
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler.breaker import BreakerPolicy
from apex_exec.core.scheduler.pool import Pool, PoolLimits
from apex_exec.daemon import absent
from apex_exec.daemon.build import connect_executor
from apex_exec.daemon.core_driver import CoreDriver
from apex_exec.daemon.duties import Monitoring
from apex_exec.daemon.hosts.connections import Events
from apex_exec.daemon.hosts.dispatch_runs import DispatchRuns
from apex_exec.daemon.hosts.host_socket import HostSocket
from apex_exec.daemon.hosts.pending_table import PendingTable
from apex_exec.daemon.hosts.replies import Replies
from apex_exec.daemon.hosts.requests import Requests
from apex_exec.daemon.hosts.stream_peers import StreamPeers
from apex_exec.daemon.hosts.verdicts import Verdicts
from apex_exec.daemon.plugin_gauges import PluginGauges
from apex_exec.daemon.plugin_settings import PluginSettings
from apex_exec.daemon.sides import audit_trail
from apex_exec.daemon.sides.audit_trail import AuditTrail
from apex_exec.daemon.sides.side_process import SideProcess
from apex_exec.daemon.supervisor import Supervisor
from apex_exec.daemon.tenants import Tenants
from apex_exec.daemon.turn import Turn
from apex_exec.executor.guard import Guard
from apex_exec.executor.links import accounts, link_reader, overhead, worker_protocol
from apex_exec.executor.local import LocalExecutor
from apex_exec.executor.loop import Loop
from apex_exec.executor.processes.runtimes import PYTHON
from apex_exec.executor.processes.zygote_keeper import ZygoteSource
from apex_exec.observe.logs import Logs
from apex_exec.observe.metrics import Metrics
from apex_exec.wire.frames import FrameBuffer, pack_frame
from apex_exec.wire.zmtp_router import append_message
from benchmarks.daemon import context_of, invocation
from workers import wire as inner
from workers.zmtp import GREETING, Zmtp, command, encode

BYTES_MAX = 1 << 20
BATCH = 48
"""Records of one frame to the ledger: what gathers in its 2 ms at 24,000 calls a second."""
_encode = msgspec.msgpack.Encoder().encode
_decode_batch = msgspec.msgpack.Decoder(tuple[str, int, msgspec.Raw, msgspec.Raw]).decode


class Zygote:
    """Takes the place of the zygote's link: gives us the worker's end of each link."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._theirs.send(b"up")
        self.link: socket.socket | None = None
        self.marks = -1
        self.pid = 0
        self.said_fileno = self._theirs.fileno()
        """Never readable: it writes nothing to its standard error."""

    def fileno(self) -> int:
        """Readable once, for the news that it is up."""
        return self._ours.fileno()

    def receive(self) -> list[tuple[Any, int]]:
        """That it is up."""
        try:
            self._ours.recv(16)
        except BlockingIOError:
            return []
        return [(inner.ZygoteReady(1, 1), -1)]

    def hear(self) -> str:
        """Nothing."""
        return ""

    def fork(self, worker: int, jail: dict[str, Any], link_fd: int, marks_fd: int) -> bool:
        """Keeps a duplicate of the worker's end."""
        self.link = socket.socket(fileno=socket.dup(link_fd))
        self.link.settimeout(10)
        return True

    def close(self) -> None:
        """Nothing to end."""


class Sandboxing:
    """Confines nothing, because there are no workers."""

    level = "L0"
    reports: list[Any] = []

    def jail_for(self, worker: int, spec: PluginSpec | None) -> dict[str, Any]:
        """Nothing."""
        return {}

    def adopt(self, spare: int, worker: int, spec: PluginSpec) -> None:
        """Nothing."""

    def killed(self, worker: int) -> None:
        """Nothing."""

    def worker_gone(self, worker: int) -> None:
        """Nothing."""


class Source:
    """Bundles without files."""

    def load(self, digest: str) -> tuple[dict[str, bytes], dict[str, str]]:
        """No file."""
        return {}, {}


class Ledger(SideProcess):
    """Takes the place of the ledger process: reports at once that what it gets is committed."""

    def start(self, now_ns: int) -> None:
        """A link without a process."""
        self._socket, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._taken = FrameBuffer()
        self.say("ready", 0)

    def say(self, *message: Any) -> None:
        """Tells the supervisor."""
        self._theirs.send(pack_frame(_encode(message)))

    def send_body(self, body: bytes) -> bool:
        """As it is, and commits it."""
        taken = super().send_body(body)
        for frame in self._taken.feed(self._theirs.recv(BYTES_MAX)):
            self.say("committed", _decode_batch(frame)[1])
        return taken

    def close(self, wait_seconds: float) -> None:
        """Nothing to end."""


class Rig:
    """A supervisor between a played host, a played worker and a played ledger; without the last, unless ``audited``."""

    def __init__(self, folder: Path, audited: bool = True) -> None:
        logs = Logs(level="error", format="text", plugin_lines_per_second=1, folder=folder)
        self.zygote = Zygote()
        never_ns = audit_trail.NEVER_NS  # under callgrind no answer is ordinary, and nothing is quickly read
        worker_protocol.ORDINARY_NS = link_reader.SLICE_NS = accounts.UNCALLED_NS = overhead.BURST_NS = never_ns
        metrics, api, monitor = Metrics(), absent.NoApiCalls(), absent.NoMonitor()
        guard = Guard(metrics, logs)
        self.loop = Loop(lambda _: None, guard)
        pool = Pool(PoolLimits(), BreakerPolicy(), random.random)
        driver = CoreDriver(pool, guard, metrics, logs)
        self.workers = LocalExecutor(
            self.loop, zygotes=[ZygoteSource(
                PYTHON.name, lambda: self.zygote, self.zygote)],  # type: ignore[arg-type,return-value]  # played here
            sandboxing=Sandboxing(), source=Source(), spares=0, step=driver.step, metrics=metrics, logs=logs,
            failed=guard.failed)
        self.trail = self._trail(driver, metrics) if audited else None
        trail = self.trail or absent.NoTrail()
        connect_executor(self.workers, pool=pool, governing=monitor, api=api, audit=trail)
        table = PendingTable()
        replies = Replies(table, trail)
        configured = PluginSettings(is_known=True)
        tenants = Tenants(has_any=False)
        dispatches = DispatchRuns(pool, table, replies, driver.step, configured, tenants)
        verdicts = Verdicts(
            pool, table, replies, dispatches, used=self.workers.accounts.used, audit=trail, api=api,
            checks=absent.NoChecks(), places=absent.NoPlaces(), metrics=metrics, logs=logs, failed=guard.failed,
            plugin_settings=configured)
        self.requests = Requests(
            pool, table, replies, dispatches, step=driver.step,
            welcome=None, per_host=10_000, audit=trail, api=api, metrics=metrics,  # type: ignore[arg-type]  # played
            plugin_settings=configured, tenants=tenants)
        self.peers = HostSocket(
            self.loop, lambda loop, events: StreamPeers(loop, events, 4 * BYTES_MAX), self.requests,
            bytes_max=BYTES_MAX, metrics=metrics, logs=logs).peers
        gauges = PluginGauges(pool, metrics, guard.failed)
        driver.connect(workers=self.workers, verdicts=verdicts, audit=trail, gauges=gauges, judged=lambda _: None)
        supervisor = Supervisor(
            pool=pool, driver=driver, guard=guard, metrics=metrics, logs=logs, workers=self.workers, peers=self.peers,
            requests=self.requests, audit=trail, gauges=gauges, forget=())
        monitoring = Monitoring(monitor, self.workers)
        nobody = StreamPeers(self.loop, Events(message=lambda *_: None, gone=lambda _: None, broken=lambda *_: None), 1)
        self.turn_of_loop = Turn(
            loop=self.loop, guard=guard, pool=pool, driver=driver, workers=self.workers, peers=self.peers,
            requests=self.requests, api=api, audit=trail, supervisor=supervisor, monitoring=monitoring,
            duties=(trail.duty, monitoring), admin=absent.NoAdministration(nobody))
        self.peers.bind(f"ipc://{folder}/s")
        supervisor.set_plugin(PluginSpec("echo", "1.0.0", "d", "plugin.py", ("onActionExecute",)))
        self.host = socket.socket(socket.AF_UNIX)
        self.host.connect(f"{folder}/s")
        self.host.settimeout(10)  # a rig that no longer fits the supervisor fails and does not hang
        ready = command(b"READY", b"\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER")
        self.host.send(GREETING + ready)
        self.request = invocation("echo", context_of(100))
        self.seq = 0
        for _ in range(5):
            self.turn()
        self.host.recv(4096)

    def _trail(self, driver: CoreDriver, metrics: Metrics) -> AuditTrail:
        audit_trail.GATHER_NS = audit_trail.LATE_NS = audit_trail.NEVER_NS  # frames by count: no clock decides
        trail = AuditTrail(Settings(), metrics, lambda level, text: None, on_refused=driver.refuse_work,
                           on_admitted=driver.admit_work, side_changed=self.loop.side_changed)
        trail.side = Ledger("ledger", _no_target, {}, handlers=trail.side.handlers, on_down=trail._down)
        self.loop.attach(trail.side)
        return trail

    def turn(self) -> None:
        """One round of the loop, without its sleep."""
        loop = self.loop
        self.turn_of_loop.run()
        if self.trail is not None and len(self.trail._buffer) >= BATCH:
            self.trail._hand_over()
        for fd, mask in loop._epoll.poll(0):
            handler = loop._handlers.get(fd)
            if handler is not None:
                handler(mask)

    def start_worker(self) -> None:
        """Answers what a booting worker answers."""
        self.ask(1)
        for _ in range(3):
            self.turn()
        assert self.zygote.link is not None
        link = self.zygote.link
        link.send(Zmtp(frame_bytes_max=0).greeting() + encode(_encode(inner.Booted([]))))
        for _ in range(3):
            self.turn()
        link.send(encode(_encode(inner.Ready("echo", "1.0.0", [], []))))
        for _ in range(3):
            self.turn()
        link.recv(1 << 20)
        for ours in self.workers._links.values():
            ours.pid = os.getpid()  # whose CPU clock can be read, as the worker's is
        self.answer(1)
        for _ in range(3):
            self.turn()
        self.host.recv(1 << 20)

    def ask(self, count: int) -> None:
        """``count`` invocations, in one write."""
        out = bytearray()
        for number in range(count):
            append_message(out, [], _encode({**self.request, "id": number}))
        self.host.send(out)

    def answer(self, count: int) -> None:
        """``count`` replies, in one write."""
        assert self.zygote.link is not None
        out = b""
        for _ in range(count):
            result = _encode({"result": context_of(100), "metadata": {}})
            out += encode(_encode(inner.Reply(self.seq, msgspec.Raw(result), 1000)))
            self.seq += 1
        self.zygote.link.send(out)

    def calls(self, rounds: int, at_once: int) -> None:
        """``rounds`` × ``at_once`` invocations, ``at_once`` on the link together."""
        assert self.zygote.link is not None
        for _ in range(rounds):
            self.ask(at_once)
            for _ in range(2):
                self.turn()
            self.zygote.link.recv(1 << 20)
            self.answer(at_once)
            for _ in range(2):
                self.turn()
            self.host.recv(1 << 20)


def _no_target(link: Any, settings: dict[str, Any]) -> None:
    """The main function that the played ledger's process would run."""


def main() -> None:
    """``python -m benchmarks.hot_path ROUNDS AT_ONCE [unaudited]``: prints µs of CPU per invocation."""
    rounds, at_once = int(sys.argv[1]), int(sys.argv[2])
    with tempfile.TemporaryDirectory(prefix="apxh") as folder:
        rig = Rig(Path(folder), audited="unaudited" not in sys.argv[3:])
        rig.start_worker()
        rig.calls(20, at_once)
        begun = time.process_time()
        rig.calls(rounds, at_once)
        print(f"{(time.process_time() - begun) / rounds / at_once * 1e6:.1f} µs an invocation, {at_once} at once")


if __name__ == "__main__":
    main()
