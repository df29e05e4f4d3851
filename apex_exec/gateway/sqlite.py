"""The embedded database: plugins' queries on read-only connections, writes on one connection, both in threads.

The second wall behind ``sql/``: connections for queries are opened read-only, and SQLite asks an authorizer about every
table, column and function of a statement. A progress handler stops a statement whose time is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from apex_exec.common.sqlite import open_readonly, open_theirs
from apex_exec.gateway.costs import counting, give_way
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.lock_turns import Turns
from apex_exec.gateway.outbox import Outbox, Outgoing, origins_of
from apex_exec.gateway.sql.allowed import FORMS
from apex_exec.gateway.sql.compiler import Compiled
from apex_exec.gateway.sql.owners import Claim
from apex_exec.gateway.sql.pieces import Shapes
from apex_exec.gateway.sql.sqlite_functions import VALUE_BYTES_MAX, Refusals, register
from apex_exec.gateway.sql.sqlite_values import reader
from apex_exec.gateway.sql.tables import OUTBOX, Table, unnamed
from apex_exec.gateway.sql.values import Rows, to_sqlite
from apex_exec.gateway.sql.wording import plain_names
from apex_exec.gateway.sql.writes import Write
from apex_exec.gateway.sql.written import Written

T = TypeVar("T")

READERS = 8
PROGRESS_STEPS = 10_000
"""Virtual-machine steps between two checks of the clock: about a millisecond, with little contention for the GIL."""
BUSY_SECONDS = 1.0
SCHEMA_SECONDS = 1
"""How long a change of the schema (a table that becomes a view) may go unnoticed."""
FUNCTIONS = frozenset({form.sqlite for form in FORMS.values() if form.sqlite}
                      | set("like pg_int pg_float pg_number pg_date pg_div pg_sum pg_avg pg_fit_int2 pg_fit_int4 "
                            "pg_fit_int8 pg_fit_float pg_fit_num pg_moving_sum pg_moving_avg".split()))
"""What a statement may call: the functions of the table, and those behind operators."""


def _aware(raw: bytes) -> Any:
    text = raw.decode("utf-8", "replace")
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return text
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _text(raw: bytes) -> Any:
    return raw.decode("utf-8", "replace")


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):  # no JSON, or nested deeper than a plugin could read
        return _text(raw)


CONVERTERS: dict[str, Callable[[bytes], Any]] = {
    "BOOLEAN": lambda raw: raw not in (b"0", b"f", b"false"), "BOOL": lambda raw: raw not in (b"0", b"f", b"false"),
    "NUMERIC": _text, "DECIMAL": _text, "UUID": _text, "DATE": _text, "TIME": _text, "TIMESTAMP": _text,
    "TIMESTAMPTZ": _aware, "JSON": _json, "JSONB": _json, "BYTEA": bytes,
    **{f"{name}[]": _json for name in ("TEXT", "VARCHAR", "UUID", "SMALLINT", "INT", "INTEGER", "BIGINT", "REAL",
                                       "NUMERIC", "BOOLEAN", "BOOL", "DATE", "TIMESTAMP", "TIMESTAMPTZ")},
}
"""Converters by a column's declared type: SQLite itself has five storage classes; PostgreSQL's type names mean the same
here."""


class _Connection:
    """One connection, used by one thread at a time."""

    def __init__(self, database: sqlite3.Connection, refusals: Refusals | None = None) -> None:
        self.database = database
        self.refusals = refusals or Refusals()
        self.due_ns = 0
        self.stopped = False
        database.set_progress_handler(self._late, PROGRESS_STEPS)

    def _late(self) -> int:
        return int(self.stopped or time.monotonic_ns() >= self.due_ns)


class Sqlite:
    """The platform's database in the file ``path``. It is opened on first use."""

    backend = "sqlite"

    def __init__(self, path: Path, tables: Mapping[str, Table], origin: str) -> None:
        self._path = path
        self._tables = tables
        self._origin, self._formerly = origins_of(origin)
        self._inside_views: set[tuple[int, str | None, str | None, str | None]] = set()
        """What the views among the visible tables read, in the authorizer's terms."""
        self._threads = ThreadPoolExecutor(READERS + 1, "sqlite", initializer=give_way)
        self._readers: list[_Connection] = []
        self._free = asyncio.Semaphore(READERS)
        self._writer: _Connection | None = None
        self._turns = Turns()
        self._version = 0
        self._looked_ns = 0

    # ------------------------------------------------------------------ connections
    def _open_reader(self) -> _Connection:
        _register_converters()
        database = open_readonly(self._path, busy_seconds=BUSY_SECONDS, any_thread=True, cached_statements=64,
                                 detect_types=sqlite3.PARSE_DECLTYPES)
        self._turns.shut_out = database.execute("PRAGMA journal_mode").fetchone() != ("wal",)
        self._look_into_views(database)
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)
        database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        for pragma in ("query_only = ON", "trusted_schema = OFF", "case_sensitive_like = ON"):
            database.execute(f"PRAGMA {pragma}")
        refusals = register(database)
        database.set_authorizer(self._authorize)
        return _Connection(database, refusals)

    def _look_into_views(self, database: sqlite3.Connection) -> None:
        """Records what each view that the operator shows reads: the view may read exactly that, and nothing else may.
        """
        found: set[tuple[int, str | None, str | None, str | None]] = set()

        def ask(action: int, first: str | None, second: str | None, _db: str | None, inside: str | None) -> int:
            if inside is not None and action in (sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION):
                found.add((action, first, second, inside))
                # for a table of which no column was left when SQLite flattened the view
                found.add((action, first, "", None))
            return sqlite3.SQLITE_OK

        views = [name for name, in database.execute("SELECT name FROM sqlite_master WHERE type = 'view'")]
        used = {*self._tables, *(table.owner.looked_up[0] for table in self._tables.values())}
        database.set_authorizer(ask)
        for name in views:
            if name in used:
                with contextlib.suppress(sqlite3.Error):  # a broken view is an error of the query that uses it
                    database.execute(f'EXPLAIN SELECT * FROM "{name}"')
        database.set_authorizer(None)
        self._inside_views = found

    def _open_writer(self) -> _Connection:
        _register_converters()
        database = open_theirs(self._path, busy_seconds=BUSY_SECONDS, detect_types=sqlite3.PARSE_DECLTYPES)
        database.execute(f"CREATE TABLE IF NOT EXISTS {OUTBOX} "
                         "(id TEXT PRIMARY KEY, origin TEXT NOT NULL, record TEXT NOT NULL)")
        return _Connection(database)

    def _authorize(self, action: int, first: str | None, second: str | None, _db: str | None,
                   inside: str | None) -> int:
        if (action, first, second, inside) in self._inside_views:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_SELECT:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION and second is not None and second.lower() in FUNCTIONS:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_READ and first is not None:
            table = self._tables.get(first)
            if table is not None and (not second or second in table.owner.columns or second in table.columns):
                return sqlite3.SQLITE_OK
            for other in self._tables.values():
                via, columns = other.owner.looked_up
                if first == via and (not second or second in columns):
                    return sqlite3.SQLITE_OK
            if first == "json_each" and second in ("value", ""):  # the elements of a list parameter
                return sqlite3.SQLITE_OK
            if not first.strip("_0123456789"):  # a CTE or subquery, whose name the SQL writer generated
                return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    async def _run(self, connection: _Connection, due_ns: int, work: Callable[[], T]) -> T:
        """Runs ``work`` in a thread. If cancelled, ``work`` is interrupted and waited for, so that the connection is
        free. If ``work`` finished before the interruption, its result counts: it may be a write that is committed."""
        connection.due_ns, connection.stopped = due_ns, False
        connection.refusals.begin()
        future = asyncio.get_running_loop().run_in_executor(self._threads, counting(work))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            connection.stopped = True
            connection.database.interrupt()
            while not future.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait((future,))
            if future.exception() is None:
                return future.result()
            raise
        except sqlite3.Error as error:
            if "user-defined function raised" in str(error):
                raise ApiFailure("sql_not_on_sqlite", connection.refusals.reason) from None
            words = str(error)
            failure = _failure(error, due_ns)
            raise (unnamed(failure, words, self._tables) if words.startswith("no such ") else failure) from None

    async def _opened(self, open_: Callable[[], _Connection]) -> _Connection:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, open_)
        except sqlite3.Error as error:
            raise ApiFailure("data_unavailable", f"the platform's database cannot be opened: {error}") from None

    # ------------------------------------------------------------------ the router's interface
    async def shapes(self, due_ns: int, *, anew: bool = False) -> tuple[int, Shapes]:
        """The number of the database's schema, at most SCHEMA_SECONDS old. The compiler reads the schema itself."""
        now_ns = time.monotonic_ns()
        if not self._looked_ns or now_ns - self._looked_ns > SCHEMA_SECONDS * 1e9:
            self._looked_ns = now_ns
            self._version = await asyncio.get_running_loop().run_in_executor(self._threads, self._schema_version)
        return self._version, {}

    def _schema_version(self) -> int:
        try:
            with contextlib.closing(open_readonly(self._path, busy_seconds=BUSY_SECONDS)) as database:
                return int(database.execute("PRAGMA schema_version").fetchone()[0])
        except sqlite3.Error:  # the query itself will tell why
            return self._version

    async def query(self, compiled: Compiled, values: list[Any], user_id: str, due_ns: int) -> tuple[bytes, int]:
        """The encoded rows, and their number. Raises ApiFailure."""
        async with self._free:
            reader = self._readers.pop() if self._readers else await self._opened(self._open_reader)
            try:
                async with self._turns.reading():
                    return await self._run(reader, due_ns, lambda: _read(reader.database, compiled, values))
            finally:
                self._readers.append(reader)

    async def write(self, write: Write, record: Outgoing, user_id: str, due_ns: int) -> tuple[int, bytes | None]:
        """Runs ``write`` and leaves its audit record in the outbox: both or neither. Raises ApiFailure.

        Returns the number of rows, and those that were asked for (``Written.answer``).
        """
        async with self._turns.writing(record.plugin):
            if self._writer is None:
                self._writer = await self._opened(self._open_writer)
            writer = self._writer
            return await self._run(writer, due_ns, lambda: self._write(writer.database, write, record))

    def _write(self, database: sqlite3.Connection, write: Write, record: Outgoing) -> tuple[int, bytes | None]:
        database.execute("BEGIN IMMEDIATE")
        try:
            values = [value.chosen([row[0] for row in database.execute(value.text, _named(value.values))])
                      if isinstance(value, Claim) else value for value in write.values]
            text, written = write.statement(_uniques(database, write)), Written(write)
            # while a statement is open, SQLite commits nothing, of later calls neither
            with contextlib.closing(database.execute(text, _named(values))) as cursor:
                for row in cursor if write.ending else ():
                    written.add(row)
                count, rows = written.answer(cursor.rowcount)
            record.row_count = count
            database.execute(f"INSERT INTO {OUTBOX} VALUES (?, ?, ?)", (record.id, self._origin, record.encoded()))
            database.execute("COMMIT")
        except BaseException as error:
            if database.in_transaction:
                database.execute("ROLLBACK")
            if isinstance(error, sqlite3.IntegrityError):
                raise _refused(error, write) from None
            raise
        return count, rows

    async def waiting(self, limit: int) -> list[Outgoing]:
        """The oldest records in the outbox. Raises ApiFailure."""
        async with self._turns.writing(""):
            if self._writer is None:
                if not self._path.exists():
                    return []
                self._writer = await self._opened(self._open_writer)
            database = self._writer.database
            rows = await self._run(self._writer, time.monotonic_ns() + 10_000_000_000, lambda: database.execute(
                f"SELECT id, record FROM {OUTBOX} WHERE origin IN (?, ?) ORDER BY rowid LIMIT ?",
                (self._origin, self._formerly, limit)).fetchall())
        return [Outbox.decode(*row) for row in rows]

    async def forget(self, ids: list[str]) -> None:
        """Deletes records from the outbox, because the ledger has them. Raises ApiFailure."""
        async with self._turns.writing(""):
            if self._writer is not None:
                database = self._writer.database
                await self._run(self._writer, time.monotonic_ns() + 10_000_000_000, lambda: database.executemany(
                    f"DELETE FROM {OUTBOX} WHERE id = ?", [(one,) for one in ids]))

    async def close(self) -> None:
        """Closes every connection."""
        for connection in (*self._readers, *([self._writer] if self._writer else [])):
            connection.database.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _register_converters() -> None:
    for name, convert in CONVERTERS.items():
        sqlite3.register_converter(name, convert)


def _uniques(database: sqlite3.Connection, write: Write) -> list[list[str]]:
    """The columns of each unique key of the table, if ``write`` may meet one. Keys of some rows or of expressions do
    not count."""
    if not write.key:
        return []
    found = [[name for name, in database.execute("SELECT name FROM pragma_table_info(?) WHERE pk > 0", (write.table,))]]
    for index, in database.execute('SELECT name FROM pragma_index_list(?) WHERE "unique" AND NOT partial',
                                   (write.table,)).fetchall():
        names = [name for name, in database.execute("SELECT name FROM pragma_index_info(?)", (index,))]
        if None not in names:
            found.append(names)
    return found


def _named(values: list[Any]) -> dict[str, Any]:
    return {str(number): to_sqlite(value) for number, value in enumerate(values, 1)}


def _read(database: sqlite3.Connection, compiled: Compiled, values: list[Any]) -> tuple[bytes, int]:
    cursor = database.execute(compiled.text, _named(values))
    try:
        rows = Rows([plain_names(column[0]) for column in cursor.description])
        kinds = compiled.kinds or ["bool" if index in compiled.truths else "" for index in range(
            max(compiled.truths, default=-1) + 1)]
        readers = [(index, read) for index, kind in enumerate(kinds) if (read := reader(kind)) is not None]
        for row in cursor:
            if readers:
                row = list(row)
                for index, read in readers:
                    if row[index] is not None:
                        row[index] = read(row[index])
            rows.add(row)
    finally:
        cursor.close()
    return rows.encoded(), len(rows)


_KINDS = {sqlite3.SQLITE_CONSTRAINT_NOTNULL: "need", sqlite3.SQLITE_CONSTRAINT_UNIQUE: "unique",
          sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: "unique", sqlite3.SQLITE_CONSTRAINT_ROWID: "unique",
          sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY: "link", sqlite3.SQLITE_CONSTRAINT_TRIGGER: "own"}


def _refused(error: sqlite3.IntegrityError, write: Write) -> ApiFailure:
    """SQLite's "NOT NULL constraint failed: table.column, table.column", in our words."""
    columns = [name.strip().rpartition(".") for name in str(error).partition(": ")[2].split(",")]
    ours = [column for table, _, column in columns if table == write.table]
    return write.refused(_KINDS.get(error.sqlite_errorcode, "check"), ours if len(ours) == len(columns) else (),
                         str(error))


def _failure(error: sqlite3.Error, due_ns: int) -> ApiFailure:
    text = plain_names(str(error))
    if "interrupted" in text or time.monotonic_ns() >= due_ns:
        return ApiFailure("deadline_exceeded", "the invocation's time ended in the database")
    if "no such column" in text:
        return ApiFailure("column_not_allowed", text)
    if "not authorized" in text or "prohibited" in text:
        return ApiFailure("sql_forbidden", text)
    if "locked" in text or "busy" in text or "disk" in text or "readonly" in text:
        return ApiFailure("data_unavailable", text)
    return ApiFailure("sql_error", text)
