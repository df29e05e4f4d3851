"""Prose stays plain English: phrases that a native reader reads twice do not come back.

A folder's number in ``ALLOWED`` may only fall. Lower it when you have rewritten a phrase; a folder that is not listed
has none and keeps it so.
"""

from __future__ import annotations

import ast
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import apex_exec

ROOT = Path(apex_exec.__file__).parent.parent
SKIPPED = {"node_modules", ".git", ".venv", "__pycache__", ".ruff_cache", ".mypy_cache", ".pytest_cache"}
PHRASES = re.compile(r"\bso many\b|\bso long\b|\bwhoever\b|\btold\b|"
                     r"(?<!\bthere )\bis no (?!longer\b|more than\b)[a-z]+", re.I)
"""Word for word from another language: "so many" for "this many", "is no name" for "is not a name" (but "there is no"
is English), "told" for "notified" or "reported", "whoever" for the person or part that is meant."""

COMMENT = re.compile(r"(?:^|  ) *#:? (.*)$", re.M)
WORDS = ("so many", "so long", "whoever", "told", "is no ")
"""One of these is in every phrase."""

ALLOWED: dict[str, int] = {
    "tests": 34,
}


def _folder(path: Path) -> str:
    """The room that ``path`` belongs to: a package below ``apex_exec``, else a folder at the top, else "."."""
    parts = path.relative_to(ROOT).parts
    if parts[0] == "apex_exec" and len(parts) > 2:
        return "/".join(parts[:2])
    return parts[0] if len(parts) > 1 else "."


def _prose(path: Path, text: str) -> Iterator[str]:
    """The docstrings and comments of a Python file; all of a page."""
    if path.suffix != ".py":
        yield text
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value
    yield "\n".join(COMMENT.findall(text))


def _pages() -> Iterator[Path]:
    for folder, below, names in os.walk(ROOT):
        below[:] = [name for name in below if name not in SKIPPED and not name.startswith(".venv")]
        yield from (Path(folder, name) for name in names if name.endswith((".py", ".md")))


def _hits(path: Path) -> list[str]:
    text = path.read_text("utf-8")
    flat = " ".join(text.replace("#", " ").lower().split())
    if not any(words in flat for words in WORDS):
        return []  # cheap, and true of most files
    return [f"{path.relative_to(ROOT)}: {found[0]}" for prose in _prose(path, text)
            for found in PHRASES.finditer(re.sub(r"\s+", " ", prose))]


@pytest.fixture(scope="module")
def found() -> list[tuple[str, str]]:
    """(folder, file and phrase) of every hit in the repository but this file's own."""
    return [(_folder(path), hit) for path in sorted(_pages()) if path != Path(__file__) for hit in _hits(path)]


def test_no_folder_has_more_foreign_phrases_than_it_had(found: list[tuple[str, str]]) -> None:
    counts = Counter(folder for folder, _ in found)
    grown = {folder for folder, count in counts.items() if count > ALLOWED.get(folder, 0)}
    assert not grown, [f"{folder}: {hit}" for folder, hit in found if folder in grown]


def test_a_foreign_phrase_is_found_wherever_prose_is(tmp_path: Path) -> None:
    source = '"""Whoever asks."""\nX = "told"\n\n\ndef f():  # so long\n    """It is\n    no name, no longer."""\n'
    assert [PHRASES.findall(re.sub(r"\s+", " ", prose)) for prose in _prose(tmp_path / "a.py", source)] == [
        ["Whoever"], ["is no name"], ["so long"]]
    assert list(_prose(tmp_path / "a.md", "so many")) == ["so many"]
