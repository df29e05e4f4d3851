"""What the entry point's default export declares, compared with the manifest as far as reading shows it.

What reading does not show (a spread, a computed key, the result of a call) is left to the probe, which loads the code
in its jail and asks.
"""

from __future__ import annotations

from collections.abc import Iterator

from tree_sitter import Node

from apex_exec.registry.scan.findings import Finding, finding
from apex_exec.registry.scan.javascript.syntax import FUNCTION_VALUES, Tree, arguments_of
from apex_exec.registry.scan.scanner import Request

HOOKS_MAX = 100
FOLLOWED_MAX = 10
_CLASSES = frozenset({"class_declaration", "class"})
_NO_FUNCTIONS = {"string": "text", "template_string": "text", "number": "a number", "true": "true", "false": "false",
                 "null": "null", "undefined": "undefined", "array": "an array", "object": "an object",
                 "regex": "a regular expression", "class": "a class", "class_declaration": "a class"}
_SHAPE = "export default { id, version, permissions, hooks: { … } }"


class Declared:
    """The default export of one file."""

    def __init__(self, path: str, tree: Tree, request: Request) -> None:
        self.path = path
        self._tree = tree
        self._request = request

    def problems(self) -> Iterator[Finding]:
        """Every difference, and whatever the platform could not load."""
        node, is_there = self._default()
        if not is_there:
            yield finding("not-a-plugin", self.path, 1, "the entry point has no default export")
            return
        if node is None:
            return  # it comes from another file
        value = self._followed(node)
        if value.type in _CLASSES or value.type in FUNCTION_VALUES:
            kind = "class" if value.type in _CLASSES else "function"
            yield self._at("not-a-plugin", value, f"the default export is a {kind}: write {_SHAPE}")
        elif value.type in _NO_FUNCTIONS and value.type != "object":
            yield self._at("not-a-plugin", value, f"the default export is {_NO_FUNCTIONS[value.type]}: write {_SHAPE}")
        elif value.type == "object":
            yield from self._object(value)

    def _at(self, rule: str, node: Node, message: str) -> Finding:
        return finding(rule, self.path, node.start_point[0] + 1, message)

    def _default(self) -> tuple[Node | None, bool]:
        """The expression that is exported as default, and whether there is one; (None, True) if it is elsewhere."""
        for node in self._tree.nodes["export_statement"]:
            if any(child.type == "default" for child in node.children):
                return node.child_by_field_name("value") or node.child_by_field_name("declaration"), True
            source = node.child_by_field_name("source")
            for clause in node.named_children:
                if clause.type != "export_clause":
                    continue
                for item in clause.named_children:
                    name, alias = item.child_by_field_name("name"), item.child_by_field_name("alias")
                    if self._tree.key(alias or name) == "default":
                        return (None if source is not None else name), True
        return None, False

    def _followed(self, node: Node) -> Node:
        """What an expression is, through names with one value, brackets and ``Object.freeze``."""
        for _ in range(FOLLOWED_MAX):
            if node.type in ("identifier", "shorthand_property_identifier"):
                values = self._tree.values.get(self._tree.name(node), ())
                found = values[0].node if len(values) == 1 and not values[0].members else None
            elif node.type == "parenthesized_expression":
                found = node.named_children[-1] if node.named_children else None
            elif node.type == "call_expression" and self._tree.resolve(
                    node.child_by_field_name("function")) == "Object.freeze":
                found = next(iter(arguments_of(node)), None)
            else:
                return node
            if found is None:
                return node
            node = found
        return node

    def _members(self, value: Node) -> tuple[dict[str, Node], bool]:
        """Key → what is given to it, and whether all keys can be seen."""
        found: dict[str, Node] = {}
        whole = True
        for child in value.named_children:
            if child.type == "pair":
                key, given = self._tree.key(child.child_by_field_name("key")), child.child_by_field_name("value")
            elif child.type == "method_definition":
                key, given = self._tree.key(child.child_by_field_name("name")), child
            elif child.type == "shorthand_property_identifier":
                key, given = self._tree.name(child), child
            elif child.type == "comment":
                continue
            else:
                key, given = "[?]", None
            if key == "[?]" or given is None:
                whole = False
            else:
                found[key] = given
        return found, whole

    def _object(self, value: Node) -> Iterator[Finding]:
        members, whole = self._members(value)
        for key, wanted in (("id", self._request.id), ("version", self._request.version)):
            if key not in members:
                continue
            said = self._tree.string(self._followed(members[key]))
            if said and said != wanted:
                yield self._at("declaration-differs", members[key],
                               f"the code declares {key} {said[:60]!a}, the manifest {wanted!a}")
        if "permissions" in members:
            yield from self._permissions(members["permissions"])
        if "hooks" in members:
            yield from self._hooks(members["hooks"])
        elif whole:
            yield self._at("not-a-plugin", value, f"the default export has no hooks: write {_SHAPE}")

    def _permissions(self, node: Node) -> Iterator[Finding]:
        value = self._followed(node)
        if value.type != "array":
            return
        said = [self._tree.string(item) for item in value.named_children if item.type != "comment"]
        if all(said):
            yield from self._differences(node, "permission", set(said), set(self._request.permissions or ()))

    def _hooks(self, node: Node) -> Iterator[Finding]:
        value = self._followed(node)
        if value.type in FUNCTION_VALUES or value.type in _NO_FUNCTIONS and value.type != "object":
            yield self._at("not-a-plugin", node, "hooks is not an object of functions")
        if value.type != "object":
            return
        members, whole = self._members(value)
        if whole and not members:
            yield self._at("not-a-plugin", node, "the plugin has no hooks")
        for name, given in list(members.items())[:HOOKS_MAX]:
            kind = self._followed(given).type
            if kind in _NO_FUNCTIONS:
                yield self._at("not-a-plugin", given, f"the hook {name[:60]!a} is {_NO_FUNCTIONS[kind]}, no function")
        if whole and members:
            yield from self._differences(node, "hook", set(members), set(self._request.hooks))

    def _differences(self, node: Node, what: str, said: set[str], wanted: set[str]) -> Iterator[Finding]:
        for item in sorted(said - wanted):
            yield self._at("declaration-differs", node,
                           f"the code declares the {what} {item[:60]!a}, but the manifest does not")
        for item in sorted(wanted - said):
            yield self._at("declaration-differs", node,
                           f"the manifest declares the {what} {item[:60]!a}, but the code does not")
