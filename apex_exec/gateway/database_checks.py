"""What the platform's database must be like before plugins may use it: the role, row-level security, memberships.

The gateway looks at each new connection to PostgreSQL. ``config check`` looks once, at either database, and quotes the
database's own words, which are for operators only.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from apex_exec.common.sqlite import open_readonly, path_of
from apex_exec.errors import ConfigError
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.owners import ByMembership
from apex_exec.gateway.sql.tables import Table, no_tenants

if TYPE_CHECKING:
    from psycopg import AsyncConnection

SECONDS_MAX = 3
"""How long ``config check`` waits for a server."""

_SHOWN = "FROM unnest($1::text[], $2::text[]) AS shown(name, place) "
_UNBOUND = (f"SELECT shown.name {_SHOWN}JOIN pg_class ON pg_class.oid = to_regclass(shown.place) "
            "WHERE relrowsecurity AND NOT relforcerowsecurity AND pg_has_role(current_user, relowner, 'USAGE')")
"""Finds tables whose row-level security does not bind the role, because the role owns them or has an owner's rights."""
_UNFORCED = (f"SELECT shown.name, shown.place, relkind {_SHOWN}LEFT JOIN pg_class ON pg_class.oid = "
             "to_regclass(shown.place) WHERE NOT coalesce(relrowsecurity AND relforcerowsecurity, false)")
"""Finds tables whose row-level security is not on for everybody, or which are not there at all."""


async def check_connection(connection: AsyncConnection[Any], tables: Mapping[str, Table], *,
                           for_operator: bool = False) -> None:
    """Raises ApiFailure ``data_unavailable`` unless plugins may use this connection to PostgreSQL.

    ``for_operator``: quote the database, which may name what plugins do not see."""
    cursor = await connection.execute(
        "SELECT rolname, rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")
    role = await cursor.fetchone()
    if role is None or role[1]:
        raise _unusable("data.url names a role that row-level security does not bind; use one that is not a superuser "
                        "and has no BYPASSRLS")
    cursor = await connection.execute(_UNBOUND, _places(tables.values()))
    if owned := await cursor.fetchone():
        raise _unusable(f"the role that data.url names owns {owned[0]}, whose row-level security does not bind it; "
                        f"ALTER TABLE {owned[0]} FORCE ROW LEVEL SECURITY, or use a role that owns none")
    decided = [table for table in tables.values() if table.owner.decided_by_rls]
    if decided:
        cursor = await connection.execute(_UNFORCED, _places(decided))
        if open_ := await cursor.fetchone():
            raise _unusable(_unforced(*open_))
    for table in tables.values():
        if isinstance(table.owner, ByMembership):
            await _check_membership(connection, table, for_operator)


def _unforced(name: str, place: str, kind: Any) -> str:
    about = f'data.tables.{name}.owner is "rls", but '
    if kind is None:
        return f"{about}there is no such table for the role"
    if kind in (b"r", b"p", "r", "p"):
        return (f"{about}row-level security is not forced on it; ALTER TABLE {place} ENABLE ROW LEVEL SECURITY, FORCE "
                "ROW LEVEL SECURITY")
    return f"{about}it is a view, and row-level security is of tables; name the column with the user's id instead"


async def _check_membership(connection: AsyncConnection[Any], table: Table, for_operator: bool) -> None:
    import psycopg

    # the server checks names, types and rights before it returns no row
    text = f"SELECT 1 FROM {table.placed()} WHERE {table.condition(lambda: '$1')} LIMIT 0"
    try:
        await connection.execute(text, (None,))
    except psycopg.ProgrammingError as error:
        words = (error.diag.message_primary or str(error)) if for_operator else ""
        raise _unusable(no_tenants(table.name, words)) from None


def _places(tables: Any) -> tuple[list[str], list[str]]:
    return [table.name for table in tables], [table.placed() for table in tables]


def _unusable(words: str) -> ApiFailure:
    return ApiFailure("data_unavailable", words)


def check_database(url: str, tables: Mapping[str, Table]) -> str:
    """Why the database could not be looked at; "" if it could. Raises ConfigError if plugins could not use it.

    Blocks, for some SECONDS_MAX at most."""
    if (path := path_of(url)) is None:
        return asyncio.run(_look_at_postgres(url, tables))
    if not path.exists():
        return f"{path} does not exist yet"
    try:
        with contextlib.closing(open_readonly(path, busy_seconds=SECONDS_MAX)) as database:
            database.execute("PRAGMA schema_version").fetchone()  # whether it is a database at all
            for table in tables.values():
                if isinstance(table.owner, ByMembership):
                    _look_at_sqlite(database, table)
    except (OSError, sqlite3.Error) as error:
        return f"{path}: {error}"
    return ""


def _look_at_sqlite(database: sqlite3.Connection, table: Table) -> None:
    try:
        database.execute(f"SELECT 1 FROM {table.placed()} WHERE {table.condition(lambda: '$1')} LIMIT 0", {"1": ""})
    except sqlite3.Error as error:
        raise ConfigError(no_tenants(table.name, str(error))) from None


def server_of(url: str) -> str:
    """``data.url`` in the form that PostgreSQL's own library reads. Raises ConfigError if it could not."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    scheme, _, rest = url.partition("://")
    plain = f"{scheme.partition('+')[0]}://{rest}"
    try:
        conninfo_to_dict(plain)
    except psycopg.ProgrammingError as error:
        raise ConfigError(f"data.url: {str(error).strip()}; its parameters are those of libpq, as in "
                          "?sslmode=verify-full; data.prepared_statements is a key of its own") from None
    return plain


async def _look_at_postgres(url: str, tables: Mapping[str, Table]) -> str:
    import psycopg

    try:
        connection = await psycopg.AsyncConnection.connect(
            server_of(url), autocommit=True, connect_timeout=SECONDS_MAX, cursor_factory=psycopg.AsyncRawCursor,
            prepare_threshold=None)
        async with connection:
            await check_connection(connection, tables, for_operator=True)
    except ApiFailure as failure:
        raise ConfigError(failure.message) from None
    except psycopg.Error as error:
        return str(error).partition("\n")[0]
    return ""
