"""Runs a bundle's tests in the real jail, for its author and, before a review, for the marketplace.

A process of its own (``testing_child``) probes the machine, starts a test zygote (the workers' zygote with pytest and
coverage loaded as well), forks one jailed worker a run, and bounds every run in time and memory. A run's report is the
word of the code that was tested. The marketplace therefore computes coverage itself, and has lines proven by runs in
which the processor tells this side that they are executed (``prove``).
"""

from __future__ import annotations

import os
import subprocess

import msgspec

from apex_exec import extras
from apex_exec.common.child_process import run_module
from apex_exec.config import Settings
from apex_exec.errors import Refusal
from apex_exec.executor.processes.runtimes import JAVASCRIPT
from apex_exec.registry.bundles.bundle import Bundle
from apex_exec.registry.trials.packages import NOTHING, LeftOut

RUN_SECONDS_MAX = 60.0
"""How long one run of all tests may take. A test that hangs ends here."""
PROOF_SECONDS_MAX = 45.0
"""How long all runs that prove lines may take together. As many lines as fit are proven, in random order, but
PROOFS_MIN at least."""
PROOFS_MIN = 12
MEMORY_EXTRA_MB = 100
"""How much memory pytest and the tests may take on top of the plugin's own limit."""
_START_SECONDS = 60.0


class Request(msgspec.Struct):
    """What the child process is asked for. ``points`` maps a path to the lines, in JavaScript to the
    counters, that are to be proven."""

    plugin: str
    version: str
    entrypoint: str
    files: dict[str, bytes]
    memory_bytes_max: int
    extra_modules: list[str]
    waive: list[str]
    min_level: str
    uid: int
    run_seconds: float
    sources: list[str] = []
    """The JavaScript files that a worker would load, if the bundle is in JavaScript."""
    left_out: dict[str, list[tuple[int, int]]] = {}
    """Parts of them that do not count (``packages.LeftOut``)."""
    points: dict[str, list[int]] = {}
    proof_seconds: float = 0.0
    proofs_min: int = 0


class Run(msgspec.Struct):
    """One run of all tests. ``ended`` is "" if the run came to its end, else one line that says why it did not."""

    passed: int = 0
    failed: int = 0
    failures: list[str] = []
    arcs: dict[str, list[tuple[int, int]]] = {}
    ended: str = ""
    test: str = ""
    """The test that was running if the run ended before its report; "" if none had begun."""
    seconds: float = 0.0
    output: list[str] = []
    level: str = ""
    left_out: LeftOut = NOTHING
    """What did not count; decided before the run, outside of it."""


class Proof(msgspec.Struct):
    """How many of the claims were seen to be true, and the first line whose claim was not ("" and 0 if there is none).

    ``limit``: why nothing could be proven here ("" where it could).
    """

    proven: int = 0
    claimed: int = 0
    path: str = ""
    line: int = 0
    limit: str = ""


class Answer(msgspec.Struct):
    """What the child process answers. ``refused`` says why this machine cannot jail tests as the operator wants."""

    run: Run | None = None
    proof: Proof | None = None
    refused: str = ""


def run_tests(bundle: Bundle, settings: Settings, *, run_seconds: float = RUN_SECONDS_MAX,
              left_out: LeftOut = NOTHING) -> Run:
    """Runs the bundle's tests once. ``left_out`` does not count. Blocks for up to ``run_seconds`` and the start of a
    zygote.

    Raises Refusal: tests_not_jailed (this machine does not reach ``sandbox.min_level``, or pytest is missing).
    """
    found = _ask(_request(bundle, settings, run_seconds, left_out), run_seconds).run
    assert found is not None
    found.left_out = left_out
    count = len(found.failures)
    located = bundle.in_source_all([*found.failures, *found.output])
    found.failures, found.output = located[:count], located[count:]
    return found


def prove(bundle: Bundle, settings: Settings, lines: dict[str, list[int]], *, run_seconds: float = RUN_SECONDS_MAX,
          proof_seconds: float = PROOF_SECONDS_MAX, proofs_min: int = PROOFS_MIN,
          left_out: LeftOut = NOTHING) -> Proof:
    """Watches from outside whether what is claimed (``Measured.claims``) is executed, in Python several lines a run.
    Blocks for up to ``proof_seconds``, or longer if ``proofs_min`` of them take longer. Raises
    Refusal("tests_not_jailed")."""
    request = msgspec.structs.replace(_request(bundle, settings, run_seconds, left_out), points=lines,
                                      proof_seconds=proof_seconds, proofs_min=proofs_min)
    found = _ask(request, proof_seconds + 3 * proofs_min * run_seconds).proof
    assert found is not None
    return found


def _request(bundle: Bundle, settings: Settings, run_seconds: float, left_out: LeftOut) -> Request:
    memory_mb = bundle.manifest.limits.within(settings.limits.policy()).memory_mb
    sandbox = settings.sandbox
    return Request(bundle.manifest.id, bundle.manifest.version, bundle.entrypoint, bundle.files,
                   (memory_mb + MEMORY_EXTRA_MB) << 20, list(sandbox.extra_modules), list(sandbox.waive),
                   sandbox.min_level, sandbox.uid_range[1] if os.geteuid() == 0 else 0, run_seconds,
                   sources_of(bundle), left_out.ranges)


def sources_of(bundle: Bundle) -> list[str]:
    """The JavaScript files that count in a JavaScript bundle's coverage: those that a worker gets."""
    if bundle.manifest.runtime != JAVASCRIPT.name:
        return []
    return [path for path in bundle.loaded if path.endswith(JAVASCRIPT.suffixes)]


def _ask(request: Request, seconds: float) -> Answer:
    if not extras.is_installed("market"):
        raise Refusal("extra_missing", extras.words("market", "running a plugin's tests"))
    last_words = ""
    try:
        done = run_module("apex_exec.registry.trials.testing_child", data=msgspec.msgpack.encode(request),
                          seconds=seconds + _START_SECONDS)
        last_words = done.last_words
        answer = msgspec.msgpack.decode(done.output, type=Answer)
    except subprocess.TimeoutExpired:
        raise Refusal("tests_not_jailed", f"the tests took over {seconds + _START_SECONDS:.0f} s in all") from None
    except msgspec.DecodeError:
        raise Refusal("tests_not_jailed", f"the tests' zygote did not start: {last_words or 'no answer'}",
                      hint="see `apex-exec doctor`") from None
    if answer.refused:
        raise Refusal("tests_not_jailed", answer.refused, hint="see `apex-exec doctor`")
    return answer
