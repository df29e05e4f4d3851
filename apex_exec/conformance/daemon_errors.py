"""The error codes: how a host can cause each, and why some cannot be tried from outside."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from apex_exec.conformance.cases import Case, NotTried, equal, expect
from apex_exec.conformance.daemon_messages import BROKEN, METHOD, OTHER, PLUGIN, USER, invoke, need_plugin
from apex_exec.conformance.peers import Message, MessageHost
from apex_exec.errors import Code, is_retryable

Try = Callable[[MessageHost], None]
UNTRIED: dict[Code, str] = {
    Code.PLUGIN_DISABLED: "an operator has to disable a plugin",
    Code.CPU_LIMIT: "a worker has to use an hour of CPU time",
    Code.WORKER_VIOLATION: "a worker has to break the inner protocol",
    Code.AUDIT_UNAVAILABLE: "the ledger's disk has to be full",
    Code.NOT_FOUND: "an operation of the admin endpoint answers it",
    Code.CONFLICT: "an operation of the admin endpoint answers it",
    Code.REFUSED: "an operation of the admin endpoint answers it",
    Code.FORBIDDEN: "it depends on the roles of this user",
    Code.SHUTTING_DOWN: "the daemon has to be ending",
    Code.NODE_LOST: "a node of a fleet has to be lost",
    Code.INTERNAL: "the daemon has to have a fault",
    Code.QUARANTINED: "the plugin would have to fail until its breaker opens, and stay closed to the cases after it",
}
"""Codes that no host can cause by what it sends, or should: each with its reason."""


def hold(reply: Message, code: str, started: bool) -> Message:
    """Raises NotKept unless ``reply`` is an error of this code, whole and in order. Returns it."""
    expect(reply["type"] == "error", reply)
    equal((reply["code"], reply["started"]), (code, started))
    equal(reply["retryable"], is_retryable(code, started))
    expect(isinstance(reply["message"], str) and "\n" not in reply["message"].rstrip("\n"), reply)
    return reply


def _refuses(code: Code, message: Message | bytes, *, started: bool = False, plugin: str = "", id_: Any = 1) -> Try:
    def try_it(host: MessageHost) -> None:
        if plugin:
            need_plugin(host, plugin)
        reply = host.ask(message if isinstance(message, bytes) else {"id": 1, **message}, 60)
        equal(hold(reply, code, started)["id"], id_)
        equal(host.ask({"type": "ping", "id": 2}), {"type": "pong", "id": 2})

    return try_it


def _refuses_in_plugin(code: Code, action: str, context: Message | None = None, **more: Any) -> Try:
    return _refuses(code, invoke(action, context, **more), started=True, plugin=PLUGIN)


def _duplicate(host: MessageHost) -> None:
    need_plugin(host)
    for _ in range(2):
        host.send({"id": "twice", **invoke("sleep", {"seconds": 0.3})})
    refused = hold(host.receive(), "DUPLICATE_ID", False)
    equal((refused["id"], refused["details"]["id"]), (None, "twice"))
    equal(host.receive(10)["type"], "result")
    equal(host.ask({"id": "twice", **invoke("echo")}, 10)["type"], "result")


def _path(host: MessageHost) -> None:
    need_plugin(host)
    reply = hold(host.ask({"type": "invoke", "plugin": PLUGIN, "action": "onDataFetch", "userId": USER,
                           "payload": {"query": 5, "filters": {}}}), "INVALID_INPUT", False)
    expect("query" in reply["details"]["path"], reply)


def _deadline(host: MessageHost) -> None:
    need_plugin(host)
    host.send({"id": "first", **invoke("sleep", {"seconds": 0.6})})
    hold(host.ask(invoke("echo", deadlineMs=100)), "DEADLINE_EXCEEDED", False)
    equal(host.receive(10)["id"], "first")


def _timeout(host: MessageHost) -> None:
    need_plugin(host)
    result = host.ask(invoke("echo"), 30)  # a worker is there: its start does not count below
    expect(result["type"] == "result", result)
    begun = time.monotonic()
    reply = hold(host.ask(invoke("sleep", {"seconds": 30}, deadlineMs=300), 10), "TIMEOUT", True)
    expect(time.monotonic() - begun < 5 and reply["usage"], reply)


def _overloaded(host: MessageHost) -> None:
    need_plugin(host)
    host.send({"id": "first", **invoke("sleep", {"seconds": 1.0})})
    total = 2000
    for n in range(total):
        host.send({"id": n, **invoke("echo")})
    codes = [host.receive(60) for _ in range(total + 1)]
    refused = [reply for reply in codes if reply["type"] == "error"]
    expect(refused, "all of 2,000 requests of one user were taken")
    for reply in refused:
        hold(reply, "OVERLOADED", False)
    expect(len(refused) < total, "none of them was taken")


def _crash(host: MessageHost) -> None:
    need_plugin(host)
    reply = hold(host.ask(invoke("exit"), 30), "WORKER_CRASHED", True)
    equal(reply["details"].get("exitCode"), 3)
    equal(host.ask(invoke("echo"), 30)["type"], "result")


def _plugin_error(host: MessageHost) -> None:
    need_plugin(host)
    reply = hold(host.ask(invoke("raise", {"nonce": "n7"}), 30), "PLUGIN_ERROR", True)
    equal(reply["details"]["exception"], "ValueError")
    expect("n7" in reply["message"] and "site-packages" not in reply["details"]["traceback"], reply)


def _not_provided(host: MessageHost) -> None:
    need_plugin(host)
    reply = host.ask(invoke("call", {"method": f"{METHOD}.never", "params": {}}), 30)
    if reply.get("code") == "PERMISSION_DENIED":
        raise NotTried("the daemon does not let the plugin conformance call admin.users.*: see its README")
    equal(hold(reply, "NOT_PROVIDED", True)["details"]["method"], "call")


def _permission(host: MessageHost) -> None:
    need_plugin(host)
    reply = host.ask(invoke("call", {"method": "admin.billing.pay", "params": {}}), 30)
    equal(hold(reply, "PERMISSION_DENIED", True)["details"]["method"], "call")


def _rate(host: MessageHost) -> None:
    need_plugin(host)
    reply = host.ask(invoke("fetch"), 30)
    if reply.get("code") == "PERMISSION_DENIED":
        raise NotTried("the daemon does not let the plugin conformance use the network: see its README")
    hold(reply, "RATE_LIMITED", True)


def _cancelled_in_queue(host: MessageHost) -> None:
    need_plugin(host)
    host.send({"id": "first", **invoke("sleep", {"seconds": 0.5})})
    host.send({"id": "second", **invoke("echo")})
    host.send({"type": "cancel", "id": "c", "target": "second"})
    replies = {reply["id"]: reply for reply in (host.receive(10) for _ in range(3))}
    expect(replies["second"]["code"] == "CANCELLED" and not replies["second"]["retryable"], replies["second"])
    equal((replies["first"]["type"], replies["c"]["found"]), ("result", True))


_INVOKE: Message = invoke()
CASES: list[Case[MessageHost]] = [
    *(Case(f"errors/protocol-{name}", "A body that cannot be decoded is a PROTOCOL_ERROR without an id.",
           _refuses(Code.PROTOCOL_ERROR, body, id_=None))
      for name, body in (("empty", b""), ("reserved", b"\xc1"), ("no-map", b"\x93\x01\x02\x03"), ("cut", b"\x81\xa4"),
                         ("text", b"GET / HTTP/1.1"))),
    Case("errors/unknown-type", "An unknown type is a PROTOCOL_ERROR with its id.",
         _refuses(Code.PROTOCOL_ERROR, {"type": "nonsense"})),
    Case("errors/duplicate-id", "An id that is pending is refused, and may be used again after its reply.", _duplicate),
    *(Case(f"errors/invalid-{name}", "What fails its schema is INVALID_INPUT, and nothing has run.",
           _refuses(Code.INVALID_INPUT, message, plugin=PLUGIN))
      for name, message in (
          ("null-payload", {**_INVOKE, "payload": None}), ("list-payload", {**_INVOKE, "payload": [1]}),
          ("no-user", {key: value for key, value in _INVOKE.items() if key != "userId"}),
          ("user", {**_INVOKE, "userId": "anna"}), ("deadline", {**_INVOKE, "deadlineMs": 0}),
          ("action", {**_INVOKE, "payload": {"action": "echo"}}),
          ("other-user", {**_INVOKE, "action": "onDashboardLoad", "payload": {"dashboardId": "d", "userId": OTHER}}))),
    Case("errors/path", "INVALID_INPUT names the place in details.path.", _path),
    Case("errors/not-found", "An unknown plugin is PLUGIN_NOT_FOUND.",
         _refuses(Code.PLUGIN_NOT_FOUND, {**_INVOKE, "plugin": "conformance-nobody"})),
    Case("errors/not-declared", "A hook that the plugin does not have is HOOK_NOT_DECLARED.",
         _refuses(Code.HOOK_NOT_DECLARED, {**_INVOKE, "plugin": BROKEN}, plugin=BROKEN)),
    Case("errors/unsupported", "hello without version 1 is UNSUPPORTED_PROTOCOL.",
         _refuses(Code.UNSUPPORTED_PROTOCOL, {"type": "hello", "protocol": [2]})),
    Case("errors/boot-failed", "A plugin that cannot be loaded is BOOT_FAILED.",
         _refuses(Code.BOOT_FAILED, {**_INVOKE, "plugin": BROKEN, "action": "onDataFetch",
                                     "payload": {"query": "q", "filters": {}}}, plugin=BROKEN)),
    Case("errors/plugin-error", "A hook that raises is PLUGIN_ERROR with exception and traceback.", _plugin_error),
    Case("errors/deadline", "A deadline that passes in the queue is DEADLINE_EXCEEDED: the hook never ran.", _deadline),
    Case("errors/timeout", "A hook that runs past its deadline is TIMEOUT.", _timeout),
    Case("errors/memory", "A hook that takes too much memory is MEMORY_LIMIT.",
         _refuses_in_plugin(Code.MEMORY_LIMIT, "hoard")),
    Case("errors/crash", "A worker that dies is WORKER_CRASHED, and the next call has another.", _crash),
    Case("errors/output", "A result that fails its hook's schema is INVALID_OUTPUT.",
         _refuses_in_plugin(Code.INVALID_OUTPUT, "wrong", {"what": "set"})),
    Case("errors/not-provided", "A host method that nobody provides is NOT_PROVIDED.", _not_provided),
    Case("errors/permission", "A call beyond the plugin's permissions is PERMISSION_DENIED.", _permission),
    Case("errors/rate", "A call over its rate is RATE_LIMITED.", _rate),
    Case("errors/cancelled-waiting", "A request that waits behind another is cancelled, and the other goes on.",
         _cancelled_in_queue),
    Case("errors/overloaded", "A full queue is OVERLOADED, at once.", _overloaded),
]
