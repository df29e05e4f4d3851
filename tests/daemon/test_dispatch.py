"""Dispatch on a real daemon: one that hangs or fails never costs the others' answers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from apex_exec.catalogue.hooks import HOOKS
from apex_exec.client import Client
from apex_exec.core.dispatch import Dispatch
from tests.support.daemon import USER, Daemon, wait_for, write_plugin
from tests.support.host import Host


def test_every_mode_answers_though_others_fail() -> None:
    with Daemon() as daemon, Client(daemon.endpoint) as client:

        def dispatch(action: str, payload: dict[str, Any]) -> dict[str, Any]:
            message = {"type": "dispatch", "action": action, "userId": USER, "payload": payload}
            return client.request(message, 8000)

        loaded = dispatch("onDashboardLoad", {"dashboardId": "d"})
        widgets = [widget["id"] for widget in loaded["result"]["customWidgets"]]
        assert widgets == ["custom-analytics/chart", "hello-world/hello-widget",
                           "hello-world-dict/hello-widget", "hello-world-js/hello-widget"] and loaded["partial"]
        assert [o["plugin"] for o in loaded["outcomes"] if not o["ok"]] == ["liar"]
        fetched = dispatch("onDataFetch", {"query": "q", "filters": {}, "data": 1})
        assert fetched["result"] == {"transformedData": {"query": "q", "filters": []}}
        acted = dispatch("onActionExecute", {"action": "none", "context": {}})
        codes = {o["plugin"]: o.get("error", {}).get("code") for o in acted["outcomes"]}
        assert codes == {"action-router": None, "crasher": "WORKER_CRASHED", "hoarder": "MEMORY_LIMIT",
                         "order-overview": None, "spinner": "TIMEOUT"}
        assert acted["result"] is None and acted["partial"]
        assert dispatch("onAuthSuccess", {"sessionId": "s"})["result"] is None


def test_in_order_each_gets_a_share_of_the_remaining_time() -> None:
    course = Dispatch(HOOKS["onDataFetch"], ["a", "b", "c"], {"query": "q", "filters": {}}, deadline_ns=900)
    (first,) = course.begin(0)
    assert (first.plugin, first.deadline_ns) == ("a", 300)
    (second,) = course.settled("a", False, None, 300)
    assert (second.plugin, second.deadline_ns) == ("b", 600) and "data" not in second.payload
    (third,) = course.settled("b", True, {"transformedData": 7}, 400)
    assert third.deadline_ns == 900 and third.payload["data"] == 7
    assert course.settled("c", True, {}, 500) == []
    assert course.finished and course.partial and course.result() == {"transformedData": 7}


def test_an_action_stops_at_the_first_answer() -> None:
    course = Dispatch(HOOKS["onActionExecute"], ["a", "b"], {}, deadline_ns=100)
    course.begin(0)
    assert course.settled("a", True, {"result": 1, "metadata": {}}, 5) == []
    assert course.finished and course.result() == {"result": 1, "metadata": {}}


HANG = '''
@plugin.hook("onDataFetch")
def fetch(context, params):
    while True:
        pass

@plugin.hook("onDashboardLoad")
def load(context, params):
    while True:
        pass
'''
GOOD = '''
@plugin.hook("onDataFetch")
def fetch(context, params):
    return {"transformedData": [params.get("data"), context.plugin_id]}

@plugin.hook("onDashboardLoad")
def load(context, params):
    return {"customWidgets": [{"id": "w", "component": "C", "props": {}}]}
'''


@pytest.mark.slow
def test_a_hanging_plugin_at_the_head_leaves_the_others_their_answers(tmp_path: Path) -> None:
    hooks = ("onDataFetch", "onDashboardLoad")
    write_plugin(tmp_path, "aaa-hangs", HANG, hooks, priority=0)
    for id_ in ("bbb", "ccc"):
        write_plugin(tmp_path, id_, GOOD, hooks, ("ui:render",))
    with Daemon(plugins=tmp_path) as daemon, Host(daemon.endpoint) as host:
        for id_ in ("bbb", "ccc"):  # warm: whether a cold start fits into what is left is not the question
            host.ask({"type": "invoke", "plugin": id_, "action": "onDataFetch", "userId": USER,
                      "payload": {"query": "q", "filters": {}}})
        begun = time.monotonic()
        fetched = host.ask({"type": "dispatch", "action": "onDataFetch", "userId": USER, "deadlineMs": 4500,
                            "payload": {"query": "q", "filters": {}, "data": 1}})
        assert fetched["result"] == {"transformedData": [[1, "bbb"], "ccc"]} and fetched["partial"]
        assert [(o["plugin"], o["ok"]) for o in fetched["outcomes"]] == [
            ("aaa-hangs", False), ("bbb", True), ("ccc", True)]
        assert fetched["outcomes"][0]["error"]["code"] == "TIMEOUT"
        assert time.monotonic() - begun < 3.5, "a third of the whole deadline is the most that it may take"
        loaded = host.ask({"type": "dispatch", "action": "onDashboardLoad", "userId": USER, "deadlineMs": 1500,
                           "payload": {"dashboardId": "d"}})
        assert [w["id"] for w in loaded["result"]["customWidgets"]] == ["bbb/w", "ccc/w"]


@pytest.mark.slow
def test_a_dispatch_can_be_cancelled_and_counts_as_one_request(tmp_path: Path) -> None:
    write_plugin(tmp_path, "hangs", HANG, ("onDataFetch", "onDashboardLoad"))
    with Daemon(plugins=tmp_path) as daemon, Host(daemon.endpoint) as host:
        id_ = host.send({"type": "dispatch", "action": "onDashboardLoad", "userId": USER,
                         "payload": {"dashboardId": "d"}})
        wait_for(lambda: daemon.operate("daemon.status")["plugins"][0]["inFlight"] == 1, 10, "the call's begin")
        assert host.ask({"type": "cancel", "target": id_})["found"]
        ended = host.reply(id_)
        assert (ended["code"], ended["action"]) == ("CANCELLED", "onDashboardLoad")
        wait_for(lambda: daemon.operate("daemon.status")["pending"] == 0, 10)
        wait_for(lambda: not daemon.workers(), 4, "the worker's end, before the hook's own")
