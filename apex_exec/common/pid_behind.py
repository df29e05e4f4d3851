"""Which process listens on a Unix socket."""

from __future__ import annotations

import socket
import struct


def pid_behind(endpoint: str) -> int:
    """The pid of the process that listens on a Unix socket, as the kernel reports it; 0 if there is none.
    Blocks for a second at most."""
    if not endpoint.startswith("ipc://"):
        return 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(endpoint.removeprefix("ipc://"))
        except OSError:
            return 0
        pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)
