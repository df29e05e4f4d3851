"""What the registrar has the supervisor do in jailed workers: probe a bundle, try a generation, run one call.

- ``probe`` ``{spec, files?}``: loads the bundle in a worker of its own that serves nobody, and says what its code
  declares: ``{hooks, permissions, usesLoop, version}``. ``files`` are the bundle's; without them its blob is read.
- ``canary`` ``{spec, hook?, userId?, payload?}``: prepares a worker of ``spec`` beside the live one and, with a hook,
  runs one call on it, whose result must be one that a host would get: ``{digest}``; the next ``set`` with that digest
  adopts it.
- ``smoke`` ``{plugin, hook, userId, payload, shown?}``: runs one call on what is served now: ``{executionTimeMs}``, and
  if the answer is to be ``shown``, ``{result, effects, usage}`` too. No host gets the effects.
- ``drop`` ``{plugin}``: gives a prepared generation up.

What does not work is answered with ``ok`` false and ``{code, message, details}``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler.pool import MS_NS, Pool
from apex_exec.daemon.administration.registrar_link import Answer, Ask
from apex_exec.executor.links.jobs import Probe
from apex_exec.executor.local import LocalExecutor
from apex_exec.executor.outcome import Settled, at_place
from workers.wire import Reply

if TYPE_CHECKING:
    from apex_exec.daemon.hosts.pending_table import PendingTable
    from apex_exec.daemon.hosts.verdicts import Verdicts

PROBES_MAX = 8
"""Probes at once; each is a worker beside the pool's."""
_encode = msgspec.msgpack.Encoder().encode


def _failed(code: str, message: str, details: Any = None) -> dict[str, Any]:
    return {"code": code, "message": message, "details": details or {}}


def _said(outcome: Settled) -> str:
    """Why a call of ours failed, in one line: the exception, with its file and line if there was one."""
    return at_place(outcome.message, str(outcome.details.get("traceback", "")))


class _Trial(msgspec.Struct, gc=False):
    """A generation that is being tried. ``call`` is its canary's number; 0 if it has none. The core judges by what the
    worker has answered; whether a host would get that is known only when its result was checked, which may be later."""

    version: str
    answer: Answer
    call: int = 0
    outcome: Settled | None = None
    judgement: act.GenerationJudged | None = None


class JailRequests:
    """``table`` is what ``RegistrarLink`` is given. ``judged`` has to be called with the outcome of each generation."""

    def __init__(self, pool: Pool, step: Callable[[ev.Event, int], None], workers: LocalExecutor, table: PendingTable,
                 verdicts: Verdicts, boot_seconds: Callable[[], float]) -> None:
        self._pool = pool
        self._step = step
        self._workers = workers
        self._table = table
        self._verdicts = verdicts
        self._boot_seconds = boot_seconds
        self._trials: dict[tuple[str, str], _Trial] = {}
        self._probes = 0
        self.table: dict[str, Ask] = {
            "probe": self._probe, "canary": self._canary, "smoke": self._smoke, "drop": self._drop,
            "failures": lambda _params, answer: answer(True, self._verdicts.failures.take())}

    def _probe(self, params: dict[str, Any], answer: Answer) -> None:
        if self._probes >= PROBES_MAX:
            answer(False, _failed("OVERLOADED", "too many bundles are being probed; try again"))
            return
        spec = msgspec.convert(params["spec"], PluginSpec)
        self._probes += 1
        due_ns = time.monotonic_ns() + int(self._boot_seconds() * 1000) * MS_NS

        def ended(value: dict[str, Any] | None, code: str, message: str) -> None:
            self._probes -= 1
            answer(value is not None, value if value is not None else _failed(code, message))

        self._workers.start_job(Probe(spec, params.get("files"), due_ns, ended))

    def _canary(self, params: dict[str, Any], answer: Answer) -> None:
        spec = msgspec.convert(params["spec"], PluginSpec)
        now_ns = time.monotonic_ns()
        canary = self._call(spec.id, spec.limits.timeout_ms, params, now_ns) if params.get("hook") else None
        previous = self._trials.pop((spec.id, spec.digest), None)
        if previous is not None:
            previous.answer(False, _failed("CANCELLED", "another trial of the same bundle has begun"))
        trial = self._trials[spec.id, spec.digest] = _Trial(spec.version, answer)
        if canary is not None:
            trial.call = canary.call
            name = (spec.id, spec.digest)
            self._verdicts.watch(canary.call, lambda _, outcome, __: self._tried(name, trial, outcome))
        self._step(ev.GenerationPrepared(spec, canary), now_ns)

    def _tried(self, name: tuple[str, str], trial: _Trial, outcome: Settled) -> None:
        """The trial's call has its outcome."""
        trial.outcome = outcome
        if self._trials.get(name) is trial:
            self._conclude(name, trial)

    def judged(self, action: act.GenerationJudged) -> None:
        """The outcome of a prepared generation; one that was not prepared here is ignored."""
        name = (action.plugin, action.digest)
        trial = self._trials.get(name)
        if trial is not None:
            trial.judgement = action
            self._conclude(name, trial)

    def _conclude(self, name: tuple[str, str], trial: _Trial) -> None:
        """Answers a trial of which everything is known. A generation that the core takes for good, and whose result no
        host would get, is given up."""
        judgement, outcome = trial.judgement, trial.outcome
        if judgement is None or (not judgement.code and trial.call and outcome is None):
            return
        del self._trials[name]
        code = judgement.code or (outcome.code if outcome is not None else "")
        if not code:
            trial.answer(True, {"digest": judgement.digest})
            return
        if not judgement.code and (tried := self._pool.trial(judgement.plugin)) and tried[0] == trial.version:
            self._step(ev.GenerationDropped(judgement.plugin), time.monotonic_ns())
        if outcome is not None and outcome.code == code and outcome.message:
            trial.answer(False, _failed(code, _said(outcome), outcome.details))
        else:
            trial.answer(False, _failed(code, judgement.message))

    def _smoke(self, params: dict[str, Any], answer: Answer) -> None:
        now_ns = time.monotonic_ns()
        spec = self._pool.spec(params["plugin"])
        if spec is None:
            answer(False, _failed("PLUGIN_NOT_FOUND", f"no plugin {params['plugin']} is served"))
            return
        event = self._call(spec.id, spec.limits.timeout_ms, params, now_ns)

        def settled(verdict: act.Verdict, outcome: Settled, effects: list[Any]) -> None:
            if outcome.code:
                answer(False, _failed(outcome.code, _said(outcome), outcome.details))
                return
            said: dict[str, Any] = {"executionTimeMs": outcome.usage.execution_time_ms}
            if params.get("shown") and isinstance(verdict.body, Reply):
                said |= {"result": verdict.body.result, "effects": effects, "usage": outcome.usage}
            answer(True, said)

        self._verdicts.watch(event.call, settled)
        self._step(event, now_ns)

    def _call(self, plugin: str, timeout_ms: int, params: dict[str, Any], now_ns: int) -> ev.InvokeRequested:
        payload = msgspec.Raw(_encode(params.get("payload") or {}))
        return ev.InvokeRequested(self._table.number(), plugin, params["hook"], params["userId"],
                                  payload, now_ns + timeout_ms * MS_NS, own=True)

    def _drop(self, params: dict[str, Any], answer: Answer) -> None:
        self._step(ev.GenerationDropped(params["plugin"]), time.monotonic_ns())
        answer(True, None)
