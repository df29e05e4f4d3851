"""Works out what the expressions of a source file stand for without running it: names through aliases, and strings
through concatenation and decoding. The work is bounded and has no side effects: nothing is imported, and no
code of the source runs."""

from __future__ import annotations

import ast
import base64
import binascii
import codecs
import zlib
from collections.abc import Iterator

DEPTH_MAX = 25
VALUES_MAX = 16
"""How many assignments to one name are followed."""
FOLDED_MAX = 200_000
"""The longest string that is put together; hostile source may ask for terabytes."""

BUILTINS = frozenset({
    "eval", "exec", "compile", "__import__", "open", "getattr", "setattr", "delattr", "vars", "globals", "locals",
    "breakpoint", "input", "__builtins__", "object", "type", "chr", "bytes", "bytearray", "print", "memoryview",
})
DECODERS = frozenset({
    "base64.b64decode", "base64.standard_b64decode", "base64.urlsafe_b64decode", "base64.b32decode",
    "base64.b16decode", "base64.b85decode", "base64.a85decode", "base64.decodebytes", "binascii.unhexlify",
    "binascii.a2b_hex", "binascii.a2b_base64", "codecs.decode", "zlib.decompress", "gzip.decompress",
    "bz2.decompress", "lzma.decompress", "marshal.loads", "bytes.fromhex", "bytearray.fromhex", "quopri.decodestring",
})


class Folded:
    """A constant that was put together: its value, and whether that took more than a plain literal."""

    __slots__ = ("computed", "value")

    def __init__(self, value: str | bytes, computed: bool) -> None:
        self.value = value
        self.computed = computed


class Names:
    """The aliases and single assignments of one module, whatever their scope: over-approximate on purpose."""

    def __init__(self, tree: ast.AST) -> None:
        self._modules: dict[str, str] = {}
        self._resolved: dict[ast.AST, str] = {}
        self._folded: dict[ast.AST, Folded | None] = {}
        self._values: dict[str, list[ast.expr]] = {}
        self.imports: list[tuple[str, int]] = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for item in node.names:
                    self.imports.append((item.name, node.lineno))
                    self._modules[item.asname or item.name.partition(".")[0]] = (
                        item.name if item.asname else item.name.partition(".")[0])
            elif isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                self.imports.append((module, node.lineno))
                for item in node.names:
                    self._modules[item.asname or item.name] = f"{module}.{item.name}"
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    self._assign(target, node.value)
            elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
                self._assign(node.target, node.value)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self._values.setdefault(target.id, []).append(value)
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            for inner, part in zip(target.elts, value.elts, strict=True):
                self._assign(inner, part)

    def values(self, name: str) -> list[ast.expr]:
        """Every expression that is assigned to ``name`` anywhere in the module."""
        return self._values.get(name, [])

    # ------------------------------------------------------------------ dotted names
    def resolve(self, node: ast.AST, depth: int = 0) -> str:
        """The dotted name that ``node`` stands for, such as ``os.system``; "" if that cannot be decided."""
        if depth > DEPTH_MAX:
            return ""
        if node not in self._resolved:
            self._resolved[node] = ""  # the answer for a name that refers to itself, while it is being resolved
            self._resolved[node] = self._resolve(node, depth)
        return self._resolved[node]

    def _resolve(self, node: ast.AST, depth: int) -> str:
        if isinstance(node, ast.Name):
            return self._name(node.id, depth)
        if isinstance(node, ast.Attribute):
            base = self.resolve(node.value, depth + 1)
            return _join(base, node.attr)
        if isinstance(node, ast.Call):
            return self._call(node, depth)
        if isinstance(node, ast.Subscript):
            return self._subscript(node, depth)
        return ""

    def _name(self, name: str, depth: int) -> str:
        if name in self._modules:
            return self._modules[name]
        for value in self.values(name)[:VALUES_MAX]:
            if isinstance(value, ast.Name | ast.Attribute | ast.Call | ast.Subscript):
                found = self.resolve(value, depth + 1)
                if found and found != name:
                    return found
        return name if name in BUILTINS else ""

    def _call(self, node: ast.Call, depth: int) -> str:
        function = self.resolve(node.func, depth + 1)
        text = self.text(node.args[0]) if node.args else ""
        if function in ("__import__", "importlib.import_module", "importlib.__import__") and text:
            return text
        if function == "getattr" and len(node.args) >= 2 and (name := self.text(node.args[1])):
            return _join(self.resolve(node.args[0], depth + 1) or "?", name)
        if function in ("vars", "globals", "locals"):
            return self.resolve(node.args[0], depth + 1) if node.args else "builtins"
        return f"{function}()" if function else ""

    def _subscript(self, node: ast.Subscript, depth: int) -> str:
        key, base = self.text(node.slice), self.resolve(node.value, depth + 1)
        if not key or not base:
            return ""
        if base == "sys.modules":
            return key
        if base.rpartition(".")[2] in ("__dict__", "__globals__"):
            base = base.rpartition(".")[0]
        return _join(base, key)

    # ------------------------------------------------------------------ constants
    def text(self, node: ast.AST) -> str:
        """The string that ``node`` always is; "" if that cannot be decided."""
        folded = self.fold(node)
        return folded.value if folded is not None and isinstance(folded.value, str) else ""

    def fold(self, node: ast.AST, depth: int = 0) -> Folded | None:
        """The constant that ``node`` evaluates to, through ``+``, join, reversal, chr and the usual decoders."""
        if depth > DEPTH_MAX:
            return None
        if node not in self._folded:
            self._folded[node] = None
            self._folded[node] = self._fold(node, depth)
        return self._folded[node]

    def _fold(self, node: ast.AST, depth: int) -> Folded | None:
        if isinstance(node, ast.Constant):
            return Folded(node.value, False) if isinstance(node.value, str | bytes) else None
        if isinstance(node, ast.Name):
            values = self.values(node.id)
            return self.fold(values[0], depth + 1) if len(values) == 1 else None
        if isinstance(node, ast.BinOp):
            return self._fold_operator(node, depth)
        if isinstance(node, ast.JoinedStr):
            parts = [self.fold(p.value if isinstance(p, ast.FormattedValue) else p, depth + 1) for p in node.values]
            texts = [p.value for p in parts if p is not None and isinstance(p.value, str)]
            return _made("".join(texts)) if texts and len(texts) == len(parts) else None
        if isinstance(node, ast.Subscript) and _is_reversal(node.slice):
            inner = self.fold(node.value, depth + 1)
            return _made(inner.value[::-1]) if inner is not None else None
        if isinstance(node, ast.Call):
            return self._fold_call(node, depth)
        return None

    def _fold_operator(self, node: ast.BinOp, depth: int) -> Folded | None:
        left, right = self.fold(node.left, depth + 1), self.fold(node.right, depth + 1)
        if isinstance(node.op, ast.Add) and left is not None and right is not None:
            if isinstance(left.value, str) and isinstance(right.value, str):
                return _made(left.value + right.value)
            if isinstance(left.value, bytes) and isinstance(right.value, bytes):
                return _made(left.value + right.value)
        if isinstance(node.op, ast.Mod) and left is not None and isinstance(left.value, str):
            items = node.right.elts if isinstance(node.right, ast.Tuple) else [node.right]
            folded = [self.fold(item, depth + 1) for item in items]
            texts = [f.value for f in folded if f is not None and isinstance(f.value, str)]
            if texts and len(texts) == len(items) == left.value.count("%s") == left.value.count("%"):
                return _made(left.value.replace("%s", "{}").format(*texts) if "{" not in left.value else left.value)
        return None

    def _fold_call(self, node: ast.Call, depth: int) -> Folded | None:
        function = node.func
        name = self.resolve(function, depth + 1)
        argument = node.args[0] if node.args else None
        if name == "chr" and isinstance(argument, ast.Constant) and isinstance(argument.value, int):
            return _made(chr(argument.value)) if 0 <= argument.value < 0x110000 else None
        if name in ("bytes", "bytearray") and isinstance(argument, ast.List | ast.Tuple):
            return _numbers(argument.elts)
        if argument is not None and name in DECODERS:
            inner = self.fold(argument, depth + 1)
            return _decode(name, inner.value, self.text(node.args[1]) if len(node.args) > 1 else "") if inner else None
        if not isinstance(function, ast.Attribute):
            return None
        if function.attr == "join" and argument is not None:
            return self._fold_join(function.value, argument, depth)
        base = self.fold(function.value, depth + 1)
        if base is None:
            return None
        if function.attr == "decode" and isinstance(base.value, bytes):
            return Folded(base.value.decode("utf-8", "replace"), base.computed)
        if function.attr == "encode" and isinstance(base.value, str):
            return Folded(base.value.encode("utf-8", "replace"), base.computed)
        if function.attr in ("lower", "upper", "strip", "swapcase") and not node.args:
            return _made(getattr(base.value, function.attr)())
        if function.attr == "replace" and len(node.args) == 2 and isinstance(base.value, str):
            return _made(base.value.replace(self.text(node.args[0]) or "\0", self.text(node.args[1])))
        return None

    def _fold_join(self, separator: ast.expr, argument: ast.expr, depth: int) -> Folded | None:
        glue = self.fold(separator, depth + 1)
        if glue is None or not isinstance(glue.value, str):
            return None
        if isinstance(argument, ast.Call) and self.resolve(argument.func) == "" and argument.args \
                and isinstance(argument.func, ast.Name) and argument.func.id in ("map", "reversed"):
            inner = argument.args[-1]
            if argument.func.id == "reversed":
                text = self.text(inner)
                return _made(text[::-1]) if text else None
            if isinstance(inner, ast.List | ast.Tuple) and self.resolve(argument.args[0]) == "chr":
                made = _numbers(inner.elts, characters=True)
                return made
        if isinstance(argument, ast.GeneratorExp | ast.ListComp):
            source = argument.generators[0].iter
            if isinstance(source, ast.List | ast.Tuple) and isinstance(argument.elt, ast.Call) \
                    and self.resolve(argument.elt.func) == "chr":
                return _numbers(source.elts, characters=True)
            return None
        if isinstance(argument, ast.List | ast.Tuple):
            parts = [self.fold(item, depth + 1) for item in argument.elts]
            texts = [p.value for p in parts if p is not None and isinstance(p.value, str)]
            return _made(glue.value.join(texts)) if len(texts) == len(parts) else None
        return None

    def is_decoded(self, node: ast.AST, depth: int = 0, seen: frozenset[str] = frozenset()) -> str:
        """The decoder, download or file that the value of ``node`` comes from; "" if none can be seen."""
        for inner in _bounded_walk(node):
            if isinstance(inner, ast.Call):
                name = self.resolve(inner.func)
                if name in DECODERS:
                    return name
                attribute = inner.func.attr if isinstance(inner.func, ast.Attribute) else ""
                if attribute in ("fromhex", "decompress", "recv", "urlopen", "b64decode", "unhexlify"):
                    return attribute
                if attribute == "join" and inner.args and isinstance(inner.args[0], ast.GeneratorExp | ast.ListComp) \
                        and any(self.resolve(part.func) == "chr" for part in ast.walk(inner.args[0])
                                if isinstance(part, ast.Call)):
                    return "chr"
                if name.startswith(("urllib.request.", "requests.", "socket.", "http.client.")):
                    return name
            elif isinstance(inner, ast.Subscript) and _is_reversal(inner.slice):
                return "[::-1]"
            elif isinstance(inner, ast.Name) and inner.id not in seen and depth < 6:
                for value in self.values(inner.id)[:8]:
                    if found := self.is_decoded(value, depth + 1, seen | {inner.id}):
                        return found
        return ""


def _bounded_walk(node: ast.AST) -> Iterator[ast.AST]:
    for count, inner in enumerate(ast.walk(node)):
        if count > 2000:
            return
        yield inner


def _join(base: str, name: str) -> str:
    if not base:
        return ""
    return name if base in ("builtins", "__builtins__") else f"{base}.{name}"


def _made(value: str | bytes) -> Folded | None:
    return Folded(value, True) if len(value) <= FOLDED_MAX else None


def _is_reversal(node: ast.expr) -> bool:
    return (isinstance(node, ast.Slice) and node.lower is None and node.upper is None
            and isinstance(node.step, ast.UnaryOp) and isinstance(node.step.op, ast.USub)
            and isinstance(node.step.operand, ast.Constant) and node.step.operand.value == 1)


def _numbers(items: list[ast.expr], characters: bool = False) -> Folded | None:
    values = [item.value for item in items if isinstance(item, ast.Constant) and isinstance(item.value, int)]
    if not values or len(values) != len(items) or not all(0 <= v < (0x110000 if characters else 256) for v in values):
        return None
    return _made("".join(map(chr, values)) if characters else bytes(values))


def _decode(name: str, value: str | bytes, argument: str) -> Folded | None:
    data = value.encode("utf-8", "replace") if isinstance(value, str) else value
    try:
        if name == "codecs.decode":
            if argument.replace("-", "").replace("_", "") == "rot13" and isinstance(value, str):
                return _made(codecs.decode(value, "rot13"))
            if argument.startswith(("hex", "base64")):
                return _made(codecs.decode(data, argument))
            return None
        if name.endswith("fromhex"):
            return _made(bytes.fromhex(data.decode("ascii")))
        if name == "zlib.decompress":
            return _made(zlib.decompressobj().decompress(data, FOLDED_MAX))
        if name.startswith("base64.") and hasattr(base64, name[7:]):
            return _made(getattr(base64, name[7:])(data))
        if name in ("binascii.unhexlify", "binascii.a2b_hex"):
            return _made(binascii.unhexlify(data))
    except (ValueError, binascii.Error, zlib.error, LookupError, TypeError):
        return None
    return None
