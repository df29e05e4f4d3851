"""JavaScript source as tree-sitter's tree, and what its expressions stand for, where that can be read off: names
through aliases, strings through concatenation and decoding. The work is bounded and has no side effects: no code of
the source runs.

tree-sitter takes everything that the engine takes (and a little more, which the engine refuses when a bundle is tried).
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import NamedTuple

import tree_sitter
import tree_sitter_javascript
from tree_sitter import Node

from apex_exec.registry.scan.python.names import DEPTH_MAX, FOLDED_MAX, VALUES_MAX, Folded

_LANGUAGE = tree_sitter.Language(tree_sitter_javascript.language())
_PARSER = tree_sitter.Parser(_LANGUAGE)
_DIVISIONS = tree_sitter.Query(_LANGUAGE, """
    (binary_expression left: (arrow_function body: (statement_block)) operator: "/" @arrow)
    (binary_expression left: [(function_expression) (generator_function) (class)] operator: "/" @function)
""")
"""Divisions of a function. That of an arrow function, or of a default export, is none to the engine."""
REREAD_MAX = 8
"""How often a source is parsed again because of such a division, which takes a second for the largest."""
COMMENTS_READ_MAX = 4
"""How often all of a source may be read as comments behind its closing braces before the question is left to the tree:
in a hostile source each brace may be followed by megabytes of them."""
NODES_MAX = 1_500_000
"""The most nodes of one file; 2 MiB of minified source have about 1,000,000."""
WALKED_MAX = 1000
"""How many nodes are looked at to find where one value comes from."""
NAME_BYTES_MAX = 300
"""As much of an identifier is read; no name that a rule knows is as long."""
CHAIN_MAX = 40
"""How many members of ``a.b.c…`` are read; no honest access is longer."""

GLOBAL_OBJECTS = frozenset({"globalThis", "window", "self", "global"})
DECODERS = frozenset({"atob", "unescape", "decodeURIComponent", "decodeURI", "fetch", "String.fromCharCode",
                      "String.fromCodePoint", "Uint8Array.fromBase64", "Uint8Array.fromHex", "Buffer.from"})
_DECODING = frozenset({"fromCharCode", "fromCodePoint", "fromBase64", "fromHex", "decode", "reverse", "text", "fetch"})
"""Methods whose result is text that the source does not show."""
_ESCAPE = re.compile(r"\\(?:u\{0*([0-9a-fA-F]{1,6})\}|u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(\r\n|.))", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "v": "\v", "0": "\0", "\n": "", "\r\n": ""}

Range = tuple[int, int]
"""Where a scope begins and ends, in bytes."""

_FUNCTIONS = frozenset({"function_declaration", "generator_function_declaration", "function_expression",
                        "generator_function", "arrow_function", "method_definition"})
_BLOCKS = frozenset({"statement_block", "for_statement", "for_in_statement", "catch_clause", "switch_body",
                     "class_static_block"})
_CLASSES = frozenset({"class_declaration", "class"})
_READ = frozenset({*_FUNCTIONS, *_BLOCKS, *_CLASSES, "variable_declarator", "assignment_expression", "import_clause"})
"""Nodes that bind names, or begin a scope; most are none of these."""
_LEAVES = frozenset({"identifier", "string", "number", "shorthand_property_identifier", "comment", "this", "true",
                     "false", "null", "undefined", "regex", "statement_identifier"})
"""Nodes with nothing below them that a rule looks at."""
FUNCTION_VALUES = frozenset({"function_expression", "generator_function", "arrow_function", "function_declaration",
                             "generator_function_declaration", "function"})
WANTED = frozenset({
    "call_expression", "new_expression", "member_expression", "subscript_expression", "assignment_expression",
    "augmented_assignment_expression", "update_expression", "unary_expression", "identifier", "string",
    "template_string", "import_statement", "export_statement", "with_statement", "binary_expression",
    "shorthand_property_identifier"})
"""The kinds of nodes that rules look at."""


_CLAUSE = re.compile(rb"\b(?:im|ex)port\s*(?:[\w$]+\s*,\s*)?\{[^{}();=:]*\}|\bexport\s*\*\s*as\s+\w+")
_FIRST_LINE = re.compile(rb"\A(?:\xef\xbb\xbf)?#!.*?(?=[\n\r]|\xe2\x80[\xa8\xa9]|\Z)", re.DOTALL)
"""A line for a shell. tree-sitter ends it at a line feed only, and the engine at whatever ends a line of JavaScript."""
_BRACE, _BLANKS = re.compile(rb"\}[\s\x80-\xff]*/"), re.compile(rb"[\s\x80-\xff]*")
_LINE_END, _COMMENT_END = re.compile(rb"[\n\r]|\xe2\x80[\xa8\xa9]"), re.compile(rb"\*/")
_REGEX = re.compile(
    rb"/(?:[^/\\\[\n\r\xe2]|\\[^\n\r]|\[(?:[^\]\\\n\r]|\\[^\n\r])*\]|\xe2(?!\x80[\xa8\xa9]))+/")
"""A regular expression where one begins."""
_RESERVED = re.compile(
    rb"\b(?:break|case|catch|class|const|continue|debugger|delete|do|else|enum|extends|false|finally|for|function|if|"
    rb"import|in|instanceof|new|null|return|super|switch|this|throw|true|try|typeof|var|void|while|with)\b")


def parse(source: bytes) -> Node:
    """The root of the source's tree. ``has_error`` says that it is not JavaScript.

    tree-sitter-javascript 0.25 takes no reserved word as the outer name of an import or export, although ``export {
    f as catch }`` is the language. So it is given such words as other words of their length, a first line for a shell
    as blanks, and every position stays.

    After the end of an arrow function on the line before, ``/a/`` is a regular expression, and tree-sitter takes it for
    a division, so that it would read ``/a//b`` as a comment from there on. Such an expression is given as a word.
    """
    plain = _FIRST_LINE.sub(lambda line: b" " * len(line[0]), source)
    plain = _CLAUSE.sub(_without_reserved, plain)
    for _ in range(REREAD_MAX):
        root = _PARSER.parse(plain).root_node
        found = _first_false_division(root) if _may_have_false_divisions(plain) else None
        if found is None or (regex := _REGEX.match(plain, found)) is None:
            return root
        plain = plain[:found] + b"_" * len(regex[0]) + plain[regex.end():]
    return _PARSER.parse(b"(").root_node  # an honest source has one or two


def _may_have_false_divisions(source: bytes) -> bool:
    """Whether a slash that begins no comment stands behind a closing brace, with blanks and comments between them."""
    left = COMMENTS_READ_MAX * len(source)
    for brace in _BRACE.finditer(source):
        at = brace.end() - 1
        while source[at : at + 1] == b"/":
            kind = source[at + 1 : at + 2]
            if kind == b"/":
                end = _LINE_END.search(source, at)
            elif kind == b"*":
                end = _COMMENT_END.search(source, at + 2)
            else:
                return True
            left -= (end.end() if end else len(source)) - at
            if left < 0:
                return True
            if end is None:
                break
            at = end.end()
            if blanks := _BLANKS.match(source, at):
                at = blanks.end()
    return False


def _first_false_division(root: Node) -> int | None:
    """Where the first division is that the engine takes for the beginning of a regular expression."""
    found = tree_sitter.QueryCursor(_DIVISIONS).captures(root)
    places = [node.start_byte for node in found.get("arrow", ())]
    places += [node.start_byte for node in found.get("function", ()) if _is_exported(node)]
    return min(places, default=None)


def _is_exported(division: Node) -> bool:
    """Whether what is divided is a default export: a declaration, which ends with its body."""
    at = division.parent
    while at is not None and at.parent is not None and at.parent.type != "export_statement":
        if at.parent.start_byte != at.start_byte:
            return False
        at = at.parent
    return at is not None and at.parent is not None and at.parent.child_by_field_name("value") == at


def _without_reserved(clause: re.Match[bytes]) -> bytes:
    return clause[0][:6] + _RESERVED.sub(lambda word: b"_" * len(word[0]), clause[0][6:])


class Value(NamedTuple):
    """What a name is given: the expression (None for a parameter's argument), and the members of it that destructuring
    takes."""

    node: Node | None
    members: tuple[str, ...] = ()


class Tree:
    """One file. ``nodes`` has its nodes by kind, in the order of the source but for leaves (names, strings), of which
    those of one parent come together; ``properties`` the names of members and keys. Raises MemoryError only if the
    process may have no more."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.root = parse(source)
        self.nodes: dict[str, list[Node]] = {kind: [] for kind in WANTED}
        self.properties: set[str] = set()
        self.values: dict[str, list[Value]] = {}
        self.too_many = False
        self._bound: dict[str, list[Range]] = {}
        self._folded: dict[int, Folded | None] = {}
        self._resolved: dict[int, str] = {}
        if not self.root.has_error:
            self._read()

    def text(self, node: Node, most: int = 20_000) -> str:
        """The source of ``node``, its first ``most`` bytes."""
        begin = node.start_byte
        return self.source[begin:min(node.end_byte, begin + most)].decode("utf-8", "replace")

    def name(self, node: Node | None) -> str:
        """An identifier as the engine reads it: ``\\u0065val`` is ``eval``."""
        if node is None:
            return ""
        begin = node.start_byte  # as `text`, without a call: this is done for every name of a file
        text = self.source[begin:min(node.end_byte, begin + NAME_BYTES_MAX)].decode("utf-8", "replace")
        return unescaped(self.text(node, node.end_byte)) if "\\" in text else text  # \u{000…065} may be long

    def first_error(self) -> Node:
        """Where the parser met what is not JavaScript."""
        node = self.root
        while True:
            inner = next((child for child in node.children if child.has_error or child.is_missing), None)
            if inner is None or node.is_error:
                return node
            node = inner

    # ------------------------------------------------------------------ one walk over all nodes
    def _read(self) -> None:
        whole = (0, len(self.source))
        waiting = [(self.root, whole, whole)]
        nodes = self.nodes
        count = 0
        while waiting:
            node, block, function = waiting.pop()
            kind = node.type
            if kind in nodes:
                nodes[kind].append(node)
            count += 1
            if count > NODES_MAX:
                self.too_many = True
                return
            if kind not in _READ:
                pass
            elif kind in _FUNCTIONS:
                inner = (node.start_byte, node.end_byte)
                self._function(node, block, inner)
                block = function = inner
            elif kind in _BLOCKS:
                block = (node.start_byte, node.end_byte)
                if kind == "catch_clause":
                    self._pattern(node.child_by_field_name("parameter"), None, block)
                elif kind == "for_in_statement":
                    self._pattern(node.child_by_field_name("left"), None, block)
            elif kind == "variable_declarator":
                is_var = node.parent is not None and node.parent.type == "variable_declaration"
                self._pattern(node.child_by_field_name("name"), node.child_by_field_name("value"),
                              function if is_var else block)
            elif kind in _CLASSES:
                self._pattern(node.child_by_field_name("name"), node, block)
            elif kind == "assignment_expression":
                self._assigned(node.child_by_field_name("left"), node.child_by_field_name("right"))
            elif kind == "import_clause":
                self._imported(node, whole)
            inner_nodes: list[tuple[Node, Range, Range]] = []
            for child in node.named_children:
                kind = child.type  # most nodes are leaves, and cost the least here
                if kind in _LEAVES:
                    count += 1
                    if kind in nodes:
                        nodes[kind].append(child)
                elif kind == "property_identifier":
                    count += 1
                    self.properties.add(self.name(child))
                else:
                    inner_nodes.append((child, block, function))
            inner_nodes.reverse()
            waiting += inner_nodes

    def _function(self, node: Node, outer: Range, inner: Range) -> None:
        name = node.child_by_field_name("name")
        if name is not None and node.type.endswith("declaration"):
            self._pattern(name, node, outer)
        elif name is not None and node.type != "method_definition":
            self._pattern(name, None, inner)
        self._pattern(node.child_by_field_name("parameters") or node.child_by_field_name("parameter"), None, inner)

    def _bind(self, name: str, scope: Range) -> None:
        self._bound.setdefault(name, []).append(scope)

    def _imported(self, node: Node, whole: Range) -> None:
        for child in node.named_children:
            if child.type == "identifier":
                self._bind(self.name(child), whole)
            elif child.type == "namespace_import":
                self._bind(self.name(child.named_children[-1]), whole)
            else:
                for item in child.named_children:
                    self._bind(self.name(item.child_by_field_name("alias") or item.child_by_field_name("name")), whole)

    def _pattern(self, pattern: Node | None, value: Node | None, scope: Range, members: tuple[str, ...] = ()) -> None:
        """Binds every name of a binding pattern, and remembers what it is given."""
        waiting = [(pattern, members)]
        while waiting:
            at, path = waiting.pop()
            if at is None or len(path) > DEPTH_MAX:
                continue
            kind = at.type
            if kind in ("identifier", "shorthand_property_identifier_pattern"):
                name = self.name(at)
                self._bind(name, scope)
                if kind != "identifier":
                    path = (*path, name)
                if value is not None or path:
                    self.values.setdefault(name, []).append(Value(value, path))
            elif kind == "pair_pattern":
                key = at.child_by_field_name("key")
                waiting.append((at.child_by_field_name("value"), (*path, self.key(key))))
            elif kind in ("assignment_pattern", "object_assignment_pattern"):
                waiting.append((at.child_by_field_name("left"), path))
            elif kind in ("object_pattern", "formal_parameters"):
                waiting += [(child, path) for child in at.named_children]
            elif kind in ("array_pattern", "rest_pattern"):
                waiting += [(child, (*path, "[?]")) for child in at.named_children]

    def _assigned(self, left: Node | None, right: Node | None) -> None:
        if left is None or right is None:
            return
        if left.type == "identifier":
            self.values.setdefault(self.name(left), []).append(Value(right))
        elif left.type == "object_pattern":
            for child in left.named_children:
                if child.type == "shorthand_property_identifier_pattern":
                    name = self.name(child)
                    self.values.setdefault(name, []).append(Value(right, (name,)))
                elif child.type == "pair_pattern":
                    target = child.child_by_field_name("value")
                    if target is not None and target.type == "identifier":
                        members = (self.key(child.child_by_field_name("key")),)
                        self.values.setdefault(self.name(target), []).append(Value(right, members))

    def is_bound(self, name: str, node: Node) -> bool:
        """True if the source itself declares ``name`` where ``node`` stands, and it does not mean the global one."""
        at = node.start_byte
        return any(begin <= at < end for begin, end in self._bound.get(name, ()))

    def key(self, node: Node | None) -> str:
        """The key of a property, ``[?]`` if reading does not show it."""
        if node is None:
            return "[?]"
        if node.type == "computed_property_name":
            folded = self.fold(node.named_children[0]) if node.named_children else None
            return folded.value if folded is not None and isinstance(folded.value, str) else "[?]"
        if node.type == "string":
            return unescaped(self.text(node)[1:-1])
        return self.name(node)

    # ------------------------------------------------------------------ dotted names
    def resolve(self, node: Node | None, depth: int = 0) -> str:
        """The dotted name that ``node`` stands for, such as ``Array.prototype.push``.

        A name that the source declares itself and that stands for nothing known begins with ``?``; a literal or a
        function is ``<its kind>``; "" if nothing can be said."""
        if node is None or depth > DEPTH_MAX:
            return ""
        words: list[str] = []
        at: Node = node
        while len(words) < CHAIN_MAX:
            kind = at.type
            if kind == "member_expression":
                words.append(self.name(at.child_by_field_name("property")))
            elif kind == "subscript_expression":
                folded = self.fold(at.child_by_field_name("index"), depth + 1)
                words.append(folded.value if folded is not None and isinstance(folded.value, str) else "[?]")
            elif kind in ("parenthesized_expression", "sequence_expression", "await_expression"):
                inner = at.named_children
                if not inner:
                    return ""
                at = inner[-1]
                continue
            else:
                break
            below = at.child_by_field_name("object")
            if below is None:
                return ""
            at = below
        base = self._base(at, depth)
        for word in reversed(words):
            base = word if base in GLOBAL_OBJECTS else f"{base}.{word}"
        return base

    def _base(self, node: Node, depth: int) -> str:
        if node.id not in self._resolved:
            self._resolved[node.id] = ""  # the answer for a name that refers to itself, while it is being resolved
            self._resolved[node.id] = self._resolve(node, depth)
        return self._resolved[node.id]

    def _resolve(self, node: Node, depth: int) -> str:
        kind = node.type
        if kind in ("identifier", "shorthand_property_identifier", "shorthand_property_identifier_pattern"):
            return self._identifier(node, depth)
        if kind == "call_expression":
            return self._called(node, depth)
        if kind == "new_expression":
            return f"{self.resolve(node.child_by_field_name('constructor'), depth + 1)}()"
        if kind in ("this", "super", "import"):
            return kind
        if kind in FUNCTION_VALUES:
            return "<function>"
        return f"<{kind}>"

    def _identifier(self, node: Node, depth: int) -> str:
        name = self.name(node)
        for value in self.values.get(name, ())[:VALUES_MAX]:
            if value.node is None:
                return "?" + ".".join(value.members)
            found = self.resolve(value.node, depth + 1) if value.node.type in _FOLLOWED else ""
            if found and found not in (name, f"?{name}"):
                for member in value.members:
                    found = member if found in GLOBAL_OBJECTS else f"{found}.{member}"
                return found
        return f"?{name}" if self.is_bound(name, node) else name

    def _called(self, node: Node, depth: int) -> str:
        target = node.child_by_field_name("function")
        function = self.resolve(target, depth + 1)
        if function.endswith(".bind"):
            return function.removesuffix(".bind")
        arguments = arguments_of(node)
        if function == "Reflect.get" and len(arguments) > 1:
            base, folded = self.resolve(arguments[0], depth + 1), self.fold(arguments[1], depth + 1)
            word = str(folded.value) if folded is not None else "[?]"
            return word if base in GLOBAL_OBJECTS else f"{base}.{word}"
        if function in ("Object.getPrototypeOf", "Reflect.getPrototypeOf") and arguments:
            return f"{self.resolve(arguments[0], depth + 1)}.[[Prototype]]"
        return f"{function}()" if function else ""

    # ------------------------------------------------------------------ constants
    def string(self, node: Node | None) -> str:
        """The string that ``node`` always is; "" if that cannot be decided."""
        folded = self.fold(node)
        return folded.value if folded is not None and isinstance(folded.value, str) else ""

    def fold(self, node: Node | None, depth: int = 0) -> Folded | None:
        """The constant that ``node`` evaluates to, through ``+``, templates, join, reversal and the usual decoders."""
        if node is None or depth > DEPTH_MAX:
            return None
        if node.id not in self._folded:
            self._folded[node.id] = None
            self._folded[node.id] = self._fold(node, depth)
        return self._folded[node.id]

    def _fold(self, node: Node, depth: int) -> Folded | None:
        kind = node.type
        if kind == "string":
            return Folded(unescaped(self.text(node, FOLDED_MAX)[1:-1]), False)
        if kind == "number":
            return Folded(self.text(node, 40), False)
        if kind == "template_string":
            return self._template(node, depth)
        if kind == "parenthesized_expression":
            return self.fold(node.named_children[-1], depth + 1) if node.named_children else None
        if kind == "identifier":
            values = self.values.get(self.name(node), ())
            return self.fold(values[0].node, depth + 1) if len(values) == 1 and not values[0].members else None
        if kind == "binary_expression":
            operator = node.child_by_field_name("operator")
            if operator is not None and operator.type == "+":
                left = self.fold(node.child_by_field_name("left"), depth + 1)
                right = self.fold(node.child_by_field_name("right"), depth + 1)
                if left is not None and right is not None:
                    return _made(str(left.value) + str(right.value))
            return None
        return self._fold_call(node, depth) if kind == "call_expression" else None

    def _template(self, node: Node, depth: int) -> Folded | None:
        parts: list[str] = []
        at = node.start_byte + 1
        computed = False
        for child in node.named_children:
            if child.type != "template_substitution":
                continue
            inner = self.fold(child.named_children[0], depth + 1) if child.named_children else None
            if inner is None:
                return None
            parts += [unescaped(self.source[at:child.start_byte].decode("utf-8", "replace")), str(inner.value)]
            at = child.end_byte
            computed = True
        parts.append(unescaped(self.source[at:node.end_byte - 1].decode("utf-8", "replace")))
        return _made("".join(parts), computed)

    def _fold_call(self, node: Node, depth: int) -> Folded | None:
        function = node.child_by_field_name("function")
        arguments = arguments_of(node)
        if function is None:
            return None
        name = self.resolve(function, depth + 1)
        first = self.fold(arguments[0], depth + 1) if arguments else None
        if name in ("String.fromCharCode", "String.fromCodePoint"):
            return _characters([self.text(item, 12) for item in arguments])
        if name == "atob" and first is not None:
            try:
                return _made(base64.b64decode(str(first.value)).decode("latin-1"))
            except (ValueError, binascii.Error):
                return None
        if name in ("unescape", "decodeURIComponent") and first is not None:
            return _made(re.sub("%([0-9a-fA-F]{2})", lambda found: chr(int(found[1], 16)), str(first.value)))
        if function.type != "member_expression":
            return None
        return self._fold_method(function, arguments, first, depth)

    def _fold_method(self, function: Node, arguments: list[Node], first: Folded | None, depth: int) -> Folded | None:
        method, base = self.name(function.child_by_field_name("property")), function.child_by_field_name("object")
        if base is None:
            return None
        if method == "join":
            glue = "," if not arguments else str(first.value) if first is not None else None
            parts = self._list(base, depth + 1)
            return _made(glue.join(parts)) if glue is not None and parts is not None else None
        text = self.fold(base, depth + 1)
        if text is None:
            return None
        if method == "concat":
            more = [self.fold(item, depth + 1) for item in arguments]
            known = [str(item.value) for item in more if item is not None]
            return _made(str(text.value) + "".join(known)) if len(known) == len(more) else None
        if method in ("replace", "replaceAll") and len(arguments) == 2 and first is not None:
            return _made(str(text.value).replace(str(first.value), self.string(arguments[1])))
        if method in ("toLowerCase", "toUpperCase", "trim", "toString") and not arguments:
            value = str(text.value)
            return _made({"toLowerCase": value.lower(), "toUpperCase": value.upper(), "trim": value.strip()}.get(
                method, value))
        return None

    def _list(self, node: Node, depth: int) -> list[str] | None:
        """The strings of an array that reading shows: ``["a", "b"]``, ``"ba".split("").reverse()``."""
        if depth > DEPTH_MAX:
            return None
        if node.type == "array":
            parts = [self.fold(item, depth + 1) for item in node.named_children]
            known = [str(part.value) for part in parts if part is not None]
            return known if len(known) == len(parts) else None
        if node.type != "call_expression":
            return None
        function = node.child_by_field_name("function")
        if function is None or function.type != "member_expression":
            return None
        method, base = self.name(function.child_by_field_name("property")), function.child_by_field_name("object")
        if base is None:
            return None
        if method in ("reverse", "toReversed"):
            inner = self._list(base, depth + 1)
            return inner[::-1] if inner is not None else None
        if method == "split":
            text, glue = self.fold(base, depth + 1), self.fold(next(iter(arguments_of(node)), None), depth + 1)
            if text is not None and glue is not None:
                return str(text.value).split(str(glue.value)) if glue.value else list(str(text.value))
        return None

    def decoded_by(self, node: Node) -> str:
        """The decoder or download that the value of ``node`` comes from; "" if none can be seen."""
        waiting, seen = [node], set()
        for _ in range(WALKED_MAX):
            if not waiting:
                break
            inner = waiting.pop()
            if inner.type == "call_expression":
                name = self.resolve(inner.child_by_field_name("function"))
                if name in DECODERS or name.rpartition(".")[2] in _DECODING:
                    return name.lstrip("?") or "a decoder"
            elif inner.type == "identifier" and (name := self.name(inner)) not in seen:
                seen.add(name)
                waiting += [value.node for value in self.values.get(name, ())[:VALUES_MAX] if value.node is not None]
            if inner.type not in FUNCTION_VALUES:  # what a function returns when it is called elsewhere is not followed
                waiting += inner.named_children
        return ""


_FOLLOWED = frozenset({"identifier", "member_expression", "subscript_expression", "call_expression", "this",
                       "parenthesized_expression", "sequence_expression", "await_expression", *FUNCTION_VALUES})


def arguments_of(node: Node) -> list[Node]:
    """The arguments of a call or of ``new``; none for a tagged template."""
    found = node.child_by_field_name("arguments")
    if found is None or found.type != "arguments":
        return []
    return [child for child in found.named_children if child.type != "comment"]


def unescaped(text: str) -> str:
    """What the inside of a literal stands for."""
    return _ESCAPE.sub(_character, text) if "\\" in text else text


def _character(match: re.Match[str]) -> str:
    digits = match[1] or match[2] or match[3]
    if digits:
        number = int(digits, 16)
        return chr(number) if number < 0x110000 else ""
    return _ESCAPED.get(match[4], match[4])


def _made(value: str, computed: bool = True) -> Folded | None:
    return Folded(value, computed) if len(value) <= FOLDED_MAX else None


def _characters(items: list[str]) -> Folded | None:
    try:
        return _made("".join(chr(int(item, 0)) for item in items)) if items else None
    except (ValueError, OverflowError):
        return None
