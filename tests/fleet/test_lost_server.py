"""A PostgreSQL connection that ends within a transaction, before one, or that no pool has left: a refusal each time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from apex_exec.errors import Refusal
from apex_exec.registry.database import open_existing, transact
from tests.support.postgres import Postgres

KILLED = sa.text("SELECT pg_terminate_backend(pg_backend_pid())")


@pytest.fixture
def engine(postgres: Postgres) -> Iterator[sa.Engine]:
    made = open_existing(postgres.url("lost"))
    transact(made, "test", lambda db: db.execute(sa.text("CREATE TABLE t (n int)")))
    yield made
    made.dispose()


def refusal(engine: sa.Engine, text: sa.TextClause) -> Refusal:
    def work(db: sa.Connection) -> None:
        db.execute(sa.text("INSERT INTO t VALUES (1)"))
        db.execute(text)

    with pytest.raises(Refusal) as caught:
        transact(engine, "test", work)
    return caught.value


def count(engine: sa.Engine) -> int:
    return int(transact(engine, "test", lambda db: db.execute(sa.text("SELECT count(*) FROM t")).scalar_one()))


def test_a_connection_that_ends_within_a_transaction_is_a_refusal_and_the_next_transaction_has_another(
        engine: sa.Engine) -> None:
    for _ in range(2):
        lost = refusal(engine, KILLED)
        assert lost.reason == "store_unusable" and "terminating connection" in lost.message
        assert "\n" not in lost.message
        assert count(engine) == 0


def test_a_connection_that_ends_at_the_commit_is_a_refusal(engine: sa.Engine) -> None:
    transact(engine, "test", lambda db: db.execute(sa.text(
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'")))
    transact(engine, "test", lambda db: db.execute(sa.text(
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
        "EXECUTE FUNCTION die()")))
    lost = refusal(engine, sa.text("SELECT 1"))
    assert lost.reason == "store_unusable" and count(engine) == 0


def test_a_pool_without_a_connection_to_spare_is_a_refusal(engine: sa.Engine) -> None:
    scarce = sa.create_engine(engine.url, pool_size=1, max_overflow=0, pool_timeout=0.1)
    with scarce.connect():
        lost = refusal(scarce, sa.text("SELECT 1"))
    assert lost.reason == "store_unusable"
    scarce.dispose()
