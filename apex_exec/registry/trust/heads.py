"""Records in the databases of registry and marketplace how long the ledger is; the record outlives ``audit.*``.

There is one row for each ledger: the number and the hash of an event that was its last within the last minute. A SQLite
database beside the ledger belongs to one daemon, so its row is for that ledger, whatever key signs. A database on a
server may belong to several daemons, and the ledgers' public keys tell their rows apart.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from apex_exec.common import sqlite
from apex_exec.common.sqlite import path_of
from apex_exec.ledger.checkpoints import PUBLIC_KEY
from apex_exec.ledger.reading import open_readonly
from apex_exec.ledger.records import LedgerError

Head = tuple[int, bytes]
"""The number and the hash of the last event."""

heads = sa.Table("ledger_heads", sa.MetaData(), sa.Column("ledger", sa.String(40), primary_key=True),
                 sa.Column("seq", sa.BigInteger, nullable=False), sa.Column("hash", sa.String(64), nullable=False))


def _name(db: sa.Connection, state: Path) -> str:
    if db.dialect.name == "sqlite":
        return "ledger"
    try:
        return hashlib.sha256((state / PUBLIC_KEY).read_bytes()).hexdigest()[:32]
    except OSError:
        return "none"


def noted(db: sa.Connection, state: Path) -> Head | None:
    """The recorded head of the ledger in the folder ``state``."""
    row = db.execute(sa.select(heads.c.seq, heads.c.hash).where(heads.c.ledger == _name(db, state))).first()
    return (int(row[0]), bytes.fromhex(row[1])) if row is not None else None


def note(db: sa.Connection, state: Path, head: Head) -> None:
    """Records ``head`` in place of the previous one."""
    name = _name(db, state)
    db.execute(sa.delete(heads).where(heads.c.ledger == name))
    db.execute(sa.insert(heads).values(ledger=name, seq=head[0], hash=head[1].hex()))


def noted_at(url: str, state: Path) -> Head | None:
    """As ``noted``, for a database that may not exist yet. Changes nothing. Raises LedgerError."""
    path = path_of(url)
    if path is not None and not path.is_file():
        return None
    try:
        engine = sa.create_engine(url, **({"creator": lambda: sqlite.open_readonly(path)} if path is not None else {}))
        try:
            with engine.connect() as db:
                return noted(db, state) if sa.inspect(db).has_table("ledger_heads") else None
        finally:
            engine.dispose()
    except SQLAlchemyError as error:
        raise LedgerError(f"{str(error).splitlines()[0][:200]}") from None


def end_of(database: Path) -> Head | None:
    """The ledger's last event; None if it has no event. Raises LedgerError."""
    if not database.is_file():
        return None
    db = open_readonly(database)
    try:
        row = db.execute("SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1").fetchone()
    except Exception as error:  # noqa: BLE001 - the file may not be a ledger, or may be locked
        raise LedgerError(f"{database} cannot be read: {error}") from None
    finally:
        db.close()
    return (int(row[0]), bytes(row[1])) if row is not None else None


def differs(database: Path, place: str, head: Head) -> str:
    """Why the ledger differs from the one whose ``head`` was recorded in ``place``; "" if it continues it. Raises
    LedgerError."""
    seq, digest = head
    end = end_of(database)
    if end is None or end[0] < seq:
        return (f"{database} ends at event {end[0] if end else 0}, but {place} recorded that this ledger had reached "
                f"{seq}: it was replaced by an older copy, or lost")
    db = open_readonly(database)
    try:
        row = db.execute("SELECT hash FROM events WHERE seq = ?", (seq,)).fetchone()
        first = db.execute("SELECT min(seq) FROM events").fetchone()[0]
    finally:
        db.close()
    if row is None and seq < first or row is not None and bytes(row[0]) == digest:
        return ""  # the event is there, or retention has removed it
    return f"event {seq} of {database} differs from the one recorded in {place}: the chain was replaced"
