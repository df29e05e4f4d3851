"""The table of notes that the workloads of ``python -m benchmarks ab`` ask for, in SQLite or on a server of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apex_exec.testing.postgres import Postgres
from benchmarks.daemon import USER

OTHERS = 1000
"""The rows of other users."""
SCHEMA = ["CREATE TABLE notes (id bigint PRIMARY KEY, user_id text NOT NULL, created bigint NOT NULL DEFAULT 0, "
          "text text)", "CREATE INDEX notes_latest ON notes (user_id, created)"]


def rows_of(rows: int) -> Iterator[tuple[int, str, int, str]]:
    """``rows`` notes of USER, and OTHERS of another."""
    for number in range(rows + OTHERS):
        yield number, USER if number < rows else "another", number * 7919 % 1_000_003, f"text {number}"


def fill(execute: Callable[[str], Any], rows: int, insert: Callable[[], Any]) -> None:
    """Makes the table by ``execute``, and fills it by ``insert``."""
    for statement in SCHEMA:
        execute(statement)
    insert()
    execute("ANALYZE")


@contextmanager
def server_with(rows: int) -> Iterator[str]:
    """The address of a server with the table, for a role that may read and write it."""
    import psycopg

    with tempfile.TemporaryDirectory(prefix="apxpg") as name:
        server = Postgres(Path(name))
        try:
            url = server.url("ab", user="plugins")
            server.execute("CREATE ROLE plugins LOGIN")

            def insert() -> None:
                with (psycopg.connect(f"host={name} dbname=ab user=postgres", autocommit=True) as connection,
                      connection.cursor().copy("COPY notes FROM STDIN") as copy):
                    for row in rows_of(rows):
                        copy.write_row(row)

            fill(lambda text: server.execute(text, database="ab"), rows, insert)
            server.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON notes TO plugins",
                           "GRANT CREATE ON SCHEMA public TO plugins", database="ab")
            yield url
        finally:
            server.stop()
