"""What the operator shows of the database: tables, their owner column, their visible columns. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from apex_exec.errors import ConfigError

OUTBOX = "apex_exec_outbox"
"""The table in the platform's own database where a write's audit record waits for the ledger; plugins never see it."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,60}")
"""PostgreSQL keeps 63 bytes of a name; queries put a prefix of two bytes before it."""


class Table(Struct, frozen=True):
    """One table as plugins see it. ``owner`` is the column with the user that a row belongs to."""

    name: str
    owner: str
    columns: tuple[str, ...]
    write: bool


def read_tables(section: Mapping[str, Mapping[str, Any]]) -> dict[str, Table]:
    """The operator's ``data.tables``. Raises ConfigError for a name that the gateway would not put into a statement."""
    tables: dict[str, Table] = {}
    for name, entry in section.items():
        table = Table(name, entry["owner"], tuple(entry["columns"]), bool(entry.get("write", False)))
        for word in (name, table.owner, *table.columns):
            if not _NAME.fullmatch(word):
                hint = ("; a table of another schema is found by the role's search_path (ALTER ROLE … SET)"
                        if word == name and "." in word else "")
                raise ConfigError(f"data.tables.{name}: {word!r} is not a plain name (letters, digits, '_', 61 at "
                                  f"most){hint}")
        words = {table.owner, *table.columns}
        # SQLite treats them as one: a plugin could then write the owner
        if len({word.lower() for word in words}) < len(words):
            raise ConfigError(f"data.tables.{name}: two of its columns differ only in case")
        if name.lower().startswith((OUTBOX, "sqlite_", "pg_")) or name.lower() == "information_schema":
            raise ConfigError(f"data.tables.{name}: this table is not for plugins")
        tables[name] = table
    return tables
