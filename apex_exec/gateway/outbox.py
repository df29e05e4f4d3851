"""The audit record of a write, on its way from the platform's database to the ledger.

The record is committed together with the write (table ``apex_exec_outbox``), handed to the supervisor after the commit,
and deleted once the ledger has it on disk. If any process dies in between, the record is found at the next start and
handed over again; the ledger chains each ``dedup_key`` only once. ``origin`` separates daemons that share a database.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

import msgspec

from apex_exec.gateway.sql.writes import Write


class Outgoing(msgspec.Struct):
    """One record. ``id`` is also the ledger's ``dedup_key``."""

    id: str
    timestamp_ns: int
    event_type: str
    user_id: str
    plugin: str
    action: str
    table: str
    columns: list[str]
    row_count: int = 0

    def encoded(self) -> str:
        """The text that is stored in the outbox."""
        return msgspec.json.encode(self).decode()

    def metadata(self) -> dict[str, Any]:
        """What the audit event contains in addition to its fixed fields."""
        return {"table": self.table, "columns": self.columns, "rowCount": self.row_count}


class Outbox:
    """Makes and reads outbox records."""

    @staticmethod
    def record(write: Write, user_id: str, plugin: str) -> Outgoing:
        """The record of ``write``. Its row count is filled in once the write has run."""
        return Outgoing(f"outbox:{uuid.uuid4()}", time.time_ns(), write.event_type, user_id, plugin, write.action,
                        write.table, write.columns)

    @staticmethod
    def decode(record_id: str, text: str) -> Outgoing:
        """Decodes a stored record. Raises msgspec.DecodeError if another program wrote it."""
        record = msgspec.json.decode(text, type=Outgoing)
        record.id = record_id
        return record
