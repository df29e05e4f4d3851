"""What the operator shows of the database: tables, whose their rows are, their visible columns. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from apex_exec.errors import ConfigError
from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.owners import Owner, placed, quoted, read_owner

OUTBOX = "apex_exec_outbox"
"""The table in the platform's own database where a write's audit record waits for the ledger; plugins never see it."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,60}")
"""PostgreSQL keeps 63 bytes of a name; queries put a prefix of two bytes before it."""


class Table(Struct, frozen=True):
    """One table as plugins see it, with its schema if the operator named one. ``lite``: in SQLite."""

    name: str
    owner: Owner
    columns: tuple[str, ...]
    write: bool
    lite: bool = False

    def placed(self, quote: Callable[[str], str] = quoted) -> str:
        """Its name as a statement has it."""
        return placed(self.name, quote, lite=self.lite)

    def condition(self, caller: Callable[[], str], quote: Callable[[str], str] = quoted) -> str:
        """The condition under which a row is the caller's: see ``owners``."""
        return self.owner.condition(self.placed(quote), caller, quote, lite=self.lite)

    @property
    def setting(self) -> dict[str, Any]:
        """The table as the configuration has it."""
        return {"owner": self.owner.setting, "columns": self.columns, "write": self.write}


def read_tables(section: Mapping[str, Mapping[str, Any]], backend: str = "postgres") -> dict[str, Table]:
    """The operator's ``data.tables`` in a database of the kind ``backend``.

    Raises ConfigError for a name that the gateway would not put into a statement, and for an owner that nobody can
    rely on.
    """
    tables: dict[str, Table] = {}
    lite = backend == "sqlite"
    for name, entry in section.items():
        key = f"data.tables.{name}"
        table = Table(name, read_owner(f"{key}.owner", entry["owner"]), tuple(entry["columns"]),
                      bool(entry.get("write", False)), lite)
        via, theirs = table.owner.looked_up
        _check_place(key, name)
        if via:
            _check_place(f"{key}.owner.via", via)
        for word in (*table.owner.columns, *theirs, *table.columns):
            _check_word(key, word)
        words = {*table.owner.columns, *table.columns}
        # SQLite treats them as one: a plugin could then write the owner
        if len({word.lower() for word in words}) < len(words):
            raise ConfigError(f"{key}: two of its columns differ only in case")
        if lite and table.owner.decided_by_rls:
            raise ConfigError(f'{key}.owner: SQLite has no row-level security, which "rls" relies on; name the column '
                              "with the user's id, or {column, via, user, tenant}")
        tables[name] = table
    for name, table in tables.items():
        for other in tables.values():
            if table.write and other.owner.looked_up[0] and _may_be_one(name, other.owner.looked_up[0]):
                raise ConfigError(f"data.tables.{name}.write: this table says who belongs to which tenant "
                                  f"(data.tables.{other.name}.owner); a plugin that writes it could enter any tenant")
    return tables


def _check_word(key: str, word: str) -> None:
    if not _NAME.fullmatch(word):
        raise ConfigError(f"{key}: {word!r} is not a plain name (letters, digits, '_', 61 at most)")


def _check_place(key: str, name: str) -> None:
    """Raises ConfigError unless ``name`` is that of a table for plugins, with or without its schema."""
    schema, dot, own = name.rpartition(".")
    for word in (schema, own) if dot else (own,):
        if not _NAME.fullmatch(word):
            raise ConfigError(f"{key}: {name!r} is not a table's name, as in orders or app.orders (letters, digits, "
                              "'_', 61 at most)")
    theirs = schema.lower().startswith(("pg_", "sqlite_")) or schema.lower() == "information_schema"
    if theirs or own.lower().startswith((OUTBOX, "sqlite_", "pg_")) or own.lower() == "information_schema":
        raise ConfigError(f"{key}: {name} is not for plugins")


def _may_be_one(name: str, other: str) -> bool:
    """Whether two names may mean one table: a name without a schema is found in any."""
    schema, _, own = name.lower().rpartition(".")
    theirs, _, word = other.lower().rpartition(".")
    return own == word and (not schema or not theirs or schema == theirs)


def unnamed(failure: ApiFailure, words: str, tables: Mapping[str, Table]) -> ApiFailure:
    """``failure``, or what to say instead if ``words``, the database's text about a missing name, are about a table
    that says who belongs to which tenant: plugins do not know of it. A plugin's own names have prefixes in ``words``.
    """
    for table in tables.values():
        via = table.owner.looked_up[0].rpartition(".")[2]
        if via and re.search(rf"(?<![\w@]){via}(?!\w)", words):
            return ApiFailure("data_unavailable", no_tenants(table.name))
    return failure


def no_tenants(name: str, why: str = "") -> str:
    """What to say if the condition of ``name``'s owner fails, because of ``why`` if the reader may know that."""
    return (f"data.tables.{name}.owner: the database cannot tell the caller's tenants: "
            f"{why or '`apex-exec config check` says why'}")
