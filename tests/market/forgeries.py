"""Tests that claim to run what they do not run, in every way that somebody thought of, and one that a fault of CPython
allows."""

from __future__ import annotations

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
JUMP = CLAIM + '''
def send(*ways):
    """Runs the functions under a tracer that sends each of their lines to a later one, in any of these ways."""
    def jump(frame, event, argument):
        if frame.f_code not in [f.__code__ for f in FUNCTIONS]:
            return None
        for line in range(frame.f_lineno + 1, 27) if event == "line" else ():
            for way in ways:
                try:
                    way(frame, line)
                    return jump
                except Exception:
                    pass
        return jump

    before = sys.gettrace()
    sys.settrace(jump)
    for function in FUNCTIONS:
        for argument in ({}, 0):
            try:
                function(argument)
            except Exception:
                pass
    sys.settrace(before)
'''
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
    "frames sent from line to line by a tracer": (JUMP + '''
def test_jumps():
    claim()
    send(lambda frame, line: setattr(frame, "f_lineno", line))
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
    "a frame's line set by the descriptor itself": (JUMP + '''
def test_jumps():
    claim()
    send(lambda frame, line: type(frame).f_lineno.__set__(frame, line),
         lambda frame, line: object.__setattr__(frame, "f_lineno", line),
         lambda frame, line: vars(type(frame))["f_lineno"].__set__(frame, line))
''', ""),
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
"""What it is -> (the bundle's tests, its conftest.py)."""

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
