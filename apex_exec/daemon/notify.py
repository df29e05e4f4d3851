"""systemd's readiness protocol (sd_notify), without a dependency: one datagram a state to ``$NOTIFY_SOCKET``."""

from __future__ import annotations

import contextlib
import os
import socket
import time

READY = "READY=1"
STOPPING = "STOPPING=1"
WATCHDOG = "WATCHDOG=1"


class Notifier:
    """Says nothing if nobody listens. Never blocks, never raises."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        usec = os.environ.pop("WATCHDOG_USEC", "")
        pid = os.environ.pop("WATCHDOG_PID", "")
        wanted = usec.isdigit() and pid in ("", str(os.getpid()))
        self.watchdog_seconds = int(usec) / 1e6 if wanted else 0.0
        """How long systemd waits for a sign of life; 0 if it does not wait."""

    def say(self, *lines: str) -> None:
        """Sends one notification, as READY=1 or STATUS=…"""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(lines).encode(), self._address)

    def reloading(self) -> None:
        """A reload has begun; READY=1 ends it."""
        self.say("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
