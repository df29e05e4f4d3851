"""Workers of the simulation that run several calls at once: a loop that turns, or is kept from it by one call."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from apex_exec.core import events as ev
from tests.sim.model import MS, Asked, SimWorker

if TYPE_CHECKING:
    from tests.sim.invariants import Invariants

NEVER_NS = 1 << 62


class Crowd:
    """The part of the world that shared workers are."""

    now_ns: int
    crowds: random.Random
    invariants: Invariants
    at: Callable[..., None]
    hits: Callable[[str], bool]
    _send: Callable[[SimWorker, Any], None]
    _die: Callable[[SimWorker, str], None]

    def _deliver(self, worker: SimWorker, message: tuple[Any, ...]) -> None:
        worker.inbox.append(message)  # type: ignore[arg-type]  # a shared worker's has other messages
        self.at(self.crowds.randrange(50_000), self.loop_turns, worker)

    def _interrupt(self, worker: SimWorker) -> None:
        """The signal of a probe: the worker says whose code it was running, as a rule."""
        seq = worker.blocked_by
        if not worker.honest and self.crowds.random() < 0.3 and worker.crowd:
            worker.lied = True
            seq = self.crowds.choice(list(worker.crowd))
        if worker.alive and not worker.paused and seq >= 0 and self.crowds.random() < 0.9:
            self._send(worker, ev.WorkerBlocked(worker.id, seq))

    def loop_turns(self, worker: SimWorker) -> None:
        """The event loop: what has arrived is read, and what may begin begins."""
        if not worker.alive or not worker.booted:
            return
        if worker.paused:
            worker.stalled.append(("take", None))
            return
        if self.now_ns < worker.blocked_until_ns:
            return  # it looks again when the call that blocks it has ended
        while worker.inbox:
            what, seq, about = worker.inbox.popleft()  # type: ignore[misc]  # as above
            if what == "call":
                worker.pending.append((seq, about))
            else:
                if not worker.honest and self.crowds.random() < 0.2:  # the answer to a probe that was not sent
                    worker.lied = True
                    about += self.crowds.choice((-1, 1, 2))
                self._send(worker, ev.WorkerPonged(worker.id, about))
                if seq in worker.crowd:
                    if worker.crowd[seq].kind != "swallow":
                        self.at(self.crowds.randrange(2 * MS), self.end_one, worker, seq, "ended")
                elif any(number == seq for number, _ in worker.pending):
                    worker.recalled.add(seq)
        while worker.pending and self.now_ns >= worker.blocked_until_ns and worker.alive:
            seq, asked = worker.pending[0]
            asked.kind = asked.kind or self.crowds.choice(("wait",) * 6 + ("plain", "block"))
            if asked.kind == "plain" and worker.crowd:
                break
            worker.pending.popleft()
            self._begin_one(worker, seq, asked)
        if worker.stopped and worker.leaves and not (worker.pending or worker.crowd):
            self._die(worker, "WORKER_CRASHED")

    def _begin_one(self, worker: SimWorker, seq: int, asked: Asked) -> None:
        worker.started += 1
        rnd = self.crowds
        if not worker.honest and rnd.random() < 0.2:
            self._lie(worker, seq)
        if self.now_ns >= asked.deadline_ns or seq in worker.recalled:
            self._send(worker, ev.WorkerAnswered(worker.id, seq, "skipped", None))
            return
        worker.crowd[seq] = asked
        self.invariants.begins(worker, asked)
        if self.hits("crash"):
            self.at(rnd.randrange(5 * MS), self._die, worker, rnd.choice(("WORKER_CRASHED", "CPU_LIMIT")))
        length_ns = rnd.randrange(1, rnd.choice((100_000, 2 * MS, 40 * MS, 400 * MS)))
        hangs = self.hits("hang")
        if asked.kind in ("plain", "block"):
            worker.blocked_by = seq
            worker.blocked_until_ns = NEVER_NS if hangs else self.now_ns + length_ns
            if hangs and not worker.honest:  # it answers itself and goes on
                self.at(rnd.randrange(600 * MS), self._answer_itself, worker, seq)
        elif hangs and rnd.random() < 0.3:
            asked.kind = "swallow"
        if not hangs:
            self.at(length_ns, self.end_one, worker, seq, "")

    def _answer_itself(self, worker: SimWorker, seq: int) -> None:
        if worker.alive and not worker.paused and seq in worker.crowd:
            worker.lied = True
            self._send(worker, ev.WorkerAnswered(worker.id, seq, "", worker.crowd[seq].call))

    def _lie(self, worker: SimWorker, seq: int) -> None:
        worker.lied = True
        lie = self.crowds.randrange(6)
        if lie == 0:
            worker.started += 3
        elif lie == 1:
            self._send(worker, ev.WorkerAnswered(worker.id, seq + 1, "", None))
        elif lie == 2:
            self._send(worker, ev.WorkerAnswered(worker.id, max(0, seq - 1), "", None))
        elif lie == 3:
            self._send(worker, ev.WorkerPonged(worker.id, (1 << 32) + 1 + self.crowds.randrange(3)))
        elif lie == 4:
            self._send(worker, ev.WorkerAnswered(worker.id, seq, "ended", None))
        else:
            self._send(worker, ev.WorkerAnswered(worker.id, seq, "skipped", None))

    def end_one(self, worker: SimWorker, seq: int, code: str) -> None:
        """The hook of one call ends."""
        if not worker.alive or seq not in worker.crowd:
            return
        if worker.paused:
            worker.stalled.append(("crowd", (seq, code)))
            return
        if worker.blocked_by not in (-1, seq):
            if worker.blocked_until_ns < NEVER_NS:
                self.at(max(1, worker.blocked_until_ns - self.now_ns), self.end_one, worker, seq, code)
            return
        asked = worker.crowd.pop(seq)
        asked.replied = True
        if worker.blocked_by == seq:
            worker.blocked_by, worker.blocked_until_ns = -1, 0
        code = code or self.crowds.choice(("", "", "", "PLUGIN_ERROR", "INVALID_OUTPUT"))
        cpu_ns = self.crowds.choice((0, 1_000_000, 10**15, -5))  # a worker may say anything
        self._send(worker, ev.WorkerAnswered(worker.id, seq, code, asked.call, cpu_ns))
        if not worker.honest and self.crowds.random() < 0.2:
            worker.lied = True
            self._send(worker, ev.WorkerAnswered(worker.id, seq, code, asked.call))
        if self.hits("crash") and self.crowds.random() < 0.3:
            self._die(worker, "WORKER_CRASHED")  # right after its answer was written
        else:
            self.at(self.crowds.choice((0, 1000)), self.loop_turns, worker)
