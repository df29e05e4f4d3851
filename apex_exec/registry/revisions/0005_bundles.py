"""Bundles by digest, so that every daemon on one server gets what another has installed; a count of its changes.

Older releases go on with the store, and may be started again on it: they neither see these tables nor need them.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """One more table, and on a server a sequence: it also shows that the database was restored from a backup."""
    server = op.get_context().dialect.name == "postgresql"
    blob = "BYTEA" if server else "BLOB"
    op.execute(f"CREATE TABLE bundles (digest VARCHAR(64) NOT NULL, data {blob} NOT NULL, stored_ns BIGINT NOT NULL, "
               "PRIMARY KEY (digest))")
    if server:
        op.execute("CREATE SEQUENCE registry_changes")
