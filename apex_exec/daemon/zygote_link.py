"""The supervisor's end of the zygote: a bare process, spoken to in msgpack with fds attached."""

from __future__ import annotations

import array
import contextlib
import os
import socket
from typing import Any

import msgspec

from apex_exec.daemon import niceness
from apex_exec.sandbox.bare import BareProcess, Connection
from workers import start
from workers.wire import Fork, Forked, FromZygote, Kill

_decode = msgspec.msgpack.Decoder(FromZygote).decode
_encode = msgspec.msgpack.Encoder().encode
MESSAGE_BYTES_MAX = 65536


class ZygoteLink:
    """One zygote process. Must be made before any thread or ZeroMQ context exists."""

    def __init__(self, boot: dict[str, Any]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        death_read, self._death_write = os.pipe()
        boot = {**boot, "nice": niceness.STARTED_WITH, "death_fd": Connection(death_read, writable=False)}
        control = Connection(os.dup(theirs.fileno()))
        self.process = BareProcess(start.main, (control, boot), "apex-exec-zygote")
        self.process.start()
        control.close()
        boot["death_fd"].close()
        theirs.close()
        ours.setblocking(False)
        self._socket = ours
        self.pid: int = self.process.pid

    def fileno(self) -> int:
        """The fd to poll for readability."""
        return self._socket.fileno()

    def fork(self, worker: int, jail: dict[str, Any], link_fd: int, marks_fd: int) -> bool:
        """Asks for a worker; False where the zygote does not take the message now (full socket or dead)."""
        fds = array.array("i", [link_fd, marks_fd])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
        try:
            self._socket.sendmsg([_encode(Fork(worker, jail))], ancillary)
        except OSError:
            return False
        return True

    def kill(self, worker: int) -> bool:
        """Has the zygote kill its child ``worker``; False where it does not take the message now."""
        try:
            self._socket.send(_encode(Kill(worker)))
        except OSError:
            return False
        return True

    def receive(self) -> list[tuple[Any, int]]:
        """Every waiting message with its fd (-1 where it has none). Raises EOFError when the zygote is gone."""
        got: list[tuple[Any, int]] = []
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(MESSAGE_BYTES_MAX, socket.CMSG_SPACE(4 * 4))
            except BlockingIOError:
                return got
            if not data:
                raise EOFError("the zygote closed its control socket")
            fds = array.array("i")
            for level, kind, raw in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
            message = _decode(data)
            fd = fds[0] if fds and isinstance(message, Forked) else -1
            got.append((message, fd))

    def abandon(self) -> None:
        """Lets go of a zygote that is dead or does not speak any more: what is left of it dies. Does not wait."""
        self._socket.close()
        os.close(self._death_write)
        with contextlib.suppress(OSError):  # where even that signal is refused, the end of its death pipe remains
            if self.process.is_alive():
                self.process.kill()
                self.process.join(0.1)

    def close(self) -> None:
        """Lets the zygote die, which sees the death pipe's end, and with it every worker."""
        self._socket.close()
        os.close(self._death_write)
        self.process.join(2)
        if self.process.is_alive():
            self.process.kill()
