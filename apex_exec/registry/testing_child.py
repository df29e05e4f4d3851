"""The process behind ``registry.testing``: one test zygote, a jailed worker a run. Request in, Answer out."""

from __future__ import annotations

import array
import ast
import contextlib
import hashlib
import os
import secrets
import select
import signal
import socket
import sys
import time
from typing import Any

import msgspec
from multiprocess.connection import Connection

from apex_exec.registry.testing import Answer, Proof, Request, Run
from apex_exec.sandbox.bare import BareProcess
from apex_exec.sandbox.modules import ALLOWED, HIDDEN, REFUSED
from apex_exec.sandbox.probe import probe
from workers import start, wire
from workers.zmtp import Zmtp, ZmtpError, encode

TEST_MODULES = ("pytest", "tempfile", "shutil", "workers.fake", "builtins", "_pytest.assertion.rewrite")
"""What test files may import besides the plugin's modules; the last two are what rewritten assertions need."""
OUTPUT_LINES_MAX = 200
START_SECONDS_MAX = 30.0
TRIES = 3
"""A line that did not end its run is tried again this often before the claim counts as false: tests may be random."""

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
            raise OSError("the test zygote died; tests need pytest and coverage: pip install 'apex-exec[market]'")
        fds = array.array("i")
        for _, _, raw in ancillary:
            fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
        return _zygote_decode(data), fds[0] if fds else -1

    def run(self, files: dict[str, bytes]) -> tuple[Run, int]:
        """All tests over ``files`` in a worker of its own, and the process's exit status (as of wait)."""
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
        try:
            self._speak(ours, files, run, begun + self._request.run_seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
            ours.close()
            os.close(marks_read)
        run.seconds = time.monotonic() - begun
        exited, _ = self._receive()
        status: int = exited.status
        return run, status

    def _speak(self, link: socket.socket, files: dict[str, bytes], run: Run, end: float) -> None:
        """One run's conversation: Booted, then output, then exactly one Tested, then the link's end."""
        zmtp = Zmtp(frame_bytes_max=wire.WORKER_FRAME_BYTES_MAX)
        request = self._request
        load = wire.Load(request.plugin, request.version, request.entrypoint, files,
                         {path: hashlib.sha256(body).hexdigest() for path, body in files.items()},
                         request.memory_bytes_max, "test")
        run.ended = "the tests ended their own process before their report"
        tested: wire.Tested | None = None
        link.settimeout(max(0.1, end - time.monotonic()))
        try:
            link.sendall(zmtp.greeting() + encode(_encode(load)))
            while True:
                left = end - time.monotonic()
                if left <= 0 or not select.select([link], [], [], left)[0]:
                    run.ended = f"the tests ran longer than {request.run_seconds:g} s and were stopped"
                    return
                data = link.recv(262_144)
                if not data:
                    break
                for body in zmtp.feed(data):
                    message = _decode(body)
                    if tested is not None:
                        run.ended = "something was reported after the report"
                        return
                    if isinstance(message, wire.Tested):
                        tested = message
                    elif isinstance(message, wire.Log):
                        run.output = [*run.output, message.text][:OUTPUT_LINES_MAX]
                    elif isinstance(message, wire.Failed):
                        run.ended = f"{message.stage}: {message.exception}: {message.message}"[:500]
                        return
        except (OSError, ZmtpError, msgspec.DecodeError) as error:
            run.ended = f"the report cannot be read: {type(error).__name__}: {error}"[:300]
            return
        if tested is None:
            return
        if tested.tampered:
            run.ended = "a test took the tracer away"
            return
        run.ended = ""
        run.passed, run.failed, run.failures, run.arcs = tested.passed, tested.failed, tested.failures, tested.arcs

    def close(self) -> None:
        """The zygote dies, which sees the death pipe's end, and with it every worker."""
        self._socket.close()
        os.close(self._death_write)
        self._process.join(2)
        if self._process.is_alive():
            self._process.kill()


def trap(source: bytes, line: int, status: int) -> bytes | None:
    """``source`` with a statement put before the one that begins at ``line``, which ends the process with ``status``.

    None where none can stand there: an ``elif``, a decorator's inside, a docstring, a ``from __future__``.
    """
    try:
        tree = ast.parse(source)
        lines = source.split(b"\n")
        text = lines[line - 1]
        indent = text[: len(text) - len(text.lstrip())]
        first = [node for node in ast.walk(tree) if isinstance(node, ast.stmt) and _first_line(node) == line]
        if not first or text.lstrip().startswith(b"elif") or any(map(_not_before, first)):
            return None
        lines.insert(line - 1, indent + b"__import__('os')._exit(%d)" % status)
        changed = b"\n".join(lines)
        compile(changed, "trap", "exec", dont_inherit=True)
        return changed
    except (SyntaxError, ValueError, RecursionError, MemoryError, IndexError):
        return None


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(one.lineno for one in decorators)])


def _not_before(node: ast.stmt) -> bool:
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return is_text or (isinstance(node, ast.ImportFrom) and node.module == "__future__")


def prove(zygote: Zygote, request: Request) -> Proof:
    """Lines in random order until the time is over, each in its own run; stops at the first that proves a lie."""
    claimed = [(path, line) for path, lines in request.points.items() for line in sorted(set(lines))]
    secrets.SystemRandom().shuffle(claimed)
    proof = Proof(claimed=len(claimed))
    end = time.monotonic() + request.proof_seconds
    for path, line in claimed:
        if time.monotonic() > end and proof.tried >= request.proofs_min:
            break
        status = 64 + secrets.randbelow(128)
        changed = trap(request.files[path], line, status)
        if changed is None:
            continue
        proof.tried += 1
        files = {**request.files, path: changed}
        if not any(os.waitstatus_to_exitcode(zygote.run(files)[1]) == status for _ in range(TRIES)):
            proof.path, proof.line = path, line
            break
    return proof


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
