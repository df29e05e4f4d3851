"""Runs and proves the tests of a JavaScript bundle.

What is loaded into the jail was given counters here, so the plugin has no say in what is counted. A run's counts are
the word of the code that was tested. A statement is proven by a run of its own: in its counter's place stands a call of
a function whose name nobody in the jail can know, and which ends the process with a status that nobody in the jail
knows. A process that ends with it has come to the statement. (Lines would prove little: a plugin may stand on one.)
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import msgspec

import apex_exec
from apex_exec.registry.scan.javascript.counters import Ranges, Unparsable, points_of, with_counters
from apex_exec.registry.trials.testing import Proof, Request, Run

KIT, TRAP = "/kit/", "/trap"
"""Names of files that no bundle can have, as ``workers.javascript.tests`` knows them."""
FIRST_STATUS, STATUSES = 64, 128
"""The statuses that a trap may end the process with; a process of ours that fails ends with a lower one."""
TRIES = 3
"""A statement that was not executed is tried this often before its claim counts as false, since tests may be random."""
_NODE_TEST = b"""export { test, test as default, it, describe, suite, before, after, beforeEach, afterEach, mock, skip,
todo, only, run, snapshot } from "apex:tests";
"""


class Runner(Protocol):
    """What runs tests: the test zygote."""

    def run(self, files: dict[str, bytes]) -> tuple[Run, str]:
        """Runs all tests over ``files`` once. Returns the run, and how its process ended."""


@cache
def _kit() -> dict[str, bytes]:
    folder = Path(__file__).parent / "testkit"
    package = Path(apex_exec.__file__).parent / "npm" / "plugin"
    kit = {"apex:tests": folder / "runner.js", "apex:inspect": folder / "inspect.js", "apex:mock": folder / "mock.js",
           "node:assert/strict": folder / "assert.js", "node:assert": folder / "loose.js",
           "@apex-exec/plugin/testing": package / "testing.js"}
    return {f"{KIT}{name}": path.read_bytes() for name, path in kit.items()} | {f"{KIT}node:test": _NODE_TEST}


def _word(letter: str) -> str:
    return letter + secrets.token_hex(12)


def counted(files: dict[str, bytes], sources: Iterable[str],
            left_out: Mapping[str, Ranges] = MappingProxyType({})) -> dict[str, bytes]:
    """``files`` with counters in ``sources`` but for the parts ``left_out``, and with what the tests import. A source
    that cannot be parsed stays as it is: the engine reports why."""
    made = {**files, **_kit()}
    for path in sources:
        try:
            made[path] = with_counters(files[path], path, _word("c"), left_out=left_out.get(path, ())).source
        except Unparsable:
            continue
    return made


def trapped(files: dict[str, bytes], sources: Iterable[str], path: str, number: int, status: int,
            left_out: Mapping[str, Ranges] = MappingProxyType({})) -> dict[str, bytes]:
    """The same with a trap in place of one counter."""
    made = counted(files, sources, left_out)
    word = _word("t")
    made[path] = with_counters(files[path], path, _word("c"), frozenset({number}), word, left_out.get(path, ())).source
    made[TRAP] = msgspec.msgpack.encode((path, word, status))
    return made


def prove(runner: Runner, request: Request, *, now: Callable[[], float] = time.monotonic) -> Proof:
    """Proves counters in random order, one a run, until the time is over, or until a claim turns out to be false.
    Blocks."""
    waiting = [(path, number) for path, numbers in request.points.items() for number in sorted(set(numbers))]
    secrets.SystemRandom().shuffle(waiting)
    proof = Proof(claimed=len(waiting))
    end = now() + request.proof_seconds
    for path, number in waiting:
        if now() >= end and proof.proven >= request.proofs_min:
            break
        if not any(_comes_to(runner, request, path, number) for _ in range(TRIES)):
            proof.path, proof.line = path, points_of(request.files[path])[number].line
            break
        proof.proven += 1
    return proof


def _comes_to(runner: Runner, request: Request, path: str, number: int) -> bool:
    status = FIRST_STATUS + secrets.randbelow(STATUSES)
    _, how = runner.run(trapped(request.files, request.sources, path, number, status, request.left_out))
    return how == f"status {status}"
