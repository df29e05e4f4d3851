"""A wire between clients and a PostgreSQL server that notes what a pooler in transaction mode could not carry.

PgBouncer forwards requests that are sent before the answer to an earlier one. Supabase's pooler (Supavisor) gives the
server's connection to somebody else at the first answer, and whatever was sent behind that request is lost
(porsager/postgres#970 has the symptoms). Neither keeps a prepared statement's name.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

HEAD = struct.Struct("!cI")


class WatchedWire:
    """Listens in ``folder`` and passes everything on to the server's socket, until the block ends."""

    def __init__(self, server: Path) -> None:
        self._server = server / ".s.PGSQL.5432"
        self.folder = Path(tempfile.mkdtemp(prefix="apxww"))
        """Where clients connect to."""
        self.requests = 0
        """What was sent up to where the server answers: round trips, if nothing more is sent before the answer."""
        self.transactions = 0
        """How many requests left no transaction open: there a pooler takes the server's connection away."""
        self.names: set[bytes] = set()
        """The prepared statements that have a name."""
        self.unanswered_max = 0
        """The most requests of one connection that had no answer yet."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._lock = threading.Lock()

    def __enter__(self) -> WatchedWire:
        self._listener.bind(str(self.folder / ".s.PGSQL.5432"))
        (self.folder / ".s.PGSQL.5432").chmod(0o777)
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        (self.folder / ".s.PGSQL.5432").unlink()
        self.folder.rmdir()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._server))
                unanswered = [0]

                def asked(kind: bytes, body: bytes, unanswered: list[int] = unanswered) -> None:
                    if kind in (b"S", b"Q"):
                        unanswered[0] += 1
                        self.requests += 1
                        self.unanswered_max = max(self.unanswered_max, unanswered[0])
                    elif kind == b"P" and body[:1] != b"\0":
                        self.names.add(body.partition(b"\0")[0])

                def answered(kind: bytes, body: bytes, unanswered: list[int] = unanswered) -> None:
                    if kind == b"Z" and unanswered[0]:  # the first one ends the login
                        unanswered[0] -= 1
                        self.transactions += body == b"I"

                for one, other, seen, skipped in ((client, server, asked, True), (server, client, answered, False)):
                    threading.Thread(target=self._pump, args=(one, other, seen, skipped), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket, seen: Callable[[bytes, bytes], None],
              skipped: bool) -> None:
        """Passes on what ``one`` sends. ``skipped``: its first message has no kind (a client's first words)."""
        waiting = b""
        with contextlib.suppress(OSError):
            while data := one.recv(65_536):
                waiting += data
                if skipped and len(waiting) >= 4 and len(waiting) >= (size := struct.unpack("!I", waiting[:4])[0]):
                    waiting, skipped = waiting[size:], False
                while not skipped and len(waiting) >= HEAD.size:
                    kind, size = HEAD.unpack_from(waiting)
                    if len(waiting) < 1 + size:
                        break
                    with self._lock:
                        seen(kind, waiting[HEAD.size : 1 + size])
                    waiting = waiting[1 + size :]
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
