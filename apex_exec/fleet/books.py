"""Where the nodes' statements are kept: a folder that is copied to every machine, or a table of the shared registry.

The book is an address book and no judge: what counts is a statement's signature. Both read everything each time;
a fleet has tens of nodes.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import Protocol

import msgspec
import sqlalchemy as sa

from apex_exec.fleet.statements import CURVES_MAX, STATEMENT_BYTES_MAX, Statement, read, write
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


class _Told:
    """What was said of the entries that are no statements: each is logged once, and again if its fault is another."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}

    def say(self, found: dict[str, str]) -> None:
        """``found`` are all entries that are no statements now, with their faults."""
        for entry, why in found.items():
            if self._told.get(entry) != why:
                log.warning("fleet.book: %s is not a statement: %s", entry, why)
        self._told = found


class FolderBook:
    """Files ``<node>.node`` of one folder. A file that cannot be read as a statement counts as what was last read of
    it, since it may be half written; one that never could is left out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last: dict[str, Statement] = {}
        self._told = _Told()

    def read(self) -> list[Statement]:
        """All statements of the folder. Raises OSError if there is no such folder, or if it cannot be read."""
        found: dict[str, Statement] = {}
        wrong: dict[str, str] = {}
        for name in sorted(name for name in os.listdir(self._folder) if name.endswith(SUFFIX))[:STATEMENTS_MAX]:
            try:
                found[name] = read(_content(self._folder / name))
            except FileNotFoundError:
                continue  # it was removed meanwhile
            except (OSError, ValueError) as error:
                wrong[ascii(str(self._folder / name))] = str(error)
                if name in self._last:
                    found[name] = self._last[name]
        self._told.say(wrong)
        self._last = found
        return list(found.values())

    def publish(self, statement: Statement) -> None:
        """Writes the node's file."""
        write(self._folder / f"{statement.name}{SUFFIX}", statement)


class TableBook:
    """A table beside the registry's, in its database."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine: sa.Engine | None = None
        self._told = _Told()

    def _open(self) -> sa.Engine:
        if self._engine is None:
            self._engine = open_database(self._url, SCHEMA)
        return self._engine

    def read(self) -> list[Statement]:
        """All rows."""
        c = statements.c
        query = sa.select(c.name, c.statement).where(sa.func.length(c.statement) <= STATEMENT_BYTES_MAX).order_by(
            c.name).limit(STATEMENTS_MAX)
        rows = transact(self._open(), SCHEMA.name, lambda db: db.execute(query).all(), reads=True)
        found = []
        wrong: dict[str, str] = {}
        for name, text in rows:
            try:
                found.append(read(text.encode()))
            except ValueError as error:
                wrong[f"the row of {name[:63]!a} in {statements.name}"] = str(error)
        self._told.say(wrong)
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


def _content(path: Path) -> bytes:
    """What the file has, one byte more than a statement may have at the most. Never waits for a writer, as the reader
    of a pipe would. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError("it is not a regular file")
        return os.read(fd, STATEMENT_BYTES_MAX + 1)
    finally:
        os.close(fd)


def book_of(place: str, registry_url: str, keys_dir: Path) -> Book:
    """The book of this configuration: ``place`` is ``fleet.book``. Without one it is the registry's PostgreSQL, or a
    folder beside the keys if the registry is this node's own."""
    if place:
        return FolderBook(Path(place))
    if registry_url.startswith("postgresql"):
        return TableBook(registry_url)
    return FolderBook(keys_dir / "nodes")
