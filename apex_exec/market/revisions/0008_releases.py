"""Releases that go out in stages, and what is counted of each version: calls, failures, times, where they failed.

Older releases go on with the store: they do not list a version that is in a stage, and so offer it to nobody.
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Stages of releases, figures by version, and how far each ledger was counted."""
    for statement in (
        "CREATE TABLE releases (digest VARCHAR(64) NOT NULL, plugin VARCHAR(200) NOT NULL, "
        "version VARCHAR(200) NOT NULL, submission BIGINT NOT NULL, percent INTEGER NOT NULL, "
        "halted_ns BIGINT NOT NULL, reason TEXT NOT NULL, watched_ns BIGINT NOT NULL, looked INTEGER NOT NULL, "
        "base_calls BIGINT NOT NULL, base_failures BIGINT NOT NULL, PRIMARY KEY (digest))",
        "CREATE TABLE figure_sources (source VARCHAR(64) NOT NULL, seq BIGINT NOT NULL, hash VARCHAR(64) NOT NULL, "
        "counted_ns BIGINT NOT NULL, PRIMARY KEY (source))",
        "CREATE TABLE figures (source VARCHAR(64) NOT NULL, digest VARCHAR(64) NOT NULL, plugin VARCHAR(200) NOT NULL, "
        "version VARCHAR(200) NOT NULL, installed BOOLEAN NOT NULL, calls BIGINT NOT NULL, codes TEXT NOT NULL, "
        "times TEXT NOT NULL, PRIMARY KEY (source, digest))",
        "CREATE TABLE failure_places (source VARCHAR(64) NOT NULL, digest VARCHAR(64) NOT NULL, "
        "code VARCHAR(40) NOT NULL, exception VARCHAR(100) NOT NULL, place VARCHAR(300) NOT NULL, "
        "failures BIGINT NOT NULL, first_ns BIGINT NOT NULL, last_ns BIGINT NOT NULL, "
        "PRIMARY KEY (source, digest, code, exception, place))",
    ):
        op.execute(statement)
