"""The door is a host like any other: the protocol's answers and codes, over HTTP."""

from __future__ import annotations

import gzip
import http.client
import json
import threading
import time
from typing import Any

import jsonschema
import openapi_spec_validator
import pytest

from tests.support.daemon import USER, Daemon, wait_for
from tests.support.door import Answer, Door

OTHER = "11111111-1111-4111-8111-111111111112"


def in_background(work: Any) -> tuple[threading.Thread, list[Answer]]:
    found: list[Answer] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    return thread, found


def is_idle(daemon: Daemon, plugin: str) -> bool:
    row = daemon.plugin(plugin)
    return row["queued"] == 0 and row["inFlight"] == 0


def test_it_describes_itself_in_openapi_and_answers_as_it_says(door: Door, token: str) -> None:
    document = door.ask("GET", "/v1/openapi.json").body
    openapi_spec_validator.validate(document)

    def check(answer: Answer, path: str, method: str = "post") -> None:
        responses = document["paths"][path][method]["responses"]
        content = responses["200" if answer.status == 200 else "default"]["content"]
        jsonschema.Draft202012Validator({**content[answer.headers["content-type"]]["schema"],
                                         "components": document["components"]}).validate(answer.body)

    check(door.act("echo-it", {"a": 1}, token), "/v1/invoke")
    check(door.act("failing", {}, token), "/v1/invoke")
    check(door.act("failing", {}, "wrong.token"), "/v1/invoke")
    check(door.ask("POST", "/v1/dispatch", {"action": "onActionExecute", "payload": {"action": "a", "context": {
        "mark": "dispatched"}}}, token), "/v1/dispatch")
    check(door.ask("POST", "/v1/cancel", {"target": "x"}, token), "/v1/cancel")
    check(door.ask("GET", "/v1/plugins", token=token), "/v1/plugins", "get")
    body = {**document["paths"]["/v1/invoke"]["post"]["requestBody"]["content"]["application/json"]["schema"],
            "components": document["components"]}
    sent = {"plugin": "p", "action": "a", "payload": {"x": 1}, "deadlineMs": 5, "id": "n", "userId": USER}
    jsonschema.Draft202012Validator(body).validate(sent)
    for wrong in ({**sent, "deadlineMs": 0}, {**sent, "payload": []}, {"plugin": "p"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(body).validate(wrong)
        assert door.ask("POST", "/v1/invoke", wrong, token).status == 400
    left_out = door.ask("POST", "/v1/invoke", {"plugin": "p"}, token).body
    assert left_out["code"] == "INVALID_INPUT" and left_out["details"] == {"path": "$.action"}


def test_a_call_has_the_wires_answer_in_json(door: Door, token: str) -> None:
    answer = door.act("echo-it", {"b": {"$bin": "AAE="}, "t": {"$time": "2026-01-31T12:00:00Z"}, "f": 1.5}, token)
    assert answer.status == 200 and answer.body["result"]["result"] == {
        "b": {"$bin": "AAE="}, "t": {"$time": "2026-01-31T12:00:00Z"}, "f": 1.5}
    assert answer.body["plugin"] == "echo-it" and answer.body["usage"]["executionTimeMs"] > 0


@pytest.mark.parametrize(("plugin", "context", "status", "code", "started", "retryable"), [
    ("nobody", {}, 404, "PLUGIN_NOT_FOUND", False, False), ("failing", {}, 502, "PLUGIN_ERROR", True, False),
    ("echo-it", [], 400, "INVALID_INPUT", False, False), ("sleeper", {"seconds": 30}, 504, "TIMEOUT", True, False)])
def test_errors_are_problems_with_the_wires_codes(plugin: str, context: Any, status: int, code: str, started: bool,
                                                  retryable: bool, door: Door, token: str) -> None:
    answer = door.act(plugin, context or 5 if context == [] else context, token, Deadline_Ms="700")
    assert answer.status == status and answer.headers["content-type"] == "application/problem+json"
    told = answer.body
    assert (told["code"], told["started"], told["retryable"], told["status"]) == (code, started, retryable, status)
    assert told["type"] == f"urn:apex-exec:problem:{code}" and told["title"] and told["detail"]


def test_a_caller_acts_as_itself_and_as_others_only_if_its_token_says_so(door: Door, token: str) -> None:
    def run(token: str, **more: Any) -> Answer:
        return door.ask("POST", "/v1/invoke", {"plugin": "counter", "action": "onActionExecute", **more,
                                               "payload": {"action": "a", "context": {"mark": "m"}}}, token)

    assert run(token).body["result"]["metadata"]["user"] == USER
    assert run(token, userId=USER.upper()).body["result"]["metadata"]["user"] == USER
    refused = run(token, userId=OTHER)
    assert (refused.status, refused.reason) == (403, "another_user")
    anybody = door.token("orchestrator", user=None, actAs=True)
    assert run(anybody, userId=OTHER).body["result"]["metadata"]["user"] == OTHER
    assert run(anybody).status == 400 and run(anybody, userId="anna").status == 400


def test_a_token_reaches_what_it_names(door: Door) -> None:
    narrow = door.token("narrow", plugins=["echo-it"], hooks=["onActionExecute"], scopes=["invoke", "plugins"])
    assert door.act("echo-it", {}, narrow).status == 200
    assert door.act("counter", {"mark": "m"}, narrow).reason == "plugin_not_in_token"
    assert door.ask("POST", "/v1/invoke", {"plugin": "echo-it", "action": "onDataFetch"}, narrow
                    ).reason == "hook_not_in_token"
    assert door.ask("POST", "/v1/dispatch", {"action": "onActionExecute"}, narrow).reason == "scope_missing"
    assert [row["id"] for row in door.ask("GET", "/v1/plugins", token=narrow).body["plugins"]] == ["echo-it"]
    assert door.ask("GET", "/v1/audit", token=narrow).reason == "scope_missing"
    gone = door.token("for a removed plugin", plugins=["never-was"])
    assert door.act("never-was", {}, gone).body["code"] == "PLUGIN_NOT_FOUND"


def test_a_revoked_token_ends_within_seconds_and_a_rate_is_held(door: Door, daemon: Daemon) -> None:
    slow = door.token("slow", requestsPerMinute=12)
    statuses = [door.act("echo-it", {}, slow).status for _ in range(4)]
    assert statuses == [200, 200, 429, 429], "two at once, that is ten seconds of its rate"
    last = door.act("echo-it", {}, slow)
    assert int(last.headers["retry-after"]) >= 1 and last.body["retryable"] is True
    ended = door.token("ended")
    assert door.act("echo-it", {}, ended).status == 200
    daemon.operate("door.token.revoke", name="ended", reason="a test")
    wait_for(lambda: door.act("echo-it", {}, ended).status == 401, 8, "the end of the token")
    listed = {row["name"]: row["state"] for row in daemon.operate("door.token.list", all=True)["tokens"]}
    assert listed["ended"] == "revoked" and listed["slow"] == "active"


def test_no_secret_of_a_token_is_in_the_state_folder(door: Door, daemon: Daemon, token: str) -> None:
    secret = token.encode()
    looked = [path for path in daemon.state.rglob("*") if path.is_file()]
    assert looked and not [path for path in looked if secret in path.read_bytes()]


def test_a_caller_that_leaves_has_its_hook_cancelled(door: Door, daemon: Daemon, token: str) -> None:
    body = json.dumps({"plugin": "sleeper", "action": "onActionExecute", "payload": {
        "action": "a", "context": {"seconds": 60}}, "deadlineMs": 60_000})
    connection = http.client.HTTPConnection("127.0.0.1", door.port)
    connection.request("POST", "/v1/invoke", body, {"Authorization": f"Bearer {token}",
                                                    "Content-Type": "application/json"})
    wait_for(lambda: not is_idle(daemon, "sleeper"), 20, "the call")
    connection.close()
    wait_for(lambda: is_idle(daemon, "sleeper"), 3, "the end of the hook")


def test_a_call_with_a_name_is_cancelled_by_its_own_caller(door: Door, daemon: Daemon, token: str) -> None:
    body = {"plugin": "sleeper", "action": "onActionExecute", "id": "mine",
            "payload": {"action": "a", "context": {"seconds": 60}}}
    thread, found = in_background(lambda: door.ask("POST", "/v1/invoke", body, token))
    wait_for(lambda: not is_idle(daemon, "sleeper"), 20, "the call")
    again = door.ask("POST", "/v1/invoke", body, token)
    assert (again.status, again.body["code"]) == (409, "DUPLICATE_ID")
    stranger = door.token("stranger")
    assert door.ask("POST", "/v1/cancel", {"target": "mine"}, stranger).body["found"] is False
    assert door.ask("POST", "/v1/cancel", {"target": "mine"}, token).body["found"] is True
    thread.join(10)
    assert (found[0].status, found[0].body["code"]) == (409, "CANCELLED")
    wait_for(lambda: is_idle(daemon, "sleeper"), 3, "the end of the hook")


def test_bodies_and_answers_with_gzip(door: Door, token: str) -> None:
    sent = {"plugin": "echo-it", "action": "onActionExecute", "payload": {"action": "a", "context": {"t": "x" * 5000}}}
    packed = gzip.compress(json.dumps(sent).encode())
    answer = door.ask("POST", "/v1/invoke", packed, token, Content_Encoding="gzip", Accept_Encoding="gzip")
    assert answer.headers["content-encoding"] == "gzip" and len(answer.raw) < 1000
    assert json.loads(gzip.decompress(answer.raw))["result"]["result"]["t"] == "x" * 5000
    assert "content-encoding" not in door.ask("POST", "/v1/invoke", sent, token).headers
    bomb = gzip.compress(bytes(200_000_000))
    assert door.ask("POST", "/v1/invoke", bomb, token, Content_Encoding="gzip").status == 413
    for broken in (b"no gzip", packed[:-4], packed + b"x"):
        assert door.ask("POST", "/v1/invoke", broken, token, Content_Encoding="gzip").status == 400
    assert door.ask("POST", "/v1/invoke", packed, token, Content_Encoding="br").status == 415


def test_a_body_of_five_megabytes_and_other_things_that_are_no_call(door: Door, token: str) -> None:
    assert door.ask("POST", "/v1/invoke", b'{"a":"' + b"x" * 5_000_000 + b'"}', token).status == 413
    assert door.ask("POST", "/v1/invoke", {}, token, Content_Type="text/plain").status == 415
    assert door.ask("GET", "/v1/invoke", token=token).status == 405
    assert door.ask("GET", "/nothing", token=token).status == 404
    assert door.ask("POST", "/v1/invoke", {}, token, Expect="100-continue").status == 417
    assert door.ask("POST", "/v1/invoke", {}).status == 401
    assert door.ask("POST", "/v1/invoke", {}, token, Deadline_Ms="soon").status == 400


def test_one_connection_serves_many_requests(door: Door, token: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", door.port)
    body = json.dumps({"plugin": "echo-it", "action": "onActionExecute", "payload": {"action": "a", "context": {}}})
    connection.connect()
    own = connection.sock.getsockname()
    for _ in range(20):
        connection.request("POST", "/v1/invoke", body, {"Authorization": f"Bearer {token}",
                                                        "Content-Type": "application/json"})
        assert json.loads(connection.getresponse().read())["type"] == "result"
        assert connection.sock.getsockname() == own
    connection.close()


def test_the_ledger_as_pages_and_as_a_stream(door: Door, token: str) -> None:
    reader = door.token("siem", user=None, scopes=["audit:read"])
    door.act("echo-it", {}, token)
    page: dict[str, Any] = {}

    def has_call() -> bool:
        page.update(door.ask("GET", "/v1/audit?after=0&type=plugin.execution", token=reader).body)
        return bool(page["events"])

    wait_for(has_call, 10, "the record")
    assert [event["seq"] for event in page["events"]] == sorted(event["seq"] for event in page["events"])
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=20)
    connection.request("GET", f"/v1/audit?type=plugin.execution&after={page['events'][0]['seq'] - 1}", headers={
        "Authorization": f"Bearer {reader}", "Accept": "text/event-stream"})
    stream = connection.getresponse()
    assert stream.status == 200 and stream.getheader("Content-Type") == "text/event-stream"
    lines = [stream.readline() for _ in range(3)]
    assert lines[0] == b"id: %d\n" % page["events"][0]["seq"] and lines[1] == b"event: audit\n"
    door.act("echo-it", {}, token, traceparent="00-0123456789abcdef0123456789abcdef-0123456789abcdef-01")
    while b"0123456789abcdef0123456789abcdef" not in (line := stream.readline()):
        assert line, "the stream has ended"
    connection.close()
    assert door.ask("GET", "/v1/audit?after=x", token=reader).status == 400
    assert door.ask("GET", "/v1/audit", token=token).status == 403


def test_the_same_key_is_one_run(door: Door, daemon: Daemon, token: str) -> None:
    mark = f"one-{time.monotonic_ns()}"
    context = {"mark": mark, "seconds": 0.3}
    threads = [in_background(lambda: door.act("counter", context, token, Idempotency_Key=mark)) for _ in range(8)]
    for thread, _ in threads:
        thread.join()
    answers = {found[0].raw for _, found in threads}
    answers.add(door.act("counter", context, token, Idempotency_Key=mark).raw)
    assert len(answers) == 1 and b'"result"' in answers.pop()
    assert door.act("counter", {"mark": "other"}, token, Idempotency_Key=mark).reason == "key_reused"
    wait_for(lambda: f"ran {mark}" in daemon.log, 5, "the plugin's line")
    assert daemon.log.count(f"ran {mark}\n") == 1
