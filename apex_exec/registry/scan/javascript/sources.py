"""All rules over the JavaScript files of a bundle, those first that the entry point loads."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping

from tree_sitter import Node

from apex_exec.registry.scan.api_use import ApiUse
from apex_exec.registry.scan.findings import Finding, finding
from apex_exec.registry.scan.javascript.declared import Declared
from apex_exec.registry.scan.javascript.rules import ABSENT, INTRINSICS, FileScan
from apex_exec.registry.scan.javascript.syntax import Tree, arguments_of
from apex_exec.registry.scan.scanner import Request
from apex_exec.registry.scan.text import NAMES_MAX, scan_names

SUFFIXES = (".js", ".mjs", ".cjs")
_WELL_KNOWN = INTRINSICS | ABSENT.keys() | {"eval", "plugin", "fetch", "api", "globalThis"}
_TEST_FOLDER = "tests/"


def scan_sources(texts: Mapping[str, str], request: Request, api: ApiUse) -> Iterator[Finding]:
    """Every finding in the JavaScript files among ``texts``; ``api`` collects the permissions that they use.

    A file that the entry point loads, directly or through others, has to be a module whose imports are in the bundle.
    What no worker loads (tests, the sources that a bundle was built from) may import what it likes.
    """
    sources = [path for path in texts if path.endswith(SUFFIXES)]
    loaded = [request.entrypoint] if request.entrypoint in sources else []
    known = set(loaded)
    for path in loaded:  # grows while it is read
        tree = Tree(request.files[path])
        bad, more = _Imports(path, tree, request).resolved()
        yield from bad
        loaded += sorted(more - known)
        known |= more
        if path == request.entrypoint and request.permissions is not None and not tree.root.has_error:
            yield from Declared(path, tree, request).problems()
        yield from _file(path, texts[path], tree, api, True)
    for path in sources:
        if path not in known:
            yield from _file(path, texts[path], Tree(request.files[path]), api, not loaded)


def _file(path: str, text: str, tree: Tree, api: ApiUse, is_loaded: bool) -> Iterator[Finding]:
    if tree.root.has_error:
        node = tree.first_error()
        words = tree.text(node, 60).split("\n", 1)[0]
        yield finding("unparsable", path, node.start_point[0] + 1,
                      f"this is not valid JavaScript near {words!a} (TypeScript has to be bundled first, by esbuild)")
        return
    scan = FileScan(path, tree, api, is_test=path.startswith(_TEST_FOLDER), is_loaded=is_loaded)
    if not text.isascii():
        yield from scan_names(path, _identifiers(tree), _WELL_KNOWN, "mistaken for")
    for kind in ("import_statement", "export_statement"):
        for node in tree.nodes[kind]:
            if source := tree.string(node.child_by_field_name("source")):
                yield from scan.imported(node, source)
    yield from scan.run()


def _identifiers(tree: Tree) -> dict[str, int]:
    """Name → the first line that it is on."""
    names: dict[str, int] = {}
    for node in tree.nodes["identifier"]:
        if len(names) >= NAMES_MAX:
            break
        name, line = tree.name(node), node.start_point[0] + 1
        names[name] = min(line, names.get(name, line))
    return names


class _Imports:
    """What one loaded file imports."""

    def __init__(self, path: str, tree: Tree, request: Request) -> None:
        self._path = path
        self._tree = tree
        self._request = request

    def resolved(self) -> tuple[list[Finding], set[str]]:
        """(what cannot be loaded, the JavaScript files that are loaded)."""
        bad: list[Finding] = []
        more: set[str] = set()
        is_module = False
        for kind in ("import_statement", "export_statement"):
            for node in self._tree.nodes[kind]:
                is_module = True
                if node.child_by_field_name("source") is not None:
                    self._one(node, self._tree.string(node.child_by_field_name("source")), bad, more)
        for node in self._tree.nodes["call_expression"]:
            target = node.child_by_field_name("function")
            if target is not None and target.type == "import":
                first = next(iter(arguments_of(node)), None)
                if self._tree.fold(first) is not None:
                    self._one(node, self._tree.string(first), bad, more)
        place = None if is_module else self._common_js()
        if place is not None:
            bad.append(finding("common-js", self._path, place.start_point[0] + 1, f"{self._tree.text(place, 80)!a} is "
                               "CommonJS, and a worker loads ES modules"))
        return bad, more

    def _common_js(self) -> Node | None:
        """The first place that only CommonJS has."""
        for kind in ("assignment_expression", "call_expression"):
            for node in self._tree.nodes[kind]:
                field = "left" if kind == "assignment_expression" else "function"
                name = self._tree.resolve(node.child_by_field_name(field))
                if name in ("module.exports", "require") or name.startswith(("module.exports.", "exports.")):
                    return node
        return None

    def _one(self, node: Node, name: str, bad: list[Finding], more: set[str]) -> None:
        if not name.startswith(("./", "../")):
            bad.append(self._at(node, name, _advice(name)))
            return
        path = posixpath.normpath(posixpath.join(posixpath.dirname(self._path), name))
        files = self._request.files
        if path.startswith(("../", "/")) or path == "..":
            said = "it is outside the bundle"
        elif path not in files:
            near = next((f"{path}{end}" for end in (*SUFFIXES, ".json", "/index.js") if f"{path}{end}" in files), "")
            said = f"write the whole name, {near}" if near else "the bundle has no such file"
        elif path.startswith(_TEST_FOLDER):
            said = "tests/ is not loaded into workers"
        else:
            if path.endswith(SUFFIXES):
                more.add(path)
            return
        bad.append(self._at(node, name, said))

    def _at(self, node: Node, name: str, said: str) -> Finding:
        return finding("import-outside", self._path, node.start_point[0] + 1, f"{name[:80]!a}: {said}")


def _advice(name: str) -> str:
    if name == "@apex-exec/plugin":
        return "it has types only: write `import type`, or a JSDoc comment"
    if name.startswith("node:"):
        return "a worker has none of node's modules"
    if "://" in name or name.startswith(("/", "data:")):
        return "a module is loaded from the bundle and from nowhere else"
    return "bundle the package into the entry point, by esbuild"
