"""Counters put into JavaScript source, which say what of it has run.

They are inserted as text at tree-sitter's positions: no line moves, and nothing is printed anew. This is done outside
the jail, so the plugin has no say in what counts: every statement, and every branch (both sides of ``if`` and ``?:``,
the right side of ``&&``, ``||`` and ``??``, defaults, cases, bodies of loops).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from tree_sitter import Node

from apex_exec.registry.scan.javascript.syntax import FUNCTION_VALUES, parse

POINTS_MAX = 200_000
"""How many counters one file may get: 2 MiB of ordinary source get about 100,000."""

_LISTS = frozenset({"program", "statement_block", "switch_case", "switch_default"})
_NOT_COUNTED = frozenset({
    "import_statement", "comment", "hash_bang_line", "html_comment", "function_declaration", "empty_statement",
    "generator_function_declaration", "class_declaration"})
"""Declarations do nothing when they are passed; what is in them is counted."""
_LOOPS = frozenset({"for_statement", "for_in_statement", "while_statement", "do_statement", "with_statement"})
_NAMED = frozenset({*FUNCTION_VALUES, "class"})
"""Values that are given the name of what they are assigned to, unless an expression stands around them."""
_CLOSES, _OPENS = 0, 1


class Unparsable(ValueError):
    """The source is not JavaScript, or has too many statements."""


class Point(NamedTuple):
    """One counter: its line, and whether it counts a branch (else a statement)."""

    line: int
    is_branch: bool


class Counted(NamedTuple):
    """A file with counters. Counter ``i`` belongs to ``points[i]``."""

    source: bytes
    points: list[Point]


Ranges = Sequence[tuple[int, int]]
"""Parts of a source, from one byte to another, in their order."""


def with_counters(source: bytes, path: str, word: str, trapped: frozenset[int] = frozenset(),
                  trap: str = "", left_out: Ranges = ()) -> Counted:
    """Returns ``source`` with counters, in an array that is imported as ``word``: a name that the source cannot know.

    In place of the counters ``trapped``, ``trap`` is called, which is imported as well. What begins in a range of
    ``left_out`` is not counted, and neither is what is in it. Raises Unparsable.
    """
    return _Writer(source, word, trapped, trap, left_out).written(path)


def points_of(source: bytes, left_out: Ranges = ()) -> list[Point]:
    """Returns what is counted in ``source``. Raises Unparsable."""
    return _Writer(source, "c", frozenset(), "", left_out).written("").points


class _Writer:
    def __init__(self, source: bytes, word: str, trapped: frozenset[int], trap: str, left_out: Ranges) -> None:
        self._source = source
        self._word = word
        self._trapped = trapped
        self._trap = trap
        self._left_out = left_out
        self._left_out_from = [begin for begin, _ in left_out]
        self._points: list[Point] = []
        self._inserts: list[tuple[int, int, int, str]] = []
        """(byte, whether it closes or opens, order, text). At one place what closes stands before what opens; of those
        that close the inner stands first, of those that open the outer."""

    def written(self, path: str) -> Counted:
        root = parse(self._source)
        if root.has_error:
            raise Unparsable(f"{path} is not JavaScript")
        waiting = [root]
        while waiting:
            node = waiting.pop()
            self._node(node)
            if len(self._points) > POINTS_MAX:
                raise Unparsable(f"{path} has more than {POINTS_MAX} statements and branches")
            waiting += [child for child in node.named_children if not self._is_left_out(child)]
        parts: list[bytes] = []
        at = 0
        for position, _, _, text in sorted(self._inserts, key=lambda insert: insert[:3]):
            parts += [self._source[at:position], text.encode()]
            at = position
        parts.append(self._source[at:])
        body = b"".join(parts)
        head = f'import{{counters as {self._word}}}from"apex:counters/{len(self._points)}/{path}";'
        if self._trap:
            head += f'import{{{self._trap}}}from"apex:{self._trap}";'
        if body.startswith(b"\xef\xbb\xbf"):
            body = body[3:]
        if body.startswith(b"#!"):
            body = b"//" + body
        return Counted(head.encode() + body, self._points)

    # ------------------------------------------------------------------ places
    def _is_left_out(self, node: Node) -> bool:
        number = bisect_right(self._left_out_from, node.start_byte) - 1
        return number >= 0 and node.start_byte < self._left_out[number][1]

    def _point(self, node: Node, is_branch: bool) -> str:
        """A counter at ``node``. Its line is that of the first statement, if the node is a block of statements or a
        case: the line of the brace or of the label is not what is run, and Node's coverage says the same."""
        number = len(self._points)
        first = next((child for child in node.named_children if child.type != "comment"
                      and child != node.child_by_field_name("value")), node) if node.type in _LISTS else node
        self._points.append(Point(first.start_point[0] + 1, is_branch))
        return f"{self._trap}()" if number in self._trapped else f"{self._word}[{number}]++"

    def _open(self, at: int, text: str) -> None:
        self._inserts.append((at, _OPENS, len(self._inserts), text))

    def _close(self, at: int, text: str) -> None:
        self._inserts.append((at, _CLOSES, -len(self._inserts), text))

    def _body(self, node: Node | None) -> None:
        """Counts that a branch's body is entered; a single statement becomes a block."""
        if node is None:
            return
        if node.type == "statement_block":
            self._open(node.start_byte + 1, self._point(node, True) + ";")
        else:
            self._open(node.start_byte, "{" + self._point(node, True) + ";")
            self._close(node.end_byte, "}")

    def _value(self, node: Node | None, is_branch: bool) -> None:
        """Counts that an expression is evaluated."""
        if node is not None and node.type not in _NAMED:
            self._open(node.start_byte, "(" + self._point(node, is_branch) + ",")
            self._close(node.end_byte, ")")

    # ------------------------------------------------------------------ kinds of nodes
    def _node(self, node: Node) -> None:
        kind = node.type
        if kind in _LISTS:
            self._list(node, kind)
        elif kind == "if_statement":
            self._if(node)
        elif kind in _LOOPS:
            self._body(node.child_by_field_name("body"))
        elif kind == "ternary_expression":
            self._value(node.child_by_field_name("consequence"), True)
            self._value(node.child_by_field_name("alternative"), True)
        elif kind == "binary_expression":
            operator = node.child_by_field_name("operator")
            if operator is not None and operator.type in ("&&", "||", "??"):
                self._value(node.child_by_field_name("right"), True)
        elif kind == "arrow_function":
            body = node.child_by_field_name("body")
            if body is not None and body.type != "statement_block":
                self._value(body, False)
        elif kind in ("assignment_pattern", "object_assignment_pattern"):
            self._value(node.child_by_field_name("right"), True)

    def _list(self, node: Node, kind: str) -> None:
        if kind in ("switch_case", "switch_default"):
            colon = next(child for child in node.children if child.type == ":")
            self._open(colon.end_byte, self._point(node, True) + ";")
        tested = node.child_by_field_name("value") if kind == "switch_case" else None
        for child in node.named_children:
            if (child != tested and child.type not in _NOT_COUNTED and not _is_bare(child)
                    and not self._is_left_out(child)):
                self._open(child.start_byte, self._point(child, False) + ";")

    def _if(self, node: Node) -> None:
        alternative = node.child_by_field_name("alternative")
        if alternative is None:  # before the body, since what comes later closes first
            self._close(node.end_byte, "else{" + self._point(node, True) + "}")
        self._body(node.child_by_field_name("consequence"))
        if alternative is not None:
            self._body([child for child in alternative.named_children if child.type != "comment"][-1])


def _is_bare(node: Node) -> bool:
    """True for a statement that does nothing itself: a directive, an export of a declaration or of names."""
    if node.type == "expression_statement":
        return bool(node.named_children) and node.named_children[0].type == "string"
    if node.type == "export_statement":
        declared = node.child_by_field_name("declaration")
        if declared is not None:
            return declared.type in _NOT_COUNTED
        return node.child_by_field_name("value") is None
    return False
