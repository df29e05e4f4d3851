"""Shared workers: several calls of one plugin run at once in one process, and one of them can end without the others.

A shared worker begins each call as it arrives, in the order of the link, and answers in any order. So each call on the
link has two times of its own, and the worker's timer is due at the earliest of all of them:

* The call's deadline. The core then asks for a count of the worker's started calls. A call that had begun is answered
  TIMEOUT at once, and the worker is asked to end it. A call that had not begun is answered DEADLINE_EXCEEDED, and the
  worker skips it in its turn.
* The time by which a call that was cancelled must have ended (``ends_ns``). If its code swallows the cancellation, only
  the worker's end can end it.

The request to end a call is a *probe* as well, which the worker's event loop answers at once. If a call is past its
deadline and the event loop does not answer the probe, code runs that nothing inside the worker can end, so the worker
is killed. The other calls that had begun are lost with it; their users are bystanders, and are not charged. A caller
who gives up must not cause that, since the event loop may be busy with another user's call, which has time left. So if
the probe for such a call is not answered, nothing happens before the call's own deadline, unless no other call has
begun.

The worker says itself, if it can, which call's code it was running when it was probed (``WorkerBlocked``). A worker
that lies about this harms only users of its own plugin.
"""

from __future__ import annotations

from collections import deque

from apex_exec.catalogue.limits import CONCURRENCY_MAX, Limits
from apex_exec.core import actions as act
from apex_exec.core.deadline import NEVER_NS
from apex_exec.core.limits import (
    CANCEL_GRACE_NS,
    HELD_NS_MAX,
    PROBE_NS,
    RECOUNT_NS,
    SKIP_GRACE_NS,
    STALL_GRACE_NS,
    STALL_NS,
)
from apex_exec.core.scheduler.invocation import Invocation, Refusal
from apex_exec.core.scheduler.plugin_slot import PluginSlot
from apex_exec.core.scheduler.step import Step
from apex_exec.core.scheduler.verdicts import Verdicts
from apex_exec.core.scheduler.worker import AT_WORK, End, Probe, Worker
from apex_exec.core.scheduler.workers import Workers

PROBES_FROM = 1 << 32
"""Probes are numbered from here on, pings from 1, so that each answer says which of the two it answers."""
PROBES_MAX = 4 * CONCURRENCY_MAX
"""How many probes of one worker may be without an answer; one more is a violation. The worker is asked to end a call
three times at most, and while its event loop stands still no new call takes an old one's place."""
PASSED_UNBEGUN: Refusal = ("DEADLINE_EXCEEDED", "the deadline passed before the hook could begin in its worker", {})
STOOD_STILL = "a call was past its deadline and the worker's event loop did not turn, so the worker was killed"
WENT_ON = "a hook went on although it was cancelled, so its worker was killed"
PAST_DEADLINE = "the hook ran past its deadline and was cancelled"


def cost_ns(run_ns: int, cpu_ns: int, limits: Limits) -> int:
    """What a call has cost the plugin's other users, as the time for which it would have held one place. Users share
    two things, the plugin's places and its CPU, and the call is charged for the one of which it took the larger part
    (dominant resource fairness, Ghodsi et al. 2011). By default a plugin may use a tenth of a core, so a call that
    computes leaves the others far less than a call that waits for as long."""
    worth_ns = min(max(0, cpu_ns), run_ns) * 100 / limits.cpu_percent * limits.concurrency
    return max(run_ns, int(worth_ns))


class Sharing:
    """Looks after the calls on the links of shared workers."""

    def __init__(self, slots: dict[str, PluginSlot], verdicts: Verdicts, workers: Workers) -> None:
        self._slots = slots
        self._verdicts = verdicts
        self._workers = workers

    # ------------------------------------------------------------------ calls
    def left(self, slot: PluginSlot, worker: Worker, call: Invocation, run_ns: int, step: Step,
             cpu_ns: int = 0) -> None:
        """``call`` was answered: its place is free, and its user may have another call begun. The call has held the
        place for ``run_ns``, and used ``cpu_ns`` by the word of its worker."""
        user_id = call.request.user_id
        count = worker.users.get(user_id, 0) - 1
        if count > 0:
            worker.users[user_id] = count
        else:
            worker.users.pop(user_id, None)
        slot.queue.released(user_id, cost_ns(run_ns, cpu_ns, slot.spec.limits))
        if worker.blamed is call:
            worker.blamed = None
        if not worker.link:  # it has answered every call, so it is not killed for probes that are still unanswered
            worker.probing = deque(Probe(probe.sent_ns, 0) for probe in worker.probing)
        elif (oldest := worker.oldest()).ends_ns == NEVER_NS:
            oldest.ends_ns = step.now_ns + SKIP_GRACE_NS  # no call is before it any more: the worker must skip it now
            self._workers.look_at(worker, oldest.ends_ns, step.now_ns)

    def end(self, worker: Worker, call: Invocation, step: Step) -> None:
        """Asks the worker to end ``call``, whose caller has given it up."""
        self._cancel(worker, call, step, due_ns=0)

    def _cancel(self, worker: Worker, call: Invocation, step: Step, due_ns: int) -> None:
        """Has ``call`` ended by the worker. If ``due_ns`` is not 0, the worker must answer this probe by then."""
        now_ns = step.now_ns
        if len(worker.probing) >= PROBES_MAX:
            self._workers.violated(worker, "it does not answer probes", step)
            return
        if not call.cancelled_ns:
            call.cancelled_ns = now_ns
            call.ends_ns = now_ns + CANCEL_GRACE_NS
        worker.probes += 1
        worker.probing.append(Probe(now_ns, due_ns))
        step.actions.append(act.CancelCall(worker.id, call.seq, PROBES_FROM + worker.probes))
        self._workers.look_at(worker, min(call.ends_ns, due_ns or NEVER_NS), now_ns)

    # ------------------------------------------------------------------ probes
    def answered_probe(self, worker: Worker, nonce: int, step: Step) -> None:
        """The worker has answered a probe: its event loop runs, or did when it read the probe."""
        if not worker.probing or nonce != PROBES_FROM + worker.probes - len(worker.probing) + 1:
            self._workers.violated(worker, "the answer to a probe that nobody sent", step)
            return
        worker.probed_ns = worker.probing.popleft().sent_ns
        worker.answered_ns = step.now_ns
        if not worker.probing:
            worker.blamed = None

    def blocked(self, worker: Worker, seq: int) -> None:
        """The worker names the call whose code it was running. This counts only until it answers all its probes."""
        if worker.probing and seq in worker.link:
            worker.blamed = worker.link[seq]

    def goes_on(self, worker: Worker, held_ns: int, step: Step) -> None:
        """The governor has held the worker back for ``held_ns``, in which it could do nothing that it was asked to do,
        and now lets it go on: everything that is due for the worker's calls, their deadlines excepted, is due later."""
        if worker.state not in AT_WORK or not worker.link:
            return
        worker.probing = deque(
            Probe(probe.sent_ns, probe.due_ns + held_ns if probe.due_ns else 0) for probe in worker.probing)
        for call in worker.link.values():
            if 0 < call.ends_ns < NEVER_NS:
                call.ends_ns += held_ns
        self._schedule(worker, step.now_ns)

    # ------------------------------------------------------------------ time
    def due(self, worker: Worker, step: Step) -> bool:
        """Does what is due for the worker's calls; False if nothing is due."""
        now_ns = step.now_ns
        if now_ns < worker.due_ns:
            return False
        if now_ns - worker.due_ns > STALL_NS and not worker.had_grace:
            worker.had_grace = True  # the supervisor stood still: what the worker sent meanwhile is to be read first
            worker.due_ns = now_ns + STALL_GRACE_NS
            return True
        probe_due_ns = worker.probe_due_ns()
        if probe_due_ns and now_ns >= probe_due_ns and not _is_held(worker, now_ns):
            self._workers.kill(worker, End("deadline", message=STOOD_STILL), step, probe_due_ns)
            return True
        is_held = _is_held(worker, now_ns)
        asked = any(_due_ns(call) <= now_ns and (call.state == "linked" or not is_held)
                    for call in worker.link.values())
        if asked:
            step.actions.append(act.CountStarted(worker.id))
        self._schedule(worker, now_ns)
        return True

    def counted(self, worker: Worker, step: Step) -> None:
        """The started calls have been counted: answers calls that are past their deadlines, and kills the worker if a
        call goes on although the worker was asked to end it."""
        now_ns = step.now_ns
        oldest_seq = worker.oldest_seq()
        for seq, call in worker.link.items():
            if _due_ns(call) > now_ns:
                continue
            has_begun = seq < worker.started
            if call.state == "linked" and has_begun:
                self._verdicts.ran(call, "TIMEOUT", PAST_DEADLINE, step, call.sent_ns)
                self._cancel(worker, call, step, now_ns + PROBE_NS)
            elif call.state == "linked":
                self._verdicts.never_ran(call, PASSED_UNBEGUN, step)
                call.ends_ns = now_ns + SKIP_GRACE_NS if seq == oldest_seq else NEVER_NS
            elif not call.ends_ns and has_begun:  # its caller was answered for another reason, such as a drain
                self._cancel(worker, call, step, now_ns + PROBE_NS)
            elif not _is_held(worker, now_ns) and not self._may_go_on(worker, seq, call, step):
                return
            if worker.state == "killed":
                return
        self._schedule(worker, now_ns)

    def _may_go_on(self, worker: Worker, seq: int, call: Invocation, step: Step) -> bool:
        """Decides about a call that has its verdict and has not ended in time. False if the worker was killed for it.
        """
        now_ns = step.now_ns
        if seq >= worker.started:
            if seq != worker.oldest_seq():
                call.ends_ns = NEVER_NS  # the worker skips it in its turn
                return True
            if not call.ends_ns:
                call.ends_ns = now_ns + SKIP_GRACE_NS
                return True
            self._workers.kill(worker, End("deadline", message="the worker did not begin what it was sent"), step,
                               call.ends_ns)
            return False
        is_alone = sum(other < worker.started for other in worker.link) == 1
        if worker.probed_ns >= call.cancelled_ns or is_alone:
            worker.blamed = call
            reason = "cancelled" if call.state == "cancelled" else "deadline"
            self._workers.kill(worker, End(reason, message=WENT_ON), step, call.ends_ns)
            return False
        if now_ns < call.request.deadline_ns:
            call.ends_ns = call.request.deadline_ns  # the loop is busy with another call, which has time left
        else:
            call.ends_ns = now_ns + CANCEL_GRACE_NS
            self._cancel(worker, call, step, now_ns + PROBE_NS)
        return True

    def _schedule(self, worker: Worker, now_ns: int) -> None:
        """Sets when the worker is next looked at for its calls. For what is overdue that is RECOUNT_NS from now, or, if
        the governor holds the worker back, HELD_NS_MAX after it began to."""
        again_ns = worker.throttled_ns + HELD_NS_MAX if _is_held(worker, now_ns) else now_ns + RECOUNT_NS
        dues = [due_ns if due_ns > now_ns else again_ns for due_ns in map(_due_ns, worker.link.values())]
        if probe_due_ns := worker.probe_due_ns():
            dues.append(probe_due_ns if probe_due_ns > now_ns else again_ns)
        worker.due_ns = min(dues, default=NEVER_NS)
        worker.had_grace = False
        if worker.link:
            self._workers.look_at(worker, worker.due_ns, now_ns)


def _is_held(worker: Worker, now_ns: int) -> bool:
    """Whether the governor holds the worker back, and has not done so for too long to be an excuse."""
    return worker.throttled and now_ns - worker.throttled_ns < HELD_NS_MAX


def _due_ns(call: Invocation) -> int:
    """When something about the call is next due: its deadline, or the time by which it must have ended."""
    return call.request.deadline_ns if call.state == "linked" else call.ends_ns or call.request.deadline_ns
