"""Both ends of the host protocol on a unix socket, with nothing hidden: every frame and command is the case's own.

They share the frame layer (``workers.zmtp``) with the daemon, and nothing else of it or of the clients.
"""

from __future__ import annotations

import contextlib
import select
import socket as sockets
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec

from apex_exec.conformance.cases import NotKept
from apex_exec.wire.zmtp_router import RouterSession, append_message
from workers.zmtp import COMMAND, GREETING, LONG, MORE, FrameReader, ZmtpError, command

SECONDS = 10.0
"""How long an answer may take that nothing holds up."""
POLL_SECONDS = 0.02
MESSAGE_BYTES_MAX = 16 * 1024 * 1024
FRAMES_MAX = 64
Message = dict[str, Any]


def ready(kind: bytes = b"DEALER", identity: bytes | None = None) -> bytes:
    """A READY command."""
    data = b"\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind
    if identity is not None:
        data += b"\x08Identity" + len(identity).to_bytes(4, "big") + identity
    return command(b"READY", data)


def message_bytes(body: bytes, frames: list[bytes] | None = None) -> bytes:
    """One message as it is on the wire."""
    out = bytearray()
    append_message(out, frames or [], body)
    return bytes(out)


class _DealerSession(FrameReader[tuple[list[bytes], bytes]]):
    """What a daemon sends: ``commands`` are kept as they come."""

    __slots__ = ("commands", "greeted")

    def __init__(self) -> None:
        super().__init__(message_bytes_max=MESSAGE_BYTES_MAX, frames_at_once=100_000, bare=False)
        self.commands: list[bytes] = []
        self.greeted = False

    def _take_greeting(self) -> None:
        self.greeted = True

    def _check_uncommon(self, flags: int, size: int) -> None:
        if flags & ~LONG not in (MORE, COMMAND) or size > MESSAGE_BYTES_MAX:
            raise ZmtpError(f"a frame with the flags {flags} and {size} bytes")

    def _take_uncommon(self, flags: int, body: bytes) -> None:
        if flags & COMMAND:
            self.commands.append(body)
            self._ready = True
        else:
            self._frames.append(body)
            self._frames_bytes += len(body)


class MessageHost(ABC):
    """One connection to a daemon by way of which a case sends and receives messages. A context manager."""

    def __init__(self) -> None:
        self._next_id = 1000

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, *_: object) -> None:
        """Ends the connection."""

    @abstractmethod
    def another(self) -> MessageHost:
        """A second connection to the same daemon; the case closes it."""

    @abstractmethod
    def send(self, message: Message | bytes, frames: list[bytes] | None = None) -> None:
        """One message, with ``frames`` before its body."""

    @abstractmethod
    def receive_frames(self, seconds: float = SECONDS) -> tuple[list[bytes], Message]:
        """The next message: the frames before its body, and the body. Raises NotKept if none comes."""

    @abstractmethod
    def says_nothing(self, seconds: float) -> bool:
        """Whether no message comes within `seconds`."""

    def new_id(self) -> int:
        """An id that this connection has not used."""
        self._next_id += 1
        return self._next_id

    def receive(self, seconds: float = SECONDS) -> Message:
        """The next message."""
        return self.receive_frames(seconds)[1]

    def ask(self, message: Message | bytes, seconds: float = SECONDS) -> Message:
        """One request, with an id unless it has one, and the next message, which is its reply."""
        if isinstance(message, dict) and "id" not in message:
            message = {"id": self.new_id(), **message}
        self.send(message)
        return self.receive(seconds)


class RawHost(MessageHost):
    """One connection to the daemon at ``path``. A context manager; it shakes hands unless ``greets`` is False."""

    def __init__(self, path: Path, *, greets: bool = True) -> None:
        super().__init__()
        self.path = path
        self._session = _DealerSession()
        self._arrived: deque[tuple[list[bytes], bytes]] = deque()
        self.socket = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        self.socket.settimeout(SECONDS)
        self.socket.connect(str(path))
        if greets:
            self.send_raw(GREETING)
            self.wait_for_greeting()
            self.send_raw(ready())
            self.wait_until_ready()

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def another(self, *, greets: bool = True) -> RawHost:
        return RawHost(self.path, greets=greets)

    # ------------------------------------------------------------------ bytes
    def send_raw(self, data: bytes) -> None:
        """Bytes as they are."""
        self.socket.sendall(data)

    def wait_for_greeting(self) -> None:
        """Until the daemon has said that it speaks ZMTP 3. Raises NotKept."""
        if not self._take(lambda: self._session.greeted, SECONDS):
            raise NotKept("no greeting of ZMTP 3 came")

    def wait_until_ready(self) -> None:
        """Until the daemon's READY has come. Raises NotKept."""
        if not self._take(lambda: self._session.ready, SECONDS):
            raise NotKept("no READY came")

    def next_command(self) -> bytes:
        """The next command of the daemon after those that were taken: its name and its data, unparsed."""
        if not self._take(lambda: bool(self._session.commands), SECONDS):
            raise NotKept("no command came")
        return self._session.commands.pop(0)

    def is_closed_within(self, seconds: float = SECONDS) -> bool:
        """Whether the daemon ends the connection."""
        due = time.monotonic() + seconds
        while (left := due - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                if not self.socket.recv(65536):
                    return True
            except TimeoutError:
                break
            except OSError:
                return True
        return False

    def _take(self, done: Any, seconds: float) -> bool:
        due = time.monotonic() + seconds
        while not done():
            left = due - time.monotonic()
            if left <= 0:
                return False
            self.socket.settimeout(left)
            try:
                data = self.socket.recv(1024 * 1024)
            except TimeoutError:
                return False
            except OSError as error:
                raise NotKept(f"the connection ended: {error}") from None
            if not data:
                raise NotKept("the daemon closed the connection")
            self._arrived += self._session.feed(data)
        return True

    # ------------------------------------------------------------------ messages
    def send(self, message: Message | bytes, frames: list[bytes] | None = None) -> None:
        body = message if isinstance(message, bytes) else msgspec.msgpack.encode(message)
        self.send_raw(message_bytes(body, frames))

    def receive_frames(self, seconds: float = SECONDS) -> tuple[list[bytes], Message]:
        if not self._take(lambda: bool(self._arrived), seconds):
            raise NotKept(f"no answer came within {seconds:g} s")
        frames, body = self._arrived.popleft()
        return frames, msgspec.msgpack.decode(body)

    def says_nothing(self, seconds: float) -> bool:
        return not self._take(lambda: bool(self._arrived), seconds)


class _RouterSession(RouterSession):
    """As the daemon's, but PONGs are kept."""

    __slots__ = ("pongs",)

    def __init__(self) -> None:
        super().__init__(message_bytes_max=MESSAGE_BYTES_MAX, frames_max=FRAMES_MAX)
        self.pongs: list[bytes] = []

    def _take_command(self, body: bytes) -> None:
        if body[:5] == b"\x04PONG":
            self.pongs.append(body[5:])
        super()._take_command(body)


class Connection:
    """A host's connection to ``RawDaemon``."""

    def __init__(self, socket: sockets.socket) -> None:
        self.socket = socket
        self.session = _RouterSession()
        self.trouble = ""
        """What the host has done against ZMTP; "" if nothing."""

    def send_raw(self, data: bytes) -> None:
        """Bytes as they are; nothing if the host has gone."""
        with contextlib.suppress(OSError):
            self.socket.sendall(data)

    def send(self, message: Message | bytes) -> None:
        """One message."""
        self.send_raw(message_bytes(message if isinstance(message, bytes) else msgspec.msgpack.encode(message)))

    def close(self) -> None:
        """Ends it, as a daemon that dies does."""
        self.socket.close()


class Asked(NamedTuple):
    """A message of the host, the frames before it, and where the answer goes."""

    connection: Connection
    message: Message
    frames: list[bytes]

    def answer(self, **fields: Any) -> None:
        """Sends ``fields`` with the id of the request."""
        self.connection.send({"type": fields.pop("type"), "id": self.message["id"], **fields})


class RawDaemon:
    """Listens at ``path`` in a daemon's place. A context manager. It does something only while a method runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections: list[Connection] = []
        self.seen = 0
        """How many connections there have been."""
        self.has_ended: Callable[[], bool] = bool
        """Whether the host is gone for good, so that nothing is worth waiting for."""
        self._arrived: deque[Asked] = deque()
        self._listener: sockets.socket | None = None
        self.listen()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def listen(self) -> None:
        """Is there, and again after ``end``."""
        self.path.unlink(missing_ok=True)
        self._listener = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(64)

    def end(self) -> None:
        """Is gone, as a daemon that was killed: connections end, and nobody listens."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for connection in self.connections:
            connection.close()
        self.connections.clear()
        self._arrived.clear()

    def forget(self) -> None:
        """What has arrived counts no more; it listens, if it does not."""
        if self._listener is None:
            self.listen()
        self.work(lambda: False, POLL_SECONDS)
        self._arrived.clear()

    def work(self, done: Any, seconds: float) -> bool:
        """Serves the wire until ``done()``, for ``seconds`` at most; whether it was done."""
        due = time.monotonic() + seconds
        while not done():
            left = due - time.monotonic()
            if left <= 0:
                return False
            if self.has_ended():
                raise NotKept("the host has ended")
            by_socket = {one.socket: one for one in self.connections}
            listening = [] if self._listener is None else [self._listener]
            readable, _, _ = select.select([*listening, *by_socket], [], [], min(left, POLL_SECONDS))
            for found in readable:
                if found is self._listener:
                    self._accept()
                else:
                    self._read(by_socket[found])
        return True

    def next(self, kind: str = "", seconds: float = SECONDS) -> Asked:
        """The next message of the host, of the type ``kind`` if that is named; others are left out. Raises NotKept if
        none comes."""
        due = time.monotonic() + seconds
        while True:
            if not self.work(lambda: bool(self._arrived), due - time.monotonic()):
                trouble = next((one.trouble for one in self.connections if one.trouble), "")
                raise NotKept(f"no {kind or 'message'} came within {seconds:g} s {trouble}".rstrip())
            asked = self._arrived.popleft()
            if not kind or asked.message.get("type") == kind:
                return asked

    def _accept(self) -> None:
        assert self._listener is not None
        socket, _ = self._listener.accept()
        self.seen += 1
        connection = Connection(socket)
        connection.send_raw(GREETING)
        self.connections.append(connection)

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.socket.recv(1024 * 1024)
        except OSError:
            data = b""
        if not data:
            connection.close()
            self.connections.remove(connection)
            return
        session = connection.session
        try:
            found = session.feed(data)
            while session.more:
                found += session.feed(b"")
        except ZmtpError as error:
            connection.trouble = f"({error})"
            return
        if session.answers:
            connection.send_raw(bytes(session.answers))
            session.answers.clear()
        for frames, body in found:
            try:
                message = msgspec.msgpack.decode(body)
            except msgspec.DecodeError as error:
                connection.trouble = f"(a body that cannot be decoded: {error})"
                continue
            self._arrived.append(Asked(connection, message, frames))
