"""QuickJS-ng as the wheel ``quickjs-ng`` ships it: the wheel's own fast calls, and through ctypes the part of the
engine's C API that the wheel's Python face leaves out (file names, modules, bytecode, the stack's size).

The authors of the wheel promise none of what is known here: values are passed as {8 bytes, 8 bytes of tag}, and
``_quickjs.Context`` holds the runtime and the context behind its object head. ``check`` proves both. It may crash where
they do not hold, so it runs in a process that may crash, and versions beyond the tested ones are not installed.

Rules that the wheel imposes, each found by breaking it:

- Callbacks are made when this module is imported, in the zygote: a confined process can map no executable memory.
- Code that may call a host function runs beneath a call of the wheel's own (``call``, ``evaluate``, ``run_jobs``),
  which keep account of the interpreter's lock. Through the C API we only compile, and run what calls nothing.
- Only flat strings, floats and bools cross: the wheel cuts integers to 32 bits, and fails on a string that was put
  together and not yet copied (a rope). ``JSON.stringify`` returns flat strings, and its texts hold neither NUL nor
  halves of a surrogate pair, on which the wheel fails as well.
- A host function never raises.
"""

from __future__ import annotations

import ctypes as c
from collections.abc import Callable
from typing import Any

import _quickjs

_lib = c.PyDLL(_quickjs.__file__)  # PyDLL keeps the interpreter's lock: there is no other thread to give it to

TAG_EXCEPTION, TAG_UNDEFINED, TAG_OBJECT = 6, 3, -1
_TYPE_GLOBAL, _TYPE_MODULE, _STRICT, _COMPILE_ONLY = 0, 1, 8, 32
_WRITE_BYTECODE, _STRIP_SOURCE, _READ_BYTECODE = 1, 16, 1
_CONFIGURABLE = 1
_HEAD_BYTES = object.__basicsize__


GC_BYTES = 1024 * 1024
"""The heap's size at which the engine first collects. The prelude alone comes near the engine's own default, 256 kB, so
that loading a plugin would begin with a collection, which writes to every page that the worker shares."""
REJECTED_MAX = 64
"""Rejected promises of one call that are kept until it is known whether somebody handles them. A promise refers to what
it was rejected with, so keeping it keeps that from being freed; further ones are not kept, and not reported."""
FULL_SHARE = 0.7
"""An engine that uses so much of its limit, and whose promise was never settled, had no room to settle it."""


class Value(c.Structure):
    """A value of the engine, as C functions take and return it."""

    _fields_ = (("u", c.c_uint64), ("tag", c.c_int64))


_LOADER = c.CFUNCTYPE(c.c_void_p, c.c_void_p, c.c_char_p, c.c_void_p)
_REJECTIONS = c.CFUNCTYPE(None, c.c_void_p, Value, Value, c.c_bool, c.c_void_p)
_INTERRUPT = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_void_p)


def _function(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(_lib, name)
    function.restype, function.argtypes = result, arguments
    return function


_P, _S, _Z = c.c_void_p, c.c_char_p, c.c_size_t
_get_runtime = _function("JS_GetRuntime", _P, _P)
_get_version = _function("JS_GetVersion", _S)
_eval = _function("JS_Eval", Value, _P, _S, _Z, _S, c.c_int)
_eval_function = _function("JS_EvalFunction", Value, _P, Value)
_write_object = _function("JS_WriteObject", _P, _P, c.POINTER(_Z), Value, c.c_int)
_read_object = _function("JS_ReadObject", Value, _P, _S, _Z, c.c_int)
_free_value = _function("JS_FreeValue", None, _P, Value)
_free = _function("js_free", None, _P, _P)
_get_exception = _function("JS_GetException", Value, _P)
_to_cstring = _function("JS_ToCStringLen2", _P, _P, c.POINTER(_Z), Value, c.c_bool)
_free_cstring = _function("JS_FreeCString", None, _P, _P)
_get_property = _function("JS_GetPropertyStr", Value, _P, Value, _S)
_set_property = _function("JS_SetPropertyStr", c.c_int, _P, Value, _S, Value)
_define_property = _function("JS_DefinePropertyValueStr", c.c_int, _P, Value, _S, Value, c.c_int)
_global_object = _function("JS_GetGlobalObject", Value, _P)
_set_loader = _function("JS_SetModuleLoaderFunc", None, _P, _P, _P, _P)
_update_stack_top = _function("JS_UpdateStackTop", None, _P)
_set_max_stack = _function("JS_SetMaxStackSize", None, _P, _Z)
_set_memory_limit = _function("JS_SetMemoryLimit", None, _P, _Z)
_compute_memory_usage = _function("JS_ComputeMemoryUsage", None, _P, _P)
_get_gc_threshold = _function("JS_GetGCThreshold", _Z, _P)
_set_gc_threshold = _function("JS_SetGCThreshold", None, _P, _Z)
_run_gc = _function("JS_RunGC", None, _P)
_throw = _function("JS_Throw", Value, _P, Value)
_new_string = _function("JS_NewStringLen", Value, _P, _S, _Z)
_new_error = _function("JS_NewError", Value, _P)
_dup_value = _function("JS_DupValue", Value, _P, Value)
_set_rejections = _function("JS_SetHostPromiseRejectionTracker", None, _P, _P, _P)
_set_interrupt = _function("JS_SetInterruptHandler", None, _P, _P, _P)

trim: Callable[[int], int] = getattr(c.CDLL(None), "malloc_trim", lambda _keep: 0)
"""Gives free memory of the heap back to the system; nothing where the C library cannot."""

WheelError: type[Exception] = _quickjs.JSException
"""What a call of the wheel's raises if something was thrown that no JavaScript caught: beneath our own functions that
happens only where there is no memory left to catch it with."""
StackOverflow: type[Exception] = _quickjs.StackOverflow


class JSError(Exception):
    """Something was thrown: ``name``, ``message`` and ``stack`` of the error, as text."""

    def __init__(self, name: str, message: str, stack: str) -> None:
        super().__init__(message)
        self.name = name
        self.message = message
        self.stack = stack


class Engine:
    """One runtime with one context. ``context`` is the wheel's."""

    __slots__ = ("_ctx", "_rt", "context", "owner", "rejected", "run_job")

    def __init__(self, stack_bytes_max: int = 0) -> None:
        self.context: Any = _quickjs.Context()
        head = id(self.context) + _HEAD_BYTES
        self._rt = c.c_void_p.from_address(head).value
        self._ctx = c.c_void_p.from_address(head + c.sizeof(c.c_void_p)).value
        self.run_job: Callable[[], bool] = self.context.execute_pending_job
        """Runs one pending job; False if there was none. Raises WheelError if it threw, which only out of memory does.
        """
        self.rejected: dict[int, tuple[Value, Value, int]] = {}
        """After ``track_rejections``: the promises that were rejected and that nobody has handled, for
        ``take_rejected``."""
        self.owner: int | None = 0
        """The call whose code runs: what is rejected now is noted for it. Nothing is noted for None."""
        if stack_bytes_max:
            _set_max_stack(self._rt, stack_bytes_max)

    # ------------------------------------------------------------------ code
    def compile(self, source: bytes, name: str, *, module: bool) -> Value:
        """Compiles UTF-8 ``source``; nothing of it runs. Raises JSError."""
        _update_stack_top(self._rt)
        value = self._compiled(source, name, module)
        if value.tag == TAG_EXCEPTION:
            raise self._error()
        return value

    def _compiled(self, source: bytes, name: str, module: bool) -> Value:
        flags = (_TYPE_MODULE if module else _TYPE_GLOBAL | _STRICT) | _COMPILE_ONLY
        compiled: Value = _eval(self._ctx, source, len(source), name.encode(), flags)
        return compiled

    def bytecode(self, compiled: Value) -> bytes:
        """Returns ``compiled`` as bytes that ``read`` of any engine of this process and its forks takes, without its
        source: ``String(function)`` says ``[native code]``. Raises JSError."""
        size = _Z()
        pointer = _write_object(self._ctx, c.byref(size), compiled, _WRITE_BYTECODE | _STRIP_SOURCE)
        if not pointer:
            raise self._error()
        try:
            return c.string_at(pointer, size.value)
        finally:
            _free(self._ctx, pointer)

    def read(self, code: bytes) -> Value:
        """Takes bytecode in. It must come from this process or its zygote: the engine trusts it. Raises JSError."""
        _update_stack_top(self._rt)
        value: Value = _read_object(self._ctx, code, len(code), _READ_BYTECODE)
        if value.tag == TAG_EXCEPTION:
            raise self._error()
        return value

    def set_global(self, name: str, compiled: Value) -> None:
        """Runs a compiled script, which must call no host function, and makes its value a global. Raises JSError."""
        _update_stack_top(self._rt)
        value = _eval_function(self._ctx, compiled)
        if value.tag == TAG_EXCEPTION:
            raise self._error()
        everything = _global_object(self._ctx)
        _set_property(self._ctx, everything, name.encode(), value)
        _free_value(self._ctx, everything)

    def add_parts(self, name: str, codes: dict[str, bytes]) -> None:
        """Makes a host function, the global ``name``. Called with a key of ``codes`` it runs that bytecode, which must
        call no host function, makes its value the global ``__part``, and returns true; false if memory is short.
        """
        ctx = self._ctx  # not the engine itself: it refers to the function, and the circle would keep both

        def part(key: str) -> bool:
            try:
                value: Value = _read_object(ctx, codes[key], len(codes[key]), _READ_BYTECODE)
                if value.tag != TAG_EXCEPTION:
                    value = _eval_function(ctx, value)
                if value.tag != TAG_EXCEPTION:
                    everything = _global_object(ctx)
                    done: int = _define_property(ctx, everything, b"__part", value, _CONFIGURABLE)
                    _free_value(ctx, everything)
                    if done == 1:
                        return True
                _free_value(ctx, _get_exception(ctx))
            except Exception:  # noqa: BLE001 - a host function never raises
                pass
            return False

        self.context.add_callable(name, part)

    def evaluate(self, source: str) -> Any:
        """Runs a script of ours. Returns its value by the wheel's conversion. Raises WheelError."""
        return self.context.eval(source)

    def run_jobs(self) -> None:
        """Runs what is pending, and what that leaves pending, to the end."""
        while self.run_job():
            pass

    # ------------------------------------------------------------------ modules
    def load_modules(self, source_of: Callable[[str], bytes]) -> None:
        """From now on imports of this engine are answered by ``source_of(name)``, which raises ImportError with a text
        for the author. Names that begin with a dot were made absolute before, against the importing module's name."""
        _loading[self._ctx or 0] = (self, source_of)
        _set_loader(self._rt, None, _loader_at, None)

    def unload(self) -> None:
        """Forgets what ``load_modules`` and ``track_rejections`` noted. Call it before the last reference goes."""
        _loading.pop(self._ctx or 0, None)
        if _rejected.pop(self._ctx or 0, None) is not None:
            _set_rejections(self._rt, None, None)
            self.forget_rejected()

    # ------------------------------------------------------------------ rejections
    def track_rejections(self) -> None:
        """From now on ``rejected`` has the promises that are rejected while nobody handles them, REJECTED_MAX at most.
        """
        _rejected[self._ctx or 0] = self
        _set_rejections(self._rt, _rejections_at, None)

    def take_rejected(self, name: str) -> int:
        """Makes the global ``name`` what the first promise of ``owner`` was rejected with that nobody has handled.
        Returns how many such promises there are, and forgets them; 0 if there is none, or no memory for the global."""
        reasons = [reason for _, reason, owner in self.rejected.values() if owner == self.owner]
        done = 0
        if reasons:
            everything = _global_object(self._ctx)
            reason = _dup_value(self._ctx, reasons[0])
            done = _define_property(self._ctx, everything, name.encode(), reason, _CONFIGURABLE)
            _free_value(self._ctx, everything)
            if done != 1:
                _free_value(self._ctx, _get_exception(self._ctx))
        self.forget_rejected()
        return len(reasons) if done == 1 else 0

    def forget_rejected(self) -> None:
        """Frees what was kept of ``owner`` for ``take_rejected``."""
        for key in [key for key, (_, _, owner) in self.rejected.items() if owner == self.owner]:
            promise, reason, _ = self.rejected.pop(key)
            _free_value(self._ctx, promise)
            _free_value(self._ctx, reason)

    # ------------------------------------------------------------------ signals
    def let_signals_in(self) -> None:
        """From now on Python's signal handlers run while JavaScript does. The engine asks once in some thousand steps,
        which costs under a percent."""
        _set_interrupt(self._rt, _interrupt_at, None)

    def _load(self, name: str, source_of: Callable[[str], bytes]) -> int | None:
        try:
            source = source_of(name)
        except ImportError as error:
            self._throw(str(error))
            return None
        compiled = self._compiled(source, name, True)
        return None if compiled.tag == TAG_EXCEPTION else int(compiled.u)  # the exception is pending for the importer

    def _throw(self, text: str) -> None:
        raw = text.encode("utf-8", "replace")
        error = _new_error(self._ctx)
        _set_property(self._ctx, error, b"message", _new_string(self._ctx, raw, len(raw)))
        _throw(self._ctx, error)

    # ------------------------------------------------------------------ bounds
    def limit_memory(self, bytes_max: int) -> None:
        """From now on the engine's allocations above ``bytes_max`` in all are refused: out of memory."""
        _set_memory_limit(self._rt, bytes_max)

    def was_full(self) -> bool:
        """Whether most of what ``limit_memory`` allows is in use, or was since ``collect``. Slow."""
        usage = (c.c_int64 * 64)()  # the first two of JSMemoryUsage's members: malloc_size, malloc_limit
        _compute_memory_usage(self._rt, usage)
        return bool(usage[0] > usage[1] * FULL_SHARE) or self.has_peaked(usage[1])

    def has_peaked(self, bytes_max: int) -> bool:
        """Whether the heap had two thirds of ``bytes_max`` since ``collect``: each collection puts the next one off
        until the heap is half as large again."""
        return bool(_get_gc_threshold(self._rt) >= bytes_max)

    def collect(self) -> None:
        """Frees what is unreachable but refers to itself."""
        _run_gc(self._rt)
        self.put_off_collecting()

    def put_off_collecting(self) -> None:
        """Has the engine collect by itself when its heap is GC_BYTES, and not before."""
        _set_gc_threshold(self._rt, GC_BYTES)

    # ------------------------------------------------------------------ errors
    def _error(self) -> JSError:
        value = _get_exception(self._ctx)
        parts = []
        for key in (b"name", b"message", b"stack"):
            got = _get_property(self._ctx, value, key) if value.tag == TAG_OBJECT else Value(0, TAG_UNDEFINED)
            if got.tag == TAG_EXCEPTION:
                _free_value(self._ctx, _get_exception(self._ctx))
                got = Value(0, TAG_UNDEFINED)
            parts.append("" if got.tag == TAG_UNDEFINED else self._text(got))
            _free_value(self._ctx, got)
        text = parts[1] or self._text(value)
        _free_value(self._ctx, value)
        return JSError(parts[0] or "Error", text, parts[2])

    def _text(self, value: Value) -> str:
        size = _Z()
        pointer = _to_cstring(self._ctx, c.byref(size), value, False)
        if not pointer:
            _free_value(self._ctx, _get_exception(self._ctx))
            return ""
        try:
            return c.string_at(pointer, size.value).decode("utf-8", "replace")
        finally:
            _free_cstring(self._ctx, pointer)


_loading: dict[int, tuple[Engine, Callable[[str], bytes]]] = {}
"""Context → who answers its imports. C gives the loader nothing else."""


def _load_module(ctx: int, name: bytes, _opaque: int) -> int | None:
    engine, source_of = _loading[ctx]
    return engine._load(name.decode("utf-8", "replace"), source_of)


_loader = _LOADER(_load_module)
_loader_at = c.cast(_loader, _P)
_rejected: dict[int, Engine] = {}
"""Context → whose ``rejected`` has address of a promise → (the promise, what it was rejected with, the call), in the
order of their rejection."""


def _note_rejection(ctx: int, promise: Value, reason: Value, is_handled: bool, _opaque: int) -> None:
    """Called by the engine when a promise is rejected that nobody handles, and when somebody handles it after all."""
    try:
        engine = _rejected[ctx]
        found, owner = engine.rejected, engine.owner
        if is_handled:
            if (kept := found.pop(promise.u, None)) is not None:
                _free_value(ctx, kept[0])
                _free_value(ctx, kept[1])
        elif len(found) < REJECTED_MAX and owner is not None:
            found[promise.u] = _dup_value(ctx, promise), _dup_value(ctx, reason), owner
    except Exception:  # noqa: BLE001 - no exception can leave a callback; where memory is short, nothing is kept
        return


_rejections = _REJECTIONS(_note_rejection)
_rejections_at = c.cast(_rejections, _P)
_interrupt = _INTERRUPT(lambda _runtime, _opaque: 0)  # that Python runs at all is what lets a handler run
_interrupt_at = c.cast(_interrupt, _P)


def version() -> str:
    """Returns the engine's version, as in "0.17.0"."""
    return str(_get_version().decode())


def check() -> str:
    """Returns "" if this wheel is what this module takes it for, else in what it differs. May crash: call it in a
    process that may."""
    engine = Engine(1 << 20)
    if _get_runtime(engine._ctx) != engine._rt:
        return "its Context has another layout"
    engine.set_global("x", engine.compile(b"6 * 7", "check.js", module=False))
    if engine.evaluate("x") != 42:
        return "a value has another layout"
    asked: list[str] = []

    def source_of(name: str) -> bytes:
        asked.append(name)
        return b"export default 7"

    engine.load_modules(source_of)
    code = engine.bytecode(engine.compile(b"import seven from './seven.js'; globalThis.y = seven", "c/m.js",
                                           module=True))
    other = Engine()
    other.load_modules(source_of)
    other.read(code)
    other.evaluate("import('c/m.js'); 0")
    other.run_jobs()
    if asked != ["c/seven.js"] * 2 or other.evaluate("y") != 7:
        return "modules are loaded in another way"
    other.track_rejections()
    other.evaluate("Promise.reject(6).catch(() => 0); Promise.reject(7); 0")
    other.run_jobs()
    if other.take_rejected("z") != 1 or other.evaluate("z") != 7:
        return "rejected promises are reported in another way"
    other.unload()
    other.limit_memory(4 << 20)
    try:
        other.evaluate("'x'.repeat(1 << 24)")
    except WheelError:
        return ""
    return "its memory cannot be limited"
