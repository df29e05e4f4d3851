"""Audit records, the text they become in the chain, and the hash that chains them. Pure: no clock, no disk.

An execution, of which there is one for each call, travels to the ledger process as its bare values (``Execution``). Any
other record travels as one line of JSON that the loop makes, because only the loop knows what its metadata contains.
Both become the same text: sequence number, readable time, the rest. That text is stored, hashed and exported: with an
exported line and its ``prevHash``, anybody can recompute ``hash`` using nothing but SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from apex_exec.errors import ApexError

EVENT_TYPES = {
    "plugin.execution": "one call of a hook, whatever came of it",
    "plugin.api": "an API call that is about no data: an effect, a request, a host method",
    "plugin.cpu": "CPU time that a worker used outside any call",
    "access.denied": "what a plugin may not do, and asked for",
    "data.access": "a query",
    "data.modification": "an insert or an update; it is recorded with the write itself",
    "data.deletion": "a delete; it is recorded with the write itself",
    "security.rate_limit": "a call over its rate",
    "security.anomaly": "what an honest plugin or host does not do, and a breaker that opens",
    "admin.action": "what an administrator did, or the daemon by itself in the registry",
}
"""Every type of event, and what such an event says."""
API_EVENTS = ("plugin.api", "data.access", "data.modification", "data.deletion")
"""The types of API calls, by what they touch. A call that was refused may have another type; it is not usage."""
GENESIS = bytes(32)
"""The value that the first event's hash is chained to."""
RECORD_BYTES_MAX = 65_536
"""The longest line of one record. The metadata of a longer one is replaced by a note that it was cut."""
STRING_CHARS_MAX = 512
"""The longest userId, resource or action in a record that had to be cut."""

_TIME_AT = slice(13, 32)  # the 19 digits after {"timestamp":


class LedgerError(ApexError):
    """The ledger cannot be used or written; the message says why."""


class AuditRecord(msgspec.Struct, gc=False, omit_defaults=True,
                  rename={"timestamp_ns": "timestamp", "event_type": "eventType", "user_id": "userId",
                          "dedup_key": "dedupKey"}):
    """One event before it has a place in the chain. ``timestamp_ns`` is wall time.

    ``metadata`` is a map (or a Struct that encodes as one). A ``dedup_key`` that is not empty is stored once: the
    ledger ignores a second record with the same key.
    """

    timestamp_ns: int
    event_type: str
    user_id: str
    resource: str
    action: str
    result: str
    metadata: Any = msgspec.field(default_factory=lambda: {})  # not `dict`: an empty map is written as well
    dedup_key: str = ""


class ExecutionMetadata(msgspec.Struct, gc=False, omit_defaults=True, rename="camel"):
    """``metadata`` of ``plugin.execution``. A struct, because one is made for every call.

    ``cpu_ms`` is the kernel's figure for the worker's process, never the worker's own. ``host_cpu_ms`` is the figure of
    the daemon's own processes for the call, beyond what an ordinary answer takes. Both are metered.
    """

    execution_time_ms: float | None = None
    memory_used_mb: float | None = None
    code: str = ""
    traceparent: str = ""
    cpu_ms: float | None = None
    host_cpu_ms: float | None = None


Execution = tuple[int, str, str, str, str, int, float, str, int, int]
"""A ``plugin.execution`` as the loop stores it: timestamp_ns, user_id, plugin, hook, code, run_ns, memory_mb,
traceparent, cpu_ns, host_ns. ``code`` is "" for a result."""
DENIED = frozenset({"PERMISSION_DENIED", "RATE_LIMITED", "NOT_PROVIDED"})
"""Outcomes of an execution whose ``result`` is "denied" rather than "failure"."""


class _Body(msgspec.Struct, gc=False, rename="camel"):
    """An event's text is the encoding of this struct."""

    seq: int
    timestamp: str
    event_type: str
    user_id: str
    resource: str
    action: str
    result: str
    metadata: ExecutionMetadata


_encoder = msgspec.json.Encoder(enc_hook=str)
_encode_body = msgspec.json.Encoder().encode


def result_of(code: str) -> str:
    """The ``result`` of an execution with this outcome."""
    return "success" if not code else "denied" if code in DENIED else "failure"


def metadata_of(code: str, run_ns: int, memory_mb: float, traceparent: str, cpu_ns: int,
                host_ns: int) -> ExecutionMetadata:
    """The metadata of an execution. A call without CPU time has no such figure in its record."""
    return ExecutionMetadata(run_ns / 1e6, memory_mb, code, traceparent, cpu_ns / 1e6 if cpu_ns else None,
                             host_ns / 1e6 if host_ns else None)


def execution_record(fields: Execution) -> AuditRecord:
    """The same execution as a record."""
    timestamp_ns, user_id, plugin, hook, code, run_ns, memory_mb, traceparent, cpu_ns, host_ns = fields
    return AuditRecord(timestamp_ns, "plugin.execution", user_id, plugin, hook, result_of(code),
                       metadata_of(code, run_ns, memory_mb, traceparent, cpu_ns, host_ns))


def encode_line(record: AuditRecord) -> bytes:
    """One line of JSON, without its newline. Never raises, whatever the record contains."""
    try:
        line = _encoder.encode(record)
        if len(line) < RECORD_BYTES_MAX:
            return line
        note: dict[str, Any] = {"cut": True, "bytes": len(line)}
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        note = {"cut": True, "reason": ascii(error)[:200]}
    def short(text: str) -> str:
        return text.encode("utf-8", "backslashreplace").decode()[:STRING_CHARS_MAX]
    return _encoder.encode(AuditRecord(
        record.timestamp_ns, short(record.event_type), short(record.user_id), short(record.resource),
        short(record.action), short(record.result), note, short(record.dedup_key)))


class BodyMaker:
    """Turns lines into bodies: first the sequence number, then the time as RFC 3339 text with nanoseconds.

    UTC text of constant width sorts like time; reading by time relies on that.
    """

    def __init__(self) -> None:
        self._second = ""
        self._text = ""

    def execution(self, seq: int, fields: Sequence[Any]) -> bytes:
        """The text of an ``Execution``. Raises LedgerError if ``fields`` is not one."""
        try:
            timestamp_ns, user_id, plugin, hook, code, run_ns, memory_mb, traceparent, cpu_ns, host_ns = fields
            digits = str(timestamp_ns)
            if len(digits) != 19 or digits[0] == "-":
                text = _odd_time(timestamp_ns)
            else:
                if digits[:10] != self._second:
                    self._start_second(digits)
                text = self._text + digits[10:] + "Z"
            return _encode_body(_Body(
                seq, text, "plugin.execution", user_id, plugin, hook,
                result_of(code) if code else "success",
                metadata_of(code, run_ns, memory_mb, traceparent, cpu_ns, host_ns)))
        except (TypeError, ValueError) as error:
            raise LedgerError(f"an execution cannot be chained: {error}") from None

    def _start_second(self, digits: str) -> None:
        self._second = digits[:10]
        self._text = datetime.fromtimestamp(int(self._second), UTC).strftime("%Y-%m-%dT%H:%M:%S.")

    def body(self, seq: int, line: bytes) -> bytes:
        """The event's text. Raises LedgerError if ``encode_line`` did not make ``line``."""
        digits = line[_TIME_AT].decode("ascii", "replace")
        if line[:13] != _BEGIN_LINE or not digits.isdigit() or line[32:33] != b",":
            return self._odd_body(seq, line)
        if digits[:10] != self._second:
            self._start_second(digits)
        return b'{"seq":%d,"timestamp":"%b%bZ"%b' % (seq, self._text.encode(), line[23:32], line[32:])


    @staticmethod
    def _odd_body(seq: int, line: bytes) -> bytes:
        number, comma, rest = line.removeprefix(_BEGIN_LINE).partition(b",")
        try:
            if not comma or not line.startswith(_BEGIN_LINE):
                raise ValueError
            text = _odd_time(int(number))
        except ValueError:
            raise LedgerError("a record has no time; it cannot be chained") from None
        return b'{"seq":%d,"timestamp":"%b",%b' % (seq, text.encode(), rest)


def time_of_line(line: bytes | Sequence[Any]) -> int:
    """Nanoseconds since 1970 of a line that ``BodyMaker`` has accepted, or of an execution's fields."""
    if type(line) is not bytes:
        return int(line[0])
    digits = line[_TIME_AT]
    usual = digits.isdigit() and line[32:33] == b","
    return int(digits if usual else line.removeprefix(_BEGIN_LINE).partition(b",")[0])


_BEGIN_LINE = b'{"timestamp":'
_FIRST_NS, _LAST_NS = -62_135_596_800 * 10**9, 253_402_300_800 * 10**9 - 1
"""The years 1 and 9999: the range that the text of a time can express. A time outside is clamped to it."""


class _OnlyTime(msgspec.Struct):
    timestamp: str


_decode_time = msgspec.json.Decoder(_OnlyTime).decode


def time_of(body: bytes | str) -> str:
    """The time of an event as its body has it: UTC text. Raises LedgerError."""
    try:
        return _decode_time(body).timestamp
    except msgspec.DecodeError as error:
        raise LedgerError(f"an event cannot be read: {error}; run `apex-exec audit verify`") from None


def nanoseconds_of(timestamp: str) -> int:
    """Nanoseconds since 1970 of a time as returned by ``time_of``."""
    seconds = datetime.fromisoformat(f"{timestamp[:19]}+00:00") - datetime(1970, 1, 1, tzinfo=UTC)
    return (seconds.days * 86_400 + seconds.seconds) * 10**9 + int(timestamp[20:29])


def _odd_time(timestamp_ns: int) -> str:
    """The text of a time before 2001-09-09 or after 2286-11-20: clocks may be wrong, and the event must be recorded."""
    seconds, rest = divmod(max(_FIRST_NS, min(timestamp_ns, _LAST_NS)), 10**9)
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return f"{at:%Y}".rjust(4, "0") + f"{at:-%m-%dT%H:%M:%S}.{rest:09}Z"


def chain_hash(prev_hash: bytes, body: bytes) -> bytes:
    """SHA-256 over the previous event's hash (32 bytes) and this event's text."""
    return hashlib.sha256(prev_hash + body).digest()
