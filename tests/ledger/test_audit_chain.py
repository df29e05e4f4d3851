"""The chain shows every edit, removal, reorder and truncation, and where."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from apex_exec.ledger.audit import CHECKPOINT_PAGES, AuditStore, LedgerError
from apex_exec.ledger.checkpoints import SignedHead, load_key, write_signed
from apex_exec.ledger.reading import Filter, ends_of, export_rows, open_readonly, read_events, utc_text
from apex_exec.ledger.records import AuditRecord, BodyMaker, chain_hash, encode_line, execution_record
from apex_exec.ledger.verify import verify

BASE_NS = 1_800_000_000_000_000_000
DAY_NS = 86_400_000_000_000


def record(n: int, key: str = "", at_ns: int = BASE_NS) -> AuditRecord:
    return AuditRecord(at_ns + n, "plugin.execution", "u", "p", "onDataFetch", "success", {"n": n}, key)


def fill(path: Path, count: int = 10) -> Path:
    store = AuditStore(path / "a.db", path)
    store.append([record(n) for n in range(count)])
    store.close()
    return path / "a.db"


def tamper(database: Path, sql: str) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript(sql)


def test_an_untouched_chain_verifies_and_goes_on(tmp_path: Path) -> None:
    db = fill(tmp_path)
    store = AuditStore(db, tmp_path)
    assert store.append([record(1, "k"), record(2, "k")]) == 1, "one key, one event"
    assert store.append([record(3, "k")]) == 0
    found = verify(db, tmp_path)
    assert found.finding is None and found.last == 11, "ahead of the head: a crash before the head was written"
    store.close()
    assert (tmp_path / "keys/audit").stat().st_mode & 0o777 == 0o600
    assert db.stat().st_mode & 0o777 == 0o600


def test_the_log_beside_the_database_is_moved_into_it_often(tmp_path: Path) -> None:
    store = AuditStore(tmp_path / "a.db", tmp_path)
    most = 0
    for group in range(300):
        store.append([record(50 * group + n) for n in range(50)])
        most = max(most, (tmp_path / "a.db-wal").stat().st_size)
    store.close()
    pages = most // 4096
    assert CHECKPOINT_PAGES <= pages < 500, "SQLite's own bound is 1,000"
    assert verify(tmp_path / "a.db", tmp_path).finding is None


SWAP = ("UPDATE events SET seq = CASE seq WHEN 2 THEN -3 ELSE -2 END WHERE seq IN (2, 3);"
        "UPDATE events SET seq = -seq WHERE seq < 0")
SHIFT = "DELETE FROM events WHERE seq = 5; UPDATE events SET seq = seq - 1 WHERE seq > 5"


@pytest.mark.parametrize(
    ("sql", "kind", "seq"),
    [
        ("UPDATE events SET body = replace(body, 'onDataFetch', 'onDataFetcj') WHERE seq = 4", "edited", 4),
        ("UPDATE events SET hash = zeroblob(32) WHERE seq = 4", "edited", 4),
        ("UPDATE events SET body = NULL WHERE seq = 4", "edited", 4),
        ("UPDATE events SET body = 7 WHERE seq = 4", "edited", 4),
        ("DELETE FROM events WHERE seq = 5", "missing", 5),
        ("DELETE FROM events WHERE seq = 1", "missing", 1),
        ("DELETE FROM events WHERE seq > 7", "truncated", 8),
        ("DELETE FROM events", "truncated", 1),
        (SWAP, "edited", 2),
        (SHIFT, "edited", 5),
        ("INSERT INTO events SELECT 11, replace(body, '\"seq\":10', '\"seq\":11'), hash FROM events WHERE seq = 10",
         "edited", 11),
    ],
)
def test_tampering_is_found_where_it_is(tmp_path: Path, sql: str, kind: str, seq: int) -> None:
    db = fill(tmp_path)
    tamper(db, sql.replace("body = NULL", "body = x''"))
    found = verify(db, tmp_path).finding
    assert found is not None and (found.kind, found.seq) == (kind, seq)


def test_every_single_bit_of_every_event_counts(tmp_path: Path) -> None:
    db = fill(tmp_path, 3)
    with closing(sqlite3.connect(db)) as connection:
        connection.text_factory = bytes
        body = connection.execute("SELECT body FROM events WHERE seq = 2").fetchone()[0]
        for bit in range(0, 8 * len(body), 5):
            changed = bytearray(body)
            changed[bit // 8] ^= 1 << bit % 8
            connection.execute("UPDATE events SET body = CAST(? AS TEXT) WHERE seq = 2", (bytes(changed),))
            connection.commit()
            found = verify(db, tmp_path).finding
            assert found is not None and found.seq == 2, bit


def test_a_chain_rewritten_with_right_hashes_differs_from_its_signed_head(tmp_path: Path) -> None:
    db = fill(tmp_path)
    rewritten(db, b'"n":4', b'"n":5')
    found = verify(db, tmp_path).finding
    assert found is not None and (found.kind, found.seq) == ("head", 10)


def rewritten(database: Path, old: bytes, new: bytes) -> bytes:
    """Puts ``new`` for ``old`` in every event and chains all again, as anybody can who may write; the last hash."""
    prev = bytes(32)
    with closing(sqlite3.connect(database)) as connection:
        connection.text_factory = bytes
        for seq, body in connection.execute("SELECT seq, body FROM events ORDER BY seq").fetchall():
            body = body.replace(old, new)
            prev = chain_hash(prev, body)
            connection.execute("UPDATE events SET body = CAST(? AS TEXT), hash = ? WHERE seq = ?", (body, prev, seq))
        connection.commit()
    return prev


def test_a_chain_that_was_rewritten_is_not_signed_anew_by_the_next_ledger(tmp_path: Path) -> None:
    """An attacker who may write the database, but not the head, rewrites it while no ledger runs; then one starts."""
    db = fill(tmp_path)
    rewritten(db, b'"n":4', b'"n":5')
    with pytest.raises(LedgerError, match="rewritten"):
        AuditStore(db, tmp_path)
    found = verify(db, tmp_path).finding
    assert found is not None and found.kind == "head"


@pytest.mark.parametrize("tail", ["as it is", "removed", "its table dropped"])
def test_an_event_added_after_the_head_is_found_and_not_signed(tmp_path: Path, tail: str) -> None:
    db = fill(tmp_path)
    prev = rewritten(db, b"", b"")
    body = (b'{"seq":11,"timestamp":"2027-01-15T08:00:00.000000000Z","eventType":"admin.action","userId":"u",'
            b'"resource":"p","action":"plugin.approve","result":"success","metadata":{}}')
    with closing(sqlite3.connect(db)) as connection:
        connection.execute("INSERT INTO events VALUES (11, CAST(? AS TEXT), ?)", (body, chain_hash(prev, body)))
        connection.commit()
    if tail != "as it is":
        tamper(db, "DELETE FROM tail" if tail == "removed" else "DROP TABLE tail")
    found = verify(db, tmp_path).finding
    assert found is not None and (found.kind, found.seq) == ("added", 11)
    with pytest.raises(LedgerError, match="events were added"):
        AuditStore(db, tmp_path)


def test_a_chain_without_its_head_is_not_given_a_new_one(tmp_path: Path) -> None:
    db = fill(tmp_path)
    tamper(db, "DELETE FROM events WHERE seq > 7")
    (tmp_path / "audit.head").unlink()
    with pytest.raises(LedgerError, match="head .* is gone"):
        AuditStore(db, tmp_path)
    tamper(db, "DELETE FROM events")
    with pytest.raises(LedgerError, match="head .* is gone"):
        AuditStore(db, tmp_path)


def test_what_the_head_does_not_cover_yet_is_held_by_the_tail(tmp_path: Path) -> None:
    """After a kill -9 the head is up to a second behind: neither is that tail lost, nor may another stand there."""
    db = fill(tmp_path)
    store = AuditStore(db, tmp_path)
    store.append([record(n) for n in range(10, 15)])
    store.release()  # a kill -9: no head
    kept = db.read_bytes()
    AuditStore(db, tmp_path).release()
    rewritten(db, b'"n":12', b'"n":99')
    found = verify(db, tmp_path).finding
    assert found is not None and (found.kind, found.seq) == ("tail", 15)
    with pytest.raises(LedgerError, match="differs from its signed tail: it was rewritten"):
        AuditStore(db, tmp_path)
    db.write_bytes(kept)
    tamper(db, "DELETE FROM events WHERE seq > 12")
    with pytest.raises(LedgerError, match="truncated"):
        AuditStore(db, tmp_path)
    tamper(db, "UPDATE tail SET body = replace(CAST(body AS TEXT), '15', '12')")
    with pytest.raises(LedgerError, match="not signed"):
        AuditStore(db, tmp_path)


def test_a_dedup_key_without_its_event_swallows_no_record(tmp_path: Path) -> None:
    """An attacker who sees a record in the outbox writes its key into the ledger's index first."""
    db = fill(tmp_path)
    tamper(db, "INSERT INTO keys VALUES ('outbox:1', 3)")
    store = AuditStore(db, tmp_path)
    assert store.append([record(1, "outbox:1")]) == 1
    assert store.append([record(1, "outbox:1")]) == 0
    store.close()


def test_a_head_that_is_gone_or_not_ours_is_found(tmp_path: Path) -> None:
    db = fill(tmp_path)
    head = tmp_path / "audit.head"
    kept = head.read_bytes()
    head.unlink()
    found = verify(db, tmp_path).finding
    assert found is not None and found.kind == "head"
    write_signed(head, SignedHead("head", 3, bytes(32)), load_key(tmp_path / "elsewhere"))
    found = verify(db, tmp_path).finding
    assert found is not None and "not signed" in found.message
    head.write_bytes(kept)
    assert verify(db, tmp_path).finding is None


def test_a_head_noted_elsewhere_shows_that_all_was_put_back(tmp_path: Path) -> None:
    """Who puts back yesterday's database, head and anchor, so the whole folder: only a noted head shows that."""
    db = fill(tmp_path)
    before = [(path, path.read_bytes()) for path in (db, tmp_path / "audit.head", tmp_path / "ledger.anchor")]
    store = AuditStore(db, tmp_path)
    store.append([record(n) for n in range(5)])
    noted = store.seq, store.hash
    store.close()
    assert verify(db, tmp_path, noted).finding is None
    for path, body in before:
        path.write_bytes(body)
    assert verify(db, tmp_path).finding is None
    found = verify(db, tmp_path, noted).finding
    assert found is not None and (found.kind, found.seq) == ("truncated", 11)


def test_a_truncated_database_is_refused(tmp_path: Path) -> None:
    db = fill(tmp_path)
    tamper(db, "DELETE FROM events WHERE seq > 7")
    with pytest.raises(LedgerError, match="truncated"):
        AuditStore(db, tmp_path)


def test_two_writers_are_refused(tmp_path: Path) -> None:
    store = AuditStore(tmp_path / "a.db", tmp_path)
    with pytest.raises(LedgerError, match="another ledger process"):
        AuditStore(tmp_path / "a.db", tmp_path)
    store.close()
    AuditStore(tmp_path / "a.db", tmp_path).close()


def test_an_exported_line_carries_the_hashed_text(tmp_path: Path) -> None:
    db = fill(tmp_path)
    prev = "00" * 32
    for number, (seq, line) in enumerate(export_rows(db, Filter()), 1):
        event = json.loads(line)
        assert list(event) == ["seq", "timestamp", "eventType", "userId", "resource", "action", "result", "metadata",
                               "prevHash", "hash"]
        assert event["seq"] == seq == number and event["prevHash"] == prev
        assert datetime.fromisoformat(event["timestamp"]).timestamp() == pytest.approx(BASE_NS / 1e9)
        text = line[: line.rindex(b',"prevHash"')] + b"}"
        assert hashlib.sha256(bytes.fromhex(prev) + text).hexdigest() == event["hash"]
        prev = event["hash"]
    ((_, only),) = export_rows(db, Filter(after_seq=9))
    assert json.loads(only)["hash"] == prev


def test_events_are_found_by_time_plugin_user_and_type(tmp_path: Path) -> None:
    store = AuditStore(tmp_path / "a.db", tmp_path)
    store.append([AuditRecord(BASE_NS + n * DAY_NS, ("data.access", "access.denied")[n % 2], f"u{n % 3}", f"p{n % 4}",
                              "query", "success") for n in range(48)])
    store.close()

    def seqs(**wanted: object) -> list[int]:
        return [event.seq for event in read_events(tmp_path / "a.db", Filter(**wanted))]  # type: ignore[arg-type]  # a test's table

    begin = datetime.fromtimestamp(BASE_NS // 10**9, UTC)
    assert seqs() == list(range(1, 49))
    assert seqs(since=begin + timedelta(days=40)) == list(range(41, 49))
    assert seqs(until=begin + timedelta(days=2)) == [1, 2]
    assert seqs(since=begin + timedelta(days=10), until=begin + timedelta(days=12)) == [11, 12]
    assert seqs(plugin="p1") == list(range(2, 49, 4))
    assert seqs(user="u2", plugin="p1") == list(range(6, 49, 12))
    assert seqs(event_types=["access.denied"], until=begin + timedelta(days=3)) == [2]
    assert seqs(plugin="u1") == [], "a needle in another member does not match"


def test_retention_leaves_a_chain_that_verifies_and_says_that_it_was_done(tmp_path: Path) -> None:
    db = tmp_path / "a.db"
    store = AuditStore(db, tmp_path)
    store.append([record(n, at_ns=BASE_NS + n * DAY_NS) for n in range(5000)])
    hashes = {seq: json.loads(line)["hash"] for seq, line in export_rows(db, Filter())}
    before = utc_text(datetime.fromtimestamp(BASE_NS // 10**9, UTC) + timedelta(days=4990))
    assert store.expire(before) == 4990
    assert verify(db, tmp_path).finding is None, "the checkpoint is there and the events are still too"
    while store.remove_some():
        assert verify(db, tmp_path).finding is None
    assert store.expire(before) == 0
    store.close()
    found = verify(db, tmp_path)
    assert found.finding is None and (found.first, found.last) == (4991, 5001)
    first = json.loads(next(export_rows(db, Filter()))[1])
    assert first["seq"] == 4991 and first["prevHash"] == hashes[4990]
    last = list(read_events(db))[-1]
    assert last.action == "audit.retention" and last.metadata["throughSeq"] == 4990
    tamper(db, "DELETE FROM events WHERE seq = 4991")
    gone = verify(db, tmp_path).finding
    assert gone is not None and (gone.kind, gone.seq) == ("missing", 4991), "one more than the checkpoint says"
    store = AuditStore(db, tmp_path)
    assert store.append([record(1)]) == 1
    store.close()


def test_an_execution_has_the_text_of_the_same_record() -> None:
    maker = BodyMaker()
    for n, code in enumerate(("", "TIMEOUT", "RATE_LIMITED", "PERMISSION_DENIED")):
        for trace, cpu_ns in (("", 0), ("00-ab", 12_345)):
            fields = (BASE_NS + n * 1_000_000_007, 'u"\n', "p\u2028", "onDataFetch", code, 1_234_567 * n, 14.25 * n,
                      trace, cpu_ns, 2 * cpu_ns)
            text = maker.execution(n, fields)
            assert text == BodyMaker().body(n, encode_line(execution_record(fields)))
            assert json.loads(text)["metadata"].get("cpuMs", 0) == cpu_ns / 1e6
            assert json.loads(text)["metadata"].get("hostCpuMs", 0) == 2 * cpu_ns / 1e6


def test_an_execution_that_is_none_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    store = AuditStore(tmp_path / "b.db", tmp_path / "b")
    good = [BASE_NS, "u", "p", "onDataFetch", "", 1, 1.0, "", 0, 0]
    for bad in (good[:-1], [*good, 1], ["x" * 19, *good[1:]],
                [BASE_NS, "u", "p", "onDataFetch", "", "no time", 1.0, "", 0, 0]):
        with pytest.raises(LedgerError):
            store.append_lines([good, bad], {}, 2)
        assert store.seq == 0 == store.last_index
    assert store.append_lines([good] * 35, {}, 35) == 35  # two whole statements and a part
    store.close()
    assert verify(tmp_path / "b.db", tmp_path / "b").last == 35


def test_whatever_a_record_holds_is_one_line(tmp_path: Path) -> None:
    store = AuditStore(tmp_path / "a.db", tmp_path)
    odd = [
        AuditRecord(BASE_NS, "plugin.api", "u\nv", "p\u2028\x00", "a", "success", {"x": float("nan"), "y": b"\xff"}),
        AuditRecord(BASE_NS, "plugin.api", "\udc80", "p", "a", "success", {"big": 2**80}),
        AuditRecord(BASE_NS, "plugin.api", "u", "p", "a", "success", {"long": "x" * 100_000}),
        AuditRecord(BASE_NS, "plugin.api", "u", "p", "a", "success", {"thing": object}),
        AuditRecord(BASE_NS, "plugin.api", "u" * 100_000, "p", "a", "success"),
    ]
    assert store.append(odd) == 5
    store.close()
    events = list(read_events(tmp_path / "a.db"))
    assert events[0].user_id == "u\nv" and events[0].resource == "p\u2028\x00"
    assert events[2].metadata["cut"] and events[4].metadata["cut"] and len(events[4].user_id) == 512
    assert verify(tmp_path / "a.db", tmp_path).finding is None


@pytest.mark.parametrize("taken", ["an older copy", "all of it", "another chain"])
def test_an_older_copy_that_is_put_back_is_refused_and_found(tmp_path: Path, taken: str) -> None:
    state, anchor = tmp_path / "state", tmp_path / "elsewhere"
    database = state / "audit.db"
    record = AuditRecord(BASE_NS, "plugin.api", "u", "p", "a", "success", {})
    store = AuditStore(database, state, anchor=str(anchor))
    store.append([record] * 40)
    store.close()
    copy = {path.name: path.read_bytes() for path in state.glob("audit.*")}
    store = AuditStore(database, state, anchor=str(anchor))
    store.append([record] * 60)
    store.close()
    assert verify(database, state, anchor=str(anchor)).finding is None
    for path in state.glob("audit.*"):
        path.unlink()
    if taken == "an older copy":
        for name, body in copy.items():
            (state / name).write_bytes(body)
    elif taken == "another chain":
        away = state / "ledger.anchor"
        kept = away.read_bytes()
        away.unlink()
        other = AuditStore(database, state)
        other.append([AuditRecord(BASE_NS, "plugin.api", "u", "p", "other", "success", {})] * 120)
        other.close()
        away.write_bytes(kept)
    else:
        (state / "ledger.anchor").unlink()  # the one elsewhere is enough
    with pytest.raises(LedgerError, match=r"an older copy|the chain was replaced"):
        AuditStore(database, state, anchor=str(anchor))
    found = verify(database, state, anchor=str(anchor))
    assert found.finding is not None


def test_the_ends_of_a_long_ledger_are_found_by_their_keys(tmp_path: Path) -> None:
    with closing(open_readonly(fill(tmp_path, 5000))) as db:
        steps: list[int] = []
        db.set_progress_handler(lambda: steps.append(1) or 0, 10)  # once in ten instructions of SQLite's machine
        assert ends_of(db) == (1, 5000)
        assert len(steps) < 10, "it read the whole table"
        db.set_progress_handler(None, 0)
