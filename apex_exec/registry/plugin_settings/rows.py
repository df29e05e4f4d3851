"""The rows of plugins' settings, in and out. No decisions; every call blocks. The registry's store runs them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec
import sqlalchemy as sa

from apex_exec.registry.tables import plugin_settings as t

_encode = msgspec.msgpack.Encoder().encode


class Row(msgspec.Struct, frozen=True):
    """One value. ``value`` is JSON, or of a secret its ciphertext."""

    plugin: str
    scope: str
    owner: str
    name: str
    secret: bool
    value: str
    updated_ns: int
    uid: int

    @property
    def place(self) -> tuple[str, str, str, str]:
        """What the ciphertext of a secret is bound to."""
        return self.plugin, self.scope, self.owner, self.name


def of_plugin(db: sa.Connection, plugin: str) -> list[Row]:
    """Everything that is set for a plugin, owner by owner."""
    query = sa.select(t).where(t.c.plugin == plugin).order_by(t.c.scope, t.c.owner, t.c.name)
    return [Row(**row._mapping) for row in db.execute(query)]


def everything(db: sa.Connection) -> list[Row]:
    """Everything that is set, plugin by plugin and owner by owner."""
    query = sa.select(t).order_by(t.c.plugin, t.c.scope, t.c.owner, t.c.name)
    return [Row(**row._mapping) for row in db.execute(query)]


def of_owner(db: sa.Connection, plugin: str, scope: str, owner: str) -> list[Row]:
    """What one owner has."""
    query = sa.select(t).where(t.c.plugin == plugin, t.c.scope == scope, t.c.owner == owner).order_by(t.c.name)
    return [Row(**row._mapping) for row in db.execute(query)]


def plugins(db: sa.Connection) -> list[str]:
    """The plugins that something is set for."""
    return list(db.execute(sa.select(t.c.plugin).distinct().order_by(t.c.plugin)).scalars())


def secrets(db: sa.Connection) -> list[Row]:
    """Every secret of every plugin."""
    query = sa.select(t).where(t.c.secret).order_by(t.c.plugin, t.c.scope, t.c.owner, t.c.name)
    return [Row(**row._mapping) for row in db.execute(query)]


def has_secrets(db: sa.Connection) -> bool:
    """Whether any plugin has a secret."""
    return db.execute(sa.select(sa.literal(1)).select_from(t).where(t.c.secret).limit(1)).first() is not None


def owners(db: sa.Connection, plugin: str) -> dict[str, int]:
    """How many owners of each scope have a value of this plugin's."""
    pairs = sa.select(t.c.scope, t.c.owner).where(t.c.plugin == plugin).distinct().subquery()
    query = sa.select(pairs.c.scope, sa.func.count()).group_by(pairs.c.scope)
    return {scope: int(count) for scope, count in db.execute(query)}


def size(db: sa.Connection, plugin: str) -> int:
    """How many characters the values of a plugin have."""
    return int(db.execute(sa.select(sa.func.coalesce(sa.func.sum(sa.func.length(t.c.value)), 0)).where(
        t.c.plugin == plugin)).scalar_one())


def put(db: sa.Connection, row: Row) -> None:
    """Adds a value or replaces it."""
    drop(db, row.plugin, row.scope, row.owner, [row.name])
    db.execute(sa.insert(t).values(msgspec.structs.asdict(row)))


def drop(db: sa.Connection, plugin: str, scope: str, owner: str, names: Iterable[str] | None) -> int:
    """Deletes values of one owner, all without ``names``; how many there were."""
    query = sa.delete(t).where(t.c.plugin == plugin, t.c.scope == scope, t.c.owner == owner)
    return db.execute(query if names is None else query.where(t.c.name.in_(list(names)))).rowcount


def drop_plugin(db: sa.Connection, plugin: str) -> int:
    """Deletes all that is set for a plugin; how many values there were."""
    return db.execute(sa.delete(t).where(t.c.plugin == plugin)).rowcount


def drop_user(db: sa.Connection, user_id: str) -> list[str]:
    """Deletes what is set for one user; of which plugins."""
    mine = sa.and_(t.c.scope == "user", t.c.owner == user_id)
    found = list(db.execute(sa.select(t.c.plugin).where(mine).distinct()).scalars())
    db.execute(sa.delete(t).where(mine))
    return found


def state(db: sa.Connection) -> tuple[int, int]:
    """Two numbers that change with the rows, whichever daemon has changed them."""
    count, total = db.execute(sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(
        sa.cast(t.c.updated_ns, sa.Numeric)), 0)).select_from(t)).one()
    return int(count), int(total)


def held(row: Row) -> int:
    """How many bytes of an owner's bound a value takes. A ciphertext is base64: a third longer than its text."""
    return len(row.value) * 3 // 4 if row.secret else len(row.value)


def decoded(value: str) -> Any:
    """A value that is not a secret."""
    return json.loads(value)


def packed(values: dict[str, Any]) -> bytes:
    """Values as they go to the supervisor."""
    return _encode(values)
