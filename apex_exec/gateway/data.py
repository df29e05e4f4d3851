"""The platform's database as plugins use it: one compiler, one backend, one outbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from apex_exec import extras
from apex_exec.catalogue.methods import Delete, Insert, Query, Update, Upsert
from apex_exec.common.sqlite import path_of
from apex_exec.errors import ConfigError
from apex_exec.gateway.costs import at_work, counted
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.messages import Written
from apex_exec.gateway.outbox import Keeper, Outbox, Outgoing
from apex_exec.gateway.sql.compiler import Compiled, Compiler
from apex_exec.gateway.sql.owners import ByMembership
from apex_exec.gateway.sql.parser import Parser
from apex_exec.gateway.sql.pieces import Shapes
from apex_exec.gateway.sql.tables import Table
from apex_exec.gateway.sql.writes import Write, compile_write

_encode = msgspec.msgpack.Encoder().encode


class Backend(Protocol):
    """The interface of ``sqlite`` and ``postgres``. Every method may raise ApiFailure; none blocks the event loop."""

    backend: str

    async def shapes(self, due_ns: int, *, anew: bool = False) -> tuple[int, Shapes]:
        """What the database says of its tables now (see ``sql.inside``), and a number that changes with it.

        It may be some seconds old; ``anew``: a second at most."""

    def query_at_once(self, compiled: Compiled, values: list[Any], due_ns: int) -> tuple[bytes, int] | None:
        """The same as ``query``, if it takes no longer than the event loop may wait; otherwise None. Never raises."""

    async def query(self, compiled: Compiled, values: list[Any], user_id: str, due_ns: int) -> tuple[bytes, int]:
        """The encoded rows, and their number."""

    async def write(self, write: Write, record: Outgoing, user_id: str, due_ns: int) -> tuple[int, bytes | None]:
        """The number of rows written, and those that were asked for, encoded: one row if one was given, else a list."""

    async def waiting(self, limit: int) -> list[Outgoing]:
        """The oldest records in the outbox."""

    async def forget(self, ids: list[str]) -> None:
        """Deletes records from the outbox."""

    async def close(self) -> None:
        """Closes every connection."""


def open_backend(url: str, tables: Mapping[str, Table], origin: str, *, prepared: bool | None = None,
                 log_ahead: bool = False) -> Backend:
    """The backend for ``data.url``. ``prepared``: PostgreSQL keeps prepared statements; None: if there is no pooler.
    ``log_ahead``: SQLite gets a write-ahead log. Raises ConfigError."""
    if (path := path_of(url)) is not None:
        from apex_exec.gateway.sqlite import Sqlite
        return Sqlite(path, tables, origin, log_ahead=log_ahead)
    if url.startswith("postgresql"):
        extras.need("postgres", "data.url")
        from apex_exec.gateway.postgres import Postgres
        return Postgres(url, tables, origin, prepared=prepared)
    raise ConfigError("data.url: this kind of database is not supported; write sqlite:///path or "
                      "postgresql://role@host/database")


class Data:
    """Queries and writes. ``hand_over`` passes a committed write's record to the supervisor."""

    def __init__(self, url: str, tables: Mapping[str, Table], origin: str,
                 hand_over: Callable[[Written], None], *, prepared: bool | None = None,
                 log_ahead: bool = False) -> None:
        self._tables = tables
        try:
            self._backend = open_backend(url, tables, origin, prepared=prepared, log_ahead=log_ahead)
        except ConfigError as error:
            raise ApiFailure("data_unavailable", str(error)) from None
        path = str(path_of(url) or "")
        self._compiler = Compiler(self._backend.backend, tables, path)
        self._parser = Parser(self._backend.backend, tables, path)
        self.outbox = Keeper(self._waiting, self._backend.forget, hand_over)

    async def query(self, request: Query, named: tuple[str, ...], plugin: str, share: float, user_id: str,
                    due_ns: int) -> tuple[bytes, dict[str, Any]]:
        """(the encoded rows, facts for the audit record). Raises ApiFailure."""
        await self._look(due_ns)
        for again in (False, True):
            compiled = await self._compiler.compile_by(self._parser, plugin, share, request.sql, named)
            values = compiled.values(list(request.params), user_id)
            try:
                with at_work():
                    rows, count = await self._backend.query(compiled, values, user_id, due_ns)
            except ApiFailure as failure:
                if (again or not compiled.guarded or failure.code != "column_not_allowed"
                        or not await self._look(due_ns, anew=True)):
                    raise compiled.failure(failure) from None
                continue
            break
        return rows, {"tables": compiled.tables, "rowCount": count}

    async def tenants(self, user_id: str, due_ns: int) -> list[str]:
        """The tenants of a user by every ``via`` of the tables, as texts; at most a few. Raises ApiFailure."""
        found: dict[str, None] = {}
        owners = {table.owner: table for table in self._tables.values() if isinstance(table.owner, ByMembership)}
        for pair, table in {(owner.via, owner.user, owner.tenant): (owner, table)
                            for owner, table in owners.items()}.values():
            compiled = Compiled(pair.tenants_text(lite=table.lite), 1, [], [], [], lite=table.lite)
            rows, _ = await self._backend.query(compiled, [user_id], user_id, due_ns)
            found.update(dict.fromkeys(str(row["tenant"]) for row in msgspec.msgpack.decode(rows)))
        return list(found)

    def query_at_once(self, request: Query, named: tuple[str, ...], user_id: str, due_ns: int
                      ) -> tuple[bytes, dict[str, Any]] | None:
        """The same as ``query``, if its text is compiled already and it takes no longer than the event loop may wait.
        Otherwise, and if it fails, None."""
        try:
            compiled = self._compiler.known(request.sql, named)
            if compiled is None:
                return None
            found = self._backend.query_at_once(compiled, compiled.values(list(request.params), user_id), due_ns)
        except ApiFailure:
            return None
        return None if found is None else (found[0], {"tables": compiled.tables, "rowCount": found[1]})

    async def _look(self, due_ns: int, *, anew: bool = False) -> bool:
        """Whether the database's tables are others than before. If it cannot say, the query itself will tell why."""
        try:
            return self._compiler.show(*await self._backend.shapes(due_ns, anew=anew))
        except ApiFailure:
            return False

    async def write(self, request: Insert | Upsert | Update | Delete, named: tuple[str, ...], plugin: str, user_id: str,
                    due_ns: int) -> tuple[bytes, dict[str, Any]]:
        """({rowCount, row? or rows?} encoded, no facts): the record is in the outbox and was handed over. Raises
        ApiFailure."""
        with counted():
            write = compile_write(request, self._tables, named, user_id)
            record = Outbox.record(write, user_id, plugin)
        with at_work():
            count, rows = await self._backend.write(write, record, user_id, due_ns)
        self.outbox.give(record.written())
        value: dict[str, Any] = {"rowCount": count}
        if rows is not None:
            value["row" if write.is_single else "rows"] = msgspec.Raw(rows)
        return _encode(value), {}

    async def _waiting(self, limit: int) -> list[Written]:
        return [record.written() for record in await self._backend.waiting(limit)]

    def warm(self) -> None:
        """Prepares what the first query needs."""
        self._parser.start()

    async def close(self) -> None:
        """Closes every connection and ends the process that compiles SQL."""
        self._parser.close()
        await self._backend.close()
