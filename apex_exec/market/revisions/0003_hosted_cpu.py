"""The CPU time for hosting in a closed month's bill; months that were closed before have none."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """One more column."""
    op.add_column("closed_usage", sa.Column("host_cpu_us", sa.BigInteger, nullable=False, server_default="0"))
