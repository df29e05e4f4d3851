"""The registry's tables and the migrations that create them. Times are nanoseconds of UTC since 1970.

A migration is written out in full and never changed after its release: the content of an old store must not depend on
what the tables below look like today.
"""

from __future__ import annotations

import sqlalchemy as sa

from apex_exec.registry.trust import heads

STORE = "registry"
"""The store's name in ``schema_versions`` and in messages."""

metadata = sa.MetaData()

plugins = sa.Table(
    "plugins", metadata,
    sa.Column("id", sa.String(50), primary_key=True),
    sa.Column("name", sa.String(400), nullable=False),
    sa.Column("author", sa.String(400), nullable=False),
    sa.Column("version", sa.String(20), nullable=False, default=""),  # the served version; "" before the first
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("author_key", sa.String(32), nullable=False, default=""),  # the key that signed the served version
    sa.Column("created_ns", sa.BigInteger, nullable=False),
    sa.Column("updated_ns", sa.BigInteger, nullable=False),
)

versions = sa.Table(
    "versions", metadata,
    sa.Column("plugin", sa.String(50), sa.ForeignKey("plugins.id"), primary_key=True),
    sa.Column("version", sa.String(20), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False, index=True),
    sa.Column("manifest", sa.Text, nullable=False),  # JSON as in the bundle
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    # "" if it is unsigned, or signed by an unknown key
    sa.Column("author_key", sa.String(32), nullable=False, default=""),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
    sa.Column("created_uid", sa.Integer, nullable=False),
    sa.Column("served_ns", sa.BigInteger, nullable=False, default=0),  # when it was last switched to; 0 means never
)

approvals = sa.Table(
    "approvals", metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("plugin", sa.String(50), nullable=False, index=True),
    sa.Column("version", sa.String(20), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False, index=True),
    sa.Column("permission", sa.String(40), nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("requested_ns", sa.BigInteger, nullable=False),
    sa.Column("decided_ns", sa.BigInteger, nullable=False, default=0),
    sa.Column("expires_ns", sa.BigInteger, nullable=False, default=0),
    sa.Column("uid", sa.Integer, nullable=False, default=-1),  # who decided; -1 before a decision
    sa.Column("key_id", sa.String(32), nullable=False, default=""),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("statement", sa.Text, nullable=False, default=""),  # the signed text, byte for byte
    sa.Column("signature", sa.String(128), nullable=False, default=""),
)

enablement = sa.Table(
    "enablement", metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("plugin", sa.String(50), nullable=False, index=True),
    sa.Column("user_id", sa.String(36), nullable=False, default=""),  # "" is everybody
    sa.Column("from_ns", sa.BigInteger, nullable=False),
    sa.Column("to_ns", sa.BigInteger),  # NULL while the interval is open
)

installs = sa.Table(
    "installs", metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("plugin", sa.String(50), nullable=False, index=True),
    sa.Column("version", sa.String(20), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("operation", sa.String(20), nullable=False),  # install upgrade rollback remove quarantine ...
    sa.Column("uid", sa.Integer, nullable=False),
    sa.Column("at_ns", sa.BigInteger, nullable=False),
    sa.Column("note", sa.Text, nullable=False, default=""),
)

keys = sa.Table(
    "keys", metadata,
    sa.Column("key_id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(100), nullable=False, index=True),
    sa.Column("role", sa.String(20), nullable=False),  # author approver market
    sa.Column("owner", sa.String(400), nullable=False),  # the person or company behind it
    sa.Column("public_key", sa.String(64), nullable=False),  # raw Ed25519, hexadecimal
    sa.Column("state", sa.String(20), nullable=False),  # active revoked
    sa.Column("valid_from_ns", sa.BigInteger, nullable=False),
    sa.Column("valid_until_ns", sa.BigInteger, nullable=False),
    sa.Column("registered_ns", sa.BigInteger, nullable=False),
    sa.Column("uid", sa.Integer, nullable=False),
    sa.Column("revoked_ns", sa.BigInteger, nullable=False, default=0),
    sa.Column("reason", sa.Text, nullable=False, default=""),
)

signatures = sa.Table(
    "signatures", metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("role", sa.String(20), primary_key=True),
    sa.Column("key_id", sa.String(32), primary_key=True),
    sa.Column("signature", sa.String(128), nullable=False),
    sa.Column("signed_ns", sa.BigInteger, nullable=False),
)


def _first(db: sa.Connection) -> None:
    identity = "INTEGER PRIMARY KEY AUTOINCREMENT" if db.dialect.name == "sqlite" else "SERIAL PRIMARY KEY"
    for statement in (
        "CREATE TABLE plugins (id VARCHAR(50) PRIMARY KEY, name VARCHAR(400) NOT NULL, author VARCHAR(400) NOT NULL, "
        "version VARCHAR(20) NOT NULL, state VARCHAR(20) NOT NULL, reason TEXT NOT NULL, "
        "author_key VARCHAR(32) NOT NULL, created_ns BIGINT NOT NULL, updated_ns BIGINT NOT NULL)",
        "CREATE TABLE versions (plugin VARCHAR(50) NOT NULL REFERENCES plugins (id), version VARCHAR(20) NOT NULL, "
        "digest VARCHAR(64) NOT NULL, manifest TEXT NOT NULL, state VARCHAR(20) NOT NULL, reason TEXT NOT NULL, "
        "author_key VARCHAR(32) NOT NULL, created_ns BIGINT NOT NULL, created_uid INTEGER NOT NULL, "
        "served_ns BIGINT NOT NULL, PRIMARY KEY (plugin, version))",
        "CREATE INDEX ix_versions_digest ON versions (digest)",
        f"CREATE TABLE approvals (id {identity}, plugin VARCHAR(50) NOT NULL, version VARCHAR(20) NOT NULL, "
        "digest VARCHAR(64) NOT NULL, permission VARCHAR(40) NOT NULL, state VARCHAR(20) NOT NULL, "
        "requested_ns BIGINT NOT NULL, decided_ns BIGINT NOT NULL, expires_ns BIGINT NOT NULL, uid INTEGER NOT NULL, "
        "key_id VARCHAR(32) NOT NULL, reason TEXT NOT NULL, statement TEXT NOT NULL, signature VARCHAR(128) NOT NULL)",
        "CREATE INDEX ix_approvals_plugin ON approvals (plugin)",
        "CREATE INDEX ix_approvals_digest ON approvals (digest)",
        f"CREATE TABLE enablement (id {identity}, plugin VARCHAR(50) NOT NULL, user_id VARCHAR(36) NOT NULL, "
        "from_ns BIGINT NOT NULL, to_ns BIGINT)",
        "CREATE INDEX ix_enablement_plugin ON enablement (plugin)",
        # The index allows one open interval for each plugin and user, whoever writes: nobody is billed twice for
        # enabling twice.
        "CREATE UNIQUE INDEX ux_enablement_open ON enablement (plugin, user_id) WHERE to_ns IS NULL",
        f"CREATE TABLE installs (id {identity}, plugin VARCHAR(50) NOT NULL, version VARCHAR(20) NOT NULL, "
        "digest VARCHAR(64) NOT NULL, operation VARCHAR(20) NOT NULL, uid INTEGER NOT NULL, at_ns BIGINT NOT NULL, "
        "note TEXT NOT NULL)",
        "CREATE INDEX ix_installs_plugin ON installs (plugin)",
        "CREATE TABLE keys (key_id VARCHAR(32) PRIMARY KEY, name VARCHAR(100) NOT NULL, role VARCHAR(20) NOT NULL, "
        "owner VARCHAR(400) NOT NULL, public_key VARCHAR(64) NOT NULL, state VARCHAR(20) NOT NULL, "
        "valid_from_ns BIGINT NOT NULL, valid_until_ns BIGINT NOT NULL, registered_ns BIGINT NOT NULL, "
        "uid INTEGER NOT NULL, revoked_ns BIGINT NOT NULL, reason TEXT NOT NULL)",
        "CREATE INDEX ix_keys_name ON keys (name)",
        "CREATE TABLE signatures (digest VARCHAR(64) NOT NULL, role VARCHAR(20) NOT NULL, key_id VARCHAR(32) NOT NULL, "
        "signature VARCHAR(128) NOT NULL, signed_ns BIGINT NOT NULL, PRIMARY KEY (digest, role, key_id))",
    ):
        db.execute(sa.text(statement))


MIGRATIONS = (_first, heads.create)
