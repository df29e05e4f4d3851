"""The worker's end of the link: blocking reads and writes of whole messages, with few system calls.

If the supervisor dies, the link ends; if the zygote dies, PDEATHSIG kills the worker. So we wait for nothing else.

We wait in poll, never in read. A process that sleeps in read on a unix stream is woken a second time for each reply:
when the supervisor takes the reply from the socket, the kernel reports "room to write" to every process that sleeps
there, even a reader (unix_write_space, unix_stream_data_wait). With 1,000 workers that were called in turn, there were
2.2 context switches to a worker for each call with read, and 1.1 with poll.
"""

from __future__ import annotations

import os
import select
from collections import deque
from typing import Any

import msgspec

from workers import wire
from workers.zmtp import READ_BYTES, Zmtp, encode

_decode = msgspec.msgpack.Decoder(wire.ToWorker).decode
_encode = msgspec.msgpack.Encoder().encode


class Link:
    """Receives and sends messages. Only one thread may use it."""

    __slots__ = ("_codec", "_fd", "_wait", "inbox", "is_writing", "recalled")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        self._wait = poll.poll
        self._codec = Zmtp(frame_bytes_max=wire.FRAME_BYTES_MAX)
        self.inbox: deque[Any] = deque()
        """Messages that were read and not taken; the supervisor's prefetch bounds their number."""
        self.recalled: set[int] = set()
        """Calls that must not begin, from every Recall that was read."""
        self.is_writing = False
        """Whether a message is being written: the handler of a signal must not write another one into it."""

    def fileno(self) -> int:
        """The descriptor, for a selector."""
        return self._fd

    def greet(self) -> None:
        """Sends the greeting."""
        self.write(self._codec.greeting())

    def send(self, message: Any) -> None:
        """Writes one message in full."""
        self.write(encode(_encode(message)))

    def write(self, data: bytes) -> None:
        """Writes ``data`` in full; blocks while the supervisor does not read."""
        self.is_writing = True
        sent = self._some(data)
        while sent < len(data):
            data = data[sent:]
            sent = self._some(data)
        self.is_writing = False

    def _some(self, data: bytes) -> int:
        while True:
            try:
                return os.write(self._fd, data)
            except BlockingIOError:  # without seccomp, plugin code may have changed the descriptor's mode
                room = select.poll()
                room.register(self._fd, select.POLLOUT)
                room.poll()

    def next(self) -> Any:
        """The next message; blocks until it arrives. None at the link's end. Raises ZmtpError, msgspec.DecodeError."""
        inbox = self.inbox
        while not inbox:
            self._wait()
            if not self._read():
                return None
        return inbox.popleft()

    def within(self, wait_ms: float) -> Any:
        """The next message if it arrives within ``wait_ms``, else None. If the link ends, ends the process: a call is
        under way, and nobody is left who could be answered."""
        inbox = self.inbox
        if not inbox and self._wait(wait_ms) and not self._read():
            os._exit(0)
        return inbox.popleft() if inbox else None

    def look(self) -> bool:
        """Reads what has arrived, without waiting. Returns False at the link's end; the next read finds the end again.
        """
        return self._read() if self._wait(0) else True

    def _read(self) -> bool:
        """Reads once. Returns False at the link's end."""
        try:
            missing_bytes = self._codec.missing_bytes  # an incomplete frame may be larger than one read
            data = os.read(self._fd, missing_bytes if missing_bytes > READ_BYTES else READ_BYTES)
        except BlockingIOError:  # without seccomp: a spurious wake-up, after the plugin changed the descriptor's mode
            return True
        except ConnectionResetError:
            return False
        if not data:
            return False
        inbox = self.inbox
        inbox.extend(map(_decode, self._codec.feed(data)))
        if len(inbox) > 1:  # a recall is urgent only if calls stand before it
            for message in inbox:
                if type(message) is wire.Recall:
                    self.recalled.update(message.seqs)
        return True

    def put_back(self, messages: deque[Any]) -> None:
        """Puts ``messages``, which were taken before, in front of those that have arrived since."""
        self.inbox.extendleft(reversed(messages))
