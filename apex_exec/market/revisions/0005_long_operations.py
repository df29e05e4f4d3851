"""Operations that go on after their first answer: what was asked, and how it ended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """One more table."""
    op.create_table(
        "lasting",
        sa.Column("id", sa.String(80), nullable=False, primary_key=True),
        sa.Column("op", sa.String(40), nullable=False),
        sa.Column("args", sa.Text, nullable=False), sa.Column("asked_ns", sa.BigInteger, nullable=False),
        sa.Column("ended_ns", sa.BigInteger), sa.Column("state", sa.String(10), nullable=False),
        sa.Column("refusal", sa.Text, nullable=False))
