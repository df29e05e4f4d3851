"""Settings of tenants on a real daemon: a user's tenant is what ``via`` says, several tenants are none, and a database
that cannot say it refuses the call."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator

import pytest

from apex_exec.client import AdminClient, CallError
from apex_exec.testing import Daemon
from tests.gateway.conftest import A, B

C = "cccccccc-0000-4000-8000-00000000000c"
CODE = '''
from workers import Plugin

plugin = Plugin(id="set", version="1.0.0", permissions=[])


@plugin.hook("onActionExecute")
def run(context, params):
    return {"result": context.settings["word"], "metadata": {}}
'''


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    running = Daemon()
    database = running.folder / "data.db"
    with sqlite3.connect(database) as db:
        db.executescript(f"CREATE TABLE members (member uuid, tenant integer); CREATE TABLE notes (id integer, "
                         f"tenant_id integer); INSERT INTO members VALUES ('{A}', 1), ('{A}', 1), ('{B}', 1), "
                         f"('{B}', 2), ('{C}', NULL)")
    db.close()
    running.configure({"audit.min_free_bytes": 0, "data.url": f"sqlite:///{database}", "data.tables": {"notes": {
        "owner": {"column": "tenant_id", "via": "members", "user": "member", "tenant": "tenant"},
        "columns": ["id"]}}})
    running.put_files("set", {"plugin.py": CODE.encode(), "manifest.json": json.dumps({
        "id": "set", "name": "set", "version": "1.0.0", "author": "tests", "permissions": [],
        "manifest": {"entrypoint": "plugin.py", "hooks": ["onActionExecute"]},
        "settings": {"properties": {"word": {"type": "string", "default": "default"}}}}).encode()})
    with running:
        yield running


def word(daemon: Daemon, user: str) -> str:
    return str(daemon.invoke("set", "onActionExecute", {"action": "x", "context": {}}, user, 30_000)["result"])


def give(daemon: Daemon, value: str, **owner: str) -> None:
    with AdminClient(f"ipc://{daemon.runtime}/admin.sock") as admin:
        admin.request("plugin.settings.set", {"id": "set", "values": {"word": value}, **owner}, 60_000)


def test_a_tenants_values_are_those_of_its_only_members(daemon: Daemon) -> None:
    give(daemon, "of tenant 1", tenant="1")
    assert (word(daemon, A), word(daemon, B), word(daemon, C)) == ("of tenant 1", "default", "default")
    give(daemon, "everybody's")
    assert (word(daemon, A), word(daemon, B)) == ("of tenant 1", "everybody's")
    give(daemon, "A's own", user=A)
    give(daemon, "B's own", user=B)
    assert (word(daemon, A), word(daemon, B), word(daemon, C)) == ("A's own", "B's own", "everybody's")
    dispatched = daemon.dispatch("onActionExecute", {"action": "x", "context": {}}, A)
    assert dispatched["outcomes"][0]["result"]["result"] == "A's own"


def test_a_database_that_cannot_say_it_refuses_the_call(daemon: Daemon) -> None:
    assert word(daemon, A) == "default"
    give(daemon, "of tenant 1", tenant="1")
    (daemon.folder / "data.db").rename(daemon.folder / "away")
    with pytest.raises(CallError) as refused:
        word(daemon, C)
    assert refused.value.code == "PLUGIN_DISABLED" and refused.value.details["reason"] == "tenant_unknown"
