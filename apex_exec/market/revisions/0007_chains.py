"""Ledgers that several daemons ship into one marketplace, and what each of its nodes needs of the shop.

Older releases go on with the store, and may be started again on it.
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Chains, their segments and what they add up to; files of the shop."""
    blob = "BYTEA" if op.get_context().dialect.name == "postgresql" else "BLOB"
    sums = ", ".join(f"{name} BIGINT NOT NULL" for name in (
        "calls", "cpu_us", "memory_mb_ms", "api_calls", "network_requests", "host_cpu_us"))
    for statement in (
        "CREATE TABLE chains (chain VARCHAR(64) NOT NULL, node VARCHAR(64) NOT NULL, public_key VARCHAR(64) NOT NULL, "
        "holder VARCHAR(32) NOT NULL, first_ns BIGINT NOT NULL, from_seq BIGINT NOT NULL, to_seq BIGINT NOT NULL, "
        "hash VARCHAR(64) NOT NULL, covered_ns BIGINT NOT NULL, head VARCHAR(128) NOT NULL, "
        "changed_ns BIGINT NOT NULL, left_ns BIGINT NOT NULL, PRIMARY KEY (chain))",
        "CREATE TABLE chain_segments (chain VARCHAR(64) NOT NULL REFERENCES chains (chain), from_seq BIGINT NOT NULL, "
        f"to_seq BIGINT NOT NULL, prev_hash VARCHAR(64) NOT NULL, hash VARCHAR(64) NOT NULL, data {blob} NOT NULL, "
        "PRIMARY KEY (chain, from_seq))",
        "CREATE TABLE chain_usage (chain VARCHAR(64) NOT NULL REFERENCES chains (chain), month VARCHAR(7) NOT NULL, "
        f"plugin VARCHAR(200) NOT NULL, user_id VARCHAR(200) NOT NULL, {sums}, "
        "PRIMARY KEY (chain, month, plugin, user_id))",
        f"CREATE TABLE shop_files (name VARCHAR(200) NOT NULL, data {blob} NOT NULL, changed_ns BIGINT NOT NULL, "
        "PRIMARY KEY (name))",
    ):
        op.execute(statement)
