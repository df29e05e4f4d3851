"""Opening a store: revisions run once and in order, a newer store is left alone, a broken one says so."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from apex_exec.errors import Refusal
from apex_exec.registry.database import Schema, open_database, transact

CREATE = "op.execute('CREATE TABLE things (n INTEGER NOT NULL)')"
FILL = "op.execute('INSERT INTO things (n) VALUES (1)')"
BREAK = "op.execute('INSERT INTO things (n) VALUES (2)'); raise Refusal('migration_failed', 'on purpose')"
REVISION = """
from alembic import op
from apex_exec.errors import Refusal
revision, down_revision = "{:04}", {!r}
def upgrade():
    {}
"""


def things(folder: Path, *steps: str, version: int = 0) -> Schema:
    """The schema of a release that has these ``steps``, each a revision."""
    folder = folder / f"release-{len(steps)}-{version}"
    folder.mkdir(exist_ok=True)
    for number, step in enumerate(steps, 1):
        before = f"{number - 1:04}" if number > 1 else None
        (folder / f"{number:04}_step.py").write_text(REVISION.format(number, before, step))
    return Schema("things", folder, f"{len(steps):04}", version or len(steps))


def _sum(engine: sa.Engine) -> int:
    with engine.begin() as db:
        return int(db.execute(sa.text("SELECT COALESCE(SUM(n), 0) FROM things")).scalar_one())


def test_revisions_run_once_in_order_and_all_or_nothing(url: str, tmp_path: Path) -> None:
    open_database(url, things(tmp_path, CREATE)).dispose()
    engine = open_database(url, things(tmp_path, CREATE, FILL))
    assert _sum(engine) == 1
    open_database(url, things(tmp_path, CREATE, FILL)).dispose()
    with pytest.raises(Refusal, match="on purpose"):
        open_database(url, things(tmp_path, CREATE, FILL, FILL, BREAK))
    assert _sum(engine) == 1, "the third is undone with the fourth"
    assert _sum(open_database(url, things(tmp_path, CREATE, FILL, FILL))) == 2
    open_database(url, things(tmp_path, CREATE)._replace(name="others", revision="", version=0)).dispose()


def test_a_store_of_a_later_release_is_left_alone(url: str, tmp_path: Path) -> None:
    engine = open_database(url, things(tmp_path, CREATE, FILL))
    with pytest.raises(Refusal) as caught:
        open_database(url, things(tmp_path, CREATE))
    assert caught.value.reason == "store_newer" and _sum(engine) == 1
    assert str(caught.value).count("\n") == 0 and "version 2" in caught.value.message


def test_a_later_revision_that_this_release_can_live_with_does_not_keep_it_out(url: str, tmp_path: Path) -> None:
    open_database(url, things(tmp_path, CREATE, FILL, version=1)).dispose()
    engine = open_database(url, things(tmp_path, CREATE, version=1))
    assert _sum(engine) == 1
    open_database(url, things(tmp_path, CREATE, FILL, FILL, version=1)).dispose()
    assert _sum(engine) == 2, "the later release goes on from its own revision"


def test_many_that_open_a_new_store_at_once_make_it_once(url: str, tmp_path: Path) -> None:
    schema = things(tmp_path, CREATE, FILL)
    made: list[sa.Engine] = []
    threads = [threading.Thread(target=lambda: made.append(open_database(url, schema))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(made) == 4 and _sum(made[0]) == 1


def test_concurrent_writers_both_count(url: str, tmp_path: Path) -> None:
    engine = open_database(url, things(tmp_path, CREATE, FILL))

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
        open_database(f"sqlite:///{tmp_path}/x.db", things(tmp_path, CREATE))
    assert caught.value.reason == "store_unusable" and "backup" in caught.value.hint
