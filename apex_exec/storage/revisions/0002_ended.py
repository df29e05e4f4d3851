"""Plugins whose removal has begun: a registrar that is killed during one leaves a note for the next one."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """The table of removals that have begun."""
    op.execute("CREATE TABLE storage_ended (plugin VARCHAR(50) NOT NULL PRIMARY KEY, version_ns BIGINT NOT NULL)")
