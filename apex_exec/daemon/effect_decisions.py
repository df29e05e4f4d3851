"""Effects that travelled with a hook's answer, or with its next API call: whether each may be, and its record.

A worker has held the same rules against them, as a courtesy: then the hook knows of a refusal already, and the try only
has to be counted. What a worker says is believed in one thing alone, that a try was refused; it gains nothing by that.

Effects that are taken one after the other share a record for each method, which says how many they are. What must not
grow without end is what the ledger keeps, and the loop's time, which is charged where a link is read. So the first
record of a method is the invocation's own, for which a host has asked, and every other one, like every refusal, counts
against the plugin's rate of API calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from apex_exec.core.effects import EffectRefused
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.policy import Allowed, Denied, check
from apex_exec.daemon.running_calls import Running
from workers import wire as inner
from workers.effect_rules import CALLS_MAX, IN_PLACE, NAMED_BY, TOO_MANY_CALLS

if TYPE_CHECKING:
    from apex_exec.daemon.ports import Trail
    from apex_exec.executor.links.worker_link import Refused
    from apex_exec.observe.metrics import Metrics

_clock_ns = time.monotonic_ns


class EffectDecisions:
    """``components`` are those that may be rendered; none: any. ``leaked(spec, user_id, body)`` names the secret
    setting that stands in an effect, or is ""; it is asked for plugins that declare settings."""

    def __init__(self, audit: Trail, metrics: Metrics, components: frozenset[str],
                 leaked: Callable[[PluginSpec, str, bytes], str]) -> None:
        self._leaked = leaked
        self._audit = audit
        self._metrics = metrics
        self._components = components

    def decide(self, running: Running, spec: PluginSpec, tries: Sequence[inner.Effect], now_ns: int, *,
               is_known: bool) -> Refused | str | None:
        """Takes or refuses each of ``tries``, counts it and records it. ``is_known``: the plugin is still served.

        Returns the first refusal of which the hook does not know, (code, method, message); None if there is none; or,
        as text, why the worker has broken the protocol. ``running.paced`` grows by what counts against the rate.
        """
        taken: dict[str, int] = {}  # by method: without a record yet
        try:
            return self._decide(running, spec, tries, taken, now_ns, is_known=is_known)
        finally:
            self._record_taken(running, taken, now_ns, is_known=is_known)

    def _decide(self, running: Running, spec: PluginSpec, tries: Sequence[inner.Effect], taken: dict[str, int],
                now_ns: int, *, is_known: bool) -> Refused | str | None:
        allowed: dict[str, Allowed | Denied] = {}
        failed: Refused | None = None
        unrecorded = None if self._audit.admits(now_ns) else ("audit_unavailable", self._audit.reason)
        for effect in tries:
            method, code = effect.method, effect.code
            running.calls += effect.count
            verdict = allowed.get(method)
            if verdict is None:
                if method not in NAMED_BY:
                    return "an effect that there is not"
                verdict = allowed[method] = check(spec, method, None, time.time())
            if code:
                if code not in IN_PLACE:
                    return "a refusal that no worker gives"
                count = effect.count
            elif (found := unrecorded or self._fault(running, verdict, effect, spec)) is not None:
                code = found[0]
                failed = failed or (code, method, found[1])
                count = 1
            else:
                taken[method] = taken.get(method, 0) + 1
                continue
            self._record_taken(running, taken, now_ns, is_known=is_known)  # records stand in the order of the tries
            self._refused(running, verdict, method, code, count)
            if is_known:
                self._metrics.inc("api_calls_total", (running.plugin, method, code), count)
        return failed

    def _record_taken(self, running: Running, taken: dict[str, int], now_ns: int, *, is_known: bool) -> None:
        """Counts and records what was ``taken`` since the latest record, and empties it."""
        for method, count in taken.items():
            took_ns = (_clock_ns() - now_ns) // count
            facts: dict[str, Any] = {"durationMs": round(took_ns / 1e6, 3)}
            if count > 1:
                facts["effects"] = count
            self._audit.event("plugin.api", running.user_id, running.plugin, method, "success", facts)
            if method in running.recorded:
                running.paced += 1
            running.recorded.add(method)
            if is_known:
                self._metrics.inc("api_calls_total", (running.plugin, method, "ok"), count)
                self._metrics.observe("api_call_duration_seconds", (method,), took_ns / 1e9, count)
        taken.clear()

    def _fault(self, running: Running, verdict: Allowed | Denied, effect: inner.Effect,
               spec: PluginSpec) -> tuple[str, str] | None:
        """Why the effect may not be; None if it was taken. What is tried counts before anybody looks at it."""
        if isinstance(verdict, Denied):
            return "permission_denied", verdict.reason
        if running.calls > CALLS_MAX:
            return "too_many_calls", TOO_MANY_CALLS
        effects, body = running.effects, effect.body
        try:
            effects.tally.tried(len(body))
            if spec.settings and (name := self._leaked(
                    spec, running.user_id, effect.name.encode() + bytes(body))):
                return "secret_in_effect", f"the effect has the secret setting {name} in it"
            effects.take(running.plugin, effect.method, effect.name, body, self._components)
        except EffectRefused as refused:
            return refused.code, str(refused)
        return None

    def _refused(self, running: Running, verdict: Allowed | Denied, method: str, code: str, count: int) -> None:
        """Records refusals. A worker's own word that a permission is missing counts only if it is."""
        running.paced += count
        facts: dict[str, Any] = {"code": code}
        event_type, result = "plugin.api", "failure"
        if code != "permission_denied":
            running.refused.add(code)
        elif isinstance(verdict, Denied):
            running.refused.add(code)
            event_type, result = "access.denied", "denied"
            facts = {"code": code, "reason": verdict.reason[:200], "permission": verdict.permission}
        for _ in range(running.refuse(method, code, count)):
            self._audit.event(event_type, running.user_id, running.plugin, method, result, {**facts, "durationMs": 0.0})
