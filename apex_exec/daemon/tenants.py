"""Which tenant a user has, as the platform's database says by ``via`` of ``data.tables``: for settings of tenants.

A call whose plugin has values of tenants waits here until the gateway has said it; every other call never comes here.
If the database cannot say it, the call is refused: without its tenant's values it might do what the tenant has
forbidden. A user of several tenants has none here, since nobody could say whose values count.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from apex_exec.core import events as ev
from apex_exec.core.actions import Verdict
from apex_exec.core.deadline import NEVER_NS
from apex_exec.core.limits import MS_NS, SECOND_NS
from apex_exec.daemon.duties import Duty
from apex_exec.errors import Code
from apex_exec.gateway.messages import TenantsAsked, TenantsFound

FRESH_NS = 30 * SECOND_NS
"""A membership that has changed counts after this time."""
ANSWER_NS_MAX = 2 * SECOND_NS
USERS_MAX = 10_000
WAITING_MAX = 1_000


class Tenants:
    """``ask(message)`` gives the gateway a question, False if it cannot; ``step`` and ``verdict`` are those of the core
    and of what becomes of a verdict. ``has_any``: whether ``data.tables`` names memberships at all."""

    def __init__(self, *, has_any: bool) -> None:
        self.ask: Callable[[TenantsAsked], bool] = lambda _message: False
        self.step: Callable[[ev.Event, int], None] = lambda _event, _now_ns: None
        self.verdict: Callable[[Verdict], None] = lambda _verdict: None
        self.duty = Duty("tenants that nobody has named", NEVER_NS, self._expire)
        self._has_any = has_any
        self._known: dict[str, tuple[str, int]] = {}
        self._waiting: dict[str, list[ev.InvokeRequested]] = {}
        self._asked_ns: dict[str, int] = {}

    def of(self, user_id: str) -> str:
        """The user's only tenant as it was last said; "" if there is none, or are several."""
        return self._known.get(user_id, ("", 0))[0]

    def submit(self, event: ev.InvokeRequested, now_ns: int) -> None:
        """Gives ``event`` to the core, now if the tenant of its user is known and else as soon as it is."""
        user_id = event.user_id
        if not self._has_any or self._known.get(user_id, ("", 0))[1] > now_ns:
            self.step(event, now_ns)
            return
        if len(self._asked_ns) >= WAITING_MAX:
            self._refuse(event, "too many users' tenants are asked for")
            return
        self._waiting.setdefault(user_id, []).append(event)
        if user_id not in self._asked_ns:
            due_ns = now_ns + ANSWER_NS_MAX
            if not self.ask(TenantsAsked(user_id, due_ns)):
                self._end(user_id, "the gateway is being started")
                return
            self._asked_ns[user_id] = due_ns
        self.duty.due_ns = min(self.duty.due_ns, event.deadline_ns, self._asked_ns[user_id] + 100 * MS_NS)

    def found(self, message: TenantsFound) -> None:
        """The gateway's answer."""
        if message.trouble:
            self._end(message.user_id, message.trouble)
            return
        if len(self._known) >= USERS_MAX:
            self._known.clear()
        now_ns = time.monotonic_ns()
        tenant = message.tenants[0] if len(message.tenants) == 1 else ""
        self._known[message.user_id] = (tenant, now_ns + FRESH_NS)
        self._asked_ns.pop(message.user_id, None)
        for event in self._waiting.pop(message.user_id, []):
            self.step(event, now_ns)

    def lost(self) -> None:
        """The gateway died: it answers nothing that it was asked."""
        for user_id in list(self._waiting):
            self._end(user_id, "the gateway died")

    def release(self, call: int, now_ns: int) -> None:
        """Gives a call that waits here to the core, which is about to end it."""
        for events in self._waiting.values():
            for event in events:
                if event.call == call:
                    events.remove(event)
                    self.step(event, now_ns)
                    return

    def _expire(self, now_ns: int) -> bool:
        """Refuses what waited too long, and lets the core judge what is past its deadline."""
        self.duty.due_ns = NEVER_NS
        for user_id, due_ns in list(self._asked_ns.items()):
            if now_ns >= due_ns + 100 * MS_NS:
                self._end(user_id, "the database did not answer in time")
                continue
            left = []
            for event in self._waiting.get(user_id, ()):
                if event.deadline_ns <= now_ns:
                    self.step(event, now_ns)
                else:
                    left.append(event)
            self._waiting[user_id] = left
            self.duty.due_ns = min(self.duty.due_ns, due_ns + 100 * MS_NS, *(event.deadline_ns for event in left))
        return False

    def _end(self, user_id: str, why: str) -> None:
        self._asked_ns.pop(user_id, None)
        for event in self._waiting.pop(user_id, []):
            self._refuse(event, why)

    def _refuse(self, event: ev.InvokeRequested, why: str) -> None:
        self.verdict(Verdict(
            call=event.call, plugin=event.plugin, hook=event.hook, user_id=event.user_id,
            code=Code.PLUGIN_DISABLED.value, body=None, details={"reason": "tenant_unknown"}, started=False, queue_ns=0,
            run_ns=0, cold=False, admitted=False,
            message=f"{event.plugin} has settings of tenants, and the user's tenant cannot be had: {why}"[:300]))
