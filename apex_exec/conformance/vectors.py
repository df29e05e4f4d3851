"""The protocol as bytes and what they mean, for people who write a client or a daemon in another language.

The bytes are made by the codecs that the daemon itself uses.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from apex_exec.conformance.daemon_transport import PLAIN, ZMTP_2
from apex_exec.conformance.peers import message_bytes, ready
from apex_exec.conformance.plain_values import to_json
from apex_exec.wire.zmtp_router import READY
from workers.zmtp import COMMAND, GREETING, LONG, MORE, command

USER = "11111111-2222-4333-8444-555555555555"
_USAGE = {"queueMs": 0.1, "executionTimeMs": 1.5, "cpuMs": 1.0, "memoryUsedMb": 12.5, "throttledMs": 0.0,
          "hostCpuMs": 0.0, "cold": False}
_CALL = {"plugin": "hello-world", "action": "onDashboardLoad", "userId": USER, "payload": {"dashboardId": "main"}}
REQUESTS: list[dict[str, Any]] = [
    {"type": "hello", "id": 1, "protocol": [1], "client": "vectors"}, {"type": "ping", "id": 2**63 - 1},
    {"type": "plugins", "id": "a"}, {"type": "plugins", "id": "é" * 64, "userId": USER},
    {"type": "invoke", "id": 4, **_CALL}, {"type": "invoke", "id": 5, **_CALL, "deadlineMs": 1000,
                                           "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
    {"type": "dispatch", "id": 6, "action": "onAuthSuccess", "userId": USER, "payload": {"sessionId": "s"}},
    {"type": "cancel", "id": 7, "target": 4}, {"type": "provide", "id": 8, "methods": ["admin.users.list"]},
    {"type": "hostReply", "callId": 1, "ok": True, "result": {"users": []}},
    {"type": "hostReply", "callId": 2, "ok": False, "error": {"code": "no_such_user", "message": "there is none"}}]
REPLIES: list[dict[str, Any]] = [
    {"type": "welcome", "id": 1, "protocol": 1, "server": "apex-exec/0.1.0", "apiVersion": "1.0", "isolation": "L4",
     "waived": [], "hooks": ["onDashboardLoad"], "limits": {"timeoutMs": 5000, "memoryMb": 50, "cpuPercent": 10,
                                                           "networkPerMinute": 100, "maxMessageBytes": 1_048_576}},
    {"type": "pong", "id": 2}, {"type": "plugins", "id": 3, "plugins": [
        {"id": "hello-world", "version": "1.0.0", "hooks": ["onDashboardLoad"], "state": "enabled"}]},
    {"type": "result", "id": 4, "plugin": "p", "action": "onActionExecute", "usage": _USAGE, "effects": [
        {"kind": "emit", "event": "p/done", "payload": {}}], "result": {"metadata": {}, "result": {
            "bin": b"\x00\xff", "time": datetime(2026, 1, 31, 12, 0, 0, 123_000, tzinfo=UTC), "int": 2**53 - 1,
            "float": 1.0, "null": None, "text": "é😀"}}},
    {"type": "dispatched", "id": 6, "action": "onAuthSuccess", "result": None, "outcomes": [], "partial": False},
    {"type": "cancelled", "id": 7, "target": 4, "found": True},
    {"type": "provided", "id": 8, "methods": ["admin.users.list"], "standby": []},
    {"type": "hostCall", "callId": 1, "method": "admin.users.list", "params": {"page": 1}, "plugin": "p",
     "userId": USER, "deadlineMs": 900},
    {"type": "error", "id": 9, "plugin": "p", "action": "onActionExecute", "code": "TIMEOUT",
     "message": "it ran too long", "started": True, "retryable": False, "usage": _USAGE},
    {"type": "error", "id": None, "code": "DUPLICATE_ID", "message": "this id is pending", "started": False,
     "retryable": False, "details": {"id": 4}}]
_PING = msgspec.msgpack.encode({"type": "ping", "id": 1})


def vectors() -> dict[str, Any]:
    """``stream`` (bytes of the connection), ``bodies`` (messages) and ``refused`` (what ends a connection, or is
    answered with an error); every ``hex`` is whole."""
    return {"protocol": 1, "stream": _stream(), "bodies": [*_bodies("host", REQUESTS), *_bodies("daemon", REPLIES)],
            "refused": _refused()}


def _stream() -> list[dict[str, Any]]:
    rows = [
        ("greeting", "both", GREETING, "64 bytes: signature, version 3.1, mechanism NULL; each end begins with it"),
        ("ready-dealer", "host", ready(), "the command READY with Socket-Type DEALER"),
        ("ready-router", "daemon", READY, "the command READY with Socket-Type ROUTER and an empty Identity"),
        ("message-short", "host", message_bytes(_PING), "flags 0, a length of one byte, the body"),
        ("message-long-form", "host", bytes((LONG,)) + len(_PING).to_bytes(8, "big") + _PING,
         "flags 2, a length of eight bytes, the same body: both forms are read"),
        ("message-256", "host", message_bytes(msgspec.msgpack.encode({"type": "ping", "id": 1, "x": bytes(237)})),
         "a body over 255 bytes has the long form only"),
        ("message-req", "host", message_bytes(_PING, [b""]),
         "REQ: an empty frame with the flag MORE stands before the body, and before the reply's"),
        ("ping", "both", command(b"PING", b"\x00\x0actx"), "the command PING: a time to live of two bytes, a context"),
        ("pong", "both", command(b"PONG", b"ctx"), "its answer, with the context")]
    return [{"name": name, "from": who, "hex": data.hex(), "meaning": meaning} for name, who, data, meaning in rows]


def _bodies(who: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"name": f"{message['type']}-{n}", "from": who, "hex": msgspec.msgpack.encode(message).hex(),
             "message": to_json(message)} for n, message in enumerate(messages)]


def _refused() -> list[dict[str, Any]]:
    begun = GREETING + ready()
    closed = "the daemon ends the connection"
    rows = [
        ("zmtp-2", ZMTP_2, closed), ("plain", PLAIN, closed), ("http", b"GET / HTTP/1.1\r\n" + bytes(64), closed),
        ("pub", GREETING + ready(b"PUB"), closed), ("before-ready", GREETING + message_bytes(_PING), closed),
        ("reserved-flag", begun + b"\x40\x00", closed),
        ("unknown-command", begun + command(b"SUBSCRIBE", b""), closed),
        ("large-command", begun + bytes((COMMAND | LONG,)) + (5000).to_bytes(8, "big"), closed),
        ("sixteen-frames", begun + bytes((MORE, 0)) * 16 + message_bytes(_PING), closed),
        ("routing-id", GREETING + ready(identity=b"mine") + message_bytes(_PING), "PROTOCOL_ERROR"),
        *((f"body-{n}", begun + message_bytes(body), "PROTOCOL_ERROR") for n, body in enumerate(
            (b"", b"\xc1", b"\x93\x01\x02\x03", b"\x81\xa4", msgspec.msgpack.encode({"type": "nonsense", "id": 1}),
             msgspec.msgpack.encode({"type": "ping", "id": -1}), msgspec.msgpack.encode({"type": "ping"})))),
        ("no-user", begun + message_bytes(msgspec.msgpack.encode(
            {"type": "invoke", "id": 1, "plugin": "p", "action": "onAuthSuccess"})), "INVALID_INPUT"),
        ("unsupported", begun + message_bytes(msgspec.msgpack.encode({"type": "hello", "id": 1, "protocol": [2]})),
         "UNSUPPORTED_PROTOCOL")]
    return [{"name": name, "hex": data.hex(), "then": then} for name, data, then in rows]
