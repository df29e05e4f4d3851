"""The supervisor's side of the registrar process: operations that touch disk or database go there and come back.

``["op", req_id, op, args, {"uid": n}]`` and ``["answered", ask_id, ok, value]`` go out; ``["done", req_id, result]``,
``["refused", req_id, code, message, details]``, ``["snapshot", [spec], last]``, ``["specs", [spec]]``, ``["removed",
plugin]``, ``["metric", name, labels, value]``, ``["audit", record]``, ``["spent", plugin, cpu_ns]``, ``["ready",
count]``, ``["health", reason]``, ``["ledger", reason]`` and ``["ask", ask_id, kind, params]`` come in. A registrar that
dies has every operation in flight answered: done or not is then unknown, and the answer says so.

A snapshot is all that the registry wants served, in several messages; ``specs`` and ``removed`` are single changes
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
from apex_exec.daemon.plugin_sources import PluginSources, Snapshot
from apex_exec.daemon.sides.side_process import SideProcess
from apex_exec.errors import Code
from apex_exec.ledger.records import AuditRecord
from apex_exec.observe.metrics import METRICS

if TYPE_CHECKING:
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
        """Blocks until every installed plugin is known, at most so long."""

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
        """Nobody is there to be told."""


class RegistrarLink:
    """``side`` is the process, which is not attached yet. It is started with ``settings``, the whole configuration as
    one map; ``asks`` are what it may have the supervisor do."""

    def __init__(self, settings: dict[str, Any], asks: dict[str, Ask], sources: PluginSources, *, loop: Loop,
                 guard: Guard, metrics: Metrics, logs: Logs, audit: Trail, overhead: Overhead) -> None:
        self.side = SideProcess("registrar", "apex_exec.daemon.administration.registrar:main", settings,
                                on_message=self._message, on_down=self._down)
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
            refused(Code.OVERLOADED, "the registrar has too much to do; try again", {"reason": "registrar_busy"})
            return
        self._loop.wake(self.side)
        number, self._next = self._next, self._next + 1
        if not self.side.send(["op", number, op, msgspec.to_builtins(args, builtin_types=(bytes,)), {"uid": uid}]):
            refused(Code.INTERNAL, "the registrar is being restarted; nothing was done", {"reason": "registrar_down"})
            return
        self._pending[number] = (done, refused)
        self._loop.side_changed(self.side)

    def _message(self, message: list[Any]) -> None:
        """Takes one message of the registrar."""
        kind = message[0]
        if kind == "done":
            pending = self._pending.pop(message[1], None)
            if pending is not None:
                pending[0](message[2])
        elif kind == "refused":
            pending = self._pending.pop(message[1], None)
            if pending is not None:
                pending[1](message[2], message[3], message[4])
        elif kind == "specs":
            self._sources.update("registry", self._read(message[1]))
        elif kind == "snapshot":
            self._snapshot.add(self._read(message[1]))
            if message[2]:
                self._snapshot.finish()
                self._snapshot = Snapshot(self._sources, "registry")
        elif kind == "removed":
            self._sources.update("registry", removed=[message[1]])
        elif kind == "ready":
            self._ready = self._told = True
        elif kind == "health":
            self._told = True
            self._metrics.health["registry"] = message[1]
            if message[1]:
                self._logs.log("error", message[1])
        elif kind == "ledger":
            self._metrics.health["ledger_head"] = message[1]
            if message[1]:
                self._logs.log("error", message[1])
        elif kind == "metric":
            self._measure(message[1], tuple(message[2]), message[3])
        elif kind == "audit":
            self._audit.record(msgspec.convert(message[1], AuditRecord))
        elif kind == "spent":
            self._overhead.count(message[1], "registrar", message[2])
            self._overhead.charge(message[1], message[2], time.monotonic_ns())
        elif kind == "ask":
            self._ask(message[1], message[2], message[3])

    def _read(self, specs: list[dict[str, Any]]) -> list[PluginSpec]:
        """Decodes ``specs``; one that cannot be read costs its own plugin, and the others are served all the same."""
        read = []
        for raw in specs:
            try:
                read.append(msgspec.convert(raw, PluginSpec))
            except Exception as error:
                self._guard.failed("specs of the registrar", error, str(raw.get("id", "")))
        return read

    def _measure(self, name: str, labels: tuple[str, ...], value: float) -> None:
        if METRICS[name].kind == "counter":
            self._metrics.inc(name, labels, value)
        else:
            self._metrics.set(name, labels, value)

    def wait_ready(self, seconds: float) -> bool:
        """Blocks until every installed plugin is known, at most so long, and no longer than until the registry is said
        to be broken; before the loop runs, so that the first call finds what was installed. A registrar that is started
        when it is first needed has nothing to tell."""
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
        if self.side.up and self.side.send(["settings", self._settings]):
            self._loop.side_changed(self.side)

    def _ask(self, number: int, kind: str, params: dict[str, Any]) -> None:
        def answer(ok: bool, value: Any) -> None:
            if self.side.send(["answered", number, ok, value]):
                self._loop.side_changed(self.side)

        ask = self._asks.get(kind)
        if ask is None:
            answer(False, {"reason": "unknown_ask", "message": f"the supervisor does not know {kind!r}"})
            return
        ask(params, answer)

    def _down(self) -> None:
        """The process died: what it had is answered, and what it had half sent is forgotten."""
        self._snapshot = Snapshot(self._sources, "registry")
        pending, self._pending = self._pending, {}
        for _, refused in pending.values():
            refused(Code.INTERNAL, "the registrar died; look whether the operation was done before trying again",
                    {"reason": "registrar_died"})
