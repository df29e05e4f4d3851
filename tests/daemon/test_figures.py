"""What the supervisor and the registrar say to people who look: plugins, the overview, events, logs, a walk."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from apex_exec.client import AdminClient, CallError
from apex_exec.sandbox.walls import STOPS
from tests.support.daemon import ECHO, USER, Daemon, wait_for, write_plugin

FAIL = '''
@plugin.hook("onActionExecute")
def act(context, params):
    raise ValueError("it is broken")
'''
ACTION = {"action": "x", "context": {}}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    plugins = tmp_path_factory.mktemp("plugins")
    for number in range(12):
        write_plugin(plugins, f"widget-{number:02d}", ECHO)
    write_plugin(plugins, "broken", FAIL)
    with Daemon(plugins=plugins) as running:
        for id_ in ("widget-03", "widget-03", "widget-07"):
            running.invoke(id_, "onActionExecute", ACTION)
        for _ in range(3):
            with contextlib.suppress(CallError):
                running.invoke("broken", "onActionExecute", ACTION)
        running.start_registrar()
        yield running


def find(daemon: Daemon, **args: Any) -> tuple[int, list[str]]:
    found = daemon.operate("plugin.find", **args)
    return found["total"], [row["id"] for row in found["plugins"]]


def refused(daemon: Daemon, op: str, **args: Any) -> CallError:
    with AdminClient(daemon.admin) as client, pytest.raises(CallError) as error:
        client.request(op, args)
    return error.value


def test_a_page_has_what_was_asked_for_in_its_order(daemon: Daemon) -> None:
    assert find(daemon)[0] == 13
    assert find(daemon, search="GET-0", limit=3) == (10, ["widget-00", "widget-01", "widget-02"])
    assert find(daemon, search="get-0", limit=3, offset=9) == (10, ["widget-09"])
    assert find(daemon, state="failing") == find(daemon, sort="failures", search="broken") == (1, ["broken"])
    assert find(daemon, sort="calls", limit=3)[1] == ["broken", "widget-03", "widget-07"]
    assert set(find(daemon, state="working")[1]) == {"broken", "widget-03", "widget-07"}
    assert find(daemon, state="breaker") == find(daemon, state="disabled") == find(daemon, search="%") == (0, [])
    assert find(daemon, offset=1000) == (13, [])


@pytest.mark.parametrize("args", [{"limit": 101}, {"limit": 0}, {"offset": -1}, {"sort": "x"}, {"limit": 10**30}])
def test_a_page_that_cannot_be_is_refused(daemon: Daemon, args: dict[str, Any]) -> None:
    assert refused(daemon, "plugin.find", **args).code == "INVALID_INPUT"


def test_the_overview_agrees_with_the_status_and_ranks_what_hurts(daemon: Daemon) -> None:
    status, now = daemon.operate("daemon.status"), daemon.operate("daemon.overview")
    assert now["plugins"] == len(status["plugins"]) == 13 and now["states"] == {"enabled": 13}
    assert now["calls"] == sum(row["calls"] for row in status["plugins"]) == 6
    assert now["failed"] == 3 and sum(now["durations"]["counts"]) == 6 and now["workers"] == 3
    assert [(row["id"], row["failedRecently"], row["lastFailure"]) for row in now["hurting"]["failures"]] == [
        ("broken", 3, "PLUGIN_ERROR")]
    assert len(now["hurting"]["memory"]) == 3 and now["hurting"]["memory"][0]["memoryMb"] > 0
    assert all(len(rows) <= 5 for rows in now["hurting"].values()) and now["minLevel"] == "L2"


def test_one_plugin_now(daemon: Daemon) -> None:
    live = daemon.operate("plugin.live", id="widget-03")
    assert len(live["pids"]) == len(live["ages"]) == 1 and 0 < live["ages"][0] < 600
    assert live["limits"]["memory_mb"] == 50 and live["source"] == "folder" and live["calls"] == 2
    assert refused(daemon, "plugin.live", id="nobody").code == "NOT_FOUND"


def test_the_doctor_says_what_each_layer_stops(daemon: Daemon) -> None:
    found = daemon.operate("daemon.doctor")
    assert found["layers"] and {row["layer"] for row in found["layers"]} <= set(STOPS)
    assert all(row["stops"] and (row["state"] == "active" or row["change"] or row["detail"])
               for row in found["layers"])
    assert found["extras"]["registry"] is True


def test_the_log_has_the_traceback_of_a_failure(daemon: Daemon) -> None:
    wait_for(lambda: "ValueError" in str(daemon.operate("plugin.logs", id="broken")), 10, "its line")
    line = next(line for line in daemon.operate("plugin.logs", id="broken")["lines"] if line["level"] == "error")
    assert "ValueError: it is broken" in line["text"] and "Traceback" in line["text"] and line["at"].endswith("Z")
    for args in ({"id": "../../etc/passwd"}, {"id": "broken", "lines": 501}, {"id": "broken", "lines": 0}):
        assert refused(daemon, "plugin.logs", **args).code == "INVALID_INPUT"


def test_events_come_in_pages_newest_first_and_are_narrowed(daemon: Daemon) -> None:
    def events(**args: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = daemon.operate("audit.events", **args)["events"]
        return found

    wait_for(lambda: len(events(type="plugin.execution")) == 6, 10, "the records")
    calls = events(type="plugin.execution")
    assert [event["seq"] for event in calls] == sorted((event["seq"] for event in calls), reverse=True)
    assert {event["resource"] for event in events(plugin="broken", result="failure")} == {"broken"}
    assert len(events(user=USER, plugin="widget-03")) == 2 and events(user="nobody") == []
    assert len(events(text="plugin_ERROR")) == 3 and events(text="%") == events(text="_____!") == []
    page = daemon.operate("audit.events", type="plugin.execution", limit=4)
    rest = daemon.operate("audit.events", type="plugin.execution", limit=4, before=page["next"])
    assert [event["seq"] for event in page["events"] + rest["events"]] == [event["seq"] for event in calls]
    assert rest["next"] == 0
    assert events(after=calls[0]["seq"], type="plugin.execution") == []
    assert not [event for event in events() if event["action"] == "audit.events"], "those who look are left out"
    assert [event for event in events(looks=True) if event["action"] == "audit.events"]
    for args in ({"limit": 0}, {"limit": 201}, {"before": -1}, {"type": "nonsense"}):
        assert refused(daemon, "audit.events", **args).code == "INVALID_INPUT"


def walked(daemon: Daemon) -> dict[str, Any]:
    daemon.operate("audit.verify")
    wait_for(lambda: daemon.operate("audit.verify", start=False)["state"] == "done", 30, "the walk")
    found: dict[str, Any] = daemon.operate("audit.verify", start=False)
    return found


def test_a_walk_finds_an_event_that_was_changed() -> None:
    with Daemon() as daemon:
        assert daemon.operate("audit.verify", start=False) == {"state": "none"}
        daemon.invoke("hello-world", "onDashboardLoad", {"dashboardId": "m"})
        wait_for(lambda: daemon.operate("audit.events", type="plugin.execution")["events"], 10, "the record")
        found = walked(daemon)
        assert found["ok"] and found["finding"] is None and found["last"] >= 1 and ":" in found["head"]
        with closing(sqlite3.connect(daemon.state / "audit.db")) as db, db:
            db.execute("UPDATE events SET body = replace(body, 'hello-world', 'hello-wurld') WHERE seq = "
                       "(SELECT min(seq) FROM events WHERE body LIKE '%hello-world%')")
        found = walked(daemon)
        assert not found["ok"] and found["finding"]["kind"] == "edited"
