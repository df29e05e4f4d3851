"""The values of plugins' settings. Releases before this one can live with the table: they do not look at it."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """One more table."""
    op.execute("CREATE TABLE IF NOT EXISTS plugin_settings (plugin VARCHAR(50) NOT NULL, scope VARCHAR(10) NOT NULL, "
               "owner VARCHAR(200) NOT NULL, name VARCHAR(64) NOT NULL, secret BOOLEAN NOT NULL, value TEXT NOT NULL, "
               "updated_ns BIGINT NOT NULL, uid INTEGER NOT NULL, PRIMARY KEY (plugin, scope, owner, name))")
