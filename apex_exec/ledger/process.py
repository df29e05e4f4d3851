"""The ledger process: takes batches from the link, commits them in groups, answers what is durable."""

from __future__ import annotations

import os
import select
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import msgspec

from apex_exec.ledger.audit import AuditStore, LedgerError
from apex_exec.ledger.records import AuditRecord
from apex_exec.wire.frames import FrameBuffer, pack_frame

GROUP_SECONDS = 0.010
HEAD_SECONDS = 1.0
RETRY_SECONDS_MAX = 2.0
PENDING_RECORDS_MAX = (
    200_000  # above it the link is not read: the supervisor's own bound then stops admission
)
DRAIN_SECONDS_MAX = 30.0  # how long a ledger that cannot write is kept alive after its supervisor's end


class _Ledger:
    def __init__(self, link: Any, settings: dict[str, Any]) -> None:
        audit = settings["audit"]
        state_dir = Path(settings["state_dir"])
        self.path = Path(audit["url"].removeprefix("sqlite:///").replace("<state_dir>", str(state_dir)))
        self.fd: int = link.fileno()
        self.group_seconds = 0.0 if audit.get("durability") == "strict" else GROUP_SECONDS
        self.store = AuditStore(self.path, state_dir, audit.get("min_free_bytes", 0))
        self.pending: list[AuditRecord] = []
        self.last_index: int | None = None
        self.failing = False
        self.due = 0.0
        self.backoff = 0.05
        self.head_due = 0.0
        self.head_seq = -1

    def send(self, *message: Any) -> None:
        data = memoryview(pack_frame(msgspec.msgpack.encode(message)))
        try:
            while data:
                try:
                    data = data[os.write(self.fd, data) :]
                except BlockingIOError:
                    select.select([], [self.fd], [])
        except OSError:
            return  # the supervisor is gone; what matters now is the commit

    def take(self, body: bytes) -> None:
        message = msgspec.msgpack.decode(body)
        if message[0] == "batch":
            if self.last_index is None:
                self.due = max(self.due, time.monotonic() + self.group_seconds)
            self.pending += msgspec.convert(message[2], list[AuditRecord])
            self.last_index = message[1]
            if not self.failing and self.group_seconds == 0.0:
                self.commit()
        elif message[0] == "stats":
            size = sum(p.stat().st_size for p in self.path.parent.glob(self.path.name + "*"))
            self.send(
                "stats",
                {
                    "database_bytes": size,
                    "free_bytes": shutil.disk_usage(self.path.parent).free,
                    "events": self.store.seq,
                    "writable": not self.failing,
                    "head_seq": self.head_seq,
                },
            )

    def commit(self) -> None:
        """Commits what is pending; on failure keeps it and sets the next try."""
        try:
            self.store.append(self.pending)
        except LedgerError as error:
            self.due = time.monotonic() + self.backoff
            self.backoff = min(self.backoff * 2, RETRY_SECONDS_MAX)
            if not self.failing:
                self.failing = True
                self.send("failing", str(error))
            return
        self.pending = []
        if self.failing:
            self.failing = False
            self.send("recovered")
        self.backoff, self.due = 0.05, 0.0
        if self.last_index is not None:
            self.send("committed", self.last_index)
        self.last_index = None
        if time.monotonic() >= self.head_due:
            self.write_head()

    def write_head(self) -> None:
        self.head_due = time.monotonic() + HEAD_SECONDS
        try:
            self.store.write_head()
            self.head_seq = self.store.seq
        except OSError as error:  # a head behind the chain is legal; the next write mends it
            self.send("failing", f"the signed head cannot be written: {error}")
            self.failing = True
            self.due = time.monotonic() + self.backoff

    def run(self) -> None:
        frames, open_ = FrameBuffer(), True
        drain_end = 0.0
        while open_ or self.last_index is not None:
            now = time.monotonic()
            waiting = self.last_index is not None or self.failing
            if waiting and now >= self.due:
                self.commit()
                continue
            if not open_:
                if now >= drain_end:
                    break
                time.sleep(max(0.0, min(self.due, drain_end) - now))
                continue
            reads = [self.fd] if len(self.pending) < PENDING_RECORDS_MAX else []
            if select.select(reads, [], [], self.due - now if waiting else None)[0]:
                try:
                    data = os.read(self.fd, 1 << 20)
                except BlockingIOError:
                    continue
                except ConnectionResetError:
                    data = b""
                for body in frames.feed(data):
                    self.take(body)
                if not data:
                    open_, drain_end, self.due = False, time.monotonic() + DRAIN_SECONDS_MAX, 0.0
        self.store.close()


def main(link: Any, settings: dict[str, Any]) -> None:
    """Serves ``link`` until EOF, then commits what is left, signs the head and returns. Ends by EOF only."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _Ledger(link, settings).run()
