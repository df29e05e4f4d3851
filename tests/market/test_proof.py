"""Coverage is proven from outside: what the tests' process can read, change or send does not make a line executed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest

from apex_exec.config import load_settings
from apex_exec.market.review import checks
from apex_exec.market.review.coverage import measure
from apex_exec.registry.bundles.bundle import make_bundle
from apex_exec.registry.scan.findings import STEERS
from apex_exec.registry.scan.scanner import scan
from apex_exec.registry.trials.line_proofs import Watching, cannot_watch, prove
from apex_exec.registry.trials.testing import Proof, Request, Run
from apex_exec.registry.trials.testing_child import Zygote
from tests.market.forgeries import CLAIM, DANGLING, FORGERIES
from tests.market.test_jailed_tests import GOOD, PLUGIN, bundle_of
from tests.support import need

UNRUN = {13, 14, 15, 16, 17, 18, 22, 23, 24, 25, 26}
"""Lines of PLUGIN in functions that no honest test of a forgery calls."""
NEVER = [("plugin.py", line) for line in (16, 18, 23, 24, 25)]
"""Those that not even a forgery that calls the functions comes to."""


@pytest.fixture(scope="module")
def request_() -> Request:
    uid = load_settings(None).sandbox.uid_range[1] if os.geteuid() == 0 else 0
    return Request("sums", "1.0.0", "plugin.py", bundle_of(Path("/nowhere/sums"), GOOD).files, 150 << 20, [], [], "L2",
                   uid, 30.0, proof_seconds=60.0, proofs_min=12)


@pytest.fixture(scope="module")
def zygote(request_: Request) -> Iterator[Zygote]:
    need(find_spec("coverage"), "coverage is not installed")
    try:
        made = Zygote(request_)
    except OSError as error:
        need(False, str(error))
    why = cannot_watch(made, request_)
    need(not why, why)
    yield made
    made.close()


def bundle(request: Request, tests: str, plugin: bytes = PLUGIN, conftest: str = "") -> dict[str, bytes]:
    """The files of the bundle, with these tests."""
    return {**request.files, "plugin.py": plugin, "tests/test_sums.py": tests.encode(),
            "tests/conftest.py": conftest.encode()}


def both(zygote: Zygote, request: Request, files: dict[str, bytes]) -> tuple[Run, Proof]:
    """What the tests claim, and what is proven of it."""
    run, _ = zygote.run(files)
    lines = measure(files, run.arcs).run
    return run, prove(zygote, msgspec.structs.replace(request, files=files, points=lines))


def test_every_line_that_honest_tests_run_is_proven(zygote: Zygote, request_: Request) -> None:
    run, proof = both(zygote, request_, bundle(request_, GOOD))
    assert (run.passed, run.failed, run.ended) == (4, 0, "")
    assert proof == Proof(proven=17, claimed=17)


KINDS = b'''"""Every kind of statement."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass

from workers import Plugin

plugin = Plugin(id="sums", version="1.0.0", permissions=[])
TABLE = {
    "one": 1,
    "two": [
        2,
        int("2"),
    ],
    "three": max(
        1,
        3,
    ), "four": len("four"), "five":
    5, "six": abs(
        -6),
}


@contextmanager
def opened(name):
    try:
        yield name
    finally:
        name = None


@dataclass(
    frozen=True,
)
class Point:
    x: int = 0

    @property
    @staticmethod
    def two():
        return 2

    def far(self):
        return self.x > 3


def loops(items, *, until=3):
    n = 0
    while n < until and items:
        n += 1
        if n == 2:
            continue
        for item in items: n += item
        else:
            n += 0
        pass
    else:
        n += 1
    del items
    return n


def errors(kind):
    try:
        try:
            raise kind("x")
        except KeyError:
            return "key"
        except (ValueError,
                OSError) as error:
            result = str(error)
        else:
            result = "never"
        finally:
            kind = None
        assert result, \
            "a message"
        raise RuntimeError(
            result
        ) from None
    except RuntimeError:
        return "end"


def matching(value):
    match value:
        case 1 | 2:
            return "few"
        case [first, *rest] if rest:
            return first
        case {"a": a}:
            return a
        case _:
            return None


def generator(n):
    global TABLE
    for i in range(n):
        got = yield i
        if (seen := got):
            yield seen
    yield from [x * 2
                for x in range(2)]
    return (lambda: n)()


async def asynchronous():
    async with asyncio.timeout(5):
        await asyncio.sleep(0)
    values = [x async for x in agen()]
    return f"""{
        values
    } and {len(values)}"""


async def agen():
    for i in range(2):
        yield i


@plugin.hook("onDataFetch")
def total(params):
    def inner():
        nonlocal count
        count += 1
    count = 0
    with opened("a") as a, \
            opened("b") as b:
        inner()
    for _ in range(30):
        inner()
    if (params and
            a and
            b): return {"transformedData": count if count else None}
    elif params is None:
        raise ValueError
    try:
        return {"transformedData": 1}
    finally:
        inner()
'''
KINDS_TESTS = '''
import asyncio
import plugin, pytest

def test_all():
    assert plugin.loops([1, 2]) and plugin.loops([]) == 1 and plugin.loops([0], until=9)
    assert plugin.errors(KeyError) == "key" and plugin.errors(ValueError) == "end"
    with pytest.raises(TypeError):
        plugin.errors(TypeError)
    assert plugin.Point(4).far() and plugin.Point.two
    assert [plugin.matching(v) for v in (1, [1, 2], {"a": 3}, None)] == ["few", 1, 3, None]
    made = plugin.generator(2)
    assert next(made) == 0 and made.send(7) == 7 and len(list(made)) == 3
    assert asyncio.run(plugin.asynchronous())
    for _ in range(20):
        assert plugin.total({"x": 1}) and plugin.total({})
    with pytest.raises(ValueError):
        plugin.total(None)
'''


@pytest.mark.slow
def test_every_kind_of_statement_can_be_proven(zygote: Zygote, request_: Request) -> None:
    run, proof = both(zygote, request_, bundle(request_, KINDS_TESTS, KINDS))
    assert (run.passed, run.failed, run.ended) == (1, 0, ""), run
    assert proof.claimed > 75 and proof == Proof(proven=proof.claimed, claimed=proof.claimed)


@pytest.mark.parametrize("name", FORGERIES)
@pytest.mark.slow_after(6)
def test_a_forgery_is_told_from_a_test(zygote: Zygote, request_: Request, name: str) -> None:
    tests, conftest = FORGERIES[name]
    files = bundle(request_, tests, conftest=conftest)
    run, proof = both(zygote, request_, files)
    assert not run.ended and run.passed, f"it forges nothing: {run.ended} {run.failures}"
    assert proof.path == "plugin.py" and proof.line in UNRUN, proof
    for _ in range(2):
        watching = Watching(NEVER, Counter())
        zygote.run(files, watching)
        assert len(watching.from_the_start) == 4 and not watching.seen


def test_who_can_write_to_the_interpreters_memory_has_only_claims(zygote: Zygote, request_: Request) -> None:
    """A fault of CPython itself, by which pure Python reads and writes any address. No wall of ours stands there: such
    tests are seen to execute what they like, so nothing of theirs is called proven."""
    files = bundle(request_, DANGLING)
    findings = scan(files, None, with_bandit=False).findings
    warnings = [f"{one.path}:{one.line}: {one.message}" for one in findings if one.severity == "warning"]
    assert any(STEERS in line for line in warnings)
    found = {check.name: check for check in checks.check(
        make_bundle({"manifest.json": request_.files["manifest.json"], **files}, "here"), now_ns=0,
        scan=lambda _: ([], warnings), run_tests=lambda one: zygote.run(dict(one.files))[0],
        prove=lambda one, lines: prove(zygote, msgspec.structs.replace(request_, files=dict(one.files), points=lines)),
        contact="", response_hours=0, scaffold="").checks}["coverage"]
    if found.passed:  # it worked: this interpreter has the fault
        assert found.detail["proven"] == 0 and found.detail["claimed"] > 0, found
        assert STEERS in found.detail["limit"], found
    else:
        assert any(word in found.problems[0] for word in ("is forged", "nothing was measured")), found


def test_who_touches_the_code_for_ever_is_stopped_in_time(zygote: Zygote, request_: Request,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    touch = "\n    while True:\n        for f in FUNCTIONS:\n            f.__code__._co_code_adaptive\n"
    files = bundle(request_, CLAIM + "\ndef test_touches():" + touch)
    monkeypatch.setattr(zygote, "_request", msgspec.structs.replace(request_, run_seconds=2.0))
    watching = Watching(NEVER, Counter())
    run, _ = zygote.run(files, watching)
    assert "ran longer than 2 s" in run.ended and not watching.seen and run.seconds < 10


@pytest.mark.parametrize("name", FORGERIES)
@pytest.mark.slow_after(4)
def test_the_scan_warns_of_what_a_forgery_reaches_for(name: str) -> None:
    tests, conftest = FORGERIES[name]
    files = {"tests/test_sums.py": tests.encode(), "tests/conftest.py": conftest.encode()}
    assert "coverage-reach" in {finding.rule for finding in scan(files, None, with_bandit=False).findings}


def test_without_the_machines_help_everything_stays_a_claim(zygote: Zygote, request_: Request,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apex_exec.registry.trials.debug_registers.platform.machine", lambda: "riscv64")
    _, proof = both(zygote, request_, bundle(request_, GOOD))
    assert proof.proven == 0 and proof.claimed == 17 and "no watching on riscv64" in proof.limit
