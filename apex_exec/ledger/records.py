"""Audit records and the hash that chains them. Pure: no clock, no disk."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

EVENT_TYPES = (
    "plugin.execution",
    "plugin.api",
    "access.denied",
    "data.access",
    "data.modification",
    "data.deletion",
    "security.rate_limit",
    "security.anomaly",
    "admin.action",
)
RESULTS = ("success", "failure", "denied")
GENESIS = bytes(32)


class AuditRecord(msgspec.Struct, array_like=True, gc=False):
    """One event before it has a place in the chain. ``timestamp_ns`` is wall time.

    A ``dedup_key`` that is not empty is stored once: the ledger ignores a second record with it.
    """

    timestamp_ns: int
    event_type: str
    user_id: str
    resource: str
    action: str
    result: str
    metadata: dict[str, Any] = {}
    dedup_key: str = ""


_pack = msgspec.msgpack.Encoder().encode


def chain_hash(prev_hash: bytes, canonical: bytes) -> bytes:
    """SHA-256 over the previous event's hash and this event's canonical bytes."""
    return hashlib.sha256(prev_hash + canonical).digest()


def canonical_bytes(
    seq: int,
    timestamp_ns: int,
    event_type: str,
    user_id: str,
    resource: str,
    action: str,
    result: str,
    metadata_json: str,
    dedup_key: str | None,
) -> bytes:
    """The event as it is hashed: MessagePack, whose lengths keep one field from running into the next."""
    return _pack((seq, timestamp_ns, event_type, user_id, resource, action, result, metadata_json, dedup_key))
