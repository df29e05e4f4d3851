"""The addresses of a bundle's lines in memory, for an observer outside who watches which of them are executed.

They are computed before any line of the bundle has run, so they are our code's statement and not the plugin's. Placed
code stays where it is to the end: its memory is not reused, no tracer may send a frame to a line that it did not reach,
no code may be made of bytes, and no native code may be called to change any of this. Only the test zygote has this
module loaded.
"""

from __future__ import annotations

import _imp
import ctypes
import io
import marshal
import sys
import tokenize
from collections.abc import Iterator, Mapping
from types import CodeType, FrameType
from typing import Any

from workers.python.imports import LOCK_NAME, VENDOR, text_of

Places = dict[str, list[tuple[int, int]]]

_FIELD = ctypes.sizeof(ctypes.c_void_p)
_GETSET, _SETTER = 5 * _FIELD, 2 * _FIELD
"""Offsets of ``PyGetSetDescrObject.d_getset`` and ``PyGetSetDef.set``."""


def counted(files: Mapping[str, bytes]) -> list[str]:
    """The sources whose coverage is measured: not the tests, nor packages in ``vendor/`` if a lock says what is there.
    Whether a package's files are its own was checked outside."""
    outside = ("tests/", VENDOR) if LOCK_NAME in files else ("tests/",)
    return [path for path in files if path.endswith(".py") and not path.startswith(outside)]


def compile_all(plugin: str, files: Mapping[str, bytes]) -> dict[str, CodeType]:
    """path → code of every Python file that counts. A file that cannot be compiled is omitted: importing
    it reports why. The code lives as long as the process, even if it is no longer referenced, so an address means only
    one place."""
    compiled = {}
    for path in counted(files):
        try:
            compiled[path] = compile(text_of(files[path]), f"{plugin}/{path}", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for code in _all_codes(compiled[path]):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(code))
    return compiled


def places_of(files: Mapping[str, bytes], compiled: Mapping[str, CodeType]) -> Places:
    """The addresses at which each line's bytecode is entered. Empty if this interpreter stores bytecode elsewhere than
    we know."""
    found: Places = {}
    for path, whole in compiled.items():
        first = _first_lines(text_of(files[path]))
        places = set()
        for code in _all_codes(whole):
            begin = id(code) + type(code).__basicsize__
            raw: bytes = code._co_code_adaptive  # type: ignore[attr-defined]  # CPython from 3.11 on
            if ctypes.string_at(begin, len(raw)) != raw:
                return {}
            before = 0
            for offset, _, line in code.co_lines():
                line = first.get(line or 0, line or 0)
                if line and line != before:
                    places.add((line, begin + offset))
                before = line
        found[path] = sorted(places)
    return found


def _all_codes(code: CodeType) -> Iterator[CodeType]:
    waiting = [code]
    while waiting:
        code = waiting.pop()
        yield code
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def _first_lines(text: str) -> dict[int, int]:
    """Line → the first line of its logical line, if that is another one: as coverage.py counts them."""
    first: dict[int, int] = {}
    begin = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NEWLINE:
                first |= dict.fromkeys(range(begin + 1, token.start[0] + 1), begin)
                begin = 0
            elif not begin and token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
                begin = token.start[0]
    except (tokenize.TokenError, SyntaxError):
        return {}
    return first


def no_jumps() -> None:
    """From now on no frame can be sent to another line (``frame.f_lineno = …``), because that would execute a line that
    the program never reached. Python has no way to forbid it, so we remove the attribute's setter."""
    getset = ctypes.c_void_p.from_address(id(FrameType.__dict__["f_lineno"]) + _GETSET).value
    assert getset
    ctypes.c_void_p.from_address(getset + _SETTER).value = None


def no_native_calls() -> None:
    """From now on ``ctypes`` makes no call and no object over foreign memory, and nothing but the compiler makes code.
    An attempt raises MemoryError.

    Call this last: this code itself uses ctypes. Corrupting memory through a fault of the interpreter remains possible.
    """
    import _ctypes

    refuse = ctypes.cast(ctypes.pythonapi.PyErr_NoMemory, ctypes.c_void_p).value
    assert refuse
    slots: list[int] = []
    kinds = {type(kind) for kind in _kinds(_ctypes)}
    for kind in (*_kinds(_ctypes), *kinds):
        slots += [id(kind) + slot for slot in (_CALL, _NEW)]
    for kind in _kinds(_ctypes):
        if issubclass(kind, _ctypes._Pointer):  # ``pointer[i]`` and ``pointer.contents`` have no bounds
            slots += [_pointer(id(kind) + table) + slot for table, offsets in _ITEMS.items() for slot in offsets]
    contents = _pointer(id(vars(_ctypes._Pointer)["contents"]) + _GETSET)
    slots += [contents + _FIELD, contents + _SETTER]
    for owner in (*kinds, *_kinds(_ctypes)):
        for value in vars(owner).values():
            if type(value).__name__ in ("method_descriptor", "classmethod_descriptor"):
                slots.append(_pointer(id(value) + _GETSET) + _FIELD)
    for value in vars(_ctypes).values():
        if type(value).__name__ == "builtin_function_or_method":
            slots.append(_pointer(id(value) + 2 * _FIELD) + _FIELD)
    slots += _makers_of_code()
    address: Any = ctypes.c_void_p.from_address
    cells = [address(slot) for slot in slots]
    for cell in cells:
        cell.value = refuse


def _makers_of_code() -> list[int]:
    """The slots of all that makes a code object of bytes. The interpreter does not check bytecode: a jump in it can
    lead into the code of the plugin, whose line would then be executed by code that never called it."""
    replace = CodeType.__dict__["replace"]
    loaders = (marshal.loads, marshal.load, _imp.get_frozen_object)
    return [id(CodeType) + _NEW, _pointer(id(replace) + _GETSET) + _FIELD,
            *(_pointer(id(function) + 2 * _FIELD) + _FIELD for function in loaders)]


_CALL, _NEW = 16 * _FIELD, 39 * _FIELD
"""Offsets of ``PyTypeObject.tp_call`` and ``tp_new``."""
_ITEMS = {13 * _FIELD: (3 * _FIELD, 5 * _FIELD), 14 * _FIELD: (1 * _FIELD, 2 * _FIELD)}
"""Offsets of ``tp_as_sequence`` (``sq_item``, ``sq_ass_item``) and ``tp_as_mapping`` (``mp_subscript`` and its setter).
"""


def _pointer(address: int) -> int:
    value = ctypes.c_void_p.from_address(address).value
    assert value
    return value


def _kinds(module: Any) -> list[type]:
    """Every existing class of ctypes: a new class takes its slots from one of them."""
    found: list[type] = []
    waiting: list[type] = [module._SimpleCData, module.Structure, module.Union, module.Array, module._Pointer,
                           module.CFuncPtr]
    while waiting:
        kind = waiting.pop()
        if kind not in found:
            found.append(kind)
            waiting += type.__subclasses__(kind)
    return found


assert sys.implementation.name == "cpython"
