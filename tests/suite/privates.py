"""What tests look at that is not public: private attributes of others, and parts that they replace."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PUBLIC = frozenset(("_asdict", "_fields", "_replace", "_mapping", "_exit", "_base_executable"))
"""Documented names of libraries that begin with an underscore so as not to collide with a user's own."""


def accesses(path: Path) -> Iterator[tuple[int, str]]:
    """(line, what) of each access: ``x._name``, import of such a name, ``monkeypatch.setattr``, ``__setattr__``."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute):
            owner = node.value
            own = isinstance(owner, ast.Name) and owner.id in ("self", "cls") or _is_super(owner)
            private = node.attr.startswith("_") and not node.attr.endswith("__") and node.attr not in PUBLIC
            if private and not own:
                yield node.lineno, node.attr
            elif node.attr == "__setattr__" or node.attr == "setattr" and isinstance(owner, ast.Name):
                yield node.lineno, f"{ast.unparse(owner)}.{node.attr}"
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.startswith("_"))


def _is_super(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"
