"""Calls that another node of the fleet runs: sent to the owner of their plugin, and answered as it answers.

A call goes to one node, once. It goes to another only if libzmq did not take it, or if the owner answers that it is on
its way out and has not started the call. If the link ends meanwhile its caller gets NODE_LOST, since nobody can say
whether the hook has run. What a node forwards was a host's; what comes from a node is run here or refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from apex_exec.core import events as ev
from apex_exec.core.limits import MS_NS
from apex_exec.daemon.fleet.node_link import NodeLink
from apex_exec.daemon.hosts.connections import Peer
from apex_exec.daemon.hosts.dispatch_runs import NoResult, Run
from apex_exec.daemon.hosts.pending_table import Pending
from apex_exec.daemon.hosts.requests import Requests
from apex_exec.errors import Code, WireError, is_retryable
from apex_exec.wire import messages as msg

if TYPE_CHECKING:
    from apex_exec.daemon.fleet.fleet import Fleet

_encode = msgspec.msgpack.Encoder().encode
_decode_answer = msgspec.msgpack.Decoder(msg.Result | msg.Error).decode
_clock_ns = time.monotonic_ns
GRACE_NS = 2_000 * MS_NS
"""How long after a call's deadline its node may still answer; then it hangs, though its link is alive."""
NODES_TRIED_MAX = 3
OF_NODES = frozenset((msg.Invoke, msg.Cancel, msg.HostReply))
"""What a node may send of its hosts' requests."""
RESULT_HEAD = b"\xa4type\xa6result\xa2id\xce"
"""How a result begins, after the one byte that says how many fields it has, if its id has 32 bits."""
ID_AT = 1 + len(RESULT_HEAD)
ID_LEAST, ID_MOST = 1 << 16, (1 << 32) - 1
"""The ids of forwarded calls, one after another and then again: MessagePack has 32 bits for each of them."""


class _Out(msgspec.Struct, gc=False):
    """One call that another node has. ``pending`` is where its answer goes; None of a part of a dispatch, which is the
    core's ``call`` of ``run``. ``node`` has it; "" while none has taken it yet."""

    request: msg.Invoke
    deadline_ns: int
    pending: Pending | None = None
    run: Run | None = None
    call: int = 0
    node: str = ""
    tries: int = 1


class FleetRequests(Requests):
    """``Requests`` of a daemon in a fleet. ``fleet`` is set once it is made."""

    fleet: Fleet

    def __init__(self, *args: Any, in_flight: int, timeout_ms: Callable[[str], int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_flight = in_flight
        self._timeout_ms = timeout_ms
        self._out: dict[int, _Out] = {}
        """By the id that the call has on its link. In ``Peer.pending`` it is negative: not a call of the core."""
        self._parts: dict[int, int] = {}
        self._next_id = ID_LEAST
        self._dispatches.elsewhere = self

    def __len__(self) -> int:
        return super().__len__() + sum(1 for out in self._out.values() if out.run is None)

    # ------------------------------------------------------------------ requests
    def serve(self, peer: Peer, frames: list[bytes], request: Any) -> None:
        """As ``Requests.serve``; a host's call of a plugin that another node owns goes there."""
        if type(request) is not msg.Invoke:
            if peer.node and type(request) not in OF_NODES:
                raise WireError(Code.PROTOCOL_ERROR, "a node forwards single calls and what belongs to them; it "
                                "divides a dispatch itself, and answers everything else itself")
            super().serve(peer, frames, request)
        elif peer.node:
            if not self.fleet.executes:
                raise WireError(Code.PROTOCOL_ERROR, f"{self.fleet.name} runs no plugin, and a call that {peer.node} "
                                "has forwarded is not forwarded again")
            self._invoke(peer, frames, request)
        elif self.fleet.owner(request.plugin) == self.fleet.name:
            self._invoke(peer, frames, request)
        else:
            self._forward(peer, frames, request)

    def _admit(self, peer: Peer, id_: int | str, now_ns: int) -> None:
        if not peer.node:
            super()._admit(peer, id_, now_ns)
            return
        own, self.per_host = self.per_host, self._in_flight  # one connection for all the hosts of a node
        try:
            super()._admit(peer, id_, now_ns)
        finally:
            self.per_host = own

    def _forward(self, peer: Peer, frames: list[bytes], request: msg.Invoke) -> None:
        now_ns = _clock_ns()
        if request.id in peer.pending:
            raise WireError(Code.DUPLICATE_ID, "a request with this id is still pending on this connection; use a new "
                                               "id", {"id": request.id})
        if self.draining:
            raise WireError(Code.SHUTTING_DOWN, self.draining)
        if len(peer.pending) >= self.per_host or len(self._out) >= self._in_flight:
            raise WireError(Code.OVERLOADED, "too many calls are pending at other nodes or on this connection; try "
                                             "again later")
        timeout_ms = self._timeout_ms(request.plugin)
        if request.deadline_ms is not None and request.deadline_ms < timeout_ms:
            timeout_ms = request.deadline_ms
        number = self._note(_Out(request, now_ns + timeout_ms * MS_NS, Pending(peer, frames, request.id)))
        peer.pending[request.id] = -number
        self._send(number, request.deadline_ms, now_ns)

    def _note(self, out: _Out) -> int:
        number = self._next_id
        while number in self._out:
            number = number + 1 if number < ID_MOST else ID_LEAST
        self._out[number] = out
        self._next_id = number + 1 if number < ID_MOST else ID_LEAST
        return number

    def _send(self, number: int, deadline_ms: int | None, now_ns: int) -> None:
        """Gives the call to the node that owns its plugin now; to the next one if nothing of it could leave."""
        out, fleet = self._out[number], self.fleet
        request = out.request
        out.node = ""
        body = _encode(msg.Invoke(
            id=number, plugin=request.plugin, action=request.action, user_id=request.user_id, payload=request.payload,
            deadline_ms=deadline_ms, traceparent=request.traceparent))
        while out.tries <= NODES_TRIED_MAX:
            owner = fleet.owner(request.plugin)
            if owner == fleet.name:
                self._run_here(number, out, now_ns)
                return
            link = fleet.links.get(owner)
            if link is None:
                break
            sent = link.send(fleet.mark, body)
            if sent == "sent":
                out.node = owner
                fleet.forwarded(owner)
                return
            if sent == "full":
                self._fail(number, Code.OVERLOADED, f"the node {owner} takes no more calls now", started=False)
                return
            out.tries += 1
            fleet.link_down(link)
        self._fail(number, Code.NODE_LOST, "no node that could run this call can be reached; it was not run",
                   started=False)

    def _run_here(self, number: int, out: _Out, now_ns: int) -> None:
        """The plugin has come to this node between two tries."""
        del self._out[number]
        request, pending = out.request, out.pending
        if pending is None:
            self._parts.pop(out.call, None)
            self._step(ev.InvokeRequested(out.call, request.plugin, request.action, request.user_id, request.payload,
                                          out.deadline_ns), now_ns)
            return
        pending.peer.pending.pop(pending.id, None)
        request.deadline_ms = max(1, (out.deadline_ns - now_ns) // MS_NS)
        try:
            self._invoke(pending.peer, pending.frames, request)
        except WireError as error:
            self._replies.send(pending, _encode(msg.Error(
                id=pending.id, code=error.code, message=error.message, started=False,
                retryable=is_retryable(error.code, False), details=error.details or msgspec.UNSET)))

    # ------------------------------------------------------------------ parts of dispatches
    def launch(self, run: Run, call: int, plugin: str, payload: msgspec.Raw, deadline_ns: int, now_ns: int) -> bool:
        """Sends a part of a dispatch to the node that owns its plugin; False if that is this one."""
        if self.fleet.owner(plugin) == self.fleet.name:
            return False
        self._table.traces.pop(call, None)  # the node that runs it has it on record
        self._table.spans.pop(call, None)
        request = msg.Invoke(id=0, plugin=plugin, action=run.hook, user_id=run.user_id, payload=payload,
                             traceparent=run.handed_on or None)
        number = self._parts[call] = self._note(_Out(request, deadline_ns, None, run, call))
        self._send(number, max(1, (deadline_ns - now_ns) // MS_NS), now_ns)
        return True

    def cancel_part(self, call: int) -> bool:
        """Ends a part that another node has; False if none has it."""
        number = self._parts.get(call)
        if number is not None:
            self._cancel_there(number)
        return number is not None

    def cancel(self, call: int) -> None:
        """Ends a pending request as its caller wishes, wherever it runs."""
        if call < 0:
            self._cancel_there(-call)
        else:
            super().cancel(call)

    def _cancel_there(self, number: int) -> None:
        out = self._out.get(number)
        if out is not None and (link := self.fleet.links.get(out.node)) is not None:
            link.send(self.fleet.mark, _encode(msg.Cancel(id=0, target=number)))

    def abandon(self, peer: Peer, id_: int | str | None) -> None:
        """As ``Requests.abandon``."""
        if id_ is not None and (call := peer.pending.get(id_, 0)) < 0:
            self._cancel_there(-call)
            self._out.pop(-call, None)
        super().abandon(peer, id_)

    # ------------------------------------------------------------------ answers
    def answered(self, link: NodeLink, body: bytes) -> None:
        """Takes what the owner has answered."""
        try:
            answer = _decode_answer(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return  # what answers a cancellation, or nothing that is known: its call has its own end
        number = answer.id
        if not isinstance(number, int) or (out := self._out.get(number)) is None or out.node != link.name:
            return
        if body[1:ID_AT] == RESULT_HEAD and out.pending is not None:  # nearly every answer: only its id is changed
            del self._out[number]
            self._replies.send(out.pending, b"".join((body[:ID_AT - 1], _encode(out.pending.id), body[ID_AT + 4:])))
            return
        if type(answer) is msg.Error and answer.code == Code.SHUTTING_DOWN and not answer.started:
            now_ns = _clock_ns()
            out.tries += 1
            self.fleet.leaves(link)
            self._send(number, max(1, (out.deadline_ns - now_ns) // MS_NS), now_ns)
            return
        self._end(number, out, answer)

    def _end(self, number: int, out: _Out, answer: msg.Result | msg.Error) -> None:
        """The call has its one answer."""
        del self._out[number]
        if out.pending is not None:
            answer.id = out.pending.id
            self._replies.send(out.pending, _encode(answer))
            return
        self._parts.pop(out.call, None)
        plugin = out.request.plugin
        if isinstance(answer, msg.Result):
            entry = msg.Outcome(plugin=plugin, ok=True, effects=answer.effects, usage=answer.usage,
                                result=answer.result)
        else:
            entry = msg.Outcome(
                plugin=plugin, ok=False, effects=[],
                usage=answer.usage if isinstance(answer.usage, msg.Usage) else msg.Usage(),
                error=msg.OutcomeError(code=answer.code, message=answer.message, started=answer.started,
                                       retryable=answer.retryable, details=answer.details))
        try:
            self._dispatches.outcome(out.call, entry)
        except NoResult:  # that part has failed, and the dispatch goes on
            self._dispatches.outcome(out.call, msg.Outcome(
                plugin=plugin, ok=False, effects=[], usage=msg.Usage(), error=msg.OutcomeError(
                    code=Code.INTERNAL, message=f"the node {out.node} has answered what no hook returns", started=True,
                    retryable=False)))

    def _fail(self, number: int, code: Code, message: str, *, started: bool) -> None:
        out = self._out[number]
        self._end(number, out, msg.Error(
            id=number, code=code, message=message, started=started, retryable=is_retryable(code, started),
            plugin=out.request.plugin, action=out.request.action))

    def node_lost(self, node: str) -> None:
        """The link to ``node`` has ended: what it had may have run, and is asked of nobody else."""
        for number in [number for number, out in self._out.items() if out.node == node]:
            if number in self._out:
                self._fail(number, Code.NODE_LOST, f"the node {node}, which had this call, was lost; whether its hook "
                           "ran is not known", started=True)

    def expire(self, now_ns: int) -> None:
        """Answers what a node has not answered long after its deadline."""
        for number in [number for number, out in self._out.items()
                       if out.deadline_ns + GRACE_NS < now_ns]:
            out = self._out.get(number)
            if out is not None:
                self._cancel_there(number)
                self._fail(number, Code.NODE_LOST, f"the node {out.node} has not answered long after this call's "
                           "deadline; whether its hook ran is not known", started=True)

    def end(self) -> None:
        """As ``Requests.end``; what other nodes still have is not known either."""
        for number, out in list(self._out.items()):
            if out.pending is not None:
                self._fail(number, Code.SHUTTING_DOWN, "the daemon ended before this had its result", started=True)
        super().end()
