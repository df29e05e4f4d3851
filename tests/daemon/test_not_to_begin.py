"""A real worker does not begin what stands on its link once it must not: no record can be kept, or its user lost it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from apex_exec.client import AdminClient
from apex_exec.registry.bundles.bundle import pack
from tests.support.bundles import bundle
from tests.support.caller import Caller, outcome
from tests.support.daemon import USER, Daemon, wait_for

OTHER = "11111111-0000-4000-8000-000000000001"
COUNTS = '''
import time
from workers import Plugin

plugin = Plugin(id="{id}", version="1.0.0", permissions=["ui:render"])
ran = 0

@plugin.hook("onDashboardLoad")
def load(params):
    global ran
    ran += 1
    time.sleep(float(params["dashboardId"]))
    return {{"customWidgets": [{{"id": "w", "component": "Hello", "props": {{"text": str(ran)}}}}]}}
'''


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon(plugins=None) as running:
        yield running


def install(daemon: Daemon, plugin: str, users: tuple[str, ...] = ()) -> None:
    with AdminClient(daemon.admin) as client:
        client.request("plugin.install", {"bundle": pack(bundle(code=COUNTS.format(id=plugin), id=plugin))}, 20_000)
        for user in users:
            client.request("plugin.enable", {"id": plugin, "user": user}, 20_000)
        if not users:
            client.request("plugin.enable", {"id": plugin}, 20_000)


def load(caller: Caller, seconds: float, plugin: str = "sample", user: str = USER) -> int:
    return caller.send(type="invoke", plugin=plugin, action="onDashboardLoad", userId=user,
                       payload={"dashboardId": str(seconds)})


def ran(reply: dict[str, Any]) -> str:
    return str(reply["result"]["customWidgets"][0]["props"]["text"])


def test_what_was_sent_to_a_worker_and_has_not_begun_does_not_run_without_a_ledger(daemon: Daemon) -> None:
    install(daemon, "sample")
    install(daemon, "other")
    with Caller(daemon.endpoint) as caller:
        assert ran(caller.collect([load(caller, 0)])[0]) == "1"
        running = load(caller, 1.0)
        behind = [load(caller, 0) for _ in range(6)]  # on the link of the same worker
        time.sleep(0.2)
        with closing(sqlite3.connect(daemon.state / "audit.db", isolation_level=None)) as blocker:
            blocker.execute("BEGIN IMMEDIATE")
            load(caller, 0, "other")  # its record cannot be written: now the ledger says so
            replies = caller.collect(behind, 5)
            blocker.execute("ROLLBACK")
        assert [(outcome(reply), reply["started"], reply["retryable"]) for reply in replies] == [
            ("AUDIT_UNAVAILABLE", False, True)] * 6
        assert ran(caller.collect([running])[0]) == "2"

        def again() -> str:
            reply = caller.collect([load(caller, 0)])[0]
            return ran(reply) if outcome(reply) == "ok" else ""

        wait_for(again, 5, "work")
        assert again() == "4", "of the six none has run, and the worker is the same"


@pytest.mark.slow
def test_what_was_sent_for_a_user_and_has_not_begun_does_not_run_once_the_plugin_is_disabled_for_him(
        daemon: Daemon) -> None:
    install(daemon, "sample", (USER, OTHER))
    with Caller(daemon.endpoint) as caller:
        running = load(caller, 1.0)
        behind = [load(caller, 0) for _ in range(12)]  # some on the link, some in the queue
        others = load(caller, 0, user=OTHER)
        time.sleep(0.5)
        with AdminClient(daemon.admin) as client:
            client.request("plugin.disable", {"id": "sample", "user": USER}, 20_000)
        replies = caller.collect(behind)
        assert {(outcome(reply), reply["started"]) for reply in replies} == {("PLUGIN_DISABLED", False)}
        assert {reply["details"]["reason"] for reply in replies} == {"not_enabled_for_user"}
        assert [ran(reply) for reply in caller.collect([running, others])] == ["1", "2"]
