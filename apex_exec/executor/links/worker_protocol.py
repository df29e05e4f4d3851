"""The messages that a worker may send: one handler for each, in a table for each kind of worker.

A worker is hostile. Each handler checks that its message may come now; a message that may not ends the worker, and the
end is charged to the worker's plugin. A spare, or the worker of a job, is sent no calls, so its table has no answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from apex_exec.core import events as ev
from apex_exec.executor.links.overhead import ORDINARY_NS
from apex_exec.executor.links.start_health import StartHealth
from apex_exec.executor.links.worker_link import Handlers, Refused, WorkerLink
from apex_exec.executor.outcome import at_place, raised_code
from apex_exec.executor.ports import Neighbours
from apex_exec.sandbox.plan import LAYERS
from apex_exec.wire import hooks
from workers import wire as inner
from workers.zmtp import ZmtpError

if TYPE_CHECKING:
    from apex_exec.observe.logs import Logs
    from apex_exec.observe.metrics import Metrics

DECLARED_MAX = 100
"""How many hooks, and permissions, a plugin's code may declare: as many as its manifest may name."""
DECLARED_CHARACTERS_MAX = 200
NOT_SHARED = "a worker that runs one call after another sends a message that only a shared worker may send"
DECLARES_TOO_MUCH = "it declares more than any plugin has"
LINES_PER_CALL_MAX = 1000
"""Lines of output from one call. An honest worker stops at 200, so more is a violation."""
NO_GATEWAY = ("permission_denied", "", "this daemon has no gateway")
"""The refusal of every effect if there is no gateway: fail closed."""
FRAME = "\n    at "
"""A line of output that contains this has a JavaScript stack in it, whose places are looked up in the source map."""
CODES: Mapping[type, str] = {inner.Reply: "", inner.BadOutput: "INVALID_OUTPUT", inner.Skipped: "skipped",
                                   inner.Ended: "ended"}
"""The outcome of a call, for answers whose type alone says it."""

decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder(inner.FromWorker).decode


class WorkerProtocol:
    """``of_pool`` and ``of_others`` are the tables. ``busy`` holds the links of workers that owe an answer.
    ``reply(link, message)`` queues a message for a worker. ``health`` is notified when a worker boots or fails to."""

    def __init__(self, neighbours: Neighbours, busy: set[WorkerLink], *,
                 reply: Callable[[WorkerLink, Any], None], health: StartHealth, metrics: Metrics, logs: Logs) -> None:
        self.layers: list[inner.LayerReport] = []
        """What the worker that booted last has reported about each layer of its jail."""
        self.of_others = Handlers({
            inner.Booted: self._booted, inner.Ready: self._ready, inner.Failed: self._failed, inner.Log: self._log})
        self.of_pool = Handlers({
            **self.of_others, inner.Reply: self._answered, inner.Raised: self._answered,
            inner.BadOutput: self._answered, inner.BadInput: self._answered, inner.Skipped: self._answered,
            inner.Ended: self._ended, inner.ApiCall: self._api_call, inner.ApiCancel: self._api_cancel,
            inner.Effects: self._effects,
            inner.Pong: self._pong, inner.Blocked: self._blocked})
        self._neighbours = neighbours
        self._step = neighbours.step
        self._busy = busy
        self._reply = reply
        self._health = health
        self._metrics = metrics
        self._logs = logs

    def violated(self, link: WorkerLink, why: str, now_ns: int) -> None:
        """The worker broke the protocol: nothing that it sends after this is read."""
        self._logs.log("error", f"plugin {link.spec.id or '(none, a spare)'}: its worker broke the inner protocol: "
                                f"{why[:200]}")
        link.broken = True
        link.kind.violated(link, why, now_ns)

    # ------------------------------------------------------------------ calls
    def _answered(self, link: WorkerLink, message: Any, now_ns: int) -> None:
        link.owed -= 1
        if link.owed < 1:
            self._busy.discard(link)
        link.lines = link.strays = 0
        seq = message.seq
        if link.shared and not link.has_begun(seq):
            raise ZmtpError("an answer to a call that it has not begun")
        link.ordinary_ns += ORDINARY_NS
        if link.refused:
            message = failed_by_effect(message, link.refused.pop(seq, None))
        code = CODES.get(type(message))
        if code is None:
            code = self._code_of(link.worker, message)
        self._step(ev.WorkerAnswered(link.worker, seq, code, message,
                                     getattr(message, "cpu_ns", 0) if link.shared else 0), now_ns)

    def _ended(self, link: WorkerLink, message: inner.Ended, now_ns: int) -> None:
        if not link.shared:
            raise ZmtpError(NOT_SHARED)
        self._answered(link, message, now_ns)

    def _blocked(self, link: WorkerLink, message: inner.Blocked, now_ns: int) -> None:
        if not link.interrupts:
            raise ZmtpError("it says what it runs, but was sent no probe")
        link.interrupts -= 1
        self._step(ev.WorkerBlocked(link.worker, message.seq), now_ns)

    def _code_of(self, worker: int, message: inner.Raised | inner.BadInput) -> str:
        if type(message) is inner.BadInput:
            return "INVALID_INPUT" if self._payload_is_bad(worker, message.seq) else "PLUGIN_ERROR"
        assert type(message) is inner.Raised
        return raised_code(message, partial(self._was_refused, worker, message.seq))

    def _payload_is_bad(self, worker: int, seq: int) -> bool:
        """Whether the payload of that call cannot be decoded here either. A worker's word alone must not blame a host.
        """
        request = self._neighbours.on_link(worker, seq)[1]
        return request is not None and not hooks.is_decodable(bytes(request.params))

    def _was_refused(self, worker: int, seq: int, code: str) -> bool:
        """Whether an API call of that hook was refused with ``code``. Without a gateway each API call is refused with
        permission_denied."""
        api = self._neighbours.api
        return code == "permission_denied" if api is None else api.refused(worker, seq, code)

    def _api_call(self, link: WorkerLink, message: inner.ApiCall, now_ns: int) -> None:
        if link.closing:
            return  # the worker is dead and cannot be answered
        api = self._neighbours.api
        if api is not None:
            api.handle(link, message, now_ns)
        else:  # fail closed: without a gateway no permission is granted
            self._reply(link, inner.ApiReply(message.api_id, False, inner.NIL, "permission_denied",
                                             "this daemon has no gateway"))

    def _effects(self, link: WorkerLink, message: inner.Effects, now_ns: int) -> None:
        """Effects of a worker that has just died are taken too, since the answer that follows them counts."""
        api = self._neighbours.api
        if api is not None:
            api.effects(link, message, now_ns)
        elif self._neighbours.on_link(link.worker, message.seq)[1] is not None:
            link.refused[message.seq] = NO_GATEWAY

    def _api_cancel(self, link: WorkerLink, message: inner.ApiCancel, now_ns: int) -> None:
        api = self._neighbours.api
        if api is not None and not link.closing:
            api.give_up(link, message, now_ns)

    def _pong(self, link: WorkerLink, message: inner.Pong, now_ns: int) -> None:
        self._step(ev.WorkerPonged(link.worker, message.nonce), now_ns)

    # ------------------------------------------------------------------ output
    def _log(self, link: WorkerLink, message: inner.Log, now_ns: int) -> None:
        if link.closing:
            return
        link.lines += 1
        calls = max(1, link.owed) if link.shared else 1
        if link.lines > LINES_PER_CALL_MAX * calls or (link.ready and not link.owed):
            raise ZmtpError("too many lines in one call" if link.owed else "a line while nothing ran")
        plugin, level = link.spec.id, message.level
        request = self._neighbours.on_link(link.worker, message.seq)[1] if message.seq >= 0 else None
        call = request.call if request is not None else 0
        whose = f"[{request.hook} {message.seq}] " if link.shared and request is not None else ""  # among other calls'

        def located(text: str, _cpu_ns: int) -> None:
            self._logs.plugin_line(plugin, level, whose + text, time.monotonic_ns(), call)

        if FRAME not in message.text or not self._neighbours.locate(link.spec, message.text, located, now_ns):
            self._logs.plugin_line(plugin, level, whose + message.text, now_ns, call)

    # ------------------------------------------------------------------ booting
    def _booted(self, link: WorkerLink, message: inner.Booted, now_ns: int) -> None:
        if link.booted:
            raise ZmtpError("it boots twice")
        link.booted = True
        self._health.good()
        self.layers = message.layers
        link.kind.booted(link)

    def _ready(self, link: WorkerLink, message: inner.Ready, now_ns: int) -> None:
        if declares_too_much(message):
            raise ZmtpError(DECLARES_TOO_MUCH)
        link.kind.ready(link, message, now_ns)

    def _failed(self, link: WorkerLink, message: inner.Failed, now_ns: int) -> None:
        if link.ready or link.failure:  # said once, by a worker that leaves: more is a plugin's word, without end
            raise ZmtpError("it fails twice, or after it was ready")
        link.failure = at_place(failure_text(message), message.traceback)
        if not link.booted:  # later it may be the plugin that says so
            if message.layer in LAYERS:
                self._metrics.set("sandbox_layer_active", (message.layer,), 0.0)
            self._health.bad(link.failure, now_ns)
        link.kind.failed(link, message, now_ns)


def failed_by_effect(message: Any, refused: Refused | None) -> Any:
    """Returns ``message``, a hook's answer. If the hook succeeded and one of its effects was ``refused``, returns a
    failure instead."""
    if refused is None or type(message) is not inner.Reply:
        return message
    code, method, text = refused
    if code == "invalid_output":
        path, _, why = text.partition(": ")
        return inner.BadOutput(message.seq, path if why else "$", why or text, message.cpu_ns)
    name = "PermissionDenied" if code == "permission_denied" else "ApiError"
    return inner.Raised(message.seq, name, text, "", message.cpu_ns, code, method)


def failure_text(message: inner.Failed) -> str:
    """Returns why a worker could not boot, without the traceback."""
    return f"{message.stage} failed: {message.layer or message.exception}: {message.message}"


def declares_too_much(message: inner.Ready) -> bool:
    """Whether a worker declares more than any plugin may have. Its declarations are compared word for word with the
    manifest, and each difference is shown to an administrator, so they must be bounded."""
    names = (*message.hooks[:DECLARED_MAX], *message.permissions[:DECLARED_MAX], message.plugin, message.version)
    return (len(message.hooks) > DECLARED_MAX or len(message.permissions) > DECLARED_MAX
            or max(map(len, names)) > DECLARED_CHARACTERS_MAX)
