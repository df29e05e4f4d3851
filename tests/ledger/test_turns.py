"""Whatever the clock did, an event is found by the time that stands in it, and nobody can take it out of sight."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from apex_exec.ledger import reading
from apex_exec.ledger.audit import AuditStore
from apex_exec.ledger.reading import Filter, read_events, utc_text
from apex_exec.ledger.records import AuditRecord
from apex_exec.ledger.verify import verify

NOW_NS = 1_795_000_000 * 10**9
DAY_NS = 86_400 * 10**9


def store_of(folder: Path, times: list[int], batch: int = 7, restarts: int = 0) -> Path:
    store = AuditStore(folder / "a.db", folder)
    for start in range(0, len(times), batch):
        part = times[start : start + batch]
        if start % 2:
            store.append([AuditRecord(at, "plugin.api", "u", "p", "a", "success", {}) for at in part])
        else:
            store.append_lines([[at, "u", "p", "onDataFetch", "", 5, 0.0, "", 0, 0] for at in part], {}, start)
        if restarts and start // batch % restarts == restarts - 1:
            store.close()
            store = AuditStore(folder / "a.db", folder)
    store.close()
    return folder / "a.db"


def moment(at_ns: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_ns // 1000)


def wandering(seed: int, jumps: list[int]) -> list[int]:
    """Times of a clock that goes right, but for jumps that are put right after a while, and records that come late."""
    rng, now, off, times = random.Random(seed), NOW_NS, 0, []
    for _ in range(400):
        now += rng.randrange(3_600 * 10**9)
        if rng.random() < 0.03:
            off = rng.choice([0, *jumps])
        late = rng.randrange(1_800 * 10**9) if rng.random() < 0.1 else 0
        times.append(max(0, now + off - late))
    return times


@pytest.mark.parametrize("seed", range(12))
def test_every_event_is_found_by_its_own_time_whatever_the_clock_did(tmp_path: Path, seed: int) -> None:
    times = wandering(seed, [40 * DAY_NS, -3 * DAY_NS, 3_000 * DAY_NS, -NOW_NS, 7_200 * 10**9, -7_200 * 10**9])
    db = store_of(tmp_path, times, restarts=(0, 9)[seed % 2])
    assert verify(db, tmp_path).finding is None
    rng = random.Random(seed)
    for _ in range(60):
        begin = rng.choice(times) + rng.randrange(-DAY_NS, DAY_NS)
        end = begin + rng.choice((1, DAY_NS // 24, DAY_NS, 30 * DAY_NS))
        since, until = max(0, begin), max(1, end)
        after = rng.choice((0, 0, 123))
        expected = [n for n, at in enumerate(times, 1) if moment(since) <= moment(at) < moment(until) and n > after]
        wanted = Filter(since=moment(since), until=moment(until), after_seq=after)
        assert [event.seq for event in read_events(db, wanted)] == expected


def test_a_month_of_a_long_ledger_is_read_without_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = [NOW_NS + n * DAY_NS // 100 for n in range(6000)]
    times[3000:3010] = [NOW_NS - 300 * DAY_NS] * 10  # ten events with a clock that was a year behind
    db = store_of(tmp_path, times, 100)
    read: list[int] = []
    plain = reading.read_rows

    def counting(*arguments: object) -> object:
        for row in plain(*arguments):  # type: ignore[arg-type]  # handed on
            read.append(row[0])
            yield row

    monkeypatch.setattr(reading, "read_rows", counting)
    wanted = Filter(since=moment(NOW_NS + 40 * DAY_NS), until=moment(NOW_NS + 42 * DAY_NS))
    assert len(list(read_events(db, wanted))) == 200
    assert len(read) < 300
    assert len(list(read_events(db, Filter(until=moment(NOW_NS - DAY_NS))))) == 10


def test_a_turn_that_is_taken_out_of_the_list_is_found(tmp_path: Path) -> None:
    db = store_of(tmp_path, [NOW_NS, NOW_NS + 40 * DAY_NS, NOW_NS + 1, NOW_NS + 2])
    assert verify(db, tmp_path).finding is None
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("DELETE FROM turns WHERE seq = 3")
    finding = verify(db, tmp_path).finding
    assert finding is not None and (finding.kind, finding.seq) == ("edited", 3)


def test_turns_go_with_their_events_and_what_is_left_is_still_found(tmp_path: Path) -> None:
    times = [NOW_NS + n * DAY_NS // 10 + (500 * DAY_NS if n % 50 == 7 else 0) for n in range(1000)]
    db = store_of(tmp_path, times)

    def turns() -> list[int]:
        with closing(sqlite3.connect(db)) as connection:
            return [seq for (seq,) in connection.execute("SELECT seq FROM turns ORDER BY seq")]

    before = turns()
    store = AuditStore(db, tmp_path)
    assert store.expire(utc_text(moment(NOW_NS + 60 * DAY_NS)), utc_text(moment(NOW_NS + 100 * DAY_NS))) > 500
    while store.remove_some():
        pass
    first = store.first
    store.close()
    left = turns()
    assert len(left) < len(before) / 2 and left[0] <= first < left[1]
    assert verify(db, tmp_path).finding is None
    wanted = Filter(since=moment(NOW_NS), until=moment(NOW_NS + 100 * DAY_NS), user="u")
    assert [event.seq for event in read_events(db, wanted)] == [
        n for n, at in enumerate(times, 1) if n >= first and NOW_NS <= at < NOW_NS + 100 * DAY_NS]


def test_a_ledger_from_before_there_was_a_list_is_read_to_its_end(tmp_path: Path) -> None:
    times = [NOW_NS, NOW_NS + 40 * DAY_NS, NOW_NS + 1, NOW_NS + 2]
    db = store_of(tmp_path, times)
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("DROP TABLE turns")
    assert [e.seq for e in read_events(db, Filter(until=moment(NOW_NS + DAY_NS)))] == [1, 3, 4]
    assert verify(db, tmp_path).finding is None
    store = AuditStore(db, tmp_path)  # and goes on with one
    store.append([AuditRecord(NOW_NS - 9 * DAY_NS, "plugin.api", "u", "p", "a", "success", {})])
    store.close()
    assert [e.seq for e in read_events(db, Filter(until=moment(NOW_NS + DAY_NS)))] == [1, 3, 4, 5]
