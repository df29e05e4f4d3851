"""Plugins' writes on the embedded database: one connection, groups of writes (``write_groups``), audit records.

Everything here but ``SqliteWriter.write`` and the outbox's methods runs in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from apex_exec.common.sqlite import open_theirs
from apex_exec.gateway.costs import counting
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.lock_turns import Turns
from apex_exec.gateway.outbox import Outbox, Outgoing, origins_of
from apex_exec.gateway.sql.owners import Claim
from apex_exec.gateway.sql.tables import OUTBOX, Table
from apex_exec.gateway.sql.writes import Write
from apex_exec.gateway.sql.written import Written
from apex_exec.gateway.sqlite_driver import (
    BUSY_SECONDS,
    PROGRESS_STEPS,
    failure_of,
    named,
    register_converters,
)
from apex_exec.gateway.threads import finished
from apex_exec.gateway.write_groups import GROUP_NS, Groups, Member, charged, divided, taken_back

log = logging.getLogger("apex_exec.gateway")

OWN_SECONDS = 10
"""The time limit of the outbox's own statements."""
NEVER_NS = 1 << 62


class Job(NamedTuple):
    """What a member of a group writes, and the audit record that it leaves."""

    write: Write
    record: Outgoing


class SqliteWriter:
    """Writes to the file ``path``, which is opened, in one of ``threads``, when it is first needed.

    ``log_ahead``: switch a file that the platform made to a write-ahead log, as one that we make has. ``turns`` learns
    then that readers need not wait."""

    def __init__(self, path: Path, tables: Mapping[str, Table], origin: str, threads: ThreadPoolExecutor, turns: Turns,
                 *, log_ahead: bool = False) -> None:
        self._path = path
        self._tables = tables
        self._origin, self._formerly = origins_of(origin)
        self._threads = threads
        self._turns = turns
        self._log_ahead = log_ahead
        self._opened: sqlite3.Connection | None = None
        self._groups: Groups[Job] = Groups(turns, self._run)
        self._current: Member[Job] | None = None
        self._limit_ns = NEVER_NS

    # ------------------------------------------------------------------ for the event loop
    async def write(self, write: Write, record: Outgoing, due_ns: int) -> tuple[int, bytes | None]:
        """Runs ``write`` and leaves its audit record in the outbox: both or neither. Raises ApiFailure."""
        answer: tuple[int, bytes | None] = await self._groups.write(record.plugin, due_ns, Job(write, record))
        return answer

    async def waiting(self, limit: int) -> list[Outgoing]:
        """The oldest records in the outbox. Raises ApiFailure."""
        if self._opened is None and not self._path.exists():
            return []
        rows = await self._alone(lambda database: database.execute(
            f"SELECT id, record FROM {OUTBOX} WHERE origin IN (?, ?) ORDER BY rowid LIMIT ?",
            (self._origin, self._formerly, limit)).fetchall())
        return [Outbox.decode(*row) for row in rows]

    async def forget(self, ids: list[str]) -> None:
        """Deletes records from the outbox, because the ledger has them. Raises ApiFailure."""
        def work(database: sqlite3.Connection) -> None:
            database.execute("BEGIN IMMEDIATE")  # otherwise each row would be a transaction, and wait for the disk
            database.executemany(f"DELETE FROM {OUTBOX} WHERE id = ?", [(one,) for one in ids])
            database.execute("COMMIT")

        await self._alone(work)

    async def close(self) -> None:
        """Closes the connection, once it is free."""
        await self._groups.close()
        if self._opened is not None:
            self._opened.close()

    async def _alone(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        """Runs ``work`` while no plugin writes. Raises ApiFailure."""
        def in_thread() -> Any:
            database = self._database()
            self._current, self._limit_ns = None, time.monotonic_ns() + OWN_SECONDS * 1_000_000_000
            try:
                return work(database)
            except sqlite3.Error as error:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise failure_of(error, self._limit_ns, self._tables) from None

        async with self._turns.writing(""):
            return await finished(asyncio.get_running_loop().run_in_executor(self._threads, counting(in_thread)))

    async def _run(self, group: Sequence[Member[Job]]) -> None:
        await finished(asyncio.get_running_loop().run_in_executor(self._threads, self._run_group, group))

    # ------------------------------------------------------------------ in a thread
    def _database(self) -> sqlite3.Connection:
        """The connection. Raises ApiFailure."""
        if self._opened is None:
            register_converters()
            try:
                database = open_theirs(self._path, busy_seconds=BUSY_SECONDS, detect_types=sqlite3.PARSE_DECLTYPES,
                                       log_ahead=self._log_ahead)
                database.execute(f"CREATE TABLE IF NOT EXISTS {OUTBOX} "
                                 "(id TEXT PRIMARY KEY, origin TEXT NOT NULL, record TEXT NOT NULL)")
                (journal,) = database.execute("PRAGMA journal_mode").fetchone()
            except (OSError, sqlite3.Error) as error:
                raise ApiFailure("data_unavailable", f"the platform's database cannot be opened: {error}") from None
            if self._log_ahead and journal != "wal":
                log.warning("%s has no write-ahead log, though data.write_ahead_log asks for one: its file system does "
                            "not allow it, or somebody else uses the database now", self._path)
            self._turns.shut_out = journal != "wal"
            database.set_progress_handler(self._is_late, PROGRESS_STEPS)
            self._opened = database
        return self._opened

    def _is_late(self) -> bool:
        member = self._current
        return member is not None and member.stopped or time.monotonic_ns() >= self._limit_ns

    def _run_group(self, group: Sequence[Member[Job]]) -> None:
        """Runs a group; each member is over afterwards, or has to be run later. Raises ApiFailure."""
        self._run_members(self._database(), group)

    def _run_members(self, database: sqlite3.Connection, group: Sequence[Member[Job]]) -> None:
        """Runs ``group`` as one transaction, or as several if one of them takes the transaction with it. Who does so
        pays for what was done in vain."""
        lost, culprit = self._together(database, group)
        if not lost:
            return
        vain = taken_back(lost)
        if culprit is not None:
            divided([culprit], *vain)
            self._run_members(database, lost)
            return
        for half in (lost[: len(lost) // 2], lost[len(lost) // 2 :]):  # who it was, only smaller groups show
            self._run_members(database, half)
        divided([member for member in lost if member.error is not None] or lost, *vain)

    def _together(self, database: sqlite3.Connection, group: Sequence[Member[Job]]
                  ) -> tuple[list[Member[Job]], Member[Job] | None]:
        """Runs ``group`` as one transaction. Returns nobody if it stands. If it was lost, nothing of it has taken
        effect: the members that are over have failed, and those that are returned did well and have to be run again.
        The other one that is returned has taken it with it; None if that cannot be known.

        SQLite rolls the whole transaction back, whatever savepoints there are, if a statement that writes is
        interrupted, and if a trigger or a constraint of the platform says ROLLBACK."""
        ran: list[Member[Job]] = []
        self._current, self._limit_ns = None, NEVER_NS
        try:
            with charged(*group):
                database.execute("BEGIN IMMEDIATE")
            begun_ns = time.monotonic_ns()
            for member in group:
                if ran and time.monotonic_ns() - begun_ns > GROUP_NS:
                    break
                if not member.stopped:
                    with charged(member):
                        ended = self._one(database, member, begun_ns + 2 * GROUP_NS if ran else NEVER_NS)
                    if ended:
                        ran.append(member)
                    elif not database.in_transaction:
                        return ran, member
                    elif member.is_slow:
                        break
            with charged(*ran or group):
                database.execute("COMMIT")  # if all have failed, of nothing
        except sqlite3.Error as error:
            if database.in_transaction:
                database.execute("ROLLBACK")
            if isinstance(error, sqlite3.IntegrityError) and len(ran) > 1:  # a constraint that is checked at the commit
                return ran, None
            for member in ran or group:
                if not member.is_over:
                    member.end(self._failure(error, member))
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
        else:
            for member in ran:
                member.end()
        return [], None

    def _one(self, database: sqlite3.Connection, member: Member[Job], until_ns: int) -> bool:
        """Runs the statements of one member, up to ``until_ns``. Whether they are done. Otherwise it has failed, or is
        slow, and has left nothing behind."""
        self._current, self._limit_ns = member, min(member.due_ns, until_ns)
        try:
            database.execute("SAVEPOINT one")
            member.result = _write(database, member.write, self._origin)
            database.execute("RELEASE one")
        except Exception as error:  # noqa: BLE001 - whatever it is, the others of the group have nothing to do with it
            interrupted = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT
            if interrupted and not member.stopped and time.monotonic_ns() < member.due_ns:
                member.is_slow = True
            else:
                member.end(self._failure(error, member) if isinstance(error, sqlite3.Error) else error)
            self._current, self._limit_ns = None, NEVER_NS
            if database.in_transaction:
                database.execute("ROLLBACK TO one")
                database.execute("RELEASE one")
            return False
        finally:
            self._current, self._limit_ns = None, NEVER_NS
        return True

    def _failure(self, error: sqlite3.Error, member: Member[Job]) -> ApiFailure:
        if isinstance(error, sqlite3.IntegrityError):
            return _refused(error, member.write.write)
        return failure_of(error, member.due_ns, self._tables)


def _write(database: sqlite3.Connection, job: Job, origin: str) -> tuple[int, bytes | None]:
    """Runs one write, and leaves its audit record, within the transaction that is open."""
    write, record = job
    values = [value.chosen([row[0] for row in database.execute(value.text, named(value.values))])
              if isinstance(value, Claim) else value for value in write.values]
    text, written = write.statement(_uniques(database, write)), Written(write)
    # while a statement is open, SQLite commits nothing, of later calls neither
    with contextlib.closing(database.execute(text, named(values))) as cursor:
        for row in cursor if write.ending else ():
            written.add(row)
        count, rows = written.answer(cursor.rowcount)
    record.row_count = count
    database.execute(f"INSERT INTO {OUTBOX} VALUES (?, ?, ?)", (record.id, origin, record.encoded()))
    return count, rows


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


_KINDS = {sqlite3.SQLITE_CONSTRAINT_NOTNULL: "need", sqlite3.SQLITE_CONSTRAINT_UNIQUE: "unique",
          sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: "unique", sqlite3.SQLITE_CONSTRAINT_ROWID: "unique",
          sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY: "link", sqlite3.SQLITE_CONSTRAINT_TRIGGER: "own"}


def _refused(error: sqlite3.IntegrityError, write: Write) -> ApiFailure:
    """SQLite's "NOT NULL constraint failed: table.column, table.column", in our words."""
    columns = [name.strip().rpartition(".") for name in str(error).partition(": ")[2].split(",")]
    ours = [column for table, _, column in columns if table == write.table]
    return write.refused(_KINDS.get(error.sqlite_errorcode, "check"), ours if len(ours) == len(columns) else (),
                         str(error))
