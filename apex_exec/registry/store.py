"""What the registry stores: plugins, versions, approvals, enablement, installs, keys, signatures.

``Store.transact(work)`` runs ``work(db)`` in one serializable transaction on SQLite or PostgreSQL; the functions below
take that ``db``. They read and write rows and decide nothing: states and permissions belong to ``lifecycle``. Every
call blocks; a database that fails raises Refusal("store_unusable").
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import msgspec
import sqlalchemy as sa

from apex_exec.registry import tables as t
from apex_exec.registry.bundles import shared
from apex_exec.registry.database import is_server, open_database, tell_others, transact

T = TypeVar("T")
Row = TypeVar("Row", bound=msgspec.Struct)

CHANNEL = "apex_exec_registry"
"""What daemons on one server listen to: ``<sender>|<plugin>,<plugin>``; without plugins, anything may have changed."""
EVERYBODY = ""
"""The ``user_id`` of an enablement for everybody."""


class PluginRow(msgspec.Struct, frozen=True):
    """One plugin. ``version`` is the served one ("" before the first), ``state`` the lifecycle state."""

    id: str
    name: str
    author: str
    version: str
    state: str
    reason: str
    author_key: str
    created_ns: int
    updated_ns: int


class VersionRow(msgspec.Struct, frozen=True):
    """One version of one plugin. ``manifest`` is JSON; ``author_key`` is the registered key that signed it, or ""."""

    plugin: str
    version: str
    digest: str
    manifest: str
    state: str
    reason: str
    author_key: str
    created_ns: int
    created_uid: int
    served_ns: int


class ApprovalRow(msgspec.Struct, frozen=True):
    """One request for one admin permission of one digest, and its decision."""

    id: int
    plugin: str
    version: str
    digest: str
    permission: str
    state: str
    requested_ns: int
    decided_ns: int
    expires_ns: int
    uid: int
    key_id: str
    reason: str
    statement: str
    signature: str


class EnablementRow(msgspec.Struct, frozen=True):
    """One interval in which a plugin was enabled for ``user_id`` ("" is everybody). ``to_ns`` is None while it is open.
    """

    id: int
    plugin: str
    user_id: str
    from_ns: int
    to_ns: int | None


class InstallRow(msgspec.Struct, frozen=True):
    """One change of what is installed: who made it, when, and to which version."""

    id: int
    plugin: str
    version: str
    digest: str
    operation: str
    uid: int
    at_ns: int
    note: str


class KeyRow(msgspec.Struct, frozen=True):
    """One registered public key (hexadecimal), its role, and the times between which it may sign."""

    key_id: str
    name: str
    role: str
    owner: str
    public_key: str
    state: str
    valid_from_ns: int
    valid_until_ns: int
    registered_ns: int
    uid: int
    revoked_ns: int
    reason: str


class SignatureRow(msgspec.Struct, frozen=True):
    """One verified signature over a digest."""

    digest: str
    role: str
    key_id: str
    signature: str
    signed_ns: int


class Store:
    """The registry's database, opened and migrated. Raises Refusal: store_newer, store_unusable."""

    def __init__(self, url: str) -> None:
        self.engine = open_database(url, t.SCHEMA)
        self.is_shared = is_server(self.engine)
        """Whether other daemons may work with these rows: they are then not this daemon's alone to judge."""
        self.sender = secrets.token_hex(8)
        """Names this process to the others that listen: nobody has to look again for its own changes."""

    def transact(self, work: Callable[[sa.Connection], T]) -> T:
        """Runs ``work(db)`` in one transaction: all of it takes effect, or nothing. ``work`` may run more than once."""
        return transact(self.engine, t.STORE, work)

    def tell_others(self, db: sa.Connection, plugins: Iterable[str]) -> None:
        """Has the other daemons look at ``plugins`` once the open transaction is committed. On SQLite it does nothing.
        """
        if self.is_shared:
            db.execute(sa.select(sa.func.nextval(t.CHANGES)))
            tell_others(db, CHANNEL, f"{self.sender}|{','.join(sorted(plugins))}")

    def close(self) -> None:
        """Closes every connection."""
        self.engine.dispose()


def plugins_told(payload: str, sender: str) -> set[str] | None:
    """The plugins that a message on ``CHANNEL`` names; none if it is ``sender``'s own, None if any may have changed."""
    by, _, names = payload.partition("|")
    if by == sender:
        return set()
    return set(names.split(",")) if names else None


def fingerprint(db: sa.Connection) -> str:
    """A text that is another one if what is to be served by the rows is; it is made on the server.

    Ten thousand plugins take the server some twenty milliseconds, and making all of their specs takes a daemon two
    seconds.
    """
    parts = [db.execute(sa.text(
        f"SELECT coalesce(md5(string_agg({row}, '|' ORDER BY {row})), '') FROM {table}")).scalar()
             for table, row in (
                 ("plugins", "concat_ws(',', id, version, state, reason, updated_ns)"),
                 ("versions", "concat_ws(',', plugin, version, digest, state)"),
                 ("approvals WHERE state = 'approved'", "concat_ws(',', id, digest, permission, expires_ns)"),
                 ("enablement WHERE to_ns IS NULL", "concat_ws(',', plugin, user_id)"),
                 ("keys", "concat_ws(',', key_id, state)"), ("signatures", "concat_ws(',', digest, key_id, role)"))]
    return "-".join(map(str, parts))


def changes(db: sa.Connection) -> int:
    """The number of the latest change, on a server; it only grows."""
    return int(db.execute(sa.text(f"SELECT last_value FROM {t.CHANGES}")).scalar_one())


def _one(kind: type[Row], row: sa.Row[Any] | None) -> Row | None:
    return None if row is None else kind(**row._mapping)


def _all(kind: type[Row], rows: sa.CursorResult[Any]) -> list[Row]:
    return [kind(**row._mapping) for row in rows]


# ---------------------------------------------------------------------- plugins and versions
def get_plugin(db: sa.Connection, plugin: str) -> PluginRow | None:
    """The plugin's row, even if the plugin was removed."""
    return _one(PluginRow, db.execute(sa.select(t.plugins).where(t.plugins.c.id == plugin)).first())


def put_plugin(db: sa.Connection, row: PluginRow) -> None:
    """Adds the plugin or replaces its row."""
    values = msgspec.structs.asdict(row)
    if get_plugin(db, row.id) is None:
        db.execute(sa.insert(t.plugins).values(values))
    else:
        db.execute(sa.update(t.plugins).where(t.plugins.c.id == row.id).values(values))


def change_plugin(db: sa.Connection, plugin: str, now_ns: int, **values: Any) -> None:
    """Changes single columns of a plugin's row."""
    db.execute(sa.update(t.plugins).where(t.plugins.c.id == plugin).values(updated_ns=now_ns, **values))


def get_version(db: sa.Connection, plugin: str, version: str) -> VersionRow | None:
    """One version of one plugin."""
    query = sa.select(t.versions).where(t.versions.c.plugin == plugin, t.versions.c.version == version)
    return _one(VersionRow, db.execute(query).first())


def get_digest(db: sa.Connection, digest: str) -> VersionRow | None:
    """The version with that digest. A digest has one plugin and one version, because both are in its manifest."""
    return _one(VersionRow, db.execute(sa.select(t.versions).where(t.versions.c.digest == digest)).first())


def list_versions(db: sa.Connection, plugin: str | None = None) -> list[VersionRow]:
    """The versions of one plugin, or of all, oldest first."""
    query = sa.select(t.versions).order_by(t.versions.c.plugin, t.versions.c.created_ns, t.versions.c.version)
    return _all(VersionRow, db.execute(query if plugin is None else query.where(t.versions.c.plugin == plugin)))


def put_version(db: sa.Connection, row: VersionRow) -> None:
    """Adds the version or replaces its row."""
    values = msgspec.structs.asdict(row)
    if get_version(db, row.plugin, row.version) is None:
        db.execute(sa.insert(t.versions).values(values))
    else:
        db.execute(sa.update(t.versions).where(t.versions.c.plugin == row.plugin,
                                               t.versions.c.version == row.version).values(values))


def change_version(db: sa.Connection, plugin: str, version: str, **values: Any) -> None:
    """Changes single columns of a version's row. The state of a revoked version never changes, however late the caller.
    """
    query = sa.update(t.versions).where(t.versions.c.plugin == plugin, t.versions.c.version == version)
    if "state" in values:
        query = query.where(t.versions.c.state != "revoked")
    db.execute(query.values(**values))


def drop_version(db: sa.Connection, plugin: str, version: str) -> None:
    """Deletes a version's row, unless the version was revoked: that is for good. ``BlobStore.sweep`` removes its blob.
    """
    digests = list(db.execute(sa.select(t.versions.c.digest).where(
        t.versions.c.plugin == plugin, t.versions.c.version == version)).scalars())
    db.execute(sa.delete(t.versions).where(t.versions.c.plugin == plugin, t.versions.c.version == version,
                                           t.versions.c.state != "revoked"))
    shared.forget(db, digests)


def list_served(db: sa.Connection, plugin: str | None = None) -> list[tuple[PluginRow, VersionRow]]:
    """Every plugin that is not removed, or only ``plugin``, with the version it serves, in one query."""
    query = (sa.select(t.plugins, t.versions)
             .join(t.versions, sa.and_(t.versions.c.plugin == t.plugins.c.id,
                                       t.versions.c.version == t.plugins.c.version))
             .where(t.plugins.c.state != "removed").order_by(t.plugins.c.id))
    if plugin is not None:
        query = query.where(t.plugins.c.id == plugin)
    width = len(t.plugins.c)
    return [(PluginRow(*row[:width]), VersionRow(*row[width:])) for row in db.execute(query)]


class Served(NamedTuple):
    """The version that an installed plugin serves."""

    plugin: str
    version: str
    digest: str


def list_installed(db: sa.Connection, states: Iterable[str]) -> list[Served]:
    """As ``list_served``, of the plugins in one of ``states`` and without their manifests: these are long, and this is
    asked every few seconds."""
    query = sa.select(t.plugins.c.id, t.versions.c.version, t.versions.c.digest).join(
        t.versions, sa.and_(t.versions.c.plugin == t.plugins.c.id, t.versions.c.version == t.plugins.c.version)).where(
        t.plugins.c.state.in_(tuple(states))).order_by(t.plugins.c.id)
    return [Served(*row) for row in db.execute(query)]


def is_paid(version: VersionRow) -> bool:
    """Whether a version's manifest has a price. A version whose manifest cannot be read is not served anyway."""
    try:
        pricing = msgspec.json.decode(version.manifest.encode(), type=_Priced).pricing
    except msgspec.DecodeError:
        return False
    return pricing.model != "free"


class _Pricing(msgspec.Struct, frozen=True):
    model: str = "free"


class _Priced(msgspec.Struct, frozen=True):
    pricing: _Pricing = _Pricing()


def record_install(db: sa.Connection, version: VersionRow, operation: str, uid: int, at_ns: int,
                   note: str = "") -> None:
    """Adds one line to the plugin's history."""
    db.execute(sa.insert(t.installs).values(plugin=version.plugin, version=version.version, digest=version.digest,
                                            operation=operation, uid=uid, at_ns=at_ns, note=note))


def list_installs(db: sa.Connection, plugin: str | None = None, limit: int = 1000) -> list[InstallRow]:
    """The latest ``limit`` lines of the history, oldest first."""
    query = sa.select(t.installs).order_by(t.installs.c.id.desc()).limit(limit)
    rows = db.execute(query if plugin is None else query.where(t.installs.c.plugin == plugin))
    return _all(InstallRow, rows)[::-1]


SWITCHES = ("install", "upgrade", "rollback", "remove")
"""The operations of the history after which a plugin serves another version, or none."""


def list_switches(db: sa.Connection) -> list[InstallRow]:
    """Every line of the history that changed which version a plugin serves, oldest first."""
    query = sa.select(t.installs).where(t.installs.c.operation.in_(SWITCHES)).order_by(t.installs.c.id)
    return _all(InstallRow, db.execute(query))


# ---------------------------------------------------------------------- enablement
def enabled_for(db: sa.Connection, plugin: str | None = None) -> dict[str, set[str]]:
    """For each plugin, the users for whom it is enabled now; EVERYBODY among them means all users."""
    query = sa.select(t.enablement.c.plugin, t.enablement.c.user_id).where(t.enablement.c.to_ns.is_(None))
    found: dict[str, set[str]] = {}
    for name, user in db.execute(query if plugin is None else query.where(t.enablement.c.plugin == plugin)):
        found.setdefault(name, set()).add(user)
    return found


def open_enablement(db: sa.Connection, plugin: str, user_id: str, now_ns: int) -> bool:
    """Begins an interval. Returns False if one is already open."""
    if user_id in enabled_for(db, plugin).get(plugin, ()):
        return False
    db.execute(sa.insert(t.enablement).values(plugin=plugin, user_id=user_id, from_ns=now_ns, to_ns=None))
    return True


def close_enablement(db: sa.Connection, plugin: str, now_ns: int, user_id: str | None = None) -> int:
    """Ends the open intervals of one user, or of all (None). Returns their number."""
    query = sa.update(t.enablement).where(t.enablement.c.plugin == plugin, t.enablement.c.to_ns.is_(None))
    if user_id is not None:
        query = query.where(t.enablement.c.user_id == user_id)
    # An interval never ends before it began, even if the clock was set back meanwhile.
    end = sa.case((t.enablement.c.from_ns > now_ns, t.enablement.c.from_ns), else_=now_ns)
    return db.execute(query.values(to_ns=end)).rowcount


def list_enablement(db: sa.Connection, *, plugin: str | None = None, user_id: str | None = None,
                    from_ns: int = 0, to_ns: int | None = None) -> list[EnablementRow]:
    """The intervals that overlap [from_ns, to_ns), oldest first. Hosting is billed from them."""
    c = t.enablement.c
    query = sa.select(t.enablement).where(sa.or_(c.to_ns.is_(None), c.to_ns > from_ns)).order_by(c.from_ns, c.id)
    if to_ns is not None:
        query = query.where(c.from_ns < to_ns)
    if plugin is not None:
        query = query.where(c.plugin == plugin)
    if user_id is not None:
        query = query.where(c.user_id == user_id)
    return _all(EnablementRow, db.execute(query))


# ---------------------------------------------------------------------- approvals
def add_approval(db: sa.Connection, version: VersionRow, permission: str, now_ns: int) -> None:
    """Adds a request that waits for a decision."""
    db.execute(sa.insert(t.approvals).values(
        plugin=version.plugin, version=version.version, digest=version.digest, permission=permission,
        state="requested", requested_ns=now_ns, decided_ns=0, expires_ns=0, uid=-1, key_id="", reason="",
        statement="", signature=""))


def list_approvals(db: sa.Connection, *, plugin: str | None = None, digest: str | None = None,
                   state: str | None = None, key_id: str | None = None) -> list[ApprovalRow]:
    """Approvals selected by any of these, oldest first. For a digest and permission, the last one is in force."""
    query = sa.select(t.approvals).order_by(t.approvals.c.id)
    for column, value in ((t.approvals.c.plugin, plugin), (t.approvals.c.digest, digest),
                          (t.approvals.c.state, state), (t.approvals.c.key_id, key_id)):
        if value is not None:
            query = query.where(column == value)
    return _all(ApprovalRow, db.execute(query))


def change_approval(db: sa.Connection, approval: int, **values: Any) -> None:
    """Changes single columns of one approval."""
    db.execute(sa.update(t.approvals).where(t.approvals.c.id == approval).values(**values))


# ---------------------------------------------------------------------- keys and signatures
def get_key(db: sa.Connection, key_id: str) -> KeyRow | None:
    """A registered key by its id."""
    return _one(KeyRow, db.execute(sa.select(t.keys).where(t.keys.c.key_id == key_id)).first())


def list_keys(db: sa.Connection, *, name: str | None = None, role: str | None = None) -> list[KeyRow]:
    """Registered keys, oldest first. One name may have several keys through rotation."""
    query = sa.select(t.keys).order_by(t.keys.c.registered_ns, t.keys.c.key_id)
    if name is not None:
        query = query.where(t.keys.c.name == name)
    if role is not None:
        query = query.where(t.keys.c.role == role)
    return _all(KeyRow, db.execute(query))


def market_keys(db: sa.Connection, now_ns: int) -> dict[str, str]:
    """The marketplaces' keys that are trusted now: id → public key (hexadecimal)."""
    return {row.key_id: row.public_key for row in list_keys(db, role="market")
            if row.state == "active" and row.valid_from_ns <= now_ns < row.valid_until_ns}


def add_key(db: sa.Connection, row: KeyRow) -> None:
    """Registers a key."""
    db.execute(sa.insert(t.keys).values(msgspec.structs.asdict(row)))


def change_key(db: sa.Connection, key_id: str, **values: Any) -> None:
    """Changes single columns of one key."""
    db.execute(sa.update(t.keys).where(t.keys.c.key_id == key_id).values(**values))


def add_signature(db: sa.Connection, row: SignatureRow) -> bool:
    """Stores a signature in place of another one by the same key. Returns False if exactly this one is already stored.
    """
    c = t.signatures.c
    same = sa.and_(c.digest == row.digest, c.role == row.role, c.key_id == row.key_id)
    known = db.execute(sa.select(c.signature).where(same)).first()
    if known is not None and known[0] == row.signature:
        return False
    db.execute(sa.delete(t.signatures).where(same))
    db.execute(sa.insert(t.signatures).values(msgspec.structs.asdict(row)))
    return True


def list_signatures(db: sa.Connection, digest: str | None = None, key_id: str | None = None) -> list[SignatureRow]:
    """Signatures over a digest, or by a key."""
    query = sa.select(t.signatures).order_by(t.signatures.c.signed_ns)
    if digest is not None:
        query = query.where(t.signatures.c.digest == digest)
    if key_id is not None:
        query = query.where(t.signatures.c.key_id == key_id)
    return _all(SignatureRow, db.execute(query))
