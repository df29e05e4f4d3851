"""What reviewers say to an author about lines of a submission, and what a ticket was answered."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # only INTEGER counts up by itself there


def upgrade() -> None:
    """Two more tables."""
    op.create_table(
        "comments",
        sa.Column("id", _Id, primary_key=True, autoincrement=True),
        sa.Column("submission", _Id, sa.ForeignKey("submissions.id"), nullable=False, index=True),
        sa.Column("path", sa.String(400), nullable=False), sa.Column("line", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False), sa.Column("reviewer", sa.String(200), nullable=False),
        sa.Column("uid", sa.BigInteger, nullable=False), sa.Column("at_ns", sa.BigInteger, nullable=False))
    op.create_table(
        "answers",
        sa.Column("id", _Id, primary_key=True, autoincrement=True),
        sa.Column("ticket", _Id, sa.ForeignKey("tickets.id"), nullable=False, index=True),
        sa.Column("responder", sa.String(200), nullable=False), sa.Column("text", sa.Text, nullable=False),
        sa.Column("at_ns", sa.BigInteger, nullable=False))
