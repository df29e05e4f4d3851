"""Whose fault it is: a slow, silent or dead gateway, host or database costs a plugin an ApiError, never its worker."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import signal
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client import Client
from apex_exec.ledger.reading import read_events
from tests.gateway.bundles import ALL, bundle, gateway_of
from tests.gateway.conftest import ROLE, TABLES, A, postgres_data, sqlite_data
from tests.support import need
from tests.support.daemon import Daemon, wait_for
from tests.support.postgres import Postgres

NAMED = {"tables": ["users", "orders", "notes"]}
SLOW = "SELECT count(*) AS n FROM " + ", ".join(f"orders o{n}" for n in range(12))


def config(url: str, **more: Any) -> dict[str, Any]:
    return {"data.url": url, "data.tables": TABLES, "sandbox.min_level": "L0", "breaker.ends": 3,
            "limits.cpu_percent": 100, "pool.idle_seconds": 60, **more}


@contextlib.contextmanager
def serving(url: str, folder: Path) -> Iterator[Daemon]:
    plugins = folder / "plugins"
    if not plugins.exists():
        bundle(plugins, "caller", [*ALL, "admin:users"], data=NAMED)
        (folder / "policy.toml").write_text(
            f"[plugin.caller]\nallow = {json.dumps([*ALL, 'admin:users'])}\n")
    with Daemon(folder / "d", plugins, config(url, **{"security.policy_file": str(folder / "policy.toml")})) as running:
        yield running


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="apx"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def ask(client: Client, *steps: tuple[str, dict[str, Any]], deadline_ms: int = 5000) -> list[Any]:
    made = [{"api": name, "args": args} for name, args in steps]
    reply = client.invoke("caller", "onActionExecute", A, {"action": "x", "context": {"steps": made}},
                          deadline_ms=deadline_ms)
    return reply["result"]["result"]  # type: ignore[no-any-return]  # what the plugin returned


def codes(found: list[Any]) -> list[Any]:
    return [one.get("code") if isinstance(one, dict) else None for one in found]


@pytest.mark.slow
def test_a_gateway_and_a_host_that_hang_cost_an_api_error_and_neither_worker_nor_breaker(folder: Path) -> None:
    sqlite_data(folder / "data.db").close()
    with serving(f"sqlite:///{folder}/data.db", folder) as daemon, Client(daemon.endpoint) as client:
        assert ask(client, ("query", {"sql": "SELECT 1 AS n"})) == [[{"n": 1}]]
        pids = daemon.pids("caller")
        gateway = gateway_of(daemon)
        gateway.send_signal(signal.SIGSTOP)
        try:
            for _ in range(3):
                assert codes(ask(client, ("query", {"sql": "SELECT 1 AS n"}), deadline_ms=1000)) == [
                    "deadline_exceeded"]
        finally:
            gateway.send_signal(signal.SIGCONT)
        with Client(daemon.endpoint) as silent:
            silent.provide({"admin.users.list": lambda call: None})  # and never serves
            for _ in range(3):
                assert codes(ask(client, ("call", {"method": "admin.users.list", "params": {}}), deadline_ms=1000)) == [
                    "deadline_exceeded"]
        wait_for(lambda: ask(client, ("query", {"sql": "SELECT 1 AS n"})) == [[{"n": 1}]], 5, "the gateway's recovery")
        assert daemon.pids("caller") == pids, "a worker was killed for what others did not do"
        assert 'breaker_state{plugin="caller",state="open"} 1' not in daemon.metrics()


@pytest.mark.slow
def test_a_committed_write_is_answered_so_and_has_one_record_whatever_bound_it_reaches(folder: Path) -> None:
    sqlite_data(folder / "data.db").close()
    with serving(f"sqlite:///{folder}/data.db", folder) as daemon, Client(daemon.endpoint) as client:
        found: list[Any] = []
        for start in range(2):
            steps = [("insert", {"table": "notes", "values": {"id": 1000 + 100 * start + n, "text": "x" * 230_000}})
                     for n in range(4)]
            found += ask(client, *steps)
        rows = "SELECT count(*) AS n FROM notes WHERE id >= 1000"
        assert ask(client, ("query", {"sql": rows}))[0][0]["n"] == codes(found).count(None) == 8
    records = [event for event in read_events(folder / "d" / "state" / "audit.db")
               if event.resource == "caller" and event.event_type == "data.modification"]
    assert len(records) == len(found)
    assert [event.result for event in records].count("success") == 8


HEAVY = '''
from workers import ApiError, Plugin

plugin = Plugin(id="caller", version="1.0.0", permissions=["data:read", "data:write"])


@plugin.hook("onActionExecute")
def run(context, params):
    """Writes until the bound on an invocation's bytes is reached, and says how often it was told that it had."""
    told = 0
    for n in range(80):
        try:
            context.api.insert("notes", {"id": 5000 + n, "text": "x" * 240_000})
            told += 1
        except ApiError:
            pass
    return {"result": told, "metadata": {}}
'''


@pytest.mark.slow
def test_what_a_plugin_was_told_is_what_the_table_holds(folder: Path) -> None:
    sqlite_data(folder / "data.db").close()
    bundle(folder / "plugins", "caller", ["data:read", "data:write"], HEAVY, data=NAMED)
    (folder / "policy.toml").write_text('allow = ["data:read", "data:write"]\n')
    with serving(f"sqlite:///{folder}/data.db", folder) as daemon, Client(daemon.endpoint) as client:
        told = client.invoke("caller", "onActionExecute", A, {"action": "x", "context": {}})["result"]["result"]
    with contextlib.closing(sqlite3.connect(folder / "data.db")) as database:
        (held,) = database.execute("SELECT count(*) FROM notes WHERE id >= 5000").fetchone()
    assert 0 < told == held < 80
    writes = [event.result for event in read_events(folder / "d" / "state" / "audit.db")
              if event.event_type == "data.modification"]
    assert writes.count("success") == held


@pytest.mark.slow
def test_sqlite_keeps_the_foreign_keys_that_the_platform_declares(folder: Path) -> None:
    sqlite_data(folder / "data.db").close()
    database = sqlite3.connect(folder / "data.db")
    database.executescript(
        "CREATE TABLE par (id INTEGER PRIMARY KEY, user_id TEXT);"
        "CREATE TABLE kid (id INTEGER PRIMARY KEY, user_id TEXT, par_id INTEGER REFERENCES par(id));"
        "CREATE TABLE gone (id INTEGER PRIMARY KEY, user_id TEXT, par_id INTEGER REFERENCES par(id) ON DELETE CASCADE);"
        f"INSERT INTO par VALUES (1, '{A}'), (2, '{A}'); INSERT INTO kid VALUES (1, '{A}', 1);"
        f"INSERT INTO gone VALUES (1, '{A}', 2);")
    database.commit()
    database.close()
    tables = {name: {"owner": "user_id", "columns": ["id", "user_id", *more], "write": True}
              for name, more in (("par", []), ("kid", ["par_id"]), ("gone", ["par_id"]))}
    bundle(folder / "plugins", "caller", ALL, data={"tables": ["par", "kid", "gone"]})
    made = config(f"sqlite:///{folder}/data.db", **{"data.tables": tables})
    with Daemon(folder / "d", folder / "plugins", made) as daemon:
        with Client(daemon.endpoint) as client:
            found = ask(client, ("insert", {"table": "kid", "values": {"id": 9, "par_id": 999}}),
                        ("delete", {"table": "par", "where": {"id": 1}}),
                        ("delete", {"table": "par", "where": {"id": 2}}),
                        ("query", {"sql": "SELECT count(*) AS n FROM gone"}))
    assert codes(found[:2]) == ["constraint", "constraint"]
    assert found[2] == {"rowCount": 1} and found[3] == [{"n": 0}]


def test_a_slow_query_ends_inside_its_hook_and_never_ends_the_worker(folder: Path, postgres: Postgres) -> None:
    postgres_data(postgres, "slow")
    url = f"postgresql+psycopg://{ROLE}@/slow?host={postgres.folder}"
    with serving(url, folder) as daemon, Client(daemon.endpoint) as client:
        assert ask(client, ("query", {"sql": "SELECT 1 AS n"})) == [[{"n": 1}]]
        pids = daemon.pids("caller")
        for deadline_ms in (300, 1000, 5000):
            assert codes(ask(client, ("query", {"sql": SLOW}), deadline_ms=deadline_ms)) == ["deadline_exceeded"]
        with contextlib.closing(locked(postgres)):
            for deadline_ms in (300, 1000):
                found = ask(client, ("update", {"table": "notes", "values": {"text": "y"}, "where": {"id": 1}}),
                            deadline_ms=deadline_ms)
                assert codes(found) == ["deadline_exceeded"], (deadline_ms, found)
        assert daemon.pids("caller") == pids
        assert ask(client, ("query", {"sql": "SELECT 1 AS n"})) == [[{"n": 1}]]


def locked(postgres: Postgres) -> Any:
    """A connection that holds a table's lock until it is closed."""
    import psycopg

    connection = psycopg.connect(f"host={postgres.folder} dbname=slow user=postgres")
    connection.execute("LOCK TABLE notes IN ACCESS EXCLUSIVE MODE")
    return connection


@pytest.mark.slow
def test_a_database_that_is_down_fails_fast_for_everybody_after_the_first_try(folder: Path) -> None:
    need(importlib.util.find_spec("psycopg"), "psycopg is not installed")
    url = f"postgresql+psycopg://plugins@/none?host={folder}"
    with serving(url, folder) as daemon, Client(daemon.endpoint) as client:
        assert codes(ask(client, ("query", {"sql": "SELECT 1 AS n"}))) == ["data_unavailable"]
        begun = time.monotonic()
        for _ in range(5):
            assert codes(ask(client, ("query", {"sql": "SELECT 1 AS n"}))) == ["data_unavailable"]
        assert time.monotonic() - begun < 3, "each waited for a database that is known to be down"
