"""What the daemon's own stores hold of one person: rows that name the user, and a pseudonym in the id's place.

Registry and marketplace name users in columns of text, alone (``user_id``) or inside (a purchase's request, an
invoice's line). Signed texts are left alone: what is in them would no longer verify. Every call blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from apex_exec.common.sqlite import open_readonly, path_of
from apex_exec.registry import tables
from apex_exec.registry.database import unusable

SIGNED = frozenset((
    "statement", "signature", "manifest", "result", "result_signature", "entry", "public_key", "sha256", "digest"))
"""Columns that hold signed or hashed texts, none of which is about a user of the platform."""
TABLES = tuple(tables.metadata.tables.values())


def _texts(table: sa.Table) -> list[sa.Column[Any]]:
    return [column for column in table.columns if isinstance(column.type, sa.String) and column.name not in SIGNED]


def rename(db: sa.Connection, within: Iterable[sa.Table], user_id: str, pseudonym: str) -> int:
    """Puts ``pseudonym`` in the place of the user's id wherever it is in these tables; in how many values."""
    count = 0
    for table in within:
        for column in _texts(table):
            count += db.execute(sa.update(table).where(column.contains(user_id)).values(
                {column: sa.func.replace(column, user_id, pseudonym)})).rowcount
    return count


def rows_about(db: sa.Connection, within: Iterable[sa.Table], user_id: str) -> Iterator[dict[str, Any]]:
    """Every row that names the user, as ``{"table": …, "row": {column: value}}``."""
    there = set(sa.inspect(db).get_table_names())
    for table in within:
        if table.name in there and (texts := _texts(table)):
            query = sa.select(table).where(sa.or_(*(column.contains(user_id) for column in texts)))
            for row in db.execute(query.order_by(*table.primary_key.columns)):
                yield {"table": table.name, "row": dict(row._mapping)}


def read_about(name: str, url: str, within: Iterable[sa.Table], user_id: str) -> list[dict[str, Any]]:
    """As ``rows_about``, in the store ``name`` at ``url``, which is only read; nothing if it does not exist yet. Raises
    Refusal."""
    path = path_of(url)
    if path is not None and not path.is_file():
        return []
    engine = sa.create_engine(url, **({"creator": lambda: open_readonly(path)} if path is not None else {}))
    try:
        with engine.connect() as db:
            return [{"store": name, **row} for row in rows_about(db, within, user_id)]
    except (SQLAlchemyError, OSError) as error:
        raise unusable(name, error) from error
    finally:
        engine.dispose()
