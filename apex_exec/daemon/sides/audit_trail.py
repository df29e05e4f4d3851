"""The supervisor's end of the ledger: takes records, sends them in a frame every few milliseconds, and says which are
durable.

``execution`` and ``record`` only keep what they are given. ``duty`` makes one frame of what has gathered and hands it
to the ledger process. Until the ledger has reported that a batch is committed, the batch is kept, and it is sent again
to the next ledger process if this one dies. Batches are numbered, so that each is stored once.

If the oldest uncommitted record gets older than LATE_NS, replies wait for their records and admission stops: for
HOLD_NS the loop leaves requests unread (most stalls are shorter), and after that each request is answered
AUDIT_UNAVAILABLE at once. Requests are also answered so if the ledger reports that it fails, or does not run; then
calls that were admitted and have not begun do not begin either (``on_refused``, ``on_admitted``). Admission begins
again by itself.
"""

from __future__ import annotations

import contextlib
import secrets
import select
import time
from collections import Counter, deque
from collections.abc import Callable
from operator import itemgetter
from typing import Any, Protocol

import msgspec

from apex_exec.config import Settings
from apex_exec.core.deadline import NEVER_NS
from apex_exec.core.limits import MS_NS
from apex_exec.daemon.duties import Duty
from apex_exec.daemon.sides.side_process import SideProcess
from apex_exec.ledger import messages
from apex_exec.ledger.records import AuditRecord, Execution, encode_line, execution_record

LATE_NS = 50 * MS_NS
HOLD_NS = 250 * MS_NS
DOWN_NS = 1_000 * MS_NS
"""For this long after the ledger process has ended, admitted calls are not refused. Half of it is enough for a restart.
"""
GATHER_NS = 2 * MS_NS
"""How long the first record of a frame waits for others (with ``audit.durability`` ``group``): there are 500 frames a
second at most, instead of one in each turn. Even at 64 KiB for each record, what gathers in this time is far below the
link's bound of a frame."""
PENDING_BYTES_MAX = 32 * 1024 * 1024
"""How many uncommitted bytes are kept here (below the side process's own bound); if they are more, admission stops."""
TRACEPARENT_CHARS_MAX = 128
WEIGHT_BYTES = 2048
"""For each this many bytes, a record costs the ledger process about as much again as a short record."""
RESTART_MAX_NS = 500 * MS_NS
"""The longest backoff of a ledger that keeps dying. It is shorter than that of other side processes, since nothing is
admitted without a ledger."""
_wall_ns = time.time_ns
_clock_ns = time.monotonic_ns
_encode = msgspec.msgpack.Encoder().encode
_plugin_of = itemgetter(2)
"""The plugin of an execution's values."""


class Gauges(Protocol):
    """What the audit trail needs of the daemon's metrics."""

    health: dict[str, str]

    def inc(self, name: str, labels: tuple[str, ...] = (), amount: float = 1.0) -> None:
        """Adds to a counter."""

    def set(self, name: str, labels: tuple[str, ...], value: float) -> None:
        """Sets a gauge."""


class _Batch(msgspec.Struct, gc=False):
    """Records that were handed over, or will be, and are not known to be committed."""

    last_index: int
    first_ns: int
    body: bytes


class AuditTrail:
    """Everything that must be recorded goes through here. Only ``wait_ready`` and ``close`` block.

    ``on_refused`` is called if the ledger can take no record for now: calls that were admitted and have not begun must
    not begin. It may be called again before ``on_admitted``, which is called when the ledger takes records again.
    ``side_changed(side)`` is called if bytes for the ledger wait for room on its link.
    """

    def __init__(self, settings: Settings, metrics: Gauges, log: Callable[[str, str], None], *,
                 on_refused: Callable[[], None], on_admitted: Callable[[], None],
                 side_changed: Callable[[SideProcess], None]) -> None:
        audit = settings.audit
        self.strict = audit.durability == "strict"
        self.side = SideProcess("ledger", "apex_exec.ledger.process:main", {
            "state_dir": str(settings.state_path), "url": settings.database_url(audit.url),
            "durability": audit.durability, "retention_days": audit.retention_days,
            "min_free_bytes": audit.min_free_bytes, "anchor": audit.anchor, "trail": secrets.token_hex(16)},
            handlers={
                messages.Committed: self._ledger_committed,
                messages.Ready: self._ledger_ready, messages.Failing: self._ledger_fails,
                messages.Recovered: self._ledger_recovered, messages.Warned: self._ledger_warns,
                messages.Stats: self._ledger_figures},
            on_down=self._down, exact=True,  # a message that is missed may be a commit; the next ledger begins with it
            restart_max_ns=RESTART_MAX_NS)
        self._metrics = metrics
        self._log = log
        self._index = 0  # of the last record taken
        self._committed = 0
        self._buffer: list[bytes | Execution] = []  # a line of JSON, or an execution as its values
        self._keys: list[list[Any]] = []  # [place in the buffer, dedup_key] of those that have one
        self._others: Counter[str] = Counter()  # event types of the buffer's records that are no executions
        self._executions: Counter[str] = Counter()  # plugin → records of calls that nobody was charged for yet
        self._asked_for: Counter[str] = Counter()  # plugin → weight of the records that the plugin itself caused
        self._ledger_ns = 0  # CPU time that the ledger process has reported and nobody was charged for
        self.on_spent: Callable[[str, int, int], None] = lambda plugin, executions_ns, others_ns: None
        """``on_spent(plugin, executions_ns, others_ns)`` gets, once a second, the ledger process's CPU time for a
        plugin's records: for records of its calls, which hosts ask for, and for records that it causes itself."""
        self._buffer_ns = 0
        self._batches: deque[_Batch] = deque()
        self._bytes = 0
        self._oldest_ns = NEVER_NS
        self._late_since_ns = 0
        self._lag_ns = 0
        self._deferred: deque[tuple[int, Callable[[], None], Callable[[], None]]] = deque()
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._ready = False
        self._failing = ""
        self._on_refused = on_refused
        self._on_admitted = on_admitted
        self._side_changed = side_changed
        self._refusing = False
        self._down_ns = 0
        self.fine_until_ns = 0
        """Until this time (CLOCK_MONOTONIC) work is admitted and no reply waits; callers may look here before they ask.
        """
        self.duty = Duty("audit", NEVER_NS, self._flush_due)
        """Due when something is to be handed over, or when ``is_stalling`` may change its answer by itself."""
        self._say_health("the ledger is starting")

    # ------------------------------------------------------------------ records
    def record(self, record: AuditRecord) -> int:
        """Takes one record. Returns its index, for ``durable`` and ``when_durable``.

        The record is encoded here and not when it is handed over, so that the time is charged to the plugin concerned.
        """
        if not self._buffer:
            self._begin()
        if record.dedup_key:
            self._keys.append([len(self._buffer), record.dedup_key])
        line = encode_line(record)
        self._buffer.append(line)
        self._others[record.event_type] += 1
        if record.event_type != "admin.action":  # the resource of every other record is a plugin
            self._asked_for[record.resource] += 1 + len(line) // WEIGHT_BYTES
        self._index += 1
        return self._index

    def execution(self, user_id: str, plugin: str, hook: str, code: str, run_ns: int, memory_mb: float,
                  traceparent: str = "", cpu_ns: int = 0, host_ns: int = 0) -> int:
        """Records the verdict of one admitted invocation; ``code`` is "" for a result."""
        if not self._buffer:
            self._begin()
        self._buffer.append((_wall_ns(), user_id, plugin, hook, code, run_ns, memory_mb,
                             traceparent and traceparent[:TRACEPARENT_CHARS_MAX], cpu_ns, host_ns))
        self._index = index = self._index + 1
        return index

    def _begin(self) -> None:
        """The first record since the last hand-over."""
        self._buffer_ns = _clock_ns()
        self.duty.due_ns = 0 if self.strict else min(self.duty.due_ns, self._buffer_ns + GATHER_NS)
        if self._oldest_ns == NEVER_NS:
            self._set_oldest(self._buffer_ns)

    def event(self, event_type: str, user_id: str, resource: str, action: str, result: str,
              metadata: dict[str, Any] | None = None) -> int:
        """Records any other event that happens now. Returns its index."""
        return self.record(AuditRecord(time.time_ns(), event_type, user_id, resource, action, result, metadata or {}))

    # ------------------------------------------------------------------ the loop's questions
    def admits(self, now_ns: int) -> bool:
        """False if new work could not be recorded and is to be answered AUDIT_UNAVAILABLE."""
        return self.has_room and (now_ns - self._oldest_ns <= LATE_NS or self.is_stalling(now_ns))

    @property
    def has_room(self) -> bool:
        """True if a record can be taken now, however late its commit may be."""
        return self._ready and not self._failing and self._bytes <= PENDING_BYTES_MAX

    def is_stalling(self, now_ns: int) -> bool:
        """True during the first HOLD_NS of a stall, in which the loop leaves requests unread and does not refuse them.
        """
        if now_ns - self._oldest_ns <= LATE_NS:
            return False
        if not self._late_since_ns:
            self._late_since_ns = now_ns  # from now on: after a stop of the supervisor, records are old at once
            self.duty.due_ns = min(self.duty.due_ns, now_ns + HOLD_NS)
        return now_ns - self._late_since_ns < HOLD_NS and self._ready and not self._failing

    def _set_oldest(self, oldest_ns: int) -> None:
        """Notes when the oldest record that is not committed was taken."""
        self._oldest_ns = oldest_ns
        self._set_fine()
        if oldest_ns == NEVER_NS:
            self.duty.due_ns = NEVER_NS
        if self._late_since_ns and _clock_ns() - oldest_ns <= LATE_NS:
            self._late_since_ns = 0

    def _set_fine(self) -> None:
        """After any change of what ``admits`` looks at."""
        self.fine_until_ns = self._oldest_ns + LATE_NS if self.has_room else 0

    @property
    def reason(self) -> str:
        """Why nothing is admitted; "" if work is admitted."""
        if self._failing:
            return self._failing
        if not self._ready:
            return "the ledger process is being started"
        if self._bytes > PENDING_BYTES_MAX:
            return "too much waits to be committed"
        age_ns = _clock_ns() - self._oldest_ns
        return f"the oldest record has waited {age_ns // MS_NS} ms for its commit" if age_ns > LATE_NS else ""

    def durable(self, index: int) -> bool:
        """True if the reply that follows record ``index`` may go now."""
        if index <= self._committed:
            return True
        return not self.strict and _clock_ns() - self._oldest_ns <= LATE_NS

    def when_durable(self, index: int, then: Callable[[], None], never: Callable[[], None]) -> None:
        """Calls ``then``, which sends a reply, once ``durable(index)``. As many wait as were admitted; they go in their
        order, and before any reply that need not wait. If the daemon ends before, ``never`` is called instead."""
        if self.durable(index):
            then()
        else:
            self._deferred.append((index, then, never))

    def when_committed(self, index: int, then: Callable[[], None]) -> None:
        """Calls ``then`` once record ``index`` stands in the database, whatever the durability of replies is."""
        if index <= self._committed:
            then()
        else:
            self._waiting.append((index, then))

    @property
    def waiting(self) -> int:
        """How many replies wait."""
        return len(self._deferred)

    # ------------------------------------------------------------------ handing over
    def flush(self, now_ns: int) -> None:
        """Hands over what has gathered, if its time has come, and says when it is next due."""
        if self._buffer and (self.strict or now_ns - self._buffer_ns >= GATHER_NS):
            self._hand_over()
        late_ns, hold_ns = self._oldest_ns + LATE_NS + 1, self._late_since_ns + HOLD_NS
        due_ns = late_ns if now_ns < late_ns else hold_ns if now_ns < hold_ns else NEVER_NS
        self.duty.due_ns = min(due_ns, self._buffer_ns + GATHER_NS) if self._buffer else due_ns

    def _flush_due(self, now_ns: int) -> bool:
        self.flush(now_ns)
        if self.side.wants_write:  # a busy ledger: its link takes the rest as soon as there is room
            self._side_changed(self.side)
        return False

    def _hand_over(self) -> None:
        lines: list[Any] = self._buffer
        keys, others = self._keys, self._others
        self._buffer = []
        executions = len(lines)
        if others:
            self._keys, self._others = [], Counter()
            self._executions.update(line[2] for line in lines if type(line) is tuple)
            for event_type, count in others.items():
                self._metrics.inc("audit_events_total", (event_type,), count)
            executions -= others.total()
        else:
            self._executions.update(map(_plugin_of, lines))
        if executions:
            self._metrics.inc("audit_events_total", ("plugin.execution",), executions)
        try:
            body = _encode(messages.Batch(self._index, lines, keys))
        except (TypeError, ValueError, OverflowError):  # a string that is not UTF-8, say: then each is a line
            lines = [line if isinstance(line, bytes) else encode_line(execution_record(line)) for line in lines]
            body = _encode(messages.Batch(self._index, lines, keys))
        batch = _Batch(self._index, self._buffer_ns, body)
        self._batches.append(batch)
        self._bytes += len(batch.body)
        if self._bytes > PENDING_BYTES_MAX:
            self._set_fine()
        if self._ready:
            self.side.send_body(batch.body)

    # ------------------------------------------------------------------ the ledger process
    def _ledger_ready(self, message: messages.Ready) -> None:
        self._ready = True
        self._down_ns = 0
        self._commit(message.last_index)
        for batch in self._batches:
            self.side.send_body(batch.body)
        self._say_health("")
        self._admit_again()

    def _ledger_committed(self, message: messages.Committed) -> None:
        self._ledger_ns += message.cpu_ns
        self._commit(message.last_index)
        if self._refusing:
            self._admit_again()

    def _ledger_fails(self, message: messages.Failing) -> None:
        if not self._failing:
            self._log("error", f"audit: {message.reason}; no work is admitted until it is mended")
        self._failing = message.reason
        self._set_fine()
        self._say_health(self._failing)
        self._refuse()

    def _ledger_recovered(self, _: messages.Recovered) -> None:
        self._failing = ""
        self._set_fine()
        self._log("warning", "audit: the ledger writes again")
        self._say_health("" if self._ready else "the ledger is starting")
        self._admit_again()

    def _ledger_warns(self, message: messages.Warned) -> None:
        self._log("warning", f"audit: {message.text}")

    def _ledger_figures(self, message: messages.Stats) -> None:
        self._metrics.set("audit_database_bytes", (), message.database_bytes)
        self._admit_again()

    def _refuse(self) -> None:
        self._refusing = True
        self._on_refused()

    def _admit_again(self) -> None:
        """Work that was refused is admitted again, if it may be now."""
        if self._refusing and self.admits(_clock_ns()):
            self._refusing = False
            self._on_admitted()

    def _commit(self, index: int) -> None:
        now_ns = _clock_ns()
        batches = self._batches
        while batches and batches[0].last_index <= index:
            batch = batches.popleft()
            self._bytes -= len(batch.body)
            self._lag_ns = max(self._lag_ns, now_ns - batch.first_ns)
        self._committed = max(self._committed, index)
        self._set_oldest(batches[0].first_ns if batches else self._buffer_ns if self._buffer else NEVER_NS)
        waiting, deferred = self._waiting, self._deferred
        while waiting and waiting[0][0] <= index:
            waiting.popleft()[1]()
        # What is left uncommitted may be young again: then all go, since the next reply does, and would overtake them.
        while deferred and self.durable(deferred[0][0]):
            deferred.popleft()[1]()

    def _down(self) -> None:
        """What is not committed is kept; the next ledger process says how far this one came."""
        self._ready = False
        self._failing = ""
        self._down_ns = self._down_ns or _clock_ns()
        self._set_fine()
        self._log("error", "audit: the ledger process has died and is being restarted; no work is admitted meanwhile")
        self._say_health("the ledger process is being restarted")

    def _say_health(self, reason: str) -> None:
        self._metrics.health["audit"] = reason
        self._metrics.set("audit_writable", (), 0.0 if reason else 1.0)

    def upkeep(self, now_ns: int) -> None:
        """About once a second: refreshes the gauges, and detects stalls that the ledger process did not report."""
        late_ns = max(0, now_ns - self._oldest_ns)
        self._metrics.set("audit_lag_seconds", (), max(self._lag_ns, late_ns) / 1e9)
        self._lag_ns = 0
        self._say_health(self.reason)
        self._share_out()
        gone = self._down_ns and now_ns - self._down_ns > DOWN_NS
        if self._failing or gone or (self._ready and not self.admits(now_ns)):
            self._refuse()

    def _share_out(self) -> None:
        """Tells what the ledger process has spent, divided by the records that it was given meanwhile."""
        executions, asked_for = self._executions, self._asked_for
        total = executions.total() + asked_for.total()
        if not self._ledger_ns or not total:
            return
        each_ns = self._ledger_ns / total
        self._executions, self._asked_for, self._ledger_ns = Counter(), Counter(), 0
        for plugin in executions.keys() | asked_for.keys():
            self.on_spent(plugin, int(executions[plugin] * each_ns), int(asked_for[plugin] * each_ns))

    # ------------------------------------------------------------------ beginning and end
    def wait_ready(self, seconds: float) -> bool:
        """Blocks until the ledger can write, for ``seconds`` at most; before the loop runs, so that it has a ledger."""
        end = time.monotonic() + seconds
        while (not self._ready or self._failing) and self.side.up and (left := end - time.monotonic()) > 0:
            if select.select([self.side.fileno()], [], [], left)[0]:
                self.side.receive(time.monotonic_ns())
        return self._ready and not self._failing

    def _listen(self, until: float) -> bool:
        """Takes what the ledger says; False once it has left, or at ``until``."""
        left = until - time.monotonic()
        if not self.side.up or left <= 0:
            return False
        if select.select([self.side.fileno()], [], [], left)[0]:
            self.side.receive(time.monotonic_ns())
        return True

    def close(self, until: float) -> int:
        """Hands over what is left and waits until the ledger has committed it and left, or it is ``until``.

        That is by CLOCK_MONOTONIC, in seconds. Replies that waited for their records go, each as it may. Returns how
        many records are lost.
        """
        if self._buffer:
            self._hand_over()
        with contextlib.suppress(OSError):  # no process may be left to be had
            if self._batches and not self.side.up:
                self.side.start(time.monotonic_ns())
        while not self._ready and self._batches and self._listen(until):
            pass  # only a ledger that is ready knows what of it the last one has committed
        self.side.let_go(until)
        while self._listen(until):
            pass
        self.side.close(until)
        while self._deferred:
            self._deferred.popleft()[2]()
        return self._index - self._committed
