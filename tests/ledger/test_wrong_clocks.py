"""A wall clock that is wrong, for a second or for a week, costs the ledger no event and stops no work."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from apex_exec.ledger.audit import AuditStore
from apex_exec.ledger.clock import CATCH_UP, GAP_NS, RetentionClock
from apex_exec.ledger.reading import read_events, utc_text
from apex_exec.ledger.records import AuditRecord, BodyMaker, encode_line, nanoseconds_of, time_of
from apex_exec.ledger.verify import verify

DAY_NS = 86_400 * 10**9
NOW_NS = 1_795_000_000 * 10**9
JUMPS_NS = [sign * size for size in (10**9, 3600 * 10**9, DAY_NS, 40 * DAY_NS, 500 * DAY_NS, 50 * 365 * DAY_NS)
            for sign in (1, -1)] + [-NOW_NS, 2**31 * 10**9 - NOW_NS]


def record(timestamp_ns: int, plugin: str = "p") -> AuditRecord:
    return AuditRecord(timestamp_ns, "plugin.api", "u", plugin, "a", "success", {})


@pytest.mark.parametrize("timestamp_ns", [
    0, 1, -1, 10**9 * 999_999_999, 10**18 - 1, 10**18, NOW_NS, 10**19, 253_402_300_799 * 10**9, 10**24, -10**24])
def test_a_record_of_any_time_is_chained(tmp_path: Path, timestamp_ns: int) -> None:
    store = AuditStore(tmp_path / "audit.db", tmp_path)
    store.append([record(NOW_NS), record(timestamp_ns), record(NOW_NS + 1)])
    store.append_lines([[timestamp_ns, "u", "p", "onActionExecute", "", 1, 0.0, "", 0, 0]], {}, 4)
    store.close()
    assert verify(tmp_path / "audit.db", tmp_path).finding is None
    times = [event.timestamp for event in read_events(tmp_path / "audit.db")]
    assert len(times) == 4 and times[1] == times[3] and {len(one) for one in times} == {30}
    if 0 <= timestamp_ns < 10**19:
        assert nanoseconds_of(times[1]) == timestamp_ns


def test_times_of_every_age_have_one_width_and_sort_as_they_are() -> None:
    maker, rng = BodyMaker(), random.Random(1)
    times = sorted(rng.randrange(0, 20 * 10**18) for _ in range(2000))
    texts = [time_of(maker.body(1, encode_line(record(one)))) for one in times]
    assert texts == sorted(texts) and [nanoseconds_of(text) for text in texts] == times


@pytest.mark.parametrize("jump_ns", JUMPS_NS)
def test_retention_believes_no_jump(tmp_path: Path, jump_ns: int) -> None:
    """At a start, live for a while, and for good: it never goes further than a week and twice the time that passed."""
    clock = RetentionClock(tmp_path, NOW_NS, 0, NOW_NS)
    begun = clock.sample(NOW_NS, 0)
    passed = 0
    for _ in range(48):  # two days with the wrong clock, live
        passed += 3600 * 10**9
        assert clock.sample(NOW_NS + passed + jump_ns, passed) <= begun + CATCH_UP * passed
    again = RetentionClock(tmp_path, NOW_NS + passed + jump_ns, 10**15, None)  # a start with it
    assert again.sample(NOW_NS + passed + jump_ns, 10**15) <= begun + CATCH_UP * passed + GAP_NS
    right = RetentionClock(tmp_path, NOW_NS + passed, 10**15, None)
    assert right.sample(NOW_NS + passed, 10**15) <= NOW_NS + passed, "with the right clock it is never ahead of it"


@pytest.mark.slow
def test_retention_catches_up_after_a_long_absence(tmp_path: Path) -> None:
    RetentionClock(tmp_path, NOW_NS, 0, None).sample(NOW_NS, 0)
    wall, monotonic = NOW_NS + 60 * DAY_NS, 0
    clock = RetentionClock(tmp_path, wall, monotonic, None)
    for _ in range(54 * 24):
        wall, monotonic = wall + 3600 * 10**9, monotonic + 3600 * 10**9
        clock.sample(wall, monotonic)
    assert clock.ahead_ns == 0


def at(timestamp_ns: int) -> str:
    return utc_text(datetime.fromtimestamp(timestamp_ns / 1e9, UTC))


def test_one_event_of_another_age_takes_no_other_along_and_keeps_none(tmp_path: Path) -> None:
    store = AuditStore(tmp_path / "audit.db", tmp_path)
    old, new = NOW_NS - 500 * DAY_NS, NOW_NS - DAY_NS
    old_ones = [record(old + n) for n in range(3)]
    store.append([*old_ones, record(NOW_NS + 4000 * DAY_NS), *old_ones, *(record(new + n) for n in range(20)),
                  record(0), *(record(new + 100 + n) for n in range(20))])
    assert store.expire(at(NOW_NS - 400 * DAY_NS), at(NOW_NS + DAY_NS)) == 7
    assert store.expire(at(NOW_NS - 400 * DAY_NS), at(NOW_NS + DAY_NS)) == 0
    while store.remove_some():
        pass
    store.close()
    assert verify(tmp_path / "audit.db", tmp_path).finding is None
    assert sum(event.resource == "p" for event in read_events(tmp_path / "audit.db")) == 41


def test_the_clock_is_kept_private(tmp_path: Path) -> None:
    RetentionClock(tmp_path, time.time_ns(), 0, None).sample(time.time_ns(), 1)
    assert (tmp_path / "audit.clock").stat().st_mode & 0o777 == 0o600
