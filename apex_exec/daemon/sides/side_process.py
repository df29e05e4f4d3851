"""A supervised process beside the loop: gateway, ledger, registrar, exporter or checks. The supervisor's end of the
link never blocks.

Whatever may wait for a disk, a database or a peer runs in one of these, so that the loop does not. Started by
``multiprocess`` (spawn), spoken to in length-prefixed MessagePack over a socketpair, restarted with backoff when
it dies. A side process lives until its link ends: EOF means that the supervisor is gone or wants it to leave.
"""

from __future__ import annotations

import contextlib
import importlib
import select
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from apex_exec.common.backoff import Backoff
from apex_exec.common.process_name import name_process
from apex_exec.errors import SupervisorBug
from apex_exec.executor import scheduling_priority
from apex_exec.observe.logs import log_beside
from apex_exec.sandbox.bare import BareProcess, Connection
from apex_exec.wire.frames import FrameBuffer, pack_frame
from apex_exec.wire.side_link import Handlers, decoder_of

if TYPE_CHECKING:
    from apex_exec.executor.loop import Loop
    from apex_exec.observe.logs import Logs
    from apex_exec.observe.metrics import Metrics

RECEIVE_BYTES = 65_536
OUT_BYTES_MAX = 64 * 1024 * 1024
"""Unsent bytes held for one side process; full is an answer (``send`` returns False), never a wait."""
RESTART_MIN_NS = 100_000_000
RESTART_MAX_NS = 5_000_000_000
"""Unless its owner says otherwise (``restart_max_ns``)."""
STABLE_NS = 10_000_000_000
"""A process that lived this long is started again after RESTART_MIN_NS; after a shorter life the wait is twice as long
as the previous one, up to the maximum."""

_encode = msgspec.msgpack.Encoder().encode


def attach(loop: Loop, side: SideProcess, delay_seconds: float, metrics: Metrics, logs: Logs) -> None:
    """Has ``loop`` start ``side`` (with a delay: when it is first needed) and keep it running; each of its deaths is
    logged and counted. It is closed, draining, after the loop has ended."""
    def lost(how: str) -> None:
        logs.log("error", how)
        metrics.inc("side_process_restarts_total", (side.name,))

    side.on_lost = lost
    loop.attach(side, delay_seconds)


def _raise(_duty: str, error: Exception) -> None:
    raise error


def _run(target: str, name: str, link: Connection, settings: dict[str, Any], nice: int) -> None:
    """The process's main: gives it a name that ``ps`` and ``top`` show and its own niceness, then calls ``target``.

    If ``settings`` has "log" (level and format), what the process logs becomes lines of the daemon's log, in its form.
    """
    scheduling_priority.restore(nice)
    if "log" in settings:
        log_beside(name, settings["log"]["level"], settings["log"]["format"], settings.get("fleet", {}).get("node", ""))
    name_process(f"apex-{name}")
    module, _, function = target.partition(":")
    getattr(importlib.import_module(module), function)(link, settings)


class SideProcess:
    """One such process and the link to it.

    ``target`` names a function, as "package.module:function": ``main(link: Connection, settings: dict)`` is run in the
    new process with the other end of the link and returns at EOF. Only that process imports the module, so that the
    supervisor loads no database code. ``handlers`` take its messages, by type (``wire/side_link.py``); ``on_up`` is
    called after every start, ``on_down`` after every death (what was in flight is the caller's to answer). All of them
    run in the loop. With ``exact`` a message that cannot be taken ends the process: its owner must not miss one.
    """

    def __init__(self, name: str, target: str, settings: dict[str, Any], *, handlers: Handlers,
                 on_up: Callable[[], None] = lambda: None, on_down: Callable[[], None] = lambda: None,
                 exact: bool = False, restart_max_ns: int = RESTART_MAX_NS) -> None:
        self.name = name
        self.pid = 0
        self.on_lost: Callable[[str], None] = lambda _: None
        """Called each time the process dies, with a sentence that says how; ``attach`` sets it."""
        self._target = target
        self._settings = settings
        self.handlers = handlers
        self._exact = exact
        self._on_up = on_up
        self._on_down = on_down
        self._socket: socket.socket | None = None
        self._process: Any = None
        self._out = bytearray()
        self.on_failed: Callable[[str, Exception], None] = _raise
        """Called if a message could not be taken; the loop sets it."""
        self.polled_write = False  # the loop's own note: whether it waits for room
        self._frames = FrameBuffer()
        self._decode = decoder_of(handlers)
        self._started_ns = 0
        self._backoff = Backoff(RESTART_MIN_NS, restart_max_ns)
        self.start_after_ns = 0
        self.started = False
        """False until the process is started for the first time, which may be when it is first needed."""
        self.closing = False
        """True once it was asked to leave: its end is then not counted as a death."""

    @property
    def up(self) -> bool:
        """True while the process has a link."""
        return self._socket is not None

    @property
    def wants_write(self) -> bool:
        """True while bytes wait for room on the link."""
        return bool(self._out)

    def fileno(self) -> int:
        """The fd to poll; -1 while it is down."""
        return self._socket.fileno() if self._socket is not None else -1

    def start(self, now_ns: int) -> None:
        """Starts the process; blocks for the few milliseconds of a spawn."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        link = Connection(theirs.detach())
        process = BareProcess(_run, (self._target, self.name, link, self._settings, scheduling_priority.STARTED_WITH),
                              f"apex-exec-{self.name}", keeps_environment=True, ignores_ends=True)
        try:
            process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            link.close()
        self._process = process  # not before: what was never started can be neither killed nor waited for
        ours.setblocking(False)
        self._socket, self._frames = ours, FrameBuffer()
        self._out.clear()
        self.pid = self._process.pid
        self.started = True
        self._started_ns = now_ns
        self._tell(self._on_up, "start")

    def send(self, message: msgspec.Struct) -> bool:
        """Queues one message and writes what fits. False if the process is down or its link is full: it was not
        taken."""
        return self.send_body(_encode(message))

    def send_body(self, body: bytes) -> bool:
        """As ``send``, of a message that its owner has encoded."""
        if self._socket is None or len(self._out) > OUT_BYTES_MAX:
            return False
        self._out += pack_frame(body)
        self.flush()
        return True

    def flush(self) -> None:
        """Writes what the link takes now."""
        if self._socket is None or not self._out:
            return
        try:
            sent = self._socket.send(self._out)
        except BlockingIOError:
            return
        except OSError:
            self._out.clear()  # the process is gone; its end shows as EOF
            return
        del self._out[:sent]

    def receive(self, now_ns: int) -> bool:
        """Takes what has arrived and hands it on; False if the process is gone (``on_down`` was called)."""
        if self._socket is None:
            return False
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            self._lost(now_ns)
            return False
        try:
            bodies = self._frames.feed(data)
        except SupervisorBug as error:  # what follows a broken frame means nothing: as good as a dead process
            self.on_failed(f"frames of the {self.name}", error)
            self.kill()
            self._lost(now_ns)
            return False
        for body in bodies:
            try:
                self.take(self._decode(body))
            except Exception as error:
                if self._exact:
                    self.kill()
                self.on_failed(f"message of the {self.name}", error)
        return True

    def take(self, message: msgspec.Struct) -> None:
        """Gives one message of the process to its handler."""
        self.handlers[type(message)](message)

    def _lost(self, now_ns: int) -> None:
        self._release()
        if now_ns - self._started_ns >= STABLE_NS:
            self._backoff.reset()
        wait_ns = self._backoff.take()
        self.start_after_ns = now_ns + wait_ns
        if not self.closing:
            self._tell(lambda: self.on_lost(f"{self._ending()}; it is started again in {wait_ns / 1e9:g} s"),
                       "death")
            self._tell(self._on_down, "end")

    def _ending(self) -> str:
        """How the process ended. It may be about to: its link is closed a moment before it can be reaped."""
        code = self._process.exitcode if self._process is not None else None
        if code is None:
            return f"the {self.name} process (pid {self.pid}) has closed its link"
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        return f"the {self.name} process (pid {self.pid}) {how}"

    def _tell(self, whom: Callable[[], None], what: str) -> None:
        """Calls the owner. If the owner fails, we go on with the process all the same."""
        try:
            whom()
        except Exception as error:
            self.on_failed(f"{what} of the {self.name}", error)

    def _release(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._out.clear()
        if self._process is not None:
            self._process.join(0)  # reaps it if it has ended

    def kill(self) -> None:
        """Ends the process at once; it is missed and started again like one that died."""
        if self._process is not None:
            self._process.kill()

    def let_go(self, until: float) -> None:
        """Hands over what waits, until ``until`` (CLOCK_MONOTONIC, seconds) at most, and ends the link: the process has
        its orders to drain and leave. What it says yet is still to be received."""
        self.closing = True
        if self._socket is None:
            return
        with contextlib.suppress(OSError):
            while self._out and (left := until - time.monotonic()) > 0:
                if select.select([], [self._socket], [], left)[1]:
                    self.flush()
            self._socket.shutdown(socket.SHUT_WR)

    def close(self, until: float) -> bool:
        """``let_go``, then waits for the process to leave, until ``until`` at most; False if it had to be killed."""
        if not self.closing:
            self.let_go(until)
        left = True
        if self._process is not None:
            self._process.join(max(0.0, until - time.monotonic()))
            if self._process.is_alive():
                left = False
                self._process.kill()
                self._process.join(1)
        self._release()
        return left
