"""The worker's end of the link: blocking reads and writes of whole messages, with few system calls.

The supervisor's death appears as the link's end, the zygote's through PDEATHSIG; so we wait for nothing else.

We wait in poll, never in read. A process that sleeps in read on a unix stream is woken a second time for each reply:
when the supervisor takes the reply from the socket, the kernel reports "room to write" to every process that sleeps
there, even a reader (unix_write_space, unix_stream_data_wait). Counted over 1,000 workers called in turn, a worker was
switched to 2.2 times for each call, and 1.1 times with poll.
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
    """Receives and sends messages. For one thread."""

    __slots__ = ("_codec", "_wait", "fd", "inbox", "recalled")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        """The descriptor, for an event loop that waits for it; only this object reads and writes."""
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        self._wait = poll.poll
        self._codec = Zmtp(frame_bytes_max=wire.FRAME_BYTES_MAX)
        self.inbox: deque[Any] = deque()
        """Messages that were read but not taken, bounded by the supervisor's prefetch."""
        self.recalled: set[int] = set()
        """Calls that must not begin, from every Recall that was read."""

    def greet(self) -> None:
        """Sends the greeting."""
        self.write(self._codec.greeting())

    def send(self, message: Any) -> None:
        """Writes one message in full."""
        self.write(encode(_encode(message)))

    def write(self, data: bytes) -> None:
        """Writes ``data`` in full; blocks while the supervisor does not read."""
        sent = self._some(data)
        while sent < len(data):
            data = data[sent:]
            sent = self._some(data)

    def _some(self, data: bytes) -> int:
        while True:
            try:
                return os.write(self.fd, data)
            except BlockingIOError:  # without seccomp, plugin code may have changed the descriptor's mode
                room = select.poll()
                room.register(self.fd, select.POLLOUT)
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
        """The next message if it arrives within ``wait_ms``, else None. Ends the process at the link's end: a call is
        under way, and nobody is left to answer."""
        inbox = self.inbox
        if not inbox and self._wait(wait_ms) and not self._read():
            os._exit(0)
        return inbox.popleft() if inbox else None

    def look(self) -> None:
        """Reads what has arrived, without waiting."""
        if self._wait(0):
            self._read()  # the link's end appears again when there is nothing left to do

    def _read(self) -> bool:
        """Reads once. Returns False at the link's end."""
        try:
            missing_bytes = self._codec.missing_bytes  # an incomplete frame may be larger than one read
            data = os.read(self.fd, missing_bytes if missing_bytes > READ_BYTES else READ_BYTES)
        except BlockingIOError:  # without seccomp: a spurious wake-up, and a mode that was changed
            return True
        except ConnectionResetError:
            return False
        if not data:
            return False
        inbox = self.inbox
        inbox.extend(map(_decode, self._codec.feed(data)))
        if len(inbox) > 1:  # it is only urgent if calls are before it
            for message in inbox:
                if type(message) is wire.Recall:
                    self.recalled.update(message.seqs)
        return True

    def put_back(self, messages: deque[Any]) -> None:
        """Puts ``messages`` before those that have arrived since."""
        self.inbox.extendleft(reversed(messages))
