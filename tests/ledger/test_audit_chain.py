"""The chain shows every edit, removal, reorder and truncation, and where."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from apex_exec.ledger.audit import AuditStore, LedgerError, verify
from apex_exec.ledger.records import AuditRecord


def record(n: int, key: str = "") -> AuditRecord:
    return AuditRecord(n, "plugin.execution", "u", "p", "onDataFetch", "success", {"n": n}, key)


def fill(path: Path) -> Path:
    store = AuditStore(path / "a.db", path)
    store.append([record(n) for n in range(10)])
    store.close()
    return path / "a.db"


def test_an_untouched_chain_verifies_and_goes_on(tmp_path: Path) -> None:
    db = fill(tmp_path)
    store = AuditStore(db, tmp_path)
    assert store.append([record(1, "k"), record(2, "k")]) == 1
    assert store.append([record(3, "k")]) == 0
    assert verify(db, tmp_path) is None  # ahead of the head: a crash before the head was written
    store.close()
    assert (tmp_path / "keys/audit").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("sql", "kind", "seq"),
    [
        ("UPDATE events SET action = 'x' WHERE seq = 4", "edited", 4),
        ("UPDATE events SET hash = zeroblob(32) WHERE seq = 4", "edited", 4),
        ("DELETE FROM events WHERE seq = 5", "missing", 5),
        ("DELETE FROM events WHERE seq > 7", "truncated", 8),
        (
            "UPDATE events SET seq = CASE seq WHEN 2 THEN -3 ELSE -2 END WHERE seq IN (2, 3);"
            "UPDATE events SET seq = -seq WHERE seq < 0",
            "edited",
            2,
        ),
    ],
)
def test_tampering_is_found_where_it_is(tmp_path: Path, sql: str, kind: str, seq: int) -> None:
    db = fill(tmp_path)
    with sqlite3.connect(db) as connection:
        connection.executescript(sql)
    connection.close()
    found = verify(db, tmp_path)
    assert found is not None and (found.kind, found.seq) == (kind, seq)


def test_a_truncated_database_is_refused(tmp_path: Path) -> None:
    db = fill(tmp_path)
    with sqlite3.connect(db) as connection:
        connection.execute("DELETE FROM events WHERE seq > 7")
    connection.close()
    with pytest.raises(LedgerError, match="truncated"):
        AuditStore(db, tmp_path)
