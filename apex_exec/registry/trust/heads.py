"""How far the ledger is, noted in the databases of registry and marketplace: it outlives ``audit.*``.

One row a ledger: the number and the hash of its last event at some moment of the last minute. A SQLite database
beside the ledger is one daemon's, and its row is the ledger's whatever key signs; one on a server may be several
daemons', and the ledger's public key tells their rows apart.
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
"""The last event's number and hash."""

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
    """What was noted of the ledger of ``state`` (its folder)."""
    row = db.execute(sa.select(heads.c.seq, heads.c.hash).where(heads.c.ledger == _name(db, state))).first()
    return (int(row[0]), bytes.fromhex(row[1])) if row is not None else None


def note(db: sa.Connection, state: Path, head: Head) -> None:
    """Notes ``head`` in place of what was noted."""
    name = _name(db, state)
    db.execute(sa.delete(heads).where(heads.c.ledger == name))
    db.execute(sa.insert(heads).values(ledger=name, seq=head[0], hash=head[1].hex()))


def noted_at(url: str, state: Path) -> Head | None:
    """As ``noted``, of a database that may not be there yet; changes nothing. Raises LedgerError."""
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
    """The ledger's last event; None where it has none. Raises LedgerError."""
    if not database.is_file():
        return None
    db = open_readonly(database)
    try:
        row = db.execute("SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1").fetchone()
    except Exception as error:  # noqa: BLE001 - a file that is no ledger, or locked
        raise LedgerError(f"{database} cannot be read: {error}") from None
    finally:
        db.close()
    return (int(row[0]), bytes(row[1])) if row is not None else None


def differs(database: Path, place: str, head: Head) -> str:
    """Why the ledger is not the one of which ``place`` noted ``head``; "" if it goes on. Raises LedgerError."""
    seq, digest = head
    end = end_of(database)
    if end is None or end[0] < seq:
        return (f"{database} ends at event {end[0] if end else 0}, and {place} noted that this ledger has been at "
                f"{seq}: an older copy, or nothing of it, is there")
    db = open_readonly(database)
    try:
        row = db.execute("SELECT hash FROM events WHERE seq = ?", (seq,)).fetchone()
        first = db.execute("SELECT min(seq) FROM events").fetchone()[0]
    finally:
        db.close()
    if row is None and seq < first or row is not None and bytes(row[0]) == digest:
        return ""  # retention has removed it, or it is there
    return f"event {seq} of {database} differs from what {place} noted: another chain was put there"
