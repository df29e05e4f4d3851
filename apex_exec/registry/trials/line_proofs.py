"""Proves which of the claimed lines the tests execute: each in a run in which its bytecode is watched from outside.

A run is the same with and without a watch, so code in it cannot tell whether it is to prove anything, nor which of its
lines; and nothing that it says counts: a line is proven if the processor saw the interpreter execute it
(``debug_registers``). Four places fit into a run; as soon as one was seen, the next line that waits takes its register.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from apex_exec.registry.trials.debug_registers import SLOTS, Watch
from apex_exec.registry.trials.testing import Proof, Request, Run
from workers import wire

Line = tuple[str, int]
"""(path in the bundle, number)."""
TRIES = 3
"""A line that was not executed is tried this often before its claim counts as false, since tests may be random."""
_SAMPLE_TURNS = 60
_SAMPLE = '''def turn(n):
    if n < 0:
        n = -n
        n += 1
    return n + 1


plugin = {"id": ID, "version": "1.0.0", "permissions": [], "hooks": {}}
'''
_SAMPLE_TEST = f'''from plugin import turn


def test_turn():
    for n in range({_SAMPLE_TURNS}):
        assert turn(n) == n + 1
'''
_SAMPLE_RUN, _SAMPLE_NOT_RUN = (2, 5), (3, 4)


class Runner(Protocol):
    """What runs tests: the test zygote."""

    def run(self, files: dict[str, bytes], watching: Watching | None = None) -> tuple[Run, str]:
        """Runs all tests over ``files`` once. Raises OSError if the run cannot be watched."""


class Watching:
    """One run under watch. ``lines`` are tried in this order; ``tries`` says how often each has been tried."""

    def __init__(self, lines: list[Line], tries: Counter[Line]) -> None:
        self.seen: set[Line] = set()
        self.nowhere: set[Line] = set()
        """Lines that have no bytecode of their own and so cannot be watched."""
        self.from_the_start: dict[Line, int] = {}
        """Lines that were watched during the whole run → how many runs it takes to watch all their entries."""
        self.wake_fd, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._lines = lines[::-1]
        self._tries = tries
        self._watch: Watch | None = None
        self._armed: dict[Line, list[int]] = {}
        self._entries: dict[Line, list[int]] = {}
        self._handler = signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    def begin(self, pid: int, placed: wire.Placed) -> None:
        """Stops the process and watches the first lines. Raises OSError if the process cannot be watched."""
        for path, places in placed.places.items():
            for line, address in places:
                self._entries.setdefault((path, line), []).append(address)
        self._watch = Watch(pid)
        self._fill(self._watch)
        self.from_the_start = {line: self._parts(line) for line in self._armed}

    def go(self) -> None:
        """Lets the process run."""
        assert self._watch is not None
        self._watch.go()

    def look(self) -> bool:
        """Takes in what was seen since the last look. Returns True if nothing is left to be seen. Never blocks."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake_fd, 4096)
        assert self._watch is not None
        while (hits := self._watch.hits()) is not None:
            for line in [line for line, places in self._armed.items() if not set(places).isdisjoint(hits)]:
                self.seen.add(line)
                self._watch.disarm(self._armed.pop(line))
            self._fill(self._watch)
            if not self._armed:
                return True
            self._watch.go()
        return False

    def end(self) -> None:
        """Waits for the end of the process, which must have been killed, and gives everything back."""
        if self._watch is not None:
            self._watch.end()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, self._handler)
        os.close(self.wake_fd)
        os.close(self._wake_write)

    def _fill(self, watch: Watch) -> None:
        while self._lines and watch.free:
            line = self._lines[-1]
            entries = self._entries.get(line, [])
            part = self._tries[line] % self._parts(line) * SLOTS
            places = entries[part:part + SLOTS]
            if len(places) > watch.free:
                return
            self._lines.pop()
            if not places:
                self.nowhere.add(line)
                continue
            watch.arm(places)
            self._armed[line] = places

    def _parts(self, line: Line) -> int:
        return max(1, -(-len(self._entries.get(line, [])) // SLOTS))


def prove(zygote: Runner, request: Request, *, now: Callable[[], float] = time.monotonic) -> Proof:
    """Proves lines in random order until the time is over, or until a claim turns out to be false. Blocks."""
    waiting = [(path, line) for path, lines in request.points.items() for line in sorted(set(lines))]
    secrets.SystemRandom().shuffle(waiting)
    proof = Proof(claimed=len(waiting), limit=cannot_watch(zygote, request))
    if proof.limit:
        return proof
    tries: Counter[Line] = Counter()
    end = now() + request.proof_seconds
    while waiting and (now() < end or proof.proven < request.proofs_min):
        watching = Watching(waiting, tries)
        zygote.run(request.files, watching)
        proof.proven += len(watching.seen)
        for line in watching.from_the_start.keys() - watching.seen:
            tries[line] += 1
            if tries[line] >= TRIES * watching.from_the_start[line]:
                proof.path, proof.line = line
                return proof
        if not watching.seen and not watching.from_the_start and not watching.nowhere:
            proof.limit = "the tests' process ended before it could be watched"
            return proof
        waiting = [line for line in waiting if line not in watching.seen and line not in watching.nowhere]
    return proof


def cannot_watch(zygote: Runner, request: Request) -> str:
    """Returns why lines cannot be proven on this machine, found out with a sample of ours; "" if they can."""
    sample = {request.entrypoint: _SAMPLE.replace("ID", repr(request.plugin)).encode(),
              "tests/test_sample.py": _SAMPLE_TEST.encode()}
    run, not_run = ({(request.entrypoint, line) for line in lines} for lines in (_SAMPLE_RUN, _SAMPLE_NOT_RUN))
    watching = Watching([*sorted(run), *sorted(not_run)], Counter())
    try:
        zygote.run(sample, watching)
    except OSError as error:
        return f"this machine lets no process be watched: {error}"
    if watching.seen != run:
        return "this machine's processor or Python does not show which lines are executed"
    return ""
