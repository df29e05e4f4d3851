"""The ledger process: it receives batches on the link, commits them in groups, and reports what is durable.

``messages.py`` has the messages of the link, in both directions. The process ends only at EOF, and first commits what
the link still contains.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from apex_exec.common.backoff import Backoff
from apex_exec.ledger import messages
from apex_exec.ledger.audit import EXPIRE_ROWS, AuditStore, database_path
from apex_exec.ledger.clock import WARN_NS, RetentionClock
from apex_exec.ledger.reading import utc_text
from apex_exec.ledger.records import LedgerError
from apex_exec.wire.side_link import BlockingEnd

GROUP_SECONDS = 0.007
"""How long the first record of a group waits for others. We promise 10 ms, which include the time in the loop."""
HEAD_SECONDS = 1.0
STATS_SECONDS = 1.0
EXPIRE_SECONDS = 3_600.0
EXPIRE_AGAIN_SECONDS = 1.0
RETRY_SECONDS_MIN = 0.05
RETRY_SECONDS_MAX = 2.0
PENDING_LINES_MAX = 200_000
"""Above this the link is not read; the supervisor's own bound then stops admission."""
DRAIN_SECONDS_MAX = 30.0
"""How long a ledger that cannot write keeps trying after the supervisor's end."""
WARN_FACTOR = 2
"""We warn if the free space is below this many times ``audit.min_free_bytes``."""
RECEIVE_BYTES = 1 << 20
NICE = -5
"""The priority if we may set it (root): a ledger without CPU time stops admission, so it precedes the hooks."""


class _Ledger:
    """One run of the process."""

    def __init__(self, link: Any, settings: dict[str, Any]) -> None:
        state_dir = Path(settings["state_dir"])
        self.path = database_path(settings["url"], state_dir)
        self.state_dir, self.settings = state_dir, settings
        self.link = BlockingEnd(link.fileno(), (messages.Batch,), RECEIVE_BYTES)
        self.group_seconds = 0.0 if settings["durability"] == "strict" else GROUP_SECONDS
        self.store: AuditStore | None = None
        self.lines: list[bytes | list[Any]] = []
        self.keys: dict[int, str] = {}
        self.last_index: int | None = None  # the last batch index among the pending lines
        self.failing = ""
        self.due = 0.0
        self.spent_ns = 0  # CPU time for records since the last Committed
        self.backoff = Backoff(RETRY_SECONDS_MIN, RETRY_SECONDS_MAX)
        self.head_due = self.stats_due = self.expire_due = 0.0
        self.head_seq = -1
        self.clock: RetentionClock | None = None
        self.removing = False
        self.low = False
        self.warned = ""

    # ------------------------------------------------------------------ the link
    def take(self, batch: messages.Batch) -> None:
        """Handles one batch from the supervisor."""
        if self.last_index is None and not self.failing:
            self.due = time.monotonic() + self.group_seconds
        base = len(self.lines)
        self.lines += batch.lines
        for offset, key in batch.keys:
            self.keys[base + offset] = key
        self.last_index = batch.last_index

    # ------------------------------------------------------------------ writing
    def fail(self, reason: str) -> None:
        """Records a failure, reports it if it is new, and schedules the next attempt."""
        self.due = time.monotonic() + self.backoff.take()
        if reason != self.failing:
            self.link.send(messages.Failing(reason))
        self.failing = reason

    def commit(self) -> None:
        """Opens the store if it is not open and commits the pending lines. After a failure they are kept for the next
        attempt."""
        begun_ns = time.thread_time_ns()
        try:
            opened = self.store is None
            if self.store is None:
                self.store = AuditStore(self.path, self.state_dir, self.settings["min_free_bytes"],
                                        self.settings["trail"], self.settings.get("anchor", ""))
                self.link.send(messages.Ready(self.store.last_index))
            if self.last_index is not None or self.failing or opened:  # without records this tests whether we can write
                self.store.append_lines(self.lines, self.keys, self.last_index or self.store.last_index)
        except LedgerError as error:
            self.fail(str(error))
            return
        self.lines, self.keys = [], {}
        if self.failing:
            self.failing = ""
            self.link.send(messages.Recovered())
        self.backoff.reset()
        if self.last_index is not None:
            spent_ns, self.spent_ns = self.spent_ns + time.thread_time_ns() - begun_ns, 0
            self.link.send(messages.Committed(self.last_index, spent_ns))
        self.last_index = None

    def upkeep(self, now: float) -> None:
        """Head, statistics and retention, between commits. A failure of these is reported, and tried again."""
        store = self.store
        if store is None:
            return
        try:
            store.forget_erased()
            if now >= self.head_due and self.head_seq != store.seq:
                self.head_due = now + HEAD_SECONDS
                store.write_head()
                self.head_seq = store.seq
            if now >= self.expire_due:
                self.expire_due = now + EXPIRE_SECONDS
                if store.expire(*map(utc_text, self.retention_times(store))) >= EXPIRE_ROWS // 2:
                    self.expire_due = now + EXPIRE_AGAIN_SECONDS  # more old events remain
                self.removing = True
            elif self.removing:
                self.removing = store.remove_some()
        except (OSError, LedgerError, sqlite3.Error) as error:
            self.removing = False  # a head that lags behind is legal; the next write corrects it
            self.warn(f"the ledger's upkeep failed: {error}")
        if now >= self.stats_due:
            self.stats_due = now + STATS_SECONDS
            self.stats(store)

    def retention_times(self, store: AuditStore) -> tuple[datetime, datetime]:
        """(events older than this are removed, the present time), by retention's own clock: see ``clock.py``."""
        wall_ns, monotonic_ns = time.time_ns(), time.monotonic_ns()
        if self.clock is None:
            self.clock = RetentionClock(self.state_dir, wall_ns, monotonic_ns, store.latest_ns())
        now_ns = self.clock.sample(wall_ns, monotonic_ns)
        if self.clock.ahead_ns > WARN_NS:
            self.warn(f"the clock is {self.clock.ahead_ns / 86_400e9:.1f} days ahead of the ledger's own time; "
                      "old events are removed by the ledger's. If the clock is right, retention catches up by itself")
        now = datetime.fromtimestamp(max(0, now_ns) // 10**9, UTC)
        days = min(self.settings["retention_days"], (now - datetime.min.replace(tzinfo=UTC)).days)
        return now - timedelta(days=days), now + timedelta(days=1)

    def stats(self, store: AuditStore) -> None:
        """Sends the statistics, and a warning if the disk is nearly full."""
        free, wanted = store.free_bytes(), store.min_free_bytes
        self.link.send(messages.Stats(store.size_bytes(), free, store.seq))
        low = free < WARN_FACTOR * wanted
        if low and not self.low:
            self.warn(f"{free} bytes are free beside the audit database; below {wanted} (audit.min_free_bytes) "
                      "no work is admitted")
        self.low = low

    def warn(self, text: str) -> None:
        """Sends a warning once, until a different one is sent."""
        if text != self.warned:
            self.link.send(messages.Warned(text))
        self.warned = text

    # ------------------------------------------------------------------ the loop
    def run(self) -> None:
        """Serves until the link has ended and its content is committed, or cannot be."""
        while self.turn():
            pass
        end = time.monotonic() + DRAIN_SECONDS_MAX
        while (self.last_index is not None or self.failing) and (now := time.monotonic()) < end:
            if now >= self.due:
                self.commit()
            else:
                time.sleep(min(self.due, end) - now)
        if self.store is not None:
            with contextlib.suppress(OSError):  # a head that lags behind is legal
                self.store.close()

    def turn(self) -> bool:
        """Waits for the link or the next duty and performs it. Returns False at the link's end."""
        now = time.monotonic()
        if (self.last_index is not None or self.failing or self.store is None) and now >= self.due:
            self.commit()
            now = time.monotonic()
        if self.last_index is None:
            self.upkeep(now)
        if self.last_index is not None and not self.failing:
            # A group is forming. We sleep instead of polling: every frame that arrives would wake this process.
            time.sleep(max(0.0, self.due - now))
        wait = 0.0 if self.last_index is not None and not self.failing else max(0.0, self.next_duty() - now)
        reads = [self.link] if len(self.lines) < PENDING_LINES_MAX else []
        if not select.select(reads, [], [], wait)[0]:
            return True
        begun_ns = time.thread_time_ns()
        batches = self.link.receive()
        for batch in batches or ():
            self.take(batch)
        self.spent_ns += time.thread_time_ns() - begun_ns
        return batches is not None

    def next_duty(self) -> float:
        """When the next duty is due even if nothing arrives."""
        if self.failing or self.store is None:
            return self.due
        due = min(self.stats_due, self.expire_due)
        if self.head_seq != self.store.seq:
            due = min(due, self.head_due)
        return 0.0 if self.removing else due


def main(link: Any, settings: dict[str, Any]) -> None:
    """Serves ``link`` until EOF, then commits what is left, signs the head and returns. Only EOF ends it.

    ``settings``: ``state_dir, url, durability, retention_days, min_free_bytes, trail``.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(NICE)
    _Ledger(link, settings).run()
