"""The one way to open the daemon's own stores (registry, market, storage): SQLite or PostgreSQL, schema, migrations.

Both databases are used through SQLAlchemy Core and run the same statements. Every transaction is serializable: SQLite
takes its write lock at BEGIN; PostgreSQL checks at COMMIT, and ``transact`` runs the loser again. Every call blocks.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError, DBAPIError, InvalidRequestError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from apex_exec.common.backoff import Backoff
from apex_exec.common.sqlite import open_ours, path_of
from apex_exec.errors import Code, Refusal
from apex_exec.registry import patience

T = TypeVar("T")

BUSY_SECONDS = 5.0
"""How long a SQLite writer waits for another one before it gets ``store_unusable``."""
ATTEMPTS_MAX = 20
"""How often we try a transaction that keeps losing to another PostgreSQL writer; then it fails: ``store_unusable``."""
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 0.002, 0.25
"""The longest pause after the first lost attempt (it doubles with each attempt), and its upper bound. The pause is a
random fraction of that: two writers that retry at once lose to each other again; we saw that five times in a row."""
_MIGRATING = threading.Lock()
"""The whole process has only one of Alembic's ``op``, which revisions use."""
CONNECT: Mapping[str, Any] = MappingProxyType({
    "connect_timeout": 3, "keepalives_idle": 2, "keepalives_interval": 1, "keepalives_count": 3,
    "tcp_user_timeout": 5_000, "application_name": "apex-exec"})
"""For PostgreSQL: a client of a server that is gone notices it within five seconds, whatever the kernel's own
patience is. An operation that begins on a connection that is dead needs that and a new connection: eight seconds."""
STATEMENT_MS, IDLE_MS = 10_000, 60_000
"""A statement on PostgreSQL, its wait for locks included, ends after this time; and so does a transaction in which its
client asks for nothing: a daemon that hangs holds no lock for ever."""
_LIMITS = f"SET LOCAL statement_timeout = {STATEMENT_MS}; SET LOCAL idle_in_transaction_session_timeout = {IDLE_MS}"
"""In each transaction, since a pooler in transaction mode takes no settings at the connection's start."""
_MIGRATION_LOCK = 0x61706578  # "apex": the advisory lock for the first process that migrates PostgreSQL


class Schema(NamedTuple):
    """What creates the tables of a store, and which releases may read them.

    ``revisions`` is a folder of Alembic revisions, numbered from "0001". Each is written out in full and not changed
    after its release: the content of an old store must not depend on what the code's tables look like today.
    ``revision`` is the newest of them. ``version`` is the smallest number that a reader must know, and stands in the
    store's row of ``schema_versions``: a release that knows only smaller numbers refuses the store. A revision with
    which older releases still work leaves it unchanged, so that during a rolling upgrade the release before goes on
    and may even be started again.
    """

    name: str
    revisions: Path
    revision: str
    version: int


def open_database(url: str, schema: Schema, connect: Mapping[str, Any] = MappingProxyType({})) -> sa.Engine:
    """The engine of the store at ``url``, migrated to the newest revision in one transaction: all of it, or nothing.

    ``connect`` are psycopg's parameters for each connection. Raises Refusal: store_newer (a later release has written
    it in a way that this one cannot read; nothing is touched), store_unusable (locked, corrupt, not reachable).
    """
    try:
        engine = _engine(url, connect)
        with engine.connect() as db:
            server = db.dialect.name == "postgresql"
            if server:  # a serializable transaction would not see what was committed while it waited for the lock
                db.execution_options(isolation_level="READ COMMITTED")
            with db.begin():
                if server:
                    db.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
                _bring_up(db, schema)
    except (SQLAlchemyError, OSError) as error:
        raise unusable(schema.name, error) from error
    return engine


def open_existing(url: str) -> sa.Engine:
    """The engine of a store that is only read: nothing is made or changed, and its revision is not looked at."""
    return _engine(url, {})


def _bring_up(db: sa.Connection, schema: Schema) -> None:
    """Runs the missing revisions. Changes nothing in a store that has all of them, or later ones as well."""
    if not sa.inspect(db).has_table("schema_versions"):  # a server that is read-only serves what it has
        db.execute(sa.text("CREATE TABLE IF NOT EXISTS schema_versions "
                           "(name VARCHAR(40) PRIMARY KEY, version INTEGER NOT NULL)"))
    name = {"name": schema.name}
    version = db.execute(sa.text("SELECT version FROM schema_versions WHERE name = :name"), name).scalar() or 0
    if version > schema.version:
        raise Refusal("store_newer", f"the {schema.name} store is at version {version}; this release knows up to "
                      f"{schema.version}", hint="run the release that wrote it, or a later one", code=Code.CONFLICT)
    table = f"{schema.name}_revision"
    found = ""
    if sa.inspect(db).has_table(table):
        found = db.execute(sa.text(f"SELECT version_num FROM {table}")).scalar() or ""
    if found >= schema.revision:
        return
    if db.dialect.name == "postgresql":  # a revision may take its time
        db.exec_driver_sql("SET LOCAL statement_timeout = 0")
        db.execution_options(patient=True)
    _migrate(db, schema, table, "" if found or not version else f"{version:04}")
    db.execute(sa.text("DELETE FROM schema_versions WHERE name = :name"), name)
    db.execute(sa.text("INSERT INTO schema_versions (name, version) VALUES (:name, :version)"),
               {**name, "version": schema.version})


def _migrate(db: sa.Connection, schema: Schema, table: str, before: str) -> None:
    """Runs the missing revisions in the transaction of ``db``. ``before`` is the revision of a store that a release
    made which counted revisions and knew no Alembic; "" for every other.

    Alembic is imported here, since a store that is as it should be needs none of it.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it has ten lines to say while it is imported
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    folder = str(schema.revisions)
    script = ScriptDirectory(folder, version_locations=[folder])
    context = MigrationContext.configure(db, opts={
        "version_table": table, "script": script,
        "fn": lambda revision, _context: script._upgrade_revs(schema.revision, revision)})
    if before:
        context.stamp(script, before)
    with _MIGRATING, Operations.context(context):
        context.run_migrations()


def transact(engine: sa.Engine, name: str, work: Callable[[sa.Connection], T], *, reads: bool = False) -> T:
    """Runs ``work`` in one serializable transaction, and again after a pause if another writer won. All or nothing.

    ``reads``: ``work`` only reads, so on SQLite it neither waits for a writer nor keeps one waiting.

    An exception from ``work`` undoes the transaction and propagates; a failing database raises
    Refusal("store_unusable").
    """
    pauses = Backoff(PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX)
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            with engine.execution_options(reads=reads).begin() as db:
                return work(db)
        except (DBAPIError, InvalidRequestError, PoolTimeout) as error:  # the last two: no connection could be had
            if getattr(getattr(error, "orig", None), "sqlstate", "") in ("40001", "40P01") and attempt < ATTEMPTS_MAX:
                time.sleep(random.uniform(0, pauses.take()))
                continue
            raise unusable(name, error) from error
    raise AssertionError("unreachable: the last attempt returns or raises")


def forget_old_pages(engine: sa.Engine) -> None:
    """Empties the write-ahead log of a SQLite store: what was deleted is then nowhere in its files, since deleted
    content is overwritten. If somebody reads meanwhile, the log keeps its old pages until it is next reused."""
    if engine.dialect.name == "sqlite":
        connection = engine.raw_connection()
        try:
            connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            connection.close()


def unusable(name: str, error: Exception) -> Refusal:
    """The refusal for a database that failed; it quotes the first line of the driver's message."""
    cause = getattr(error, "orig", None) or error
    line = (str(cause).splitlines() or [type(cause).__name__])[0]
    corrupt = isinstance(error, DatabaseError) and "malformed" in line or "not a database" in line
    hint = "restore it from a backup" if corrupt else _HINTS.get(
        getattr(cause, "sqlstate", None) or "", "check the disk, the locks and the database server")
    return Refusal("store_unusable", f"the {name} store cannot be used: {line[:300]}", hint=hint)


_READ_ONLY = "the database server is read-only: it is a standby, or was made so; name the primary in the URL"
_HINTS = {
    "0A000": _READ_ONLY,  # a standby takes no serializable transaction, and ours ask for nothing else that is not there
    "25006": _READ_ONLY,
    "53100": "the disk of the database server is full: free some space there and try again",
    "53300": "the database server accepts no more connections: raise its max_connections, or use a pooler",
    "57014": f"the database server was too slow: a statement took over {STATEMENT_MS // 1000} s; look at its load",
}
"""What to do, by the server's own codes."""


def is_server(engine: sa.Engine) -> bool:
    """Whether the store is on a server, so that other daemons may use it too."""
    return engine.dialect.name == "postgresql"


def tell_others(db: sa.Connection, channel: str, payload: str) -> None:
    """Wakes the daemons that listen on ``channel`` when the open transaction is committed; only on a server.

    The rows decide, and this only says that somebody should look at them: nothing depends on its arrival.
    """
    if db.dialect.name == "postgresql":
        db.execute(sa.select(sa.func.pg_notify(channel, payload if len(payload) < PAYLOAD_CHARS_MAX else "")))


PAYLOAD_CHARS_MAX = 7_000
"""PostgreSQL refuses a payload of 8,000 bytes. An empty one means: look at everything."""


def _engine(url: str, connect: Mapping[str, Any]) -> sa.Engine:
    path = path_of(url)
    if path is None:
        # No prepared statements: behind a pooler, a statement's name may be unknown, or belong to another text.
        server = sa.create_engine(url, isolation_level="SERIALIZABLE",
                                  connect_args={"prepare_threshold": None, **CONNECT, **connect})

        patience.bound(server)

        @sa.event.listens_for(server, "begin")
        def limited(connection: sa.Connection) -> None:
            connection.exec_driver_sql(_LIMITS)

        return server
    engine = sa.create_engine(url, creator=lambda: open_ours(path, busy_seconds=BUSY_SECONDS, any_thread=True,
                                                             pragmas=("secure_delete = ON",)))

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get("reads") else "BEGIN IMMEDIATE")

    return engine
