"""Plugins in JavaScript: one engine in each worker, made in the zygote and shared with it page by page until it is
written to.

A hook may be async. Its API calls go out as it makes them, up to eight at once, and each promise is settled when its
reply arrives. The prelude (``prelude/core.js``) says step by step what is to be done; here it is done.
"""

from __future__ import annotations

import base64
import codecs
import hashlib
import importlib
import json
import os
import posixpath
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from workers import contract, wire
from workers.javascript import tests
from workers.javascript.api_calls import API_CALL, ApiCalls
from workers.javascript.prelude import FILES, PARTS
from workers.javascript.shared import SharedCalls
from workers.javascript.tests import Kit
from workers.javascript.values import MARK, from_json, may_be_special, params_to_json, read, well_formed
from workers.runtime.failures import text_of
from workers.runtime.interface import BadPayload, Declared, Host, LoadError, Thrown, Unavailable, check_files
from workers.runtime.values import NotAValue

if TYPE_CHECKING:
    from workers.javascript.engine import Engine

STACK_BYTES_MAX = 4 * 1024 * 1024
"""Half of a worker's own stack: the engine recurses in C, and beneath it is Python's."""
GLUE_BYTES = 4 * 1024 * 1024
"""What the engine may use less than the worker: the engine's limit is to be reached first, so that there is room for
the answer that says so."""
BUSY_NS = 2_000_000
"""After a call that used so much CPU the heap is given back to the system, which takes half a millisecond."""
TRIM_KEEP_BYTES = 256 * 1024
"""How much free memory the heap then keeps at its end, for the next call."""
RANDOM_BYTES_MAX = 65536
"""What ``crypto.getRandomValues`` may ask for at once."""
REST_ROUNDS = 2
"""How often finalizers run at the end of a call: once for those that came up in it, and once for what it let go of. One
that makes the next one would go on for ever."""
CHECK_SECONDS_MAX = 10
INSTALL = "pip install 'quickjs-ng>=0.17,<0.18'"
IMPORTABLE = "only .js, .mjs and .json files can be imported"
NEVER = ("the hook's promise is never settled: no API call, no timer and no other promise is left that could settle it")

REJECTED = f"__{MARK}"
"""The global by which the prelude is given what a promise was rejected with: a name that no plugin can take before."""

_json = msgspec.json.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class _Prepared:
    """What the zygote makes once."""

    module: Any = None
    prelude: list[bytes] = []
    parts: dict[str, bytes] = {}
    realm: Realm

    @staticmethod
    def glue(files: int) -> str:
        """Returns the script that runs a new engine's files and leaves one global, which a worker takes from there."""
        names = [f"__file{number}" for number in range(files)]
        host = ", ".join(f"{name}: __{name}" for name in (*HOST, "part"))
        return (f"{{ const host = {{ {host}, mark: '{MARK}' }}, internals = {{}};"
                + "".join(f"{name}(host, internals);" for name in names)
                + "".join(f"delete globalThis.{name};" for name in (*names, *(f"__{name}" for name in (*HOST, "part"))))
                + "globalThis.__worker = internals.worker } 0")


class _Console:
    """Where the lines of this process go. The engine of the zygote has its host functions before there is a worker.

    ``line`` belongs to the one object of this class, not to the class, since a fresh engine changes it with each call.
    Whenever a class is changed, CPython gives it a new version, under which its attributes fill further entries of the
    cache of all classes' attributes. What they push out are entries that came with the fork, and each of those keeps a
    reference to a name in a page that the worker shared with its zygote until then.
    """

    def __init__(self) -> None:
        self.line: Callable[[str, str], None] = _drop


def _drop(_level: str, _text: str) -> None:
    """Takes a line that goes nowhere."""


_console = _Console()


# ------------------------------------------------------------------ host functions: they never raise
def _line(level: str, quoted: str) -> None:
    try:
        _console.line(level, json.loads(quoted))
    except Exception:  # noqa: BLE001 - the next read meets the link's end
        return


def _random(count: float) -> str:
    return base64.b64encode(os.urandom(max(0, min(int(count), RANDOM_BYTES_MAX)))).decode()


def _clock() -> float:
    return time.monotonic_ns() / 1e6


def _digest(algorithm: str, data: str) -> str:
    try:
        return base64.b64encode(hashlib.new(algorithm, base64.b64decode(data)).digest()).decode()
    except Exception:  # noqa: BLE001 - the prelude names the algorithms that exist
        return ""


HOST = {"line": _line, "random": _random, "clock": _clock, "digest": _digest}


class Realm:
    """An engine that has run the prelude, and the functions of the prelude that a worker calls.

    ``has_parts``: every part has run already, as in the zygote, whose workers then share it. Otherwise a part runs when
    plugin code first uses a global of it.
    """

    def __init__(self, *, has_parts: bool = False) -> None:
        module = _Prepared.module
        engine: Engine = module.Engine(STACK_BYTES_MAX)
        for name, function in HOST.items():
            engine.context.add_callable(f"__{name}", function)
        engine.add_parts("__part", _Prepared.parts)
        codes = [*_Prepared.prelude, *(_Prepared.parts.values() if has_parts else ())]
        for number, code in enumerate(codes):
            engine.set_global(f"__file{number}", engine.read(code))
        engine.evaluate(_Prepared.glue(len(codes)))
        worker = "__worker."
        self.load, self.call, self.step = (engine.evaluate(worker + name) for name in ("load", "call", "step"))
        self.settle, self.fire = engine.evaluate(worker + "settle"), engine.evaluate(worker + "fire")
        self.reject, self.configure = engine.evaluate(worker + "reject"), engine.evaluate(worker + "configure")
        self.rest, self._share = engine.evaluate(worker + "rest"), engine.evaluate(worker + "share")
        engine.evaluate("delete globalThis.__worker; 0")
        engine.put_off_collecting()
        engine.track_rejections()
        self.engine = engine
        self.run_job = engine.run_job

    def share(self) -> None:
        """Prepares for several calls at once, before the plugin is loaded. ``shared`` follows when it is."""
        self._share(False)
        evaluate = self.engine.evaluate
        self.go, self.whose, self.cancel, self.step_of_all = (
            evaluate(f"__shared.{name}") for name in ("go", "whose", "cancel", "step"))
        evaluate("delete globalThis.__shared; 0")

    def shared(self) -> None:
        """From now on several calls may be open at once; ``step_of_all`` takes the place of ``step``."""
        self._share(True)
        self.engine.let_signals_in()


def prepare(_boot: dict[str, Any]) -> None:
    """Makes, in the zygote, the engine that its workers start with. Raises Unavailable."""
    try:
        _Prepared.module = module = importlib.import_module("workers.javascript.engine")
    except (ImportError, OSError, AttributeError) as error:
        raise Unavailable(f"the package quickjs-ng cannot be used ({error}): {INSTALL}") from None
    if why := _checked(module.check):
        raise Unavailable(f"the installed quickjs-ng is not the one that this daemon knows ({why}): {INSTALL}")
    first = module.Engine()
    folder = os.path.join(os.path.dirname(__file__), "prelude")
    codes: dict[str, bytes] = {}
    for name in (*FILES, *PARTS):
        with open(os.path.join(folder, name), "rb") as file:
            codes[name] = first.bytecode(first.compile(file.read(), f"apex:{name}", module=False))
    _Prepared.prelude = [codes[name] for name in FILES]
    _Prepared.parts = {name: codes[name] for name in PARTS}
    _Prepared.realm = Realm(has_parts=True)
    _Prepared.realm.engine.collect()


def _checked(check: Callable[[], str]) -> str:
    """Runs ``check`` in a process that may crash. Returns what it says, or how it ended."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(CHECK_SECONDS_MAX)
            try:
                said = check()
            except Exception as error:  # noqa: BLE001 - whatever it is, the wheel is not the one that we know
                said = f"{type(error).__name__}: {error}"
            os.write(write, said.encode()[:1000])
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        said = pipe.read().decode("utf-8", "replace")
    status = os.waitpid(pid, 0)[1]
    return f"its check was ended by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else said


class JavaScript:
    """One plugin in its engine. See ``workers.runtime.interface.Runtime``."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.realm: Realm = _Prepared.realm
        self._files: dict[str, bytes] = {}
        self._name = self._prefix = ""
        self._memory_bytes_max = 0
        self._codes: list[bytes] = []
        self._kit: Kit | None = None
        self._spent = False
        self._begun_ns = self._used_ns = 0
        self.errors: tuple[type[BaseException], ...] = (
            _Prepared.module.WheelError, _Prepared.module.StackOverflow, MemoryError)
        self.after: Callable[[], None] = self._give_back
        self.serve: Callable[[], int] | None = None

    # ------------------------------------------------------------------ loading
    def load(self, message: wire.Load) -> Declared:
        """Compiles and runs the plugin's modules. Raises LoadError, Thrown."""
        check_files(message)
        self._files = message.files
        self._prefix = f"{message.plugin}/"
        self._name = self._prefix + message.entrypoint
        self._memory_bytes_max = max(message.memory_bytes_max - GLUE_BYTES, message.memory_bytes_max // 2)
        _console.line = self._host.line
        if message.fresh:
            self._compile_all()
            self.after = self._renew
            self.realm = Realm()  # not the zygote's, which stays for good, and with it what the first call left there
        elif message.concurrent and message.mode == "serve":
            self.realm.share()
            self.serve = SharedCalls(self, self._host).serve
        said = self._adopt()
        if self.serve is not None:
            self.realm.shared()
        if said["id"] != message.plugin:
            raise LoadError(f"the code says that the plugin's id is {said['id'][:100]!r}, "
                            f"the manifest {message.plugin!r}")
        return Declared(said["id"], said["version"], sorted(filter(None, said["permissions"].split("\n"))),
                        sorted(said["hooks"].split("\n")), False)

    def test(self, message: wire.Load) -> int:
        """Runs the bundle's tests. Returns the process's exit status."""
        self._kit = Kit(message.files)
        self._name = "apex:main"
        self._files = message.files
        self._prefix = f"{message.plugin}/"
        self._memory_bytes_max = max(message.memory_bytes_max - GLUE_BYTES, message.memory_bytes_max // 2)
        _console.line = self._host.line
        return tests.run(self, message, self._host)

    def tested(self, main: bytes, begins: Callable[[str], None]) -> dict[str, Any]:
        """Runs ``main``, which imports the tests. Returns what its hook ``report`` returns. Raises LoadError, Thrown.

        A trap is in its place before any line of the bundle runs: the file with the trap is read as bytecode, which has
        no text that the file could look at, and the trap's function has no name any more that could be found.
        """
        assert self._kit is not None
        engine = self.realm.engine
        engine.context.add_callable("__begins", begins)
        engine.load_modules(self._source)
        trap = self._kit.trap
        if trap is not None:
            engine.context.add_callable(trap.word, lambda: os._exit(trap.status))
            engine.evaluate(f"import('apex:{trap.word}'); 0")
            engine.run_jobs()
            spare: Engine = _Prepared.module.Engine(STACK_BYTES_MAX)
            try:
                spare.load_modules(self._source)
                name = self._prefix + trap.path
                engine.read(spare.bytecode(spare.compile(self._source(name), name, module=True)))
            except (ImportError, _Prepared.module.JSError) as error:
                raise self._not_compiled(error) from None
            finally:
                spare.unload()
        self._kit.sources[self._name] = main
        self._adopt()
        self.realm.call("report", "{}", False, "", 0.0)
        report = self._until_answered(0)
        if engine.rejected:
            self.tell_rejected()
        return dict(report)

    def _adopt(self) -> dict[str, Any]:
        """Runs the plugin's modules in the present engine. Returns what the plugin declares."""
        realm = self.realm
        realm.engine.limit_memory(self._memory_bytes_max)
        realm.engine.load_modules(self._source)
        for code in self._codes:
            realm.engine.read(code)
        try:
            realm.load(self._name)
            declared = self._until_answered(-1)
            self._rest()
        except _Never:
            if realm.engine.was_full():
                raise self.out_of_memory() from None
            raise LoadError("a top-level await never ends: no timer and no promise is left that could end it") from None
        except NotAValue as error:
            raise LoadError(text_of(error)) from None
        finally:
            if realm.engine.rejected:
                self.tell_rejected()
        return dict(declared)

    def _source(self, name: str) -> bytes:
        """The source of the module ``name``. Raises ImportError, which says what the author can do."""
        if self._kit is not None and (source := self._kit.source(name)) is not None:
            return source
        path = name.removeprefix(self._prefix)
        if path == name or path not in self._files:
            raise ImportError(self._why_not(name, path))
        if path.endswith(".json"):
            return b"export default JSON.parse(" + _json(self._text(path)) + b")"
        if path.endswith((".js", ".mjs")):
            return self._text(path).encode()
        raise ImportError(f"cannot import {name!r}: {IMPORTABLE}")

    def _text(self, path: str) -> str:
        try:
            return self._files[path].removeprefix(codecs.BOM_UTF8).decode()
        except UnicodeDecodeError:
            raise ImportError(f"{self._prefix}{path} is not UTF-8") from None

    def _why_not(self, name: str, path: str) -> str:
        if name.startswith("node:"):
            has = "; tests have node:test, node:assert and node:assert/strict" if self._kit is not None else ""
            return f"cannot import {name!r}: none of Node's modules is in a worker{has}"
        if path == name:
            return (f"cannot import {name!r}: it is not in the bundle; bundle packages into the entry point, with "
                    "esbuild --bundle --format=esm, and write relative imports inside the bundle")
        plain = posixpath.normpath(path)
        for candidate in (plain, f"{plain}.js", f"{plain}.mjs", f"{plain}/index.js"):
            if candidate in self._files:
                return f"cannot import {name!r}: write the whole path of the file, as in {self._prefix}{candidate}"
        if posixpath.splitext(path)[1] not in ("", ".js", ".mjs", ".json"):  # what else a bundle has is not sent here
            return f"cannot import {name!r}: {IMPORTABLE}"
        return f"cannot import {name!r}: it is not in the bundle"

    # ------------------------------------------------------------------ a fresh engine for each call
    def _compile_all(self) -> None:
        """Compiles every module once, so that new engines read bytecode."""
        spare: Engine = _Prepared.module.Engine(STACK_BYTES_MAX)
        wanted: list[str] = []

        def source_of(name: str) -> bytes:
            source = self._source(name)
            wanted.append(name)
            return source

        try:
            spare.load_modules(source_of)
            compiled = [spare.compile(source_of(self._name), self._name, module=True)]
            for name in [name for name in wanted if name != self._name]:
                compiled.append(spare.compile(self._source(name), name, module=True))
            self._codes = [spare.bytecode(one) for one in compiled]
        except (ImportError, _Prepared.module.JSError) as error:
            raise self._not_compiled(error) from None
        finally:
            spare.unload()

    @staticmethod
    def _not_compiled(error: Any) -> Exception:
        if isinstance(error, ImportError):
            return LoadError(str(error))
        return Thrown(error.name, error.message, f"{error.name}: {error.message}\n{error.stack}".rstrip())

    def _renew(self) -> None:
        """Replaces the engine by a new one with nothing of the call in it. The answer is written already."""
        self.realm.engine.unload()
        del self.realm
        _console.line = _drop  # what loading says was said when the worker started
        self.realm = Realm()
        self._adopt()
        _console.line = self._host.line

    # ------------------------------------------------------------------ calls
    def run(self, call: wire.Call) -> Any:
        """Runs one hook. Raises BadPayload, NotAValue, Thrown."""
        is_over = False
        arguments = self.arguments(call)
        try:
            said = self.realm.call(*arguments)
            if said and not self._one_job():
                is_over = True
                return self.answer(said)
            return self._until_answered(call.seq)
        except _Never:
            raise self.never() from None
        except self.errors as error:
            raise self.broken(error) from None
        finally:
            if not is_over:
                self._rest()
            if self.realm.engine.rejected:  # by what was left to run, too: the next call has no part in it
                self.tell_rejected()

    def arguments(self, call: wire.Call) -> tuple[str, str, bool, str, float]:
        """Returns what the prelude's ``call`` takes, but for the call's number, which matters where several are open.
        Raises BadPayload."""
        raw = bytes(call.params)
        try:
            params = _decode(raw)
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
            raise BadPayload(text_of(error)) from None
        if call.hook in contract.FILLS_USER:
            params.setdefault("userId", call.user_id)
        text, marked = params_to_json(params, not may_be_special(raw))
        if call.settings:  # a plain call costs nothing more
            self.realm.configure(_json(_decode(call.settings)).decode())
        self._begun_ns = time.monotonic_ns()
        return call.hook, text, marked, call.user_id, call.deadline_ns / 1e6

    def tell_rejected(self) -> None:
        """Writes one line to the plugin's log about the promises that were rejected and that nobody has handled."""
        realm = self.realm
        try:
            if count := realm.engine.take_rejected(REJECTED):
                realm.reject(float(count))
        except (MemoryError, _Prepared.module.WheelError, _Prepared.module.StackOverflow):
            return  # the warning is left out if there is no memory for it

    def _rest(self) -> None:
        """Ends the call in the engine, and runs whatever is still to be run, since in a later call it would act in that
        call's name. Blocks until this call's deadline if it never ends."""
        for _ in range(REST_ROUNDS):
            try:
                self.realm.rest()
            except self.errors:
                self._spent = True
            if not self.drain():
                return

    def never(self) -> Thrown:
        """What a call is answered with that waits for what nobody does."""
        return self.out_of_memory() if self.realm.engine.was_full() else Thrown("Error", NEVER)

    def broken(self, error: BaseException) -> Thrown:
        """What a call is answered with where ``error``, one of ``errors``, left the engine."""
        if isinstance(error, MemoryError) or is_out_of_memory(error):
            return self.out_of_memory()
        return Thrown("InternalError", text_of(error).partition("\n")[0])

    def drain(self) -> bool:
        """Runs every job, whatever it throws. Returns whether there was one."""
        run_job, ran = self.realm.run_job, False
        while True:
            try:
                if not run_job():
                    return ran
            except self.errors:
                self._spent = True
            ran = True

    def out_of_memory(self) -> Thrown:
        """What a call is answered with that memory did not suffice for."""
        self._spent = True
        return Thrown("InternalError", "out of memory", memory=True)

    def _one_job(self) -> bool:
        """Runs one pending job. Returns False if there was none."""
        try:
            return self.realm.run_job()
        except (_Prepared.module.WheelError, _Prepared.module.StackOverflow) as error:
            if is_out_of_memory(error):
                raise
            return True  # nothing that a plugin hands over throws here

    def answer(self, text: str) -> Any:
        """Returns the value of a hook that has ended with ``text``. Raises NotAValue, Thrown."""
        message, is_odd = read(text)
        return self.value_of(message, text, is_odd)

    def value_of(self, message: dict[str, Any], text: str, is_odd: bool) -> Any:
        """Returns the value that a hook's last message has, as ``read`` has parsed it. Raises NotAValue, Thrown."""
        if message["k"] != "r":
            raise self._failure(message)
        return from_json(message.get("v"), text, is_odd)

    def _until_answered(self, seq: int) -> Any:
        """Does what the prelude says until the hook has ended. Returns its value. Raises NotAValue, Thrown, _Never."""
        realm, calls = self.realm, None
        run_job, step = self._one_job, realm.step
        while True:
            while run_job():
                pass
            text = step()
            if text is None:  # there was no room for a copy
                raise MemoryError
            if calls is None and text.startswith(API_CALL):
                calls = ApiCalls(self._host, seq, realm.settle, realm.fire)
            try:
                message, is_odd = read(text)
            except NotAValue as error:
                if calls is None or not text.startswith(API_CALL):
                    raise
                calls.refuse(text, error)
                continue
            kind = message["k"]
            if kind == "r":
                if calls is not None:
                    calls.send_the_rest()
                return from_json(message.get("v"), text, is_odd)
            if kind == "n":
                raise _Never
            if kind == "l":
                continue
            if calls is None:
                calls = ApiCalls(self._host, seq, realm.settle, realm.fire)
            if kind == "a":
                calls.ask(message, text, is_odd)
            elif kind == "t":
                calls.tried(message["method"])
            elif kind == "c":
                calls.cancel(float(message["number"]))
            elif kind == "w":
                calls.wait(message["ms"])
            else:
                calls.send_the_rest()
                raise self._failure(message)

    def _failure(self, said: dict[str, Any]) -> Exception:
        if said["k"] == "v":
            return NotAValue(well_formed(said["path"]), well_formed(said["why"]))
        self._spent = said["memory"]
        name, text, trace = (well_formed(said[part]) for part in ("name", "text", "trace"))
        return Thrown(name, text, trace.encode()[: wire.TRACEBACK_BYTES_MAX].decode("utf-8", "ignore"),
                      api=(well_formed(said["code"]), well_formed(said["method"]), int(said["retry"] or 0)),
                      memory=said["memory"])

    def _give_back(self) -> None:
        """Returns to the system what a call that worked hard has used."""
        if self._spent or (time.monotonic_ns() - self._begun_ns > BUSY_NS  # a cheaper clock than that of CPU time
                           and time.thread_time_ns() - self._used_ns > BUSY_NS):
            engine = self.realm.engine
            if self._spent or engine.has_peaked(self._memory_bytes_max):
                self._spent = False
                engine.collect()
            _Prepared.module.trim(TRIM_KEEP_BYTES)
            self._used_ns = time.thread_time_ns()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the engine threw ``error`` because memory was full. It throws null if there is no room for an error."""
    text = text_of(error)
    return "out of memory" in text or text.startswith("null")


class _Never(Exception):
    """Nothing is left that could settle the promise that is waited for."""


def make(host: Host) -> JavaScript:
    """Returns the runtime of one worker."""
    return JavaScript(host)
