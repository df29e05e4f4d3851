"""The one way to open the slow-changing stores (registry, market): SQLite or PostgreSQL, schema version, migrations.

Both databases are used through SQLAlchemy Core and run the same statements. Every transaction is serializable: SQLite
takes its write lock at BEGIN; PostgreSQL checks at COMMIT, and ``transact`` runs the loser again. Every call blocks.
"""

from __future__ import annotations

import contextlib
import os
import random
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError, DBAPIError, OperationalError, SQLAlchemyError

from apex_exec.errors import Code, Refusal

Migration = Callable[[sa.Connection], None]
T = TypeVar("T")

BUSY_SECONDS = 5.0
"""How long a SQLite writer waits for another one before it gets ``store_unusable``."""
ATTEMPTS_MAX = 20
"""How often we try a transaction that keeps losing to another PostgreSQL writer; then it fails: ``store_unusable``."""
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 0.002, 0.25
"""The longest pause after the first lost attempt (it doubles with each attempt), and its upper bound. The pause is a
random fraction of that: two writers that retry at once lose to each other again; we saw that five times in a row."""
_MIGRATION_LOCK = 0x61706578  # "apex": the advisory lock that keeps two processes from migrating PostgreSQL at once


def open_database(url: str, name: str, migrations: Sequence[Migration]) -> sa.Engine:
    """The engine of the store ``name`` at ``url``, migrated to version ``len(migrations)``.

    ``migrations[n]`` takes the schema from version n to n + 1, in one transaction with the version's own row.
    Migrations are only ever appended. Raises Refusal: store_newer (a later release wrote it; nothing is changed),
    store_unusable (locked, corrupt, not reachable).
    """
    try:
        engine = _engine(url)
        with engine.begin() as db:
            if db.dialect.name == "postgresql":
                db.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            db.execute(sa.text("CREATE TABLE IF NOT EXISTS schema_versions "
                               "(name VARCHAR(40) PRIMARY KEY, version INTEGER NOT NULL)"))
            row = db.execute(sa.text("SELECT version FROM schema_versions WHERE name = :name"), {"name": name}).first()
            version = row[0] if row is not None else 0
            if version > len(migrations):
                raise Refusal("store_newer", f"the {name} store is at version {version}; this release supports up to "
                              f"{len(migrations)}", hint="run the release that wrote it, or a later one",
                              code=Code.CONFLICT)
            for migrate in migrations[version:]:
                migrate(db)
            db.execute(sa.text("DELETE FROM schema_versions WHERE name = :name"), {"name": name})
            db.execute(sa.text("INSERT INTO schema_versions (name, version) VALUES (:name, :version)"),
                       {"name": name, "version": len(migrations)})
    except (SQLAlchemyError, OSError) as error:
        raise unusable(name, error) from error
    return engine


def transact(engine: sa.Engine, name: str, work: Callable[[sa.Connection], T]) -> T:
    """Runs ``work`` in one serializable transaction, and again after a pause if another writer won. All or nothing.

    An exception from ``work`` undoes the transaction and propagates; a failing database raises
    Refusal("store_unusable").
    """
    pause_max = PAUSE_SECONDS_MIN
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            with engine.begin() as db:
                return work(db)
        except (OperationalError, DBAPIError) as error:
            if getattr(error.orig, "sqlstate", "") in ("40001", "40P01") and attempt < ATTEMPTS_MAX:
                time.sleep(random.uniform(0, pause_max))
                pause_max = min(2 * pause_max, PAUSE_SECONDS_MAX)
                continue
            raise unusable(name, error) from error
    raise AssertionError("unreachable: the last attempt returns or raises")


def unusable(name: str, error: Exception) -> Refusal:
    """The refusal for a database that failed; it quotes the first line of the driver's message."""
    cause = getattr(error, "orig", None) or error
    line = (str(cause).splitlines() or [type(cause).__name__])[0]
    corrupt = isinstance(error, DatabaseError) and "malformed" in line or "not a database" in line
    return Refusal("store_unusable", f"the {name} store cannot be used: {line[:300]}",
                   hint="restore it from a backup" if corrupt else "check the disk, the locks and the database server")


def _make_private(path: str) -> None:
    """Makes the database file readable by its owner only, before it has any content; SQLite gives ``-wal`` and ``-shm``
    the same mode. A file that an earlier release left readable by others is corrected. Raises OSError."""
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and found.st_mode & 0o077 and found.st_uid == os.geteuid():
            os.fchmod(fd, 0o600)
            for name in (f"{path}-wal", f"{path}-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.chmod(name, 0o600)
    finally:
        os.close(fd)


def _engine(url: str) -> sa.Engine:
    if not url.startswith("sqlite"):
        return sa.create_engine(url, isolation_level="SERIALIZABLE", pool_pre_ping=True)
    if path := sa.make_url(url).database:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        _make_private(path)
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS})

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # sqlite3's own BEGIN would come too late for a write lock; ours follows
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
