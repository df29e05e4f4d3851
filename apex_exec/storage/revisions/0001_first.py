"""The storage's first tables."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Entries, what they come to, and the outbox of their audit records."""
    blob = "BLOB" if op.get_context().dialect.name == "sqlite" else "BYTEA"
    for statement in (
        f"CREATE TABLE storage_entries (plugin VARCHAR(50) NOT NULL, user_id VARCHAR(64) NOT NULL, "
        f"key {blob} NOT NULL, value {blob} NOT NULL, updated_ns BIGINT NOT NULL, PRIMARY KEY (plugin, user_id, key))",
        "CREATE TABLE storage_used (plugin VARCHAR(50) NOT NULL, user_id VARCHAR(64) NOT NULL, "
        "bytes BIGINT NOT NULL, PRIMARY KEY (plugin, user_id))",
        "CREATE INDEX storage_used_user ON storage_used (user_id)",
        "CREATE TABLE storage_totals (plugin VARCHAR(50) NOT NULL PRIMARY KEY, bytes BIGINT NOT NULL)",
        "CREATE TABLE storage_outbox (id VARCHAR(64) NOT NULL PRIMARY KEY, origin VARCHAR(400) NOT NULL, "
        "record TEXT NOT NULL)",
        "CREATE INDEX ix_storage_outbox_origin ON storage_outbox (origin)",
    ):
        op.execute(statement)
