"""Stores of earlier releases: each opens, says the same, is changed once, and is old or new when killed.

``states`` holds what releases have left (``states/make.py`` says how). Stores from before a table or a column
was added are taken from the first of them, less what was not there yet.
"""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from apex_exec.errors import Refusal
from apex_exec.market import store as market_store
from apex_exec.market.review.reviewers import signed_message
from apex_exec.market.review.submissions import decode_price
from apex_exec.market.shop.granted import open_grant
from apex_exec.market.shop.index import open_index
from apex_exec.market.store import open_market
from apex_exec.registry import store as db_
from apex_exec.registry import tables
from apex_exec.registry.bundles.bundle import unpack
from apex_exec.registry.database import Schema, open_database
from apex_exec.registry.store import Store
from apex_exec.registry.trust import approvals
from apex_exec.registry.trust.signing import key_id_of, read_signatures, verify_bytes, verify_digest
from tests.market.shops import OTHER, USER, Market

STATES = Path(__file__).parent / "states"
FIRST = STATES / "first"
RELEASES = sorted(path.name for path in STATES.iterdir() if (path / "facts.json").exists())
STORES = {"registry": tables.SCHEMA, "market": market_store.SCHEMA}
ADDED = {"registry": ["DROP TABLE ledger_heads"],
         "market": ["DROP TABLE decisions", "ALTER TABLE closed_usage DROP COLUMN host_cpu_us",
                    "DROP TABLE ledger_heads", "DROP TABLE lasting"]}
BEFORE = {(store, version): steps[version - 1:] for store, steps in ADDED.items()
          for version in range(1, len(steps) + 1)}
"""What a release did not have yet, by the number that it wrote into ``schema_versions``."""


def load(path: Path, release: str, store: str, version: int = 0) -> Path:
    """A database as ``release`` left it, or as one of before it did."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript((STATES / release / f"{store}.sql").read_text("utf-8"))
        if version:
            for statement in BEFORE[store, version]:
                db.execute(statement)
            db.execute("UPDATE schema_versions SET version = ? WHERE name = ?", (version, store))
        db.commit()
    return path


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return list(db.iterdump())


def shape(path: Path) -> dict[str, Any]:
    """Tables, their columns and what else there is, however the SQL that made them was written."""
    with closing(sqlite3.connect(path)) as db:
        named = {name: kind for name, kind in db.execute("SELECT name, type FROM sqlite_master WHERE sql IS NOT NULL")}
        return {name: [tuple(row[1:]) for row in db.execute(f"PRAGMA table_info({name})")] if kind == "table" else kind
                for name, kind in named.items()}


def rows(path: Path) -> dict[str, list[Any]]:
    """What the store tells, without what says how far its schema is."""
    with closing(sqlite3.connect(path)) as db:
        names = [name for name, in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
                 if name != "schema_versions" and not name.endswith("_revision") and not name.startswith("sqlite_")]
        return {name: sorted(db.execute(f"SELECT * FROM {name}")) for name in sorted(names)}


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("release", RELEASES)
def test_a_store_that_a_release_has_left_opens_and_holds_what_it_held(tmp_path: Path, release: str, store: str) -> None:
    path = load(tmp_path / "x.db", release, store)
    held = rows(path)
    open_database(f"sqlite:///{path}", STORES[store]).dispose()
    now = rows(path)
    assert {name: now[name] for name in held} == held
    opened = dump(path)
    open_database(f"sqlite:///{path}", STORES[store]).dispose()
    assert dump(path) == opened, "a second open changes nothing"


@pytest.mark.parametrize(("store", "version"), BEFORE)
def test_a_store_of_before_comes_to_the_same_shape_as_a_new_one(tmp_path: Path, store: str, version: int) -> None:
    path = load(tmp_path / "x.db", "first", store, version)
    held = rows(path)
    for file in (path, tmp_path / "new.db"):
        open_database(f"sqlite:///{file}", STORES[store]).dispose()
    assert shape(path) == shape(tmp_path / "new.db")
    now = rows(path)
    for name, before in held.items():
        assert [row[: len(before[0])] for row in now[name]] == before if before else now[name] == []


@pytest.mark.parametrize("store", STORES)
def test_the_newest_revision_and_the_number_in_the_code_agree_with_the_folder(store: str) -> None:
    schema = STORES[store]
    numbers = sorted(path.name[:4] for path in schema.revisions.glob("0*.py"))
    assert numbers[-1] == schema.revision and numbers == [f"{n:04}" for n in range(1, len(numbers) + 1)]
    assert schema.version <= len(numbers)


@pytest.mark.parametrize("store", STORES)
def test_a_store_that_a_later_release_wrote_is_refused_on_one_line_and_untouched(tmp_path: Path, store: str) -> None:
    path = load(tmp_path / "x.db", "first", store)
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE schema_versions SET version = 99 WHERE name = ?", (store,))
        db.commit()
    before = dump(path)
    with pytest.raises(Refusal) as caught:
        open_database(f"sqlite:///{path}", STORES[store])
    assert caught.value.reason == "store_newer" and "\n" not in str(caught.value) and "99" in str(caught.value)
    assert dump(path) == before


@pytest.mark.parametrize("store", STORES)
def test_the_release_before_goes_on_with_a_store_that_this_one_has_changed_and_may_be_started_again(
        tmp_path: Path, store: str) -> None:
    schema = STORES[store]
    url = f"sqlite:///{tmp_path}/x.db"
    open_database(url, schema).dispose()
    before = dump(tmp_path / "x.db")
    older = schema._replace(revision=f"{int(schema.revision) - 1:04}")  # as the code of that release knows it
    open_database(url, older).dispose()
    assert dump(tmp_path / "x.db") == before


DIES = """\
import os, signal
from alembic import op
revision, down_revision = {number!r}, {before!r}
def upgrade():
    op.execute("CREATE TABLE half (n INTEGER)")
    op.execute("INSERT INTO half VALUES (1)")
    os.kill(os.getpid(), signal.SIGKILL)
"""
OPEN = """\
import logging, sys
logging.basicConfig(level=logging.INFO)
from pathlib import Path
from apex_exec.registry.database import Schema, open_database
open_database(sys.argv[1], Schema(sys.argv[2], Path(sys.argv[3]), sys.argv[4], int(sys.argv[5])))
"""


@pytest.mark.parametrize(("store", "version"), [("registry", 1), ("market", 1)])
def test_whoever_is_killed_in_the_middle_of_the_revisions_leaves_the_store_as_it_was(
        tmp_path: Path, store: str, version: int) -> None:
    path = load(tmp_path / "x.db", "first", store, version)
    held, looked = rows(path), shape(path)
    schema = STORES[store]
    deadly = tmp_path / "revisions"
    shutil.copytree(schema.revisions, deadly)
    number = f"{int(schema.revision) + 1:04}"
    (deadly / f"{number}_dies.py").write_text(DIES.format(number=number, before=schema.revision))
    done = subprocess.run([sys.executable, "-c", OPEN, f"sqlite:///{path}", store, str(deadly), number, "9"],
                          timeout=100, check=False)
    assert done.returncode == -signal.SIGKILL
    assert rows(path) == held and shape(path) == looked, "all the revisions before it are undone too"
    open_database(f"sqlite:///{path}", schema).dispose()
    assert "half" not in rows(path) and rows(path).keys() >= held.keys()


def test_nothing_is_said_where_all_goes_well(tmp_path: Path) -> None:
    path, schema = load(tmp_path / "x.db", "first", "market", 1), STORES["market"]
    done = subprocess.run([sys.executable, "-c", OPEN, f"sqlite:///{path}", "market", str(schema.revisions),
                           schema.revision, str(schema.version)], timeout=100, check=False, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# ---------------------------------------------------------------- what the rows mean
@pytest.fixture
def facts() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FIRST / "facts.json").read_text())
    return found


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{load(tmp_path / 'registry.db', 'first', 'registry')}")
    yield made
    made.close()


def test_plugins_approvals_and_intervals_of_an_earlier_release_mean_the_same(registry: Store) -> None:
    plain = registry.transact(lambda db: db_.get_plugin(db, "plain"))
    assert plain is not None
    assert (plain.name, plain.version, plain.state) == ("Sample", "1.4.0", "enabled")
    (approval,) = registry.transact(lambda db: [row for row in db_.list_approvals(db) if row.state == "approved"])
    assert (approval.plugin, approval.permission, approval.reason) == ("sample", "admin:users", "ticket 4711")
    key = registry.transact(lambda db: db.execute(sa.select(tables.keys.c.public_key).where(
        tables.keys.c.key_id == approval.key_id)).scalar_one())
    assert verify_bytes(key, approvals.signed_message(approval.statement), approval.signature), "as it was signed then"
    spans = registry.transact(lambda db: sorted(tuple(row) for row in db.execute(sa.select(
        tables.enablement.c.user_id, tables.enablement.c.to_ns).where(tables.enablement.c.plugin == "plain"))))
    assert [user for user, _ in spans] == [USER, OTHER] and spans[0][1] is not None and spans[1][1] is None


def test_a_market_of_an_earlier_release_goes_on_where_it_was(tmp_path: Path, facts: dict[str, Any]) -> None:
    load(tmp_path / "market.db", "first", "market", 1)
    market = Market(tmp_path, f"sqlite:///{tmp_path}/market.db")
    market.now_ns = facts["nowNs"]
    assert market("billing.report", month="2026-10")["totals"] == facts["platform"]
    with market.shop.engine.begin() as db:
        bought = db.execute(sa.select(market_store.purchases).order_by(market_store.purchases.c.key)).all()
    assert [row.customer for row in bought] == ["Größe & Co"] * 2 and decode_price(bought[0].price).amount == 1995
    again = market("market.refund", purchase="order-2", key="refund-2", reason="bought twice")
    assert again == market("market.refund", purchase="order-2", key="refund-2", reason="bought twice")
    with pytest.raises(sa.exc.DatabaseError, match="immutable"), market.shop.engine.begin() as db:
        db.execute(sa.text("UPDATE closed_usage SET host_cpu_us = 1"))
        db.execute(sa.text("DELETE FROM closed_months"))
    market.close()


def test_what_an_earlier_release_signed_still_counts(tmp_path: Path, facts: dict[str, Any]) -> None:
    market_key, author, approver = (facts[name] for name in ("marketKey", "authorKey", "approverKey"))
    trusted = {key_id_of(bytes.fromhex(market_key)): market_key}
    index, _ = open_index((FIRST / "index.json").read_bytes(), trusted, facts["nowNs"], None, expired=True)
    assert [(entry.id, entry.digest) for entry in index.plugins] == [("sums", facts["digest"])]
    grant = open_grant((FIRST / "entitlement.json").read_bytes(), trusted)
    assert (grant.plugin, grant.users) == ("sums", [USER])
    bundle, signatures = unpack((FIRST / "sums.apx").read_bytes(), "sums.apx")
    signed = {one.role: one for one in read_signatures(signatures)}
    assert verify_digest(author, bundle.digest, signed["author"])
    assert verify_digest(market_key, bundle.digest, signed["market"])
    with closing(sqlite3.connect(load(tmp_path / "m.db", "first", "market"))) as db:
        ((statement, signature),) = db.execute("SELECT statement, signature FROM decisions")
        ((result, result_signature),) = db.execute("SELECT result, result_signature FROM submissions")
    assert verify_bytes(approver, signed_message(statement), signature)
    assert verify_bytes(market_key, b"apex-exec checks v1\n" + result.encode(), result_signature)
    spoiled = (FIRST / "index.json").read_bytes().replace(b"sums", b"sumz", 1)
    with pytest.raises(Refusal) as caught:
        open_index(spoiled, trusted, facts["nowNs"], None, expired=True)
    assert caught.value.reason == "index_untrusted"


# ---------------------------------------------------------------- the same on a server
def test_a_store_of_before_on_a_server_is_brought_up_and_keeps_its_rows(
        request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = str(request.getfixturevalue("postgres").url("revisions"))
    source = sa.create_engine(f"sqlite:///{load(tmp_path / 'x.db', 'first', 'market', 1)}")
    older = tmp_path / "revisions"
    older.mkdir()
    shutil.copy(market_store.SCHEMA.revisions / "0001_first.py", older)
    open_database(url, Schema("market", older, "0001", 1)).dispose()
    target = sa.create_engine(url)
    seen = sa.MetaData()
    with source.connect() as reading, target.begin() as writing:
        writing.execute(sa.text("DROP TABLE market_revision"))
        writing.execute(sa.text("DELETE FROM clock"))
        seen.reflect(source)
        for table in seen.sorted_tables:
            found = [dict(row._mapping) for row in reading.execute(sa.select(table))]
            if found and table.name != "schema_versions":
                writing.execute(sa.insert(sa.Table(table.name, sa.MetaData(), autoload_with=writing)), found)
    engine = open_market(url)
    with engine.begin() as db:
        columns = {column["name"] for column in sa.inspect(db).get_columns("closed_usage")}
        assert "host_cpu_us" in columns
        assert {"decisions", "lasting", "ledger_heads"} <= set(sa.inspect(db).get_table_names())
        assert db.execute(sa.text("SELECT count(*) FROM purchases")).scalar() == 2
        assert db.execute(sa.text("SELECT version FROM schema_versions WHERE name = 'market'")).scalar() == 6
    engine.dispose()
    open_market(url).dispose()
