"""What a daemon answers to each message, how it reads ids and values, and what it does with many requests at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from apex_exec.conformance.cases import Case, NotTried, equal, expect
from apex_exec.conformance.peers import Message, MessageHost

USER = "11111111-2222-4333-8444-555555555555"
OTHER = "22222222-2222-4333-8444-555555555555"
PLUGIN, BROKEN = "conformance", "conformance-broken"
METHOD = "admin.users.conformance"
INT_MAX = 2**53 - 1
Try = Callable[[MessageHost], None]
WELCOME = {"type", "id", "protocol", "server", "apiVersion", "isolation", "waived", "hooks", "limits"}
LIMITS = {"timeoutMs", "memoryMb", "cpuPercent", "networkPerMinute", "maxMessageBytes"}
HOOKS = {"onDashboardLoad", "onDataFetch", "onActionExecute", "onAuthSuccess"}
USAGE = {"queueMs", "executionTimeMs", "cpuMs", "memoryUsedMb", "throttledMs", "cold"}


def invoke(action: str = "echo", context: Any = None, **more: Any) -> Message:
    """A call of the conformance plugin's onActionExecute."""
    return {"type": "invoke", "plugin": PLUGIN, "action": "onActionExecute", "userId": USER,
            "payload": {"action": action, "context": {} if context is None else context}, **more}


def need_plugin(host: MessageHost, plugin: str = PLUGIN) -> None:
    """Raises NotTried where the daemon does not serve the plugin that cases call."""
    listed = {row["id"] for row in host.ask({"type": "plugins"})["plugins"]}
    if plugin not in listed:
        raise NotTried(f"the daemon does not serve the plugin {plugin}; `apex-exec conformance plugins` names it")


def result(host: MessageHost, message: Message, seconds: float = 30) -> Message:
    """The reply to a call, which has to be a result."""
    need_plugin(host)
    reply = host.ask(message, seconds)
    expect(reply["type"] == "result", reply)
    return reply


# ------------------------------------------------------------------ each message
def _hello(host: MessageHost) -> None:
    reply = host.ask({"type": "hello", "id": "h", "protocol": [1], "client": "conformance"})
    expect(reply.keys() >= WELCOME, reply)
    equal((reply["type"], reply["id"], reply["protocol"]), ("welcome", "h", 1))
    expect(reply["limits"].keys() >= LIMITS and HOOKS <= set(reply["hooks"]), reply)


def _hello_newer(host: MessageHost) -> None:
    equal(host.ask({"type": "hello", "protocol": [2, 1]})["protocol"], 1)
    equal(host.ask({"type": "hello", "protocol": [2, 3]})["code"], "UNSUPPORTED_PROTOCOL")


def _without_hello(host: MessageHost) -> None:
    equal(host.ask({"type": "ping", "id": 0}), {"type": "pong", "id": 0})


def _plugins(host: MessageHost) -> None:
    need_plugin(host)
    for message in ({"type": "plugins"}, {"type": "plugins", "userId": USER}):
        reply = host.ask(message)
        row = next(row for row in reply["plugins"] if row["id"] == PLUGIN)
        equal((reply["type"], row["version"], row["state"], len(row["hooks"])), ("plugins", "1.0.0", "enabled", 4))


def _hook(hook: str, payload: Message, wanted: Any) -> Try:
    def try_it(host: MessageHost) -> None:
        reply = result(host, {"type": "invoke", "id": "x", "plugin": PLUGIN, "action": hook, "userId": USER,
                              "payload": payload})
        equal((reply["id"], reply["plugin"], reply["action"], reply["effects"]), ("x", PLUGIN, hook, []))
        equal(reply["result"], wanted)
        expect(reply["usage"].keys() >= USAGE, reply["usage"])

    return try_it


def _effects(host: MessageHost) -> None:
    equal(result(host, invoke("effects"))["effects"],
          [{"kind": "render", "component": "Conformance", "props": {"n": 1}},
           {"kind": "emit", "event": f"{PLUGIN}/done", "payload": {"n": 2}}])


def _dispatch(hook: str, payload: Message, check: Callable[[Message], object]) -> Try:
    def try_it(host: MessageHost) -> None:
        need_plugin(host)
        reply = host.ask({"type": "dispatch", "action": hook, "userId": USER, "payload": payload}, 30)
        expect(reply["type"] == "dispatched" and reply["action"] == hook, reply)
        outcome = next(one for one in reply["outcomes"] if one["plugin"] == PLUGIN)
        expect(outcome["ok"] is True and {"effects", "usage"} <= outcome.keys(), outcome)
        expect(check(reply), reply)

    return try_it


def _dispatch_broken(host: MessageHost) -> None:
    need_plugin(host, BROKEN)
    reply = host.ask({"type": "dispatch", "action": "onDataFetch", "userId": USER,
                      "payload": {"query": "q", "filters": {}}}, 30)
    failed = [one for one in reply["outcomes"] if not one["ok"]]
    expect(reply["partial"] is True and BROKEN in {one["plugin"] for one in failed}, reply)
    expect(all({"code", "message"} <= one["error"].keys() for one in failed), failed)


def _dispatch_to_nobody(host: MessageHost) -> None:
    reply = host.ask({"type": "dispatch", "action": "onConformanceNobody", "userId": USER})
    expect(reply["type"] in ("dispatched", "error"), reply)
    if reply["type"] == "dispatched":
        equal((reply["result"], reply["outcomes"], reply["partial"]), (None, [], False))


def _cancel_nothing(host: MessageHost) -> None:
    equal(host.ask({"type": "cancel", "id": 1, "target": "nobody"}),
          {"type": "cancelled", "id": 1, "target": "nobody", "found": False})


def _cancel(host: MessageHost) -> None:
    need_plugin(host)
    host.send({"id": "long", **invoke("sleep", {"seconds": 4})})
    host.send({"type": "cancel", "id": "c", "target": "long"})
    replies = {reply["id"]: reply for reply in (host.receive(5), host.receive(5))}
    equal(replies["c"], {"type": "cancelled", "id": "c", "target": "long", "found": True})
    equal((replies["long"]["code"], replies["long"]["retryable"]), ("CANCELLED", False))


def _cancel_of_another(host: MessageHost) -> None:
    need_plugin(host)
    host.send({"id": "mine", **invoke("sleep", {"seconds": 0.5})})
    with host.another() as other:
        equal(other.ask({"type": "cancel", "target": "mine"})["found"], False)
    equal(host.receive(10)["type"], "result")


def _host_call(host: MessageHost) -> None:
    need_plugin(host)
    with host.another() as provider:
        provided = provider.ask({"type": "provide", "methods": [METHOD]})
        equal((provided["type"], METHOD in provided["methods"]), ("provided", True))
        host.send({"id": 1, **invoke("call", {"method": METHOD, "params": {"page": 1}})})
        if not host.says_nothing(0) or not _is_asked(provider, host):
            raise NotTried("the daemon does not let the plugin conformance call admin.users.*: see its README")
        call = provider.receive()
        equal({key: call[key] for key in ("type", "method", "params", "plugin", "userId")}, {
            "type": "hostCall", "method": METHOD, "params": {"page": 1}, "plugin": PLUGIN, "userId": USER})
        expect(isinstance(call["callId"], int) and call["deadlineMs"] >= 1, call)
        with host.another() as stranger:  # only the connection that was asked may answer
            stranger.send({"type": "hostReply", "callId": call["callId"], "ok": True, "result": "stranger"})
            equal(stranger.ask({"type": "ping", "id": 9})["type"], "pong")
        provider.send({"type": "hostReply", "callId": call["callId"], "ok": True, "result": {"users": [1]}})
        equal(host.receive()["result"]["result"], {"users": [1]})
        host.send({"id": 2, **invoke("call", {"method": METHOD, "params": {}})})
        call = provider.receive()
        provider.send({"type": "hostReply", "callId": call["callId"], "ok": False,
                       "error": {"code": "no_such_user", "message": "there is none"}})
        reply = host.receive()
        expect(reply["code"] == "PLUGIN_ERROR" and reply["started"], reply)


def _is_asked(provider: MessageHost, host: MessageHost) -> bool:
    """Whether the call comes to its provider, and not an error to the host that made it."""
    for _ in range(100):
        if not provider.says_nothing(0.1):
            return True
        if not host.says_nothing(0):
            return False
    return False


def _provide_by_req(host: MessageHost) -> None:
    host.send({"type": "provide", "id": 1, "methods": [METHOD]}, [b""])
    equal(host.receive()["code"], "PROTOCOL_ERROR")


def _host_reply_to_nothing(host: MessageHost) -> None:
    host.send({"type": "hostReply", "callId": 2**40, "ok": True, "result": 1})
    equal(host.ask({"type": "ping", "id": 1}), {"type": "pong", "id": 1})


# ------------------------------------------------------------------ ids
def _id(id_: Any) -> Try:
    def try_it(host: MessageHost) -> None:
        equal(host.ask({"type": "ping", "id": id_}), {"type": "pong", "id": id_})

    return try_it


def _bad_id(id_: Any) -> Try:
    def try_it(host: MessageHost) -> None:
        reply = host.ask({"type": "ping", "id": id_})
        equal((reply["type"], reply["id"], reply["code"]), ("error", None, "PROTOCOL_ERROR"))

    return try_it


def _no_id(host: MessageHost) -> None:
    host.send({"type": "ping"})
    reply = host.receive()
    equal((reply["id"], reply["code"]), (None, "PROTOCOL_ERROR"))


def _ids_are_the_connections_own(host: MessageHost) -> None:
    need_plugin(host)
    with host.another() as other:
        host.send({"id": 1, **invoke("echo", {"from": "host"})})
        other.send({"id": 1, **invoke("echo", {"from": "other"})})
        equal(host.receive(30)["result"]["result"], {"from": "host"})
        equal(other.receive(30)["result"]["result"], {"from": "other"})


def _exactly_one_reply(host: MessageHost) -> None:
    need_plugin(host)
    users = [f"{n:08x}-2222-4333-8444-555555555555" for n in range(40)]
    for n in range(200):
        host.send({"id": n, **invoke("echo", {"n": n}), "userId": users[n % 40]})
    seen = {}
    for _ in range(200):
        reply = host.receive(60)
        expect(reply["id"] not in seen, reply)
        seen[reply["id"]] = reply["result"]["result"]["n"]
    equal(seen, {n: n for n in range(200)})
    expect(host.says_nothing(0.3), "a second reply")


def _order(host: MessageHost) -> None:
    need_plugin(host)
    for n in range(50):
        host.send({"id": n, **invoke("echo", {"n": n})})
    equal([host.receive(30)["id"] for _ in range(50)], list(range(50)))


# ------------------------------------------------------------------ values
def _through(value: Any, type_: str) -> Try:
    """The plugin sees ``value`` as Python's ``type_``, and it comes back unchanged."""
    def try_it(host: MessageHost) -> None:
        equal(result(host, invoke("types", {"v": value}))["result"]["result"], {"v": type_})
        back = result(host, invoke("echo", {"v": value}))["result"]["result"]["v"]
        equal(back, value)
        equal(type(back).__name__, type(value).__name__)

    return try_it


def _not_back(value: Any) -> Try:
    """The plugin gets ``value``, and may not return it."""
    def try_it(host: MessageHost) -> None:
        need_plugin(host)
        reply = host.ask(invoke("echo", {"v": value}), 30)
        equal((reply.get("code"), reply.get("started")), ("INVALID_OUTPUT", True))
        expect(reply["details"]["path"], reply)

    return try_it


def _wrong_output(what: str) -> Try:
    def try_it(host: MessageHost) -> None:
        need_plugin(host)
        equal(host.ask(invoke("wrong", {"what": what}), 30).get("code"), "INVALID_OUTPUT")

    return try_it


def _loose_envelope(host: MessageHost) -> None:
    reply = result(host, {**invoke("echo", {"a": 1}), "id": 5.0, "deadlineMs": 4000.0, "traceparent": None,
                          "unknown": {"x": [1]}, "userId": USER.upper()})
    equal((reply["id"], reply["result"]["metadata"]["user"]), (5, USER))


def _user_of_the_payload(host: MessageHost) -> None:
    reply = result(host, {"type": "invoke", "plugin": PLUGIN, "action": "onDashboardLoad", "userId": USER,
                          "payload": {"dashboardId": "d", "more": [1]}})
    equal(reply["result"]["customWidgets"][0]["props"], {"dashboardId": "d", "userId": USER, "more": [1]})


def _empty_list_as_map(host: MessageHost) -> None:
    equal(result(host, invoke("echo", []))["result"]["result"], {})


def _depth(levels: int, code: str | None) -> Try:
    def try_it(host: MessageHost) -> None:
        need_plugin(host)
        context: Any = 0
        for _ in range(levels - 2):  # the envelope and its payload are two of them
            context = {"a": context}
        reply = host.ask({**invoke(), "payload": {"action": "types", "context": context}}, 30)
        equal(reply.get("code"), code)

    return try_it


def _containers(host: MessageHost) -> None:
    reply = host.ask(msgspec.msgpack.encode({"type": "ping", "id": 1, "x": [[]] * 66_000}))
    equal(reply["code"], "PAYLOAD_TOO_LARGE")


MOMENT = datetime(2026, 1, 31, 12, 0, 0, 123_000, tzinfo=UTC)
CASES: list[Case[MessageHost]] = [
    Case("messages/hello", "hello is answered by welcome with version, level, hooks and limits.", _hello),
    Case("messages/hello-newer", "hello without version 1 is UNSUPPORTED_PROTOCOL.", _hello_newer),
    Case("messages/without-hello", "A host may begin with any request.", _without_hello),
    Case("messages/plugins", "plugins lists the enabled ones, for a user too.", _plugins),
    Case("messages/dashboard", "onDashboardLoad gives customWidgets; the user is filled in.", _hook(
        "onDashboardLoad", {"dashboardId": "d"}, {"customWidgets": [
            {"id": "w", "component": "Conformance", "props": {"dashboardId": "d", "userId": USER}}]})),
    Case("messages/data", "onDataFetch gives transformedData.", _hook(
        "onDataFetch", {"query": "q", "filters": {}, "data": [1]},
        {"transformedData": {"query": "q", "data": [1], "by": PLUGIN}})),
    Case("messages/action", "onActionExecute gives result and metadata.", _hook(
        "onActionExecute", {"action": "echo", "context": {"n": 1}}, {"result": {"n": 1}, "metadata": {"user": USER}})),
    Case("messages/auth", "onAuthSuccess gives null.", _hook("onAuthSuccess", {"sessionId": "s"}, None)),
    Case("messages/effects", "Effects come with their result, in order, events under their plugin's name.", _effects),
    Case("messages/dispatch-dashboard", "Widgets of a dispatch have their plugin's id before their own.", _dispatch(
        "onDashboardLoad", {"dashboardId": "d"},
        lambda reply: f"{PLUGIN}/w" in [widget["id"] for widget in reply["result"]["customWidgets"]])),
    Case("messages/dispatch-data", "A dispatch of onDataFetch gives the last good data.", _dispatch(
        "onDataFetch", {"query": "q", "filters": {}}, lambda reply: "transformedData" in reply["result"])),
    Case("messages/dispatch-action", "A dispatch of onActionExecute gives the first result that is not null.",
         _dispatch("onActionExecute", {"action": "echo", "context": {"n": 1}},
                   lambda reply: reply["result"]["result"] == {"n": 1})),
    Case("messages/dispatch-auth", "A dispatch of onAuthSuccess gives null.", _dispatch(
        "onAuthSuccess", {"sessionId": "s"}, lambda reply: reply["result"] is None)),
    Case("messages/dispatch-partial", "A plugin that fails is an outcome, and fails no dispatch.", _dispatch_broken),
    Case("messages/dispatch-nobody", "A dispatch that nobody declares has no outcomes.", _dispatch_to_nobody),
    Case("messages/cancel", "cancel ends a pending request, whose own reply is CANCELLED.", _cancel),
    Case("messages/cancel-nothing", "cancel says that it found nothing.", _cancel_nothing),
    Case("messages/cancel-of-another", "cancel reaches the requests of its own connection only.", _cancel_of_another),
    Case("messages/host-call", "A provided method is called, and only its provider may answer.", _host_call),
    Case("messages/provide-by-req", "provide with a frame before its body is a PROTOCOL_ERROR.", _provide_by_req),
    Case("messages/host-reply-to-nothing", "A hostReply to no call is ignored.", _host_reply_to_nothing),
    *(Case(f"ids/{name}", "An id is an integer in [0, 2^63) or a string of 1 to 64 characters.", _id(value))
      for name, value in (("zero", 0), ("largest", 2**63 - 1), ("string", "a"), ("string-64", "é" * 64))),
    *(Case(f"ids/bad-{name}", "Another id is a PROTOCOL_ERROR without one.", _bad_id(value))
      for name, value in (("negative", -1), ("large", 2**63), ("fraction", 1.5), ("empty", ""), ("string-65", "x" * 65),
                          ("null", None), ("list", [1]), ("bool", True))),
    Case("ids/missing", "A request without an id is a PROTOCOL_ERROR.", _no_id),
    Case("ids/own", "Ids are the connection's own.", _ids_are_the_connections_own),
    Case("ids/one-reply", "Each of 200 requests in flight gets exactly one reply, and its own.", _exactly_one_reply),
    Case("ids/order", "A user's calls of one plugin are answered in their order.", _order),
    *(Case(f"values/{name}", "Values reach the plugin and come back as they are.", _through(value, type_))
      for name, value, type_ in (
          ("text", "é😀\0", "str"), ("largest", INT_MAX, "int"), ("smallest", -INT_MAX, "int"), ("float", 1.5, "float"),
          ("bin", b"\x00\xff", "bytes"), ("null", None, "NoneType"), ("bool", True, "bool"),
          ("timestamp", MOMENT, "datetime"), ("list", [1, [None, {}]], "list"))),
    *(Case(f"values/not-back-{name}", "What a JavaScript host cannot read is INVALID_OUTPUT with its path.",
           _not_back(value)) for name, value in (("large", 2**53), ("nan", math.nan), ("infinity", -math.inf))),
    *(Case(f"values/wrong-{what.replace(' ', '-')}", "A result that is not a value of the protocol is INVALID_OUTPUT.",
           _wrong_output(what)) for what in ("large int", "nan", "set", "proto", "key")),
    Case("values/envelope", "nil is absent, 5.0 is 5, unknown keys are ignored, userId is lower-cased.",
         _loose_envelope),
    Case("values/payload", "Extra keys of a payload reach the plugin, with the user.", _user_of_the_payload),
    Case("values/empty-list", "An empty list where a map is due is an empty map.", _empty_list_as_map),
    Case("values/depth-64", "A body may nest 64 levels deep.", _depth(64, None)),
    Case("values/depth-65", "One that nests deeper is PAYLOAD_TOO_LARGE.", _depth(65, "PAYLOAD_TOO_LARGE")),
    Case("values/containers", "A body with more than 65,536 lists and maps is PAYLOAD_TOO_LARGE.", _containers),
]
