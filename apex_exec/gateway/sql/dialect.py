"""Reads one statement in PostgreSQL's dialect with ``sqlglot``, bounded. Pure.

Functions stay as the author wrote them (``exp.Anonymous``, whose name ``allowed`` knows), and so do PostgreSQL's JSON
operators; sqlglot's own classes for them differ from release to release and between dialects. What sqlglot reads and
PostgreSQL does not (``FROM`` first, ``LIMIT 1, 2``, pipes, comparisons of comparisons) is a syntax error.

The text's size, nesting and number of tokens are bounded before the parser sees it, because the parser recurses. The
parser's steps are bounded, too, because it tries some readings of nested text twice: 24 brackets would keep it busy for
half an hour.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import sqlglot
from sqlglot import TokenType, exp
from sqlglot.errors import SqlglotError

from apex_exec.gateway.failure import ApiFailure

TOKENS_MAX = 1500
NESTING_MAX = 24
"""The most brackets open at one place; the parser itself gives up a little above 50."""
STEPS_PER_TOKEN_MAX = 4
"""The most parser steps per token. Ordinary texts take one to two; each costs some 15 µs of the gateway's thread."""
STEPS_MORE = 200

logging.getLogger("sqlglot").disabled = True  # it warns about what it does not know, and quotes the plugin's text


class _Dialect(type(sqlglot.Dialect.get_or_raise("postgres"))):  # type: ignore[misc]  # sqlglot ships no types
    INDEX_OFFSET = 0  # an index into an array stays as it is written


_DIALECT = _Dialect()
_BASE: Any = sqlglot.Dialect.get_or_raise("postgres").parser_class

_MISSING = re.compile(r"Required keyword: '\w+' missing for <class '[\w.]+'>")
"""The parser's message for missing text, which names the parser's own classes."""

OPERATOR = "operator"
"""The part of an ``exp.Anonymous`` that marks it as an operator, whose two sides are its expressions."""


class _TooManySteps(Exception):
    """The parser goes over the text again and again."""


def call(name: str, *arguments: Any) -> Any:
    """The call of a function."""
    return exp.Anonymous(this=name, expressions=[one for one in arguments if one is not None])


def _operator(symbol: str) -> Callable[[Any, Any, Any], Any]:
    return lambda parser, left, right: exp.Anonymous(this=symbol, expressions=[left, right], **{OPERATOR: True})


def _ranged(symbol: str) -> Callable[[Any, Any], Any]:
    return lambda parser, left: exp.Anonymous(this=symbol, expressions=[left, parser._parse_bitwise()],
                                              **{OPERATOR: True})


def _trim(parser: Any) -> Any:
    node = parser._parse_trim()
    name = {"LEADING": "ltrim", "TRAILING": "rtrim"}.get(str(node.args.get("position") or ""), "btrim")
    if node.args.get("collation") is not None:
        parser.raise_error("COLLATE is not allowed in trim")
    return call(name, node.this, node.args.get("expression"))


def _substring(parser: Any) -> Any:
    node = parser._parse_substring()
    return call("substring", node.this, node.args.get("start"), node.args.get("length"))


def _position(parser: Any) -> Any:
    needle = parser._parse_bitwise()
    if not parser._match(TokenType.IN):
        parser.raise_error("Expected: position(text IN text)")
    return call("position", parser._parse_bitwise(), needle)


def _extract(parser: Any) -> Any:
    unit = parser._advance_any()
    if unit is None or not parser._match(TokenType.FROM):
        parser.raise_error("Expected: extract(field FROM time)")
    return call("extract", exp.Literal.string(unit.text.lower()), parser._parse_bitwise())


class _Parser(_BASE):  # type: ignore[misc]  # sqlglot ships no types
    """sqlglot's parser with functions as they are written, and a limit on its steps."""

    FUNCTIONS: Any = {}
    FUNCTION_PARSERS: Any = {"CAST": _BASE.FUNCTION_PARSERS["CAST"], "TRIM": _trim, "SUBSTRING": _substring,
                             "POSITION": _position, "EXTRACT": _extract}
    LAMBDAS: Any = {}
    JSON_OPERATORS: Any = {
        TokenType.ARROW: _operator("->"), TokenType.DARROW: _operator("->>"), TokenType.HASH_ARROW: _operator("#>"),
        TokenType.DHASH_ARROW: _operator("#>>"), TokenType.PLACEHOLDER: _operator("?"),
        TokenType.QMARK_PIPE: _operator("?|"), TokenType.QMARK_AMP: _operator("?&"), TokenType.AT_GT: _operator("@>"),
        TokenType.LT_AT: _operator("<@"), TokenType.DAMP: _operator("&&")}
    RANGE_PARSERS: Any = {kind: parse for kind, parse in _BASE.RANGE_PARSERS.items()
                          if kind not in (TokenType.AT_GT, TokenType.LT_AT, TokenType.DAMP, TokenType.QMARK_PIPE,
                                          TokenType.QMARK_AMP)}

    steps_left = 0

    def _advance(self, times: int = 1) -> None:
        self.steps_left -= 1
        if self.steps_left < 0:
            raise _TooManySteps
        super()._advance(times)


_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE)


def parse(text: str) -> Any:
    """The one statement in ``text``. Raises ApiFailure."""
    try:
        tokens = _DIALECT.tokenize(text)
        if len(tokens) > TOKENS_MAX:
            raise ApiFailure("too_large", f"the query has more than {TOKENS_MAX} tokens, which is the limit; split it")
        _check_tokens(tokens)
        parser = _Parser(dialect=_DIALECT, error_level=sqlglot.ErrorLevel.RAISE)
        parser.steps_left = STEPS_PER_TOKEN_MAX * len(tokens) + STEPS_MORE
        trees = parser.parse(tokens, text)
    except _TooManySteps:
        raise ApiFailure("sql_forbidden",
                         "the query is nested in a way that takes too long to parse; simplify it") from None
    except SqlglotError as error:
        first = re.sub(r"\x1b\[\d*m", "", str(error).split("\n")[0])
        raise ApiFailure("sql_syntax", _MISSING.sub("something is missing", first)) from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):  # the parser failed on nonsense
        raise ApiFailure("sql_syntax", "the query cannot be parsed") from None
    if len(trees) != 1 or trees[0] is None:
        raise ApiFailure("sql_forbidden", "the text must be exactly one statement")
    return _plain(trees[0])


_BEFORE_BRACKETS = (TokenType.ARRAY, TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.VAR, TokenType.IDENTIFIER)


def _at(token: Any) -> str:
    return f"line {token.line}, column {token.col - len(token.text) + 1}"


def _check_tokens(tokens: list[Any]) -> None:
    """Raises ApiFailure for brackets that nest too deeply, and for what PostgreSQL does not read."""
    depth = 0
    opened, closed = (TokenType.L_PAREN, TokenType.L_BRACKET), (TokenType.R_PAREN, TokenType.R_BRACKET)
    for number, token in enumerate(tokens):
        kind = token.token_type  # not the token's text: a literal may contain a bracket
        after = [one.token_type for one in tokens[number + 1 : number + 4]]
        depth += (kind in opened) - (kind in closed)
        if depth > NESTING_MAX:
            raise ApiFailure("sql_forbidden", f"brackets nest at most {NESTING_MAX} deep")
        before = tokens[number - 1].token_type if number else None
        if kind == TokenType.L_BRACKET and before not in _BEFORE_BRACKETS and after[:1] != [TokenType.R_BRACKET]:
            raise ApiFailure("sql_forbidden", f"[ is not allowed here ({_at(token)}); use ARRAY[…]")
        if kind in (TokenType.L_BRACE, TokenType.R_BRACE, TokenType.PIPE_GT):
            raise ApiFailure("sql_forbidden", f"{token.text} is not allowed here ({_at(token)})")
        if kind == TokenType.FROM and (number == 0 or tokens[number - 1].token_type == TokenType.L_PAREN):
            raise ApiFailure("sql_syntax", f"a query begins with SELECT, WITH or VALUES, not with FROM ({_at(token)})")
        if kind == TokenType.LIMIT and (after[1:2] == [TokenType.COMMA] or after[2:3] == [TokenType.COMMA]
                                        and after[:1] == [TokenType.PARAMETER]):
            raise ApiFailure("sql_syntax", f"LIMIT takes one number; write LIMIT … OFFSET … ({_at(token)})")


def _plain(tree: Any) -> Any:
    """``tree`` with E'…' as the text that it means. Raises ApiFailure for comparisons that PostgreSQL does not read."""
    for node in list(tree.find_all(exp.ByteString)):
        text = exp.Literal.string(str(node.this))
        if node is tree:
            return text
        node.replace(text)
    for node in list(tree.find_all(exp.Anonymous)):
        word = str(node.this).upper()
        if word in ("ALL", "SOME") and len(node.expressions) == 1 and node is not tree:
            node.replace((exp.All if word == "ALL" else exp.Any)(this=node.expressions[0]))
    for node in tree.find_all(*_COMPARISONS):
        if isinstance(node.this, _COMPARISONS) or isinstance(node.expression, _COMPARISONS):
            raise ApiFailure("sql_syntax", "a comparison of comparisons needs brackets: (a = b) = c")
    return tree
