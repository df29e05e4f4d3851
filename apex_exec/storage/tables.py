"""The storage's tables as they are today. ``revisions`` creates them. Times are nanoseconds of UTC since 1970.

Keys are bytes: both databases then sort them alike, and neither refuses one.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from apex_exec.registry.database import Schema

SCHEMA = Schema("storage", Path(__file__).parent / "revisions", revision="0002", version=1)
STORE = SCHEMA.name

metadata = sa.MetaData()

entries = sa.Table(
    "storage_entries", metadata,
    sa.Column("plugin", sa.String(50), primary_key=True),
    sa.Column("user_id", sa.String(64), primary_key=True),
    sa.Column("key", sa.LargeBinary, primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),  # MessagePack
    sa.Column("updated_ns", sa.BigInteger, nullable=False),
)

used = sa.Table(  # what the entries of one user of one plugin come to
    "storage_used", metadata,
    sa.Column("plugin", sa.String(50), primary_key=True),
    sa.Column("user_id", sa.String(64), primary_key=True),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Index("storage_used_user", "user_id"),
)

totals = sa.Table(  # what all entries of one plugin come to
    "storage_totals", metadata,
    sa.Column("plugin", sa.String(50), primary_key=True),
    sa.Column("bytes", sa.BigInteger, nullable=False),
)

outbox = sa.Table(  # audit records of writes, until the ledger has them
    "storage_outbox", metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("origin", sa.String(400), nullable=False, index=True),
    sa.Column("record", sa.Text, nullable=False),
)

ended = sa.Table(  # plugins whose removal has begun, until what they kept is gone
    "storage_ended", metadata,
    sa.Column("plugin", sa.String(50), primary_key=True),
    sa.Column("version_ns", sa.BigInteger, nullable=False),  # when a version of it was made: the next one has others
)
