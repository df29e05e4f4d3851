"""A person is exported and erased on a real daemon: every store lets go of the person, and the chain still verifies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from apex_exec.config import load_settings
from apex_exec.daemon.administration import ledger_pages
from apex_exec.daemon.administration.ledger_arguments import EventsArgs
from apex_exec.ledger import people
from apex_exec.ledger.audit import AuditStore
from apex_exec.ledger.people import PSEUDONYM
from apex_exec.ledger.reading import Filter, read_events
from apex_exec.ledger.records import AuditRecord
from apex_exec.ledger.verify import verify
from tests.support.daemon import Daemon, wait_for, write_plugin

A, B = "aaaaaaaa-0000-4000-8000-00000000000a", "bbbbbbbb-0000-4000-8000-00000000000b"
KEEPER = '''
@plugin.hook("onActionExecute")
def act(context):
    context.api.storage.set("layout", {"columns": 3})
    return {"result": context.api.storage.get("layout"), "metadata": {}}
'''


def command(daemon: Daemon, *words: str, status: int = 0) -> str:
    done = subprocess.run([sys.executable, "-m", "apex_exec", *words, "--config", str(daemon.config_file)],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def holding(folder: Path, text: str) -> set[str]:
    """The files below ``folder`` that contain ``text``."""
    return {path.name for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()}


def run(daemon: Daemon, user: str) -> Any:
    payload = {"action": "x", "context": {}}
    return daemon.client.invoke("keeper", "onActionExecute", user, payload, 60_000)["result"]["result"]


def test_a_page_of_events_names_people_and_is_searched_by_their_ids(tmp_path: Path) -> None:
    store = AuditStore(tmp_path / "audit.db", tmp_path)
    store.append([AuditRecord(1_796_000_000 * 10**9, "data.access", user, "keeper", "query", "success")
                  for user in (A, B, A)])
    store.release()
    settings = load_settings(None, {"state_dir": str(tmp_path)})

    def found(**args: Any) -> list[Any]:
        page = ledger_pages.events(settings, EventsArgs(**args))
        return [(event["seq"], event["userId"]) for event in page["events"]]

    assert found() == [(3, A), (2, B), (1, A)]
    assert found(user=A) == found(text=A) == found(user=A, plugin="keeper", type="data.access") == [(3, A), (1, A)]
    people.erase(tmp_path / "audit.db", A)
    assert found(user=A) == found(text=A) == []
    assert found(user=B) == [(2, B)] and PSEUDONYM.fullmatch(found()[0][1])


@pytest.mark.slow
def test_a_person_is_exported_and_then_erased_everywhere(tmp_path: Path) -> None:
    folder = write_plugin(tmp_path / "bundles", "keeper", KEEPER, permissions=("data:read", "data:write"))
    config = {"sandbox.min_level": "L0", "limits.timeout_ms": 60_000}
    with Daemon(tmp_path / "d", None, config) as daemon:
        database = daemon.state / "audit.db"
        daemon.operate("plugin.install", path=str(folder))
        for user in (A, B):
            daemon.operate("plugin.enable", id="keeper", user=user.upper())
            assert run(daemon, user) == {"columns": 3}
        wait_for(lambda: sum(event.user_id == A for event in read_events(database)) >= 3, 20, "the records")

        lines = [json.loads(line) for line in command(daemon, "audit", "export", "--user", A).splitlines()]
        events = [line for line in lines if "seq" in line]
        assert {line["eventType"] for line in events} >= {"plugin.execution", "data.modification", "data.access"}
        (pseudonym,) = {line["userId"] for line in events}
        assert PSEUDONYM.fullmatch(pseudonym)
        others = {(line["store"], line.get("table", line.get("key"))) for line in lines if "store" in line}
        assert others >= {("people", None), ("storage", "layout"), ("registry", "enablement")}
        assert next(line["value"] for line in lines if line.get("store") == "storage") == {"columns": 3}
        tail = command(daemon, "audit", "tail", "--user", A)
        assert f"user={A}" in tail and pseudonym not in tail

        assert "give the number of the request" in command(
            daemon, "audit", "erase", "--user", A, "--reason", f"of {A}", status=1)
        said = command(daemon, "audit", "erase", "--user", A, "--reason", "request 4711")
        assert pseudonym in said and "1 entries of plugins deleted, 1 enablements ended" in said
        assert verify(database, daemon.state).finding is None
        assert {event.user_id for event in read_events(database)} >= {pseudonym, B} - {""}
        assert list(read_events(database, Filter(user=A))) == []
        wait_for(lambda: any(event.action == "audit.erase" and event.result == "success"
                             for event in read_events(database)), 20, "the record of the erasure")
        (done,) = [event for event in read_events(database)
                   if (event.action, event.result) == ("audit.erase", "success")]
        assert done.metadata["outcome"]["pseudonym"] == pseudonym and "user" not in done.metadata["args"]
        assert [json.loads(line) for line in command(daemon, "audit", "export", "--user", A).splitlines()] == [
            {"store": "people", "userId": A, "pseudonym": None}]
        assert run(daemon, B) == {"columns": 3}, "nobody else is touched"
        wait_for(lambda: not holding(daemon.state, A), 20, f"every file to let go of the person: "
                                                           f"{holding(daemon.state, A)}")
        assert daemon.stop() == 0
        assert not holding(daemon.state, A) and verify(database, daemon.state).finding is None
