"""Where the nodes' statements are kept: a folder that is copied to every machine, or a table of the shared registry.

The book is an address book and no judge: what counts is a statement's signature. Both read everything each time;
a fleet has tens of nodes.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

import msgspec
import sqlalchemy as sa

from apex_exec.fleet.statements import CURVES_MAX, Statement, read, write
from apex_exec.registry.database import Schema, open_database, transact

log = logging.getLogger("apex_exec")

SUFFIX = ".node"
STATEMENTS_MAX = 1024
SCHEMA = Schema("fleet", Path(__file__).parent / "revisions", revision="0001", version=1)

metadata = sa.MetaData()

statements = sa.Table(
    "fleet_statements", metadata,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("curve", sa.String(40), primary_key=True),
    sa.Column("issued_ns", sa.BigInteger, nullable=False),
    sa.Column("statement", sa.Text, nullable=False),
)


class Book(Protocol):
    """Every call may block."""

    def read(self) -> list[Statement]:
        """All statements. Raises OSError or Refusal if the book cannot be read now."""

    def publish(self, statement: Statement) -> None:
        """Adds a node's statement. Raises ConfigError or Refusal."""


class FolderBook:
    """Files ``<node>.node`` of one folder; one that cannot be read as a statement is left out, and logged once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._told: set[tuple[str, str]] = set()

    def read(self) -> list[Statement]:
        """All statements of the folder."""
        found: list[Statement] = []
        for path in sorted(self._folder.glob(f"*{SUFFIX}"))[:STATEMENTS_MAX]:
            try:
                found.append(read(path.read_bytes()))
            except (OSError, ValueError, msgspec.DecodeError) as error:
                if (path.name, str(error)) not in self._told:
                    self._told.add((path.name, str(error)))
                    log.warning("fleet.book: the file %s is not a valid statement and is left out: %s", path, error)
        return found

    def publish(self, statement: Statement) -> None:
        """Writes the node's file."""
        write(self._folder / f"{statement.name}{SUFFIX}", statement)


class TableBook:
    """A table beside the registry's, in its database."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine: sa.Engine | None = None

    def _open(self) -> sa.Engine:
        if self._engine is None:
            self._engine = open_database(self._url, SCHEMA)
        return self._engine

    def read(self) -> list[Statement]:
        """All rows."""
        query = sa.select(statements.c.statement).order_by(statements.c.name).limit(STATEMENTS_MAX)
        rows = transact(self._open(), SCHEMA.name, lambda db: list(db.execute(query).scalars()), reads=True)
        found = []
        for text in rows:
            try:
                found.append(read(text.encode()))
            except (ValueError, msgspec.DecodeError) as error:
                log.warning("a row of the table fleet_statements is not a valid statement and is left out: %s", error)
        return found

    def publish(self, statement: Statement) -> None:
        """Puts the statement in place of one with the same key; of the node's others the latest stays."""
        def put(db: sa.Connection) -> None:
            of = statements.c.name == statement.name
            db.execute(sa.delete(statements).where(of, statements.c.curve == statement.curve))
            others = db.execute(sa.select(statements.c.curve).where(of).order_by(
                statements.c.issued_ns.desc()).offset(CURVES_MAX - 1)).scalars().all()
            if others:
                db.execute(sa.delete(statements).where(of, statements.c.curve.in_(others)))
            db.execute(sa.insert(statements).values(
                name=statement.name, curve=statement.curve, issued_ns=statement.issued_ns,
                statement=msgspec.json.encode(statement).decode()))

        transact(self._open(), SCHEMA.name, put)


def book_of(place: str, registry_url: str, keys_dir: Path) -> Book:
    """The book of this configuration: ``place`` is ``fleet.book``. Without one it is the registry's PostgreSQL, or a
    folder beside the keys if the registry is this node's own."""
    if place:
        return FolderBook(Path(place))
    if registry_url.startswith("postgresql"):
        return TableBook(registry_url)
    return FolderBook(keys_dir / "nodes")


