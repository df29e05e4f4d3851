"""The ledger process commits what it was handed, says so, and drains its link when the supervisor dies."""

from __future__ import annotations

import multiprocessing
import socket
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from apex_exec.ledger.audit import verify
from apex_exec.ledger.process import main
from apex_exec.ledger.records import AuditRecord
from apex_exec.wire.frames import FrameBuffer, pack_frame


def serve(near: socket.socket, far: socket.socket, settings: dict[str, Any]) -> None:
    near.close()
    main(far, settings)


def frame(*message: Any) -> bytes:
    return pack_frame(msgspec.msgpack.encode(message))


def read(near: socket.socket) -> Any:
    frames = FrameBuffer()
    while True:
        if found := frames.feed(near.recv(65536)):
            return msgspec.msgpack.decode(found[0])


@pytest.mark.parametrize("durability", ["group", "strict"])
def test_batches_are_committed_drained_and_signed(tmp_path: Path, durability: str) -> None:
    near, far = socket.socketpair()
    near.settimeout(10)
    settings = {
        "state_dir": str(tmp_path),
        "audit": {"url": "sqlite:///<state_dir>/a.db", "durability": durability},
    }
    process = multiprocessing.get_context("fork").Process(target=serve, args=(near, far, settings))
    process.start()
    far.close()
    batch = [AuditRecord(n, "plugin.execution", "u", "p", "onDataFetch", "success") for n in range(5)]
    near.sendall(frame("batch", 5, batch))
    assert read(near) == ["committed", 5]
    blocker = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    near.sendall(frame("batch", 10, batch))
    assert read(near)[0] == "failing"
    blocker.execute("ROLLBACK")
    blocker.close()
    assert read(near)[0] == "recovered"
    near.sendall(frame("batch", 15, batch))
    near.close()
    process.join(20)
    assert process.exitcode == 0
    assert verify(tmp_path / "a.db", tmp_path) is None
    assert sqlite3.connect(tmp_path / "a.db").execute("SELECT count(*) FROM events").fetchone() == (15,)
