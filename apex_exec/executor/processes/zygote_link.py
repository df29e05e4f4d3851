"""Our end of a zygote: a bare process, spoken to in msgpack messages with file descriptors attached."""

from __future__ import annotations

import array
import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import msgspec

from apex_exec.executor import scheduling_priority
from apex_exec.observe.logs import escape
from apex_exec.sandbox.bare import BareProcess, Connection
from workers.runtime import start
from workers.wire import Fork, Forked, FromZygote, Kill, ZygoteReady

_decode = msgspec.msgpack.Decoder(FromZygote).decode
_encode = msgspec.msgpack.Encoder().encode
MESSAGE_BYTES_MAX = 65536
SAID_BYTES_MAX = 4096
"""How much of what a zygote wrote to its standard error is kept. It is the end, since a traceback says last what went
wrong."""
TRY_SECONDS_MAX = 15.0
LAST_LINE_CHARS_MAX = 300
"""How much of its last line a reason quotes."""


class ZygoteLink:
    """One zygote process. Must be made before any thread or ZeroMQ context exists."""

    target: Callable[[Any, dict[str, Any]], None] = staticmethod(start.main)
    """What the process runs. `plugin debug` has a zygote of its own."""

    def __init__(self, boot: dict[str, Any]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        death_read, self._death_write = os.pipe()
        boot = {**boot, "nice": scheduling_priority.STARTED_WITH, "death_fd": Connection(death_read, writable=False)}
        control = Connection(os.dup(theirs.fileno()))
        self._said_fd, said_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._said = b""
        self.process = BareProcess(type(self).target, (control, boot), "apex-exec-zygote", ignores_ends=True,
                                   stderr=said_write)
        try:
            self.process.start()
        except BaseException:
            ours.close()
            os.close(self._death_write)
            os.close(self._said_fd)
            raise
        finally:
            control.close()
            boot["death_fd"].close()
            theirs.close()
            os.close(said_write)
        ours.setblocking(False)
        self._socket = ours
        self.pid: int = self.process.pid

    def fileno(self) -> int:
        """The descriptor to poll for readability."""
        return self._socket.fileno()

    @property
    def said_fileno(self) -> int:
        """The descriptor to poll for what the zygote writes to its standard error; ``hear`` reads it."""
        return self._said_fd

    def hear(self) -> str | None:
        """Returns what the zygote has written to its standard error since the last time; None if nobody can write there
        any more."""
        try:
            data = os.read(self._said_fd, MESSAGE_BYTES_MAX)
        except BlockingIOError:
            return ""
        self._said = (self._said + data)[-SAID_BYTES_MAX:]
        return data.decode(errors="replace") if data else None

    def why(self) -> str:
        """Returns how the zygote ended and what it said last, on one line. Waits a tenth of a second for an end that is
        under way."""
        with contextlib.suppress(OSError):
            self.process.join(0.1)
            while self.hear():
                pass
        code = self.process.exitcode
        how = ("it fell silent" if code is None else f"it ended with status {code}" if code >= 0
               else f"it was ended by {signal.Signals(-code).name}")
        lines = self._said.decode(errors="replace").strip().splitlines()
        return escape(f"{how}: {lines[-1].strip()[:LAST_LINE_CHARS_MAX]}" if lines else how)

    @property
    def ended_by_itself(self) -> bool:
        """True after an end that nobody else brought about: the next zygote will most likely end in the same way."""
        return self.process.exitcode is not None and self.process.exitcode > 0

    def fork(self, worker: int, jail: dict[str, Any], link_fd: int, marks_fd: int) -> bool:
        """Asks for a worker. Returns False if the zygote does not take the message now (its socket is full, or it is
        dead)."""
        fds = array.array("i", [link_fd, marks_fd])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
        try:
            self._socket.sendmsg([_encode(Fork(worker, jail))], ancillary)
        except OSError:
            return False
        return True

    def kill(self, worker: int) -> bool:
        """Has the zygote kill its child ``worker``. Returns False if the zygote does not take the message now."""
        try:
            self._socket.send(_encode(Kill(worker)))
        except OSError:
            return False
        return True

    def receive(self) -> list[tuple[Any, int]]:
        """Returns every waiting message with its descriptor (-1 if it has none). Raises EOFError if the zygote is
        gone."""
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

    def abandon(self, *, silent: bool = False) -> None:
        """Lets go of a zygote that is dying or, if ``silent``, does not speak any more, and kills what is left of it.

        Waits for a tenth of a second at most.
        """
        self._socket.close()
        os.close(self._death_write)
        with contextlib.suppress(OSError):  # where even that signal is refused, the end of its death pipe remains
            if not silent:
                self.process.join(0.1)  # its link ends a moment before it does: its own status tells more than a kill's
            if self.process.is_alive():
                self.process.kill()
                self.process.join(0.1)
        self._close_said()

    def close(self) -> None:
        """Lets the zygote see the end of its death pipe, of which it dies, and every worker with it."""
        self._socket.close()
        os.close(self._death_write)
        self.process.join(2)
        if self.process.is_alive():
            self.process.kill()
        self._close_said()

    def _close_said(self) -> None:
        with contextlib.suppress(OSError):
            while self.hear():
                pass
        os.close(self._said_fd)
        self._said_fd = -1


def try_zygote(boot: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Starts a zygote and ends it again. Returns "" if it became ready, else why not, and the languages that it cannot
    run, each with the reason. Blocks. Only for a process without threads."""
    zygote = ZygoteLink(boot)
    due = time.monotonic() + TRY_SECONDS_MAX
    messages: list[Any] = []
    try:
        while not messages:
            if not select.select([zygote.fileno()], [], [], max(0.0, due - time.monotonic()))[0]:
                break
            messages = zygote.receive()
    except (OSError, EOFError, msgspec.DecodeError):
        pass
    finally:
        why = "" if messages else zygote.why()
        zygote.abandon(silent=True)
    return why, next((message.lacking for message, _ in messages if isinstance(message, ZygoteReady)), {})
