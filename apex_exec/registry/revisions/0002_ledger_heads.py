"""The recorded length of the ledger, which outlives the ledger's files. Registry and marketplace may share a database.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """One more table."""
    op.execute("CREATE TABLE IF NOT EXISTS ledger_heads (ledger VARCHAR(40) NOT NULL, seq BIGINT NOT NULL, "
               "hash VARCHAR(64) NOT NULL, PRIMARY KEY (ledger))")
