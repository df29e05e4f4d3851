"""The process behind ``registry.testing``: one test zygote, a jailed worker a run. Request in, Answer out."""

from __future__ import annotations

import array
import contextlib
import hashlib
import os
import select
import signal
import socket
import sys
import time
from typing import Any

import msgspec

from apex_exec.registry.trials.line_proofs import Watching, prove
from apex_exec.registry.trials.testing import Answer, Request, Run
from apex_exec.sandbox.bare import BareProcess, Connection
from apex_exec.sandbox.modules import ALLOWED, HIDDEN, REFUSED
from apex_exec.sandbox.probe import probe
from workers import wire
from workers.runtime import start
from workers.zmtp import Zmtp, ZmtpError, encode

TEST_MODULES = ("pytest", "tempfile", "shutil", "workers.fake", "builtins", "_pytest.assertion.rewrite")
"""What test files may import besides the plugin's modules; the last two are what rewritten assertions need."""
OUTPUT_LINES_MAX = 200
NAME_CHARACTERS_MAX = 300
START_SECONDS_MAX = 30.0

_zygote_decode = msgspec.msgpack.Decoder(wire.FromZygote).decode
_decode = msgspec.msgpack.Decoder(wire.FromTests).decode
_encode = msgspec.msgpack.Encoder().encode


class Zygote:
    """The test zygote, spoken to synchronously: this process does nothing else."""

    def __init__(self, request: Request) -> None:
        findings = probe(request.waive, scratch=True)
        self.level = findings.level or "L0"
        if findings.accepted_level < request.min_level:
            raise OSError(f"sandbox.min_level = {request.min_level}, and this machine reaches "
                          f"{findings.accepted_level or 'none'}")
        self._request = request
        self._worker = 0
        self._jail: dict[str, Any] = {"cgroup": []}
        if request.uid:
            self._jail |= {"uid": request.uid, "gid": request.uid}
        allowed = [*ALLOWED, *request.extra_modules, *TEST_MODULES]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        death_read, self._death_write = os.pipe()
        boot = {"jail": findings.plan, "preload": allowed, "hidden": [*HIDDEN, "workers.testing"],
                "refused": [name for name in REFUSED if name not in request.extra_modules],
                "death_fd": Connection(death_read, writable=False)}
        self._process = BareProcess(start.main, (Connection(os.dup(theirs.fileno())), boot), "apex-exec-tests")
        self._process.start()
        boot["death_fd"].close()
        theirs.close()
        self._socket = ours
        self._socket.settimeout(START_SECONDS_MAX)
        self._receive()

    def _receive(self) -> tuple[Any, int]:
        data, ancillary, _, _ = self._socket.recvmsg(65536, socket.CMSG_SPACE(16))
        if not data:
            raise OSError("the test zygote died: can pytest and coverage be imported here?")
        fds = array.array("i")
        for _, _, raw in ancillary:
            fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
        return _zygote_decode(data), fds[0] if fds else -1

    def run(self, files: dict[str, bytes], watching: Watching | None = None) -> tuple[Run, int]:
        """All tests over ``files`` in a worker of its own, and the process's exit status (as of wait).

        Raises OSError where ``watching`` is wanted and this machine does not let a process be watched.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        marks_read, marks_write = os.pipe()
        self._worker += 1
        rights = array.array("i", [theirs.fileno(), marks_write])
        self._socket.sendmsg([_encode(wire.Fork(self._worker, self._jail))],
                             [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        theirs.close()
        os.close(marks_write)
        forked, pidfd = self._receive()
        if not isinstance(forked, wire.Forked):
            raise OSError(f"the test zygote could not fork: {forked}")
        begun = time.monotonic()
        run = Run(level=self.level)
        talk = _Talk(ours, run, begun + self._request.run_seconds, self._request.run_seconds)
        try:
            talk.load(self._request, files)
            if watching is None:
                talk.listen()
            elif talk.placed is not None:
                watching.begin(forked.pid, talk.placed)
                talk.listen(watching)
        finally:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            if watching is not None:
                watching.end()
            os.close(pidfd)
            ours.close()
            os.close(marks_read)
            exited, _ = self._receive()
        run.seconds = time.monotonic() - begun
        status: int = exited.status
        return run, status

    def close(self) -> None:
        """The zygote dies, which sees the death pipe's end, and with it every worker."""
        self._socket.close()
        os.close(self._death_write)
        self._process.join(2)
        if self._process.is_alive():
            self._process.kill()


class _Talk:
    """One run's conversation: Booted, Placed, then output, then exactly one Tested, then the link's end."""

    def __init__(self, link: socket.socket, run: Run, end: float, seconds: float) -> None:
        self.placed: wire.Placed | None = None
        self._link = link
        self._run = run
        self._end = end
        self._zmtp = Zmtp(frame_bytes_max=wire.WORKER_FRAME_BYTES_MAX)
        self._tested: wire.Tested | None = None
        self._over = False
        self._too_long = f"the tests ran longer than {seconds:g} s and were stopped"
        run.ended = "the tests ended their own process before their report"

    def load(self, request: Request, files: dict[str, bytes]) -> None:
        """Hands the bundle over and waits for ``placed``; nothing of the bundle has run when it is there."""
        load = wire.Load(request.plugin, request.version, request.entrypoint, files,
                         {path: hashlib.sha256(body).hexdigest() for path, body in files.items()},
                         request.memory_bytes_max, "test")
        try:
            self._link.settimeout(max(0.1, self._end - time.monotonic()))
            self._link.sendall(self._zmtp.greeting() + encode(_encode(load)))
        except OSError as error:
            self._stop(f"the report cannot be read: {error}")
        while self.placed is None and not self._over:
            self._read([])

    def listen(self, watching: Watching | None = None) -> None:
        """Lets the tests run, to the end of their report, or until ``watching`` has seen all that it was to see."""
        if self._over:
            return
        if watching is not None:
            watching.go()
        try:
            self._link.sendall(encode(_encode(wire.Ping(0))))
        except OSError as error:
            self._stop(f"the report cannot be read: {error}")
        while not self._over and not (watching is not None and watching.look()):
            self._read([] if watching is None else [watching.wake_fd])
        if self._tested is not None and not self._run.ended:
            self._report(self._tested)

    def _report(self, tested: wire.Tested) -> None:
        run = self._run
        if tested.tampered:
            run.ended = "a test took the tracer away"
            return
        run.passed, run.failed, run.failures, run.arcs = tested.passed, tested.failed, tested.failures, tested.arcs

    def _stop(self, why: str) -> None:
        self._over, self._run.ended = True, why[:500]

    def _read(self, also: list[int]) -> None:
        left = self._end - time.monotonic()
        ready = select.select([self._link.fileno(), *also], [], [], left)[0] if left > 0 else []
        if not ready:
            self._stop(self._too_long)
        elif self._link.fileno() in ready:
            try:
                data = self._link.recv(262_144)
                if not data:
                    self._over = True
                for body in self._zmtp.feed(data):
                    self._take(_decode(body))
            except (OSError, ZmtpError, msgspec.DecodeError) as error:
                self._stop(f"the report cannot be read: {type(error).__name__}: {error}"[:300])

    def _take(self, message: Any) -> None:
        if self._over:
            return
        if self._tested is not None:
            self._stop("something was reported after the report")
        elif isinstance(message, wire.Tested):
            self._tested, self._run.ended, self._run.test = message, "", ""
        elif isinstance(message, wire.Testing):
            self._run.test = message.name[:NAME_CHARACTERS_MAX]
            self._run.passed, self._run.failed = message.passed, message.failed
        elif isinstance(message, wire.Placed):
            if self.placed is not None:
                self._stop("places were reported twice")
            self.placed = self.placed or message
        elif isinstance(message, wire.Log):
            self._run.output = [*self._run.output, message.text][:OUTPUT_LINES_MAX]
        elif isinstance(message, wire.Failed):
            self._stop(f"{message.stage}: {message.exception}: {message.message}")


def main() -> None:
    """Reads the request from stdin, answers on stdout; whatever the tests print goes into the answer."""
    request = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Request)
    answer = Answer()
    try:
        zygote = Zygote(request)
        try:
            if request.points:
                answer.proof = prove(zygote, request)
            else:
                answer.run, status = zygote.run(request.files)
                if answer.run.ended.startswith("the tests ended"):
                    answer.run.ended += f" ({_how(status)})"
        finally:
            zygote.close()
    except (OSError, RuntimeError) as error:
        answer.refused = str(error)
    sys.stdout.buffer.write(msgspec.msgpack.encode(answer))


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"status {code}" if code >= 0 else signal.Signals(-code).name


if __name__ == "__main__":
    main()
