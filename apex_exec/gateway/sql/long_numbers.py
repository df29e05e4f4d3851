"""Numbers that are short to write and slow to compute with, which are refused before a database converts them. Pure."""

from __future__ import annotations

import re
from typing import Any

from sqlglot import exp

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.allowed import FORMS
from apex_exec.gateway.sql.dialect import OPERATOR

NUMBER_CHARACTERS_MAX = 1000
"""The most characters of a number that is written as a text."""

_SOUNDS_LIKE_A_NUMBER = re.compile(r"\s*+[-+]?[\d._]*+(?:[eE][-+]?[\d_]++)?\s*+")
"""It gives nothing back: between two parts that spaces fit into, 200 kB of them could be divided for minutes."""
_LARGE_EXPONENT = re.compile(r"[eE][-+]?[\d_]{4}")


def check_number(text: Any) -> None:
    """Raises ApiFailure if ``text``, which a database may convert to a number, is a number with thousands of digits."""
    if isinstance(text, str) and too_long_a_number(text):
        raise ApiFailure("sql_parameters", f"a number written as text has at most {NUMBER_CHARACTERS_MAX} characters, "
                                           "and an exponent of three digits; write CAST(… AS text) if it is text")


def too_long_a_number(text: str) -> bool:
    """Whether ``text`` is a number that is slow to compute with."""
    return ((len(text) > NUMBER_CHARACTERS_MAX or _LARGE_EXPONENT.search(text) is not None)
            and _SOUNDS_LIKE_A_NUMBER.fullmatch(text) is not None)


_LONG_INSIDE = re.compile(rf"[0-9][0-9_.]{{{NUMBER_CHARACTERS_MAX},}}|[0-9._][eE][+-]?[0-9_]{{4}}")


def has_long_number(text: str) -> bool:
    """Whether ``text``, the text of an array, may contain a number that is slow to compute with."""
    return _LONG_INSIDE.search(text) is not None


LONG_IN_JSON = r'(^|[\[,:[:space:]])-?[0-9.]+[eE][-+]?[0-9]{4}'
"""In a regular expression of PostgreSQL: a number in JSON that has few characters and very many digits."""
_LONG_IN_JSON = re.compile(r"(?:^|[\[,:\s])-?(?:[0-9.]+[eE][-+]?[0-9]{4}|[0-9][0-9.]{1000})")

_TEXTS = (exp.DPipe, exp.Like, exp.ILike, exp.AtTimeZone, exp.Interval, exp.Escape)
_COMPARED = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.In, exp.Between, exp.Limit, exp.Offset, exp.Any,
             exp.All, exp.Fetch, exp.NullSafeEQ, exp.NullSafeNEQ, exp.Tuple)
_WORDS = frozenset("text constant format unit time json bytes".split())
"""The arguments of functions that are no numbers."""


def check_json(text: Any) -> None:
    """Raises ApiFailure if ``text``, which a database reads as JSON, may have a number of thousands of digits."""
    if isinstance(text, str) and _LONG_IN_JSON.search(text) is not None:
        raise ApiFailure("sql_parameters", f"a number in JSON has at most {NUMBER_CHARACTERS_MAX} digits, and an "
                                           "exponent of three digits")


def _is_text(node: Any, parent: Any) -> bool:
    """Whether ``node`` is an argument of a function that takes it as something else than a number."""
    if not isinstance(parent, exp.Anonymous):
        return False
    if parent.args.get(OPERATOR):
        return True
    form = FORMS.get(str(parent.this).lower())
    place = [number for number, one in enumerate(parent.expressions) if one is node]
    return form is not None and bool(place) and form.word(place[0]) in _WORDS


def numbers(tree: Any) -> list[int]:
    """The parameters that a database may convert to a number. Raises ApiFailure for such a literal."""
    found: dict[int, None] = {}
    for node in tree.find_all(exp.Parameter, exp.Literal):
        parent, inner = node.parent, node
        while isinstance(parent, exp.Paren):
            parent, inner = parent.parent, parent
        if isinstance(parent, (*_TEXTS, *_COMPARED, exp.Parameter)) or _is_text(inner, parent):
            if isinstance(parent, exp.Anonymous) and parent.args.get(OPERATOR) and isinstance(node, exp.Literal):
                check_json(str(node.this))
            continue
        if isinstance(parent, exp.Cast):
            kind = parent.args["to"].this
            if kind in (exp.DataType.Type.JSON, exp.DataType.Type.JSONB) and isinstance(node, exp.Literal):
                check_json(str(node.this))
            if kind == exp.DataType.Type.ARRAY and isinstance(node, exp.Literal) and has_long_number(str(node.this)):
                check_number("9" * (NUMBER_CHARACTERS_MAX + 1))
            if kind != exp.DataType.Type.DECIMAL:
                continue
        if isinstance(node, exp.Parameter):
            found[int(str(node.this.this))] = None
        elif node.is_string:
            check_number(str(node.this))
    return list(found)
