"""A host method that a plugin at another node has called: asked of this node's hosts, and answered back.

The method's provider is a host of this node, which has said ``provide`` here; the other node knows it from what this
one says of itself. So a call goes back the way on which the plugin's own call came.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from apex_exec.catalogue.methods import HostMethod
from apex_exec.core.limits import MS_NS
from apex_exec.wire import messages as msg

if TYPE_CHECKING:
    from apex_exec.daemon.api_calls import ApiCalls
    from apex_exec.daemon.fleet.node_link import NodeLink

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(msg.HostCall).decode


CALLS_MAX = 10_000
"""Host methods that other nodes have asked for and that no host has answered yet."""


class HostCalls:
    """``mark`` is the frame before what this node forwards; ``timeout_ms`` is the longest that any call may take."""

    def __init__(self, api: ApiCalls, mark: bytes, timeout_ms: int) -> None:
        self._api = api
        self._mark = mark
        self._timeout_ms = timeout_ms
        self._due_ns: dict[int, int] = {}

    def take(self, link: NodeLink, body: bytes) -> None:
        """Asks a host of this node; what is no ``hostCall`` is left alone, and its caller's time ends it."""
        try:
            call = _decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return
        number, life = 0, link.lives
        deadline_ms = min(call.deadline_ms, self._timeout_ms)

        def answered(result: bytes, code: str, message: str) -> None:
            self._due_ns.pop(number, None)
            if link.lives != life:
                return  # that node may have begun anew, and counts its calls from 1 again
            reply = msg.HostReply(call_id=call.call_id, ok=True, result=msgspec.Raw(result)) if not code else (
                msg.HostReply(call_id=call.call_id, ok=False, error={"code": code, "message": message}))
            link.send(self._mark, _encode(reply))

        if len(self._due_ns) >= CALLS_MAX:
            answered(b"", "not_provided", "this node has as many calls of host methods as it may; none was asked")
            return
        number = self._api.host_methods.call(HostMethod(call.method, call.params), call.plugin, call.user_id,
                                             deadline_ms, answered, here=True)
        if number:
            self._due_ns[number] = time.monotonic_ns() + deadline_ms * MS_NS

    def expire(self, now_ns: int) -> None:
        """Forgets what no host has answered in its time: the other node has already answered the plugin by itself."""
        for number in [number for number, due_ns in self._due_ns.items() if due_ns < now_ns]:
            del self._due_ns[number]
            self._api.host_methods.forget(number, is_late=True)
