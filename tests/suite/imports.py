"""Which file imports which, read from the source: imports inside functions and for type checking count too."""

from __future__ import annotations

import ast
from pathlib import Path

import apex_exec

ROOT = Path(apex_exec.__file__).parent.parent


def sources(*tops: str) -> list[Path]:
    """Every Python file below the folders ``tops`` of the repository, but for plugins that are examples."""
    found = [path for top in tops for path in sorted((ROOT / top).rglob("*.py"))]
    return [path for path in found if not {"node_modules", "plugins", "recipes"} & set(path.parts)]


def module_name(path: Path) -> str:
    """``apex_exec/cli/run.py`` as ``apex_exec.cli.run``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, known: set[str]) -> set[str]:
    """The modules of ``known`` that a file imports; ``from a import b`` is ``a.b`` if that is a module, else ``a``."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in known else node.module
                      for alias in node.names}
    return names


def graph(*tops: str) -> dict[str, set[str]]:
    """Each module of the folders, and those of them that it imports."""
    files = {module_name(path): path for path in sources(*tops)}
    return {name: imported(path, set(files)) & set(files) - {name} for name, path in files.items()}
