"""The administrators' endpoint: a ROUTER of its own, ipc only, 0600. Every operation is audited with the caller's uid.

The uid is the kernel's word (SO_PEERCRED of the connection that the message came from), never the message's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from apex_exec.daemon import operations
from apex_exec.daemon.connections import Handlers, Peer
from apex_exec.daemon.registrar_link import RegistrarLink
from apex_exec.daemon.stream_peers import StreamPeers
from apex_exec.errors import Code, ConfigError, Refusal, WireError, is_retryable
from apex_exec.wire import codec
from apex_exec.wire import messages as msg

if TYPE_CHECKING:
    from apex_exec.daemon.supervisor import Supervisor

BYTES_MAX = 8 * 1024 * 1024
"""Largest administrative message: a bundle and its envelope."""
RECORD_CHARS_MAX = 1024
"""Longest text of an operation's arguments or result that goes on record: an approver's statement fits."""
RECORD_MEMBERS_MAX = 32
WHY_CHARACTERS_MAX = 600
"""Longest reason of a refusal on record: a message and its place in a plugin's code."""
CONNECTIONS_MAX = 64
"""Administrators at once, half of them of one uid; their descriptors are among main.FDS_OWN."""
PENDING_MAX = 100
"""Operations of one connection without their answers."""
_encode = msgspec.msgpack.Encoder().encode


def on_record(said: Any) -> dict[str, Any]:
    """The plain members of an operation's arguments or result, cut to what a record should hold; bytes as their number.

    Lists and maps are left out: a record says what was done, not what was listed.
    """
    found: dict[str, Any] = {}
    if isinstance(said, msgspec.Struct):
        said = msgspec.structs.asdict(said)
    for key, value in said.items() if isinstance(said, dict) else ():
        if isinstance(value, bytes):
            found[f"{key}Bytes"] = len(value)
        elif isinstance(value, str):
            found[key] = value[:RECORD_CHARS_MAX]
        elif isinstance(value, int | float):
            found[key] = value
    return dict(list(found.items())[:RECORD_MEMBERS_MAX])


class AdminSocket:
    """Serves the table of operations. ``handlers`` are those of the loop; ``registrar`` runs the others."""

    def __init__(self, supervisor: Supervisor, handlers: dict[str, operations.Handler],
                 registrar: RegistrarLink | None = None) -> None:
        self.registrar = registrar
        self._supervisor = supervisor
        self._handlers = handlers
        self.peers = StreamPeers(supervisor.loop, Handlers(
            message=self._message, gone=lambda _: None, alien=self._alien,
            dropped=lambda count: supervisor.metrics.inc("dropped_replies_total", (), count)), BYTES_MAX,
            CONNECTIONS_MAX)
        supervisor.turns.append(self._turn)

    def _turn(self, _: int) -> bool:
        more = self.peers.receive()  # once: who sends without end must not keep the loop from everybody else
        self.peers.flush()
        return more

    def _alien(self, peer: Peer, frames: list[bytes]) -> None:
        self._refuse(peer, frames, None, WireError(Code.PROTOCOL_ERROR, "set no routing id of your own"))

    def _message(self, peer: Peer, frames: list[bytes], body: bytes) -> None:
        try:
            request = codec.decode_request(body, BYTES_MAX)
        except WireError as error:
            self._refuse(peer, frames, codec.id_of(body, error.code), error)
            return
        id_ = getattr(request, "id", None)
        try:
            self._serve(peer, frames, request)
        except WireError as error:
            self._refuse(peer, frames, None if error.code is Code.DUPLICATE_ID else id_, error)

    def _serve(self, peer: Peer, frames: list[bytes], request: Any) -> None:
        if isinstance(request, msg.PingRequest):
            self._reply(peer, frames, _encode(msg.Pong(id=request.id)))
            return
        if not isinstance(request, msg.Admin):
            raise WireError(Code.PROTOCOL_ERROR, "the admin endpoint serves `admin` and `ping` only")
        if request.id in peer.pending:
            raise WireError(Code.DUPLICATE_ID, "this id is pending already", {"id": request.id})
        if len(peer.pending) >= PENDING_MAX:
            raise WireError(Code.OVERLOADED, "this connection waits for too many operations")
        operation, args = operations.parse(request.op, request.args)
        uid, _ = self.peers.credentials(peer)
        audit = self._supervisor.audit
        if audit is not None and not audit.admits(time.monotonic_ns()):
            raise WireError(Code.AUDIT_UNAVAILABLE, "the audit ledger cannot take a record; nothing was done")
        peer.pending[request.id] = 0
        done, refused = self._ends(peer, frames, request, args, uid)
        if operation.where == "registrar":
            if self.registrar is None:
                refused(Code.INTERNAL, "this daemon has no registrar", {"reason": "no_registrar"})
            else:
                self.registrar.run(operation.name, args, uid, done, refused)
            return
        try:
            done(self._handlers[operation.name](args, uid))
        except WireError as error:
            refused(error.code, error.message, error.details)
        except Refusal as error:
            refused(error.code, error.message, error.wire_details())
        except ConfigError as error:
            refused(Code.INVALID_INPUT, str(error), {"reason": "configuration"})
        except Exception as error:
            self._supervisor.logs.bug(f"the operation {request.op} failed", error)
            refused(Code.INTERNAL, "the daemon failed at this; its log says how", {"reason": "bug"})

    def _ends(self, peer: Peer, frames: list[bytes], request: msg.Admin, args: msgspec.Struct, uid: int) -> tuple[
            Callable[[Any], None], Callable[[str, str, dict[str, Any]], None]]:
        def end(body: bytes) -> None:
            peer.pending.pop(request.id, None)
            self._reply(peer, frames, body)

        def done(result: Any) -> None:
            self._audit(request.op, args, uid, "", result)
            end(_encode(msg.AdminResult(id=request.id, op=request.op, result=result)))

        def refused(code: str, message: str, details: dict[str, Any]) -> None:
            self._audit(request.op, args, uid, code, why=message, plugin=str(details.get("plugin") or ""))
            end(_encode(msg.Error(id=request.id, code=code, message=message, started=False,
                                  retryable=is_retryable(code, False), details=details or msgspec.UNSET)))

        return done, refused

    def _audit(self, op: str, args: msgspec.Struct, uid: int, code: str, outcome: Any = None, *, why: str = "",
               plugin: str = "") -> None:
        audit = self._supervisor.audit
        if audit is None:
            return
        metadata: dict[str, Any] = {"uid": uid, "args": on_record(args)}
        if outcome := on_record(outcome):
            metadata["outcome"] = outcome
        if code:
            metadata["code"] = code
            metadata["why"] = why[:WHY_CHARACTERS_MAX]
        named = outcome.get("id") if isinstance(outcome, dict) and not code else plugin  # it stands in a bundle
        resource = getattr(args, "id", None) or named or getattr(args, "path", None) or "daemon"
        result = "success" if not code else "denied" if code == Code.REFUSED else "failure"
        audit.event("admin.action", f"uid:{uid}", str(resource)[:200], op, result, metadata)

    def _refuse(self, peer: Peer, frames: list[bytes], id_: int | str | None, error: WireError) -> None:
        self._reply(peer, frames, _encode(msg.Error(
            id=id_, code=error.code, message=error.message, started=False,
            retryable=is_retryable(error.code, False), details=error.details or msgspec.UNSET)))

    def _reply(self, peer: Peer, frames: list[bytes], body: bytes) -> None:
        self.peers.reply(peer, frames, body)
