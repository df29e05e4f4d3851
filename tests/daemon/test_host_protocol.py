"""PROTOCOL section 1 to the letter: what any host may send, and the one reply that it gets."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from apex_exec.catalogue.limits import LIMITS, default_of, key_of
from tests.support.daemon import ECHO, SLEEP, USER, Daemon, admin_request, write_plugin
from tests.support.host import Host, action, pack

LIMIT = 65_536


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    plugins = tmp_path_factory.mktemp("plugins")
    write_plugin(plugins, "echo", ECHO)
    write_plugin(plugins, "sleeper", SLEEP)
    write_plugin(plugins, "bad-output", '''
from datetime import datetime
VALUES = {"set": {1}, "nan": float("nan"), "huge": 2**53, "object": object(), "naive": datetime(2026, 1, 1),
          "int-key": {1: 2}, "tuple": (1, 2), "large": "x" * 1_100_000}

@plugin.hook("onActionExecute")
def act(context, params):
    return {"result": VALUES[params["context"]["value"]], "metadata": {}}

@plugin.hook("onDashboardLoad")
def load(context, params):
    return {"customWidgets": [{"id": 7}]}

@plugin.hook("onAuthSuccess")
def auth(context, params):
    return {"not": "void"}
''', hooks=("onActionExecute", "onDashboardLoad", "onAuthSuccess"))
    with Daemon(plugins=plugins, config={"host.max_message_bytes": LIMIT, "pool.per_host": 20}) as running:
        yield running


@pytest.fixture
def host(daemon: Daemon) -> Iterator[Host]:
    with Host(daemon.endpoint) as connected:
        yield connected


def alive(host: Host) -> bool:
    return host.ask({"type": "ping"})["type"] == "pong"


def test_what_is_no_message_is_a_protocol_error_without_an_id(host: Host) -> None:
    for body in (b"", b"\xc1", b"\xc0", b"garbage", pack([1]), pack(3.0), pack("x"), b"\x81\xa2id",
                 b"\xdf\xff\xff\xff\xff"):
        reply = host.raw(body)
        assert (reply["code"], reply["id"], reply["started"], reply["retryable"]) == (
            "PROTOCOL_ERROR", None, False, False)
    assert alive(host)


@pytest.mark.parametrize(("message", "code", "path"), [
    ({"type": "nonsense"}, "PROTOCOL_ERROR", "$.type"),
    ({"id": -1, "type": "ping"}, "PROTOCOL_ERROR", "$.id"),
    ({"id": 2**63, "type": "ping"}, "PROTOCOL_ERROR", "$.id"),
    ({"id": "", "type": "ping"}, "PROTOCOL_ERROR", "$.id"),
    ({"id": "x" * 65, "type": "ping"}, "PROTOCOL_ERROR", "$.id"),
    ({"id": None, "type": "ping"}, "PROTOCOL_ERROR", "$.id"),
    ({"id": [1], "type": "ping"}, "PROTOCOL_ERROR", "$.id"),
    ({"id": 1.5, "type": "ping"}, "PROTOCOL_ERROR", "$.id"),
    ({**action("echo"), "id": 1, "action": "a" * 101}, "INVALID_INPUT", "$.action"),
    ({**action("echo"), "id": 1, "userId": "no-uuid"}, "INVALID_INPUT", "$.userId"),
    ({**action("echo"), "id": 1, "userId": "{" + USER + "}"}, "INVALID_INPUT", "$.userId"),
    ({**action("echo"), "id": 1, "userId": 7}, "INVALID_INPUT", "$.userId"),
    ({**action("echo"), "id": 1, "payload": None}, "INVALID_INPUT", "$.payload"),
    ({**action("echo"), "id": 1, "payload": [1]}, "INVALID_INPUT", "$.payload"),
    ({**action("echo"), "id": 1, "payload": {"action": 1, "context": {}}}, "INVALID_INPUT", "$.payload.action"),
    ({**action("echo"), "id": 1, "payload": {"action": "x"}}, "INVALID_INPUT", "$.payload"),
    ({**action("echo"), "id": 1, "deadlineMs": 0}, "INVALID_INPUT", "$.deadlineMs"),
    ({**action("echo"), "id": 1, "deadlineMs": 1.5}, "INVALID_INPUT", "$.deadlineMs"),
    ({**action("echo"), "id": 1, "deadlineMs": "5"}, "INVALID_INPUT", "$.deadlineMs"),
    ({"id": 1, "type": "plugins", "userId": "x"}, "INVALID_INPUT", "$.userId"),
    ({"id": 1, "type": "dispatch", "action": "onNothing", "userId": USER}, "INVALID_INPUT", "$.action"),
    ({"id": 1, "type": "hello", "protocol": [2]}, "UNSUPPORTED_PROTOCOL", None),
    ({"id": 1, "type": "admin", "op": "ops"}, "PROTOCOL_ERROR", None),
    ({**action("nobody"), "id": 1}, "PLUGIN_NOT_FOUND", None),
    ({**action("echo"), "id": 1, "action": "onDataFetch"}, "HOOK_NOT_DECLARED", None),
])
def test_each_wrong_field_has_its_code_and_its_path(host: Host, message: dict[str, Any], code: str, path: str) -> None:
    reply = host.raw(pack(message))
    assert reply["code"] == code and reply["started"] is False and reply["retryable"] is False, reply
    if path is not None:
        assert reply["details"]["path"] == path, reply
    assert reply["id"] == (message["id"] if message.get("id") == 1 else None)
    assert alive(host)


def test_javascript_values_mean_what_they_mean_there(host: Host) -> None:
    plain = host.ask({**action("echo", {"n": 1.0}), "deadlineMs": 5000.0, "traceparent": None, "unknownKey": [1]})
    assert plain["type"] == "result" and plain["result"]["result"] == {"n": 1.0}, plain
    assert host.ask({**action("echo"), "deadlineMs": None, "userId": USER.upper()})["type"] == "result"
    host.socket.send(pack({"type": "ping", "id": 7.0}))
    assert host.receive() == {"type": "pong", "id": 7}
    assert host.ask({"type": "plugins", "userId": None})["type"] == "plugins"
    assert host.ask({"type": "hello", "protocol": [1.0], "client": None})["type"] == "welcome"
    rich = {"bin": b"\x00\xff", "when": datetime(2026, 1, 2, 3, tzinfo=UTC), "null": None, "deep": [[{"a": [1]}]],
            "int": 2**53 - 1, "text": "π"}
    assert host.ask(action("echo", rich))["result"]["result"] == rich


def test_the_callers_id_may_stand_in_the_payload_and_may_not_differ(host: Host, daemon: Daemon) -> None:
    base = {"type": "invoke", "plugin": "bad-output", "action": "onAuthSuccess", "userId": USER}
    foreign = host.ask({**base, "payload": {"sessionId": "s", "userId": USER[:-1] + "0"}})
    assert foreign["code"] == "INVALID_INPUT" and foreign["details"]["path"] == "$.payload.userId"
    assert host.ask({**base, "payload": {"sessionId": "s", "userId": USER.upper()}})["code"] == "INVALID_OUTPUT"


@pytest.mark.parametrize(("value", "path"), [
    ("set", "$.result"), ("nan", "$.result"), ("huge", "$.result"), ("object", "$.result"), ("naive", "$.result"),
    ("int-key", "$.result"), ("large", "$")])
def test_what_cannot_be_carried_is_invalid_output_with_its_path(host: Host, value: str, path: str) -> None:
    reply = host.invoke("bad-output", {"value": value})
    assert reply["code"] == "INVALID_OUTPUT" and reply["started"] is True and not reply["retryable"], reply
    assert reply["details"]["path"].startswith(path)
    assert reply["usage"]["executionTimeMs"] > 0


def test_results_off_their_schema_are_invalid_output(host: Host) -> None:
    widget = host.ask({"type": "invoke", "plugin": "bad-output", "action": "onDashboardLoad", "userId": USER,
                       "payload": {"dashboardId": "d"}})
    assert widget["code"] == "INVALID_OUTPUT" and widget["details"]["path"].startswith("$.customWidgets")
    assert host.invoke("bad-output", {"value": "tuple"})["result"]["result"] == [1, 2]


def test_sizes_from_the_limit_to_four_times_it_are_answered_with_the_id(host: Host) -> None:
    fits = action("echo", {"fill": "x" * (LIMIT - 300)})
    assert host.ask(fits)["type"] == "result"
    for size in (LIMIT + 1, 3 * LIMIT):
        reply = host.raw(pack({"id": "first", **action("echo", {"fill": "x" * size})}))
        assert (reply["code"], reply["id"]) == ("PAYLOAD_TOO_LARGE", "first")
    behind = host.raw(pack({"payload": {"fill": ["x"] * LIMIT}, "id": 5, "type": "ping"}))
    assert (behind["code"], behind["id"]) == ("PAYLOAD_TOO_LARGE", None)  # it is not decoded to look for an id
    late = host.raw(pack({**{f"k{n}": n for n in range(9)}, "id": 5, "fill": "x" * LIMIT}))
    assert (late["code"], late["id"]) == ("PAYLOAD_TOO_LARGE", None)
    assert alive(host)


def test_beyond_four_times_the_limit_the_connection_is_dropped(daemon: Daemon) -> None:
    with Host(daemon.endpoint) as host:
        pending = host.send(action("sleeper", {"seconds": 3}))
        host.socket.send(pack({"type": "ping", "id": 9, "fill": "x" * (4 * LIMIT + 100)}))
        assert host.quiet(0.5)  # libzmq reconnects; what was pending is gone with the connection
        assert pending and alive(host)


def test_depth_is_bounded(host: Host) -> None:
    def nested(levels: int) -> dict[str, Any]:
        value: Any = 1
        for _ in range(levels):
            value = [value]
        return {"v": value}

    assert host.ask(action("echo", nested(50)))["type"] == "result"
    reply = host.raw(pack({"id": 3, **action("echo", nested(80))}))
    assert (reply["code"], reply["id"]) == ("PAYLOAD_TOO_LARGE", 3)
    bomb = host.raw(b"\x82\xa2id\x04\xa1x" + b"\x91" * 60_000 + b"\xc0")
    assert (bomb["code"], bomb["id"]) == ("PAYLOAD_TOO_LARGE", 4)
    assert alive(host)


def test_a_self_chosen_routing_id_is_refused(daemon: Daemon) -> None:
    with Host(daemon.endpoint, ROUTING_ID=b"mine") as host:
        reply = host.raw(pack(action("echo")))
        assert reply["code"] == "PROTOCOL_ERROR" and "ZMQ_ROUTING_ID" in reply["message"]
    daemon.wait_metric('protocol_anomalies_total{kind="foreign_routing_id"}', 1.0)


def test_every_frame_before_the_body_comes_back(host: Host) -> None:
    host.socket.send_multipart([b"a", b"", b"c", pack({"type": "ping", "id": 1})])
    frames = host.socket.recv_multipart()
    assert frames[:-1] == [b"a", b"", b"c"] and msgspec.msgpack.decode(frames[-1]) == {"type": "pong", "id": 1}


def test_req_works_but_cannot_provide(daemon: Daemon) -> None:
    with Host(daemon.endpoint, zmq.REQ) as req:
        assert req.ask({"type": "ping"})["type"] == "pong"
        assert req.invoke("echo", {"a": 1})["result"]["result"] == {"a": 1}
        assert req.ask({"type": "provide", "methods": ["admin.users.list"]})["code"] == "PROTOCOL_ERROR"


def test_an_id_is_used_once_at_a_time(host: Host) -> None:
    slow = {"id": 1, **action("sleeper", {"seconds": 2}), "deadlineMs": 4000}
    host.socket.send(pack(slow))
    again = host.raw(pack(slow))
    assert (again["code"], again["id"], again["details"]) == ("DUPLICATE_ID", None, {"id": 1})
    same = host.raw(pack({"id": 1, "type": "dispatch", "action": "onAuthSuccess", "userId": USER,
                          "payload": {"sessionId": "s"}}))
    assert same["code"] == "DUPLICATE_ID"
    assert host.raw(pack({"id": 2, "type": "cancel", "target": 1}))["id"] in (1, 2)
    assert {host.receive()["id"]} <= {1, 2}
    assert host.ask({"id": 1, "type": "ping"})["type"] == "pong"


def test_cancel_finds_only_this_connections_requests(host: Host, daemon: Daemon) -> None:
    mine = host.send(action("sleeper", {"seconds": 3}))
    with Host(daemon.endpoint) as other:
        assert other.ask({"type": "cancel", "target": mine})["found"] is False
    assert host.ask({"type": "cancel", "target": mine})["found"] is True
    ended = host.reply(mine)
    assert (ended["code"], ended["retryable"]) == ("CANCELLED", False)
    assert host.ask({"type": "cancel", "target": mine})["found"] is False


def test_one_connection_holds_its_share_and_no_more(host: Host, daemon: Daemon) -> None:
    ids = [host.send(action("sleeper", {"seconds": 0.05}, userId=f"{n:08x}{USER[8:]}")) for n in range(25)]
    replies = [host.reply(id_, 15) for id_ in ids]
    over = [r for r in replies if r["type"] == "error"]
    assert {r["code"] for r in over} == {"OVERLOADED"} and len(over) == 5
    assert all(r["retryable"] and not r["started"] for r in over)
    with Host(daemon.endpoint) as other:
        assert alive(other)


def test_hello_tells_the_limits_in_force(host: Host, daemon: Daemon) -> None:
    welcome = host.ask({"type": "hello", "protocol": [1, 2], "client": "tests"})
    assert welcome["limits"] == {key_of(name): default_of(name) for name in LIMITS} | {"maxMessageBytes": LIMIT}
    assert welcome["isolation"] == admin_request(daemon.admin, "daemon.status")["isolation"]
    assert welcome["hooks"] == ["onDashboardLoad", "onDataFetch", "onActionExecute", "onAuthSuccess"]


def test_a_larger_deadline_is_lowered_and_a_smaller_one_kept(host: Host) -> None:
    reply = host.invoke("sleeper", {"seconds": 9}, deadlineMs=200)
    assert (reply["code"], reply["started"], reply["retryable"]) == ("TIMEOUT", True, False)
    assert 150 < reply["usage"]["executionTimeMs"] + reply["usage"]["queueMs"] < 1500


def test_dispatch_without_takers_is_empty_but_in_its_form(host: Host) -> None:
    def dispatch(hook: str, payload: dict[str, Any]) -> Any:
        return host.ask({"type": "dispatch", "action": hook, "userId": USER, "payload": payload})

    fetched = dispatch("onDataFetch", {"query": "q", "filters": {}, "data": [1]})
    assert (fetched["result"], fetched["outcomes"], fetched["partial"]) == ({"transformedData": [1]}, [], False)


def test_provide_and_host_replies_without_a_gateway_are_answered(host: Host, daemon: Daemon) -> None:
    assert host.ask({"type": "provide", "methods": ["admin.users.list"]})["type"] in ("provided", "error")
    host.socket.send(pack({"type": "hostReply", "callId": 12345, "ok": True, "result": 1}))
    assert alive(host)
    daemon.wait_metric('protocol_anomalies_total{kind="unknown_call_id"}', 1.0)


def test_a_bundle_cannot_name_what_it_is_not(tmp_path: Path) -> None:
    write_plugin(tmp_path / "a", "twin", ECHO)
    write_plugin(tmp_path / "a", "other", ECHO)
    (tmp_path / "a" / "other" / "manifest.json").write_text((tmp_path / "a" / "twin" / "manifest.json").read_text())
    with pytest.raises(AssertionError, match="both have the id twin"):
        Daemon(plugins=tmp_path / "a", config={"log.format": "text"})
