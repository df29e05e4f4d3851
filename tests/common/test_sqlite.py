"""A database of ours is private from its first byte, durable, and one that is read only is never written."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path

import pytest

from apex_exec.common.sqlite import open_ours, open_readonly, open_theirs, path_of

pytestmark = pytest.mark.fast


def test_a_url_names_a_file_or_another_database() -> None:
    assert path_of("sqlite:////var/lib/x y%20.db") == Path("/var/lib/x y%20.db")
    assert path_of("sqlite:///x.db") == Path("x.db")
    assert path_of("postgresql://role@host/name") is None


def test_the_file_and_its_folder_are_the_owners_alone_and_commits_are_durable(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with closing(open_ours(tmp_path / "new" / "x.db", busy_seconds=1, pragmas=("wal_autocheckpoint = 7",))) as db:
            db.execute("CREATE TABLE t (n)")
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()}
            assert set(modes.values()) == {0o600} and "x.db-wal" in modes
            assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
            found = [db.execute(f"PRAGMA {name}").fetchone()[0]
                     for name in ("journal_mode", "synchronous", "foreign_keys", "wal_autocheckpoint")]
    finally:
        os.umask(before)
    assert found == ["wal", 2, 1, 7]


def test_no_transaction_begins_by_itself(tmp_path: Path) -> None:
    with closing(open_ours(tmp_path / "x.db", busy_seconds=0.1)) as db:
        db.execute("CREATE TABLE t (n)")
        db.execute("INSERT INTO t VALUES (1)")
        assert not db.in_transaction
        db.execute("BEGIN IMMEDIATE")
        with closing(open_ours(tmp_path / "x.db", busy_seconds=0.1)) as other, \
                pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("INSERT INTO t VALUES (2)")


@pytest.mark.parametrize("name", ["x.db", "with ? and # and %41.db"])
def test_a_reader_cannot_write_and_makes_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(sqlite3.OperationalError):
        open_readonly(tmp_path / name).execute("SELECT 1 FROM t")
    assert not (tmp_path / name).exists()
    with closing(open_ours(tmp_path / name, busy_seconds=1)) as db:
        db.execute("CREATE TABLE t (n)")
        with closing(open_readonly(tmp_path / name)) as reader:
            assert reader.execute("SELECT count(*) FROM t").fetchone() == (0,)
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                reader.execute("INSERT INTO t VALUES (1)")


def test_a_folder_that_cannot_be_written_is_a_database_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(sqlite3.OperationalError, match="cannot be opened"):
        open_ours(tmp_path / "file" / "x.db", busy_seconds=1)


def test_the_platforms_database_stays_as_the_platform_made_it(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    with closing(sqlite3.connect(path)) as platform:
        platform.execute("CREATE TABLE orders (n)")
    path.chmod(0o640)
    with closing(open_theirs(path, busy_seconds=1)) as ours:
        ours.execute("INSERT INTO orders VALUES (1)")
        assert ours.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    open_theirs(tmp_path / "new.db", busy_seconds=1).close()
    assert stat.S_IMODE((tmp_path / "new.db").stat().st_mode) == 0o600


def test_many_connections_that_open_a_new_database_at_once_wait_for_each_other(tmp_path: Path) -> None:
    for round_ in range(20):
        opened: list[sqlite3.Connection] = []
        start = threading.Barrier(6)

        def open_one(path: Path, opened: list[sqlite3.Connection] = opened, start: threading.Barrier = start) -> None:
            start.wait()
            opened.append(open_ours(path, busy_seconds=30, any_thread=True))

        threads = [threading.Thread(target=open_one, args=(tmp_path / f"{round_}.db",)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(opened) == 6
        for database in opened:
            database.close()
