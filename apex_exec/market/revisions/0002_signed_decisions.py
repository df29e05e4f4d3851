"""Reviewers' decisions with the statement that they signed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # only INTEGER counts up by itself there


def upgrade() -> None:
    """One more table."""
    op.create_table(
        "decisions",
        sa.Column("id", _Id, primary_key=True, autoincrement=True),
        sa.Column("submission", _Id, sa.ForeignKey("submissions.id"), nullable=False, index=True),
        sa.Column("key_id", sa.String(32), nullable=False), sa.Column("statement", sa.Text, nullable=False),
        sa.Column("signature", sa.String(128), nullable=False))
