"""The fleet's first table."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """The nodes' statements."""
    op.execute("CREATE TABLE fleet_statements (name VARCHAR(63) NOT NULL, curve VARCHAR(40) NOT NULL, "
               "issued_ns BIGINT NOT NULL, statement TEXT NOT NULL, PRIMARY KEY (name, curve))")
