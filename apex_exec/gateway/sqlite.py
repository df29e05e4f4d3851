"""The embedded database: plugins' queries on read-only connections, in threads or, if they are short, at once.

The second wall behind ``sql/``: connections for queries are opened read-only, and SQLite asks an authorizer about every
table, column and function of a statement. A progress handler stops a statement whose time is over. Writes are in
``sqlite_writer``.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from apex_exec.common.sqlite import open_readonly
from apex_exec.gateway.costs import counted, counting, give_way
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.lock_turns import Turns
from apex_exec.gateway.outbox import Outgoing
from apex_exec.gateway.sql.allowed import FORMS
from apex_exec.gateway.sql.compiler import Compiled
from apex_exec.gateway.sql.pieces import Shapes
from apex_exec.gateway.sql.sqlite_functions import VALUE_BYTES_MAX, Refusals, register
from apex_exec.gateway.sql.sqlite_values import reader
from apex_exec.gateway.sql.tables import Table
from apex_exec.gateway.sql.values import Rows
from apex_exec.gateway.sql.wording import plain_names
from apex_exec.gateway.sql.writes import Write
from apex_exec.gateway.sqlite_driver import BUSY_SECONDS, PROGRESS_STEPS, failure_of, named, register_converters
from apex_exec.gateway.sqlite_writer import SqliteWriter
from apex_exec.gateway.threads import finished

T = TypeVar("T")

READERS = 8
AT_ONCE_NS = 1_000_000
"""How long a query may run in the event loop, where everybody waits for it. Most take a fiftieth of that, and two
changes of threads. One that takes longer is stopped, and begins anew in a thread."""
AT_ONCE_STEPS = 1000
"""Virtual-machine steps between two checks of the clock there: about a tenth of a millisecond."""
SLOW_NS = 1_000_000_000
"""How long a statement that was stopped there is not tried there again."""
SCHEMA_SECONDS = 1
"""How long a change of the schema (a table that becomes a view) may go unnoticed."""
FUNCTIONS = frozenset({form.sqlite for form in FORMS.values() if form.sqlite}
                      | set("like pg_int pg_float pg_number pg_date pg_div pg_sum pg_avg pg_fit_int2 pg_fit_int4 "
                            "pg_fit_int8 pg_fit_float pg_fit_num pg_moving_sum pg_moving_avg".split()))
"""What a statement may call: the functions of the table, and those behind operators."""


class _Connection:
    """One connection, used by one thread at a time. ``steps``: how often a statement's clock is checked."""

    def __init__(self, database: sqlite3.Connection, refusals: Refusals, steps: int) -> None:
        self.database = database
        self.refusals = refusals
        self.due_ns = 0
        self.stopped = False
        database.set_progress_handler(self.is_late, steps)

    def is_late(self) -> bool:
        """Whether the time of its statement is over."""
        return self.stopped or time.monotonic_ns() >= self.due_ns

    def stop(self) -> None:
        """Ends its statement soon."""
        self.stopped = True
        self.database.interrupt()


class Sqlite:
    """The platform's database in the file ``path``. It is opened on first use."""

    backend = "sqlite"

    def __init__(self, path: Path, tables: Mapping[str, Table], origin: str, *, log_ahead: bool = False) -> None:
        self._path = path
        self._tables = tables
        self._inside_views: set[tuple[int, str | None, str | None, str | None]] = set()
        """What the views among the visible tables read, in the authorizer's terms."""
        self._threads = ThreadPoolExecutor(READERS + 1, "sqlite", initializer=give_way)
        self._readers: list[_Connection] = []
        self._free = asyncio.Semaphore(READERS)
        self._here: _Connection | None = None
        """The connection for queries that run in the event loop. It waits for no lock."""
        self._turns = Turns()
        self._writer = SqliteWriter(path, tables, origin, self._threads, self._turns, log_ahead=log_ahead)
        self._version = 0
        self._looked_ns = 0

    # ------------------------------------------------------------------ connections
    def _open_reader(self, *, here: bool = False) -> _Connection:
        """``here``: for the event loop."""
        register_converters()
        database = open_readonly(self._path, busy_seconds=BUSY_SECONDS, any_thread=True, cached_statements=64,
                                 detect_types=sqlite3.PARSE_DECLTYPES)
        self._turns.shut_out = database.execute("PRAGMA journal_mode").fetchone() != ("wal",)
        self._look_into_views(database)
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)
        database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        for pragma in ("query_only = ON", "trusted_schema = OFF", "case_sensitive_like = ON"):
            database.execute(f"PRAGMA {pragma}")
        if here:
            database.execute("PRAGMA busy_timeout = 0")
        refusals = register(database)
        database.set_authorizer(self._authorize)
        return _Connection(database, refusals, AT_ONCE_STEPS if here else PROGRESS_STEPS)

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
        free."""
        connection.due_ns, connection.stopped = due_ns, False
        connection.refusals.begin()
        future = asyncio.get_running_loop().run_in_executor(self._threads, counting(work))
        try:
            return await finished(future, connection.stop)
        except sqlite3.Error as error:
            if "user-defined function raised" in str(error):
                raise ApiFailure("sql_not_on_sqlite", connection.refusals.reason) from None
            raise failure_of(error, due_ns, self._tables) from None

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
            async with self._turns.reading():
                self._version = await asyncio.get_running_loop().run_in_executor(self._threads, self._schema_version)
        return self._version, {}

    def _schema_version(self) -> int:
        try:
            with contextlib.closing(open_readonly(self._path, busy_seconds=BUSY_SECONDS)) as database:
                return int(database.execute("PRAGMA schema_version").fetchone()[0])
        except sqlite3.Error:  # the query itself will tell why
            return self._version

    def query_at_once(self, compiled: Compiled, values: list[Any], due_ns: int) -> tuple[bytes, int] | None:
        """The encoded rows, and their number. None if the query takes longer than AT_ONCE_NS, would have to wait for
        somebody, or fails: then ``query`` is to be asked, which says why."""
        now_ns, connection = time.monotonic_ns(), self._here
        if (connection is None or not self._turns.is_free_to_read or now_ns - self._looked_ns > SCHEMA_SECONDS * 1e9
                or not compiled.is_light(values, now_ns)):
            return None
        connection.due_ns, connection.stopped = min(due_ns, now_ns + AT_ONCE_NS), False
        connection.refusals.begin()
        try:
            found = _read(connection.database, compiled, values, connection.is_late)
        except (sqlite3.Error, ApiFailure):
            found = None
        if found is None:
            compiled.slow_until_ns = time.monotonic_ns() + SLOW_NS
        return found

    async def query(self, compiled: Compiled, values: list[Any], user_id: str, due_ns: int) -> tuple[bytes, int]:
        """The encoded rows, and their number. Raises ApiFailure."""
        with counted():
            found = self.query_at_once(compiled, values, due_ns)
        if found is not None:
            return found
        async with self._free:
            async with self._turns.reading():  # a connection that is opened reads the schema, and could be shut out
                reader = self._readers.pop() if self._readers else await self._opened(self._open_reader)
                try:
                    if self._here is None:
                        self._here = await self._opened(lambda: self._open_reader(here=True))
                    rows = await self._run(reader, due_ns, lambda: _read(reader.database, compiled, values))
                    assert rows is not None
                    return rows
                finally:
                    self._readers.append(reader)

    async def write(self, write: Write, record: Outgoing, user_id: str, due_ns: int) -> tuple[int, bytes | None]:
        """Runs ``write`` and leaves its audit record in the outbox: both or neither. Raises ApiFailure.

        Returns the number of rows, and those that were asked for (``Written.answer``).
        """
        return await self._writer.write(write, record, due_ns)

    async def waiting(self, limit: int) -> list[Outgoing]:
        """The oldest records in the outbox. Raises ApiFailure."""
        return await self._writer.waiting(limit)

    async def forget(self, ids: list[str]) -> None:
        """Deletes records from the outbox, because the ledger has them. Raises ApiFailure."""
        await self._writer.forget(ids)

    async def close(self) -> None:
        """Closes every connection."""
        await self._writer.close()
        for connection in (*self._readers, *([self._here] if self._here else [])):
            connection.database.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _read(database: sqlite3.Connection, compiled: Compiled, values: list[Any],
          is_late: Callable[[], bool] = lambda: False) -> tuple[bytes, int] | None:
    """The encoded rows, and their number; None if it was late after a row. Raises sqlite3.Error, ApiFailure."""
    cursor = database.execute(compiled.text, named(values))
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
            if is_late():
                return None
    finally:
        cursor.close()
    return rows.encoded(), len(rows)
