"""What a host sends that cannot be read is the host's fault, at the edge or as soon as it is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.daemon import ECHO, USER, Daemon, write_plugin
from tests.support.host import Host

HOOKS = '''
@plugin.hook("onActionExecute")
def act(context, params):
    return {"result": params["context"], "metadata": {}}

@plugin.hook("onDataFetch")
def fetch(context, params):
    return {"transformedData": [params["filters"], params.get("data")]}
'''
LIAR = '''
from workers import wire

@plugin.hook("onActionExecute")
def act(context, params):
    worker = context.api._ask.__self__
    worker._host.send(wire.BadInput(context.api._seq, "the host is to blame", 1))
    return {"result": 1, "metadata": {}}
'''
HALF_AN_EMOJI = b"\xa3\xed\xa0\xbd"
BAD = (HALF_AN_EMOJI, b"\xd7\xff" + b"\xff" * 8, b"\xc7\x0c\xff" + b"\xff" * 12, b"\xa2\xff\xfe",
       b"\x81" + HALF_AN_EMOJI + b"\xc0")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder: Path = tmp_path_factory.mktemp("plugins")
    write_plugin(folder, "echo", HOOKS, ("onActionExecute", "onDataFetch"))
    write_plugin(folder, "other", ECHO)
    write_plugin(folder, "liar", LIAR)
    with Daemon(plugins=folder) as running:
        yield running


def payload(bad: bytes) -> Any:
    encode = msgspec.msgpack.encode
    return msgspec.Raw(b"\x82" + encode("action") + encode("x") + encode("context") + b"\x81" + encode("k") + bad)


@pytest.mark.parametrize("bad", BAD, ids=["half an emoji", "timestamp", "long timestamp", "bytes", "in a key"])
def test_a_payload_that_cannot_be_read_is_the_hosts_invalid_input(daemon: Daemon, bad: bytes) -> None:
    with Host(daemon.endpoint) as host:
        for message in ({"type": "invoke", "plugin": "echo"}, {"type": "dispatch"}):
            error = host.ask({**message, "action": "onActionExecute", "userId": USER, "payload": payload(bad)})
            assert (error["type"], error["code"]) == ("error", "INVALID_INPUT"), error
            assert error["started"] is False and error["retryable"] is False
            assert error["details"]["path"].startswith("$.payload")
        assert host.invoke("echo", {"a": 1})["result"]["result"] == {"a": 1}
    assert 'breaker_state{plugin="echo",state="open"} 1' not in daemon.metrics()


def test_a_worker_cannot_blame_the_host(daemon: Daemon) -> None:
    with Host(daemon.endpoint) as host:
        error = host.invoke("liar", {"a": 1})
    assert error["code"] == "PLUGIN_ERROR" and error["details"] == {"claimed": True}


@pytest.mark.parametrize(("action", "given", "seen"), [
    ("onActionExecute", {"action": "x", "context": []}, {}), ("onDataFetch", {"query": "q", "filters": []}, [{}, None]),
    ("onDataFetch", {"query": "q", "filters": [], "data": []}, [{}, []])])
def test_an_empty_array_stands_for_an_empty_map(daemon: Daemon, action: str, given: Any, seen: Any) -> None:
    with Host(daemon.endpoint) as host:
        reply = host.ask({"type": "invoke", "plugin": "echo", "action": action, "userId": USER, "payload": given})
    assert reply["type"] == "result", reply
    assert reply["result"].get("result", reply["result"].get("transformedData")) == seen


@pytest.mark.parametrize(("given", "path"), [
    ({"action": "e", "context": {None: 1}}, "$.payload.context"), ({None: 1}, "$.payload"),
    ({"action": "e", "context": [1]}, "$.payload.context"), ({"action": 5, "context": {}}, "$.payload.action")])
def test_the_path_is_right_for_any_key(daemon: Daemon, given: Any, path: str) -> None:
    with Host(daemon.endpoint) as host:
        error = host.ask({"type": "invoke", "plugin": "echo", "action": "onActionExecute", "userId": USER,
                          "payload": given})
    assert (error["code"], error["details"]["path"]) == ("INVALID_INPUT", path), error


@pytest.mark.parametrize(("bad", "path"), [
    ({"plugin": HALF_AN_EMOJI}, "$.plugin"), ({"userId": HALF_AN_EMOJI}, "$.userId"),
    ({"traceparent": HALF_AN_EMOJI}, "$.traceparent"), ({"action": HALF_AN_EMOJI}, "$.action")])
def test_text_of_the_envelope_that_cannot_be_read_is_invalid_input_with_its_path(daemon: Daemon, bad: dict[str, bytes],
                                                                                path: str) -> None:
    message = {"type": "invoke", "plugin": "echo", "action": "onActionExecute", "userId": USER, "payload": {},
               **{key: msgspec.Raw(value) for key, value in bad.items()}}
    with Host(daemon.endpoint) as host:
        error = host.ask(message)
        assert (error["code"], error["details"]["path"], error["started"]) == ("INVALID_INPUT", path, False), error
        for odd in ({"type": msgspec.Raw(HALF_AN_EMOJI)}, {"id": msgspec.Raw(HALF_AN_EMOJI)}):
            host.socket.send(msgspec.msgpack.encode({"id": 99, **message, **odd}))
            assert host.receive()["code"] == "PROTOCOL_ERROR"
        assert host.ask({"type": "ping"})["type"] == "pong"


def test_an_empty_array_stands_for_an_empty_map_of_the_envelope_and_of_operations_too(daemon: Daemon) -> None:
    with Host(daemon.admin) as host:
        assert host.ask({"type": "admin", "op": "daemon.status", "args": []})["type"] == "adminResult"
        assert host.ask({"type": "admin", "op": "daemon.status", "args": [1]})["details"]["path"] == "$.args"
        tried = host.ask({"type": "admin", "op": "plugin.verify", "args": {"id": "nobody", "payload": []}})
        assert tried["code"] == "NOT_FOUND", tried
    with Host(daemon.endpoint) as host:
        host.socket.send(msgspec.msgpack.encode({"type": "hostReply", "callId": 1, "ok": True, "error": []}))
        assert host.quiet(), "it answers nothing, and is answered with nothing"


@pytest.mark.parametrize(("hook", "payload", "says"), [
    ("onDataFetch", {"query": "q"}, "filters"), ("onActionExecute", {"action": "x"}, "context"),
    ("onActionExecute", {}, "action"), ("onActionExecute", {"action": 1, "context": {}}, "$.payload.action")])
def test_a_payload_that_lacks_a_field_is_invalid_input_that_names_it(daemon: Daemon, hook: str, payload: Any,
                                                                     says: str) -> None:
    with Host(daemon.endpoint) as host:
        for kind in ({"type": "invoke", "plugin": "echo"}, {"type": "dispatch"}):
            reply = host.ask({**kind, "action": hook, "userId": USER, "payload": payload})
            assert reply["code"] == "INVALID_INPUT" and says in str(reply), reply
