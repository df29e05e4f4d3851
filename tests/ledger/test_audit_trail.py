"""The supervisor's end of the ledger: each record is stored once, whatever dies; admission stops where it cannot be."""

from __future__ import annotations

import os
import select
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from apex_exec.config import load_settings
from apex_exec.daemon.sides.audit_trail import DOWN_NS, HOLD_NS, LATE_NS, AuditTrail
from apex_exec.ledger import messages
from apex_exec.ledger.reading import read_events
from apex_exec.ledger.records import AuditRecord
from apex_exec.ledger.verify import verify

USER = "11111111-2222-4333-8444-555555555555"


class Noted:
    """Metrics as the trail sees them."""

    def __init__(self) -> None:
        self.health: dict[str, str] = {}
        self.counts: dict[tuple[str, tuple[str, ...]], float] = {}
        self.gauges: dict[str, float] = {}

    def inc(self, name: str, labels: tuple[str, ...] = (), amount: float = 1.0) -> None:
        self.counts[name, labels] = self.counts.get((name, labels), 0) + amount

    def set(self, name: str, labels: tuple[str, ...], value: float) -> None:
        self.gauges[name] = value


class Trail:
    """A trail and a loop's turns for it."""

    def __init__(self, folder: Path, **audit: Any) -> None:
        self.folder = folder
        self.metrics = Noted()
        self.log: list[str] = []
        overrides = {"state_dir": str(folder), "audit.min_free_bytes": 0} | {f"audit.{k}": v for k, v in audit.items()}
        self.admissions: list[str] = []
        self.trail = AuditTrail(
            load_settings(None, overrides), self.metrics, lambda _, text: self.log.append(text),
            on_refused=lambda: self.admissions.append("no"), on_admitted=lambda: self.admissions.append("yes"),
            side_changed=lambda _: None)
        self.trail.side.start(time.monotonic_ns())
        assert self.trail.wait_ready(15)

    def turn(self, wait: float = 0.001) -> None:
        trail, side = self.trail, self.trail.side
        now_ns = time.monotonic_ns()
        trail.flush(now_ns)
        if not side.up:
            if now_ns >= side.start_after_ns:
                side.start(now_ns)
            return
        side.flush()
        if select.select([side.fileno()], [], [], wait)[0]:
            side.receive(time.monotonic_ns())

    def until(self, true: Callable[[], bool], seconds: float = 15) -> None:
        due = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < due, f"it did not happen in time: {self.trail.reason}; {self.log}"
            self.turn()

    def add(self, count: int = 1) -> int:
        index = 0
        for _ in range(count):
            index = self.trail.execution(USER, "hello-world", "onDashboardLoad", "", 1_500_000, 12.0)
        return index

    def admits(self) -> bool:
        return self.trail.admits(time.monotonic_ns())

    def settle(self, index: int) -> None:
        self.until(lambda: index <= self.trail._committed)  # what only the trail knows; `durable` is softer in group

    def stored(self) -> int:
        assert verify(self.folder / "audit.db", self.folder).finding is None
        return sum(1 for _ in read_events(self.folder / "audit.db"))


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Trail]:
    trail = Trail(tmp_path)
    yield trail
    trail.trail.close(time.monotonic() + 20)


def test_records_become_events_of_the_protocol(group: Trail) -> None:
    group.trail.execution(USER, "hello-world", "onDashboardLoad", "", 1_500_000, 12.5, "00-" + "a" * 52)
    group.trail.execution(USER, "hello-world", "onDashboardLoad", "TIMEOUT", 0, 0.0)
    group.trail.execution(USER, "hello-world", "onDashboardLoad", "PERMISSION_DENIED", 0, 0.0)
    group.settle(group.trail.event("admin.action", "0", "hello-world", "plugin.enable", "success", {"uid": 0}))
    events = list(read_events(group.folder / "audit.db"))
    assert [(e.event_type, e.result) for e in events] == [
        ("plugin.execution", "success"), ("plugin.execution", "failure"), ("plugin.execution", "denied"),
        ("admin.action", "success")]
    assert events[0].metadata == {"executionTimeMs": 1.5, "memoryUsedMb": 12.5, "traceparent": "00-" + "a" * 52}
    assert events[1].metadata == {"executionTimeMs": 0.0, "memoryUsedMb": 0.0, "code": "TIMEOUT"}
    assert group.metrics.counts["audit_events_total", ("plugin.execution",)] == 3
    assert group.metrics.gauges["audit_writable"] == 1 and group.metrics.health == {"audit": ""}


def test_the_ledgers_time_is_divided_by_the_records_that_it_was_given(group: Trail) -> None:
    told: list[tuple[str, int, int]] = []
    group.trail.on_spent = lambda *spent: told.append(spent)
    group.add(100)
    for _ in range(300):
        group.trail.event("access.denied", USER, "greedy", "query", "denied", {"reason": "x" * 100})
    group.trail.event("plugin.api", USER, "large", "emit", "success", {"text": "x" * 60_000})
    group.settle(group.trail.event("admin.action", "0", "hello-world", "plugin.enable", "success", {}))
    group.trail.upkeep(time.monotonic_ns())
    spent = {plugin: (executions, others) for plugin, executions, others in told}
    assert spent.keys() == {"hello-world", "greedy", "large"} and all(sum(both) > 0 for both in spent.values())
    assert spent["hello-world"][1] == 0, "neither a call nor what an administrator did is the plugin's to pay"
    assert spent["greedy"][0] == 0 and 2.9 < spent["greedy"][1] / spent["hello-world"][0] < 3.1
    assert 25 < spent["large"][1] / (spent["greedy"][1] / 300) < 35
    told.clear()
    group.trail.upkeep(time.monotonic_ns())
    assert told == [], "it was told before"


def test_records_of_every_kind_keep_their_order_and_whatever_an_execution_holds_is_recorded(group: Trail) -> None:
    trail = group.trail
    trail.execution(USER, "a", "onDataFetch", "", 1_000, 12.0, cpu_ns=999)
    for _ in range(2):
        trail.record(AuditRecord(time.time_ns(), "data.deletion", USER, "b", "delete", "success", dedup_key="once"))
    trail.execution("\udc80", "c", "onDataFetch", "", 2**70, 0.0)
    trail.event("plugin.api", USER, "d", "emit", "success")
    group.settle(trail.execution(USER, "e", "onDataFetch", "", 1, 1.0))
    events = list(read_events(group.folder / "audit.db"))
    assert [event.resource for event in events] == ["a", "b", "c", "d", "e"]
    assert events[0].metadata["cpuMs"] == 0.000999
    assert group.stored() == 5
    assert {labels[0]: count for (_, labels), count in group.metrics.counts.items()} == {
        "plugin.execution": 3, "data.deletion": 2, "plugin.api": 1}


def test_the_time_until_which_all_is_fine_admits_no_more_than_admits_does(group: Trail) -> None:
    trail = group.trail

    def fine() -> bool:
        return time.monotonic_ns() <= trail.fine_until_ns

    assert fine() and group.admits()
    trail.side.take(messages.Failing("no disk"))
    assert not fine() and not group.admits()
    trail.side.take(messages.Recovered())
    assert fine()
    os.kill(trail.side.pid, signal.SIGSTOP)
    try:
        group.add()
        assert fine(), "young"
        group.until(lambda: not fine())
        assert trail.is_stalling(time.monotonic_ns())
    finally:
        os.kill(trail.side.pid, signal.SIGCONT)
    group.until(fine)
    assert not trail.is_stalling(time.monotonic_ns()) and not trail._late_since_ns
    os.kill(trail.side.pid, signal.SIGKILL)
    group.until(lambda: not trail.side.up)
    assert not fine() and not group.admits()
    group.until(fine)


def test_a_killed_ledger_is_restarted_and_each_record_is_stored_once(group: Trail) -> None:
    total = 0
    for round_ in range(4):
        for _ in range(40):
            total += 25
            group.add(25)
            group.turn()
        os.kill(group.trail.side.pid, signal.SIGKILL)
        group.until(lambda: not group.trail.side.up)
        assert not group.admits() and "ledger" in group.metrics.health["audit"]
        total += 10
        last = group.add(10)  # verdicts of what was admitted before go on arriving
        group.until(lambda: group.trail.side.up)
        group.settle(last)
        assert group.admits() and group.metrics.health["audit"] == "", round_
    assert group.stored() == total


@pytest.mark.parametrize("how", ["locked", "gone"])
def test_what_has_not_begun_is_refused_without_a_ledger_and_taken_again_with_one(group: Trail, how: str) -> None:
    told = group.admissions
    group.settle(group.add())
    assert not told
    if how == "locked":
        with closing(sqlite3.connect(group.folder / "audit.db", isolation_level=None)) as blocker:
            blocker.execute("BEGIN IMMEDIATE")
            last = group.add()
            group.until(lambda: told == ["no"])
            group.trail.upkeep(time.monotonic_ns())
            assert told == ["no", "no"], "what came about meanwhile is refused as well"
            blocker.execute("ROLLBACK")
    else:
        os.kill(group.trail.side.pid, signal.SIGKILL)
        group.until(lambda: not group.trail.side.up)
        now_ns = time.monotonic_ns()
        last = group.add()
        group.trail.upkeep(now_ns)
        assert not told, "one that is restarted costs no call its turn"
        group.trail.upkeep(now_ns + DOWN_NS + 1)
        assert told == ["no"]
    group.settle(last)
    assert told[-1] == "yes" and told.count("yes") == 1 and group.admits()
    group.settle(group.add())
    assert told.count("yes") == 1


def test_a_stalled_ledger_stops_admission_and_holds_replies_until_it_goes_on(group: Trail) -> None:
    sent: list[int] = []
    os.kill(group.trail.side.pid, signal.SIGSTOP)
    try:
        begun_ns = time.monotonic_ns()
        index = group.add()
        assert group.trail.durable(index), "young enough: the reply may go"
        group.until(lambda: not group.trail.durable(index))
        assert time.monotonic_ns() - begun_ns > LATE_NS
        group.trail.when_durable(index, lambda: sent.append(index), lambda: None)
        assert group.trail.is_stalling(time.monotonic_ns()) and group.admits(), "at first requests are left unread"
        group.until(lambda: not group.admits())
        assert time.monotonic_ns() - begun_ns > HOLD_NS
        assert "has waited" in group.trail.reason and not sent and group.trail.waiting == 1
    finally:
        os.kill(group.trail.side.pid, signal.SIGCONT)
    group.until(group.admits)
    assert sent == [index] and group.trail.reason == "" and group.trail.waiting == 0


def test_held_replies_go_in_their_order_and_before_those_that_need_not_wait(group: Trail) -> None:
    sent: list[int] = []
    trail, side = group.trail, group.trail.side

    def reply(index: int) -> None:
        """As the loop does it."""
        if trail.durable(index):
            sent.append(index)
        else:
            trail.when_durable(index, lambda: sent.append(index), lambda: None)

    os.kill(side.pid, signal.SIGSTOP)
    try:
        first = group.add()
        trail._hand_over()
        group.until(lambda: not trail.durable(first))
        reply(first)
        second = group.add()  # while the stall lasts: it is held too, and the stall's end commits the first one alone
        reply(second)
        assert sent == [] and trail.waiting == 2
    finally:
        os.kill(side.pid, signal.SIGCONT)
    trail._buffer_ns = time.monotonic_ns()  # the second is young, however slow this machine is
    trail._commit(first)  # what the ledger will say
    third = group.add()
    reply(third)
    group.settle(third)
    assert sent == [first, second, third]


def test_a_locked_database_stops_admission_with_its_reason_and_goes_on_by_itself(group: Trail) -> None:
    with closing(sqlite3.connect(group.folder / "audit.db", isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        index = group.add()
        group.until(lambda: "locked" in group.trail.reason)
        assert not group.admits() and group.metrics.gauges["audit_writable"] == 0
        blocker.execute("ROLLBACK")
    group.settle(index)
    group.until(group.admits)
    assert group.metrics.gauges["audit_writable"] == 1 and any("writes again" in line for line in group.log)


def test_strict_lets_a_reply_go_only_after_its_records_commit(tmp_path: Path) -> None:
    strict = Trail(tmp_path, durability="strict")
    index = strict.add()
    assert not strict.trail.durable(index)
    sent: list[int] = []
    strict.trail.when_durable(index, lambda: sent.append(strict.stored()), lambda: None)
    strict.until(lambda: bool(sent))
    assert sent == [1], "the event stood in the database when its reply went"
    strict.trail.close(time.monotonic() + 20)


def test_a_supervisor_that_wakes_from_a_stop_refuses_nobody(group: Trail) -> None:
    group.add()
    group.trail.flush(time.monotonic_ns() + 10**9)
    time.sleep(0.6)  # the loop did not run; the ledger did
    assert group.admits()
    group.turn()
    assert group.trail.reason == ""


def test_what_was_handed_over_is_committed_at_the_end(tmp_path: Path) -> None:
    trail = Trail(tmp_path)
    trail.add(5000)
    trail.trail.close(time.monotonic() + 20)
    assert trail.stored() == 5000


@pytest.mark.slow
def test_a_ledger_that_cannot_begin_is_waited_for(tmp_path: Path) -> None:
    trail = Trail(tmp_path)
    trail.add(10)
    trail.trail.close(time.monotonic() + 20)
    with closing(sqlite3.connect(tmp_path / "audit.db")) as connection:
        connection.execute("CREATE TABLE kept AS SELECT * FROM events")
        connection.execute("DELETE FROM events WHERE seq > 3")
        connection.commit()
    late = AuditTrail(load_settings(None, {"state_dir": str(tmp_path), "audit.min_free_bytes": 0}), Noted(),
                      lambda *_: None, on_refused=lambda: None, on_admitted=lambda: None, side_changed=lambda _: None)
    late.side.start(time.monotonic_ns())
    assert not late.wait_ready(3) and "truncated" in late.reason and not late.admits(time.monotonic_ns())
    with closing(sqlite3.connect(tmp_path / "audit.db")) as connection:
        connection.execute("INSERT INTO events SELECT * FROM kept WHERE seq > 3")
        connection.commit()
    assert late.wait_ready(10) and late.admits(time.monotonic_ns())
    late.close(time.monotonic() + 20)
