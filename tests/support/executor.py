"""The real executor over a played zygote: its workers are sockets that the test holds, and processes that sleep."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.plugin import PluginSpec
from apex_exec.executor.local import LocalExecutor
from apex_exec.executor.loop import Loop
from apex_exec.executor.processes.zygote_keeper import ZygoteSource
from apex_exec.observe.logs import Logs
from apex_exec.observe.metrics import Metrics
from workers import wire as inner
from workers.zmtp import Zmtp, encode

SPEC = PluginSpec("aaa", "1.0.0", "d", "plugin.py", ("onDataFetch",))
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(inner.ToWorker).decode


def encoded(*messages: Any) -> bytes:
    """What a worker writes to say these."""
    return b"".join(encode(_encode(message)) for message in messages)


class PlayedZygote:
    """Stands where ``ZygoteLink`` stands and hands the workers' ends of the links to the test."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._ours.setblocking(False)
        self._news: list[tuple[Any, int]] = []
        self.links: dict[int, socket.socket] = {}
        self.marks: dict[int, int] = {}
        self.jails: dict[int, dict[str, Any]] = {}
        self.killed: list[int] = []
        self.pid = 0
        self.said_fileno = self._theirs.fileno()
        self.tell(inner.ZygoteReady(1, 1))

    def tell(self, message: Any, fd: int = -1) -> None:
        """Tells the executor; ``fd`` rides along."""
        self._news.append((message, fd))
        self._theirs.send(b"!")

    def fileno(self) -> int:
        """Readable while there is news."""
        return self._ours.fileno()

    def receive(self) -> list[tuple[Any, int]]:
        """The news."""
        with contextlib.suppress(BlockingIOError):
            self._ours.recv(4096)
        news, self._news = self._news, []
        return news

    def hear(self) -> str:
        """It writes nothing to its standard error."""
        return ""

    def fork(self, worker: int, jail: dict[str, Any], link_fd: int, marks_fd: int) -> bool:
        """Keeps duplicates of the worker's ends."""
        self.jails[worker] = jail
        self.links[worker] = socket.socket(fileno=os.dup(link_fd))
        self.links[worker].settimeout(10)
        self.marks[worker] = os.dup(marks_fd)
        return True

    def kill(self, worker: int) -> bool:
        """Notes which worker it is to kill."""
        self.killed.append(worker)
        return True

    def close(self) -> None:
        """Nothing to end."""
        self._ours.close()
        self._theirs.close()


class PlayedJails:
    """No worker is confined: there is none."""

    def jail_for(self, worker: int, spec: PluginSpec | None) -> dict[str, Any]:
        """Whose limits the jail has from the start."""
        return {"of": spec.id if spec is not None else ""}

    def adopt(self, spare: int, worker: int, spec: PluginSpec) -> None:
        """Nothing."""

    def killed(self, worker: int) -> None:
        """Nothing."""

    def worker_gone(self, worker: int) -> None:
        """Nothing."""


class PlayedBundles:
    """Bundles of nothing."""

    def load(self, digest: str) -> tuple[dict[str, bytes], dict[str, str]]:
        """No file."""
        return {}, {}


class PlayedExecutor:
    """``events`` is what the core has heard. Every method plays one thing and lets the executor take it in."""

    def __init__(self, spares: int = 0, more: Sequence[ZygoteSource] = ()) -> None:
        self.events: list[ev.Event] = []
        self.zygote: Any = PlayedZygote()
        self.metrics = Metrics()
        self.loop = Loop()
        self.executor = LocalExecutor(
            self.loop, zygotes=[ZygoteSource("python", lambda: self.zygote, self.zygote), *more],
            sandboxing=PlayedJails(), source=PlayedBundles(), spares=spares,
            step=lambda event, _: self.events.append(event), metrics=self.metrics,
            logs=Logs(level="error", format="text"))
        self._codecs: dict[int, Zmtp] = {}
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.turn()

    def turn(self) -> None:
        """Lets the executor take in what is there and write what it has."""
        for _ in range(4):
            now_ns = time.monotonic_ns()
            self.executor.flush()
            self.executor.read_parked(now_ns)
            if self.executor.unsettled:
                self.executor.follow_up(now_ns)
            self.loop.handle_all()

    def start(self, worker: int, spec: PluginSpec = SPEC) -> None:
        """Has a worker started, and plays it until it is ready."""
        self.executor.start(act.StartWorker(worker, spec), time.monotonic_ns())
        self.boot(worker)
        self.say(worker, inner.Ready(spec.id, spec.version, [], []))

    def boot(self, number: int) -> None:
        """Plays a worker, or a spare, until it is jailed. It has a process, so that it can be killed."""
        process = self.processes[number] = subprocess.Popen(["sleep", "600"])
        self.zygote.tell(inner.Forked(number, process.pid), os.pidfd_open(process.pid))
        self.turn()
        self.zygote.links[number].send(Zmtp(frame_bytes_max=0).greeting())
        self.say(number, inner.Booted([]))

    def say(self, number: int, *messages: Any) -> None:
        """Plays what a worker says."""
        self.zygote.links[number].send(encoded(*messages))
        self.turn()

    def heard(self, number: int) -> list[Any]:
        """What the worker has been sent since the last time."""
        self.turn()
        codec = self._codecs.setdefault(number, Zmtp(frame_bytes_max=inner.FRAME_BYTES_MAX))
        try:
            data = self.zygote.links[number].recv(1 << 20, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        return [_decode(body) for body in codec.feed(data)]

    def call(self, worker: int, seq: int, deadline_ns: int = 9) -> None:
        """Sends a call."""
        request = ev.InvokeRequested(seq, "aaa", "onDataFetch", "u", msgspec.Raw(b"\x80"), deadline_ns)
        self.executor.send(act.SendCall(worker, seq, request), time.monotonic_ns())
        self.turn()

    def die(self, number: int, status: int = 0) -> None:
        """Plays the end of a process; ``status`` is as of wait."""
        process = self.processes.pop(number, None)
        if process is None:
            self.zygote.tell(inner.ForkFailed(number, 11))  # it has not come so far
            self.turn()
            return
        process.kill()
        process.wait()
        self.zygote.links[number].close()
        self.zygote.tell(inner.Exited(number, process.pid, status, 0, 0, 0))
        self.turn()

    def close(self) -> None:
        """Plays every end that is left."""
        for number in list(self.zygote.links):
            self.die(number)
        for fd in self.zygote.marks.values():
            os.close(fd)
        self.executor.forks.close()
