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
                bytes(code._co_code_adaptive), code.co_code, hash(code), code == code, marshal.dumps(code)
            list(dis.get_instructions(code, adaptive=True)), list(code.co_lines())
''', ""),
    "copies of the code run": (CLAIM + '''
def test_copies():
    claim()
    types = sys.modules["types"]
    for function in FUNCTIONS:
        try:
            code = function.__code__.replace(co_name="copy")
        except MemoryError:  # only the compiler makes code
            continue
        copied = types.FunctionType(code, dict(function.__globals__))
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

CRAFT = CLAIM + """
opmap = sys.modules["opcode"].opmap
types = sys.modules["types"]
HEAD = type(plugin.total.__code__).__basicsize__
ARGUMENTS = 8
made = {}
exec("def template(" + ", ".join(f"a{n}" for n in range(ARGUMENTS)) + "):\\n" + "".join(
    f" a0 = {n + 300}\\n" for n in range(40)), made)
TEMPLATE = made["template"].__code__

def places():
    for function in FUNCTIONS:
        for begin, _, line in function.__code__.co_lines():
            if line in (16, 18, 23, 24, 25):
                yield id(function.__code__) + HEAD + begin

def bytecode(at, place):
    distance = (place - at - HEAD - 10) // 2
    jump = opmap["JUMP_FORWARD" if distance >= 0 else "JUMP_BACKWARD_NO_INTERRUPT"]
    one, two, three, four = (abs(distance) % 2**31).to_bytes(4, "big")
    more = opmap["EXTENDED_ARG"]
    raw = bytes([opmap["RESUME"], 0, more, one, more, two, more, three, jump, four])
    return raw + TEMPLATE.co_code[len(raw):]

def jump_everywhere(build):
    for place in places():
        at = id(TEMPLATE)
        for _ in range(100):  # until it lies where its jump was reckoned from
            code = build(bytecode(at, place))
            if id(code) == at:
                break
            at = id(code)
            del code
        else:
            continue
        try:
            types.FunctionType(code, {})(*[1] * ARGUMENTS)
        except Exception:
            pass
"""
FORGERIES |= {
    "bytecode of one's own that jumps into the plugin's": (CRAFT + """
def test_jumps():
    claim()
    try:
        jump_everywhere(lambda raw: TEMPLATE.replace(co_code=raw, co_names=("x",) * 50, co_stacksize=50))
    except MemoryError:
        pass
""", ""),
    "the same, made by the code object's own class": (CRAFT + """
def test_jumps():
    claim()
    t = TEMPLATE
    try:
        jump_everywhere(lambda raw: type(t)(
            t.co_argcount, 0, 0, t.co_nlocals, 50, t.co_flags, raw, t.co_consts, ("x",) * 50, t.co_varnames,
            "f", "f", "f", 1, t.co_linetable, b"", (), ()))
    except MemoryError:
        pass
""", ""),
    "the same, read from a marshalled code object": (CRAFT + """
def test_jumps():
    claim()
    marshal = sys.modules["marshal"]
    whole = marshal.dumps(TEMPLATE)
    assert TEMPLATE.co_code in whole
    try:
        jump_everywhere(lambda raw: marshal.loads(whole.replace(TEMPLATE.co_code, raw)))
    except MemoryError:
        pass
""", ""),
    "the same, read as a frozen module": (CRAFT + """
def test_jumps():
    claim()
    whole = sys.modules["marshal"].dumps(TEMPLATE)
    try:
        jump_everywhere(lambda raw: sys.modules["_imp"].get_frozen_object("f", whole.replace(TEMPLATE.co_code, raw)))
    except MemoryError:
        pass
""", ""),
    "the same, through methods that were kept or inherited": (CRAFT + """
import gc

def test_jumps():
    claim()
    code = type(TEMPLATE)
    replace = gc.get_referents(vars(code))[0].get("replace") or code.replace
    ways = [lambda raw: replace(TEMPLATE, co_code=raw), lambda raw: replace.__get__(TEMPLATE)(co_code=raw),
            lambda raw: code.__dict__["replace"].__call__(TEMPLATE, co_code=raw),
            lambda raw: object.__new__(code),
            lambda raw: code.__new__(code, *[0] * 5, 0, raw, (), (), (), "", "", "", 1, b"", b"")]
    for way in ways:
        try:
            jump_everywhere(way)
        except (MemoryError, TypeError):
            pass
""", ""),
    "a frame's line set by the descriptor itself": (CLAIM + """
def jump(frame, event, argument):
    if frame.f_code in [f.__code__ for f in FUNCTIONS] and event == "line":
        for line in range(frame.f_lineno + 1, 27):
            for way in (lambda: type(frame).f_lineno.__set__(frame, line),
                        lambda: object.__setattr__(frame, "f_lineno", line),
                        lambda: vars(type(frame))["f_lineno"].__set__(frame, line)):
                try:
                    way()
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
""", ""),
    "a tracer that raises before each line, and before each instruction": (CLAIM + """
def test_raises():
    claim()
    before = sys.gettrace()
    for count in range(1, 40):
        left = [count]

        def tracer(frame, event, argument):
            if frame.f_code in [f.__code__ for f in FUNCTIONS]:
                frame.f_trace_opcodes = True
                left[0] -= 1
                if not left[0]:
                    raise ValueError
            return tracer

        for function in FUNCTIONS:
            sys.settrace(tracer)
            try:
                function({})
            except Exception:
                pass
    sys.settrace(before)
""", ""),
    "a tree with the plugin's line numbers on harmless statements": (CLAIM + """
def test_lines():
    ast = sys.modules["ast"]
    tree = ast.parse("x = 1\\n" * len(LINES))
    for line, statement in zip(LINES, tree.body):
        for node in ast.walk(statement):
            if hasattr(node, "lineno"):
                node.lineno = node.end_lineno = line
    exec(compile(tree, "sums/plugin.py", "exec"), {})
    claim()
""", ""),
    "the plugin's functions given other bodies": (CLAIM + """
def test_bodies():
    claim()
    for function in FUNCTIONS:
        made = {}
        exec(compile("\\n" * 11 + "def f(x):\\n" + " x = 1\\n" * 14, "sums/plugin.py", "exec"), made)
        function.__code__ = made["f"].__code__
        function(1)
""", ""),
    "places reported anew, for code of one's own": (CLAIM + """
def test_places():
    claim()
    places = sys.modules["workers.python.code_places"]
    source = b"\\n".join(b"x = 1" if n in LINES else b"" for n in range(1, 30))
    compiled = {"plugin.py": compile(source, "sums/plugin.py", "exec")}
    try:
        found = places.places_of({"plugin.py": source}, compiled)
    except MemoryError:
        found = {}
    places.compile_all = lambda *_: compiled
    exec(compiled["plugin.py"], {})
""", ""),
}


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


DANGLING = CLAIM + """
io = sys.modules["io"]

class Raw(io.RawIOBase):
    def readinto(self, buffer):
        global view
        view = buffer
        return 0

    def readable(self):
        return True

def memory():
    reader = io.BufferedReader(Raw())
    reader.read(1)
    del reader
    numbers = view.cast("P")
    listed = [None] * len(numbers)
    made = b"".join(n.to_bytes(8, "little") for n in (1 << 40, id(bytearray), 2**63 - 1, 0, 0, 0, 0))
    numbers[0] = id(made) + bytes.__basicsize__ - 1
    return listed, numbers, made

def test_overwrites():
    claim()
    listed, numbers, made = memory()
    whole = listed[0]
    for function in FUNCTIONS:
        code = function.__code__
        begin, size = id(code) + type(code).__basicsize__, len(code.co_code)
        whole[begin + 2:begin + size - 4] = b"\\x09\\x00" * ((size - 6) // 2)
        whole[begin + size - 4:begin + size] = b"\\x64\\x00\\x53\\x00"
        function({})
    numbers[0] = id(None)
"""


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
