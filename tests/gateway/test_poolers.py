"""PostgreSQL behind Debian's pgbouncer in transaction mode, where all share two connections: every answer comes, and is
the caller's own."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from apex_exec.client import Client
from apex_exec.errors import ConfigError
from apex_exec.gateway.postgres import Postgres as PostgresBackend
from apex_exec.registry.database import open_database
from apex_exec.registry.tables import SCHEMA
from tests.gateway.bundles import ALL, bundle
from tests.gateway.conftest import ROLE, A, B, Data
from tests.gateway.owned import owned, tables_of
from tests.support.daemon import Daemon
from tests.support.pgbouncer import PgBouncer
from tests.support.postgres import Postgres
from tests.support.watched_wire import WatchedWire

PLUGINS = 4
CALLS = 5000
"""What the README promises: this many mixed calls, and none fails."""
DEADLINE_MS = 30_000
"""Of seven calls: the promise is not about time, and a busy machine must not break it."""


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="apx"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def rows(postgres: Postgres) -> Iterator[Data]:
    """Row-level security decides whose a row is, by the claims of each transaction: they must not outlast it."""
    made = owned("rls", postgres, "pooled")
    made.execute("ALTER TABLE notes ALTER user_id SET DEFAULT "
                 "(current_setting('request.jwt.claims', true)::json->>'sub')::uuid")
    yield made
    made.close()


def serving(url: str, folder: Path, **more: Any) -> Daemon:
    for number in range(PLUGINS):
        bundle(folder / "plugins", f"caller{number}", ALL, data={"tables": ["users", "orders", "notes"]})
    return Daemon(folder / "d", folder / "plugins", {
        "data.url": url, "data.tables": tables_of("rls"), "sandbox.min_level": "L0", "limits.cpu_percent": 100,
        "limits.timeout_ms": DEADLINE_MS, "pool.idle_seconds": 60, **more})


def steps(user: str, key: int) -> list[tuple[str, dict[str, Any], Any]]:
    """(an API call, its arguments, its answer) of one invocation."""
    name, theirs = ("Ann", 1) if user == A else ("SECRET Bob", 2)
    return [
        ("insert", {"table": "notes", "values": {"id": key, "text": f"t{key}"}},
         {"rowCount": 1, "row": {"id": key, "text": f"t{key}", "tag": None}}),
        ("query", {"sql": "SELECT id, text FROM notes WHERE id = $1", "params": [key]},
         [{"id": key, "text": f"t{key}"}]),
        ("update", {"table": "notes", "values": {"text": "u"}, "where": {"id": key}}, {"rowCount": 1}),
        ("query", {"sql": "SELECT u.name, count(o.id) AS n FROM users u, orders o WHERE o.id < $1 GROUP BY u.name",
                   "params": [9]}, [{"name": name, "n": 4}]),
        ("update", {"table": "notes", "values": {"text": "stolen"}, "where": {"id": theirs}}, {"rowCount": 0}),
        ("query", {"sql": "SELECT text FROM notes WHERE id = $1 AND text = $2 AND tag IS NULL", "params": [key, "u"]},
         [{"text": "u"}]),
        ("delete", {"table": "notes", "where": {"id": key}}, {"rowCount": 1})]


def mixed(daemon: Daemon, calls: int, first: int = 10_000) -> tuple[int, Counter[str], list[Any]]:
    """(calls made, the codes of errors, the first answers that were not the expected ones). Rows are numbered from
    ``first``."""
    failed: Counter[str] = Counter()
    wrong: list[Any] = []
    made = [0] * PLUGINS * 2

    def work(lane: int) -> None:
        with Client(daemon.endpoint) as client:
            while made[lane] < calls / len(made):
                user = (A, B)[lane // PLUGINS]
                wanted = steps(user, first + 1000 * lane + made[lane])
                context = {"steps": [{"api": name, "args": args} for name, args, _ in wanted]}
                reply = client.invoke(f"caller{lane % PLUGINS}", "onActionExecute", user,
                                      {"action": "x", "context": context}, deadline_ms=DEADLINE_MS)
                for (name, args, answer), got in zip(wanted, reply["result"]["result"], strict=True):
                    made[lane] += 1
                    if isinstance(got, dict) and "code" in got:
                        failed[f"{name}: {got['code']}: {got['message']}"] += 1
                    elif got != answer:
                        wrong.append((name, args, got))

    lanes = [threading.Thread(target=work, args=(lane,)) for lane in range(len(made))]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    return sum(made), failed, wrong[:3]


@pytest.mark.timeout(600)
def test_four_plugins_make_five_thousand_mixed_calls_and_none_fails(folder: Path, postgres: Postgres,
                                                                    rows: Data) -> None:
    with PgBouncer(postgres, "pooled", ROLE) as pooler, serving(pooler.url(), folder) as daemon:
        made, failed, wrong = mixed(daemon, CALLS)
        assert made >= CALLS and not failed and not wrong, (made, failed, wrong)
        # what two connections have kept of it all: no statement, no setting
        with psycopg.connect(f"host={postgres.folder} dbname=pooled user=postgres") as watcher:
            kept = watcher.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = %s", [ROLE]).fetchone()
        assert kept and 1 <= kept[0] <= 2
        with psycopg.connect(pooler.url("postgresql"), prepare_threshold=None) as client:
            left = client.execute("SELECT (SELECT count(*) FROM pg_prepared_statements), "
                                  "current_setting('request.jwt.claims', true)").fetchone()
        assert left in ((0, None), (0, ""))


def test_a_providers_pooler_lets_us_in_by_password_under_another_name(folder: Path, postgres: Postgres,
                                                                      rows: Data) -> None:
    """Supabase's way: ``role.project`` with SCRAM; the server itself knows the role alone."""
    with PgBouncer(postgres, "pooled", ROLE, "abcdefgh") as pooler:
        with serving(pooler.url("postgres"), folder) as daemon:
            made, failed, wrong = mixed(daemon, 200)
        assert made >= 200 and not failed and not wrong, (made, failed, wrong)


@pytest.mark.parametrize("prepared", [False, True])
def test_no_request_is_sent_before_the_answer_to_the_one_before_and_no_statement_has_a_name(
        folder: Path, postgres: Postgres, rows: Data, prepared: bool) -> None:
    """What Supabase's pooler needs, seen on the wire; the second case shows that names would be seen."""
    with WatchedWire(postgres.folder) as wire:
        url = f"postgresql://{ROLE}@/pooled?host={wire.folder}"
        with serving(url, folder, **{"data.prepared_statements": prepared}) as daemon:
            made, failed, wrong = mixed(daemon, 400)
        assert made >= 400 and not failed and not wrong, (made, failed, wrong)
        assert wire.transactions >= made and wire.unanswered_max == 1
        assert bool(wire.names) == prepared


def test_statements_that_are_prepared_against_all_advice_cost_time_and_no_answer(folder: Path, postgres: Postgres,
                                                                                 rows: Data) -> None:
    """Through the pooler, what one connection has prepared is found, or missed, by another: it is asked again."""
    with PgBouncer(postgres, "pooled", ROLE) as pooler:
        with serving(pooler.url(), folder, **{"data.prepared_statements": True}) as daemon:
            made, failed, wrong = mixed(daemon, 800)
        assert made >= 800 and not failed and not wrong, (made, failed, wrong)
        with psycopg.connect(pooler.url("postgresql"), prepare_threshold=None) as client:
            kept = client.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()
        assert kept and kept[0] > 0, "nothing was prepared, so nothing was tried"


def test_a_server_that_no_pooler_stands_before_prepares_what_is_asked_often(folder: Path, postgres: Postgres,
                                                                            rows: Data) -> None:
    with WatchedWire(postgres.folder) as wire:
        with serving(f"postgresql://{ROLE}@/pooled?host={wire.folder}", folder) as daemon:
            made, failed, wrong = mixed(daemon, 400)
        assert made >= 400 and not failed and not wrong, (made, failed, wrong)
        assert wire.names and wire.unanswered_max == 1


def test_the_registry_works_behind_a_pooler_too(postgres: Postgres) -> None:
    postgres.url("registrar_pooled")
    with PgBouncer(postgres, "registrar_pooled", "postgres") as pooler:
        stores = [open_database(pooler.url(), SCHEMA) for _ in range(3)]
        try:
            for number in range(40):  # statements of one text on connections that are swapped below them
                for store in stores:
                    with store.begin() as db:
                        assert db.execute(sa.text("SELECT :n + 1"), {"n": number}).scalar_one() == number + 1
                        assert db.execute(sa.text("SELECT CAST(:t AS text)"), {"t": "x"}).scalar_one() == "x"
        finally:
            for store in stores:
                store.dispose()


@pytest.mark.parametrize("url", ["postgresql://plugins@/pooled?prepare_threshold=0", "postgresql://x@/y?hots=z"])
def test_a_parameter_that_the_driver_does_not_know_is_said_at_once(url: str) -> None:
    with pytest.raises(ConfigError, match="invalid connection option|invalid URI query parameter"):
        PostgresBackend(url, {}, "t")
