"""The registry's first tables."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Plugins, versions, approvals, enablement, installs, keys, signatures."""
    sqlite = op.get_context().dialect.name == "sqlite"
    identity = "INTEGER PRIMARY KEY AUTOINCREMENT" if sqlite else "SERIAL PRIMARY KEY"
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
        # The index allows one open interval for each plugin and user, even with several writers: nobody is billed twice
        # for enabling twice.
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
        op.execute(statement)
