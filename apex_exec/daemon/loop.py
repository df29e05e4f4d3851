"""The supervisor's loop: one thread, one epoll; sockets in, ``pool.step``, sockets out. It never blocks.

The host's frames are decoded once; a request becomes a numbered call for the core; the core's verdict becomes
the one reply. Everything per host connection is bounded by ``pool.per_host``.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from apex_exec import API_VERSION, __version__
from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.dispatch import Dispatch, Part
from apex_exec.core.plugin import HOOKS, PluginSpec
from apex_exec.core.pool import MS_NS, Pool
from apex_exec.daemon.worker_link import WorkerLink
from apex_exec.daemon.zygote_link import ZygoteLink
from apex_exec.errors import Code, WireError, is_retryable
from apex_exec.sandbox.plan import LAYERS
from apex_exec.wire import codec, hooks
from apex_exec.wire import messages as msg
from workers import wire as inner
from workers.zmtp import ZmtpError

BATCH = 64
"""Host messages taken before workers and timers get their turn."""
DISPATCH_MS = 5000
"""Default and longest deadline of a dispatch."""
_decode_worker = msgspec.msgpack.Decoder(inner.FromWorker).decode
_encode = msgspec.msgpack.Encoder().encode


class Pending(msgspec.Struct, gc=False):
    """One request without its reply: where the answer goes."""

    frames: list[bytes]
    host: bytes
    id: int | str


class DispatchRun:
    """One dispatch on its way: its course, the outcomes so far, and the calls that are out."""

    __slots__ = ("call", "course", "hook", "open", "order", "outcomes", "pending", "user_id")

    def __init__(self, call: int, course: Dispatch, hook: str, user_id: str, order: list[str],
                 pending: Pending) -> None:
        self.call = call
        self.course = course
        self.hook = hook
        self.user_id = user_id
        self.order = order
        self.pending = pending
        self.outcomes: dict[str, dict[str, Any]] = {}
        self.open: set[int] = set()


class Supervisor:
    """Ties host socket, zygote, workers and core together. ``bundles`` maps a digest to its files."""

    def __init__(self, *, pool: Pool, zygote: ZygoteLink, router: zmq.Socket[bytes], level: str,
                 waived: list[str], jail_for: Callable[[int, PluginSpec], dict[str, Any]],
                 bundles: dict[str, tuple[dict[str, bytes], dict[str, str]]], bytes_max: int, per_host: int,
                 log: Callable[[str, str], None], observe: Callable[[act.Verdict], None],
                 worker_gone: Callable[[int], None], layer_lied: Callable[[str], None]) -> None:
        self.pool = pool
        self.level = level
        self.exits: dict[str, int] = {}
        self.zygote_ready = False
        self._zygote = zygote
        self._router = router
        self._waived = waived
        self._jail_for = jail_for
        self._worker_gone = worker_gone
        self._layer_lied = layer_lied
        self._bundles = bundles
        self._bytes_max = bytes_max
        self._per_host = per_host
        self._log = log
        self._observe = observe
        self._workers: dict[int, WorkerLink] = {}
        self._specs: dict[int, PluginSpec] = {}
        self._deaths: dict[int, inner.Exited] = {}
        self._calls: dict[int, Pending] = {}
        self._dispatches: dict[int, DispatchRun] = {}
        self._parts: dict[int, DispatchRun] = {}
        self._by_id: dict[tuple[bytes, int | str], int] = {}
        self._held: dict[bytes, int] = {}
        self._next_call = 1
        self._drain_until_ns = 0
        self._epoll = select.epoll()
        self._router_fd = int(router.getsockopt(zmq.FD))
        self._epoll.register(self._router_fd, select.EPOLLIN)
        self._epoll.register(zygote.fileno(), select.EPOLLIN)
        self._monitor = router.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._monitor_fd = int(self._monitor.getsockopt(zmq.FD))
        self._epoll.register(self._monitor_fd, select.EPOLLIN)
        self._connections: dict[bytes, int] = {}
        self._hosts_by_fd: dict[int, set[bytes]] = {}
        self._by_fd: dict[int, WorkerLink] = {}

    # ------------------------------------------------------------------ the loop
    def run(self, wake_fd: int, on_signal: Callable[[bytes], None], upkeep: Callable[[], None]) -> None:
        """Serves until drained. ``wake_fd`` carries signal numbers; ``upkeep`` runs once a second or so."""
        self._epoll.register(wake_fd, select.EPOLLIN)
        next_upkeep_ns = 0
        while not self._drained():
            busy = self._hosts()
            now_ns = time.monotonic_ns()
            wake_ns = self.pool.next_wake_ns()
            if wake_ns is not None and wake_ns <= now_ns:
                self._do(ev.Tick(), now_ns)
                busy = True
            if now_ns >= next_upkeep_ns:
                upkeep()
                next_upkeep_ns = now_ns + 1000 * MS_NS
            wait_ns = min(wake_ns or next_upkeep_ns, next_upkeep_ns) - now_ns
            for fd, mask in self._epoll.poll(0 if busy else max(0.0, wait_ns / 1e9)):
                link = self._by_fd.get(fd)
                if link is not None:
                    self._worker_io(link, mask)
                elif fd == self._monitor_fd:
                    self._monitored()
                elif fd == wake_fd:
                    on_signal(os.read(wake_fd, 64))
                elif fd == self._zygote.fileno():
                    self._zygote_io()

    def _drained(self) -> bool:
        if not self._drain_until_ns:
            return False
        return not (self._calls or self._dispatches) or time.monotonic_ns() > self._drain_until_ns

    def drain(self, until_ns: int) -> None:
        """No new work; ``run`` returns when all is answered, at ``until_ns`` at the latest."""
        self._do(ev.DrainRequested(until_ns - 50 * MS_NS), time.monotonic_ns())
        self._drain_until_ns = until_ns

    def set_plugin(self, spec: PluginSpec) -> None:
        """Serves ``spec`` from now on."""
        self._do(ev.PluginSet(spec), time.monotonic_ns())

    def living(self) -> list[tuple[str, int]]:
        """(plugin, pid) of every worker that has one."""
        return [(self._specs[worker].id, link.pid) for worker, link in self._workers.items() if link.pid]

    # ------------------------------------------------------------------ hosts
    def _hosts(self) -> bool:
        router = self._router
        for _ in range(BATCH):
            try:
                first = router.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return False
            host = bytes(first.bytes)
            frames = [host, *router.recv_multipart()]  # the rest of a message is there when its first frame is
            body = frames[-1]
            if host not in self._connections and not self._connected(host, first.get(zmq.SRCFD)):
                continue
            if len(host) == 0 or host[0] != 0 or len(frames) > 16:
                self._error(frames, host, None, WireError(Code.PROTOCOL_ERROR, "set no routing id of your own"))
                continue
            request: Any = None
            try:
                request = codec.decode_request(body, self._bytes_max)
                self._request(frames, host, request)
            except WireError as error:
                known = request.id if request is not None else self._peek_id(body)
                self._error(frames, host, known, error)
        return True

    def _connected(self, host: bytes, fd: Any) -> bool:
        """Notes which socket ``host`` sits on; False where that connection has ended already.

        The monitor is read first: a reused fd's DISCONNECTED and ACCEPTED stand there before its first message.
        """
        self._monitored()
        if fd not in self._hosts_by_fd:
            return False
        self._connections[host] = fd
        self._hosts_by_fd[fd].add(host)
        return True

    def _monitored(self) -> None:
        """Follows connections as libzmq reports them; what a gone host had pending is cancelled."""
        while int(self._monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            event = recv_monitor_message(self._monitor)
            fd = int(event["value"])  # the socket's file descriptor
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._hosts_by_fd[fd] = set()
                continue
            for host in self._hosts_by_fd.pop(fd, ()):
                del self._connections[host]
                for key in [key for key in self._by_id if key[0] == host]:
                    self._cancel(self._by_id.get(key, 0))

    def _cancel(self, call: int) -> None:
        run = self._dispatches.get(call)
        if run is not None:
            self._cancel_dispatch(run)
        elif call in self._calls:
            self._do(ev.CancelRequested(call), time.monotonic_ns())

    @staticmethod
    def _peek_id(body: bytes) -> int | str | None:
        if len(body) > codec.BODY_PEEK_MAX:
            return None
        try:
            return msgspec.msgpack.decode(body, type=_OnlyId).id
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    def _request(self, frames: list[bytes], host: bytes, request: Any) -> None:
        kind = type(request)
        if kind is msg.Invoke:
            self._invoke(frames, host, request)
        elif kind is msg.PingRequest:
            self._send(frames, _encode(msg.Pong(id=request.id)))
        elif kind is msg.Hello:
            self._hello(frames, request)
        elif kind is msg.Dispatch:
            self._dispatch(frames, host, request)
        elif kind is msg.Plugins:
            listed = [{"id": s.id, "version": s.version, "hooks": list(s.hooks), "state": s.state}
                      for s in self.pool.specs() if s.state == "enabled"]
            self._send(frames, _encode({"type": "plugins", "id": request.id, "plugins": listed}))
        elif kind is msg.Cancel:
            call = self._by_id.get((host, request.target))
            if call is not None:
                self._cancel(call)
            self._send(frames, _encode(msg.Cancelled(id=request.id, target=request.target, found=call is not None)))
        else:
            raise WireError(Code.PROTOCOL_ERROR, f"this daemon does not serve {kind.__name__.lower()!r} here")

    def _hello(self, frames: list[bytes], request: msg.Hello) -> None:
        if 1 not in request.protocol:
            raise WireError(Code.UNSUPPORTED_PROTOCOL, "this daemon speaks protocol 1")
        limits = {"timeoutMs": 5000, "memoryMb": 50, "cpuPercent": 10, "networkPerMinute": 100,
                  "maxMessageBytes": self._bytes_max}
        self._send(frames, _encode({
            "type": "welcome", "id": request.id, "protocol": 1, "server": f"apex-exec/{__version__}",
            "apiVersion": API_VERSION, "isolation": self.level, "waived": self._waived, "hooks": list(HOOKS),
            "limits": limits}))

    def _invoke(self, frames: list[bytes], host: bytes, request: msg.Invoke) -> None:
        if self._is_duplicate(frames, host, request.id):
            return
        user_id = hooks.check_user(request.user_id)
        spec = self.pool.spec(request.plugin)
        if spec is None:
            raise WireError(Code.PLUGIN_NOT_FOUND, f"no plugin {request.plugin[:50]!r} is registered")
        if request.action not in spec.hooks:
            raise WireError(Code.HOOK_NOT_DECLARED, f"{spec.id} does not declare {request.action!r}")
        if spec.state != "enabled" or (spec.users is not None and user_id not in spec.users):
            reason = spec.reason or "not enabled for this user"
            raise WireError(Code.PLUGIN_DISABLED, f"{spec.id} is not enabled: {reason}", {"reason": reason})
        hooks.check_payload(request.action, request.payload, user_id)
        now_ns = time.monotonic_ns()
        timeout_ms = min(request.deadline_ms or spec.limits.timeout_ms, spec.limits.timeout_ms)
        call = self._admit(host, request.id)
        self._calls[call] = Pending(frames[:-1], host, request.id)
        self._do(ev.InvokeRequested(call, spec.id, request.action, user_id, request.payload,
                                    now_ns + timeout_ms * MS_NS), now_ns)

    def _is_duplicate(self, frames: list[bytes], host: bytes, id_: int | str) -> bool:
        if (host, id_) not in self._by_id:
            return False
        self._error(frames, host, None, WireError(Code.DUPLICATE_ID, "this id is pending already", {"id": id_}))
        return True

    def _admit(self, host: bytes, id_: int | str) -> int:
        """A number for a new request of ``host``. Raises OVERLOADED where the connection holds its share."""
        held = self._held.get(host, 0)
        if held >= self._per_host:
            raise WireError(Code.OVERLOADED, "this connection holds as many requests as it may (pool.per_host)")
        call = self._next_call
        self._next_call += 1
        self._by_id[(host, id_)] = call
        self._held[host] = held + 1
        return call

    def _release(self, pending: Pending) -> None:
        del self._by_id[(pending.host, pending.id)]
        left = self._held[pending.host] - 1
        if left:
            self._held[pending.host] = left
        else:
            del self._held[pending.host]

    # ------------------------------------------------------------------ dispatch
    def _dispatch(self, frames: list[bytes], host: bytes, request: msg.Dispatch) -> None:
        if self._is_duplicate(frames, host, request.id):
            return
        user_id = hooks.check_user(request.user_id)
        if request.action not in HOOKS:
            raise WireError(Code.INVALID_INPUT, f"there is no hook {request.action!r}", {"path": "$.action"})
        hooks.check_payload(request.action, request.payload, user_id)
        if self._drain_until_ns:
            raise WireError(Code.SHUTTING_DOWN, "the daemon is shutting down")
        now_ns = time.monotonic_ns()
        order = [s.id for s in self.pool.specs() if request.action in s.hooks and s.state == "enabled"
                 and (s.users is None or user_id in s.users)]
        timeout_ms = min(request.deadline_ms or DISPATCH_MS, DISPATCH_MS)
        payload = msgspec.msgpack.decode(request.payload)
        course = Dispatch(request.action, order, payload, now_ns + timeout_ms * MS_NS)
        call = self._admit(host, request.id)
        run = DispatchRun(call, course, request.action, user_id, order, Pending(frames[:-1], host, request.id))
        self._dispatches[call] = run
        self._launch(run, course.begin(now_ns), now_ns)
        self._conclude(run)

    def _launch(self, run: DispatchRun, parts: list[Part], now_ns: int) -> None:
        for part in parts:
            call = self._next_call
            self._next_call += 1
            self._parts[call] = run
            run.open.add(call)
            spec = self.pool.spec(part.plugin)
            timeout_ns = spec.limits.timeout_ms * MS_NS if spec else 0
            deadline_ns = min(part.deadline_ns, now_ns + timeout_ns)
            self._do(ev.InvokeRequested(call, part.plugin, run.hook, run.user_id, msgspec.Raw(_encode(part.payload)),
                                        deadline_ns), now_ns)

    def _part_settled(self, run: DispatchRun, verdict: Any) -> None:
        run.open.discard(verdict.call)
        if run.call not in self._dispatches:
            return
        code, message, details, usage = self._settle(verdict)
        outcome: dict[str, Any] = {"plugin": verdict.plugin, "ok": not code, "effects": [], "usage": usage}
        result = None
        if code:
            outcome["error"] = {"code": code, "message": message, "started": verdict.started,
                                "retryable": is_retryable(code, verdict.started), "details": details}
        else:
            result = msgspec.msgpack.decode(verdict.body.result)
            outcome["result"] = result
        run.outcomes[verdict.plugin] = outcome
        now_ns = time.monotonic_ns()
        self._launch(run, run.course.settled(verdict.plugin, not code, result, now_ns), now_ns)
        self._conclude(run)

    def _conclude(self, run: DispatchRun) -> None:
        if not run.course.finished or self._dispatches.pop(run.call, None) is None:
            return
        self._release(run.pending)
        outcomes = [run.outcomes[plugin] for plugin in run.order if plugin in run.outcomes]
        self._send([*run.pending.frames, b""], _encode({
            "type": "dispatched", "id": run.pending.id, "action": run.hook, "result": run.course.result(),
            "outcomes": outcomes, "partial": run.course.partial}))

    def _cancel_dispatch(self, run: DispatchRun) -> None:
        del self._dispatches[run.call]
        self._release(run.pending)
        for call in list(run.open):
            self._do(ev.CancelRequested(call), time.monotonic_ns())
        self._send([*run.pending.frames, b""], _encode(msg.Error(
            id=run.pending.id, code=Code.CANCELLED, message="cancelled by its caller", started=True,
            retryable=False, action=run.hook)))

    def _send(self, frames: list[bytes], body: bytes) -> None:
        with contextlib.suppress(zmq.ZMQError):  # the host is gone or does not read: its replies are lost
            self._router.send_multipart([*frames[:-1], body], zmq.NOBLOCK)

    def _error(self, frames: list[bytes], host: bytes, id_: int | str | None, error: WireError) -> None:
        self._send(frames, _encode(msg.Error(
            id=id_, code=error.code, message=error.message, started=False,
            retryable=is_retryable(error.code, False), details=error.details or msgspec.UNSET)))

    # ------------------------------------------------------------------ the core's actions
    def _do(self, event: ev.Event, now_ns: int) -> None:
        for action in self.pool.step(event, now_ns):
            kind = type(action)
            if kind is act.SendCall:
                self._send_call(action)
            elif kind is act.Verdict:
                self._verdict(action)
            elif isinstance(action, act.StartWorker):
                self._start(action)
            elif isinstance(action, act.KillWorker):
                self.exits[action.reason] = self.exits.get(action.reason, 0) + 1
                self._workers[action.worker].kill()
            elif isinstance(action, act.StopWorker):
                self._workers[action.worker].half_close()

    def _send_call(self, action: Any) -> None:
        request = action.request
        link = self._workers[action.worker]
        link.send(_encode(inner.Call(action.seq, request.hook, request.user_id, request.deadline_ns, request.params)))
        self._watch(link)

    def _watch(self, link: WorkerLink) -> None:
        mask = select.EPOLLIN | (select.EPOLLOUT if link.wants_write else 0)
        with contextlib.suppress(FileNotFoundError):
            self._epoll.modify(link.fileno(), mask)

    def _verdict(self, verdict: Any) -> None:
        self._observe(verdict)
        pending = self._calls.pop(verdict.call, None)
        if pending is None:
            run = self._parts.pop(verdict.call, None)
            if run is not None:
                self._part_settled(run, verdict)
            return
        self._release(pending)
        code, message, details, usage = self._settle(verdict)
        if code:
            answer = _encode(msg.Error(
                id=pending.id, code=code, message=message, started=verdict.started,
                retryable=is_retryable(code, verdict.started), plugin=verdict.plugin, action=verdict.hook,
                details=details or msgspec.UNSET, usage=usage))
        else:
            answer = _encode(msg.Result(id=pending.id, plugin=verdict.plugin, action=verdict.hook,
                                        result=verdict.body.result, effects=[], usage=usage))
        with contextlib.suppress(zmq.ZMQError):
            self._router.send_multipart([*pending.frames, answer], zmq.NOBLOCK)

    @staticmethod
    def _settle(verdict: Any) -> tuple[str, str, dict[str, Any], msg.Usage]:
        """Code ("" for a result that may be sent), message, details and usage of ``verdict``."""
        usage = msg.Usage(queue_ms=verdict.queue_ns / 1e6, execution_time_ms=verdict.run_ns / 1e6, cold=verdict.cold)
        code, message, details, body = verdict.code, verdict.message, verdict.details, verdict.body
        if isinstance(body, inner.Reply):
            usage.cpu_ms = body.cpu_ns / 1e6
            try:
                hooks.check_result(verdict.hook, body.result)
            except WireError as error:
                code, message, details = error.code, error.message, error.details
        elif isinstance(body, inner.Raised):
            message = f"{body.exception}: {body.message}"[:500] if body.message else body.exception
            details = {"exception": body.exception, "traceback": body.traceback[: inner.TRACEBACK_BYTES_MAX]}
        elif isinstance(body, inner.BadOutput):
            message, details = f"{body.path}: {body.message}"[:500], {"path": body.path[:200]}
        return code, message, details, usage

    # ------------------------------------------------------------------ workers
    def _start(self, action: act.StartWorker) -> None:
        link = WorkerLink(action.worker)
        self._workers[action.worker] = link
        self._specs[action.worker] = action.spec
        self._by_fd[link.fileno()] = link
        self._epoll.register(link.fileno(), select.EPOLLIN)
        jail = self._jail_for(action.worker, action.spec)
        taken = self._zygote.fork(action.worker, jail, link.theirs.fileno(), link.marks_write)
        link.handed_over()
        if not taken:
            self._log("error", "the zygote took no fork request")  # the link's EOF ends this worker

    def _zygote_io(self) -> None:
        for message, fd in self._zygote.receive():
            if isinstance(message, inner.ZygoteReady):
                self.zygote_ready = True
            elif isinstance(message, inner.Forked):
                link = self._workers.get(message.worker)
                if link is None:
                    os.close(fd)
                    continue
                link.pid, link.pidfd = message.pid, fd
                if link.pending_kill:
                    link.kill()
            elif isinstance(message, inner.Exited):
                link = self._workers.get(message.worker)
                if link is not None:
                    self._gone(link, message)
            elif isinstance(message, inner.ForkFailed):
                self._log("error", f"fork was refused: {os.strerror(message.errno)}")

    def _worker_io(self, link: WorkerLink, mask: int) -> None:
        if mask & select.EPOLLOUT:
            link.flush()
            self._watch(link)
        if mask & ~select.EPOLLOUT and self._read(link):
            # EOF: the exit status follows from the zygote; stop polling a dead link meanwhile.
            with contextlib.suppress(FileNotFoundError, ValueError):
                self._epoll.unregister(link.fileno())

    def _read(self, link: WorkerLink) -> bool:
        """Takes what has arrived; True at the link's end."""
        try:
            bodies, ended = link.receive()
            for body in bodies:
                self._from_worker(link, _decode_worker(body))
        except (ZmtpError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._do(ev.WorkerViolated(link.worker, str(error)), time.monotonic_ns())
            return True
        return ended

    def _from_worker(self, link: WorkerLink, message: Any) -> None:
        kind, worker, now_ns = type(message), link.worker, time.monotonic_ns()
        if kind is inner.Reply:
            self._do(ev.WorkerAnswered(worker, message.seq, "", message), now_ns)
        elif kind is inner.Raised:
            code = "MEMORY_LIMIT" if message.memory else message.api_code.upper() or "PLUGIN_ERROR"
            if code not in ("MEMORY_LIMIT", "PERMISSION_DENIED", "RATE_LIMITED", "NOT_PROVIDED"):
                code = "PLUGIN_ERROR"
            self._do(ev.WorkerAnswered(worker, message.seq, code, message), now_ns)
        elif kind is inner.BadOutput:
            self._do(ev.WorkerAnswered(worker, message.seq, "INVALID_OUTPUT", message), now_ns)
        elif kind is inner.Skipped:
            self._do(ev.WorkerAnswered(worker, message.seq, "skipped", message), now_ns)
        elif kind is inner.Booted:
            spec = self._specs[worker]
            files, sha256 = self._bundles[spec.digest]
            link.send(_encode(inner.Load(spec.id, spec.version, spec.entrypoint, files, sha256,
                                         spec.limits.memory_mb * 1024 * 1024)))
            self._watch(link)
        elif kind is inner.Ready:
            self._do(ev.WorkerReady(worker), now_ns)
        elif kind is inner.Failed:
            self._log("error", f"plugin {self._specs[worker].id}: {message.stage} failed: {message.message}")
            if message.stage != "load" and message.layer in LAYERS:
                self._layer_lied(message.layer)
        elif kind is inner.Log:
            self._log(message.level, f"plugin {self._specs[worker].id}: {message.text}")
        elif kind is inner.ApiCall:
            # Fail closed: without a gateway every call is refused, as a permission the supervisor does not grant.
            link.send(_encode(inner.ApiReply(message.api_id, False, inner.NIL, "permission_denied",
                                             "this daemon has no gateway")))
            self._watch(link)

    def _gone(self, link: WorkerLink, exited: inner.Exited) -> None:
        while True:  # what was written before the death counts
            before = time.monotonic_ns()
            if self._read(link) or time.monotonic_ns() - before > 100 * MS_NS:
                break
        details: dict[str, int] = {}
        code, message = "WORKER_CRASHED", "the worker died"
        if os.WIFSIGNALED(exited.status):
            number = os.WTERMSIG(exited.status)
            details["signal"] = number
            message = f"the worker died of {signal.Signals(number).name}"
            if number == signal.SIGXCPU:
                code = "CPU_LIMIT"
        else:
            details["exitCode"] = os.waitstatus_to_exitcode(exited.status)
            message = f"the worker exited with {details['exitCode']}"
            if details["exitCode"] in (70, 71):
                code = "BOOT_FAILED"
        marks = link.drain_marks()
        fd = link.fileno()
        self._by_fd.pop(fd, None)
        with contextlib.suppress(OSError, ValueError):
            self._epoll.unregister(fd)
        link.close()
        del self._workers[link.worker], self._specs[link.worker]
        self._worker_gone(link.worker)
        self._do(ev.WorkerGone(link.worker, marks, code, message, details), time.monotonic_ns())


class _OnlyId(msgspec.Struct):
    id: msg.Id
