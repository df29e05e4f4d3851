"""Several API calls and effects of one invocation, in random histories with kills in the middle: one record per action.

Pool, ``ApiCalls`` and the links are the real ones. The worker, the gateway and the caller are played: they answer, give
up, die and lie in any order.
"""

from __future__ import annotations

import os
import random
import time
from typing import Any, cast

import msgspec
import pytest

from apex_exec.catalogue.limits import Limits
from apex_exec.catalogue.methods import API_AT_ONCE
from apex_exec.config import Settings
from apex_exec.core import actions as act
from apex_exec.core import events as ev
from apex_exec.core.limits import PoolLimits
from apex_exec.core.plugin import PluginSpec
from apex_exec.core.scheduler.breaker import BreakerPolicy
from apex_exec.core.scheduler.pool import Pool
from apex_exec.daemon import absent
from apex_exec.daemon.api_calls import CALLS_ABUSE, ApiCalls
from apex_exec.daemon.plugin_settings import PluginSettings
from apex_exec.daemon.tenants import Tenants
from apex_exec.executor.links.overhead import Overhead
from apex_exec.executor.links.worker_link import WorkerLink
from apex_exec.gateway import messages
from apex_exec.ledger.records import AuditRecord
from apex_exec.observe.metrics import Metrics
from workers import wire as inner

GRANTED = ("data:read", "data:write", "events:emit")
METHODS = ("query", "query", "insert", "fetch", "storage.get", "nonsense", "call", "emit")
HOOK, USER = "onActionExecute", "11111111-2222-4333-8444-555555555555"
SECOND_NS = 10**9


class Trail(absent.NoTrail):
    """Keeps what is recorded, by call where the metadata says so."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[tuple[str, str, str, dict[str, Any]]] = []
        self.admitting = True

    def admits(self, now_ns: int) -> bool:
        return self.admitting

    def event(self, event_type: str, user_id: str, resource: str, action: str, result: str,
              metadata: dict[str, Any] | None = None) -> int:
        self.taken.append((event_type, action, result, metadata or {}))
        return 0

    def record(self, record: AuditRecord) -> int:
        self.taken.append((record.event_type, record.action, record.result, record.metadata))
        return 0

    def actions(self) -> int:
        """How many API calls and effects are on record, those that share a record among them."""
        return sum(metadata.get("count", metadata.get("effects", 1)) for event_type, _, _, metadata in self.taken
                   if event_type != "security.anomaly")


class Gateway:
    """In the place of the side process."""

    wants_write = False

    def __init__(self) -> None:
        self.up = True
        self.calls: dict[int, messages.Call] = {}
        self.cancelled: dict[int, messages.Call] = {}

    def send(self, message: Any) -> bool:
        if not self.up:
            return False
        if isinstance(message, messages.Call):
            self.calls[message.id] = message
        elif isinstance(message, messages.Cancel):
            self.cancelled[message.id] = self.calls.pop(message.id)
        return True


class World:
    """One history. ``made`` counts what the worker asked for in the name of a call that was open."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now_ns = time.monotonic_ns()
        self.places = self.chance.choice((1, 1, 4))
        self.spec = PluginSpec("p", "1.0.0", "d", "plugin.py", (HOOK,), GRANTED,
                               limits=Limits(concurrency=self.places))
        self.pool = Pool(PoolLimits(), BreakerPolicy(), self.chance.random)
        self.trail, self.gateway, self.metrics = Trail(), Gateway(), Metrics()
        self.replies: dict[tuple[int, int], int] = {}
        self.api = ApiCalls(Settings(), self.pool, send=self._reply, step=lambda event, _: self.step(event),
                            side_changed=lambda _: None, wake=lambda _: None, metrics=self.metrics, audit=self.trail,
                            overhead=Overhead(self.metrics), add_host_ns=lambda *_: None,
                            plugin_settings=PluginSettings(is_known=True), tenants=Tenants(has_any=False))
        self.api.side = cast("Any", self.gateway)
        self.links: dict[int, WorkerLink] = {}
        self.on_link: dict[int, list[int]] = {}
        self.made = self.written = self.calls = self.numbers = 0
        self.asked: dict[tuple[int, int], int] = {}  # (worker, api_id) → seq
        self.effects: dict[int, list[Any]] = {}
        self.verdicts: dict[int, str] = {}
        self.step(ev.PluginSet(self.spec))

    def close(self) -> None:
        for link in self.links.values():
            link.handed_over()
            link.close()

    # ------------------------------------------------------------------ the loop
    def step(self, event: ev.Event) -> None:
        for action in self.pool.step(event, self.now_ns):
            if isinstance(action, act.StartWorker):
                link = self.links[action.worker] = WorkerLink(action.worker, action.spec, self.now_ns)
                link.shared = self.places > 1
                self.on_link[action.worker] = []
                self.step(ev.WorkerReady(action.worker))
            elif isinstance(action, act.SendCall):
                link = self.links[action.worker]
                link.sent = action.seq + 1
                self.on_link[action.worker].append(action.seq)
                if self.places > 1 or len(self.on_link[action.worker]) == 1:
                    os.write(link.marks_write, b"m")
            elif isinstance(action, act.Verdict):
                assert action.call not in self.verdicts
                self.verdicts[action.call] = action.code
                self.effects[action.call] = self.api.invocation_ended(action.call)
            elif isinstance(action, act.KillWorker):
                self.die(action.worker)
            elif isinstance(action, act.CountStarted):
                self.step(ev.CallsStarted(action.worker, self.links[action.worker].drain_marks()))

    def _reply(self, link: WorkerLink, message: inner.ApiReply) -> None:
        key = link.worker, message.api_id
        self.replies[key] = self.replies.get(key, 0) + 1

    def running(self) -> tuple[WorkerLink, int] | None:
        """A call that runs, of a worker that lives."""
        found = [(self.links[worker], seq) for worker, seqs in self.on_link.items()
                 for seq in (seqs if self.places > 1 else seqs[:1])]
        return self.chance.choice(found) if found else None

    def is_open(self, link: WorkerLink, seq: int) -> bool:
        request = self.pool.on_link(link.worker, seq)[1]
        return request is not None and self.pool.is_open(request.call)

    # ------------------------------------------------------------------ what happens
    def invoke(self) -> None:
        self.calls += 1
        self.step(ev.InvokeRequested(self.calls, "p", HOOK, USER if self.chance.random() < 0.5 else f"u{self.calls}",
                                     msgspec.Raw(b"\x80"), self.now_ns + 3600 * SECOND_NS))

    def ask(self) -> None:
        for _ in range(self.chance.choice((1, 2, 9))):
            if (found := self.running()) is None:
                return
            link, seq = found
            self.numbers += 1
            self.asked[link.worker, self.numbers] = seq
            self.made += self.is_open(link, seq)
            self.api.handle(link, inner.ApiCall(seq, self.numbers, self.chance.choice(METHODS),
                                                msgspec.Raw(msgspec.msgpack.encode({"event": "x"}))), self.now_ns)

    def effect(self) -> None:
        if (found := self.running()) is None:
            return
        link, seq = found
        code = self.chance.choice(("", "", "effect_limit", "permission_denied"))
        one = inner.Effect(self.chance.choice(("emit", "emit", "renderWidget")), "" if code else "p/x", inner.NIL, code,
                           self.chance.choice((1, 1, 20)) if code else 1)
        tries = [one] * self.chance.choice((1, 3))
        if self.is_open(link, seq):
            self.made += sum(effect.count for effect in tries)
        self.api.effects(link, inner.Effects(seq, tries), self.now_ns)

    def give_up(self) -> None:
        if self.asked:
            (worker, api_id), seq = self.chance.choice(list(self.asked.items()))
            if worker in self.on_link:
                self.api.give_up(self.links[worker], inner.ApiCancel(seq, api_id), self.now_ns)

    def gateway_answers(self) -> None:
        late = self.gateway.cancelled
        known = self.gateway.calls if not late or self.chance.random() < 0.7 else late
        if not known:
            return
        number = self.chance.choice(list(known))
        call = known.pop(number)
        if self.chance.random() < 0.6:
            self.written += call.method == "insert"  # its record comes by way of the outbox
            self.api._gateway_done(messages.Done(number, b"\xc0", {}))
        else:
            self.api._gateway_failed(messages.Failed(number, "sql_error", "no", 0))

    def gateway_dies(self) -> None:
        self.gateway.calls.clear()
        self.gateway.cancelled.clear()
        self.api._gateway_down()
        self.gateway.up = self.chance.random() < 0.5

    def answer(self) -> None:
        if (found := self.running()) is None:
            return
        link, seq = found
        seqs = self.on_link[link.worker]
        seqs.remove(seq)
        if self.places == 1 and seqs:
            os.write(link.marks_write, b"m")
        self.step(ev.WorkerAnswered(link.worker, seq, "", inner.Reply(seq, inner.NIL, 0)))

    def die(self, worker: int = 0) -> None:
        worker = worker or self.chance.choice([0, *self.on_link])
        if worker and worker in self.on_link:
            del self.on_link[worker]
            self.step(ev.WorkerGone(worker, self.links[worker].drain_marks(), "WORKER_CRASHED", "it crashed", {}))

    def caller_leaves(self) -> None:
        if self.calls:
            self.step(ev.CancelRequested(self.chance.randint(1, self.calls)))

    def ledger(self) -> None:
        self.trail.admitting = self.chance.random() < 0.7

    def check(self) -> None:
        open_calls: dict[int, int] = {}
        for asked in self.api._asked.values():
            if not asked.is_over:
                open_calls[asked.call] = open_calls.get(asked.call, 0) + 1
        assert max(open_calls.values(), default=0) <= API_AT_ONCE, "more at once than the bound"
        assert self.made < CALLS_ABUSE

    def end(self) -> None:
        """Whatever is left comes to its end."""
        for worker in list(self.on_link):
            self.die(worker)
        self.step(ev.PluginRemoved("p"))
        for worker in list(self.on_link):
            self.die(worker)
        while self.gateway.calls or self.gateway.cancelled:
            self.gateway_answers()


KINDS = ["invoke"] * 3 + ["ask"] * 6 + ["effect"] * 3 + ["gateway_answers"] * 6 + ["give_up"] * 2 + ["answer"] * 3 + [
    "die", "caller_leaves", "gateway_dies", "ledger"]


def play(seed: int) -> int:
    """One history, held to the promise. Returns how many calls were at the gateway at once, at most."""
    world = World(seed)
    at_once = 0
    try:
        for _ in range(world.chance.choice((20, 80))):
            getattr(world, world.chance.choice(KINDS))()
            world.check()
            at_once = max(at_once, len(world.gateway.calls))
        world.end()
        assert world.trail.actions() + world.written == world.made, f"seed {seed}"
        assert not world.api._running and not world.api._asked, f"seed {seed}"
        left = [key for key in world.asked if world.replies.get(key) != 1]
        assert not left, f"seed {seed}: calls without exactly one answer: {left}"
    finally:
        world.close()
    return at_once


def test_every_action_is_on_record_once_whatever_ends_in_the_middle() -> None:
    assert max(map(play, range(25))) > 4


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_every_action_is_on_record_once_in_a_thousand_histories(part: int) -> None:
    for seed in range(100 + 100 * part, 200 + 100 * part):
        play(seed)
