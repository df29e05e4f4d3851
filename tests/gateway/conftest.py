"""The same rows in SQLite and in PostgreSQL, reached as the gateway reaches them."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from apex_exec.catalogue.methods import Delete, Insert, Update, Upsert
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.outbox import Outbox
from apex_exec.gateway.postgres import Postgres as PostgresBackend
from apex_exec.gateway.sql.compiler import Compiled, Compiler
from apex_exec.gateway.sql.tables import read_tables
from apex_exec.gateway.sql.writes import compile_write
from apex_exec.gateway.sqlite import Sqlite
from tests.support.postgres import Postgres

A = "aaaaaaaa-0000-4000-8000-000000000001"
B = "bbbbbbbb-0000-4000-8000-000000000002"
SECONDS = 1_000_000_000
ROLE = "plugins"

SCHEMA = [
    "CREATE TABLE users (id uuid PRIMARY KEY, name text, email text, password text)",
    "CREATE TABLE orders (id integer PRIMARY KEY, user_id uuid NOT NULL, item text, total numeric(10,2), n integer)",
    "CREATE TABLE secrets (id integer PRIMARY KEY, user_id uuid, word text)",
    "CREATE TABLE notes (id integer PRIMARY KEY, user_id uuid NOT NULL, text text NOT NULL, tag text UNIQUE)",
    "CREATE TABLE things (user_id uuid, a_bigint bigint, a_numeric numeric, a_double double precision, a_text text, "
    "a_uuid uuid, a_stamp timestamptz, a_date date, a_bool boolean, a_json jsonb, some_bytes bytea)",
]
TABLES = {
    "users": {"owner": "id", "columns": ["id", "name", "email"]},
    "orders": {"owner": "user_id", "columns": ["id", "user_id", "item", "total", "n"]},
    "notes": {"owner": "user_id", "columns": ["id", "text", "tag"], "write": True},
    "things": {"owner": "user_id", "write": True,
               "columns": ["a_bigint", "a_numeric", "a_double", "a_text", "a_uuid", "a_stamp", "a_date", "a_bool",
                           "a_json", "some_bytes"]},
}
NAMED = tuple(TABLES)


def rows_of(users: str) -> list[str]:
    """INSERTs. Every text of B's begins with SECRET, every hidden one of A's with HIDDEN."""
    done = []
    if "A" in users:
        done.append(f"INSERT INTO users VALUES ('{A}', 'Ann', 'ann@a', 'HIDDEN pw')")
    if "B" in users:
        done.append(f"INSERT INTO users VALUES ('{B}', 'SECRET Bob', 'SECRET b', 'SECRET pw')")
    for number in range(1, 9):
        owner = "AB"[number % 2]
        if owner in users:
            text = "SECRET" if owner == "B" else "item"
            user = B if owner == "B" else A
            done.append(f"INSERT INTO orders VALUES ({number}, '{user}', '{text} {number}', {number}.50, {number - 3})")
            done.append(f"INSERT INTO secrets VALUES ({number}, '{user}', 'HIDDEN {text}')")
            done.append(f"INSERT INTO notes VALUES ({number}, '{user}', '{text} note', 'tag{number}')")
    return done


class Data:
    """One database behind the gateway, used from one event loop in a thread of its own."""

    def __init__(self, backend: Any, contents: Any, execute: Any) -> None:
        self.backend = backend
        self.execute = execute
        """Runs one statement as the database's owner."""
        self.contents = contents
        """Everything the database holds, as one comparable value."""
        self.tables = read_tables(TABLES, backend.backend)
        self.path = str(backend._path) if isinstance(backend, Sqlite) else ""
        self.compiler = Compiler(backend.backend, self.tables, self.path)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def compiled(self, text: str, named: tuple[str, ...] = NAMED) -> Compiled:
        """``text`` compiled as the gateway does, with what the database says of its tables."""
        self.compiler.show(*self.run(self.backend.shapes(time.monotonic_ns() + 10 * SECONDS)))
        return self.compiler.compile(text, named)

    def query(self, text: str, params: list[Any] | None = None, user: str = A, named: tuple[str, ...] = NAMED,
              seconds: float = 10) -> Any:
        compiled = self.compiled(text, named)
        values = compiled.values(params or [], user)
        due_ns = time.monotonic_ns() + int(seconds * SECONDS)
        try:
            raw, count = self.run(self.backend.query(compiled, values, user, due_ns))
        except ApiFailure as failure:
            raise compiled.failure(failure) from None
        rows = msgspec.msgpack.decode(raw)
        assert len(rows) == count
        return rows

    def write(self, request: Insert | Upsert | Update | Delete, user: str = A, named: tuple[str, ...] = NAMED) -> Any:
        write = compile_write(request, self.tables, named, user)
        record = Outbox.record(write, user, "p")
        count, row = self.run(self.backend.write(write, record, user, time.monotonic_ns() + 10 * SECONDS))
        return count, None if row is None else msgspec.msgpack.decode(row)

    def show(self, tables: dict[str, Any], *, alone: bool = False) -> None:
        """Shows these tables, beside the usual ones unless ``alone``."""
        self.tables = read_tables(tables if alone else {**TABLES, **tables}, self.backend.backend)
        self.compiler = Compiler(self.backend.backend, self.tables, self.path)
        if isinstance(self.backend, PostgresBackend):
            self.backend._tables = self.tables
            self.backend._shapes = None
        if isinstance(self.backend, Sqlite):
            self.backend._tables = self.tables
            for reader in self.backend._readers:  # opened anew: they know what is a view
                reader.database.close()
            self.backend._readers.clear()
            self.backend._here = None

    def close(self) -> None:
        self.run(self.backend.close())
        self._loop.call_soon_threadsafe(self._loop.stop)


def sqlite_data(path: Path, users: str = "AB") -> Data:
    with sqlite3.connect(path) as database:
        for statement in [*SCHEMA, *rows_of(users)]:
            database.execute(statement)
    database.close()

    def contents() -> Any:
        with sqlite3.connect(path) as reader:
            return list(reader.iterdump())

    def execute(statement: str) -> None:
        with sqlite3.connect(path) as writer:
            writer.execute(statement)

    return Data(Sqlite(path, read_tables(TABLES, "sqlite"), "test"), contents, execute)


def postgres_data(server: Postgres, name: str, users: str = "AB", *, secured: bool = True) -> Data:
    """``secured`` False leaves row-level security out: then the rewriting of the text has to hold alone.

    It also makes comparing owners dear, so that a planner that may choose looks at the plugin's conditions first.
    """
    url = server.url(name, user=ROLE)
    server.execute(f"DO $$ BEGIN CREATE ROLE {ROLE} LOGIN; EXCEPTION WHEN duplicate_object THEN END $$")
    walls = [f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY" for table in TABLES]
    walls += [f"CREATE POLICY own ON {table} USING ({entry['owner']}::text = "
              "current_setting('request.jwt.claims', true)::json->>'sub')" for table, entry in TABLES.items()]
    granted = [f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {ROLE}" for table in [*TABLES, "secrets"]]
    granted += [f"GRANT CREATE ON SCHEMA public TO {ROLE}"]
    if not secured:
        walls = ["ALTER FUNCTION pg_catalog.uuid_eq(uuid, uuid) COST 10000"]
    server.execute(*SCHEMA, *rows_of(users), *walls, *granted, database=name)

    def contents() -> Any:
        import psycopg
        with psycopg.connect(f"host={server.folder} dbname={name} user=postgres") as connection:
            names = [row[0] for row in connection.execute(
                "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
                "WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1").fetchall()]
            return {table: sorted(map(str, connection.execute(f"SELECT * FROM {table}").fetchall())) for table in names}

    return Data(PostgresBackend(url, read_tables(TABLES), "test"), contents,
                lambda statement: server.execute(statement, database=name))


def postgres_again(server: Postgres, name: str) -> Data:
    """The database that ``postgres_data`` has made, reached anew."""
    url = f"postgresql+psycopg://{ROLE}@/{name}?host={server.folder}"
    return Data(PostgresBackend(url, read_tables(TABLES), "test"), lambda: None,
                lambda statement: server.execute(statement, database=name))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder for one file's daemon, with a path that is short enough for a socket."""
    path = Path(tempfile.mkdtemp(prefix="apx"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Data]:
    """A database with rows of A and of B, once in SQLite and once in PostgreSQL."""
    if request.param == "sqlite":
        made = sqlite_data(tmp_path_factory.mktemp("data") / "data.db")
    else:
        made = postgres_data(request.getfixturevalue("postgres"), "gateway")
    yield made
    made.close()


@pytest.fixture(scope="module", params=["sqlite", "postgres", "postgres without its row-level security"])
def twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Data, Data]]:
    """Two databases that differ in B's rows alone: the first has them."""
    if request.param == "sqlite":
        folder = tmp_path_factory.mktemp("twins")
        both, alone = sqlite_data(folder / "both.db"), sqlite_data(folder / "alone.db", "A")
    else:
        server = request.getfixturevalue("postgres")
        secured = request.param == "postgres"
        both = postgres_data(server, "both", secured=secured)
        alone = postgres_data(server, "alone", "A", secured=secured)
    yield both, alone
    both.close()
    alone.close()


@pytest.fixture(params=["sqlite", "postgres"])
def fresh(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Data]:
    """A database of its own for each test."""
    if request.param == "sqlite":
        made = sqlite_data(tmp_path / "data.db")
    else:
        made = postgres_data(request.getfixturevalue("postgres"), "writes")
    yield made
    made.close()


@pytest.fixture
def world() -> Iterator[Any]:
    """A ``World``: a server and a resolver of ours, and a fetcher."""
    from tests.gateway.http_world import World  # it needs aiohttp, and most of this folder does not
    made = World()
    yield made
    made.close()
