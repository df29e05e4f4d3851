"""Rules on the syntax tree of JavaScript. Each rule looks at one kind of node, with the file's names resolved; no code
of it runs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from tree_sitter import Node

from apex_exec.catalogue.methods import ALL, PARTS
from apex_exec.registry.scan.api_use import WIDGET_FIELDS, ApiUse
from apex_exec.registry.scan.findings import Finding, finding
from apex_exec.registry.scan.javascript.syntax import NODES_MAX, Tree, arguments_of, unescaped
from apex_exec.registry.scan.literals import LITERAL_SEARCHED_MAX, in_literal

NESTED_SOURCES_MAX = 20
LITERAL_BYTES_MIN = 8
"""No rule knows a shorter literal."""
GIANT_MIN = 50_000_000

API_PERMISSIONS = {method.name: method.permission for method in ALL if method.permission}
"""Method as plugin code calls it -> the permission that it takes."""
INTRINSICS = frozenset({
    "Object", "Array", "String", "Number", "Boolean", "BigInt", "Function", "Promise", "Map", "Set", "WeakMap",
    "WeakSet", "JSON", "Math", "Reflect", "RegExp", "Date", "Error", "TypeError", "Symbol", "Proxy", "Iterator",
    "ArrayBuffer", "Uint8Array", "DataView"})
PLATFORM = frozenset({"plugin", "fetch", "console", "crypto", "setTimeout", "structuredClone", "Response", "Headers",
                      "URL", "TextDecoder", "TextEncoder"})
"""Globals that the SDK puts there."""
ABSENT: dict[str, str] = {
    "process": "bundle with esbuild's --define:process.env.NODE_ENV='\"production\"', and take settings from the "
               "manifest",
    "require": "bundle the package with esbuild --format=esm, or write an import of a file in the bundle",
    "module": "write export instead of module.exports", "exports": "write export instead of exports",
    "__dirname": "a worker has no files: import JSON from the bundle",
    "__filename": "a worker has no files: import JSON from the bundle",
    "Buffer": "use Uint8Array, TextEncoder and TextDecoder", "global": "write globalThis",
    "Intl": "format dates and numbers in the host, or by a package such as date-fns",
    "WebAssembly": "use a package's plain JavaScript build", "Temporal": "use Date, or a package",
    "XMLHttpRequest": "use fetch and declare network:fetch", "WebSocket": "use fetch and declare network:fetch",
    "EventSource": "use fetch and declare network:fetch", "navigator": "a plugin runs in no browser",
    "window": "write globalThis", "document": "a plugin runs in no browser: return widgets instead",
    "location": "a plugin runs in no browser", "localStorage": "keep data through plugin.api.storage",
    "sessionStorage": "keep data through plugin.api.storage", "indexedDB": "keep data through plugin.api.storage",
    "importScripts": "write an import of a file in the bundle", "Worker": "a worker has one thread",
    "setImmediate": "use queueMicrotask or setTimeout", "Deno": "a plugin does not run in Deno",
    "Bun": "a plugin does not run in Bun",
}
"""Globals of other places that a worker does not have -> what to do instead."""
RUNNERS = frozenset({"eval", "Function", "AsyncFunction", "GeneratorFunction", "AsyncGeneratorFunction"})
_RUNNER = re.compile(r"(?:.*\.)?<function>(?:\.__proto__|\.\[\[Prototype\]\])?\.constructor|"
                     r"(?:Async|Generator|AsyncGenerator)?Function(?:\.prototype\.constructor)?|eval")
_WALK = re.compile(r"\.constructor\.constructor\b")
_OF_LITERALS = re.compile(r"<\w+>\.(__proto__|\[\[Prototype\]\])")
"""The prototype of an array, an object or a function that stands in the source: the engine's own."""
DEFINERS = frozenset({"Object.defineProperty", "Object.defineProperties", "Object.assign", "Object.setPrototypeOf",
                      "Reflect.defineProperty", "Reflect.set", "Reflect.deleteProperty", "Reflect.setPrototypeOf"})
NETWORK = frozenset({"XMLHttpRequest", "WebSocket", "EventSource", "navigator.sendBeacon", "RTCPeerConnection",
                     "WebTransport"})
PROCESS_MODULES = frozenset({"child_process", "cluster", "worker_threads"})
NETWORK_MODULES = frozenset({"net", "http", "https", "http2", "tls", "dgram", "dns"})
NATIVE = re.compile(r"process\.(dlopen|binding|_linkedBinding)|Deno\.dlopen")
DANGEROUS_WORDS = frozenset({"eval", "Function", "constructor", "__proto__", "require", "process", "child_process",
                             "mainModule", "binding", "dlopen", "defineProperty", "setPrototypeOf"})
_ASKING = frozenset({"member_expression", "unary_expression", "binary_expression", "sequence_expression",
                     "export_specifier"})
"""Where a name of a runner stands that does not keep it for later."""
FRAMES = frozenset({"prepareStackTrace", "callee", "caller"})
_MEMBERS = {name.encode() for name in (*API_PERMISSIONS, *PARTS, "call", "api", "env", "constructor", *FRAMES)}
_IDENTIFIERS = {name.encode() for name in (*ABSENT, *RUNNERS, "api", "fetch")}
_SIZED = frozenset({"repeat", "padStart", "padEnd", "alloc"})
_SIZED_MAKERS = re.compile(r"(Shared)?Array(Buffer)?|(Ui|I)nt(8|16|32)(Clamped)?Array|(Big(Ui|I)nt64|Float\d\d)Array")


class FileScan:
    """The rules over one file that can be parsed. ``is_test`` skips those that only matter in a worker that serves, and
    ``is_loaded`` is false for a file that no worker loads: it may use what a worker does not have."""

    def __init__(self, path: str, tree: Tree, api: ApiUse, is_test: bool = False, depth: int = 0,
                 is_loaded: bool = True) -> None:
        self.path = path
        self._tree = tree
        self._api = api
        self._is_test = is_test
        self._depth = depth
        self._is_loaded = is_loaded and not is_test
        self._nested = 0
        self._guarded = self._typeof_guards()

    def run(self) -> Iterator[Finding]:
        """Every finding of this file."""
        nodes = self._tree.nodes
        if self._tree.too_many:
            yield finding("scan-unfinished", self.path, 0, f"the file has more than {NODES_MAX} syntax nodes")
        self._api.renders = self._api.renders or not WIDGET_FIELDS.isdisjoint(self._tree.properties)
        for node in nodes["call_expression"]:
            yield from self._call(node, node.child_by_field_name("function"))
        for node in nodes["new_expression"]:
            yield from self._call(node, node.child_by_field_name("constructor"))
        source = self._tree.source
        for node in nodes["member_expression"]:
            field = node.child_by_field_name("property")
            if field is None:
                continue
            raw = source[field.start_byte:field.end_byte]
            if raw in _MEMBERS or b"\\" in raw:  # most members are nothing that a rule knows
                yield from self._member(node, self._tree.name(field))
        for node in nodes["subscript_expression"]:
            yield from self._subscript(node)
        for kind in ("identifier", "shorthand_property_identifier"):
            for node in nodes[kind]:
                raw = source[node.start_byte:node.end_byte]
                if raw in _IDENTIFIERS or b"\\" in raw:
                    yield from self._identifier(node)
        for kind in ("assignment_expression", "augmented_assignment_expression"):
            for node in nodes[kind]:
                yield from self._stored(node.child_by_field_name("left"))
        for node in nodes["unary_expression"]:
            if node.children and node.children[0].type == "delete":
                yield from self._stored(node.child_by_field_name("argument"))
        for kind in ("string", "template_string"):
            for node in nodes[kind]:
                if node.end_byte - node.start_byte >= LITERAL_BYTES_MIN:
                    yield from self._literal(node)
        for node in nodes["with_statement"]:
            yield self._at("dynamic-code", node, "with changes which names the code means")
        for node in nodes["binary_expression"]:
            yield from self._operator(node)

    def _at(self, rule: str, node: Node, message: str) -> Finding:
        return finding(rule, self.path, node.start_point[0] + 1, message)

    def _typeof_guards(self) -> frozenset[str]:
        """Names that the file asks for with ``typeof`` before it uses them."""
        return frozenset(
            self._tree.name(argument) for node in self._tree.nodes["unary_expression"]
            if node.children and node.children[0].type == "typeof"
            and (argument := node.child_by_field_name("argument")) is not None and argument.type == "identifier")

    # ------------------------------------------------------------------ calls
    def _call(self, node: Node, target: Node | None) -> Iterator[Finding]:
        if target is None:
            return
        tree, arguments = self._tree, arguments_of(node)
        if target.type == "import":
            yield from self._import_call(node, arguments)
            return
        name = tree.resolve(target)
        for suffix in (".call", ".apply"):
            if name.endswith(suffix):
                name, arguments = name.removesuffix(suffix), arguments[1:]
        if name == "Reflect.construct" or name == "Reflect.apply":
            name = tree.resolve(arguments[0]) if arguments else ""
            arguments = arguments[-1:]
        if name.endswith(".constructor.constructor"):
            yield self._at("dunder-walk", node, f"reaches Function by {name.lstrip('?')[:100]}")
            yield from self._runs(node, "Function", arguments)
        elif _RUNNER.fullmatch(name):
            yield from self._runs(node, name, arguments)
        elif name.endswith(".constructor") and node.type == "call_expression" and any(map(tree.string, arguments)):
            yield from self._runs(node, name, arguments)  # x.at.constructor("…"): only functions' maker is called so
        elif name in ("setTimeout", "setInterval"):
            if arguments and tree.string(arguments[0]):
                yield from self._runs(node, name, arguments[:1])
        elif name in DEFINERS and arguments:
            yield from self._changes(node, tree.resolve(arguments[0]), name)
        elif name in NETWORK and any(tree.string(item) for item in arguments):
            yield self._at("direct-network", node, f"{name} connects to a fixed address")
        elif NATIVE.fullmatch(name):
            yield self._at("native-call", node, f"{name} loads native code")
        elif name == "require" or name.endswith("mainModule.require"):
            yield from self._required(node, tree.string(arguments[0]) if arguments else "")
        elif name.startswith("[?]") and target.type == "subscript_expression":
            yield self._at("dynamic-code", node, "a global is called by a name that is made at run time")
        elif arguments:
            yield from self._size(node, name, arguments)

    def _import_call(self, node: Node, arguments: list[Node]) -> Iterator[Finding]:
        if not arguments:
            return
        if decoder := self._tree.decoded_by(arguments[0]):
            yield self._at("decoded-code", node, f"import() of what comes from {decoder}")
        elif self._tree.fold(arguments[0]) is None:
            yield self._at("dynamic-code", node, "import() of a name that is made at run time")
        else:
            yield from self._required(node, self._tree.string(arguments[0]))

    def _required(self, node: Node, name: str) -> Iterator[Finding]:
        module = name.removeprefix("node:")
        if self._is_test:
            return
        if module in PROCESS_MODULES:
            yield self._at("process-start", node, f"{module} starts processes")
        elif module in NETWORK_MODULES:
            yield self._at("direct-network", node, f"{module} opens connections")
        elif module.partition("/")[0] == "fs":
            yield self._at("file-access", node, f"{module} touches files")

    def imported(self, node: Node, name: str) -> Iterator[Finding]:
        """What the module ``name`` of an import statement is known for."""
        yield from self._required(node, name)
        if name.startswith("apex:"):
            yield self._at("coverage-reach", node, f"imports {name[:60]!a}")

    def _runs(self, node: Node, name: str, arguments: list[Node]) -> Iterator[Finding]:
        if name in ("eval", "setTimeout", "setInterval"):
            arguments = arguments[:1]
        text = ""
        for argument in arguments[-3:]:
            if decoder := self._tree.decoded_by(argument):
                yield self._at("decoded-code", node, f"{_shown(name)} of what comes from {decoder}")
                return
            text = self._tree.string(argument)
        yield self._at("dynamic-code", node, f"{_shown(name)} runs text as code")
        if text:
            yield from self._source(text, node)

    def _source(self, text: str, node: Node) -> Iterator[Finding]:
        """Applies the rules to source text in a constant."""
        self._nested += 1
        if self._depth >= 3 or self._nested > NESTED_SOURCES_MAX:
            return
        tree = Tree(text.encode("utf-8", "replace"))
        if not tree.root.has_error:
            for item in FileScan(self.path, tree, self._api, self._is_test, self._depth + 1, self._is_loaded).run():
                yield self._at(item.rule, node, f"in the text that is run: {item.message}")

    def _size(self, node: Node, name: str, arguments: list[Node]) -> Iterator[Finding]:
        method = name.rpartition(".")[2]
        if method in _SIZED or _SIZED_MAKERS.fullmatch(name):
            size = _number(self._tree, arguments[0])
            if size is not None and size > GIANT_MIN:
                yield self._at("giant-constant", node, f"{_shown(method)} of {size:.0f}")

    # ------------------------------------------------------------------ members and names
    def _subscript(self, node: Node) -> Iterator[Finding]:
        tree = self._tree
        folded = tree.fold(node.child_by_field_name("index"))
        if folded is None:
            if self._is_api(node.child_by_field_name("object")):
                self._api.opaque = True
            return
        word = str(folded.value)
        if folded.computed and word in DANGEROUS_WORDS:
            yield self._at("hidden-name", node, f"{word!a} is put together from pieces")
        yield from self._member(node, word)
        if word in RUNNERS and tree.resolve(node) == word:
            yield self._at("dynamic-code" if not self._is_callee(node) else "hidden-name", node,
                           f"{word} is taken from a table of names")

    def _member(self, node: Node, word: str) -> Iterator[Finding]:
        """The member ``word`` of something, in whichever way it is written."""
        tree = self._tree
        if word in FRAMES:
            name = tree.resolve(node)
            if word == "prepareStackTrace" or name == "arguments.callee.caller" or name.endswith(".callee.caller"):
                yield self._at("frame-inspection", node, f"{word} looks into other code")
        elif word == "env":
            if tree.resolve(node) in ("process.env", "Deno.env", "import.meta.env") and not self._is_test:
                yield self._at("environment", node, "reads the environment")
        elif word == "constructor":
            if _WALK.search(name := tree.resolve(node)) and not self._is_callee(node):
                yield self._at("dunder-walk", node, f"reaches Function by {name.lstrip('?')[:100]}")
        elif word == "api":
            self._api_reference(node)
        elif not self._is_test and self._is_api(node.child_by_field_name("object")):
            self._api_use(node, word)

    def _is_callee(self, node: Node) -> bool:
        parent = node.parent
        return parent is not None and parent.type in ("call_expression", "new_expression") and node in (
            parent.child_by_field_name("function"), parent.child_by_field_name("constructor"))

    def _identifier(self, node: Node) -> Iterator[Finding]:
        tree = self._tree
        name = tree.name(node)
        if name == "api":
            self._api_reference(node)
            return
        if tree.is_bound(name, node):
            return
        parent = node.parent
        if name in RUNNERS:
            if name in ("eval", "Function") and not self._is_callee(node) and parent is not None \
                    and parent.type not in _ASKING:
                yield self._at("dynamic-code", node, f"{name} is taken, to be called elsewhere")
        elif name == "fetch":
            if not self._is_test and self._is_callee(node):
                self._api.needs("network:fetch", self.path, node.start_point[0] + 1, "fetch")
        elif self._is_loaded and name in ABSENT and name not in self._guarded and not _is_asked_for(node):
            yield self._at("absent-global", node, f"a worker has no {name}: {ABSENT[name]}")

    # ------------------------------------------------------------------ the platform's API
    def _is_api(self, node: Node | None) -> bool:
        return node is not None and self._tree.resolve(node).lstrip("?").rpartition(".")[2] == "api"

    def _api_use(self, node: Node, method: str) -> None:
        line = node.start_point[0] + 1
        if method in PARTS:
            parent = node.parent
            if parent is None or parent.type != "member_expression" or node != parent.child_by_field_name("object"):
                self._api.opaque = True  # a part of the API is renamed or passed on
                return
            field = parent.child_by_field_name("property")
            method = f"{method}.{self._tree.name(field) if field is not None else ''}"
        if permission := API_PERMISSIONS.get(method):
            self._api.needs(permission, self.path, line, method)
        elif method == "call":
            parent = node.parent
            arguments = arguments_of(parent) if parent is not None and parent.type == "call_expression" else []
            self._api.calls_host(self._tree.string(arguments[0]) if arguments else "", self.path, line)

    def _api_reference(self, node: Node) -> None:
        """The API itself is used, renamed or taken apart in a way that reading follows, or nothing more is known."""
        parent = node.parent
        if parent is None or self._is_test:
            return
        kind = parent.type
        if kind in ("member_expression", "subscript_expression"):
            return  # a member of the API, or the API of a context
        if kind == "variable_declarator":
            pattern = parent.child_by_field_name("name")
            if pattern is not None and pattern.type == "object_pattern":
                for child in pattern.named_children:
                    key = child.child_by_field_name("key") or child.child_by_field_name("left") or child
                    self._api_taken(node, self._tree.key(key) if child.type != "rest_pattern" else "")
            return
        if kind in ("formal_parameters", "import_specifier", "assignment_expression"):
            return
        if kind == "pair" and parent.child_by_field_name("key") == node:
            return
        self._api.opaque = True  # it is passed on, to code whose calls reading does not follow

    def _api_taken(self, node: Node, method: str) -> None:
        if permission := API_PERMISSIONS.get(method):
            self._api.needs(permission, self.path, node.start_point[0] + 1, method)
        else:
            self._api.opaque = True

    # ------------------------------------------------------------------ changes to what is not the plugin's
    def _stored(self, target: Node | None) -> Iterator[Finding]:
        if target is None:
            return
        if target.type == "identifier":
            name = self._tree.name(target)
            if name in INTRINSICS | PLATFORM and not self._tree.is_bound(name, target):
                yield self._at("tampering", target, f"replaces {name}")
        elif target.type in ("member_expression", "subscript_expression"):
            whole = self._tree.resolve(target)
            base, _, word = whole.rpartition(".")
            if not base:  # a property of the global object
                if word in INTRINSICS | PLATFORM:
                    yield self._at("tampering", target, f"replaces {word}")
            elif whole != "Error.stackTraceLimit":
                yield from self._changes(target, base, "an assignment")

    def _changes(self, node: Node, base: str, how: str) -> Iterator[Finding]:
        first, _, rest = base.partition(".")
        foreign = first in INTRINSICS and rest in ("", "prototype") or first in PLATFORM and not rest or base in (
            "plugin.api", "crypto.subtle", "globalThis")
        if base == "globalThis" and how != "Object.setPrototypeOf":
            return
        if foreign:
            yield self._at("tampering", node, f"{how} changes {base}")
        elif base.endswith(".__proto__") or _OF_LITERALS.fullmatch(base):
            yield self._at("tampering", node, f"{how} changes a prototype by way of {base.lstrip('?')[:80]}")

    # ------------------------------------------------------------------ literals and operators
    def _literal(self, node: Node) -> Iterator[Finding]:
        text = unescaped(self._tree.text(node, max(LITERAL_SEARCHED_MAX, node.end_byte - node.start_byte))[1:-1])
        if text in WIDGET_FIELDS:
            self._api.renders = True
        for rule, message in in_literal(text):
            yield self._at(rule, node, message)

    def _operator(self, node: Node) -> Iterator[Finding]:
        operator = node.child_by_field_name("operator")
        if operator is None or operator.type not in ("**", "<<"):
            return
        tree = self._tree
        left, right = _number(tree, node.child_by_field_name("left")), _number(tree, node.child_by_field_name("right"))
        is_big = tree.source[node.start_byte:node.end_byte].rstrip(b" )").endswith(b"n")
        if is_big and right is not None and right > 100_000 and (left is None or left > 1):
            yield self._at("giant-constant", node, "a BigInt too large to compute")


def _is_asked_for(node: Node) -> bool:
    """True if the name is only asked for (``typeof process``), is a label, or is a property's short form."""
    parent = node.parent
    return parent is None or (parent.type == "unary_expression" and parent.children[0].type == "typeof") \
        or parent.type in ("export_specifier", "labeled_statement")


def _shown(name: str) -> str:
    return name.lstrip("?")[:60] if "<" not in name else "the constructor of a function"


def _number(tree: Tree, node: Node | None) -> float | None:
    while node is not None and node.type == "parenthesized_expression" and node.named_children:
        node = node.named_children[0]
    if node is None:
        return None
    if node.type == "number":
        try:
            text = tree.text(node, 60).replace("_", "").rstrip("n").lower()
            return float(int(text, 0)) if text[:2] in ("0x", "0b", "0o") else float(text)
        except (ValueError, OverflowError):
            return None
    if node.type == "binary_expression":
        operator = node.child_by_field_name("operator")
        left, right = (_number(tree, node.child_by_field_name(side)) for side in ("left", "right"))
        if operator is None or left is None or right is None:
            return None
        try:
            return math.pow(left, right) if operator.type == "**" else left * right if operator.type == "*" else None
        except (OverflowError, ValueError):
            return math.inf
    return None


