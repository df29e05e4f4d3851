"""Rules on the syntax tree of Python. Each rule looks at one node, with the module's names resolved; no code of the
module runs."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator

from apex_exec.catalogue.methods import ALL, PARTS
from apex_exec.registry.scan.api_use import ApiUse
from apex_exec.registry.scan.findings import RULES, STEERS, Finding, finding
from apex_exec.registry.scan.literals import in_literal
from apex_exec.registry.scan.python.names import Names

NODES_MAX = 300_000
"""The most nodes of one file; 2 MiB of ordinary source have about 250,000."""
NESTED_SOURCES_MAX = 20

RUNNERS = frozenset({"eval", "exec", "compile", "runpy.run_path", "runpy.run_module", "types.FunctionType",
                     "types.CodeType", "code.InteractiveInterpreter", "importlib.import_module", "__import__"})
PROCESS = re.compile(r"os\.(system|popen|fork|forkpty|exec[lv]p?e?|spawn[lv]p?e?|posix_spawnp?|kill|killpg|setuid|"
                     r"setgid|chroot)|pty\.(spawn|fork)|commands\.\w+|signal\.(pthread_kill|pidfd_send_signal)|"
                     r"asyncio\.create_subprocess_(exec|shell)|_posixsubprocess\.\w+|posix\.\w+")
SUBPROCESS = re.compile(r"subprocess\.(Popen|run|call|check_call|check_output|getoutput|getstatusoutput)|"
                        r"multiprocessing\.(Process|Pool)")
NETWORK = re.compile(r"socket\.(create_connection|create_server|socketpair)|urllib\.request\.(urlopen|urlretrieve|"
                     r"Request)|http\.client\.HTTPS?Connection|ftplib\.FTP\w*|smtplib\.SMTP\w*|telnetlib\.Telnet|"
                     r"requests\.(get|post|put|delete|patch|head|request|Session\(\)\.\w+)|httpx\.\w+|"
                     r"asyncio\.open_connection|xmlrpc\.client\.ServerProxy|urllib3\.PoolManager")
NATIVE = re.compile(r"ctypes\.((CDLL|PyDLL)\(\)\.(system|exec\w+|popen|v?fork|clone|m?protect|mmap|syscall|ptrace|"
                    r"prctl|dl\w+|kill|set\w*[ug]id|unshare|mount|open\w*|read|write|socket|connect|mem\w+|process_vm\w+)|"
                    r"cdll\.\w+(\.\w+)*|pythonapi\.Py(Run|Eval|Import|Memory|Object_Call)\w*|memmove|memset|"
                    r"string_at)|_ctypes\.\w+|cffi\.FFI(\(\)\.\w+)?|"
                    r"imp\.load_dynamic|importlib\.machinery\.ExtensionFileLoader|_imp\.create_dynamic")
SUBVERT = re.compile(r"sys\.(settrace|setprofile|addaudithook|_setframe\w*)|threading\.(settrace|setprofile)|"
                     r"builtins\.(eval|exec|open|__import__|getattr|print|compile)\.?|gc\.(get_objects|get_referrers)")
REACHES = re.compile(r"sys\.([gs]ettrace|[gs]etprofile|monitoring|_getframe|_current_frames)|linecache(\.\w+)?|"
                     r"threading\.([gs]ettrace|[gs]etprofile)|gc\.(get_objects|get_referrers|get_referents)|"
                     r"os\.(_exit|abort)|types\.CodeType|inspect\.(currentframe|stack)|_?ctypes(\.\w+)?|coverage\.\w+")
REACHED = frozenset({"__code__", "co_code", "_co_code_adaptive", "co_consts", "f_lineno", "f_trace", "f_trace_opcodes"})
"""What forged coverage needs: tracers, code objects, frames, the garbage collector, native code, an early exit."""
RAW_READS = frozenset({"readinto", "readinto1"})
"""A file of one's own gets a buffer in these, and can keep it when its memory is another object's."""
MAKES_CODE = frozenset({"co_code", "co_consts", "co_stacksize", "co_nlocals", "co_exceptiontable"})
STEERING = re.compile(r"(_?io|_pyio)\.(RawIOBase|Buffered\w+)|(marshal|_imp|_?ctypes|_testcapi)(\.\w+)*|"
                      r"types\.CodeType")
FRAMES = re.compile(r"sys\.(_getframe|_current_frames)|inspect\.(currentframe|stack|trace|getouterframes)|"
                    r"gc\.get_referents")
DESERIALISE = re.compile(r"(pickle|_pickle|cPickle|dill|cloudpickle)\.(loads?|Unpickler)|marshal\.loads?|shelve\.open|"
                         r"yaml\.(load|unsafe_load|full_load)|jsonpickle\.decode")
FILES = re.compile(r"open|io\.open|os\.(open|remove|unlink|rename|rmdir|mkdir|makedirs|listdir|scandir|walk|chmod|"
                   r"chown|symlink|link)|shutil\.\w+|tempfile\.\w+|pathlib\.Path\(\)\.\w*(read|write|open|unlink)\w*")
DANGEROUS_WORDS = frozenset({
    "eval", "exec", "compile", "__import__", "builtins", "__builtins__", "os", "system", "popen", "subprocess", "Popen",
    "socket", "ctypes", "__subclasses__", "__globals__", "pty", "importlib", "marshal", "pickle", "posix", "open",
    "os.system", "__class__", "__bases__", "__mro__", "__base__", "f_globals", "f_builtins", "sys", "shutil",
})
INTERNALS = frozenset({"__class__", "__base__", "__bases__", "__mro__", "__subclasses__", "__globals__", "__builtins__",
                       "__init__", "__func__", "__self__", "__loader__", "__spec__", "__dict__", "__getattribute__",
                       "f_back", "f_globals", "f_builtins", "f_locals", "gi_frame", "cr_frame", "ag_frame", "tb_frame"})
ESCAPES = frozenset({"__subclasses__", "__globals__", "__builtins__", "f_builtins", "__loader__"})
"""A chain with at least one of these and a second internal name counts as a walk."""
_FRAMES = ("gi_frame", "cr_frame", "ag_frame", "tb_frame", "f_back")
_BUILTIN_NAMES = frozenset(dir(builtins))

API_PERMISSIONS = {method.python: method.permission for method in ALL if method.permission}
"""Method as plugin code calls it -> the permission that it takes."""


class FileScan:
    """The rules over one file. ``is_test`` skips the rules that only matter in a worker that serves calls."""

    def __init__(self, path: str, tree: ast.AST, allowed: frozenset[str], own: frozenset[str], api: ApiUse,
                 is_test: bool = False, depth: int = 0) -> None:
        self.path = path
        self._tree = tree
        self._names = Names(tree)
        self._allowed = allowed
        self._own = own
        self._api = api
        self._is_test = is_test
        self._depth = depth
        self._docstrings = _docstring_lines(tree)
        self._script_lines = _script_lines(tree)
        self._nested = 0
        taken = [(target.id, node.value) for node in ast.walk(tree) if isinstance(node, ast.Assign)
                 and isinstance(node.value, ast.Attribute) and (node.value.attr == "api" or node.value.attr in PARTS)
                 for target in node.targets if isinstance(target, ast.Name)]
        self._api_names = {name for name in ("api",) if not self._names.values(name)} | {
            name for name, value in taken if value.attr == "api"}
        self._parts = {name: value.attr for name, value in taken if value.attr in PARTS and self._is_api(value.value)}

    def run(self) -> Iterator[Finding]:
        """Every finding of this file."""
        if not self._is_test:
            yield from self._imports()
        called: set[ast.AST] = set()
        inner: set[ast.AST] = set()
        for count, node in enumerate(ast.walk(self._tree)):
            if count > NODES_MAX:
                yield finding("scan-unfinished", self.path, getattr(node, "lineno", 0), "the file has more than "
                                                                                        f"{NODES_MAX} syntax nodes")
                return
            yield from self._reach(node)
            if isinstance(node, ast.Call):
                called.add(node.func)
                yield from self._call(node)
            elif isinstance(node, ast.Attribute | ast.Subscript):
                if node not in inner:
                    yield from self._chain(node, inner)
                if node not in called:
                    yield from self._reference(node)
                yield from self._stored(node)
            elif isinstance(node, ast.Constant):
                yield from self._literal(node)
            elif isinstance(node, ast.BinOp):
                yield from self._operator(node)

    def _at(self, rule: str, node: ast.AST, message: str) -> Finding:
        line = getattr(node, "lineno", 0)
        if any(first <= line <= last for first, last in self._script_lines) and RULES[rule].severity == "error":
            return finding("script-part", self.path, line, f"in the part that only a script runs: {message}")
        return finding(rule, self.path, line, message)

    def _imports(self) -> Iterator[Finding]:
        for name, line in self._names.imports:
            top = name.partition(".")[0]
            if not name or name.startswith(".") or top in self._own or name in self._allowed:
                continue
            if any(known.startswith(f"{name}.") for known in self._allowed):
                continue
            yield finding("import-not-allowed", self.path, line, f"a worker does not have the module {name[:80]!a}")

    # ------------------------------------------------------------------ calls
    def _call(self, node: ast.Call) -> Iterator[Finding]:
        name = self._names.resolve(node.func)
        if not self._is_test:
            self._api_call(node)
        if name in RUNNERS:
            yield from self._runner(node, name)
        elif PROCESS.fullmatch(name):
            yield self._at("process-start", node, f"{name} starts or signals a process")
        elif SUBPROCESS.fullmatch(name):
            yield from self._subprocess(node, name)
        elif NETWORK.fullmatch(name):
            if any(self._names.text(item) for item in _arguments(node)):
                yield self._at("direct-network", node, f"{name} connects to a fixed address")
        elif name.endswith((".connect", ".connect_ex", ".sendto", ".bind")) and name.startswith("socket.socket()"):
            yield self._at("direct-network", node, "opens a socket")
        elif NATIVE.fullmatch(name):
            yield self._at("native-call", node, f"{name} reaches native code")
        elif name in ("ctypes.CDLL", "ctypes.PyDLL"):
            fixed = any(self._names.text(item) for item in _arguments(node))
            yield self._at("native-call" if fixed else "native-library", node, f"{name} loads native code")
        elif SUBVERT.fullmatch(name):
            yield self._at("tampering", node, f"{name} watches or changes code that is not the plugin's")
        elif FRAMES.fullmatch(name):
            yield self._at("frame-inspection", node, f"{name} looks into other code")
        elif DESERIALISE.fullmatch(name):
            yield from self._deserialise(node, name)
        elif name in ("setattr", "delattr") and node.args and self._is_foreign(self._names.resolve(node.args[0])):
            yield self._at("tampering", node, f"{name} on {self._names.resolve(node.args[0])}")
        elif not self._is_test and FILES.fullmatch(name):
            yield self._at("file-access", node, f"{name} touches files")
        elif name.startswith(("os.environ", "os.getenv")) and not self._is_test:
            yield self._at("environment", node, "reads the environment")
        if isinstance(node.func, ast.Attribute) and node.func.attr == "dup2" and len(node.args) == 2 \
                and _number(node.args[1]) in (0, 1, 2) and any(n.startswith("socket") for n, _ in self._names.imports):
            yield self._at("process-start", node, "redirects a standard stream, as a reverse shell does")
        yield from self._hidden_names(node, name)

    def _runner(self, node: ast.Call, name: str) -> Iterator[Finding]:
        argument = node.args[0] if node.args else None
        if argument is None:
            return
        decoder = self._names.is_decoded(argument)
        text = self._names.text(argument)
        if name in ("importlib.import_module", "__import__"):
            if decoder:
                yield self._at("decoded-code", node, f"{name} of what comes from {decoder}")
            elif text and not self._is_test and text.partition(".")[0] not in self._own and text not in self._allowed:
                yield self._at("import-not-allowed", node, f"{text[:80]!a} is not among a worker's modules")
            return
        if decoder:
            yield self._at("decoded-code", node, f"{name} of what comes from {decoder}")
        elif isinstance(argument, ast.Call) and (".read" in self._names.resolve(argument.func)
                                                 or _last(argument.func) in ("read", "read_text", "recv")):
            yield self._at("decoded-code", node, f"{name} of data that is read from a file or a connection")
        else:
            yield self._at("dynamic-code", node, f"{name} runs code that is generated at run time")
        if text:
            yield from self._source(text, node)

    def _source(self, text: str, node: ast.AST) -> Iterator[Finding]:
        """Applies the rules to source text in a constant."""
        self._nested += 1
        if self._depth >= 3 or self._nested > NESTED_SOURCES_MAX:
            return
        try:
            tree = ast.parse(text.strip())
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return
        line = getattr(node, "lineno", 0)
        inner = FileScan(self.path, tree, self._allowed, self._own, self._api, self._is_test, self._depth + 1)
        for item in inner.run():
            yield finding(item.rule, self.path, line, f"in the text that is run: {item.message}")

    def _subprocess(self, node: ast.Call, name: str) -> Iterator[Finding]:
        first = _arguments(node)[0] if _arguments(node) else None
        fixed = first is not None and (self._names.text(first) or (
            isinstance(first, ast.List | ast.Tuple) and first.elts and all(self._names.text(e) for e in first.elts)))
        shell = any(k.arg == "shell" and isinstance(k.value, ast.Constant) and k.value.value for k in node.keywords)
        if fixed or shell or name.endswith(("getoutput", "getstatusoutput")):
            yield self._at("process-start", node, f"{name} runs a command")

    def _deserialise(self, node: ast.Call, name: str) -> Iterator[Finding]:
        argument = node.args[0] if node.args else None
        decoder = self._names.is_decoded(argument) if argument is not None else ""
        constant = self._names.fold(argument) if argument is not None else None
        if decoder or (constant is not None and isinstance(constant.value, bytes)):
            yield self._at("decoded-code", node, f"{name} of data from {decoder or 'the source itself'}")
        else:
            yield self._at("unsafe-deserialisation", node, f"{name} runs what the data says")

    def _hidden_names(self, node: ast.Call, name: str) -> Iterator[Finding]:
        """Finds dangerous words that are put together from pieces and passed to a call that takes a name."""
        if name in ("__import__", "importlib.import_module") and node.args:
            candidates = node.args[:1]
        elif isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr", "setattr") or name == "getattr":
            candidates = node.args[1:2]
        elif isinstance(node.func, ast.Attribute) and node.func.attr in ("__getattribute__", "get", "__getitem__"):
            candidates = node.args
        else:
            return
        for item in candidates:
            folded = self._names.fold(item)
            if folded is not None and folded.computed and str(folded.value) in DANGEROUS_WORDS:
                yield self._at("hidden-name", node, f"{folded.value!a} is put together from pieces")
            elif isinstance(node.func, ast.Attribute) and node.func.attr == "__getattribute__" \
                    and folded is not None and str(folded.value) in INTERNALS - {"__dict__"}:
                yield self._at("dunder-walk", node, f"reaches {folded.value!a} by name")

    # ------------------------------------------------------------------ attributes and subscripts
    def _chain(self, node: ast.Attribute | ast.Subscript, inner: set[ast.AST]) -> Iterator[Finding]:
        words: list[str] = []
        at: ast.AST = node
        while True:
            if isinstance(at, ast.Attribute):
                words.append(at.attr)
                at = at.value
            elif isinstance(at, ast.Subscript):
                word = self._names.fold(at.slice)
                if word is not None:
                    words.append(str(word.value))
                    if word.computed and str(word.value) in DANGEROUS_WORDS:
                        yield self._at("hidden-name", node, f"{str(word.value)!a} is put together from pieces")
                at = at.value
            elif isinstance(at, ast.Call):
                if self._names.resolve(at.func) in ("getattr", "vars") and at.args:
                    words += [self._names.text(item) for item in at.args[1:2]]
                    at = at.args[0]
                else:
                    at = at.func
            else:
                break
            inner.add(at)
        if isinstance(at, ast.Name):
            words.append(at.id)
        internal = [word for word in words if word in INTERNALS]
        escapes = ESCAPES.intersection(internal)
        named = DANGEROUS_WORDS.intersection(words) - set(internal)
        base = words[-1] if words else ""
        if escapes and (len(internal) >= 2 or (named and not base.startswith("_")) or
                        ("__subclasses__" in escapes and base in ("object", "type"))):
            yield self._at("dunder-walk", node, f"reaches {'.'.join(reversed(internal))}"[:150])
        elif sum(word in _FRAMES for word in internal) >= 2 and "f_back" in internal:
            yield self._at("dunder-walk", node, "climbs the stack of frames")
        elif internal and internal[0] == "f_globals" and not isinstance(node.ctx, ast.Store):
            yield self._at("frame-inspection", node, "reads another function's globals")

    def _reach(self, node: ast.AST) -> Iterator[Finding]:
        if (name := self._steering(node)):
            yield self._at("coverage-reach", node, f"{STEERS}: {name[:60]}")
        elif isinstance(node, ast.Attribute) and node.attr in REACHED:
            yield self._at("coverage-reach", node, f"reaches {node.attr}")
        elif isinstance(node, ast.Attribute) or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)):
            if REACHES.fullmatch(name := self._names.resolve(node)):
                yield self._at("coverage-reach", node, f"reaches {name}")
        elif isinstance(node, ast.Subscript) and self._names.resolve(node.value) == "sys.modules":
            name = self._names.text(node.slice)
            if name.partition(".")[0] not in self._own or not name:
                yield self._at("coverage-reach", node, f"takes {name[:60]!a} out of sys.modules")

    def _steering(self, node: ast.AST) -> str:
        """What of ``node`` can change the interpreter's memory, or make code for it; "" if nothing can."""
        if isinstance(node, ast.FunctionDef) and node.name in RAW_READS:
            return f"a method {node.name}"
        if isinstance(node, ast.Constant) and node.value in RAW_READS:
            return f"the name {node.value!r}"
        if isinstance(node, ast.keyword) and node.arg in MAKES_CODE:
            return f"the argument {node.arg}"
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            name = self._names.resolve(node)
            return f"reaches {name}" if STEERING.fullmatch(name) else ""
        if isinstance(node, ast.Subscript) and self._names.resolve(node.value) == "sys.modules":
            name = self._names.text(node.slice)
            return f"takes {name!a} out of sys.modules" if STEERING.fullmatch(f"{name}.x") or not name else ""
        return ""

    def _reference(self, node: ast.Attribute | ast.Subscript) -> Iterator[Finding]:
        """Finds a dangerous function that is passed on or kept instead of called."""
        if not isinstance(node.ctx, ast.Load):
            return
        name = self._names.resolve(node)
        if name in ("os.system", "os.popen", "os.fork", "pty.spawn") or name.startswith("os.exec"):
            yield self._at("process-start", node, f"{name} is taken, to be called elsewhere")
        elif isinstance(node, ast.Subscript) and name in ("eval", "exec", "__import__", "compile"):
            yield self._at("hidden-name", node, f"{name} is taken from a table of names")

    def _stored(self, node: ast.Attribute | ast.Subscript) -> Iterator[Finding]:
        if isinstance(node.ctx, ast.Load):
            return
        base = self._names.resolve(node.value)
        if isinstance(node, ast.Subscript) and base == "sys.modules" and not self._is_test:
            key = self._names.text(node.slice)
            if key and key.partition(".")[0] not in self._own:
                yield self._at("tampering", node, f"replaces the module {key[:60]!a}")
        elif base in ("builtins", "__builtins__"):
            key = node.attr if isinstance(node, ast.Attribute) else self._names.text(node.slice)
            if key in _BUILTIN_NAMES or not (key or isinstance(node.value, ast.Call)):
                yield self._at("tampering", node, f"replaces the built-in {key}")
        elif self._is_foreign(base):
            yield self._at("tampering", node, f"assigns into {base}")

    @staticmethod
    def _is_foreign(base: str) -> bool:
        return base in ("builtins", "__builtins__", "workers", "workers.sdk", "workers.runtime.serve", "json",
                        "msgspec") or base.startswith("workers.")

    # ------------------------------------------------------------------ literals and operators
    def _literal(self, node: ast.Constant) -> Iterator[Finding]:
        if not isinstance(node.value, str | bytes) or node.lineno in self._docstrings:
            return
        for rule, message in in_literal(node.value):
            yield self._at(rule, node, message)

    def _operator(self, node: ast.BinOp) -> Iterator[Finding]:
        left, right = _number(node.left), _number(node.right)
        if isinstance(node.op, ast.Pow):
            tower = isinstance(node.right, ast.BinOp) and isinstance(node.right.op, ast.Pow)
            if (right is not None and right > 100_000 and (left is None or abs(left) > 1)) or (tower and left):
                yield self._at("giant-constant", node, "a power too large to compute")
        elif isinstance(node.op, ast.Mult | ast.LShift):
            for size, other in ((right, node.left), (left, node.right)):
                is_text = isinstance(other, ast.Constant) and isinstance(other.value, str | bytes)
                if size is not None and size > 50_000_000 and (is_text or isinstance(other, ast.List | ast.Tuple)
                                                               or isinstance(node.op, ast.LShift)):
                    yield self._at("giant-constant", node, f"{int(size)} repetitions")
                    return

    # ------------------------------------------------------------------ the platform's API
    def _is_api(self, node: ast.AST) -> bool:
        return (isinstance(node, ast.Attribute) and node.attr == "api") or (
            isinstance(node, ast.Name) and node.id in self._api_names)

    def _part(self, node: ast.AST) -> str:
        """The part of the API that ``node`` is, such as ``storage``; "" if it is none."""
        if isinstance(node, ast.Name):
            return self._parts.get(node.id, "")
        return node.attr if isinstance(node, ast.Attribute) and node.attr in PARTS and self._is_api(node.value) else ""

    def _api_call(self, node: ast.Call) -> None:
        function = node.func
        method = ""
        if isinstance(function, ast.Attribute) and self._is_api(function.value):
            method = function.attr
        elif isinstance(function, ast.Attribute) and (part := self._part(function.value)):
            method = f"{part}.{function.attr}"
        elif isinstance(function, ast.Call) and self._names.resolve(function.func) == "getattr" \
                and len(function.args) > 1 and self._is_api(function.args[0]):
            method = self._names.text(function.args[1])
            self._api.opaque = self._api.opaque or not method
        elif any(self._is_api(item) or self._part(item) for item in _arguments(node)):
            self._api.opaque = True  # it is passed to a function, whose calls we do not follow
        if permission := API_PERMISSIONS.get(method):
            self._api.needs(permission, self.path, node.lineno, method)
        elif method == "call":
            self._api.calls_host(self._names.text(node.args[0]) if node.args else "", self.path, node.lineno)


def _arguments(node: ast.Call) -> list[ast.expr]:
    return [*node.args, *[keyword.value for keyword in node.keywords]]


def _last(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else ""


def _number(node: ast.AST) -> float | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        left, right = _number(node.left), _number(node.right)
        if left is not None and right is not None and 0 <= right <= 30 and abs(left) <= 10_000:
            made: float = float(left) ** float(right)
            return made
    return None


def _docstring_lines(tree: ast.AST) -> frozenset[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.add(node.value.lineno)
    return frozenset(lines)


def _script_lines(tree: ast.AST) -> list[tuple[int, int]]:
    """The line ranges guarded by ``if __name__ == "__main__":``, which no worker runs; none if the module assigns to
    ``__name__``."""
    nodes = list(ast.iter_child_nodes(tree))
    if any(isinstance(node, ast.Name) and node.id == "__name__" and not isinstance(node.ctx, ast.Load)
           for node in ast.walk(tree)):
        return []
    return [(node.body[0].lineno, node.body[-1].end_lineno or 0) for node in nodes
            if isinstance(node, ast.If) and _is_main_guard(node.test)]


def _is_main_guard(test: ast.expr) -> bool:
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return any(map(_is_main_guard, test.values))
    return (isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__"
            and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq) and isinstance(test.comparators[0], ast.Constant)
            and test.comparators[0].value == "__main__")
