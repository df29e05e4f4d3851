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
from apex_exec.market.review.coverage import measure
from apex_exec.registry.scan.scanner import scan
from apex_exec.registry.trials.line_proofs import Watching, cannot_watch, prove
from apex_exec.registry.trials.testing import Proof, Request, Run
from apex_exec.registry.trials.testing_child import Zygote
from tests.market.test_jailed_tests import GOOD, PLUGIN, bundle_of
from tests.support import need

UNRUN = {13, 14, 15, 16, 17, 18, 22, 23, 24, 25, 26}
"""Lines of PLUGIN in functions that no honest test of a forgery calls."""
NEVER = [("plugin.py", line) for line in (16, 18, 23, 24, 25)]
"""Those that not even a forgery that calls the functions comes to."""
CLAIM = '''
import sys
import plugin

LINES = (3, 5, 7, 10, 11, 13, 14, 15, 16, 17, 18, 21, 22, 23, 24, 25, 26)
ARCS = {(a, b) for a in (-1, *LINES) for b in LINES if a < b}

def claim():
    sys.gettrace().__self__.data.setdefault("plugin.py", set()).update(ARCS)

def codes(code):
    yield code
    for constant in code.co_consts:
        if type(constant) is type(code):
            yield from codes(constant)

FUNCTIONS = (plugin.total, plugin.never_tested)
'''


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


FORGERIES = {
    "the tracer's data, and an exit whose number is read from the source": (CLAIM + '''
def test_nothing():
    claim()
''', '''
import linecache, os, re

def pytest_runtest_setup(item):
    found = re.search(r"_exit\\((\\d+)\\)", "".join(linecache.getlines("sums/plugin.py")))
    if found:
        os._exit(int(found[1]))
'''),
    "the tracer found by the collector": (CLAIM + '''
import gc

def test_nothing():
    for thing in gc.get_objects():
        if type(thing).__name__ == "PyTracer":
            thing.data.setdefault("plugin.py", set()).update(ARCS)
''', ""),
    "a report of one's own": (CLAIM + '''
import os
import msgspec

def test_forges():
    body = msgspec.msgpack.encode(["tested", 9, 0, [], {"plugin.py": sorted(ARCS)}, False])
    os.write(3, b"\\x02" + len(body).to_bytes(8, "big") + body)
    os._exit(0)
''', ""),
    "the report changed on its way": (CLAIM + '''
import msgspec
from workers import wire

def test_forges():
    sys.modules["workers.runtime.link"]._encode = lambda message: msgspec.msgpack.encode(
        ["tested", 9, 0, [], {"plugin.py": sorted(ARCS)}, False] if type(message) is wire.Tested else message)
''', ""),
    "every byte of the code read": (CLAIM + '''

def test_reads():
    claim()
    dis = sys.modules["dis"]
    marshal = sys.modules["marshal"]
    for function in FUNCTIONS:
        for code in codes(function.__code__):
            for _ in range(100):
                bytes(code._co_code_adaptive), code.co_code, hash(code), code == code.replace(), marshal.dumps(code)
            list(dis.get_instructions(code, adaptive=True)), list(code.co_lines())
''', ""),
    "copies of the code run": (CLAIM + '''
def test_copies():
    claim()
    types = sys.modules["types"]
    for function in FUNCTIONS:
        copied = types.FunctionType(function.__code__.replace(co_name="copy"), dict(function.__globals__))
        for argument in ({}, {"values": [7]}, {"values": [1]}, 0, 1):
            try:
                copied(argument)
            except Exception:
                pass
''', ""),
    "the same source run again under the same name": (CLAIM + '''
import linecache

def test_again():
    module = {"__name__": "again", "__builtins__": __builtins__}
    exec(compile("".join(linecache.getlines("sums/plugin.py")), "sums/plugin.py", "exec"), module)
    for argument in ({}, {"values": [7]}, {"values": [1]}):
        module["total"](argument)
    module["never_tested"](1), module["never_tested"](0)
''', ""),
    "empty lines under the plugin's name": (CLAIM + '''
def test_empty():
    source = "\\n".join("x = 1" if n in LINES else "" for n in range(1, 30))
    exec(compile(source, "sums/plugin.py", "exec"), {})
    claim()
''', ""),
    "frames sent from line to line by a tracer": (CLAIM + '''
def jump(frame, event, argument):
    if frame.f_code not in [f.__code__ for f in FUNCTIONS]:
        return None
    if event == "line":
        for line in range(frame.f_lineno + 1, 27):
            try:
                frame.f_lineno = line
                break
            except Exception:
                pass
    return jump

def test_jumps():
    claim()
    before = sys.gettrace()
    sys.settrace(jump)
    for function in FUNCTIONS:
        for argument in ({}, 0):
            try:
                function(argument)
            except Exception:
                pass
    sys.settrace(before)
''', ""),
    "the code overwritten by nothing that harms, then run": (CLAIM + '''
def test_overwrites():
    claim()
    ctypes = sys.modules["workers.jail.base"].ctypes
    for function in FUNCTIONS:
        code = function.__code__
        begin, size = id(code) + type(code).__basicsize__, len(code.co_code)
        try:
            for at in range(2, size - 4, 2):
                ctypes.memmove(begin + at, b"\\x09\\x00", 2)
            ctypes.memmove(begin + size - 4, b"\\x64\\x00\\x53\\x00", 4)
        except MemoryError:
            return
        function({})
''', ""),
    "the same by libc's functions that the jail left behind": (CLAIM + '''
import gc

def test_overwrites():
    claim()
    ctypes = sys.modules["workers.jail.base"].ctypes
    left = [one for one in gc.get_objects() if isinstance(one, (ctypes.CDLL, ctypes._CFuncPtr))]
    left += [value for kind in ctypes.CDLL.__subclasses__() for value in vars(kind).values()]
    for function in FUNCTIONS:
        code = function.__code__
        begin, size = id(code) + type(code).__basicsize__, len(code.co_code)
        for library in left:
            try:
                library.memset(begin + 2, 9, size - 6)
                function({})
            except (MemoryError, AttributeError, TypeError):
                pass
''', ""),
    "the code's memory given to other code": (CLAIM + '''
import gc

def test_reuses():
    claim()
    for function in FUNCTIONS:
        size, old = len(function.__code__.co_code), id(function.__code__)
        function.__code__ = (lambda _: None).__code__
        frame = sys._getframe()
        while frame is not None:
            if "compiled" in frame.f_locals:
                frame.f_locals["compiled"].clear()
            frame = frame.f_back
        gc.collect()
        for _ in range(3000):
            body = "def f():\\n" + " x = 1\\n" * (size // 4)
            made = {}
            exec(body, made)
            if id(made["f"].__code__) == old:
                made["f"]()
            made["f"]()
''', ""),
    "traps of one's own": (CLAIM + '''
import os

def test_traps():
    claim()
    signal = sys.modules["signal"]
    signal.signal(signal.SIGTRAP, lambda *_: None)
    for _ in range(1000):
        try:
            signal.raise_signal(signal.SIGTRAP)
        except OSError:
            break
''', ""),
}


@pytest.mark.parametrize("name", FORGERIES)
@pytest.mark.slow_after(4)
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
