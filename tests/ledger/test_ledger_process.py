"""The ledger process commits what it was handed, says so, and drains its link when the supervisor dies."""

from __future__ import annotations

import shutil
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import multiprocess
import pytest
from multiprocess.connection import Connection

from apex_exec.ledger.process import main
from apex_exec.ledger.reading import read_events
from apex_exec.ledger.records import AuditRecord, encode_line
from apex_exec.ledger.verify import verify
from apex_exec.wire.frames import FrameBuffer, pack_frame


def lines(count: int, age_ns: int = 0) -> list[bytes]:
    at_ns = time.time_ns() - age_ns
    return [encode_line(AuditRecord(at_ns + n, "plugin.execution", "u", "p", "onDataFetch", "success", {"n": n}))
            for n in range(count)]


class Ledger:
    """The process and the supervisor's end of its link."""

    def __init__(self, folder: Path, durability: str = "group", min_free_bytes: int = 0, trail: str = "t") -> None:
        self.near, far = socket.socketpair()
        self.near.settimeout(10)
        self.frames = FrameBuffer()
        self.waiting: list[Any] = []
        link = Connection(far.detach())
        self.process = multiprocess.get_context("spawn").Process(target=main, args=(link, {
            "state_dir": str(folder), "url": "sqlite:///<state_dir>/a.db", "durability": durability,
            "min_free_bytes": min_free_bytes, "retention_days": 400, "trail": trail}))
        self.process.start()
        link.close()

    def batch(self, last_index: int, count: int, age_ns: int = 0) -> None:
        self.near.sendall(pack_frame(msgspec.msgpack.encode(["batch", last_index, lines(count, age_ns), []])))

    def told(self, leaving_out: tuple[str, ...] = ("stats", "warning")) -> Any:
        """The next message. Figures come at their own time, and a warning does where upkeep meets a lock."""
        while True:
            while not self.waiting:
                data = self.near.recv(65536)
                assert data, "the process has ended"
                self.waiting = [msgspec.msgpack.decode(body) for body in self.frames.feed(data)]
            message = self.waiting.pop(0)
            if message[0] == "committed":  # the last part is CPU time, which differs from run to run
                assert type(message.pop()) is int
            if message[0] not in leaving_out:
                return message

    def committed(self, last_index: int) -> None:
        """Waits until everything up to ``last_index`` is durable; in how many groups is the process's own choice."""
        done = -1
        while done < last_index:
            word, index = self.told()
            assert word == "committed" and done < index <= last_index, (word, index)
            done = index

    def end(self) -> None:
        self.near.close()
        self.process.join(40)
        assert self.process.exitcode == 0


@pytest.fixture(params=["group", "strict"])
def ledger(request: Any, tmp_path: Path) -> Iterator[Ledger]:
    running = Ledger(tmp_path, request.param)
    assert running.told() == ["ready", 0]
    yield running
    if running.process.is_alive():
        running.end()


def count(folder: Path) -> int:
    assert verify(folder / "a.db", folder).finding is None
    return sum(1 for _ in read_events(folder / "a.db"))


def test_batches_are_committed_and_what_the_link_holds_at_its_end_too(tmp_path: Path, ledger: Ledger) -> None:
    ledger.batch(5, 5)
    assert ledger.told() == ["committed", 5]
    for index in range(10, 500, 5):
        ledger.batch(index, 5)
    ledger.end()
    assert count(tmp_path) == 495


def test_a_locked_database_is_said_waited_for_and_nothing_is_lost(tmp_path: Path, ledger: Ledger) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        ledger.batch(5, 5)
        word, reason = ledger.told()
        assert word == "failing" and "locked" in reason
        ledger.batch(9, 4)
        blocker.execute("ROLLBACK")
    assert ledger.told() == ["recovered"]
    ledger.committed(9)  # at once, or 5 first where its next try came before it read the second batch
    ledger.end()
    assert count(tmp_path) == 9


def test_a_restarted_ledger_knows_what_it_has_committed(tmp_path: Path, ledger: Ledger) -> None:
    ledger.batch(7, 7)
    assert ledger.told() == ["committed", 7]
    ledger.process.kill()
    ledger.process.join(5)
    again = Ledger(tmp_path)
    assert again.told() == ["ready", 7]
    again.end()
    other = Ledger(tmp_path, trail="another run of the supervisor")
    assert other.told() == ["ready", 0]
    other.end()


def test_too_little_space_is_said_at_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, min_free_bytes=2**60)
    assert ledger.told() == ["ready", 0]
    word, reason = ledger.told()
    assert word == "failing" and "audit.min_free_bytes" in reason
    ledger.process.kill()
    ledger.process.join(5)


def test_a_ledger_waits_for_the_one_before_it(tmp_path: Path, ledger: Ledger) -> None:
    second = Ledger(tmp_path)
    word, reason = second.told()
    assert word == "failing" and "another ledger process" in reason
    ledger.end()
    assert second.told() == ["ready", 0]
    second.end()


def test_the_head_follows_the_chain_when_nothing_more_comes(tmp_path: Path, ledger: Ledger) -> None:
    ledger.batch(5, 5)
    assert ledger.told() == ["committed", 5]
    due = time.monotonic() + 5
    while b'"seq":5' not in (tmp_path / "audit.head").read_bytes():
        assert time.monotonic() < due
        time.sleep(0.05)


def test_old_events_go_by_a_signed_checkpoint_when_a_ledger_starts(tmp_path: Path, ledger: Ledger) -> None:
    ledger.batch(4500, 4500, age_ns=401 * 86_400 * 10**9)
    assert ledger.told() == ["committed", 4500]
    ledger.batch(4510, 10)
    assert ledger.told() == ["committed", 4510]
    ledger.end()
    again = Ledger(tmp_path)
    assert again.told() == ["ready", 4510]
    again.batch(4520, 10)  # it goes on taking records meanwhile
    assert again.told() == ["committed", 4520]
    due = time.monotonic() + 10
    while verify(tmp_path / "a.db", tmp_path).first == 1 or next(read_events(tmp_path / "a.db")).seq == 1:
        assert time.monotonic() < due
        time.sleep(0.05)
    again.end()
    found = verify(tmp_path / "a.db", tmp_path)
    assert found.finding is None and found.first == 4501 and found.last == 4521, "20 young ones and the act itself"


def test_a_filling_disk_is_warned_of_while_the_ledger_still_writes(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, min_free_bytes=int(shutil.disk_usage(tmp_path).free * 0.7))
    assert ledger.told() == ["ready", 0]
    word, text = ledger.told(leaving_out=("stats",))
    assert word == "warning" and "audit.min_free_bytes" in text
    ledger.batch(1, 1)
    assert ledger.told() == ["committed", 1]
    ledger.end()
