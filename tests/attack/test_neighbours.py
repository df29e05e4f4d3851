"""One plugin, and one user of a plugin, against the others: they are answered in time, with what is theirs alone."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from apex_exec.client import CallError, Client
from tests.attack.neighbours import AT_ONCE, QUERIES, TABLE, Query
from tests.gateway.bundles import bundle, gateway_of
from tests.support.daemon import USER, Daemon, wait_for, write_plugin

A, B = "aaaaaaaa-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000002"
ROWS = 24
DEADLINE_MS = 4000
ANSWER_SECONDS = 3.0
"""How long the victim may wait for a query of one row on a busy machine. Alone it takes 5 ms."""
GROWTH_BYTES_MAX = 150 * 1024 * 1024
"""How much the gateway may grow by an attack: eight texts of 4 MiB with wide characters, and what makes them."""
DYING = '''
import os

@plugin.hook("onActionExecute")
async def act(context, params):
    if params["action"] == "end":
        os._exit(3)
    if params["action"] == "fetch":
        await context.api.fetch("https://not-allowed.example/")
    return {"result": "served", "metadata": {}}
'''


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("neighbours")
    tables = {"orders": {"owner": "user_id", "columns": ["id", "item"]}}
    with contextlib.closing(sqlite3.connect(folder / "data.db")) as database, database:
        database.execute("CREATE TABLE orders (id integer PRIMARY KEY, user_id uuid NOT NULL, item text)")
        database.executemany("INSERT INTO orders VALUES (?, ?, ?)", [
            (number, A if number < ROWS else B, f"item {number}" if number < ROWS else f"SECRET {number}")
            for number in range(2 * ROWS)])
    for id_ in ("attacker", "victim"):
        bundle(folder / "plugins", id_, ["data:read"], data={"tables": ["orders"]})
    write_plugin(folder / "plugins", "dying", DYING)
    write_plugin(folder / "plugins", "asking", DYING, permissions=("network:fetch",),
                 network={"allow": ["allowed.example"]}, limits={"networkPerMinute": 8})
    with Daemon(plugins=folder / "plugins", config={
            "data.url": f"sqlite:///{folder / 'data.db'}", "data.tables": tables, "limits.cpu_percent": 100,
            "fetch.allow": ["allowed.example"], "breaker.backoff_min_seconds": 1}) as running:
        with Client(running.endpoint) as client:  # the gateway and its parser start with the first queries
            wait_for(lambda: asked(client, "victim", B, "SELECT 1 AS x")[0] == "ok", 60, "the gateway's first answer")
        yield running


def asked(client: Client, plugin: str, user: str, text: str, params: tuple[Any, ...] = ()) -> tuple[str, str]:
    """(code, rows or message) of one query; the hook's own code if it had no answer at all."""
    step = {"api": "query", "args": {"sql": text, "params": list(params)}}
    try:
        reply = client.invoke(plugin, "onActionExecute", user, {"action": "x", "context": {"steps": [step]}},
                              DEADLINE_MS)
    except CallError as error:
        return error.code, str(error)
    (got,) = reply["result"]["result"]
    return (got["code"], got["message"]) if isinstance(got, dict) else ("ok", str(got))


@pytest.mark.slow_after(AT_ONCE)
@pytest.mark.parametrize("row", QUERIES, ids=[row.name for row in QUERIES])
def test_a_query_takes_nothing_from_another_user_of_another_plugin(daemon: Daemon, row: Query) -> None:
    with Client(daemon.endpoint) as attacker, Client(daemon.endpoint) as victim:
        own = asked(victim, "victim", B, "SELECT CAST(item AS int) AS x FROM orders")
        assert own[0] == "sql_not_on_sqlite" and "SECRET" in own[1]
        gateway = gateway_of(daemon)
        before = peak = gateway.memory_info().rss
        answers: list[tuple[str, str]] = []
        thread = threading.Thread(target=lambda: answers.append(asked(attacker, "attacker", A, row.text, row.params)))
        thread.start()
        waits = []
        while thread.is_alive() or not waits:
            begun = time.monotonic()
            assert asked(victim, "victim", B, "SELECT count(*) AS n FROM orders") == ("ok", f"[{{'n': {ROWS}}}]")
            waits.append(time.monotonic() - begun)
            peak = max(peak, gateway.memory_info().rss)
        thread.join()
        (code, words), = answers
    TABLE[row.name] = f"{code}; victim waited {max(waits) * 1e3:.0f} ms, gateway grew {(peak - before) >> 20} MB"
    assert code in row.codes or row.codes[-1] == "deadline_exceeded" and code in ("TIMEOUT", "DEADLINE_EXCEEDED"), words
    assert "SECRET" not in words
    assert max(waits) < ANSWER_SECONDS and peak - before < GROWTH_BYTES_MAX, TABLE[row.name]
    assert gateway_of(daemon).pid == gateway.pid and daemon.process.poll() is None


def outcome(client: Client, plugin: str, user: int, action: str) -> str:
    """The code of one call by user number ``user``, with that of the API if it has one; "" for a result."""
    try:
        client.invoke(plugin, "onActionExecute", f"{USER[:-2]}{user:02x}", {"action": action, "context": {}},
                      DEADLINE_MS)
    except CallError as error:
        return str(error.details.get("apiCode") or error.code)
    return ""


def test_two_users_who_end_workers_in_turn_do_not_take_the_plugin_from_a_third(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        seen: Counter[str] = Counter()
        for number in range(12):
            outcome(client, "dying", number % 2, "end")
            seen[outcome(client, "dying", 9, "serve")] += 1
        TABLE["two users who end workers in turn"] = f"the third: {dict(seen)}"
        assert seen == {"": 12} and daemon.plugin("dying")["breaker"] == "closed"


def test_three_users_who_ask_without_end_do_not_keep_the_requests_from_a_fourth(daemon: Daemon) -> None:
    """Refused tries of theirs counted for the plugin: nobody's request passed any longer."""
    with Client(daemon.endpoint) as client:
        for user in range(4):
            outcome(client, "asking", user, "fetch")
        for _ in range(10):
            for user in range(3):
                outcome(client, "asking", user, "fetch")
        seen = [outcome(client, "asking", 3, "fetch") for _ in range(2)]
        TABLE["three users who ask without end"] = f"the fourth: {seen}"
        assert seen == ["host_not_allowed", "rate_limited"], "its second, and its quarter is used up"
