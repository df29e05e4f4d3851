"""Decides which calls may come in, and which may begin. Nothing here changes anything but the reasons to refuse."""

from __future__ import annotations

from apex_exec.core.deadline import Timed
from apex_exec.core.events import InvokeRequested
from apex_exec.core.limits import MS_NS
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler.bounds import Bounds
from apex_exec.core.scheduler.invocation import Refusal
from apex_exec.core.scheduler.plugin_slot import PluginSlot
from apex_exec.core.scheduler.verdicts import HELD_BACK, Verdicts

USER_PAUSED = "this user's calls of the hook ended the worker too often and are paused"
SHUTTING_DOWN: Refusal = ("SHUTTING_DOWN", "the daemon is shutting down", {})


class Admission:
    """``refused`` says why no call at all may begin now, and is None otherwise. ``draining`` says that the daemon is
    ending, ``drain`` is the timer of that, and ``drained`` says that the timer was due."""

    def __init__(self, bounds: Bounds, verdicts: Verdicts) -> None:
        self._bounds = bounds
        self._open = verdicts.open
        self.refused: Refusal | None = None
        self.draining = False
        self.drained = False
        self.drain = Timed()

    def refusal(self, request: InvokeRequested, slot: PluginSlot | None, now_ns: int) -> Refusal | None:
        """Why ``request`` is not admitted; None if it is."""
        if slot is None:
            return "PLUGIN_NOT_FOUND", f"no plugin {request.plugin!r} is registered", {}
        if self.drained:  # before that, the shell refuses new requests, and calls of earlier dispatches still come here
            return SHUTTING_DOWN
        spec = slot.spec
        if spec.state != "enabled":
            return "PLUGIN_DISABLED", spec.reason or "the plugin is disabled", {"reason": spec.reason or spec.state}
        if request.deadline_ns <= now_ns:
            return "DEADLINE_EXCEEDED", "the deadline passed before the call came in", {}
        if self.refused is not None or spec.users is not None or spec.entitled is not None:  # most are for everybody
            refusal = self.may_not_begin(request, spec)
            if refusal is not None:
                return refusal
        refusal = None if request.has_room else self.full(slot, request.user_id, now_ns)
        if refusal is None and slot.users.known:
            refusal = self.user_paused(slot, request, now_ns)
        if refusal is None and slot.breaker.start_after_ns > now_ns:
            refusal = self._held_back(slot, request.deadline_ns, now_ns)
        return refusal

    @staticmethod
    def user_paused(slot: PluginSlot, request: InvokeRequested, now_ns: int) -> Refusal | None:
        """Why a call may not begin because earlier calls of its user have ended workers; None if it may."""
        wait_ns = slot.users.refuses_ns(request.user_id, request.hook, now_ns)
        if not wait_ns or request.own:
            return None
        return "QUARANTINED", USER_PAUSED, {"scope": "user", **retry_after(wait_ns)}

    def may_not_begin(self, request: InvokeRequested, spec: PluginSpec) -> Refusal | None:
        """Why a call that has not begun may not begin now; None if it may. The pool asks this whenever a call begins to
        wait, and for all waiting calls when the answer may have changed."""
        if self.refused is not None:
            return self.refused
        if (spec.users is not None or spec.entitled is not None) and not request.own and (
                reason := spec.barred(request.user_id)):
            return "PLUGIN_DISABLED", f"{spec.id} is not enabled: {reason}", {"reason": reason}
        return None

    def full(self, slot: PluginSlot, user_id: str, now_ns: int) -> Refusal | None:
        """The refusal of a call for which there is no room, or whose plugin's breaker is open; None if it has none."""
        limits = self._bounds.limits
        if len(self._open) >= limits.in_flight_max:
            return "OVERLOADED", "the daemon is full (pool.in_flight)", {}
        queued = slot.queue.live
        if queued:
            share = max(1, limits.queue_max // 4)
            is_full = queued >= limits.queue_max
            if slot.queue.waiting_of(user_id) >= share and (is_full or slot.queue.has_others(user_id)):
                return "OVERLOADED", "this user holds a quarter of the plugin's queue", {"limit": "queue"}
            if is_full and not slot.queue.holds_most(share):
                return "OVERLOADED", "the plugin's queue is full (pool.queue_depth)", {}
        if slot.breaker.open_until_ns and (wait_ns := slot.breaker.refuses_ns(now_ns)):
            return "QUARANTINED", "the plugin failed too often and is paused", retry_after(wait_ns)
        return None

    def _held_back(self, slot: PluginSlot, deadline_ns: int, now_ns: int) -> Refusal | None:
        """The refusal of a call that cannot begin before its deadline, because the plugin's next worker is started
        later: the plugin's workers have ended repeatedly. None otherwise."""
        start_ns = slot.breaker.start_after_ns
        if start_ns < deadline_ns or slot.worker is not None or slot.heir is not None:
            return None
        return "QUARANTINED", HELD_BACK, retry_after(start_ns - now_ns)


def retry_after(wait_ns: int) -> dict[str, object]:
    """The details of a refusal after which the host may try again in ``wait_ns``: milliseconds, rounded up."""
    return {"retryAfterMs": -(-wait_ns // MS_NS)}
