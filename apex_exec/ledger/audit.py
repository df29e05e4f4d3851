"""The audit store: SQLite, hash-chained, its signed head outside the database. Every call blocks."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from apex_exec.errors import ApexError
from apex_exec.ledger.records import GENESIS, AuditRecord, canonical_bytes, chain_hash

_COLUMNS = "seq, timestamp, eventType, userId, resource, action, result, metadata, dedupKey, prevHash, hash"
_SCHEMA = """CREATE TABLE IF NOT EXISTS events (seq INTEGER PRIMARY KEY, timestamp INTEGER NOT NULL,
 eventType TEXT NOT NULL, userId TEXT NOT NULL, resource TEXT NOT NULL, action TEXT NOT NULL,
 result TEXT NOT NULL,
    metadata TEXT NOT NULL, dedupKey TEXT UNIQUE, prevHash BLOB NOT NULL, hash BLOB NOT NULL)"""


class LedgerError(ApexError):
    """The ledger cannot be used or written; the message says why."""


class Finding(msgspec.Struct, frozen=True):
    """What ``verify`` found: ``kind`` edited|missing|truncated|head|checkpoint at ``seq``."""

    kind: str
    seq: int
    message: str


class Mark(msgspec.Struct):
    """A signed place in the chain. ``kind`` is signed too: a head never passes as a checkpoint."""

    kind: str
    seq: int
    hash: bytes
    signature: bytes = b""

    def signed_bytes(self) -> bytes:
        return msgspec.msgpack.encode((self.kind, self.seq, self.hash))


def load_key(state_dir: Path) -> Ed25519PrivateKey:
    """The signing key in ``<state_dir>/keys/audit``; made on first use, 0600."""
    path = state_dir / "keys" / "audit"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(Ed25519PrivateKey.generate().private_bytes_raw())
            file.flush()
            os.fsync(file.fileno())
    return Ed25519PrivateKey.from_private_bytes(path.read_bytes())


def _write_mark(path: Path, mark: Mark, key: Ed25519PrivateKey) -> None:
    mark.signature = key.sign(mark.signed_bytes())
    temporary = path.with_suffix(".new")
    with open(temporary, "wb") as file:
        file.write(msgspec.json.encode(mark))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _read_mark(path: Path, kind: str, key: Ed25519PublicKey) -> Mark | None:
    """The mark, or None where there is none. Raises LedgerError where it was not signed by us."""
    try:
        mark = msgspec.json.decode(path.read_bytes(), type=Mark)
        key.verify(mark.signature, mark.signed_bytes())
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, InvalidSignature) as error:
        raise LedgerError(f"{path} is damaged or was not signed by this ledger's key") from error
    if mark.kind != kind:
        raise LedgerError(f"{path} holds a {mark.kind}, not a {kind}")
    return mark


class AuditStore:
    """The one writer of an audit database. Refuses to open one that is behind its signed head."""

    def __init__(self, database: Path, state_dir: Path, min_free_bytes: int = 0) -> None:
        self.database, self.state_dir, self.min_free_bytes = database, state_dir, min_free_bytes
        database.parent.mkdir(parents=True, exist_ok=True)
        self.key = load_key(state_dir)
        self.db = sqlite3.connect(database, isolation_level=None, timeout=1.0)
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            self.db.execute("PRAGMA " + pragma)
        self.db.execute(_SCHEMA)
        public = self.key.public_key()
        head = _read_mark(state_dir / "audit.head", "head", public)
        check = _read_mark(state_dir / "audit.checkpoint", "checkpoint", public)
        row = self.db.execute("SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1").fetchone()
        self.seq: int
        self.hash: bytes
        self.seq, self.hash = row or ((check.seq, check.hash) if check else (0, GENESIS))
        if head is not None and self.seq < head.seq:
            self.db.close()
            raise LedgerError(
                f"{database} ends at event {self.seq}, its signed head at {head.seq}: truncated"
            )

    def append(self, batch: list[AuditRecord]) -> int:
        """Commits ``batch`` in one transaction; the number stored (duplicates left out). All or nothing."""
        free = shutil.disk_usage(self.database.parent).free
        if free < self.min_free_bytes:
            raise LedgerError(
                f"only {free} bytes free beside the audit database, {self.min_free_bytes} required"
            )
        seq, prev, rows = self.seq, self.hash, []
        keys: set[str] = set()
        try:
            self.db.execute("BEGIN IMMEDIATE")
            for r in batch:
                key = r.dedup_key or None
                if key is not None:
                    known = self.db.execute("SELECT 1 FROM events WHERE dedupKey = ?", (key,)).fetchone()
                    if key in keys or known:
                        continue
                    keys.add(key)
                seq += 1
                metadata = msgspec.json.encode(r.metadata).decode()
                fields = (
                    seq,
                    r.timestamp_ns,
                    r.event_type,
                    r.user_id,
                    r.resource,
                    r.action,
                    r.result,
                    metadata,
                    key,
                )
                digest = chain_hash(prev, canonical_bytes(*fields))
                rows.append((*fields, prev, digest))
                prev = digest
            self.db.executemany(f"INSERT INTO events ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?)", rows)
            self.db.execute("COMMIT")
        except sqlite3.Error as error:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            raise LedgerError(f"the audit database cannot be written: {error}") from error
        self.seq, self.hash = seq, prev
        return len(rows)

    def write_head(self) -> None:
        """Signs the end of the chain into ``<state_dir>/audit.head``, atomically."""
        _write_mark(self.state_dir / "audit.head", Mark("head", self.seq, self.hash), self.key)

    def close(self) -> None:
        self.write_head()
        self.db.close()


def read_events(db: sqlite3.Connection, after_seq: int = 0) -> Iterator[tuple[Any, ...]]:
    """Rows after ``after_seq`` in order, streamed."""
    yield from db.execute(f"SELECT {_COLUMNS} FROM events WHERE seq > ? ORDER BY seq", (after_seq,))


def verify(database: Path, state_dir: Path) -> Finding | None:
    """The first thing wrong with the chain, or None. Reads only; streams, so memory does not grow."""
    key = load_key(state_dir).public_key()
    try:
        check = _read_mark(state_dir / "audit.checkpoint", "checkpoint", key)
        head = _read_mark(state_dir / "audit.head", "head", key)
    except LedgerError as error:
        return Finding("head", 0, str(error))
    seq, prev = (check.seq, check.hash) if check else (0, GENESIS)
    db = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        for row in read_events(db, seq):
            if row[0] != seq + 1:
                return Finding("missing", seq + 1, f"event {seq + 1} is missing; the next is {row[0]}")
            seq = row[0]
            if row[9] != prev or row[10] != chain_hash(prev, canonical_bytes(*row[:9])):
                return Finding("edited", seq, f"event {seq} is not what was written there")
            prev = row[10]
            if head is not None and seq == head.seq and prev != head.hash:
                return Finding("head", seq, f"event {seq} differs from the signed head")
    except (sqlite3.DatabaseError, TypeError, ValueError) as error:
        return Finding("edited", seq + 1, f"event {seq + 1} cannot be read: {error}")
    finally:
        db.close()
    if head is None and seq:
        return Finding("head", seq, "the signed head is gone")
    if head is not None and seq < head.seq:
        return Finding("truncated", seq + 1, f"the chain ends at {seq}, its signed head says {head.seq}")
    return None
