"""Finds code that was copied: runs of statements of the same shape, whatever their names and literals are."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

NODES_MIN = 40
"""Of the syntax tree: four or five ordinary lines. Below it, what has the same shape is an idiom."""


class Place(NamedTuple):
    """A run of statements."""

    file: str
    function: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.file}:{self.first}-{self.last} ({self.function})"


def shape(node: ast.AST) -> tuple[str, int]:
    """The node without names and literals (but with the attributes and keywords that it uses), and its size."""
    parts, size = [type(node).__name__], 1
    if isinstance(node, ast.Attribute):
        parts.append(node.attr)
    if isinstance(node, ast.keyword):
        parts.append(node.arg or "")
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr_context):
            continue
        text, count = shape(child)
        parts.append(text)
        size += count
    return f"({' '.join(parts)})", size


def functions(tree: ast.AST, within: str = "") -> Iterator[tuple[str, list[ast.stmt]]]:
    """Each function's qualified name and body, without its docstring."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{within}.{node.name}".lstrip(".")
            if not isinstance(node, ast.ClassDef):
                yield name, node.body[1:] if ast.get_docstring(node) is not None else node.body
            yield from functions(node, name)
        else:
            yield from functions(node, within)


def blocks(body: list[ast.stmt]) -> Iterator[list[ast.stmt]]:
    """The body, and every block inside it."""
    yield body
    for statement in body:
        for field in ("body", "orelse", "finalbody"):
            inner = getattr(statement, field, None)
            if isinstance(inner, list) and inner and isinstance(inner[0], ast.stmt) \
                    and not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from blocks(inner)
        for handler in getattr(statement, "handlers", []):
            yield from blocks(handler.body)


def copies(paths: list[Path], root: Path) -> list[list[Place]]:
    """Groups of places with the same shape, the longest runs only."""
    found: dict[tuple[str, ...], dict[Place, int]] = defaultdict(dict)
    for path in paths:
        for name, body in functions(ast.parse(path.read_text("utf-8"))):
            for block in blocks(body):
                shapes = [shape(statement) for statement in block]
                for start in range(len(block)):
                    size = 0
                    for end in range(start, len(block)):
                        size += shapes[end][1]
                        if size >= NODES_MIN:
                            key = tuple(text for text, _ in shapes[start:end + 1])
                            place = Place(path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name,
                                          name, block[start].lineno, block[end].end_lineno or 0)
                            found[key][place] = size
    groups = [sorted(places) for _, places in sorted(found.items(), key=lambda item: -max(item[1].values()))
              if len(places) > 1]
    kept: list[list[Place]] = []
    for group in groups:  # from the largest: a run inside a run that was found already is nothing new
        inside = any(len(group) <= len(larger) and all(any(
            one.file == other.file and other.first <= one.first and one.last <= other.last for other in larger)
            for one in group) for larger in kept)
        if not inside:
            kept.append(group)
    return kept
