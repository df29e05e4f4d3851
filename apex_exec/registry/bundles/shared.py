"""Bundles in the registry's database, where daemons share one on a server: what one has installed, all get.

A daemon still loads code from its own folder alone (``blobs.py``), so that its plugins run without the server. What it
lacks there it takes from the database when it makes a spec, or many at once when it starts. Every function takes an
open transaction; on SQLite, which belongs to one daemon, each does nothing.
"""

from __future__ import annotations

import sqlalchemy as sa

from apex_exec.errors import Refusal
from apex_exec.registry import tables as t
from apex_exec.registry.bundles.blobs import BlobStore
from apex_exec.registry.bundles.bundle import Bundle, pack

FETCHED_AT_ONCE = 100
"""Bundles that one query brings: two hundred megabytes at the very most, and mostly some hundred kilobytes."""


def share(db: sa.Connection, bundle: Bundle, now_ns: int) -> None:
    """Stores the bundle for the other daemons, in the transaction that makes its row."""
    if db.dialect.name != "postgresql":
        return
    c = t.bundles.c
    if db.execute(sa.select(c.digest).where(c.digest == bundle.digest)).first() is None:
        db.execute(sa.insert(t.bundles).values(digest=bundle.digest, data=pack(bundle), stored_ns=now_ns))


def forget(db: sa.Connection, digests: list[str]) -> None:
    """Deletes bundles whose versions' rows were deleted. A folder's copy goes at its daemon's next start."""
    if db.dialect.name == "postgresql" and digests:
        named = sa.select(t.versions.c.digest)
        db.execute(sa.delete(t.bundles).where(t.bundles.c.digest.in_(digests), t.bundles.c.digest.not_in(named)))


def bring(db: sa.Connection, blobs: BlobStore, digests: list[str]) -> list[str]:
    """Copies those of ``digests`` that the folder lacks from the database into it, and returns those that it then still
    lacks. Their content is hashed: a row that somebody changed is not taken. Raises Refusal if the disk fails."""
    lacking = [digest for digest in digests if not blobs.has(digest)]
    if db.dialect.name != "postgresql":
        return lacking
    c = t.bundles.c
    for start in range(0, len(lacking), FETCHED_AT_ONCE):
        part = lacking[start : start + FETCHED_AT_ONCE]
        for digest, data in db.execute(sa.select(c.digest, c.data).where(c.digest.in_(part))):
            blobs.copy_in(digest, bytes(data))
    return [digest for digest in lacking if not blobs.has(digest)]


def give(db: sa.Connection, blobs: BlobStore, digests: list[str], now_ns: int) -> int:
    """Stores those of ``digests`` that the folder has and the database lacks, and returns how many: an earlier release
    installed them."""
    if db.dialect.name != "postgresql":
        return 0
    there = set(db.execute(sa.select(t.bundles.c.digest)).scalars())
    count = 0
    for digest in digests:
        if digest not in there and blobs.has(digest):
            try:
                bundle = blobs.read(digest)
            except Refusal:
                continue  # it is damaged; a daemon that has a sound one gives that
            share(db, bundle, now_ns)
            count += 1
    return count
