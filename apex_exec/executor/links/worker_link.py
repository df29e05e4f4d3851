"""The executor's end of one worker: the worker's link, marks pipe and pidfd, and its kind. Nothing here blocks."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from apex_exec.core.plugin import PluginSpec
from workers import wire as inner
from workers.wire import FRAME_BYTES_MAX, WORKER_FRAME_BYTES_MAX
from workers.zmtp import READ_BYTES, Zmtp, ZmtpError, encode

Refused = tuple[str, str, str]
"""An effect that was refused: code, method, message."""
UNCLAIMED = PluginSpec("", "", "", "", ())
"""The placeholder spec of a worker that no plugin has claimed yet. Nothing depends on its identity: what a worker is
for is said by the link's ``kind``."""
OUT_BYTES_MAX = FRAME_BYTES_MAX + 16 * 1024 * 1024
"""How many unsent bytes are kept for one worker: a bundle, and calls. Prefetch bounds the number of calls; this bounds
their bodies."""

PIECE_BYTES = 4096
"""A read that gives less than this, and no whole message, counts as a small piece."""
FRAMES_AT_ONCE = 16
"""How many messages are handled before the loop looks at the time that they took: 16 API calls take a millisecond."""


class WorkerLink:
    """The link of one worker process. The executor says what the worker is for by setting ``kind``, before anything is
    read. ``theirs`` and ``marks_write`` are the worker's ends: they go to the zygote and are then closed here.

    Raises OSError if the machine has no file descriptors left.
    """

    def __init__(self, worker: int, spec: PluginSpec, now_ns: int) -> None:
        self.kind: Kind
        self.worker = worker
        self.forked_as = worker  # the zygote's number for the process, which stays when a spare is given to a plugin
        self.spec = spec
        self.started_ns = now_ns
        self.pid = 0
        self.pidfd = -1
        # the life of the worker
        self.pending_kill = False  # kill the process as soon as its pidfd is known
        self.lost_ns = 0  # when its zygote was found dead; 0 while the zygote lives
        self.booted = False  # the jail is applied: the worker waits for its plugin, or has been sent it
        self.ready = False  # the plugin is loaded
        self.failure = ""  # why the worker could not boot, in its own words or in the executor's
        self.ended = False  # the link's end was read
        self.broken = False  # the worker broke the protocol: nothing that it wrote afterwards is read
        self.closing = False  # the process is dead, and what it left on the link is being read
        self.closed = False
        # the loop's notes
        self.dirty = False  # messages were queued since the last flush
        self.polled_write = False  # the loop waits for room on the link
        self.parked = False  # the link is read when its plugin's turn comes, and is not polled meanwhile
        self.paced = False  # the worker has made API calls above its plugin's rate since it was last parked
        self.pieces = 0  # reads since the last whole message that each gave a small piece of the next one
        # calls
        self.sent = 0  # how many calls in all
        self.owed = 0  # how many calls were sent and are not answered yet
        self.marks_seen = 0  # how many calls the worker has begun in all, when the marks pipe was last read
        self.overmarked = False  # the worker has marked more calls than it was sent
        self.lines = 0  # lines of output since the last answer
        self.strays = 0  # API calls in the name of an earlier call since the last answer
        self.user_id = ""  # of the latest call
        self.refused: dict[int, Refused] = {}  # by seq: an effect that was refused without the hook's knowledge
        self.granted = spec.permissions  # the permissions that the worker was sent, or will be with Load
        self.shared = False  # it runs several calls at once
        self.interrupts = 0  # signals of probes that were sent and not answered by Blocked
        # CPU time
        self.cpu_ns = 0  # the CPU time of the process, when it was last read
        self.spent_ns = 0  # what the loop has spent on this link since the last export
        self.ordinary_ns = 0  # how much of the present slice ordinary answers may take
        self.host_ns = 0  # what the daemon has spent on the call under way beyond an ordinary answer
        self.more = False  # messages wait that were read already
        self._left: list[bytes] = []  # messages of the latest read that are not handled yet
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
        """Closes our copies of the worker's ends, which the zygote has by now."""
        if not self._handed:
            self._handed = True
            self.theirs.close()
            os.close(self.marks_write)

    def queue(self, body: bytes) -> bool:
        """Queues one frame, which ``flush`` writes. Returns False if the worker has left too many bytes unread."""
        self._out += encode(body)
        return len(self._out) <= OUT_BYTES_MAX

    def flush(self) -> None:
        """Writes as much as the link takes now."""
        try:
            sent = self._socket.send(self._out)
        except BlockingIOError:
            return
        except OSError:
            self._out.clear()  # the worker is gone; reading the link gives EOF
            return
        del self._out[:sent]

    def put_back(self, bodies: list[bytes]) -> None:
        """Has the next ``receive`` return ``bodies``, which were the last part of what the previous one returned."""
        self._left = bodies
        self.more = self.more or bool(bodies)

    def receive(self) -> tuple[list[bytes], bool]:
        """Returns some of the message bodies that have arrived, and whether the link has ended. Raises ZmtpError if the
        worker breaks the protocol."""
        zmtp = self._zmtp
        if self.more:
            bodies, self._left = self._left or zmtp.feed(b""), []
            self.more = zmtp.more
            return bodies, False
        try:
            missing_bytes = zmtp.missing_bytes  # an incomplete frame may be larger than one read
            data = self._socket.recv(missing_bytes if missing_bytes > READ_BYTES else READ_BYTES)
        except BlockingIOError:
            return [], False
        except OSError:
            return [], True
        bodies = zmtp.feed(data)
        self.more = zmtp.more
        if bodies:
            self.pieces = 0
        elif len(data) < PIECE_BYTES:
            self.pieces += 1
        return bodies, not data

    def drain_marks(self) -> int:
        """Empties the marks pipe, which must not fill up, and returns how many calls the worker has begun in all.

        It reads once, and asks for one byte more than there are calls without a mark. So a worker that goes on writing
        marks cannot keep the reader busy, and a byte too many sets ``overmarked``, which is a violation.
        """
        with contextlib.suppress(BlockingIOError, OSError):
            self.marks_seen += len(os.read(self._marks, self.sent - self.marks_seen + 1))
        if self.marks_seen > self.sent:
            self.overmarked = True
            self.marks_seen = self.sent
        return self.marks_seen

    def has_begun(self, seq: int) -> bool:
        """Whether the worker has marked call ``seq`` as begun; reads the marks pipe if that is not known yet."""
        return seq < self.marks_seen or seq < self.drain_marks()

    def interrupt(self) -> None:
        """Sends the signal of a probe; does nothing if the worker is dead."""
        if self.pidfd >= 0 and not self.closed:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self.pidfd, inner.PROBE_SIGNAL)
                self.interrupts += 1

    def kill(self) -> OSError | None:
        """Sends SIGKILL now, or as soon as the pidfd is known. Returns the kernel's error if it refuses."""
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
        """Closes the link for writing: the worker reads the end of the link, finishes and leaves."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Closes every file descriptor."""
        self.closed = True
        self.handed_over()
        self._socket.close()
        os.close(self._marks)
        if self.pidfd >= 0:
            os.close(self.pidfd)


Handler = Callable[[WorkerLink, Any, int], None]
"""``handler(link, message, now_ns)`` takes one message of a worker. It raises ZmtpError if the worker may not send the
message now, which is a violation of the protocol."""


class Handlers(dict[type, Handler]):
    """One handler for each message that a kind of worker may send. Any other message is a violation."""

    def __missing__(self, kind: type) -> Handler:
        raise ZmtpError("a worker that is sent no calls sends a message about calls")


class ProvenEnd(msgspec.Struct, gc=False):
    """How a worker ended: ``code`` and ``message`` say what can be proved; ``details`` has its signal or status."""

    code: str
    message: str
    details: dict[str, int] = {}


class Kind(Protocol):
    """What a worker is for, which decides what its messages and its end mean: ``PoolWorker``, ``Spare`` or a ``Job``.

    A worker's kind changes once at most, when a spare is given to a plugin.
    """

    handlers: Handlers
    serves: bool
    """Whether hosts' calls of its plugin run on it. Only then does a failed duty quarantine the plugin."""

    def decode(self, body: bytes, /) -> Any:
        """Returns the message that ``body`` holds. Raises msgspec.DecodeError."""

    def jail_spec(self, link: WorkerLink) -> PluginSpec | None:
        """Returns the spec whose limits the jail gets from the start; None if the limits come with the plugin."""

    def forked(self, link: WorkerLink) -> None:
        """The worker's process and its pidfd are known."""

    def booted(self, link: WorkerLink) -> None:
        """The worker is jailed and waits for its plugin."""

    def ready(self, link: WorkerLink, message: inner.Ready, now_ns: int) -> None:
        """The worker says that it has loaded its plugin. Raises ZmtpError if that cannot be true."""

    def failed(self, link: WorkerLink, message: inner.Failed, now_ns: int) -> None:
        """The worker could not boot and leaves; ``link.failure`` says why in one line."""

    def violated(self, link: WorkerLink, why: str, now_ns: int) -> None:
        """The worker broke the protocol. Its link is not read any more, and it must end."""

    def hung_up(self, link: WorkerLink) -> None:
        """The worker's side of the link has ended; its process usually ends at the same moment."""

    def orphaned(self, link: WorkerLink) -> None:
        """The worker's zygote is dead."""

    def refused(self, worker: int, now_ns: int) -> None:
        """There is no process for the worker, and never was."""

    def ended(self, link: WorkerLink, end: ProvenEnd, begun: int, now_ns: int) -> None:
        """The worker is dead, and its link was read to the end and closed. It had begun ``begun`` calls in all."""
