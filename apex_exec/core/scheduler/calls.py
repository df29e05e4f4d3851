"""The invocations of the pool and their verdicts: the lowest of its three layers (calls, fleet, pool)."""

from __future__ import annotations

from collections.abc import Callable

from apex_exec.core import actions as act
from apex_exec.core.deadline import Timers
from apex_exec.core.events import InvokeRequested
from apex_exec.core.limits import EXPIRED_AT_ONCE, SKIP_GRACE_NS, PoolLimits, RecyclePolicy
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler.breaker import NO_CALL, BreakerPolicy
from apex_exec.core.scheduler.invocation import Invocation, Refusal
from apex_exec.core.scheduler.plugin_slot import Served
from apex_exec.core.scheduler.worker import Worker

Actions = list[act.Action]
PASSED_IN_QUEUE = "the deadline passed in the queue"
HELD_BACK = "its worker ended again and again, and the next one is not started before the deadline"
TOO_LATE = "its turn came too late: what is left of the deadline is less than the hook takes"


class Calls:
    """What every layer shares, and the one way to a verdict.

    A call is in ``_calls`` exactly as long as it has none; what comes later for it finds nothing.
    """

    def __init__(self, limits: PoolLimits, breaker: BreakerPolicy, random: Callable[[], float],
                 recycle: RecyclePolicy) -> None:
        self._limits = limits
        self._breaker_policy = breaker
        self._random = random
        self._recycle = recycle
        self._plugins: dict[str, Served] = {}
        self._calls: dict[int, Invocation] = {}
        self._refused: Refusal | None = None
        """Why nothing at all may begin now."""
        self._timers = Timers()

    def _finish(self, call: Invocation, code: str, message: str, started: bool, now_ns: int, out: Actions,
                body: object = None, details: dict[str, object] | None = None, begun_ns: int = 0) -> None:
        """The one verdict. A call that has one is left alone."""
        if call.state == "done":
            return
        call.state = "done"
        request = call.request
        del self._calls[request.call]
        begun_ns = begun_ns or (call.sent_ns if started else now_ns)
        out.append(act.Verdict(request.call, request.plugin, request.hook, request.user_id, code, message, body,
                               details or {}, started, max(0, begun_ns - call.arrived_ns),
                               now_ns - begun_ns if started else 0, call.cold, call.worker if started else 0))
        if not started:
            served = self._plugins.get(request.plugin)
            if served is not None and served.breaker.probe == request.call:
                served.breaker.probe = NO_CALL  # it proved nothing: the next call may try

    def _may_not_begin(self, request: InvokeRequested, spec: PluginSpec) -> Refusal | None:
        """Why a call that has not begun may not begin now; None where it may. Asked wherever one comes to wait, and of
        all that wait when the answer may have changed."""
        if self._refused is not None:
            return self._refused
        if (spec.users is not None or spec.entitled is not None) and not request.own and (
                reason := spec.barred(request.user_id)):
            return "PLUGIN_DISABLED", f"{spec.id} is not enabled: {reason}", {"reason": reason}
        return None

    def _hold_back(self, served: Served, now_ns: int, out: Actions) -> None:
        """Answers what waits in the plugin's queue and may not begin any more."""
        for call in served.queue.waiting():
            if (refusal := self._may_not_begin(call.request, served.spec)) is not None:
                served.queue.forget(call)
                code, message, details = refusal
                self._finish(call, code, message, False, now_ns, out, details=details)

    def _flush(self, served: Served, code: str, message: str, now_ns: int, out: Actions,
               details: dict[str, object] | None = None) -> None:
        """Answers everything that waits in the plugin's queue."""
        while served.queue:
            self._finish(served.queue.pop(), code, message, False, now_ns, out, details=details)

    def _expire(self, served: Served, now_ns: int, out: Actions) -> None:
        """Answers what waited past its deadline, in the queue or behind another call on the link."""
        for _ in range(EXPIRED_AT_ONCE):
            waiting = served.queue.pop_expired(now_ns)
            if waiting is None:
                break
            self._finish(waiting, "DEADLINE_EXCEEDED", PASSED_IN_QUEUE, False, now_ns, out)
        if served.worker is not None and self._expire_on_link(served.worker, now_ns, out):
            out.append(act.CountStarted(served.worker.id))

    def _expire_on_link(self, worker: Worker, now_ns: int, out: Actions, counted: bool = False) -> bool:
        """Answers the calls on the link whose deadlines have passed and whose turn has not come; the oldest one is the
        worker's timer's, unless the worker was killed. True where a count is needed first.

        A call on the link may have started although the reply before it has not been read. Only a count that was read
        after its deadline (``counted``) says that it never will; one that was started is given the time for its reply.
        """
        killed = worker.state == "killed"  # its end says more, but a caller does not wait for it
        unsure = False
        for seq, call in enumerate(worker.link, worker.next_seq - len(worker.link)):
            if call.state != "linked" or call.request.deadline_ns > now_ns or (call is worker.link[0] and not killed):
                continue
            if seq >= worker.started:
                if counted:
                    self._finish(call, "DEADLINE_EXCEEDED", "the deadline passed behind an earlier call", False, now_ns,
                                 out)
                unsure = True
            elif killed:
                self._finish(call, "WORKER_CRASHED", worker.blame, True, now_ns, out)
            elif now_ns >= call.request.deadline_ns + SKIP_GRACE_NS:  # the reply before it never came: the count lies
                self._finish(call, "TIMEOUT", "the hook ran past its deadline", True, now_ns, out)
        return unsure and not counted

    def _await_deadlines(self, served: Served, now_ns: int) -> None:
        """Arms the plugin's timer for what waits; what is oldest on a link is the worker's timer's."""
        due_ns = max(served.queue.next_deadline_ns(), now_ns + 1)  # what has expired and is left: the next step's
        if served.worker is not None:
            for call in served.worker.link:
                if call.state == "linked":
                    deadline_ns = call.request.deadline_ns
                    if deadline_ns <= now_ns:
                        deadline_ns += SKIP_GRACE_NS
                    if now_ns < deadline_ns < due_ns:
                        due_ns = deadline_ns
        self._timers.arm(served, due_ns)
