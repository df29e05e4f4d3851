"""API calls of plugins in the loop: whose each one is, whether it is allowed, where it goes, what is recorded of it.

Nothing in an API call is trusted. It names a call on its link that has begun and was not answered; plugin, user, grants
and deadline are taken from that call. An API call in the name of a call that was answered is a leftover of an earlier
user's task and refused; any other is a violation. Nothing here waits: effects are answered at once, everything else
when the gateway, or the host, has answered.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec

from apex_exec.catalogue import methods
from apex_exec.catalogue.methods import API_AT_ONCE
from apex_exec.core import events as ev
from apex_exec.core.deadline import NEVER_NS
from apex_exec.core.effects import EffectRefused
from apex_exec.core.limits import MS_NS
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.policy import Denied, check
from apex_exec.core.rate_window import Pace, SharedWindow
from apex_exec.core.scheduler.pool import Pool
from apex_exec.daemon.duties import Duty
from apex_exec.daemon.effect_decisions import EffectDecisions
from apex_exec.daemon.hosts.connections import Peer
from apex_exec.daemon.hosts.host_methods import HostMethods
from apex_exec.daemon.running_calls import MARGIN_NS, Asked, Running
from apex_exec.daemon.sides.side_process import SideProcess
from apex_exec.daemon.sides.trace_feed import note_api
from apex_exec.executor.links.worker_link import WorkerLink
from apex_exec.gateway import messages
from apex_exec.ledger.chain import own_chain
from apex_exec.ledger.records import AuditRecord
from apex_exec.wire import messages as msg
from apex_exec.wire.values import CONTAINERS_MAX, containers, containers_at_most
from workers import wire as inner
from workers.effect_rules import CALLS_MAX, TRIES_AT_ONCE_BYTES

if TYPE_CHECKING:
    from apex_exec.config import Settings
    from apex_exec.daemon.plugin_settings import PluginSettings
    from apex_exec.daemon.ports import Trail
    from apex_exec.daemon.tenants import Tenants
    from apex_exec.executor.links.overhead import Overhead
    from apex_exec.observe.metrics import Metrics
    from apex_exec.observe.traces.messages import Call

CALLS_ABUSE = 4 * CALLS_MAX
"""Kill a plugin that keeps calling after this many refusals: that is abuse, not a bug."""
STRAYS_MAX = 1000
"""How many API calls in the name of calls that were answered before we tolerate while another call runs."""
BYTES_MAX = 16 * 1024 * 1024
"""Parameters and results of one invocation, in all."""
NO_FACTS: Mapping[str, Any] = {}
FREE_CONTAINERS = CONTAINERS_MAX // CALLS_MAX
"""Parameters that are too short to have more lists and maps than this are not counted."""


def event_of(method: str) -> str:
    """The type of the audit event for an API call of ``method``, even if there is no such method."""
    known = methods.METHODS.get(method)
    return known.event if known is not None else "plugin.api"


def is_write(method: str) -> bool:
    """Whether ``method`` is a write, whose record comes with the write itself, by way of the outbox."""
    known = methods.METHODS.get(method)
    return known is not None and known.is_write


USERS_SHARE = "one user makes a quarter of the requests a minute while others use the plugin"


class ApiCalls:
    """All API calls of the daemon. ``side`` is the gateway process, which is not attached yet."""

    def __init__(self, settings: Settings, pool: Pool, *, send: Callable[[WorkerLink, Any], None],
                 step: Callable[[ev.Event, int], None], side_changed: Callable[[SideProcess], None],
                 wake: Callable[[SideProcess], None], metrics: Metrics, audit: Trail, overhead: Overhead,
                 add_host_ns: Callable[[str, int], None], plugin_settings: PluginSettings,
                 tenants: Tenants) -> None:
        # Outbox records are this state folder's, whatever its machine is called; before, they had the names of both.
        chain = own_chain(settings.state_path, f"{platform.node()}:{settings.state_path.absolute()}")
        self.side = SideProcess("gateway", "apex_exec.gateway.process:main", {
            "tables": {name: entry.model_dump() for name, entry in settings.data.tables.items()},
            "data_url": settings.database_url(settings.data.url), "prepared": settings.data.prepares,
            "log_ahead": settings.data.write_ahead_log,
            "hosts": settings.fetch.allow,
            "allow_private": settings.fetch.allow_private, "internal": settings.fetch.internal,
            "ca_file": settings.fetch.ca_file, "log": settings.log.model_dump(),
            "fleet": {"node": settings.fleet.node},
            "storage": {
                "url": settings.database_url(settings.storage.url), "user_bytes": settings.storage.user_bytes,
                "plugin_bytes": settings.storage.plugin_bytes},
            "origin": "\n".join(filter(None, (chain.id, chain.formerly)))},
            handlers={
                messages.Done: self._gateway_done, messages.Failed: self._gateway_failed,
                messages.Hop: self._gateway_hops, messages.Spent: self._gateway_spent,
                messages.Written: self._outgoing, messages.TenantsFound: tenants.found},
            on_up=self._gateway_up, on_down=self._gateway_down)
        self.calls_per_second = settings.limits.api_calls_per_second
        self._plugin_settings = plugin_settings
        self._tenants = tenants
        self._overhead = overhead
        self._add_host_ns = add_host_ns
        self._paces: dict[str, Pace] = {}
        self.components = frozenset(settings.ui.components)
        self._pool = pool
        self._send = send
        self._step = step
        self._side_changed = side_changed
        self._wake = wake
        self._metrics = metrics
        self._audit = audit
        self._hosts = HostMethods(self._anomaly)
        self._effects = EffectDecisions(audit, metrics, self.components, plugin_settings.leaked)
        self._running: dict[int, Running] = {}
        self._asked: dict[int, Asked] = {}
        self.at_gateway: Mapping[int, object] = self._asked
        self._next_number = 1
        self._windows: dict[str, SharedWindow] = {}
        self.closed_ns: Callable[[str, int], int] | None = None
        """In a fleet: how long the window of a plugin's requests stays closed at this node, by plugin and time."""
        self.came_from: Callable[[int], Peer | None] | None = None
        """In a fleet: the node that a call came from, by the call's number."""
        self.spans: Mapping[int, Call] = {}
        """The calls that are traced; set if traces are exported."""
        self.duty = Duty("API calls that nobody answered", NEVER_NS, self._expire)

    # ------------------------------------------------------------------ one call
    def handle(self, link: WorkerLink, message: inner.ApiCall, now_ns: int) -> None:
        """Takes one API call; its ApiReply goes out now or later."""
        self._pace(link, now_ns, 1)
        found = self._running_on(link, message.seq, now_ns)
        if found is None:
            if not link.broken:
                self._answer(link, message.api_id, "cancelled", "the invocation that made this call has ended")
            return
        running, request = found
        running.calls += 1
        running.bytes += len(message.params)
        if running.calls > CALLS_ABUSE or message.api_id in running.open:
            self._violated(link, "an API call's number is in use, or the calls do not end", now_ns)
            return
        asked = Asked(self._next_number, message.api_id, link, request.call, request.plugin, request.user_id,
                      message.method, message.method, now_ns)
        self._next_number += 1
        if self.spans:
            asked.span = self.spans.get(request.call)
        running.open[asked.api_id] = asked
        self._decide(asked, running, message, request.deadline_ns)

    def effects(self, link: WorkerLink, message: inner.Effects, now_ns: int) -> None:
        """Decides on effects, which get no answer. The first effect that is refused here, and that the worker had not
        refused itself, fails the hook: its code is kept with the link until the hook's answer, which usually arrives
        in the same write."""
        count = sum(effect.count for effect in message.tries)
        if count > CALLS_ABUSE:  # before it is paced: a number is free, and would hold the plugin's links for years
            self._violated(link, "effects without end, or too much of them at once", now_ns)
            return
        found = self._running_on(link, message.seq, now_ns)
        if found is None:
            self._pace(link, now_ns, count)
            return
        running, request = found
        if running.calls + count > CALLS_ABUSE or (len(message.tries) > 1 and sum(
                len(effect.body) for effect in message.tries) > TRIES_AT_ONCE_BYTES):
            self._violated(link, "effects without end, or too much of them at once", now_ns)
            return
        spec, before = self._spec(request.plugin, link), running.paced
        failed = self._effects.decide(running, spec, message.tries, now_ns,
                                      is_known=self._pool.spec(request.plugin) is not None)
        if running.paced > before:
            self._pace(link, now_ns, running.paced - before)
        if isinstance(failed, str):
            self._violated(link, failed, now_ns)
        elif failed is not None:
            link.refused.setdefault(message.seq, failed)

    def _running_on(self, link: WorkerLink, seq: int, now_ns: int) -> tuple[Running, ev.InvokeRequested] | None:
        """The call that runs as ``seq``, and its API calls so far. None if it was answered, or if the link has no such
        call, which is a violation."""
        state, request = self._pool.on_link(link.worker, seq)
        if state == "never":
            self._violated(link, "an API call for a hook that does not run", now_ns)
            return None
        if request is None or not self._pool.is_open(call := request.call):
            link.strays += 1
            if link.strays > STRAYS_MAX:
                self._violated(link, "no end of API calls for a call that was answered", now_ns)
            return None
        running = self._running.get(call)
        if running is None:
            if not link.has_begun(seq):
                self._violated(link, "an API call for a hook that it has not begun", now_ns)
                return None
            running = self._running[call] = Running(request.plugin, request.user_id, now_ns, request.deadline_ns)
            if link.spec.network_allow and not request.own:  # a canary is nobody who shares the requests
                self._window(link.spec).present(request.user_id, now_ns)
        return running, request

    def give_up(self, link: WorkerLink, message: inner.ApiCancel, now_ns: int) -> None:
        """Ends an API call for which its hook does not wait any more, at the gateway or at the host. Does nothing if
        the API call, or its hook's call, was answered meanwhile."""
        self._pace(link, now_ns, 1)
        _, request = self._pool.on_link(link.worker, message.seq)
        if request is None:
            return
        running = self._running.get(request.call)
        asked = running.open.get(message.api_id) if running is not None else None
        if asked is not None:
            self._abandon(asked, "cancelled", "the hook waits for this call no longer")

    def _pace(self, link: WorkerLink, now_ns: int, count: int) -> None:
        """Counts API calls, refused or not, honest or not, and those effects that cost the ledger more than the
        invocation itself (``effect_decisions``). If a plugin makes more than its rate allows,
        its links are not read for a while: the API calls wait there, and only this plugin's messages wait behind
        them."""
        plugin = link.spec.id
        pace = self._paces.get(plugin)
        if pace is None:
            pace = self._paces[plugin] = Pace(self.calls_per_second, CALLS_MAX, now_ns)
        pace.rate = self.calls_per_second
        wait_ns = pace.take(now_ns, count)
        if wait_ns:
            link.paced = True
            self._overhead.reading.defer(plugin, now_ns + wait_ns, now_ns)

    def _decide(self, asked: Asked, running: Running, message: inner.ApiCall, deadline_ns: int) -> None:
        method, now_ns = message.method, asked.begun_ns
        known = methods.METHODS.get(method)
        if known is None:
            asked.method = asked.action = "unknown"
            self._refuse(asked, "unknown_method", "there is no such API method")
            return
        if len(message.params) > inner.API_PARAMS_BYTES_MAX:
            self._refuse(asked, "too_large", f"a call's parameters have at most {inner.API_PARAMS_BYTES_MAX} bytes")
            return
        if running.calls > CALLS_MAX or len(running.open) > API_AT_ONCE or running.bytes > BYTES_MAX:
            self._refuse(asked, "too_many_calls", f"one invocation makes at most {CALLS_MAX} API calls, "
                                                  f"{API_AT_ONCE} at once, with {BYTES_MAX} bytes in all")
            return
        params = bytes(message.params)
        if known.route == "gateway":  # those of the others are looked through here (``wire.values.check_in_loop``)
            cost = containers_at_most(params)
            running.containers += cost if cost <= FREE_CONTAINERS else containers(params, 1)
        if running.containers > CONTAINERS_MAX:
            self._refuse(asked, "too_large", f"the parameters of one invocation have at most {CONTAINERS_MAX} lists and"
                                             " maps")
            return
        if now_ns >= deadline_ns:
            self._refuse(asked, "deadline_exceeded", "the invocation's time is over")
            return
        if not self._audit.admits(now_ns):
            self._refuse(asked, "audit_unavailable", self._audit.reason)
            return
        spec = self._spec(asked.plugin, asked.link)
        request: methods.HostMethod | None = None
        if known.route == "host":  # its permission depends on its content, whose own parameters are not decoded
            try:
                request = cast("methods.HostMethod", methods.decode(method, params))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
                self._refuse(asked, "invalid_params", str(error)[:200])
                return
            asked.action = request.method
        verdict = check(spec, method, request, time.time())
        if isinstance(verdict, Denied):
            self._refuse(asked, "permission_denied", verdict.reason, event="access.denied", result="denied",
                         permission=verdict.permission)
        elif request is not None:
            self._call_host(asked, request, deadline_ns)
        elif known.route == "effect":
            self._effect(asked, running, params)
        else:  # decoded by the gateway alone: what a call's parameters cost, the loop must not pay
            self._call_gateway(asked, known, spec, message, deadline_ns)

    def _effect(self, asked: Asked, running: Running, params: bytes) -> None:
        """Collects an effect that came as an API call. It counts before it is decoded, whether it is taken or not."""
        try:
            running.effects.tally.tried(len(params))
            request = cast("methods.RenderWidget | methods.Emit", methods.decode(asked.method, params))
            if asked.link.spec.settings and (
                    name := self._plugin_settings.leaked(asked.link.spec, asked.user_id, params)):
                raise EffectRefused("secret_in_effect", f"the effect has the secret setting {name} in it")
            running.effects.add(asked.plugin, request, self.components)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
            self._refuse(asked, "invalid_params", str(error)[:200])
        except EffectRefused as refused:
            self._refuse(asked, refused.code, str(refused))
        else:
            self._done(asked, bytes(inner.NIL), {})

    def _spec(self, plugin: str, link: WorkerLink) -> PluginSpec:
        """The spec with the permissions that are in force now for the code that runs, so that a revocation takes effect
        at once."""
        now = self._pool.spec(plugin)
        spec = link.spec
        return now if now is not None and now.digest == spec.digest else spec

    def _call_gateway(self, asked: Asked, known: methods.Method, spec: PluginSpec, message: inner.ApiCall,
                      deadline_ns: int) -> None:
        if known.rate == "network":
            retry_ms, why = self._rate(asked, spec)
            if retry_ms:
                self._refuse(asked, "rate_limited", why, retry_ms, event="security.rate_limit", result="denied")
                return
        self._wake(self.side)
        due_ns = asked.begun_ns + self._time_of(asked, deadline_ns)
        sent = self._tell(messages.Call(
            asked.number, asked.method, asked.plugin, asked.user_id, spec.tables, spec.network_allow, due_ns,
            bytes(message.params), spec.limits.cpu_percent / 100, "data:read" in spec.permissions,
            self._plugin_settings.injected(spec, asked.user_id) if spec.settings and asked.method == "fetch" else (),
            asked.span is not None))
        if sent:
            self._asked[asked.number] = asked
        else:
            self._refuse(asked, known.away, "the gateway is being started")

    def _time_of(self, asked: Asked, deadline_ns: int) -> int:
        """How many nanoseconds the gateway or the host may take for the API call. ``_expire`` answers it after that."""
        left_ns = deadline_ns - asked.begun_ns
        self.duty.due_ns = min(self.duty.due_ns, self._running[asked.call].last_word_ns)
        return left_ns - min(MARGIN_NS, left_ns // 5)

    def _expire(self, now_ns: int) -> bool:
        """Answers API calls that the gateway or a host has not answered in time."""
        self.duty.due_ns = self._hosts.expire(now_ns) or NEVER_NS
        for running in list(self._running.values()):
            if not running.open:
                continue
            if now_ns < running.last_word_ns:
                self.duty.due_ns = min(self.duty.due_ns, running.last_word_ns)
                continue
            for asked in list(running.open.values()):
                self._abandon(asked, "deadline_exceeded", "no answer in time; whether it took effect is not known")
        return False

    def _window(self, spec: PluginSpec) -> SharedWindow:
        """The window that counts the plugin's requests a minute. It has the limit of the version that serves, since a
        canary's limit would make the window forget what that version has asked for."""
        limit = (self._pool.spec(spec.id) or spec).limits.network_per_minute
        window = self._windows.get(spec.id)
        if window is None:
            window = self._windows[spec.id] = SharedWindow(limit)
        window.resize(limit)
        return window

    def _rate(self, asked: Asked, spec: PluginSpec) -> tuple[int, str]:
        """Counts one request. Returns how many milliseconds the plugin must wait, and why; 0 if it need not."""
        now_ns = time.monotonic_ns()
        if self.closed_ns is not None and (wait_ns := self.closed_ns(asked.plugin, now_ns)):
            self._metrics.inc("rate_limited_total", (asked.plugin, "network"))
            return -(-wait_ns // MS_NS), "this node has just taken the plugin over, and does not know its last minute"
        wait_ns, is_users = self._window(spec).take(asked.user_id, now_ns)
        if not wait_ns:
            return 0, ""
        self._metrics.inc("rate_limited_total", (asked.plugin, "network"))
        if is_users:
            self._metrics.inc("user_limited_total", (asked.plugin, "network"))
        return -(-wait_ns // MS_NS), USERS_SHARE if is_users else "too many requests a minute"

    def _call_host(self, asked: Asked, request: methods.HostMethod, deadline_ns: int) -> None:
        def answered(result: bytes, code: str, message: str) -> None:
            if code:
                self._refuse(asked, code, message)
            else:
                self._done(asked, result, {})

        asked.host_call = self._hosts.call(
            request, asked.plugin, asked.user_id, self._time_of(asked, deadline_ns) // MS_NS, answered,
            came_from=self.came_from(asked.call) if self.came_from is not None else None)
        if (due_ns := self._hosts.expire(asked.begun_ns)):  # it may wait for a host that comes back
            self.duty.due_ns = min(self.duty.due_ns, due_ns)

    # ------------------------------------------------------------------ answers
    def _done(self, asked: Asked, value: bytes, facts: dict[str, Any], *, recorded: bool = False) -> None:
        """The API call has its result. ``recorded`` says that its record comes by way of the outbox."""
        running = self._running.get(asked.call)
        if running is not None:
            running.bytes += len(value)
            if running.bytes > BYTES_MAX and not recorded:  # a write has been done, so its answer must say so
                self._refuse(asked, "too_large", f"the results of one invocation have at most {BYTES_MAX} bytes; "
                                                "the call was made")
                return
        self._close(asked, "ok", facts)
        if not recorded:
            self._record(asked, event_of(asked.method), "success", facts)
        self._send(asked.link, inner.ApiReply(asked.api_id, True, msgspec.Raw(value)))

    def _refuse(self, asked: Asked, code: str, message: str, retry_after_ms: int = 0, *, event: str = "",
                result: str = "failure", permission: str = "") -> None:
        """The API call has failed, or was refused, with one of the API's codes."""
        self._close(asked, code)
        running = self._running.get(asked.call)
        if running is not None and not running.refuse(asked.method, code):
            self._answer(asked.link, asked.api_id, code, message, retry_after_ms)
            return
        facts: dict[str, Any] = {"code": code}
        if result == "denied":
            facts["reason"] = message[:200]
        if permission:
            facts["permission"] = permission
        if retry_after_ms:
            facts["retryAfterMs"] = retry_after_ms
        self._record(asked, event or event_of(asked.method), result, facts)
        self._answer(asked.link, asked.api_id, code, message, retry_after_ms)

    def _close(self, asked: Asked, outcome: str, facts: Mapping[str, Any] = NO_FACTS) -> None:
        """Forgets the API call, and counts it by its outcome."""
        if asked.span is not None:
            note_api(asked.span, asked, outcome, facts)
        self._asked.pop(asked.number, None)
        running = self._running.get(asked.call)
        if running is not None:
            running.open.pop(asked.api_id, None)
            if outcome != "ok":
                running.refused.add(outcome)
        if asked.method in methods.METHODS and self._pool.spec(asked.plugin) is not None:
            self._metrics.inc("api_calls_total", (asked.plugin, asked.method, outcome))
            self._metrics.observe("api_call_duration_seconds", (asked.method,),
                                  (time.monotonic_ns() - asked.begun_ns) / 1e9)

    def _record(self, asked: Asked, event: str, result: str, facts: dict[str, Any]) -> None:
        facts["durationMs"] = round((time.monotonic_ns() - asked.begun_ns) / 1e6, 3)
        self._audit.event(event, asked.user_id, asked.plugin, asked.action, result, facts)

    def _answer(self, link: WorkerLink, api_id: int, code: str, message: str, retry_after_ms: int = 0) -> None:
        self._send(link, inner.ApiReply(api_id, False, inner.NIL, code, message[:500], retry_after_ms))

    def _violated(self, link: WorkerLink, why: str, now_ns: int) -> None:
        self._audit.event("security.anomaly", "", link.spec.id, "api", "denied", {"why": why})
        self._step(ev.WorkerViolated(link.worker, why), now_ns)

    # ------------------------------------------------------------------ the gateway process
    def ask_tenants(self, message: messages.TenantsAsked) -> bool:
        """Has the gateway look up a user's tenants. False if it cannot now."""
        self._wake(self.side)
        return self._tell(message)

    def _tell(self, message: msgspec.Struct) -> bool:
        if not self.side.send(message):
            return False
        if self.side.wants_write:
            self._side_changed(self.side)
        return True

    def _gateway_spent(self, message: messages.Spent) -> None:
        self._overhead.count(message.plugin, "gateway", message.cpu_ns)
        self._overhead.charge(message.plugin, message.cpu_ns, time.monotonic_ns())
        self._add_host_ns(message.plugin, message.cpu_ns)

    def _gateway_done(self, message: messages.Done) -> None:
        asked = self._asked.get(message.id)
        if asked is None:
            return  # cancelled meanwhile
        if asked.is_over:  # a write that was committed has its record already
            self._asked.pop(asked.number, None)
            return
        begun_ns = time.thread_time_ns()
        asked.work = message.work
        self._done(asked, message.value, message.facts, recorded=is_write(asked.method))
        self._charge(asked.plugin, time.thread_time_ns() - begun_ns)

    def _charge(self, plugin: str, spent_ns: int) -> None:
        """Charges the loop's own time for the answer to an API call."""
        self._overhead.count(plugin, "supervisor", spent_ns)
        self._overhead.read(plugin, spent_ns, time.monotonic_ns())

    def _gateway_failed(self, message: messages.Failed) -> None:
        asked = self._asked.get(message.id)
        if asked is None:
            return
        code, text = message.code, message.message
        asked.work = message.work
        if asked.is_over:
            self._failed_late(asked, code)
        elif code == "rate_limited":
            self._refuse(asked, code, text, message.retry_after_ms, event="security.rate_limit", result="denied")
        elif code in ("host_not_allowed", "address_not_allowed", "table_not_allowed", "permission_denied"):
            self._refuse(asked, code, text, event="access.denied", result="denied",
                         permission="data:read" * (code == "permission_denied"))
        else:
            self._refuse(asked, code, text)

    def _failed_late(self, asked: Asked, code: str) -> None:
        """A write failed after its invocation had ended: only the record of the write was still open."""
        self._asked.pop(asked.number, None)
        self._record(asked, event_of(asked.method), "failure", {"code": code})

    def _gateway_hops(self, message: messages.Hop) -> None:
        asked = self._asked.get(message.id)
        if asked is not None and not asked.is_over:
            self._tell(messages.Pass(asked.number, self._rate(asked, self._spec(asked.plugin, asked.link))[0]))

    def _outgoing(self, written: messages.Written) -> None:
        """A write is committed in the platform's database. Once its record is committed in the ledger, the write may
        leave the outbox."""
        index = self._audit.record(AuditRecord(
            written.timestamp_ns, written.event_type, written.user_id, written.plugin, written.action, "success",
            written.metadata, written.record_id))

        def recorded() -> None:
            self._tell(messages.Recorded([written.record_id]))  # not taken: found again at the gateway's next start

        self._audit.when_committed(index, recorded)

    def _gateway_up(self) -> None:
        """The gateway runs, for the first time or again."""
        self._metrics.health["gateway"] = ""

    def _gateway_down(self) -> None:
        """The gateway died, and will not answer the API calls that it was given."""
        self._metrics.health["gateway"] = "the gateway process died and is being restarted"
        self._tenants.lost()
        for asked in list(self._asked.values()):
            if asked.is_over:
                self._failed_late(asked, "gateway_lost")
                continue
            self._refuse(asked, "gateway_lost", "the gateway died during the call; it may have taken effect")

    # ------------------------------------------------------------------ the invocation's end
    def refused(self, worker: int, seq: int, code: str) -> bool:
        """Whether an API call of the hook that runs as ``seq`` was answered with ``code``."""
        request = self._pool.on_link(worker, seq)[1]
        if request is None:
            return False
        running = self._running.get(request.call)
        return running is not None and code in running.refused

    def invocation_ended(self, call: int) -> list[Any]:
        """The invocation has its verdict. Returns its effects, in order, and cancels its API calls that are under way,
        at the gateway and at the host."""
        running = self._running.pop(call, None)
        if running is None:
            return []
        for method, codes in running.unrecorded.items():
            self._audit.event("access.denied", running.user_id, running.plugin, method, "denied",
                              {"count": codes.total(), "codes": dict(codes)})
        for asked in list(running.open.values()):
            self._abandon(asked, "cancelled", "the invocation has ended")
        return running.effects.items

    def _abandon(self, asked: Asked, code: str, message: str) -> None:
        """Answers an API call that the gateway or a host still works on, and has that work stopped."""
        if asked.host_call:
            was_asked = self._hosts.forget(asked.host_call, is_late=code == "deadline_exceeded")
            if not was_asked and code == "deadline_exceeded":
                code, message = "not_provided", f"no host provides {asked.action} now; none was asked"
        elif asked.number in self._asked and self._tell(messages.Cancel(asked.number)) and is_write(asked.method):
            asked.is_over = True  # whether it was committed is the gateway's to say
            running = self._running.get(asked.call)
            if running is not None:
                running.open.pop(asked.api_id, None)
                running.refused.add(code)
            if asked.span is not None:
                note_api(asked.span, asked, code, NO_FACTS)
            self._answer(asked.link, asked.api_id, code, message)
            return
        self._refuse(asked, code, message)

    # ------------------------------------------------------------------ hosts
    def provide(self, peer: Peer, methods: list[str]) -> tuple[list[str], list[str]]:
        """``peer`` offers to serve host methods; those it serves now, and those it stands by for. Raises WireError."""
        return self._hosts.provide(peer, methods)

    def host_reply(self, peer: Peer, reply: msg.HostReply) -> None:
        """``peer`` answers a hostCall, or claims to. Looking through the largest answer takes milliseconds, which are
        charged to the plugin that made the API call."""
        begun_ns = time.thread_time_ns()
        plugin = self._hosts.host_reply(peer, reply)
        if plugin:
            self._charge(plugin, time.thread_time_ns() - begun_ns)

    def peer_gone(self, peer: Peer) -> None:
        """The connection ended: it provides nothing any longer, and owes no answer."""
        self._hosts.peer_gone(peer)

    def _anomaly(self, kind: str, _peer: Peer) -> None:
        self._metrics.inc("protocol_anomalies_total", (kind,))
        if kind == "foreign_reply":
            self._audit.event("security.anomaly", "", "host", "hostReply", "denied", {"kind": kind})

    # ------------------------------------------------------------------ the fleet's
    @property
    def host_methods(self) -> HostMethods:
        """Which host provides which method; the other nodes of a fleet learn of it and call it here."""
        return self._hosts

    def hand_over(self, plugins: set[str], now_ns: int) -> dict[str, list[tuple[int, str]]]:
        """Removes the windows of ``plugins`` and returns what they have counted: another node counts from now on."""
        found = {plugin: self._windows.pop(plugin).handed_over(now_ns) for plugin in plugins & self._windows.keys()}
        return {plugin: tries for plugin, tries in found.items() if tries}

    def adopt(self, plugin: str, tries: list[tuple[int, str]], now_ns: int) -> None:
        """Continues the count of another node."""
        spec = self._pool.spec(plugin)
        if spec is not None:
            self._window(spec).adopt(tries, now_ns)

    def forget_plugin(self, plugin: str) -> None:
        """The plugin was removed."""
        self._windows.pop(plugin, None)
        self._paces.pop(plugin, None)
