"""PostgreSQL behind the gateway: ``psycopg`` 3, a pool, one transaction per call, each bounded by the call's time.

A query is one round trip (``postgres_read``), a write is two, or more if something has to be looked up. The walls
behind ``sql/``: READ ONLY transactions; a role that is neither superuser nor exempt from row-level security (any other
is refused); and row-level security itself, which reads the caller from ``request.jwt.claims``. A call that is cancelled
is cancelled at the server, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.adapt import Loader
from psycopg.types.datetime import DateLoader, TimeLoader, TimestampLoader, TimestamptzLoader, TimetzLoader
from psycopg.types.json import Jsonb
from psycopg.types.string import TextLoader
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from apex_exec.gateway.database_checks import check_connection, server_of
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.outbox import Outbox, Outgoing, origins_of
from apex_exec.gateway.postgres_ends import out_of_pipeline, rolled_back, settled
from apex_exec.gateway.postgres_failures import failure_of, refused
from apex_exec.gateway.postgres_read import Asked, Prepared, read
from apex_exec.gateway.sql.compiler import Compiled
from apex_exec.gateway.sql.long_numbers import NUMBER_CHARACTERS_MAX, check_number, has_long_number, too_long_a_number
from apex_exec.gateway.sql.owners import Claim
from apex_exec.gateway.sql.pieces import Shapes
from apex_exec.gateway.sql.tables import OUTBOX, Table, unnamed
from apex_exec.gateway.sql.values import Rows, array_text, json_text
from apex_exec.gateway.sql.wording import plain_names
from apex_exec.gateway.sql.writes import Write
from apex_exec.gateway.sql.written import Written

# it would log a line for every failed attempt while a database is down
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)

CONNECTIONS_MAX = 8
CONNECT_SECONDS = 2
OWN_SECONDS = 10.0
"""The time limit of the outbox's own statements."""

CREATE_OUTBOX = (f"CREATE TABLE IF NOT EXISTS {OUTBOX} (id text PRIMARY KEY, origin text NOT NULL, "
                 "record text NOT NULL, at timestamptz NOT NULL DEFAULT now())")
OUTBOX_LOCK = 0x6F7574626F78
"""The key of PostgreSQL's advisory lock ("outbox") for the first write, until its transaction ends."""
_BEGIN = {True: "BEGIN READ ONLY", False: "BEGIN"}
_SETTINGS = ("SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', $1, true), "
             "set_config('request.jwt.claims', $2, true), set_config('TimeZone', 'UTC', true), "
             "set_config('DateStyle', 'ISO, MDY', true), set_config('IntervalStyle', 'postgres', true), "
             "set_config('standard_conforming_strings', 'on', true), set_config('jit', 'off', true)")
"""The settings are for this transaction only: behind a pooler in transaction mode, the next transaction may be somebody
else's. In a database with standard_conforming_strings off, the backslash in our ESCAPE would make its quote part of the
text, and the next literal, which is the plugin's, part of the statement. ``jit`` compiles an expensive statement for a
second without a look at the clock."""
_READING = f"{_SETTINGS}, set_config('transaction_read_only', 'on', true), pg_backend_pid()"
"""The same for a query, which has no BEGIN READ ONLY. The last column is who has run it."""
_SHAPES = (
    "SELECT shown.name, attname, CASE WHEN typname = 'numeric' THEN 'literals' ELSE 'values' END "
    "FROM unnest($1::text[], $2::text[]) AS shown(name, place) "
    "JOIN pg_class ON pg_class.oid = to_regclass(shown.place) AND relkind IN ('r', 'p', 'm') "
    "JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped AND attgenerated IN ('', 's') "
    "JOIN pg_type ON pg_type.oid = atttypid AND (typtype = 'e' OR typnamespace = 'pg_catalog'::regnamespace AND "
    "typname IN ('int2', 'int4', 'int8', 'float4', 'float8', 'numeric', 'text', 'varchar', 'uuid', 'bool', 'date', "
    "'timestamp', 'timestamptz')) ORDER BY 1, 2")
"""The stored columns of ordinary tables that may be compared inside a fence, and with what: see ``sql.inside``. Views
compute; comparisons of arrays and of rows fail if their elements have none; char(n) ignores trailing blanks only where
its type is known."""
SHAPES_SECONDS = 60.0
"""How old they may be. A table that has become a view is noticed at once, by the statement itself."""
_OFF = "SELECT set_config(name, 'off', true) FROM unnest($1::text[]) AS name"
MARGIN_MS = 30
"""The server ends a statement this long before the call ends: cancelling it from here takes round trips of its own."""
DOWN_SECONDS = 1.0
"""After a failure to connect we do not try again for this long; meanwhile every call fails at once."""


def _or_its_text(loader: Any) -> type[Loader]:
    """psycopg's ``loader`` for dates and times, but with the text of values that Python cannot represent (infinity, BC,
    the year 10000, 24:00)."""

    class OrText(loader):  # type: ignore[misc]  # the base class is an argument
        def __init__(self, oid: int, context: Any = None) -> None:
            super().__init__(oid, None)  # ISO and UTC: the connection may know of our settings only after the rows

        def load(self, data: Any) -> Any:
            try:
                return super().load(data)
            except (psycopg.Error, ValueError, OverflowError):
                return bytes(data).decode()

    return OrText


_MOMENTS = {"date": DateLoader, "time": TimeLoader, "timetz": TimetzLoader, "timestamp": TimestampLoader,
            "timestamptz": TimestamptzLoader}
_LOADERS: dict[str, type[Loader]] = {**{name: _or_its_text(loader) for name, loader in _MOMENTS.items()},
                                     "interval": TextLoader}
"""The text of an interval: its months are not days, but Python's type would convert them to days."""


async def _prepare(connection: AsyncConnection[Any]) -> None:
    for name, loader in _LOADERS.items():
        connection.adapters.register_loader(name, loader)


class Postgres:
    """The database at ``url`` (``postgresql+psycopg://…``). It connects on first use.

    ``prepared``: a query that is used often is kept on its connection, which is of no use behind a pooler in
    transaction mode; None: unless a pooler is noticed.
    Raises ConfigError for a URL that no server would ever see.
    """

    backend = "postgres"

    def __init__(self, url: str, tables: Mapping[str, Table], origin: str, *, prepared: bool | None = None) -> None:
        self._origin, self._formerly = origins_of(origin)
        self._tables = tables
        self._pool = AsyncConnectionPool(
            server_of(url), min_size=0, max_size=CONNECTIONS_MAX, open=False,
            timeout=CONNECT_SECONDS, configure=_prepare,
            # Not prepared by psycopg: behind a pooler, a name of its own may be unknown, or belong to another text.
            kwargs={"autocommit": True, "cursor_factory": AsyncRawCursor, "connect_timeout": CONNECT_SECONDS,
                    "application_name": "apex-exec", "prepare_threshold": None})
        self._down_until = 0.0
        self._in_use = 0
        self._opened = False
        self._checked: WeakKeyDictionary[AsyncConnection[Any], Prepared] = WeakKeyDictionary()
        """The connections whose role was checked, and what each has prepared."""
        self._prepares = prepared
        self._is_pooled: bool | None = None
        """Whether a query was run by another server process than the one that the connection is said to be with, so
        that a pooler is between us and the server. None if no query was run yet."""
        self._has_outbox = False
        self._shapes: dict[str, dict[str, str]] | None = None
        self._version = 0
        self._looked = 0.0
        self._looking = asyncio.Lock()

    # ------------------------------------------------------------------ transactions
    @contextlib.asynccontextmanager
    async def _connected(self, due_ns: int) -> AsyncIterator[AsyncConnection[Any]]:
        """A connection whose role was checked, until ``due_ns`` at most. Raises ApiFailure, also for what the database
        raises in the block."""
        if not self._opened:
            self._opened = True
            await self._pool.open(wait=False)
        if time.monotonic() < self._down_until:
            raise ApiFailure("data_unavailable", "the platform's database cannot be reached")
        left_seconds = max(0.0, (due_ns - time.monotonic_ns()) / 1e9)
        try:
            async with asyncio.timeout(left_seconds):
                # A connection in use returns by its call's deadline; whether a new one can be opened is known sooner.
                waits = left_seconds if self._in_use else min(left_seconds, CONNECT_SECONDS)
                async with self._pool.connection(timeout=waits) as connection, self._counted():
                    await self._check_role(connection)
                    yield connection
        except TimeoutError:
            raise ApiFailure("deadline_exceeded", "the invocation's time ended in the database") from None
        except PoolTimeout:
            if not self._in_use:
                self._down_until = time.monotonic() + DOWN_SECONDS
            raise ApiFailure("data_unavailable", "no connection to the platform's database") from None
        except psycopg.Error as error:
            failure = failure_of(error)
            missing = error.sqlstate in ("42P01", "42703")
            raise (unnamed(failure, str(error.diag.message_primary), self._tables) if missing else failure) from None

    @contextlib.asynccontextmanager
    async def _transaction(self, user_id: str, due_ns: int, *, read_only: bool) -> AsyncIterator[AsyncConnection[Any]]:
        """A connection inside a transaction for ``user_id``; it is rolled back unless committed. Raises ApiFailure."""
        async with self._connected(due_ns) as connection:
            try:
                async with connection.pipeline():  # one round trip for both statements
                    await connection.execute(_BEGIN[read_only])
                    await connection.execute(_SETTINGS, _settings(user_id, due_ns))
                yield connection
            finally:
                if not connection.closed and connection.info.pipeline_status:
                    # a cancellation within a pipeline leaves the connection unusable for the next call
                    await connection.close()
                await rolled_back(connection)

    @contextlib.asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        self._in_use += 1
        self._down_until = 0.0
        try:
            yield
        finally:
            self._in_use -= 1

    async def _check_role(self, connection: AsyncConnection[Any]) -> None:
        if connection in self._checked:
            return
        await check_connection(connection, self._tables)
        self._checked[connection] = Prepared()

    # ------------------------------------------------------------------ the router's interface
    async def shapes(self, due_ns: int, *, anew: bool = False) -> tuple[int, Shapes]:
        """What may be compared inside a fence, at most SHAPES_SECONDS old, and the number of its changes.

        Raises ApiFailure."""
        if self._shapes is None or time.monotonic() - self._looked > (1.0 if anew else SHAPES_SECONDS):
            async with self._looking:
                if self._shapes is None or time.monotonic() - self._looked > (1.0 if anew else SHAPES_SECONDS):
                    await self._look(due_ns)
        return self._version, self._shapes or {}

    async def _look(self, due_ns: int) -> None:
        async with self._transaction("", due_ns, read_only=True) as connection:
            places = [table.placed() for table in self._tables.values()]
            cursor = await connection.execute(_SHAPES, (list(self._tables), places))
            rows = await cursor.fetchall()
        found: dict[str, dict[str, str]] = {}
        for table, column, kind in rows:
            found.setdefault(table, {})[column] = kind
        self._looked = time.monotonic()
        if found != self._shapes:
            self._shapes = found
            self._version += 1

    def query_at_once(self, compiled: Compiled, values: list[Any], due_ns: int) -> None:
        """None: a server is asked, and the event loop waits for nothing."""

    async def query(self, compiled: Compiled, values: list[Any], user_id: str, due_ns: int) -> tuple[bytes, int]:
        """The encoded rows, and their number. Raises ApiFailure."""
        async with self._connected(due_ns) as connection:
            try:
                return await self._read(connection, compiled, values, user_id, due_ns)
            except _Unprepared:
                await connection.close()
        async with self._connected(due_ns) as connection:
            return await self._read(connection, compiled, values, user_id, due_ns, may_prepare=False)

    async def _read(self, connection: AsyncConnection[Any], compiled: Compiled, values: list[Any], user_id: str,
                    due_ns: int, *, may_prepare: bool = True) -> tuple[bytes, int]:
        asked = [Asked(_READING, _settings(user_id, due_ns)), Asked(compiled.text, values)]
        if compiled.unhashed:
            asked.insert(1, Asked(_OFF, (compiled.unhashed,)))
        rows: Rows | None = None

        def take(names: list[str], row: Any) -> None:
            nonlocal rows
            if rows is None:
                rows = Rows(list(map(plain_names, names)))
            rows.add(row)

        prepares = may_prepare and (self._is_pooled is False if self._prepares is None else self._prepares)
        prepared = self._checked[connection] if prepares else None
        try:
            found, _ = await read(connection, asked, take, prepared)
        except _NOT_PREPARED as error:
            if prepared is None or not prepared.is_used:
                raise
            self._is_pooled = self._is_pooled or not isinstance(error, psycopg.errors.FeatureNotSupported)
            raise _Unprepared from None
        finally:
            await out_of_pipeline(connection)
        self._is_pooled = self._is_pooled or found[-1] != connection.info.backend_pid
        return (rows.encoded(), len(rows)) if rows is not None else (b"\x90", 0)

    async def write(self, write: Write, record: Outgoing, user_id: str, due_ns: int) -> tuple[int, bytes | None]:
        """Runs ``write`` and leaves its audit record in the outbox: both or neither. Raises ApiFailure.

        Returns the number of rows, and those that were asked for (``Written.answer``).
        """
        await self._need_outbox()
        if not write.key and not any(map(_needs_the_table, write.values)):
            return await self._write_at_once(write, record, user_id, due_ns)
        async with self._transaction(user_id, due_ns, read_only=False) as connection:
            values = await self._fitted(connection, write, await _claimed(connection, write.values))
            try:
                text = write.statement(await self._uniques(connection, write))
                cursor, written = connection.cursor(), Written(write)
                if write.ending:  # row by row, so that rows beyond a bound are not read
                    stream: Any = cursor.stream(text, values)  # a generator, though its type does not say so
                    async with contextlib.aclosing(stream):
                        async for row in stream:
                            written.add(row)
                else:
                    await cursor.execute(text, values)
                if write.guard:
                    await connection.execute(write.guard)
                count, rows = written.answer(cursor.rowcount)
                record.row_count = count
                # deferred constraints are checked now
                await settled(self._commit(connection, record), connection.close)
            except psycopg.IntegrityError as error:
                raise refused(error, write) from None
            except psycopg.errors.CardinalityViolation:
                raise write.twice() from None
        return count, rows

    async def _write_at_once(self, write: Write, record: Outgoing, user_id: str, due_ns: int
                             ) -> tuple[int, bytes | None]:
        """The same for a write that nothing has to be looked up for: a round trip to the statement's end, and one for
        the record and the commit, which need the number of rows."""
        asked = [Asked(_BEGIN[False]), Asked(_SETTINGS, _settings(user_id, due_ns)),
                 Asked(write.statement(), write.values)]
        taken = len(asked)
        if write.guard:
            asked.append(Asked(write.guard))
        written = Written(write)
        async with self._connected(due_ns) as connection:
            try:
                _, changed = await read(connection, asked, lambda _, row: written.add(row), taken=taken)
                count, rows = written.answer(changed)
                record.row_count = count
                await settled(self._commit(connection, record), connection.close)
            except psycopg.IntegrityError as error:
                raise refused(error, write) from None
            finally:
                await out_of_pipeline(connection)
                await rolled_back(connection)
        return count, rows

    @staticmethod
    async def _uniques(connection: AsyncConnection[Any], write: Write) -> list[list[str]]:
        """The columns of each unique key of the table, if ``write`` may meet one. Keys of some rows or of expressions
        do not count, nor those that are checked at the commit."""
        if not write.key:
            return []
        cursor = await connection.execute(
            "SELECT array_agg(attname::text) FROM pg_index, pg_attribute a, "
            "unnest(indkey::int2[]) WITH ORDINALITY AS k(attnum, place) WHERE "
            "indrelid = to_regclass($1) AND indisunique AND indimmediate AND indisvalid "
            "AND indpred IS NULL AND indexprs IS NULL AND place <= indnkeyatts AND attrelid = indrelid AND "
            "a.attnum = k.attnum GROUP BY indexrelid", (write.on.placed(),))
        return [row[0] for row in await cursor.fetchall()]

    async def _fitted(self, connection: AsyncConnection[Any], write: Write, given: list[Any]) -> list[Any]:
        """``given`` in the form that its columns take: a list becomes an array if its column is one, otherwise JSON.

        Raises ApiFailure if a numeric column would receive a number whose arithmetic takes long, no matter who uses it
        later.

        We ask for the column types only if a value is a list, or a text that may be such a number or an array of them,
        which is rare.
        """
        if not any(map(_needs_the_table, given)):
            return given
        long = {number for number, value in enumerate(given) if isinstance(value, str) and _needs_the_table(value)}
        cursor = await connection.execute(
            "SELECT attname, 'numeric'::regtype IN (t.oid, t.typbasetype), t.typcategory = 'A', "
            "'numeric'::regtype = t.typelem FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid WHERE attnum > 0 "
            "AND attrelid = to_regclass($1)", (write.on.placed(),))
        rows = await cursor.fetchall()
        numeric, arrays, of_numbers = ({row[0] for row in rows if row[kind]} for kind in (1, 2, 3))
        values: list[Any] = []
        for number, (name, value) in enumerate(zip(write.bound, given, strict=True)):
            if number in long and name in numeric:
                check_number(value)
            fitted = array_text(value) if isinstance(value, list) and name in arrays else value
            if name in of_numbers and isinstance(fitted, str) and has_long_number(fitted):
                raise ApiFailure("sql_parameters", f"{name}: a number has at most {NUMBER_CHARACTERS_MAX} "
                                                   "characters and an exponent of three digits")
            values.append(Jsonb(fitted, json_text) if isinstance(fitted, dict | list) else fitted)
        return values

    async def _commit(self, connection: AsyncConnection[Any], record: Outgoing) -> None:
        await read(connection, (Asked(f"INSERT INTO {OUTBOX} (id, origin, record) VALUES ($1, $2, $3)",
                                      (record.id, self._origin, record.encoded())), Asked("COMMIT")), _take_nothing)

    async def waiting(self, limit: int) -> list[Outgoing]:
        """The oldest records in the outbox. Raises ApiFailure."""
        due_ns = time.monotonic_ns() + int(OWN_SECONDS * 1e9)
        async with self._transaction("", due_ns, read_only=True) as connection:
            cursor = await connection.execute("SELECT to_regclass($1) IS NOT NULL", (OUTBOX,))
            if not (await cursor.fetchone() or (False,))[0]:
                return []
            cursor = await connection.execute(
                f"SELECT id, record FROM {OUTBOX} WHERE origin IN ($1, $2) ORDER BY at LIMIT $3",
                (self._origin, self._formerly, limit))
            return [Outbox.decode(*row) for row in await cursor.fetchall()]

    async def forget(self, ids: list[str]) -> None:
        """Deletes records from the outbox, because the ledger has them. Raises ApiFailure."""
        due_ns = time.monotonic_ns() + int(OWN_SECONDS * 1e9)
        async with self._transaction("", due_ns, read_only=False) as connection:
            await connection.execute(f"DELETE FROM {OUTBOX} WHERE id = ANY($1)", (ids,))
            await connection.execute("COMMIT")

    async def _need_outbox(self) -> None:
        """Creates the outbox if the role may; otherwise the operator has to create it."""
        if self._has_outbox:
            return
        due_ns = time.monotonic_ns() + int(OWN_SECONDS * 1e9)
        async with self._transaction("", due_ns, read_only=False) as connection:
            cursor = await connection.execute("SELECT to_regclass($1) IS NOT NULL", (OUTBOX,))
            if not (await cursor.fetchone() or (False,))[0]:
                try:
                    # IF NOT EXISTS fails if two make it at once: the later one waits here, and finds it
                    await connection.execute("SELECT pg_advisory_xact_lock($1)", (OUTBOX_LOCK,))
                    await connection.execute(CREATE_OUTBOX)
                except psycopg.errors.InsufficientPrivilege:
                    raise ApiFailure("data_unavailable", f"the table {OUTBOX} is missing, and the role may not make "
                                                         "it; apex_exec/gateway/README.md has its definition") from None
            await connection.execute("COMMIT")
        self._has_outbox = True

    async def close(self) -> None:
        """Closes every connection."""
        if self._opened:
            await self._pool.close(timeout=1)


_NOT_PREPARED = (psycopg.errors.InvalidSqlStatementName, psycopg.errors.DuplicatePreparedStatement,
                 psycopg.errors.FeatureNotSupported)
"""The server does not have a prepared statement, has it already, or has made it for other types of columns."""


class _Unprepared(Exception):
    """The query is to be run again, on another connection and without a prepared statement."""


def _settings(user_id: str, due_ns: int) -> tuple[str, str]:
    """The parameters of ``_SETTINGS``."""
    left_ms = max(1, (due_ns - time.monotonic_ns()) // 1_000_000 - MARGIN_MS)
    return str(left_ms), json.dumps({"sub": user_id, "role": "authenticated"})


async def _claimed(connection: AsyncConnection[Any], values: list[Any]) -> list[Any]:
    """``values`` with the tenants that were looked up for them. Raises ApiFailure, psycopg.Error."""
    done = []
    for value in values:
        if isinstance(value, Claim):
            cursor = await connection.execute(value.text, value.values)
            value = value.chosen([row[0] for row in await cursor.fetchall()])
        done.append(value)
    return done


def _needs_the_table(value: Any) -> bool:
    """Whether ``value`` of a write has to be looked up in the database, or depends on its column's type there."""
    if isinstance(value, str):
        return too_long_a_number(value) or has_long_number(value)
    return isinstance(value, dict | list | Claim)


def _take_nothing(_names: list[str], _row: Any) -> None:
    """Takes rows of which there are none."""
