"""``audit.read``: a platform follows the ledger from a number on, over either endpoint, by its role."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client import AdminClient, CallError, Client
from tests.support.daemon import ECHO, USER, Daemon, wait_for, write_plugin

CALLS = 7


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    plugins: Path = tmp_path_factory.mktemp("plugins")
    write_plugin(plugins, "echo-it", ECHO)
    with Daemon(plugins=plugins) as running:
        running.start_registrar()
        with Client(running.endpoint) as client:
            for number in range(CALLS):
                client.invoke("echo-it", "onActionExecute", USER, {"action": "a", "context": {"n": number}}, 30_000)
        wait_for(lambda: len(read(running, type="plugin.execution")) == CALLS, 20, "the records")
        yield running


def read(daemon: Daemon, after: int = 0, limit: int = 200, **filter_: Any) -> list[dict[str, Any]]:
    with AdminClient(daemon.admin) as client:
        return client.read_audit(after, limit, **filter_)[0]


def test_a_cursor_sees_each_event_once_and_in_order(daemon: Daemon) -> None:
    seen: list[int] = []
    with AdminClient(daemon.admin) as client:
        after = 0
        while True:
            events, after = client.read_audit(after, 3, type="plugin.execution")
            if not events:
                break
            seen += [event["seq"] for event in events]
    assert len(seen) == CALLS and seen == sorted(set(seen))
    assert all(event["userId"] == USER for event in read(daemon, user=USER))


def test_a_filter_that_finds_nothing_still_goes_on(daemon: Daemon) -> None:
    with AdminClient(daemon.admin) as client:
        page = client.request("audit.read", {"filter": {"plugin": "nobody"}})
        assert page["events"] == [] and page["next"] == page["last"] > 0
        assert client.read_audit(10**9)[0] == []
        for wrong in ({"limit": 0}, {"limit": 201}, {"afterSeq": -1}, {"filter": {"type": "x"}}, {"filter": {"a": 1}}):
            with pytest.raises(CallError) as refused:
                client.request("audit.read", wrong)
            assert refused.value.code == "INVALID_INPUT"


def test_a_host_reads_it_on_its_own_endpoint_and_nothing_else_there(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        message = {"type": "admin", "op": "audit.read", "args": {"filter": {"type": "plugin.execution"}}}
        assert len(client.request(message, 20_000)["result"]["events"]) == CALLS
        with pytest.raises(CallError) as refused:
            client.request({"type": "admin", "op": "daemon.drain", "args": {}})
        assert refused.value.code == "PROTOCOL_ERROR"
        with pytest.raises(CallError) as refused:
            client.request({**message, "actor": {"name": "anna", "roles": ["viewer"]}})
        assert (refused.value.code, refused.value.details["reason"]) == ("FORBIDDEN", "role_missing")
