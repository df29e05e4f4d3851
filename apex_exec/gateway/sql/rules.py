"""The rules by which nodes are written: the files of rules register them here, and the writer looks them up. Pure.

**A node without a rule, or with a part that its rule does not name, is refused**: whatever sqlglot learns to parse
tomorrow is refused until somebody writes a rule for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from msgspec import Struct
from sqlglot import exp

T = TypeVar("T")


class Rule(Struct, frozen=True):
    """How one kind of node is written, and which parts it may have."""

    write: Callable[[Any, Any], str]
    parts: tuple[str, ...]


RULES: dict[type, Rule] = {}
SHARED: dict[str, Callable[..., Any]] = {}
"""What a file of rules writes for the writer, too, by the function's name: that file imports this one."""


def rule(kinds: str, parts: str = "") -> Callable[[Callable[[Any, Any], str]], Callable[[Any, Any], str]]:
    """Registers how nodes of the named sqlglot classes are written, and which parts they may have."""

    def register(write: Callable[[Any, Any], str]) -> Callable[[Any, Any], str]:
        for kind in kinds.split():
            RULES[getattr(exp, kind)] = Rule(write, tuple(parts.split()))
        return write

    return register


def shared(write: Callable[..., T]) -> Callable[..., T]:
    """Registers a function that the writer calls by its name in SHARED."""
    SHARED[write.__name__] = write
    return write


TO_NUMERIC: list[Callable[[Any, Any], str]] = []
"""How ``expressions`` writes a cast to numeric; the rules register themselves there."""
