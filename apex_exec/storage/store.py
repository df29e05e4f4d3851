"""What plugins keep, by plugin, user and key: values, quotas, the audit records of writes. Every call blocks.

One transaction does a write, counts it against both quotas, and leaves its audit record in the outbox: all or nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import msgspec
import sqlalchemy as sa

from apex_exec.registry.database import forget_old_pages, open_database, transact
from apex_exec.storage.entries import COMMON, Full, Place, Waiting
from apex_exec.storage.tables import SCHEMA, STORE, ended, entries, outbox, totals, used

T = TypeVar("T")

ENTRY_BYTES = 64
"""What an entry counts beside its key and its value, about what a row and its index cost. It also bounds how many
entries there may be: 4,000 of a user within the default quota."""
CONNECT_SECONDS = 2
CONNECT = {"connect_timeout": CONNECT_SECONDS, "tcp_user_timeout": 10_000, "keepalives_idle": 5,
           "keepalives_interval": 2, "keepalives_count": 3, "application_name": "apex-exec-storage"}
"""For PostgreSQL: a server that is gone ends a call in about ten seconds, whatever the kernel's own patience is."""
EXPORTED_MAX = 200
"""Entries of one part of an export. A driver may fetch all of them before we look at their sizes."""
ERASED_AT_ONCE = 500
"""How many plugins' entries one transaction erases for a user."""


class Store:
    """The database at ``url``; ``user_bytes_max`` and ``plugin_bytes_max`` are the quotas. Raises Refusal if it cannot
    be opened, then and by every method."""

    def __init__(self, url: str, user_bytes_max: int = 0, plugin_bytes_max: int = 0) -> None:
        self._engine = open_database(url, SCHEMA, CONNECT if url.startswith("postgresql") else {})
        self._user_bytes_max = user_bytes_max
        self._plugin_bytes_max = plugin_bytes_max

    def close(self) -> None:
        """Closes every connection."""
        self._engine.dispose()

    # ------------------------------------------------------------------ what plugins do
    def get(self, place: Place, key: bytes, seconds: float) -> bytes | None:
        """The value under ``key``, as MessagePack; None if there is none."""
        query = sa.select(entries.c.value).where(*_at(place), entries.c.key == key)
        found = self._transact(lambda db: db.execute(query).scalar(), seconds, reads=True)
        return None if found is None else bytes(found)

    def keys(self, place: Place, prefix: bytes, after: bytes, limit: int, seconds: float
             ) -> list[tuple[bytes, int, int]]:
        """(key, bytes of its value, time of its last change) of up to ``limit`` keys that begin with ``prefix`` and
        come after ``after``, in order."""
        query = sa.select(entries.c.key, sa.func.length(entries.c.value), entries.c.updated_ns).where(
            *_at(place), entries.c.key > after, entries.c.key >= prefix)
        if (end := _after_all(prefix)) is not None:
            query = query.where(entries.c.key < end)
        query = query.order_by(entries.c.key).limit(limit)
        rows = self._transact(lambda db: db.execute(query).all(), seconds, reads=True)
        return [(bytes(key), int(size), int(at_ns)) for key, size, at_ns in rows]

    def set(self, place: Place, key: bytes, value: bytes, now_ns: int, record: Waiting, origin: str, seconds: float
            ) -> None:
        """Keeps ``value`` under ``key``. Raises Full; then nothing has changed."""
        def work(db: sa.Connection) -> None:
            size = len(key) + len(value) + ENTRY_BYTES
            before = db.execute(sa.select(sa.func.length(entries.c.value)).where(
                *_at(place), entries.c.key == key)).scalar()
            more = size - (0 if before is None else int(before) + len(key) + ENTRY_BYTES)
            of_user, of_all = self._used(db, place)
            if more > 0 and (full := self._full(place, of_user + more, of_all + more)):
                raise Full(full)
            if before is None:
                db.execute(sa.insert(entries).values(plugin=place.plugin, user_id=place.user_id, key=key, value=value,
                                                     updated_ns=now_ns))
            else:
                db.execute(sa.update(entries).where(*_at(place), entries.c.key == key).values(
                    value=value, updated_ns=now_ns))
            _count(db, place, of_user + more, of_all + more)
            _leave(db, record, origin)

        self._transact(work, seconds)

    def delete(self, place: Place, key: bytes, record: Waiting, origin: str, seconds: float) -> bool:
        """Forgets what stands under ``key``; whether anything did."""
        def work(db: sa.Connection) -> bool:
            before = db.execute(sa.select(sa.func.length(entries.c.value)).where(
                *_at(place), entries.c.key == key)).scalar()
            if before is not None:
                less = int(before) + len(key) + ENTRY_BYTES
                of_user, of_all = self._used(db, place)
                db.execute(sa.delete(entries).where(*_at(place), entries.c.key == key))
                _count(db, place, of_user - less, of_all - less)
            record.metadata["found"] = before is not None
            _leave(db, record, origin)
            return before is not None

        return self._transact(work, seconds)

    def _used(self, db: sa.Connection, place: Place) -> tuple[int, int]:
        """Bytes of this user, and of the whole plugin."""
        of_user = db.execute(sa.select(used.c.bytes).where(
            used.c.plugin == place.plugin, used.c.user_id == place.user_id)).scalar()
        of_all = db.execute(sa.select(totals.c.bytes).where(totals.c.plugin == place.plugin)).scalar()
        return int(of_user or 0), int(of_all or 0)

    def _full(self, place: Place, of_user: int, of_all: int) -> str:
        if place.user_id != COMMON and of_user > self._user_bytes_max:
            return f"this user's entries would have {of_user} bytes, and at most {self._user_bytes_max} may be kept"
        if of_all > self._plugin_bytes_max:
            return (f"the plugin's entries for all users would have {of_all} bytes, and at most "
                    f"{self._plugin_bytes_max} may be kept")
        return ""

    # ------------------------------------------------------------------ audit records of writes
    def waiting(self, origins: tuple[str, ...], limit: int) -> list[Waiting]:
        """Audit records in the outbox that one of ``origins`` has left."""
        query = sa.select(outbox.c.record).where(outbox.c.origin.in_(origins)).limit(limit)
        rows = self._transact(lambda db: db.execute(query).scalars().all(), CONNECT_SECONDS, reads=True)
        return [msgspec.json.decode(row, type=Waiting) for row in rows]

    def forget(self, ids: list[str]) -> None:
        """Deletes records from the outbox, because the ledger has them."""
        self._transact(lambda db: db.execute(sa.delete(outbox).where(outbox.c.id.in_(ids))), CONNECT_SECONDS)

    # ------------------------------------------------------------------ what administrators do
    def plugins_of(self, user_id: str) -> list[str]:
        """Plugins that keep something of the user."""
        query = sa.select(used.c.plugin).where(used.c.user_id == user_id).order_by(used.c.plugin)
        return list(self._transact(lambda db: db.execute(query).scalars().all(), 0, reads=True))

    def export(self, user_id: str, plugin: str, after: tuple[str, bytes], bytes_max: int
               ) -> tuple[list[tuple[str, bytes, bytes, int]], bool]:
        """(plugin, key, value, time of its last change) of what plugins, or ``plugin`` if it is not "", keep of the
        user, in the order of plugin and key, behind ``after``: at least one entry, and more up to ``bytes_max``. And
        whether there are more."""
        c = entries.c
        query = sa.select(c.plugin, c.key, c.value, c.updated_ns).where(
            c.user_id == user_id, sa.or_(c.plugin > after[0], sa.and_(c.plugin == after[0], c.key > after[1])))
        query = query.where(c.plugin == plugin if plugin else c.plugin.in_(self.plugins_of(user_id)))

        def work(db: sa.Connection) -> tuple[list[tuple[str, bytes, bytes, int]], bool]:
            found: list[tuple[str, bytes, bytes, int]] = []
            size = 0
            for name, key, value, at_ns in db.execute(query.order_by(c.plugin, c.key).limit(EXPORTED_MAX)):
                size += len(key) + len(value) + ENTRY_BYTES
                if found and size > bytes_max:
                    return found, True
                found.append((str(name), bytes(key), bytes(value), int(at_ns)))
            return found, len(found) == EXPORTED_MAX

        return self._transact(work, 0, reads=True)

    def erase(self, user_id: str, plugin: str = "") -> tuple[int, list[str]]:
        """Deletes what plugins, or this one, keep of the user: (how many entries, of which plugins)."""
        count, plugins = 0, [plugin] if plugin else self.plugins_of(user_id)
        for start in range(0, len(plugins), ERASED_AT_ONCE):
            places = [Place(name, user_id) for name in plugins[start : start + ERASED_AT_ONCE]]
            count += self._transact(functools.partial(_erase, places), 0)
        forget_old_pages(self._engine)
        return count, plugins

    def begin_end(self, plugin: str, version_ns: int) -> None:
        """Notes that the plugin, which has a version that was made at ``version_ns``, is about to be removed."""
        def work(db: sa.Connection) -> None:
            db.execute(sa.delete(ended).where(ended.c.plugin == plugin))
            db.execute(sa.insert(ended).values(plugin=plugin, version_ns=version_ns))

        self._transact(work, 0)

    def take_back_end(self, plugin: str) -> None:
        """The plugin was not removed."""
        self._transact(lambda db: db.execute(sa.delete(ended).where(ended.c.plugin == plugin)), 0)

    def ending(self) -> dict[str, int]:
        """The plugins whose removal has begun, and when a version of each was made."""
        query = sa.select(ended.c.plugin, ended.c.version_ns)
        return {str(plugin): int(version_ns) for plugin, version_ns in self._transact(
            lambda db: db.execute(query).all(), 0, reads=True)}

    def forget_plugin(self, plugin: str) -> int:
        """Deletes all that a plugin keeps, because it was removed: another one may get its id. How many entries."""
        def work(db: sa.Connection) -> int:
            count = db.execute(sa.delete(entries).where(entries.c.plugin == plugin)).rowcount
            for table in (used, totals, ended):
                db.execute(sa.delete(table).where(table.c.plugin == plugin))
            return count

        return self._transact(work, 0)

    def _transact(self, work: Callable[[sa.Connection], T], seconds: float, *, reads: bool = False) -> T:
        """``seconds`` is how long PostgreSQL may take for a statement and for a lock; 0: as long as it takes."""
        def bounded(db: sa.Connection) -> T:
            if db.dialect.name == "postgresql" and seconds:
                limit_ms = str(max(1, int(seconds * 1000)))
                db.execute(sa.text("SELECT set_config('statement_timeout', :ms, true), "
                                   "set_config('lock_timeout', :ms, true)"), {"ms": limit_ms})
            return work(db)

        return transact(self._engine, STORE, bounded, reads=reads)


def _at(place: Place) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return entries.c.plugin == place.plugin, entries.c.user_id == place.user_id


def _after_all(prefix: bytes) -> bytes | None:
    """The first bytes that come after everything that begins with ``prefix``; None if nothing does."""
    cut = prefix.rstrip(b"\xff")
    return cut[:-1] + bytes((cut[-1] + 1,)) if cut else None


def _count(db: sa.Connection, place: Place, of_user: int, of_all: int) -> None:
    """Notes what the entries come to now."""
    key = {"plugin": place.plugin, "user_id": place.user_id}
    db.execute(sa.delete(used).filter_by(**key))
    if of_user > 0:
        db.execute(sa.insert(used).values(**key, bytes=of_user))
    db.execute(sa.delete(totals).where(totals.c.plugin == place.plugin))
    if of_all > 0:
        db.execute(sa.insert(totals).values(plugin=place.plugin, bytes=of_all))


def _leave(db: sa.Connection, record: Waiting, origin: str) -> None:
    text = msgspec.json.encode(record).decode()
    db.execute(sa.insert(outbox).values(id=record.record_id, origin=origin, record=text))


def _erase(places: list[Place], db: sa.Connection) -> int:
    return sum(_erase_one(db, place) for place in places)


def _erase_one(db: sa.Connection, place: Place) -> int:
    size = db.execute(sa.select(used.c.bytes).where(
        used.c.plugin == place.plugin, used.c.user_id == place.user_id)).scalar() or 0
    count = db.execute(sa.delete(entries).where(*_at(place))).rowcount
    db.execute(sa.delete(used).where(used.c.plugin == place.plugin, used.c.user_id == place.user_id))
    db.execute(sa.update(totals).where(totals.c.plugin == place.plugin).values(bytes=totals.c.bytes - size))
    return count
