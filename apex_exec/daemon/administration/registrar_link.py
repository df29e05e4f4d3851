"""The supervisor's side of the registrar process: operations that touch disk or database go there and come back.

``registrar_messages`` has what both say to each other. A registrar that dies has every operation in flight answered:
done or not is then unknown, and the answer says so.

A snapshot is all that the registry wants served, in several messages; ``Specs`` and ``Removed`` are single changes
after it. ``plugin_sources`` computes what that changes. A registrar begins with a snapshot, so whatever a dead
registrar had committed and could not say holds as soon as the next one is up.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from apex_exec import extras
from apex_exec.core.plugin import PluginSpec
from apex_exec.daemon.administration import registrar_messages as messages
from apex_exec.daemon.plugin_sources import PluginSources, Snapshot
from apex_exec.daemon.sides.side_process import SideProcess
from apex_exec.errors import Code
from apex_exec.observe.metrics import METRICS

if TYPE_CHECKING:
    from apex_exec.daemon.plugin_settings import PluginSettings
    from apex_exec.daemon.ports import Trail
    from apex_exec.executor.guard import Guard
    from apex_exec.executor.links.overhead import Overhead
    from apex_exec.executor.loop import Loop
    from apex_exec.observe.logs import Logs
    from apex_exec.observe.metrics import Metrics

PENDING_MAX = 1000
Done = Callable[[Any], None]
Refused = Callable[[str, str, dict[str, Any]], None]
Answer = Callable[[bool, Any], None]
Ask = Callable[[dict[str, Any], Answer], None]
"""``ask(params, answer)``: ``answer(ok, value)`` is called once, then or later."""


class Registrar(Protocol):
    """What the daemon asks of the registry, whether there is one or not."""

    def run(self, op: str, args: msgspec.Struct, uid: int, done: Done, refused: Refused) -> None:
        """Has one operation carried out; exactly one of the callbacks is called, then or later."""

    def wait_ready(self, seconds: float) -> bool:
        """Blocks until every installed plugin is known, for ``seconds`` at most."""

    def configure(self, settings: dict[str, Any]) -> None:
        """Goes on with other settings."""


class NoRegistrar:
    """Stands for the registrar if the extra that it needs is not installed: every operation is refused, and the answer
    names the extra."""

    def run(self, op: str, args: msgspec.Struct, uid: int, done: Done, refused: Refused) -> None:
        """Refuses it."""
        refused(Code.REFUSED, extras.words("registry", op), {"reason": "extra_missing", "extra": "registry"})

    def wait_ready(self, seconds: float) -> bool:
        """Nothing is installed, so all of it is known."""
        return True

    def configure(self, settings: dict[str, Any]) -> None:
        """Does nothing: there is nobody to configure."""


class RegistrarLink:
    """``side`` is the process, which is not attached yet. It is started with ``settings``, the whole configuration as
    one map; ``asks`` are what it may have the supervisor do."""

    def __init__(self, settings: dict[str, Any], asks: dict[str, Ask], sources: PluginSources,
                 plugin_settings: PluginSettings, *, loop: Loop,
                 guard: Guard, metrics: Metrics, logs: Logs, audit: Trail, overhead: Overhead) -> None:
        self.side = SideProcess("registrar", "apex_exec.daemon.administration.registrar:main", settings,
                                handlers={
                                    messages.Done: self._done, messages.Refused: self._refused,
                                    messages.Snapshot: self._take_snapshot, messages.Specs: self._take_specs,
                                    messages.Removed: self._removed, messages.Ready: self._has_told_all,
                                    messages.Health: self._health, messages.LedgerHealth: self._ledger_health,
                                    messages.ChainHealth: self._chain_health,
                                    messages.Metric: self._measure, messages.Audit: self._record,
                                    messages.SettingsOf: plugin_settings.take,
                                    messages.SettingsTold: plugin_settings.told,
                                    messages.Spent: self._spent, messages.Ask: self._ask},
                                on_down=self._down)
        self._settings = settings
        self._asks = asks
        self._sources = sources
        self._ready = False
        self._told = False
        self._loop = loop
        self._guard = guard
        self._metrics = metrics
        self._logs = logs
        self._audit = audit
        self._overhead = overhead
        self._pending: dict[int, tuple[Done, Refused]] = {}
        self._next = 1
        self._snapshot = Snapshot(sources, "registry")
        """The snapshot that is arriving, or is to arrive next."""

    def run(self, op: str, args: msgspec.Struct, uid: int, done: Done, refused: Refused) -> None:
        """Sends one operation; exactly one of the callbacks is called, then or later."""
        if len(self._pending) >= PENDING_MAX:
            refused(Code.OVERLOADED, "the registrar has too many operations waiting; try again in a few seconds",
                    {"reason": "registrar_busy"})
            return
        self._loop.wake(self.side)
        number, self._next = self._next, self._next + 1
        if not self.side.send(messages.Op(number, op, msgspec.to_builtins(args, builtin_types=(bytes,)), uid)):
            refused(Code.INTERNAL, "the registrar is being restarted, so nothing was done; try again in a few "
                                   "seconds", {"reason": "registrar_down"})
            return
        self._pending[number] = (done, refused)
        self._loop.side_changed(self.side)

    # ------------------------------------------------------------------ what the registrar says
    def _done(self, message: messages.Done) -> None:
        pending = self._pending.pop(message.number, None)
        if pending is not None:
            pending[0](message.result)

    def _refused(self, message: messages.Refused) -> None:
        pending = self._pending.pop(message.number, None)
        if pending is not None:
            pending[1](message.code, message.message, message.details)

    def _take_snapshot(self, message: messages.Snapshot) -> None:
        self._snapshot.add(self._read(message.specs))
        if message.last:
            self._snapshot.finish()
            self._snapshot = Snapshot(self._sources, "registry")

    def _take_specs(self, message: messages.Specs) -> None:
        self._sources.update("registry", self._read(message.specs))

    def _removed(self, message: messages.Removed) -> None:
        self._sources.update("registry", removed=[message.plugin])

    def _read(self, specs: list[msgspec.Raw]) -> list[PluginSpec]:
        """Decodes ``specs``; one that cannot be read costs its own plugin, and the others are served all the same."""
        read = []
        for spec in specs:
            try:
                read.append(messages.decoded(spec))
            except Exception as error:
                self._guard.failed("specs of the registrar", error, messages.id_of(spec))
        return read

    def _has_told_all(self, _: messages.Ready) -> None:
        self._ready = self._told = True
        self._metrics.health["registry"] = ""

    def _health(self, message: messages.Health) -> None:
        self._told = True
        self._say_health("registry", message.reason)

    def _ledger_health(self, message: messages.LedgerHealth) -> None:
        self._say_health("ledger_head", message.reason)

    def _chain_health(self, message: messages.ChainHealth) -> None:
        self._say_health("chain", message.reason)

    def _say_health(self, part: str, reason: str) -> None:
        self._metrics.health[part] = reason
        if reason:
            self._logs.log("error", reason)

    def _record(self, message: messages.Audit) -> None:
        self._audit.record(message.record)

    def _spent(self, message: messages.Spent) -> None:
        self._overhead.count(message.plugin, "registrar", message.cpu_ns)
        self._overhead.charge(message.plugin, message.cpu_ns, time.monotonic_ns())

    def _measure(self, message: messages.Metric) -> None:
        if METRICS[message.name].kind == "counter":
            self._metrics.inc(message.name, message.labels, message.value)
        else:
            self._metrics.set(message.name, message.labels, message.value)

    # ------------------------------------------------------------------ beginning, reload, end
    def expect(self) -> None:
        """Something may be installed: until the registry has been read, `/readyz` says that it has not."""
        self._metrics.health["registry"] = "the registry has not been read yet"

    def wait_ready(self, seconds: float) -> bool:
        """Blocks until every installed plugin is known or the registry is reported broken, for ``seconds`` at most;
        before the loop runs, so that the first call finds what was installed. A registrar that is started when it is
        first needed has nothing to report."""
        end = time.monotonic() + seconds
        side = self.side
        if not side.started and not self._told:
            return True
        while not self._told and side.up and (left := end - time.monotonic()) > 0:
            if select.select([side.fileno()], [], [], left)[0]:
                side.receive(time.monotonic_ns())
        return self._ready

    def configure(self, settings: dict[str, Any]) -> None:
        """Has the registrar go on with other settings; one that starts later begins with them."""
        self._settings.update(settings)
        if self.side.up and self.side.send(messages.NewSettings(self._settings)):
            self._loop.side_changed(self.side)

    def _ask(self, message: messages.Ask) -> None:
        def answer(ok: bool, value: Any) -> None:
            if self.side.send(messages.Answered(message.number, ok, value)):
                self._loop.side_changed(self.side)

        ask = self._asks.get(message.kind)
        if ask is None:
            answer(False, {"reason": "unknown_ask", "message": f"the supervisor does not know {message.kind!r}"})
            return
        ask(message.params, answer)

    def _down(self) -> None:
        """The process died: what it had is answered, and what it had half sent is forgotten."""
        self._snapshot = Snapshot(self._sources, "registry")
        pending, self._pending = self._pending, {}
        for _, refused in pending.values():
            refused(Code.INTERNAL, "the registrar ended during the operation; check whether it took effect before you "
                                   "try again",
                    {"reason": "registrar_died"})
