"""Prose stays plain English: phrases that a native reader reads twice do not come back.

No folder has any of them now: rewrite a phrase that this test finds.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import apex_exec

ROOT = Path(apex_exec.__file__).parent.parent
SKIPPED = {"node_modules", ".git", ".venv", "__pycache__", ".ruff_cache", ".mypy_cache", ".pytest_cache"}
PHRASES = re.compile(r"\bso many\b|\bso long\b|\bwhoever\b|\btold\b|"
                     r"(?<!\bthere )\bis no (?!longer\b|more than\b)[a-z]+|"
                     r"(?<!\bfor )(?<!\bof )\bwhom\b|\bwhat became of\b|"
                     r"\bas far as\b[^.]{1,60}?\b(?:told|tells?)\b", re.I)
"""Word for word from another language: "so many" for "this many", "is no name" for "is not a name" (but "there is no"
is English), "told" for "notified" or "reported", "whoever" for the person or part that is meant, "whom" for the same
(but "the users for whom" is English), "what became of" for "the outcome of", "as far as it is told" for "if it
knows"."""

COMMENT = re.compile(r"(?:^|  ) *#:? (.*)$", re.M)
WORDS = ("so many", "so long", "whoever", "told", "is no ", "whom", "what became of", "as far as")
"""One of these is in every phrase."""


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


def test_no_page_and_no_docstring_has_a_foreign_phrase() -> None:
    assert not [hit for path in sorted(_pages()) if path != Path(__file__) for hit in _hits(path)]


def _messages(path: Path) -> Iterator[str]:
    """What a Python file may show to a person: its texts of several words, without the docstrings."""
    tree = ast.parse(path.read_text("utf-8"))
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


def test_no_message_of_the_code_has_a_foreign_phrase(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text('"""Whoever."""\nraise ValueError(f"{1} is no name")\n', "utf-8")
    assert list(_messages(tmp_path / "a.py")) == [" is no name"]
    paths = [*(ROOT / "apex_exec").rglob("*.py"), *(ROOT / "workers").rglob("*.py")]
    assert not [f"{path.relative_to(ROOT)}: {text[:80]}" for path in paths if not SKIPPED & set(path.parts)
                for text in _messages(path) if " " in text.strip() and PHRASES.search(text)]


def test_a_foreign_phrase_is_found_wherever_prose_is(tmp_path: Path) -> None:
    source = '"""Whoever asks."""\nX = "told"\n\n\ndef f():  # so long\n    """It is\n    no name, no longer."""\n'
    assert [PHRASES.findall(re.sub(r"\s+", " ", prose)) for prose in _prose(tmp_path / "a.py", source)] == [
        ["Whoever"], ["is no name"], ["so long"]]
    assert list(_prose(tmp_path / "a.md", "so many")) == ["so many"]
    assert PHRASES.findall("Asks whom. The users for whom it runs, and what became of one, as far as it can tell.") == [
        "whom", "what became of", "as far as it can tell"]
