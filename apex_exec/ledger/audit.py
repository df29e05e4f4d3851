"""The audit store: a hash-chained SQLite database whose signed head is kept outside it. Every call blocks.

There is one writer, the ledger process. It holds a lock file, because a killed daemon's ledger may still be draining
while the next daemon starts. Readers open the database read-only (``reading.py``, ``verify.py``).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from apex_exec.common.sqlite import open_ours, path_of
from apex_exec.ledger import people
from apex_exec.ledger.checkpoints import (
    ANCHOR,
    CHECKPOINT,
    HEAD,
    SignedHead,
    Tail,
    load_key,
    read_signed,
    read_tail,
    write_anchors,
    write_signed,
    write_tail,
)
from apex_exec.ledger.clock_turns import SLACK_NS, TABLE
from apex_exec.ledger.records import (
    GENESIS,
    AuditRecord,
    BodyMaker,
    LedgerError,
    chain_hash,
    encode_line,
    nanoseconds_of,
    time_of,
    time_of_line,
)

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS events (seq INTEGER PRIMARY KEY, body TEXT NOT NULL, hash BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS keys (key TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS removed (seq INTEGER PRIMARY KEY, hash BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS tail (one INTEGER PRIMARY KEY, body BLOB NOT NULL)",
    TABLE,
    people.TABLE,
)
NEVER_NS = 1 << 100
"""Later than any clock, so that the next event counts as a turn."""
ROW = "(?, CAST(? AS TEXT), ?)"
INSERT_ROWS = 16
"""How many rows one statement inserts: a row costs 1.3 µs instead of 1.6 µs alone, and more rows gain nothing."""
CHECKPOINT_PAGES = 250
"""The size of the write-ahead log, in pages, at which a commit moves it into the database. With SQLite's own 1,000, a
commit at 30,000 calls/s took over 20 ms 28 times in eight rounds of 40,000, and seven times a record was late for it
(``LATE_NS``). With 250 no record was late at the same rate."""
EXPIRE_ROWS = 20_000
"""How many events are checked for their age at once, which takes some thirty milliseconds."""
REMOVE_ROWS = 2_000
"""How many old events one transaction removes: few enough that a commit waiting behind it stays under 50 ms."""
LOCKED_SECONDS = 0.2
"""How long a statement waits for somebody else's lock before the commit is reported as failing and tried again."""


def database_path(url: str, state_dir: Path) -> Path:
    """The file that ``audit.url`` names. Raises LedgerError: the ledger is always SQLite."""
    path = path_of(url.replace("<state_dir>", str(state_dir)))
    if path is None:
        raise LedgerError(f"audit.url: {url} is not supported; the ledger needs sqlite:///path")
    return path


class AuditStore:
    """The only writer of an audit database. It refuses a database whose end is not what it signed: it would sign it
    anew.

    ``trail`` names the run of the supervisor that numbers the batches. ``last_index`` is the last batch index of that
    run that is committed, so that batches which are sent again to a restarted ledger are stored once. ``anchor`` is a
    file on another volume that records how long the ledger is, in addition to the one in ``state_dir``. Raises
    LedgerError.
    """

    def __init__(self, database: Path, state_dir: Path, min_free_bytes: int = 0, trail: str = "",
                 anchor: str = "") -> None:
        self.database, self.state_dir, self.min_free_bytes, self.trail = database, state_dir, min_free_bytes, trail
        self.anchors = [state_dir / ANCHOR, *([Path(anchor)] if anchor else [])]
        self._maker = BodyMaker()
        self._latest_ns = NEVER_NS  # the latest time since the last turn; the first event of a run is a turn
        self._lock = -1
        self.db: sqlite3.Connection | None = None
        self._people: people.People | None = None
        try:
            self._open()
        except (OSError, sqlite3.Error) as error:
            self.release()
            raise LedgerError(f"the audit database {database} cannot be opened: {error}") from error
        except LedgerError:
            self.release()
            raise

    def _open(self) -> None:
        self.database.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(f"{self.database}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LedgerError(f"{self.database} is in use by another ledger process; stop that daemon, or set "
                              "audit.url to another file") from None
        self.key = load_key(self.state_dir)
        db = self.db = open_ours(self.database, busy_seconds=LOCKED_SECONDS,
                                 pragmas=(f"wal_autocheckpoint = {CHECKPOINT_PAGES}",))
        for statement in SCHEMA:
            db.execute(statement)
        public = self.key.public_key()
        head = read_signed(self.state_dir / HEAD, "head", public)
        check = read_signed(self.state_dir / CHECKPOINT, "checkpoint", public)
        tail = read_tail(db, public)
        row = db.execute("SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1").fetchone()
        self.seq: int
        self.hash: bytes
        self.seq, self.hash = row or ((check.seq, check.hash) if check else (0, GENESIS))
        self._check_end(head, tail, row is not None)
        self._check_anchors()
        self.first = check.seq + 1 if check else 1
        self.last_index: int = tail.last_index if tail and tail.trail == self.trail else 0
        self._people = self._opened_people()
        if head is None:
            self.write_head()  # from now on a missing head is noticed

    def _opened_people(self) -> people.People:
        """The keys of the pseudonyms. Raises LedgerError if those that this ledger needs are not there."""
        assert self.db is not None
        path = people.people_path(self.database)
        wanted = self.db.execute("SELECT id FROM people").fetchone()
        if wanted is not None and not path.exists():
            raise LedgerError(f"the keys of the ledger's pseudonyms, {path}, are missing. Restore them from a backup; "
                              "or move audit.* and the anchor elsewhere as evidence, and a new chain begins")
        opened = people.People(path)
        if wanted is None:
            self.db.execute("INSERT INTO people VALUES (1, ?)", (opened.id,))
        elif wanted[0] != opened.id:
            opened.close()
            raise LedgerError(f"{path} holds the keys of another ledger's pseudonyms; restore the file of this ledger "
                              "from a backup")
        return opened

    def forget_erased(self) -> None:
        """Drops the pseudonyms of people who were erased from memory. Raises sqlite3.Error."""
        if self._people is not None:
            self._people.forget_erased()

    def _check_anchors(self) -> None:
        """Raises LedgerError if the ledger has been longer than its database is now: an older copy was put back."""
        assert self.db is not None
        for path in self.anchors:
            signed = read_signed(path, "anchor", self.key.public_key())
            if signed is None:
                continue
            if self.seq < signed.seq:
                raise LedgerError(
                    f"{self.database} ends at event {self.seq}, but {path} says that this ledger had reached "
                    f"{signed.seq}: it was replaced by an older copy, or lost. Restore the newest copy; or move "
                    "audit.* and the anchor elsewhere as evidence, and a new chain begins")
            if self._differs(signed):
                raise LedgerError(
                    f"event {signed.seq} of {self.database} differs from {path}: the chain was replaced")

    def _differs(self, signed: SignedHead | Tail) -> bool:
        """Whether the database has the event that was signed as ``signed``, but with another hash."""
        assert self.db is not None
        row = self.db.execute("SELECT hash FROM events WHERE seq = ?", (signed.seq,)).fetchone()
        return row is not None and bytes(row[0]) != signed.hash

    def _check_end(self, head: SignedHead | None, tail: Tail | None, has_events: bool) -> None:
        """Raises LedgerError if the chain does not end as head and tail say: opening it would sign what it contains."""
        assert self.db is not None
        if head is None:
            if has_events or tail is not None:
                raise LedgerError(f"{self.database} holds a chain, but its signed head {self.state_dir / HEAD} is gone")
            return
        for name, signed in (("signed head", head), ("signed tail", tail)):
            if signed is None:
                continue
            if self.seq < signed.seq:
                raise LedgerError(f"{self.database} ends at event {self.seq}, but its {name} at {signed.seq}: "
                                  "it was truncated")
            if self._differs(signed):
                raise LedgerError(f"event {signed.seq} of {self.database} differs from its {name}: it was rewritten")
        if has_events and self.seq > max(head.seq, tail.seq if tail else 0):
            raise LedgerError(f"{self.database} continues to event {self.seq}, beyond what its ledger signed: "
                              "events were added")

    def append(self, batch: Sequence[AuditRecord]) -> int:
        """Commits ``batch`` in one transaction, all or nothing. Returns the number of events stored (without
        duplicates)."""
        keys = {offset: record.dedup_key for offset, record in enumerate(batch) if record.dedup_key}
        return self.append_lines([encode_line(record) for record in batch], keys, self.last_index)

    def append_lines(self, lines: list[Any], keys: Mapping[int, str], last_index: int) -> int:
        """As ``append``, for lines from ``encode_line`` and lists of executions' fields. ``keys`` maps offsets to dedup
        keys.

        Users' ids become pseudonyms in ``lines`` themselves (``people.py``). Commits ``last_index`` with them. Raises
        LedgerError if it cannot; then no event has changed.
        """
        assert self.db is not None and self._people is not None
        self._check_space()
        self._people.veil(lines)
        seq, prev, latest_ns = self.seq, self.hash, self._latest_ns
        turns: list[tuple[int]] = []
        values: list[Any] = []  # of the rows, one after the other
        body_of, execution_of = self._maker.body, self._maker.execution
        new_keys: dict[str, int] = {}
        try:
            self.db.execute("BEGIN IMMEDIATE")
            for offset, line in enumerate(lines):
                if keys and (key := keys.get(offset)) is not None:
                    if key in new_keys or self._has(key):
                        continue
                    new_keys[key] = seq + 1
                seq += 1
                body = body_of(seq, line) if type(line) is bytes else execution_of(seq, line)
                prev = chain_hash(prev, body)
                values += seq, body, prev
                at_ns = time_of_line(line)
                if at_ns < latest_ns - SLACK_NS:
                    turns.append((seq,))
                    latest_ns = at_ns
                elif at_ns > latest_ns:
                    latest_ns = at_ns
            for start in range(0, len(values), 3 * INSERT_ROWS):
                part = values[start : start + 3 * INSERT_ROWS]
                self.db.execute("INSERT INTO events VALUES" + ",".join([ROW] * (len(part) // 3)), part)
            if turns:
                self.db.executemany("INSERT OR IGNORE INTO turns VALUES (?)", turns)
            if new_keys:
                self.db.executemany("INSERT OR REPLACE INTO keys VALUES (?, ?)", new_keys.items())
            if values or last_index != self.last_index:
                write_tail(self.db, Tail(seq, prev, self.trail, last_index), self.key)
            self.db.execute("COMMIT")
        except (sqlite3.Error, LedgerError) as error:
            self._rollback()
            raise LedgerError(f"the audit database cannot be written: {error}") from error
        stored, self.seq, self.hash, self.last_index = seq - self.seq, seq, prev, last_index
        self._latest_ns = latest_ns
        return stored

    def _has(self, key: str) -> bool:
        """Whether an event with this dedup key is in the chain. The event itself must contain it; the index is not
        enough."""
        assert self.db is not None
        return self.db.execute(
            "SELECT 1 FROM keys JOIN events USING (seq) WHERE key = ? AND instr(CAST(body AS BLOB), ?)",
            (key, b'"dedupKey":' + msgspec.json.encode(key))).fetchone() is not None

    def _check_space(self) -> None:
        free = self.free_bytes()
        if free < self.min_free_bytes:
            raise LedgerError(f"only {free} bytes are free beside the audit database, "
                              f"but audit.min_free_bytes requires {self.min_free_bytes}")

    def _rollback(self) -> None:
        assert self.db is not None
        if self.db.in_transaction:
            try:
                self.db.execute("ROLLBACK")
            except sqlite3.Error:
                return  # SQLite has rolled back by itself (disk full, I/O error)

    def free_bytes(self) -> int:
        """The free bytes on the database's file system; 0 if that is unknown because it is gone."""
        try:
            return shutil.disk_usage(self.database.parent).free
        except OSError:
            return 0

    def size_bytes(self) -> int:
        """The bytes of the database and its write-ahead log."""
        total = 0
        for suffix in ("", "-wal", "-shm"):
            try:
                total += os.stat(f"{self.database}{suffix}").st_size
            except OSError:
                continue
        return total

    def write_head(self) -> None:
        """Signs the end of the chain into ``<state_dir>/audit.head``, atomically, and then into the anchors: an anchor
        never names an event that the head does not. Raises OSError."""
        write_signed(self.state_dir / HEAD, SignedHead("head", self.seq, self.hash), self.key)
        write_anchors(self.anchors, self.seq, self.hash, self.key)

    # ------------------------------------------------------------------ retention
    def expire(self, before: str, now: str = "9999") -> int:
        """Signs a checkpoint before the first event that is not older than ``before``, if that moves the checkpoint.

        Clocks are sometimes wrong, so a time after ``now`` proves nothing: such an event is removed together with the
        old ones around it, and a single old time among new ones removes no others. Checks at most EXPIRE_ROWS events at
        once.

        ``before`` is UTC text as stored. ``remove_some`` removes the events up to the checkpoint, and the removal
        itself becomes an event of the chain. Returns the number of those events. Raises LedgerError, OSError.
        """
        assert self.db is not None
        keep = self.first
        for seq, body in self.db.execute("SELECT seq, body FROM events WHERE seq >= ? AND seq < ? ORDER BY seq LIMIT ?",
                                         # the last event stays, because the chain continues from it
                                         (self.first, self.seq, EXPIRE_ROWS)):
            timestamp = time_of(body)
            if timestamp < before:
                keep = seq + 1
            elif timestamp <= now:
                break
        row = self.db.execute("SELECT seq, hash FROM events WHERE seq = ?", (keep - 1,)).fetchone()
        if row is None or row[0] < self.first:
            return 0
        self._check_space()
        expired = int(row[0]) - self.first + 1
        write_signed(self.state_dir / CHECKPOINT, SignedHead("checkpoint", row[0], row[1]), self.key)
        self.first = row[0] + 1
        # the prevHash of the next event, for exports
        self.db.execute("INSERT OR REPLACE INTO removed VALUES (?, ?)", row)
        self.append([AuditRecord(time.time_ns(), "admin.action", "system", "audit", "audit.retention", "success",
                                 {"throughSeq": row[0], "hash": row[1].hex(), "events": expired})])
        return expired

    def latest_ns(self) -> int | None:
        """The time of the last event; None if there is none. Raises LedgerError."""
        assert self.db is not None
        try:
            row = self.db.execute("SELECT body FROM events ORDER BY seq DESC LIMIT 1").fetchone()
        except sqlite3.Error as error:
            raise LedgerError(f"the last event cannot be read: {error}") from error
        return None if row is None else nanoseconds_of(time_of(row[0]))

    def remove_some(self) -> bool:
        """Removes up to REMOVE_ROWS events before the checkpoint. Returns True while more remain. Raises LedgerError.
        """
        assert self.db is not None
        try:
            done = self.db.execute("DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE seq < ? "
                                   "ORDER BY seq LIMIT ?)", (self.first, REMOVE_ROWS)).rowcount
            if done < REMOVE_ROWS:
                self.db.execute("DELETE FROM keys WHERE seq < ?", (self.first,))
                self.db.execute("DELETE FROM turns WHERE seq < (SELECT max(seq) FROM turns WHERE seq <= ?)",
                                (self.first,))  # what remains of the oldest stretch begins at the last turn before it
        except sqlite3.Error as error:
            self._rollback()
            raise LedgerError(f"old events cannot be removed: {error}") from error
        return done == REMOVE_ROWS

    # ------------------------------------------------------------------ end
    def close(self) -> None:
        """Signs the head and releases the database. Raises OSError if the head cannot be written."""
        try:
            self.write_head()
        finally:
            self.release()

    def release(self) -> None:
        """Releases the databases and the lock."""
        if self._people is not None:
            self._people.close()
            self._people = None
        if self.db is not None:
            self.db.close()
            self.db = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
