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
from typing import TYPE_CHECKING, Any

import msgspec

from apex_exec import extras
from apex_exec.core.plugin import PluginSpec
from apex_exec.daemon.plugin_sources import PluginSources, Snapshot
from apex_exec.errors import Code
from apex_exec.ledger.records import AuditRecord
from apex_exec.observe.metrics import METRICS

if TYPE_CHECKING:
    from apex_exec.daemon.sides.side_process import SideProcess
    from apex_exec.daemon.supervisor import Supervisor

PENDING_MAX = 1000
Done = Callable[[Any], None]
Refused = Callable[[str, str, dict[str, Any]], None]
Answer = Callable[[bool, Any], None]
Ask = Callable[[dict[str, Any], Answer], None]
"""``ask(params, answer)``: ``answer(ok, value)`` is called once, then or later."""


class RegistrarLink:
    """Give its ``message`` and ``down`` to the SideProcess, and that to ``bind``. Without a process, because the extra
    that it needs is not installed, every operation is refused and the answer names the extra."""

    def __init__(self, supervisor: Supervisor, asks: dict[str, Ask], sources: PluginSources) -> None:
        self.asks = asks
        self._sources = sources
        self._ready = False
        self._told = False
        self._supervisor = supervisor
        self._side: SideProcess | None = None
        self._pending: dict[int, tuple[Done, Refused]] = {}
        self._next = 1
        self._snapshot = Snapshot(sources, "registry")
        """The snapshot that is arriving, or is to arrive next."""

    def bind(self, side: SideProcess) -> None:
        """The process to speak to."""
        self._side = side

    @property
    def up(self) -> bool:
        """True while there is a process to speak to."""
        return self._side is not None and self._side.up

    def run(self, op: str, args: msgspec.Struct, uid: int, done: Done, refused: Refused) -> None:
        """Sends one operation; exactly one of the callbacks is called, then or later."""
        if self._side is None:
            refused(Code.REFUSED, extras.words("registry", op), {"reason": "extra_missing", "extra": "registry"})
            return
        if len(self._pending) >= PENDING_MAX:
            refused(Code.OVERLOADED, "the registrar has too much to do; try again", {"reason": "registrar_busy"})
            return
        self._supervisor.loop.wake(self._side)
        number, self._next = self._next, self._next + 1
        if not self._side.send(["op", number, op, msgspec.to_builtins(args, builtin_types=(bytes,)), {"uid": uid}]):
            refused(Code.INTERNAL, "the registrar is being restarted; nothing was done", {"reason": "registrar_down"})
            return
        self._pending[number] = (done, refused)
        self._supervisor.loop.side_changed(self._side)

    def message(self, message: list[Any]) -> None:
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
            self._supervisor.metrics.health["registry"] = message[1]
            if message[1]:
                self._supervisor.logs.log("error", message[1])
        elif kind == "ledger":
            self._supervisor.metrics.health["ledger_head"] = message[1]
            if message[1]:
                self._supervisor.logs.log("error", message[1])
        elif kind == "metric":
            self._measure(message[1], tuple(message[2]), message[3])
        elif kind == "audit":
            if self._supervisor.audit is not None:
                self._supervisor.audit.record(msgspec.convert(message[1], AuditRecord))
        elif kind == "spent":
            overhead = self._supervisor.workers.overhead
            overhead.count(message[1], "registrar", message[2])
            overhead.charge(message[1], message[2], time.monotonic_ns())
        elif kind == "ask":
            self._ask(message[1], message[2], message[3])

    def _read(self, specs: list[dict[str, Any]]) -> list[PluginSpec]:
        """Decodes ``specs``; one that cannot be read costs its own plugin, and the others are served all the same."""
        read = []
        for raw in specs:
            try:
                read.append(msgspec.convert(raw, PluginSpec))
            except Exception as error:
                self._supervisor.guard.failed("specs of the registrar", error, str(raw.get("id", "")))
        return read

    def _measure(self, name: str, labels: tuple[str, ...], value: float) -> None:
        if METRICS[name].kind == "counter":
            self._supervisor.metrics.inc(name, labels, value)
        else:
            self._supervisor.metrics.set(name, labels, value)

    def wait_ready(self, seconds: float) -> bool:
        """Blocks until every installed plugin is known, at most so long, and no longer than until the registry is said
        to be broken; before the loop runs, so that the first call finds what was installed. A registrar that is started
        when it is first needed has nothing to tell, and neither has a daemon without one."""
        end = time.monotonic() + seconds
        side = self._side
        if side is None or (not side.started and not self._told):
            return True
        while not self._told and side.up and (left := end - time.monotonic()) > 0:
            if select.select([side.fileno()], [], [], left)[0]:
                side.receive(time.monotonic_ns())
        return self._ready

    def configure(self, settings: dict[str, Any]) -> None:
        """Has the registrar go on with other settings; one that starts later begins with them."""
        if self._side is not None and self._side.up and self._side.send(["settings", settings]):
            self._supervisor.loop.side_changed(self._side)

    def _ask(self, number: int, kind: str, params: dict[str, Any]) -> None:
        def answer(ok: bool, value: Any) -> None:
            if self._side is not None and self._side.send(["answered", number, ok, value]):
                self._supervisor.loop.side_changed(self._side)

        ask = self.asks.get(kind)
        if ask is None:
            answer(False, {"reason": "unknown_ask", "message": f"the supervisor does not know {kind!r}"})
            return
        ask(params, answer)

    def down(self) -> None:
        """The process died: what it had is answered, and what it had half sent is forgotten."""
        self._snapshot = Snapshot(self._sources, "registry")
        pending, self._pending = self._pending, {}
        for _, refused in pending.values():
            refused(Code.INTERNAL, "the registrar died; look whether the operation was done before trying again",
                    {"reason": "registrar_died"})
