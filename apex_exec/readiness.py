"""How a process that starts a daemon learns that the daemon is ready: by the datagram that systemd would get."""

from __future__ import annotations

import socket
import tempfile
from contextlib import suppress
from pathlib import Path

from apex_exec.common.short_folder import short_base

POLL_SECONDS = 0.05
DATAGRAM_BYTES_MAX = 4096


class Readiness:
    """A socket for ``$NOTIFY_SOCKET`` of a daemon that is about to be started; a context manager.

    ``folder`` must be reachable by the daemon's user and its path short; None makes a temporary folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._made = tempfile.TemporaryDirectory(prefix="apx", dir=short_base()) if folder is None else None
        path = Path(self._made.name if self._made is not None else str(folder), "ready")
        path.unlink(missing_ok=True)
        self.address = str(path)
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        path.chmod(0o666)  # the daemon may be another user's
        self._ready = False

    def __enter__(self) -> Readiness:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Removes the socket; what the daemon reports from now on goes nowhere. Safe to call twice."""
        self._socket.close()
        self._path.unlink(missing_ok=True)
        if self._made is not None:
            self._made.cleanup()

    def is_ready(self, seconds: float = POLL_SECONDS) -> bool:
        """Whether the daemon has said that it is ready; waits for at most ``seconds`` for it to say so."""
        if not self._ready:
            self._socket.settimeout(seconds)
            with suppress(TimeoutError, BlockingIOError):
                self._ready = b"READY=1" in self._socket.recv(DATAGRAM_BYTES_MAX).split(b"\n")
        return self._ready
