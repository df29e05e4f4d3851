"""The tokens with which callers reach the HTTP door: what each may do, and the SHA-256 of its secret."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """One more table. Earlier releases have no door and do not look at it."""
    op.execute(
        "CREATE TABLE IF NOT EXISTS door_tokens (id VARCHAR(16) NOT NULL, name VARCHAR(100) NOT NULL, "
        "digest VARCHAR(64) NOT NULL, user_id VARCHAR(36) NOT NULL, act_as BOOLEAN NOT NULL, plugins TEXT NOT NULL, "
        "hooks TEXT NOT NULL, scopes TEXT NOT NULL, requests_per_minute INTEGER NOT NULL, created_ns BIGINT NOT NULL, "
        "expires_ns BIGINT NOT NULL, uid INTEGER NOT NULL, revoked_ns BIGINT NOT NULL, reason TEXT NOT NULL, "
        "PRIMARY KEY (id), UNIQUE (digest))")
