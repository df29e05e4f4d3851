"""What a host has to do: the requests that it sends, how it takes replies, what it makes of a daemon that is gone."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from apex_exec.conformance.cases import Case, equal, expect
from apex_exec.conformance.host_under_test import HostUnderTest
from apex_exec.conformance.peers import SECONDS, Asked, Message, message_bytes
from apex_exec.errors import Code, is_retryable
from workers.zmtp import LONG, command

Try = Callable[[HostUnderTest], None]
USER = "11111111-2222-4333-8444-555555555555"
METHOD = "admin.users.conformance"
GRACE_MS = 500
INT_MAX = 2**53 - 1
LIMITS = {"timeoutMs": 5000, "memoryMb": 50, "cpuPercent": 10, "networkPerMinute": 100, "maxMessageBytes": 1_048_576}
VALUES = {"text": "é😀", "bin": b"\x00\xff", "time": datetime(2026, 1, 31, 12, 0, 0, 123_000, tzinfo=UTC),
          "largest": INT_MAX, "smallest": -INT_MAX, "float": 1.5, "null": None, "bool": True, "list": [1, [None, {}]]}


def invoke(payload: Any = None, **more: Any) -> Message:
    """The operation that calls one hook."""
    return {"op": "invoke", "plugin": "p", "action": "onActionExecute", "userId": USER, "deadlineMs": 3000,
            "payload": {"action": "a", "context": {}} if payload is None else payload, **more}


def result(asked: Asked, value: Any, **more: Any) -> Message:
    """The reply to a call."""
    return {"type": "result", "id": asked.message["id"], "plugin": "p", "action": "onActionExecute",
            "result": value, "effects": [], "usage": {}, **more}


def welcome(**limits: int) -> Message:
    """The fields of a welcome."""
    return {"type": "welcome", "protocol": 1, "server": "apex-exec/conformance", "apiVersion": "1.0", "isolation": "L4",
            "waived": [], "hooks": [], "limits": {**LIMITS, **limits}}


def check_id(id_: Any) -> None:
    """Raises NotKept unless this may be an id."""
    expect((isinstance(id_, int) and not isinstance(id_, bool) and 0 <= id_ < 2**63)
           or (isinstance(id_, str) and 1 <= len(id_) <= 64), id_)


def answered(host: HostUnderTest, value: Any = "fine") -> None:
    """One whole call: the host works."""
    host.tell(invoke())
    asked = host.daemon.next("invoke")
    asked.connection.send(result(asked, value))
    equal(host.outcome()["reply"]["result"], value)


# ------------------------------------------------------------------ requests
def _request(operation: Message, reply: Message, wanted: Message) -> Try:
    """The message has the fields ``wanted`` and a good id; the host gets the fields of ``reply`` that it reads."""
    def try_it(host: HostUnderTest) -> None:
        host.tell(operation)
        asked = host.daemon.next(operation["op"])
        check_id(asked.message["id"])
        expect(asked.frames in ([], [b""]), asked.frames)
        equal({key: asked.message.get(key) for key in wanted}, wanted)
        asked.answer(**reply)
        said = host.outcome()
        expect("reply" in said, said)

    return try_it


def _hello(host: HostUnderTest) -> None:
    host.tell({"op": "hello"})
    asked = host.daemon.next("hello")
    check_id(asked.message["id"])
    expect(1 in asked.message["protocol"], asked.message)
    asked.answer(**welcome())
    equal(host.outcome()["reply"]["limits"]["maxMessageBytes"], 1_048_576)


def _ids(host: HostUnderTest) -> None:
    host.tell(*(invoke({"action": "a", "context": {"n": n}}) for n in range(50)))
    asked = [host.daemon.next("invoke") for _ in range(50)]
    ids = [one.message["id"] for one in asked]
    for id_ in ids:
        check_id(id_)
    equal(len(set(ids)), 50)
    for one in reversed(asked):
        one.connection.send(result(one, one.message["payload"]["context"]["n"]))
    equal([said["reply"]["result"] for said in host.outcomes()], list(range(50)))


def _values_out(host: HostUnderTest) -> None:
    host.tell(invoke({"action": "a", "context": VALUES}))
    asked = host.daemon.next("invoke")
    equal(asked.message["payload"]["context"], VALUES)
    asked.connection.send(result(asked, None))
    host.outcome()


def _values_in(host: HostUnderTest) -> None:
    value = {**VALUES, "constructor": 1, "": 2, "toString": 3}
    host.tell(invoke())
    asked = host.daemon.next("invoke")
    asked.connection.send(result(asked, value, effects=[{"kind": "emit", "event": "p/e", "payload": {}}],
                                 usage={"cold": True}))
    reply = host.outcome()["reply"]
    equal(reply["result"], value)
    equal((reply["effects"], reply["usage"]), ([{"kind": "emit", "event": "p/e", "payload": {}}], {"cold": True}))


# ------------------------------------------------------------------ replies
def _error(code: str, started: bool, retryable: bool) -> Try:
    def try_it(host: HostUnderTest) -> None:
        host.tell(invoke())
        asked = host.daemon.next("invoke")
        asked.answer(type="error", code=code, message="as a daemon says it", started=started, retryable=retryable,
                     details={"reason": "x"}, unknown=[1])
        said = host.outcome()["error"]
        equal((said["code"], said["started"], said["retryable"]), (code, started, retryable))

    return try_it


def _wrong_answer(reply: Message) -> Try:
    def try_it(host: HostUnderTest) -> None:
        host.tell(invoke())
        host.daemon.next("invoke").answer(**reply)
        said = host.outcome()["error"]
        equal((said["code"], said["started"], said["retryable"]), ("PROTOCOL_ERROR", True, False))
        answered(host)

    return try_it


def _undecodable(end: bytes) -> Try:
    """A reply that begins with its id and cannot be read fails its call, and the call beside it has its answer."""
    def try_it(host: HostUnderTest) -> None:
        host.tell(invoke(), invoke())
        spoiled, whole = host.daemon.next("invoke"), host.daemon.next("invoke")
        spoiled.connection.send(b"\x83\xa4type\xa6result\xa2id" + msgspec.msgpack.encode(spoiled.message["id"])
                                + b"\xa6result" + end)
        whole.connection.send(result(whole, "whole"))
        said = host.outcomes()
        expect(said[0].get("error", {}).get("code") == "PROTOCOL_ERROR" or "reply" in said[0], said)
        equal(said[1]["reply"]["result"], "whole")

    return try_it


def _junk(host: HostUnderTest) -> None:
    host.tell(invoke())
    asked = host.daemon.next("invoke")
    for body in JUNK:
        asked.connection.send(body)
    asked.connection.send({"type": "error", "id": "nobody", "code": "INTERNAL", "message": "m", "started": False,
                           "retryable": True})
    asked.connection.send({"type": "result", "id": 2**60, "result": 1})
    asked.connection.send(result(asked, "mine"))
    equal(host.outcome()["reply"]["result"], "mine")


def _in_pieces(host: HostUnderTest) -> None:
    host.tell(invoke())
    asked = host.daemon.next("invoke")
    for byte in message_bytes(msgspec.msgpack.encode(result(asked, "x" * 300))):
        asked.connection.send_raw(bytes((byte,)))
    equal(host.outcome()["reply"]["result"], "x" * 300)


def _in_one_write(host: HostUnderTest) -> None:
    host.tell(*(invoke() for _ in range(20)))
    asked = [host.daemon.next("invoke") for _ in range(20)]
    asked[0].connection.send_raw(b"".join(message_bytes(msgspec.msgpack.encode(result(one, n)))
                                          for n, one in enumerate(asked)))
    equal([said["reply"]["result"] for said in host.outcomes()], list(range(20)))


def _size(size: int) -> Try:
    def try_it(host: HostUnderTest) -> None:
        host.tell(invoke())
        asked = host.daemon.next("invoke")
        asked.connection.send(result(asked, "x" * size))
        equal(len(host.outcome()["reply"]["result"]), size)

    return try_it


def _long_form(host: HostUnderTest) -> None:
    host.tell(invoke())
    asked = host.daemon.next("invoke")
    body = msgspec.msgpack.encode(result(asked, 1))
    asked.connection.send_raw(bytes((LONG,)) + len(body).to_bytes(8, "big") + body)
    equal(host.outcome()["reply"]["result"], 1)


def _empty_frame_before(host: HostUnderTest) -> None:
    host.tell(invoke())
    asked = host.daemon.next("invoke")
    asked.connection.send_raw(message_bytes(msgspec.msgpack.encode(result(asked, 1)), [b""]))
    equal(host.outcome()["reply"]["result"], 1)


def _pong(host: HostUnderTest) -> None:
    answered(host)
    connection = host.daemon.connections[-1]
    connection.send_raw(command(b"PING", b"\x00\x0acontext"))
    expect(host.daemon.work(lambda: bool(connection.session.pongs), SECONDS), "no PONG")
    equal(connection.session.pongs.pop(), b"context")


# ------------------------------------------------------------------ a daemon that is gone
def _comes_again(host: HostUnderTest) -> None:
    """A daemon is there again: the next call, and nothing before it, reaches it and is answered."""
    host.daemon.listen()
    host.tell(invoke({"action": "next", "context": {}}))
    asked = host.daemon.next("invoke")
    equal(asked.message["payload"]["action"], "next")
    asked.connection.send(result(asked, 1))
    expect("reply" in host.outcome(), "no reply after the reconnect")


def _lost(host: HostUnderTest) -> None:
    host.tell(invoke(deadlineMs=20_000))
    host.daemon.next("invoke")
    host.daemon.end()
    begun = time.monotonic()
    said = host.outcome()["error"]
    expect(time.monotonic() - begun < 3, "the call was not settled when its connection ended")
    equal((said["code"], said["executed"], said["retryable"]), ("CONNECTION_LOST", None, False))
    _comes_again(host)  # what was lost is not sent again


def _never_sent(host: HostUnderTest) -> None:
    answered(host)
    host.daemon.end()
    time.sleep(0.3)  # it hears of the end
    begun = time.monotonic()
    host.tell(invoke(deadlineMs=300))
    said = host.outcome()["error"]
    equal((said["code"], said["executed"], said["retryable"]), ("CONNECTION_LOST", False, True))
    expect(time.monotonic() - begun < (300 + GRACE_MS) / 1000 + 3, "it took longer than deadline + 500 ms")
    _comes_again(host)  # nothing was kept for a daemon that was not there


def _no_answer(host: HostUnderTest) -> None:
    host.tell(invoke(deadlineMs=300))
    asked = host.daemon.next("invoke")
    begun = time.monotonic()
    said = host.outcome()["error"]
    equal((said["code"], said["executed"]), ("CONNECTION_LOST", None))
    expect(0.3 <= time.monotonic() - begun < 4, f"after {time.monotonic() - begun:.1f} s")
    cancel = host.daemon.next("cancel")
    equal(cancel.message["target"], asked.message["id"])
    asked.connection.send(result(asked, "late"))
    answered(host)


def _abort(host: HostUnderTest) -> None:
    host.tell(invoke(abortAfterMs=200))
    asked = host.daemon.next("invoke")
    cancel = host.daemon.next("cancel")
    check_id(cancel.message["id"])
    equal(cancel.message["target"], asked.message["id"])
    cancel.answer(type="cancelled", target=cancel.message["target"], found=True)
    asked.answer(type="error", code="CANCELLED", message="m", started=True, retryable=False)
    said = host.outcome()["error"]
    equal((said["code"], said["retryable"]), ("CANCELLED", False))
    answered(host)


def _too_large(host: HostUnderTest) -> None:
    host.tell(invoke({"action": "a", "context": {"x": "x" * 1_048_576}}))
    said = host.outcome()["error"]
    equal((said["code"], said["started"]), ("PAYLOAD_TOO_LARGE", False))
    answered(host)


def _smaller_limit(host: HostUnderTest) -> None:
    host.tell({"op": "hello"})
    host.daemon.next("hello").answer(**welcome(maxMessageBytes=2000))
    host.outcome()
    host.tell(invoke({"action": "a", "context": {"x": "x" * 3000}}))
    equal(host.outcome()["error"]["code"], "PAYLOAD_TOO_LARGE")
    _hello(host)


# ------------------------------------------------------------------ host methods
def _provide(host: HostUnderTest) -> None:
    host.tell({"op": "provide", "methods": [METHOD]})
    asked = host.daemon.next("provide")
    equal((asked.message["methods"], asked.frames), ([METHOD], []))
    asked.answer(type="provided", methods=[METHOD], standby=[])
    expect("reply" in host.outcome(), "provide has failed")


def _called(host: HostUnderTest, method: str, params: Message, call_id: int) -> Message:
    host.tell({"op": "wait", "ms": 500})
    host.daemon.work(lambda: bool(host.daemon.connections), SECONDS)
    host.daemon.connections[-1].send({"type": "hostCall", "callId": call_id, "method": method, "params": params,
                                      "plugin": "p", "userId": USER, "deadlineMs": 2000})
    reply = host.daemon.next("hostReply").message
    equal(reply["callId"], call_id)
    host.outcome()
    return reply


def _host_call(host: HostUnderTest) -> None:
    _provide(host)
    reply = _called(host, METHOD, {"page": 1, "bin": b"\x00"}, 2**40)
    equal((reply["ok"], reply["result"]), (True, {"page": 1, "bin": b"\x00"}))


def _host_call_fails(host: HostUnderTest) -> None:
    _provide(host)
    reply = _called(host, METHOD, {"fail": "no_such_user"}, 5)
    equal((reply["ok"], reply["error"]["code"]), (False, "no_such_user"))


def _host_call_bug(host: HostUnderTest) -> None:
    _provide(host)
    reply = _called(host, METHOD, {"bug": "a secret of the host"}, 6)
    expect(reply["ok"] is False and isinstance(reply["error"]["code"], str), reply)
    expect("a secret of the host" not in reply["error"]["message"], reply)


def _host_call_unknown(host: HostUnderTest) -> None:
    _provide(host)
    expect(_called(host, "admin.users.never", {}, 7)["ok"] is False, "it claims to have served another method")


def _provides_again(host: HostUnderTest) -> None:
    _provide(host)
    host.daemon.end()
    host.daemon.listen()
    host.tell({"op": "wait", "ms": 2500})
    asked = host.daemon.next("provide")
    equal(asked.message["methods"], [METHOD])
    asked.answer(type="provided", methods=[METHOD], standby=[])
    host.outcome()


JUNK = (b"", b"\xc1", b"\x92\x01\x02", b"\xc0", b"\x81", b"\xdf\xff\xff\xff\xff", b"\x81\xa2id\x91\x01",
        b"\x82\xa4type\xa5error\xa2id\x81\x01\x02", b"\x81\xa4type\xa8hostCall", b"\x91" * 5000)
"""No messages, or messages to nobody."""
WRONG_ANSWERS: list[Message] = [
    {"type": "pong"}, {"type": "result"}, {"type": "cancelled", "target": 1, "found": True}, {"type": 5}]
ENDS = {"reserved": b"\xc1", "cut": b"\xa3ab", "not-utf-8": b"\xa1\xff", "proto": b"\x81\xa9__proto__\x81\xa5admin\xc3",
        "timestamp": b"\xd7\xff" + b"\xff" * 8, "deep": b"\x91" * 200 + b"\xc0", "list-as-key": b"\x81\x91\x01\x02",
        "nothing": b"", "long-list": b"\xdd\xff\xff\xff\xff"}
_DASHBOARD = {"dashboardId": "d"}
CASES: list[Case[HostUnderTest]] = [
    Case("requests/hello", "hello names version 1, and its limits are read.", _hello),
    Case("requests/ping", "ping has an id and nothing else that counts.",
         _request({"op": "ping"}, {"type": "pong"}, {"type": "ping"})),
    Case("requests/plugins", "plugins names a user or none.", _request(
        {"op": "plugins", "userId": USER}, {"type": "plugins", "plugins": []}, {"type": "plugins", "userId": USER})),
    Case("requests/invoke", "invoke has plugin, action, userId, payload and the deadline.", _request(
        {"op": "invoke", "plugin": "p", "action": "onDashboardLoad", "userId": USER, "payload": _DASHBOARD,
         "deadlineMs": 900},
        {"type": "result", "plugin": "p", "action": "onDashboardLoad", "result": {}, "effects": [], "usage": {}},
        {"plugin": "p", "action": "onDashboardLoad", "userId": USER, "payload": _DASHBOARD, "deadlineMs": 900})),
    Case("requests/dispatch", "dispatch has the same without a plugin.", _request(
        {"op": "dispatch", "action": "onDashboardLoad", "userId": USER, "payload": _DASHBOARD, "deadlineMs": 900},
        {"type": "dispatched", "action": "onDashboardLoad", "result": None, "outcomes": [], "partial": False},
        {"plugin": None, "action": "onDashboardLoad", "userId": USER, "payload": _DASHBOARD, "deadlineMs": 900})),
    Case("requests/ids", "Ids of pending requests differ, and replies in any order find their calls.", _ids),
    Case("requests/values", "Values leave as what they are.", _values_out),
    Case("requests/too-large", "A request over the limit is refused before anything is sent.", _too_large),
    Case("requests/smaller-limit", "The limit is that of the daemon's welcome.", _smaller_limit),
    Case("replies/values", "Values, effects and usage arrive as what they are.", _values_in),
    *(Case(f"replies/error-{code.lower()}{'-started' if started else ''}",
           "An error keeps its code, started and retryable.", _error(code, started, is_retryable(code, started)))
      for code in Code for started in (False, True)),
    Case("replies/error-unknown", "A code that a newer daemon sends is an error all the same.",
         _error("FROM_THE_FUTURE", False, True)),
    *(Case(f"replies/wrong-answer-{n}", "An answer to something else is a PROTOCOL_ERROR that may have run.",
           _wrong_answer(reply)) for n, reply in enumerate(WRONG_ANSWERS)),
    *(Case(f"replies/undecodable-{name}", "A reply that cannot be read fails its own call, and no other.",
           _undecodable(end)) for name, end in ENDS.items()),
    Case("replies/junk", "Bytes that are not a message, and replies to nothing, disturb nothing.", _junk),
    Case("replies/in-pieces", "A reply may arrive byte by byte.", _in_pieces),
    Case("replies/in-one-write", "Many replies may arrive in one read.", _in_one_write),
    *(Case(f"replies/size-{size}", "A reply may have a megabyte and more.", _size(size))
      for size in (0, 180, 255, 256, 65_536, 3_000_000)),
    Case("replies/long-form", "A short frame may be written with a long length.", _long_form),
    Case("replies/empty-frame", "The body is the last frame.", _empty_frame_before),
    Case("connection/pong", "A PING is answered with a PONG that has its context.", _pong),
    Case("connection/lost", "A call whose connection ends is lost at once, its outcome unknown, and not sent again.",
         _lost),
    Case("connection/never-sent", "A call that never left says so, and is not sent later.", _never_sent),
    Case("connection/no-answer", "Without an answer a call ends at deadline + 500 ms and is cancelled.", _no_answer),
    Case("connection/abort", "An abort sends cancel for its own call.", _abort),
    Case("methods/call", "A host call is answered once, by its callId.", _host_call),
    Case("methods/fails", "A method that fails with a code says so.", _host_call_fails),
    Case("methods/bug", "A method with a fault is answered, without its words.", _host_call_bug),
    Case("methods/unknown", "A call of a method that is not provided is refused.", _host_call_unknown),
    Case("methods/again", "After a reconnect the methods are provided again.", _provides_again),
]
