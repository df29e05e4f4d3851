"""Audit records, the text they become in the chain, and the hash that chains them. Pure: no clock, no disk.

A record travels as one line of JSON from the loop to the ledger process (one call of msgspec for a whole batch);
the ledger only puts the sequence number and a readable time before it, so that nothing is decoded and encoded twice.
That text is what is stored, hashed and exported: whoever has an exported line and its ``prevHash`` can recompute
``hash`` with nothing but SHA-256.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import msgspec

from apex_exec.errors import ApexError

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
GENESIS = bytes(32)
"""What the first event's hash is chained to."""
RECORD_BYTES_MAX = 65_536
"""Longest line of one record; the metadata of a longer one is replaced by a note that it was cut."""
STRING_CHARS_MAX = 512
"""Longest userId, resource or action in a record that had to be cut."""

_TIME_AT = slice(13, 32)  # the 19 digits after {"timestamp":


class LedgerError(ApexError):
    """The ledger cannot be used or written; the message says why."""


class AuditRecord(msgspec.Struct, gc=False, omit_defaults=True,
                  rename={"timestamp_ns": "timestamp", "event_type": "eventType", "user_id": "userId",
                          "dedup_key": "dedupKey"}):
    """One event before it has a place in the chain. ``timestamp_ns`` is wall time.

    ``metadata`` is a map (or a Struct that encodes as one). A ``dedup_key`` that is not empty is stored once: the
    ledger ignores a second record with it.
    """

    timestamp_ns: int
    event_type: str
    user_id: str
    resource: str
    action: str
    result: str
    metadata: Any = msgspec.field(default_factory=lambda: {})  # not `dict`: an empty one is written all the same
    dedup_key: str = ""


class ExecutionMetadata(msgspec.Struct, gc=False, omit_defaults=True, rename="camel"):
    """``metadata`` of ``plugin.execution``: PROTOCOL section 5. A struct, since it is made for every call.

    ``cpu_ms`` is the kernel's count for the worker's process, never the worker's word: it is metered.
    """

    execution_time_ms: float | None = None
    memory_used_mb: float | None = None
    code: str = ""
    traceparent: str = ""
    cpu_ms: float | None = None


_encoder = msgspec.json.Encoder(enc_hook=str)


def encode_lines(records: list[AuditRecord]) -> bytes:
    """One line of JSON a record, each ended by a newline. Never raises for what a record holds."""
    try:
        lines = _encoder.encode_lines(records)
        if len(lines) <= RECORD_BYTES_MAX or max(map(len, lines.split(b"\n"))) <= RECORD_BYTES_MAX:
            return lines
    except (TypeError, ValueError, OverflowError, RecursionError):
        pass  # one of them cannot be written as it is: each by itself, below
    return b"".join(map(_careful_line, records))


def _careful_line(record: AuditRecord) -> bytes:
    try:
        line = _encoder.encode(record)
        if len(line) < RECORD_BYTES_MAX:
            return line + b"\n"
        note: dict[str, Any] = {"cut": True, "bytes": len(line)}
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        note = {"cut": True, "reason": ascii(error)[:200]}
    def short(text: str) -> str:
        return text.encode("utf-8", "backslashreplace").decode()[:STRING_CHARS_MAX]
    return _encoder.encode(AuditRecord(
        record.timestamp_ns, short(record.event_type), short(record.user_id), short(record.resource),
        short(record.action), short(record.result), note, short(record.dedup_key))) + b"\n"


class BodyMaker:
    """Turns lines into bodies: the sequence number first, then the time as RFC 3339 text with nanoseconds.

    UTC text of one width sorts as time does, which is what reading by time relies on.
    """

    def __init__(self) -> None:
        self._second = b""
        self._text = b""

    def body(self, seq: int, line: bytes) -> bytes:
        """The event's text. Raises LedgerError where ``line`` is not one that ``encode_lines`` made."""
        digits = line[_TIME_AT]
        if line[:13] != b'{"timestamp":' or not digits.isdigit() or line[32:33] != b",":
            raise LedgerError("a record's time is not one of our age; it cannot be chained")
        second = digits[:10]
        if second != self._second:
            self._second = second
            self._text = datetime.fromtimestamp(int(second), UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
        return b'{"seq":%d,"timestamp":"%b.%bZ"%b' % (seq, self._text, digits[10:], line[32:])


def chain_hash(prev_hash: bytes, body: bytes) -> bytes:
    """SHA-256 over the previous event's hash (32 bytes) and this event's text."""
    return hashlib.sha256(prev_hash + body).digest()
