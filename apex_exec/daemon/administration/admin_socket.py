"""The administrators' endpoint: a ROUTER of its own, ipc only. Every operation is audited with the caller's uid and
gid, and with the person for whom a delegate asks; so is every one that the caller's roles (``roles.py``) do not allow.

Uid and gid are the kernel's word (SO_PEERCRED of the connection that the message came from), never the message's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from apex_exec.daemon.administration import operations
from apex_exec.daemon.administration.looks import Looks
from apex_exec.daemon.administration.registrar_link import Registrar
from apex_exec.daemon.administration.role_table import READING
from apex_exec.daemon.administration.roles import Access, Caller, Forbidden, under_own_name
from apex_exec.daemon.hosts.connections import Connections, Events, Peer, Trouble
from apex_exec.daemon.hosts.stream_peers import StreamPeers
from apex_exec.errors import Code, ConfigError, Refusal, WireError, is_retryable
from apex_exec.wire import codec
from apex_exec.wire import messages as msg

if TYPE_CHECKING:
    from apex_exec.daemon.ports import Trail
    from apex_exec.executor.loop import Loop
    from apex_exec.observe.logs import Logs
    from apex_exec.observe.metrics import Metrics

log = logging.getLogger("apex_exec")

BYTES_MAX = 8 * 1024 * 1024
"""Largest administrative message: a bundle and its envelope."""
RECORD_CHARS_MAX = 1024
"""Longest text of an operation's arguments or result that goes on record: an approver's statement fits."""
RECORD_MEMBERS_MAX = 32
REASON_CHARS_MAX = 600
"""Longest reason of a refusal on record: a message and its place in a plugin's code."""
RECORD_KEY_CHARS_MAX = 64
"""Arguments of a caller who was refused are recorded as they came: unknown keys too."""
CONNECTIONS_MAX = 64
"""Administrators at once, half of them of one uid; their descriptors are among policies.FDS_OWN."""
PENDING_MAX = 100
"""Operations of one connection without their answers."""
HOST_OPERATIONS = ("audit.read",)
"""Operations that hosts may ask for on their own endpoint: what a platform needs without a second socket."""
HOST_PENDING_MAX = 10_000
"""PENDING_MAX for a host's connection, on which calls are pending too."""
NOBODY = (-1, -1, ())
"""The identity of a peer that the kernel does not know: no role is assigned to it."""
_encode = msgspec.msgpack.Encoder().encode


def on_record(said: Any) -> dict[str, Any]:
    """The plain members of an operation's arguments or result, cut to what a record should hold; bytes as their number.

    Lists and maps are left out: a record says what was done, not what was listed.
    """
    found: dict[str, Any] = {}
    if isinstance(said, msgspec.Struct):
        said = msgspec.structs.asdict(said)
    for key, value in said.items() if isinstance(said, dict) else ():
        key = key[:RECORD_KEY_CHARS_MAX]
        if len(found) == RECORD_MEMBERS_MAX:
            break
        if isinstance(value, bytes):
            found[f"{key}Bytes"] = len(value)
        elif isinstance(value, str):
            found[key] = value[:RECORD_CHARS_MAX]
        elif isinstance(value, int | float):
            found[key] = value
    return found


class AdminSocket:
    """Serves the table of operations. ``handlers`` are those of the loop; ``registrar`` runs the others. ``access()``
    says what each caller may; it is called for every message, so that a reload changes it for open connections too.

    The loop calls ``run`` as soon as one of ``peers`` has something to read or to write.
    """

    def __init__(self, loop: Loop, handlers: dict[str, operations.Handler], access: Callable[[], Access],
                 registrar: Registrar, *, audit: Trail, metrics: Metrics, logs: Logs) -> None:
        self._access = access
        self._registrar = registrar
        self._handlers = handlers
        self._audit = audit
        self._metrics = metrics
        self._logs = logs
        self._looks = Looks()
        self.peers: Connections = StreamPeers(
            loop, Events(message=self._message, gone=lambda _: None, broken=self._broken), BYTES_MAX, CONNECTIONS_MAX)

    def run(self, _: int) -> bool:
        """One bounded read of each connection: who sends without end must not keep the loop from everybody else."""
        more = self.peers.receive()
        self.peers.flush()
        return more

    def _broken(self, trouble: Trouble, count: int) -> None:
        if trouble == "unread":  # the anomalies of Prometheus are those of hosts
            self._metrics.inc("dropped_replies_total", (), count)

    def _message(self, peer: Peer, frames: list[bytes], body: bytes) -> None:
        if peer.foreign:
            self._refuse(peer, frames, None, WireError(Code.PROTOCOL_ERROR, "this socket has set ZMQ_ROUTING_ID, "
                                                                            "which is refused; leave it unset"))
            return
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

    def serve_host(self, peer: Peer, frames: list[bytes], request: msg.Admin) -> None:
        """One of HOST_OPERATIONS on the hosts' endpoint, by the same roles: those of the connection's own user and
        groups, and none on tcp, where the kernel knows of no user. Raises WireError."""
        if request.op not in HOST_OPERATIONS:
            raise WireError(Code.PROTOCOL_ERROR, "on the host endpoint only the operations "
                                                 f"{', '.join(HOST_OPERATIONS)} "
                            "are served; send the others to the admin endpoint")
        self._serve(peer, frames, request, pending_max=HOST_PENDING_MAX)

    def _serve(self, peer: Peer, frames: list[bytes], request: Any, *, pending_max: int = PENDING_MAX) -> None:
        if isinstance(request, msg.PingRequest):
            self._reply(peer, frames, _encode(msg.Pong(id=request.id)))
            return
        if not isinstance(request, msg.Admin):
            raise WireError(Code.PROTOCOL_ERROR, "the admin endpoint serves `admin` and `ping` only; send calls to "
                                                 "the host endpoint")
        if request.id in peer.pending:
            raise WireError(Code.DUPLICATE_ID, "a request with this id is still pending on this connection; use a new "
                                               "id", {"id": request.id})
        if len(peer.pending) >= pending_max:
            raise WireError(Code.OVERLOADED, "too many operations of this connection are pending; wait for one of "
                                             "them to finish")
        known = operations.find(request.op).args.__struct_fields__
        # Who looks while the ledger is slow learns why; the record waits with the others, within their bound.
        if not (self._audit.has_room if request.op in READING else self._audit.admits(time.monotonic_ns())):
            raise WireError(Code.AUDIT_UNAVAILABLE, "the audit ledger cannot take records, so nothing was done; try "
                                                    "again later")
        try:
            access = self._access()
            caller = access.caller(*_identity(peer), request.actor)
            access.check(caller, request.op, request.args or {})
            given = under_own_name(caller, request.args, known)
        except Forbidden as error:
            self._put_on_record(request.op, request.args or {}, error.caller, error.code,
                                reason=error.details["reason"])
            raise
        operation, args = operations.parse(request.op, given)
        uid = caller.uid
        peer.pending[request.id] = 0
        done, refused = self._ends(peer, frames, request, args, caller)
        if operation.where == "registrar":
            self._registrar.run(operation.name, args, uid, done, refused)
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
            self._logs.bug(f"the operation {request.op} failed", error)
            refused(Code.INTERNAL, "the daemon failed to carry this out, because of a bug; its log has the details",
                    {"reason": "bug"})

    def _ends(self, peer: Peer, frames: list[bytes], request: msg.Admin, args: msgspec.Struct, caller: Caller) -> tuple[
            Callable[[Any], None], Callable[[str, str, dict[str, Any]], None]]:
        def end(body: bytes) -> None:
            peer.pending.pop(request.id, None)
            self._reply(peer, frames, body)

        def done(result: Any) -> None:
            self._put_on_record(request.op, args, caller, "", result)
            end(_encode(msg.AdminResult(id=request.id, op=request.op, result=result)))

        def refused(code: str, message: str, details: dict[str, Any]) -> None:
            self._put_on_record(request.op, args, caller, code, reason=message, plugin=str(details.get("plugin") or ""))
            end(_encode(msg.Error(id=request.id, code=code, message=message, started=False,
                                  retryable=is_retryable(code, False), details=details or msgspec.UNSET)))

        return done, refused

    def _put_on_record(self, op: str, args: msgspec.Struct | dict[str, Any], caller: Caller, code: str,
                       outcome: Any = None, *, reason: str = "", plugin: str = "") -> None:
        hidden = operations.find(op).unrecorded
        looks = 1
        if op in READING and caller.actor and not code:
            asked = {key: value for key, value in msgspec.structs.asdict(args).items() if key != "after"} if isinstance(
                args, msgspec.Struct) else args  # the next page of the ledger is the same question
            looks = self._looks.count((caller, op, _encode(asked)), time.monotonic())
            if not looks:
                return  # the page is open since a record that is not a minute old
        metadata: dict[str, Any] = {**caller.on_record(), "args": {
            key: value for key, value in on_record(args).items() if key not in hidden}}
        if looks > 1:
            metadata["looks"] = looks
        if outcome := on_record(outcome):
            metadata["outcome"] = outcome
        if code:
            metadata["code"] = code
        if reason:
            metadata["reason"] = reason[:REASON_CHARS_MAX]
        named = outcome.get("id") if isinstance(outcome, dict) and not code else plugin  # it stands in a bundle
        given = args if isinstance(args, dict) else msgspec.structs.asdict(args)
        named_by = (given.get("id"), named, given.get("path"), "daemon")
        resource = next(name for name in named_by if isinstance(name, str) and name)
        if op not in READING or code:
            log.log(logging.WARNING if code else logging.INFO, "%s: %s %s: %s", caller, op, resource[:200],
                    f"{code}: {reason[:REASON_CHARS_MAX]}" if code else "done")
        result = "success" if not code else "denied" if code in (Code.REFUSED, Code.FORBIDDEN) else "failure"
        self._audit.event("admin.action", f"uid:{caller.uid}", resource[:200], op, result, metadata)

    def _refuse(self, peer: Peer, frames: list[bytes], id_: int | str | None, error: WireError) -> None:
        self._reply(peer, frames, _encode(msg.Error(
            id=id_, code=error.code, message=error.message, started=False,
            retryable=is_retryable(error.code, False), details=error.details or msgspec.UNSET)))

    def _reply(self, peer: Peer, frames: list[bytes], body: bytes) -> None:
        peer.connections.reply(peer, frames, body)


def _identity(peer: Peer) -> tuple[int, int, tuple[int, ...]]:
    connections = peer.connections
    return connections.identity(peer) if isinstance(connections, StreamPeers) else NOBODY
