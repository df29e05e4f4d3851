"""What both Python clients share: the messages, the socket's options, the size check, CURVE keys."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import zmq
import zmq.auth

from apex_exec.client import discovery
from apex_exec.client.errors import CallError, error_of, local_error
from apex_exec.errors import ApexError, Code

GRACE_MS = 500
"""What a client waits beyond the deadline before it takes the connection for lost (PROTOCOL 1.3)."""
DEFAULT_DEADLINE_MS = 5000
REQUEST_TIMEOUT_MS = 5000
"""For requests without a deadline; the daemon answers them at once."""
MAX_MESSAGE_BYTES = 1_048_576
"""The daemon's default limit; ``hello`` returns the limit in force."""
RECONNECT_MS = 50
HEARTBEAT_MS, HEARTBEAT_LOST_MS = 300, 900
"""On tcp libzmq asks the daemon this often whether it is there, and gives the connection up after this time without an
answer: a cut that nobody reports is known in about a second."""
CONNECT_MS_MAX = 2000
RECONNECT_MS_MAX = 1000

Context = TypeVar("Context", bound="zmq.Context[Any]")
_decode = msgspec.msgpack.Decoder().decode


def check_process(pid: int) -> None:
    """Raises RuntimeError after a fork: threads of libzmq are not forked, so a call on its sockets never returns."""
    if pid != os.getpid():
        raise RuntimeError("this client was made before the process forked, and its connection is the parent's; "
                           "make one in this process")


class HostCall(NamedTuple):
    """A plugin's call of a host method, as its handler sees it."""

    call_id: int
    method: str
    params: dict[str, Any]
    plugin: str
    user_id: str
    deadline_ms: int


HostMethod = Callable[[HostCall], Any]
"""Answers one host call; what it returns is the result. AsyncClient also takes ``async def``."""


class HostMethodError(ApexError):
    """Raised by a handler: the plugin sees ``code`` and ``message``."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class CurveKeys(NamedTuple):
    """What a client needs on tcp: the server's public key, and its own pair."""

    server_public: bytes
    public: bytes
    secret: bytes

    @classmethod
    def load(cls, own_secret_file: str | Path, server_public_file: str | Path) -> CurveKeys:
        """From pyzmq certificate files, as ``apex-exec keys curve`` writes them. Raises OSError, ValueError."""
        public, secret = zmq.auth.load_certificate(own_secret_file)
        if secret is None:
            raise ValueError(f"{own_secret_file} holds no secret key; name the .key_secret file")
        return cls(zmq.auth.load_certificate(server_public_file)[0], public, secret)


def prepare(socket: zmq.Socket[bytes], endpoint: str, curve: CurveKeys | None) -> zmq.Socket[bytes]:
    """Sets what PROTOCOL 1.3 asks of a client and connects; never blocks. Returns ``socket``."""
    socket.setsockopt(zmq.LINGER, 0)  # a request that could not be sent must not be sent later
    socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing is queued for a daemon that is not there
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MS_MAX)
    if endpoint.startswith("tcp://"):  # a machine or a network that has gone ends no connection
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_LOST_MS)
        socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MS_MAX)
    if curve is not None:
        socket.setsockopt(zmq.CURVE_SERVERKEY, curve.server_public)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, curve.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, curve.secret)
    socket.connect(endpoint)
    return socket


def closed(endpoint: str) -> str:
    """Why this user cannot connect to ``endpoint``, on one line; "" where nothing forbids it. Does not connect."""
    if not endpoint.startswith("ipc://"):
        return ""
    path, uid = Path(endpoint.removeprefix("ipc://")), os.geteuid()
    try:
        info = path.stat()
    except PermissionError:
        return f"uid {uid} may not enter {path.parent}, where {path.name} would be; {discovery.remedy(path)}"
    except OSError:
        return ""  # it may come yet
    if os.access(path, os.W_OK, effective_ids=True):
        return ""
    return f"uid {uid} may not connect to {path}, which belongs to uid {info.st_uid}; {discovery.remedy(path)}"


def encode(message: Mapping[str, Any], bytes_max: int) -> bytes:
    """The message's body. Raises InvalidRequest where it cannot be sent: too large, or no MessagePack value."""
    try:
        body = msgspec.msgpack.encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise local_error(Code.INVALID_INPUT, f"the request cannot be written as MessagePack: {error}") from None
    if len(body) > bytes_max:
        raise local_error(Code.PAYLOAD_TOO_LARGE, f"the message has {len(body)} bytes, the limit is {bytes_max}")
    return body


def decode(body: bytes) -> dict[str, Any]:
    """What has arrived, as a map. Never raises, since one bad frame must not cost any other call its reply.

    A body that is not a message becomes an ``error`` reply with the code PROTOCOL_ERROR: to the request whose ``id``
    can be read from it, or to none (``id`` None).
    """
    message: Any = None
    try:
        message = _decode(body)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        pass
    if isinstance(message, dict) and isinstance(message.get("id"), int | str | None):
        kind = message.get("type")
        if not ((kind == "hostCall" and not _HOST_CALL_FIELDS <= message.keys())
                or (kind == "error" and not isinstance(message.get("code"), str))):
            return message
    return {"type": "error", "id": _id_of(body), "code": Code.PROTOCOL_ERROR, "started": True, "retryable": False,
            "message": "the reply cannot be read; is the peer apex-exec? Whether the request was executed is unknown"}


_HOST_CALL_FIELDS = {"callId", "method", "plugin", "userId", "deadlineMs"}


def _id_of(body: bytes) -> int | str | None:
    """The ``id`` in a body that cannot be decoded as a whole. The daemon writes ``type`` and ``id`` first."""
    try:
        at, fields = (1, body[0] & 0x0F) if body[0] >> 4 == 8 else (3, int.from_bytes(body[1:3], "big"))
        for _ in range(min(fields, 4)):
            key, at = _scalar(body, at)
            value, at = _scalar(body, at)
            if key == "id":
                return value
    except (IndexError, ValueError):
        pass
    return None


_SIZES = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_TEXTS = {0xD9: 1, 0xDA: 2, 0xDB: 4}


def _scalar(body: bytes, at: int) -> tuple[int | str | None, int]:
    """The integer, text or nil at ``at``, and where the next value begins. Raises IndexError, ValueError."""
    head, at = body[at], at + 1
    if head == 0xC0:
        return None, at
    if head < 0x80 or head >= 0xE0:
        return head if head < 0x80 else head - 256, at
    if head in _SIZES:
        end = at + _SIZES[head]
        return int.from_bytes(_all_of(body, at, end), "big", signed=head >= 0xD0), end
    if 0xA0 <= head < 0xC0:
        size = head & 0x1F
    elif head in _TEXTS:
        size, at = int.from_bytes(_all_of(body, at, at + _TEXTS[head]), "big"), at + _TEXTS[head]
    else:
        raise ValueError("neither integer nor text")
    return _all_of(body, at, at + size).decode(), at + size


def _all_of(body: bytes, at: int, end: int) -> bytes:
    if end > len(body):
        raise IndexError("the body ends before its value")
    return body[at:end]


ANSWERS = {
    "hello": ("welcome", "limits"), "ping": ("pong", "id"), "plugins": ("plugins", "plugins"),
    "invoke": ("result", "result"), "dispatch": ("dispatched", "outcomes"), "cancel": ("cancelled", "found"),
    "provide": ("provided", "methods"), "admin": ("adminResult", "result")}
"""Request -> the type of its answer, and a field without which it is none."""


def failure(reply: dict[str, Any], request: str = "") -> CallError | None:
    """The error that ``reply`` is to a ``request`` of this type: an error message, or the answer to something else,
    which says nothing of what has become of the request."""
    kind = reply.get("type")
    if kind == "error":
        return error_of(reply)
    wanted, field = ANSWERS.get(request, (kind, "id"))
    if kind == wanted and field in reply:
        return None
    return error_of({"type": "error", "id": reply.get("id"), "code": Code.PROTOCOL_ERROR, "started": True,
                     "retryable": False, "message": f"the reply does not answer {request[:40]!a}; is the peer "
                     "apex-exec of this version? Whether the request was executed is unknown"})


def host_call(message: dict[str, Any]) -> HostCall:
    """The ``hostCall`` message as its handler gets it."""
    return HostCall(message["callId"], message["method"], message.get("params") or {}, message["plugin"],
                    message["userId"], message["deadlineMs"])


def host_reply(call_id: int, result: Any) -> dict[str, Any]:
    """The ``hostReply`` that gives ``result``."""
    return {"type": "hostReply", "callId": call_id, "ok": True, "result": result}


UNSENDABLE = HostMethodError("host_error", "the host method's result cannot be sent")
"""The plugin gets this error if the host method's result is too large or cannot be encoded."""


def host_failure(call_id: int, error: BaseException) -> dict[str, Any]:
    """The ``hostReply`` of a handler that raised. Only a HostMethodError's words reach the plugin."""
    shown = error if isinstance(error, HostMethodError) else HostMethodError("host_error", "the host method failed")
    return {"type": "hostReply", "callId": call_id, "ok": False, "error": {"code": shown.code, "message": str(shown)}}


def hello() -> dict[str, Any]:
    """Asks for version, level and limits."""
    return {"type": "hello", "protocol": [1], "client": "apex-exec-python"}


def plugins(user_id: str | None) -> dict[str, Any]:
    """Asks for the enabled plugins, for one user where named."""
    return {"type": "plugins"} if user_id is None else {"type": "plugins", "userId": user_id}


def invoke(plugin: str, action: str, user_id: str, payload: Mapping[str, Any] | None, deadline_ms: int,
           traceparent: str | None) -> dict[str, Any]:
    """One hook of one plugin."""
    message: dict[str, Any] = {"type": "invoke", "plugin": plugin, "action": action, "userId": user_id,
                               "deadlineMs": deadline_ms}
    return _with(message, payload, traceparent)


def dispatch(action: str, user_id: str, payload: Mapping[str, Any] | None, deadline_ms: int,
             traceparent: str | None) -> dict[str, Any]:
    """One event to every plugin that declares the hook."""
    return _with({"type": "dispatch", "action": action, "userId": user_id, "deadlineMs": deadline_ms}, payload,
                 traceparent)


def _with(message: dict[str, Any], payload: Mapping[str, Any] | None, traceparent: str | None) -> dict[str, Any]:
    if payload is not None:
        message["payload"] = payload
    if traceparent is not None:
        message["traceparent"] = traceparent
    return message
