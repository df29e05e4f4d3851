"""The audit record of a write, on its way from the platform's database to the ledger.

The record is committed together with the write (table ``apex_exec_outbox``), handed to the supervisor after the commit,
and deleted once the ledger has it on disk. If any process dies in between, the record is found at the next start and
handed over again; the ledger chains each ``dedup_key`` only once. ``origin`` separates daemons that share a database:
it is the id of the daemon's state folder (``ledger.chain``). Earlier releases wrote the names of machine and folder;
``origins_of`` has both.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from apex_exec.gateway.messages import Written

if TYPE_CHECKING:
    from apex_exec.gateway.sql.writes import Write  # sqlglot, which a daemon with storage alone need not have

SWEEP_RECORDS_MAX = 500


def origins_of(text: str) -> tuple[str, str]:
    """What this daemon's records have as their origin, and what those of an earlier release of it have (the same, if
    there was none): ``text`` is one line, or two."""
    origin, _, formerly = text.partition("\n")
    return origin, formerly or origin


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

    def written(self) -> Written:
        """The message that hands it over."""
        return Written(self.id, self.timestamp_ns, self.event_type, self.user_id, self.plugin, self.action,
                       self.metadata())


class Keeper:
    """Hands over the records of one outbox, each once in the life of this process, and deletes what is recorded.

    ``waiting(limit)`` gives the records that the outbox has, and ``forget(ids)`` deletes some; both may raise
    ApiFailure. ``hand_over`` passes one to the supervisor.
    """

    def __init__(self, waiting: Callable[[int], Awaitable[list[Written]]],
                 forget: Callable[[list[str]], Awaitable[None]], hand_over: Callable[[Written], None]) -> None:
        self._waiting = waiting
        self._forget = forget
        self._hand_over = hand_over
        self._handed: set[str] = set()
        """Ids of records in the outbox that the supervisor already has; bounded by how many the ledger accepts."""
        self._recorded: list[str] = []

    def give(self, record: Written) -> None:
        """Hands over the record of a write that was committed."""
        self._handed.add(record.record_id)
        self._hand_over(record)

    async def sweep(self) -> None:
        """Hands over the records in the outbox that were not handed over yet. Raises ApiFailure."""
        for record in await self._waiting(SWEEP_RECORDS_MAX + len(self._handed)):
            if record.record_id not in self._handed:
                self.give(record)

    def recorded(self, ids: list[str]) -> None:
        """Notes that the ledger has these records on disk, so that they may leave the outbox."""
        self._recorded += ids

    async def tidy(self) -> bool:
        """Deletes recorded entries from the outbox; whether there are more. If that raises ApiFailure, they are kept
        for the next attempt."""
        ids = self._recorded[:SWEEP_RECORDS_MAX]
        if ids:
            await self._forget(ids)
            del self._recorded[: len(ids)]
            self._handed.difference_update(ids)
        return bool(self._recorded)


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
