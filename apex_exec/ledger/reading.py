"""Reading the ledger: a library for metering, on which ``audit tail`` and ``audit export`` are built.

Read-only, from any process, while the ledger writes. Each step is a short query of its own, so that no reader prevents
SQLite from emptying its write-ahead log.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from apex_exec.common import sqlite
from apex_exec.ledger.clock_turns import SLACK_NS, stretches
from apex_exec.ledger.people import Names
from apex_exec.ledger.records import GENESIS, LedgerError

STEP_ROWS = 5_000
"""How many events one query fetches."""


class Event(msgspec.Struct, gc=False, rename="camel"):
    """One event as stored. ``timestamp`` is RFC 3339 UTC with nanoseconds, so that it sorts as text."""

    seq: int
    timestamp: str
    event_type: str
    user_id: str
    resource: str
    action: str
    result: str
    metadata: dict[str, Any] = {}


_decode = msgspec.json.Decoder(Event).decode


Having = Sequence[Sequence[str]]
"""Groups of texts: a body must contain one text of each group."""


def open_readonly(database: Path) -> sqlite3.Connection:
    """A connection that cannot write; it returns texts as bytes. Raises LedgerError if no ledger exists."""
    if not database.is_file():
        raise LedgerError(f"no ledger exists at {database}")
    db = sqlite.open_readonly(database)
    db.text_factory = bytes
    return db


def ends_of(db: sqlite3.Connection) -> tuple[int, int]:
    """The seqs of the first and the last event: (1, 0) without events.

    Each is asked for on its own. SQLite finds one end of a table by its key, but reads all of the table if it is asked
    for both ends at once.
    """
    first, last = (db.execute(f"SELECT {end}(seq) FROM events").fetchone()[0] for end in ("min", "max"))
    return first or 1, last or 0


def utc_text(moment: datetime) -> str:
    """``moment`` (aware) as the store writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"


def _first_seq_since(db: sqlite3.Connection, since: str, low: int, high: int) -> int:
    """The first event at or after ``since`` among those from ``low`` to ``high``, whose times never run backwards;
    ``high`` if there is none. Raises LedgerError for a body that we did not write."""
    while low < high:
        middle = (low + high) // 2
        row = db.execute("SELECT seq, body FROM events WHERE seq >= ? LIMIT 1", (middle,)).fetchone()
        try:
            earlier = row is not None and msgspec.json.decode(row[1], type=_OnlyTime).timestamp < since
        except msgspec.DecodeError as error:
            raise LedgerError(f"event {row[0]} cannot be read: {error}") from None
        if earlier:
            low = row[0] + 1
        else:
            high = middle
    return int(low)


class _OnlyTime(msgspec.Struct):
    timestamp: str


def read_rows(db: sqlite3.Connection, after_seq: int = 0, up_to: int | None = None, having: Having = ()
              ) -> Iterator[tuple[int, bytes, bytes]]:
    """(seq, body, hash) of the events after ``after_seq``, in order and a step at a time, up to ``up_to`` or, without
    it, to the end as it is when the reader reaches it. With ``having``, SQLite skips rows whose body lacks one text of
    each group."""
    if having or up_to is not None:
        yield from _read_range(db, after_seq, up_to, having)
        return
    while rows := db.execute("SELECT seq, body, hash FROM events WHERE seq > ? ORDER BY seq LIMIT ?",
                             (after_seq, STEP_ROWS)).fetchall():
        yield from rows
        after_seq = rows[-1][0]


def _read_range(db: sqlite3.Connection, after_seq: int, up_to: int | None, having: Having
                ) -> Iterator[tuple[int, bytes, bytes]]:
    condition = "".join(f" AND ({' OR '.join(['instr(body, ?)'] * len(texts))})" for texts in having)
    texts = [text for group in having for text in group]
    first, last = ends_of(db)
    after_seq = max(after_seq, first - 1)
    end = last if up_to is None else min(up_to, last)
    while after_seq < end:
        step_end = min(after_seq + STEP_ROWS, end)
        yield from db.execute(f"SELECT seq, body, hash FROM events WHERE seq > ? AND seq <= ?{condition} ORDER BY seq",
                              (after_seq, step_end, *texts)).fetchall()
        after_seq = step_end
        if after_seq == end and up_to is None:  # events that were written meanwhile
            end = db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0]


class Filter(msgspec.Struct, kw_only=True):
    """Selects events; an empty member selects all. ``since`` is inclusive, ``until`` exclusive (both aware)."""

    since: datetime | None = None
    until: datetime | None = None
    plugin: str = ""
    user: str = ""
    event_types: Collection[str] = ()
    after_seq: int = 0


def _rows_of_times(db: sqlite3.Connection, wanted: Filter, up_to: int | None, having: Having
                   ) -> Iterator[tuple[int, bytes, bytes]]:
    """The rows that include all events whose time ``wanted`` admits, in order, up to the seq ``up_to``. Each stretch is
    searched separately."""
    if wanted.since is None and wanted.until is None:
        yield from read_rows(db, wanted.after_seq, up_to, having)
        return
    for part in _parts(db, wanted, up_to):
        yield from read_rows(db, part.start - 1, part.stop - 1, having)


def _parts(db: sqlite3.Connection, wanted: Filter, up_to: int | None) -> Iterator[range]:
    """Ranges of seqs that include all events whose time ``wanted`` admits; no range is empty."""
    first, last = ends_of(db)
    if up_to is not None:
        last = min(last, up_to)
    slack = timedelta(seconds=SLACK_NS / 1e9)
    early, late = _moved(wanted.since, -slack), _moved(wanted.until, slack)
    for stretch in stretches(db):
        low = max(stretch.first, first, wanted.after_seq + 1)
        high = last + 1 if stretch.end is None else min(stretch.end, last + 1)
        if stretch.sorted and late and low < high:
            high = _first_seq_since(db, late, low, high)
        if stretch.sorted and early and low < high:
            low = _first_seq_since(db, early, low, high)
        if low < high:
            yield range(low, high)


def _moved(moment: datetime | None, by: timedelta) -> str:
    """The text of ``moment`` moved by ``by``, or to the first or last year; "" without a moment."""
    if moment is None:
        return ""
    try:
        return utc_text(moment + by)
    except OverflowError:
        return utc_text(moment)


def matching_rows(db: sqlite3.Connection, wanted: Filter, names: Names, up_to: int | None = None
                  ) -> Iterator[tuple[Event, bytes, bytes]]:
    """(event, body, hash) of every event that ``wanted`` selects, in order, up to the seq ``up_to``. The event has the
    user's id, as far as ``names`` has it, and the body what is stored.

    Raises LedgerError.
    """
    users = {wanted.user, names.pseudonym(wanted.user) or wanted.user} if wanted.user else set()
    since = utc_text(wanted.since) if wanted.since else ""
    until = utc_text(wanted.until) if wanted.until else ""
    # A body without the name of the plugin, user or type cannot match, so it is not even fetched.
    having = [[f'"{key}":{msgspec.json.encode(name).decode()}' for name in names] for key, names in (
        ("resource", (wanted.plugin,)), ("userId", users), ("eventType", wanted.event_types)) if any(names)]
    for seq, body, digest in _rows_of_times(db, wanted, up_to, having):
        try:
            event = _decode(body)
        except (msgspec.DecodeError, TypeError) as error:
            raise LedgerError(f"event {seq} cannot be read: {error}; run `apex-exec audit verify`") from None
        if ((not since or event.timestamp >= since) and (not until or event.timestamp < until)
                and (not wanted.plugin or event.resource == wanted.plugin)
                and (not users or event.user_id in users)
                and (not wanted.event_types or event.event_type in wanted.event_types)):
            event.user_id = names.name(event.user_id)
            yield event, body, digest


def read_events(database: Path, wanted: Filter | None = None, *, named: bool = True) -> Iterator[Event]:
    """The events of the ledger at ``database`` that ``wanted`` selects, in order, with the ids of their users. Blocks.
    For metering.

    Without ``named``, a reader who may not read the keys of the pseudonyms gets pseudonyms. Raises LedgerError if the
    ledger, or what names its users, cannot be read.
    """
    db = open_readonly(database)
    try:
        with contextlib.closing(Names(database, required=named)) as names:
            for event, _, _ in matching_rows(db, wanted or Filter(), names):
                yield event
    except sqlite3.Error as error:
        raise LedgerError(f"{database} cannot be read: {error}") from error
    finally:
        db.close()


def seqs_of(database: Path, wanted: Filter, up_to: int | None = None) -> list[range]:
    """The seqs that ``read_events`` has to visit to find all events that ``wanted`` selects.

    Blocks; raises LedgerError.
    """
    db = open_readonly(database)
    try:
        return list(_parts(db, wanted, up_to))
    except sqlite3.Error as error:
        raise LedgerError(f"{database} cannot be read: {error}") from error
    finally:
        db.close()


def export_rows(database: Path, wanted: Filter) -> Iterator[tuple[int, bytes]]:
    """(seq, line of JSON) for each event: the hashed text followed by ``prevHash`` and ``hash``.

    Blocks. Raises LedgerError. If retention has removed an event's predecessor, its prevHash comes from the checkpoint.
    """
    db = open_readonly(database)
    last_seq, last_hash = 0, GENESIS
    try:
        for event, body, digest in _named_rows(database, db, wanted):
            if last_seq != event.seq - 1:
                last_hash = hash_of(db, event.seq - 1)
            line = b'%b,"prevHash":"%b","hash":"%b"}\n' % (
                body[:-1], last_hash.hex().encode(), digest.hex().encode())
            yield event.seq, line
            last_seq, last_hash = event.seq, digest
    except sqlite3.Error as error:
        raise LedgerError(f"{database} cannot be read: {error}") from error
    finally:
        db.close()


def _named_rows(database: Path, db: sqlite3.Connection, wanted: Filter) -> Iterator[tuple[Event, bytes, bytes]]:
    with contextlib.closing(Names(database, required=bool(wanted.user))) as names:
        yield from matching_rows(db, wanted, names)


def hash_at(database: Path, seq: int) -> bytes:
    """The hash of event ``seq``; b"" if it is not there. Blocks; raises LedgerError."""
    db = open_readonly(database)
    try:
        row = db.execute("SELECT hash FROM events WHERE seq = ?", (seq,)).fetchone()
    except sqlite3.Error as error:
        raise LedgerError(f"{database} cannot be read: {error}") from error
    finally:
        db.close()
    return bytes(row[0]) if row is not None else b""


def hash_of(db: sqlite3.Connection, seq: int) -> bytes:
    """The hash of event ``seq``, also if retention has removed the event and kept only its hash; b"" if both are gone.
    """
    if seq == 0:
        return GENESIS
    for table in ("events", "removed"):
        row = db.execute(f"SELECT hash FROM {table} WHERE seq = ?", (seq,)).fetchone()
        if row is not None:
            return bytes(row[0])
    return b""


def last_seqs(database: Path, wanted: Filter, count: int) -> tuple[int, int]:
    """(the seq after which the last ``count`` matching events come, the last seq of all). Blocks; reads backwards only
    as far as necessary. Raises LedgerError."""
    db = open_readonly(database)
    names = Names(database, required=bool(wanted.user))
    try:
        first, last = ends_of(db)
        after, span = last, max(10 * count, 1000)
        seqs: list[int] = []
        while count and after >= first and len(seqs) < count:
            end, after = after, max(first - 1, last - span)
            seqs = [event.seq for event, _, _ in matching_rows(
                db, msgspec.structs.replace(wanted, after_seq=after), names, end)] + seqs
            span *= 8
        return (seqs[-count:][0] - 1 if seqs else last), last
    except sqlite3.Error as error:
        raise LedgerError(f"{database} cannot be read: {error}") from error
    finally:
        names.close()
        db.close()
