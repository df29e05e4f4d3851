"""The supervisor's end of one worker: its link, marks pipe and pidfd. Never blocks."""

from __future__ import annotations

import contextlib
import os
import signal
import socket

from apex_exec.core.plugin import PluginSpec
from workers.wire import FRAME_BYTES_MAX, WORKER_FRAME_BYTES_MAX
from workers.zmtp import READ_BYTES, Zmtp, encode

OUT_BYTES_MAX = 4 * FRAME_BYTES_MAX
"""Unsent bytes held for one worker; prefetch bounds the calls, this bounds their bodies."""

FRAMES_AT_ONCE = 16
"""Messages that are handled before the time they took is looked at: 16 API calls are a millisecond."""


class WorkerLink:
    """Link of one worker generation. ``theirs`` and ``marks_write`` go to the zygote and are then closed here.

    Raises OSError where the machine has no fds left.
    """

    def __init__(self, worker: int, spec: PluginSpec, now_ns: int) -> None:
        self.worker = worker
        self.forked_as = worker  # what the zygote knows it by; ``worker`` changes when a spare is adopted
        self.spec = spec
        self.started_ns = now_ns
        self.pid = 0
        self.pidfd = -1
        self.pending_kill = False
        self.failure = ""  # what the worker said of a boot that failed
        self.lost_ns = 0  # when its zygote was found dead
        self.ended = False  # EOF was read
        self.booted = False  # the jail is applied, the plugin was sent
        self.ready = False
        self.dirty = False  # has bytes that were queued since the last flush
        self.polled_write = False
        self.marks_seen = 0
        self.sent = 0  # calls in all
        self.overmarked = False  # it has marked more calls than it was sent
        self.broken = False  # it has broken the protocol: nothing that it wrote after that is looked at
        self.paced = False  # it has made API calls above its plugin's rate since it was last parked
        self.owed = 0  # calls sent and not answered
        self.lines = 0  # of output since the last answer
        self.strays = 0  # API calls in the name of an earlier call since the last answer
        self.cpu_ns = 0  # of its process, when it was last asked for
        self.user_id = ""  # of its latest call
        self.parked = False  # it is read when its plugin's turn comes, and not polled meanwhile
        self.closing = False  # its worker is dead, and what it left behind is being read
        self.closed = False
        self.spent_ns = 0  # CPU of the loop for it, since that was last exported
        self.ordinary_ns = 0  # of that, what its answers may take, since the present slice began
        self.host_ns = 0  # what the daemon did for the call under way beyond that
        self.more = False
        """Whether messages wait that were read already."""
        self._left: list[bytes] = []  # messages of the latest read whose turn has not come
        self._zmtp = Zmtp(frame_bytes_max=WORKER_FRAME_BYTES_MAX, frames_at_once=FRAMES_AT_ONCE)
        self._out = bytearray(self._zmtp.greeting())
        self._socket, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._marks, self.marks_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            self._socket.close()
            self.theirs.close()
            raise
        self._socket.setblocking(False)
        self._handed = False

    def fileno(self) -> int:
        """The fd to poll; writable matters only while ``wants_write``."""
        return self._socket.fileno()

    @property
    def wants_write(self) -> bool:
        """True while bytes wait for room on the link."""
        return bool(self._out)

    def handed_over(self) -> None:
        """Closes the ends that are the worker's now."""
        if not self._handed:
            self._handed = True
            self.theirs.close()
            os.close(self.marks_write)

    def queue(self, body: bytes) -> bool:
        """Queues one frame; ``flush`` writes. False where the worker reads nothing and the bound is reached."""
        self._out += encode(body)
        return len(self._out) <= OUT_BYTES_MAX

    def flush(self) -> None:
        """Writes what the link takes now."""
        try:
            sent = self._socket.send(self._out)
        except BlockingIOError:
            return
        except OSError:
            self._out.clear()  # the worker is gone; its end shows as EOF
            return
        del self._out[:sent]

    def put_back(self, bodies: list[bytes]) -> None:
        """``bodies``, the last that ``receive`` gave, are what it gives next."""
        self._left = bodies
        self.more = self.more or bool(bodies)

    def receive(self) -> tuple[list[bytes], bool]:
        """Bodies that have arrived, some at a time, and whether the link ended. Raises ZmtpError on a broken
        protocol."""
        zmtp = self._zmtp
        if self.more:
            bodies, self._left = self._left or zmtp.feed(b""), []
            self.more = zmtp.more
            return bodies, False
        try:
            missing_bytes = zmtp.missing_bytes  # a frame under way may be larger than one read
            data = self._socket.recv(missing_bytes if missing_bytes > READ_BYTES else READ_BYTES)
        except BlockingIOError:
            return [], False
        except OSError:
            return [], True
        bodies = zmtp.feed(data)
        self.more = zmtp.more
        return bodies, not data

    def drain_marks(self) -> int:
        """How many calls the worker has begun in all; reading keeps its pipe from filling.

        One read, of no more than the marks that calls were sent for and one: a worker that goes on marking cannot keep
        the reader, and that one more sets ``overmarked``, which is a violation.
        """
        with contextlib.suppress(BlockingIOError, OSError):
            self.marks_seen += len(os.read(self._marks, self.sent - self.marks_seen + 1))
        if self.marks_seen > self.sent:
            self.overmarked = True
            self.marks_seen = self.sent
        return self.marks_seen

    def kill(self) -> OSError | None:
        """SIGKILL now, or as soon as the pidfd is known. The kernel's answer where it refuses."""
        if self.pidfd < 0:
            self.pending_kill = True
            return None
        if self.closed:  # the descriptor may be another worker's by now
            return None
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return None
        except OSError as error:
            return error
        return None

    def half_close(self) -> None:
        """No more calls: the worker reads EOF, finishes and leaves."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Releases every fd."""
        self.closed = True
        self.handed_over()
        self._socket.close()
        os.close(self._marks)
        if self.pidfd >= 0:
            os.close(self.pidfd)
