"""How refusals and results name the parts of a plugin's text: as the author wrote them, with their place. Pure."""

from __future__ import annotations

import re
from typing import Any

from sqlglot import exp
from sqlglot.errors import ErrorLevel, SqlglotError

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.allowed import FORMS, Form
from apex_exec.gateway.sql.dialect import OPERATOR

COLUMN_PREFIX = "__"
"""The prefix of every column name that a query returns or uses; a plugin's own names may not begin with it."""
SOURCE_PREFIX = "@_"
"""The prefix of every source, so that a source never has the name of a column."""
NAMED_CHARACTERS_MAX = 60
_MARKED = re.compile(r"@_|\b__(?=[^\W\d])")


def refuse(what: str, instead: str = "", node: Any = None, *, named: bool = False) -> ApiFailure:
    """The failure for a text that contains ``what`` at ``node``. ``instead`` is what the author may use.

    ``named``: point to the list of all that is allowed."""
    hint = f"; use {instead}" if instead else ""
    if named:
        hint = "; the functions that are allowed are listed in apex_exec/gateway/sql/README.md"
    return ApiFailure("sql_forbidden", f"{what} is not allowed here{position(node)}{hint}")


def position(node: Any) -> str:
    """Where ``node`` begins in the text, if the parser noted it for one of its parts."""
    if not isinstance(node, exp.Expression):
        return ""
    places = [(one.meta["line"], one.meta["col"] - (one.meta["end"] - one.meta["start"])) for one in node.walk()
              if {"line", "col", "start", "end"} <= one.meta.keys()]
    return " (line {}, column {})".format(*min(places)) if places else ""


def is_text(node: Any) -> bool:
    """Whether ``node`` is a text that the author has written out."""
    return type(node) is exp.Literal and bool(node.is_string)


def form_of(node: Any) -> Form | None:
    """The function that ``node`` calls, if it is a call of one that is allowed."""
    while isinstance(node, exp.Window | exp.Filter | exp.WithinGroup):
        node = node.this
    if not isinstance(node, exp.Anonymous) or node.args.get(OPERATOR):
        return None
    return FORMS.get(node.this.this if isinstance(node.this, exp.Identifier) else str(node.this).lower())


def result_name(item: Any) -> str:
    """The name that a column gets if the author gives it none; empty if none is its own."""
    if isinstance(item, exp.Exists):
        return "exists"
    if isinstance(item, exp.Case):
        return "case"
    form = form_of(item)
    return form.name if form is not None else ""


def plain_names(text: str) -> str:
    """``text`` from a database (an error, or a column's name) with the plugin's own names restored."""
    return _MARKED.sub("", text)


def node_name(node: Any) -> str:
    """What a message calls ``node``: its text as an author may have written it, one line of NAMED_CHARACTERS_MAX."""
    if isinstance(node, exp.RawString):
        return "a text in $$"
    if isinstance(node, exp.If):
        return "if(…)"
    try:
        text = ""
        if isinstance(node, exp.Anonymous) and node.args.get(OPERATOR):
            text = f" {node.this} ".join(map(node_name, node.expressions))
        text = text or node.sql(dialect="postgres", unsupported_level=ErrorLevel.IGNORE)
    # sqlglot failed to write it
    except (AssertionError, AttributeError, LookupError, TypeError, ValueError, SqlglotError):
        text = node.key.upper()
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= NAMED_CHARACTERS_MAX else f"{text[:NAMED_CHARACTERS_MAX]}…"
