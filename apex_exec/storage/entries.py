"""Whose entries are meant, the audit record of a write, and the refusal of one. Nothing here loads a database library.
"""

from __future__ import annotations

from typing import Any

import msgspec

COMMON = ""
"""The ``user_id`` of what is common to all users of a plugin."""
RECORD_IDS = "storage:"
"""How the ids of the storage's audit records begin."""


class Full(Exception):
    """A quota does not admit the value; the text says which, and how much would be used."""


class Waiting(msgspec.Struct):
    """The audit record of a write, as the outbox has it. ``record_id`` is also the ledger's ``dedup_key``."""

    record_id: str
    timestamp_ns: int
    event_type: str
    user_id: str
    plugin: str
    action: str
    metadata: dict[str, Any]


class Place(msgspec.Struct, frozen=True):
    """Whose entries are meant. ``user_id`` is COMMON for what all users of the plugin share."""

    plugin: str
    user_id: str
