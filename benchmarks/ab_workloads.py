"""The workloads of ``python -m benchmarks ab``: what one client asks of two daemons."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from apex_exec.testing.postgres import Postgres, missing
from benchmarks.bench_gateway import PERMISSIONS, PLUGIN
from benchmarks.daemon import USER, Host, write_bundle
from benchmarks.lab import Lab

CALLS = 300
BATCH = 1
"""API calls of one invocation: on a busy machine, more of the slowest that we compare would exceed its deadline."""
WARM_SECONDS = 60
SIZES = {"100": 100, "100,000": 100_000}
OTHERS = 1000
"""The rows of other users."""
TABLES = {"notes": {"owner": "user_id", "columns": ["id", "created", "text"]}}
SCHEMA = ["CREATE TABLE notes (id bigint PRIMARY KEY, user_id text NOT NULL, created bigint NOT NULL, text text)",
          "CREATE INDEX notes_latest ON notes (user_id, created)"]
QUERIES = {"by key": ("SELECT id, text FROM notes WHERE id = $1", [7]),
           "latest ten": ("SELECT id, created, text FROM notes ORDER BY created DESC LIMIT 10", [])}
NAMES = [f"{database}, {size} rows" for database in ("SQLite", "PostgreSQL") for size in SIZES]


class Case(Struct):
    """One question. ``run`` asks it ``calls`` times and returns how long each took, in µs."""

    name: str
    text: str
    params: list[Any]

    def _asked(self, host: Host, count: int) -> dict[str, Any]:
        arguments = {"sql": self.text, "params": self.params}
        return host.invoke("caller", {"api": "query", "args": arguments, "count": count})

    def warm(self, host: Host) -> None:
        """Asks until it is answered: the process that compiles SQL takes seconds to start on a busy machine."""
        until = time.monotonic() + WARM_SECONDS
        while (reply := self._asked(host, 1))["type"] == "error":
            if time.monotonic() > until:
                raise SystemExit(f"no call is answered: {reply}")

    def run(self, host: Host, calls: int) -> list[float]:
        """Raises SystemExit if a call fails."""
        took: list[float] = []
        while len(took) < calls:
            reply = self._asked(host, BATCH)
            if reply["type"] == "error":
                raise SystemExit(f"a call failed: {reply}")
            took += [ns / 1000 for ns in reply["result"]["result"]]
        return took


class Workload(Struct):
    """A database that is filled, and what is asked of it."""

    plugins: Path
    config: dict[str, Any]
    cases: list[Case]


@contextmanager
def prepared(lab: Lab, name: str) -> Iterator[Workload | None]:
    """The workload ``name``; None if it cannot run here, which a note says."""
    database, _, size = name.partition(", ")
    rows = SIZES[size.removesuffix(" rows")]
    with tempfile.TemporaryDirectory(prefix="apxw") as folder:
        plugins = Path(folder) / "plugins"
        write_bundle(plugins, "caller", PLUGIN.format(id="caller", permissions=PERMISSIONS), permissions=PERMISSIONS,
                     data={"tables": ["notes"]})
        cases = [Case(word, *query) for word, query in QUERIES.items()]
        config: dict[str, Any] = {"data.tables": TABLES, "limits.cpu_percent": 100,
                                  "limits.api_calls_per_second": 1_000_000}
        if database == "SQLite":
            path = Path(folder) / "data.db"
            with closing(sqlite3.connect(path)) as made:
                insert = "INSERT INTO notes VALUES (?, ?, ?, ?)"
                _fill(made.execute, rows, lambda: made.executemany(insert, _rows(rows)))
                made.commit()
            yield Workload(plugins, {**config, "data.url": f"sqlite:///{path}"}, cases)
        elif why := missing():
            lab.note(f"{name} is left out: {why}")
            yield None
        else:
            with _server(rows) as url:
                yield Workload(plugins, {**config, "data.url": url}, cases)


def _rows(rows: int) -> Iterator[tuple[int, str, int, str]]:
    for number in range(rows + OTHERS):
        yield number, USER if number < rows else "another", number * 7919 % 1_000_003, f"text {number}"


def _fill(execute: Callable[[str], Any], rows: int, insert: Callable[[], Any]) -> None:
    for statement in SCHEMA:
        execute(statement)
    insert()
    execute("ANALYZE")


@contextmanager
def _server(rows: int) -> Iterator[str]:
    import psycopg

    with tempfile.TemporaryDirectory(prefix="apxpg") as name:
        server = Postgres(Path(name))
        try:
            url = server.url("ab", user="plugins")
            server.execute("CREATE ROLE plugins LOGIN")

            def insert() -> None:
                with (psycopg.connect(f"host={name} dbname=ab user=postgres", autocommit=True) as connection,
                      connection.cursor().copy("COPY notes FROM STDIN") as copy):
                    for row in _rows(rows):
                        copy.write_row(row)

            _fill(lambda text: server.execute(text, database="ab"), rows, insert)
            server.execute("GRANT SELECT ON notes TO plugins", database="ab")
            yield url
        finally:
            server.stop()
