"""Dispatch on a real daemon: one that hangs or fails never costs the others' answers."""

from __future__ import annotations

from typing import Any

from apex_exec.client import Client
from apex_exec.core.dispatch import Dispatch
from tests.support.daemon import USER, Daemon


def test_every_mode_answers_though_others_fail() -> None:
    with Daemon() as daemon, Client(daemon.endpoint) as client:

        def dispatch(action: str, payload: dict[str, Any]) -> dict[str, Any]:
            message = {"type": "dispatch", "action": action, "userId": USER, "payload": payload}
            return client.request(message, 8000)

        loaded = dispatch("onDashboardLoad", {"dashboardId": "d"})
        widgets = [widget["id"] for widget in loaded["result"]["customWidgets"]]
        assert widgets == ["custom-analytics/chart", "hello-world/hello-widget",
                           "hello-world-dict/hello-widget"] and loaded["partial"]
        assert [o["plugin"] for o in loaded["outcomes"] if not o["ok"]] == ["liar"]
        fetched = dispatch("onDataFetch", {"query": "q", "filters": {}, "data": 1})
        assert fetched["result"] == {"transformedData": {"query": "q", "filters": []}}
        acted = dispatch("onActionExecute", {"action": "none", "context": {}})
        codes = {o["plugin"]: o.get("error", {}).get("code") for o in acted["outcomes"]}
        assert codes == {"action-router": None, "crasher": "WORKER_CRASHED", "hoarder": "MEMORY_LIMIT",
                         "spinner": "TIMEOUT"}
        assert acted["result"] is None and acted["partial"]
        assert dispatch("onAuthSuccess", {"sessionId": "s"})["result"] is None


def test_in_order_each_gets_a_share_of_the_remaining_time() -> None:
    course = Dispatch("onDataFetch", ["a", "b", "c"], {"query": "q", "filters": {}}, deadline_ns=900)
    (first,) = course.begin(0)
    assert (first.plugin, first.deadline_ns) == ("a", 300)
    (second,) = course.settled("a", False, None, 300)
    assert (second.plugin, second.deadline_ns) == ("b", 600) and "data" not in second.payload
    (third,) = course.settled("b", True, {"transformedData": 7}, 400)
    assert third.deadline_ns == 900 and third.payload["data"] == 7
    assert course.settled("c", True, {"transformedData": None}, 500) == []
    assert course.finished and course.partial and course.result() == {"transformedData": 7}


def test_an_action_stops_at_the_first_answer() -> None:
    course = Dispatch("onActionExecute", ["a", "b"], {}, deadline_ns=100)
    course.begin(0)
    assert course.settled("a", True, {"result": 1, "metadata": {}}, 5) == []
    assert course.finished and course.result() == {"result": 1, "metadata": {}}
