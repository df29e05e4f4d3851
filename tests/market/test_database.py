"""Opening a store: migrations run once and in order, a newer store is left alone, a broken one says so."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from apex_exec.errors import Refusal
from apex_exec.registry.database import Migration, open_database, transact


def _create(db: sa.Connection) -> None:
    db.execute(sa.text("CREATE TABLE things (n INTEGER NOT NULL)"))


def _fill(db: sa.Connection) -> None:
    db.execute(sa.text("INSERT INTO things (n) VALUES (1)"))


def _break(db: sa.Connection) -> None:
    db.execute(sa.text("INSERT INTO things (n) VALUES (2)"))
    raise Refusal("migration_failed", "on purpose")


def _sum(engine: sa.Engine) -> int:
    with engine.begin() as db:
        return int(db.execute(sa.text("SELECT COALESCE(SUM(n), 0) FROM things")).scalar_one())


def test_migrations_run_once_in_order_and_all_or_nothing(url: str) -> None:
    steps: list[Migration] = [_create]
    open_database(url, "things", steps).dispose()
    engine = open_database(url, "things", [*steps, _fill])
    assert _sum(engine) == 1
    open_database(url, "things", [*steps, _fill]).dispose()
    with pytest.raises(Refusal, match="on purpose"):
        open_database(url, "things", [*steps, _fill, _break])
    assert _sum(engine) == 1
    open_database(url, "others", []).dispose()


def test_a_store_of_a_later_release_is_left_alone(url: str) -> None:
    engine = open_database(url, "things", [_create, _fill])
    with pytest.raises(Refusal) as caught:
        open_database(url, "things", [_create])
    assert caught.value.reason == "store_newer" and _sum(engine) == 1


def test_concurrent_writers_both_count(url: str) -> None:
    engine = open_database(url, "things", [_create, _fill])

    def add(db: sa.Connection) -> None:
        total = db.execute(sa.text("SELECT SUM(n) FROM things")).scalar_one()
        db.execute(sa.text("UPDATE things SET n = :n"), {"n": total + 1})

    threads = [threading.Thread(target=lambda: [transact(engine, "things", add) for _ in range(10)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert _sum(engine) == 41, "who loses to another writer tries again, and is not refused"


def test_a_corrupt_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(Refusal) as caught:
        open_database(f"sqlite:///{tmp_path}/x.db", "things", [_create])
    assert caught.value.reason == "store_unusable" and "backup" in caught.value.hint
