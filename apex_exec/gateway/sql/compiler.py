"""A plugin's SELECT: bounded, parsed, written anew by ``writer``, and cached. Pure.

``sqlglot`` parses the text (in PostgreSQL's dialect); the text itself never reaches a database. Its size, nesting and
number of tokens are bounded before the parser sees it, because the parser recurses. The parser's steps are bounded,
too, because it tries some readings of nested text twice: 24 brackets would keep it busy for half an hour.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import sqlglot
from msgspec import Struct
from sqlglot import TokenType
from sqlglot.errors import SqlglotError

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql import expressions  # noqa: F401 - registers its rules
from apex_exec.gateway.sql.growth import Growth, Sum, check_likes, check_number, check_work, numbers
from apex_exec.gateway.sql.tables import Table
from apex_exec.gateway.sql.writer import OWNER, PATTERN_CHARACTERS_MAX, Writer

if TYPE_CHECKING:
    from apex_exec.gateway.sql.parser import Parser

TEXT_BYTES_MAX = 16 * 1024
TOKENS_MAX = 1500
NESTING_MAX = 24
"""The most brackets open at one place; the parser itself gives up a little above 50."""
STEPS_PER_TOKEN_MAX = 4
"""The most parser steps per token. Ordinary texts take one to two; each costs some 15 µs of the gateway's thread."""
STEPS_MORE = 200
CACHE_ENTRIES_MAX = 1000
CACHE_BYTES_MAX = 16 * 1024 * 1024
STATEMENT_BYTES_MAX = 256 * 1024
"""The largest text that is sent to the database: each table reference adds the operator's columns."""

logging.getLogger("sqlglot").disabled = True  # it warns about what it does not know, and quotes the plugin's text

_POSTGRES = sqlglot.Dialect.get_or_raise("postgres")


_MISSING = re.compile(r"Required keyword: '\w+' missing for <class '[\w.]+'>")
"""The parser's message for missing text, which names the parser's own classes."""


class _TooManySteps(Exception):
    """The parser goes over the text again and again."""


class _Parser(_POSTGRES.parser_class):  # type: ignore[misc,name-defined]  # sqlglot ships no types
    """sqlglot's parser with a limit on its steps."""

    steps_left = 0

    def _advance(self, times: int = 1) -> None:
        self.steps_left -= 1
        if self.steps_left < 0:
            raise _TooManySteps
        super()._advance(times)


class Compiled(Struct):
    """A statement to run. Its values are the plugin's ``parameters`` followed by ``extra``, which include the caller's
    id."""

    text: str
    parameters: int
    extra: list[Any]
    tables: list[str]
    truths: list[int]
    """The result columns that are booleans: SQLite would return them as 0 and 1."""
    patterns: list[int] = []
    """The numbers of the parameters used in LIKE patterns, once for each use."""
    work: Sum = {}
    """The most that one row may cost, as a function of the parameters' lengths: see ``growth``."""
    likes: list[list[Sum]] = []
    """For each LIKE, the sizes of its text and its pattern."""
    unhashed: list[str] = []
    """The settings of PostgreSQL to switch off for this statement."""
    numbers: list[int] = []
    """The numbers of the parameters that a database may convert to a number and compute with."""

    def values(self, params: list[Any], user_id: str) -> list[Any]:
        """The values of $1, $2, …. Raises ApiFailure if the plugin passed too few or too many."""
        if len(params) != self.parameters:
            raise ApiFailure("sql_parameters", f"the text has {self.parameters} parameters, {len(params)} were passed")
        if sum(len(str(params[number - 1])) for number in self.patterns) > PATTERN_CHARACTERS_MAX:
            raise ApiFailure("too_large", f"a query's LIKE patterns have at most {PATTERN_CHARACTERS_MAX} characters")
        for number in self.numbers:
            check_number(params[number - 1])
        check_work(self.work, params)
        check_likes(self.likes, params)
        return [*params, *(user_id if value is OWNER else value for value in self.extra)]


class Compiler:
    """Compiles texts for one database (``sqlite`` or ``postgres``) and caches the results."""

    def __init__(self, backend: str, tables: Mapping[str, Table]) -> None:
        self._backend = backend
        self._tables = tables
        self._cache_bytes = 0
        self._cache: OrderedDict[tuple[str, tuple[str, ...]], Compiled | ApiFailure] = OrderedDict()

    def compile(self, text: str, named: tuple[str, ...]) -> Compiled:
        """``text`` as it may run for a plugin whose manifest names the tables ``named``. Raises ApiFailure."""
        found = self.known(text, named)
        if found is None:
            found = self.compile_anew(text, named)
            self.remember(text, named, found)
        return _given(found)

    def known(self, text: str, named: tuple[str, ...]) -> Compiled | ApiFailure | None:
        """The cached result for ``text``, or None if it is not cached. Raises ApiFailure: too_large."""
        if len(text) > TEXT_BYTES_MAX or len(text.encode("utf-8", "replace")) > TEXT_BYTES_MAX:
            raise ApiFailure("too_large", f"a query has at most {TEXT_BYTES_MAX} bytes")
        key = (text, named)
        found = self._cache.get(key)
        if found is not None:
            self._cache.move_to_end(key)
        return found

    async def compile_by(self, parser: Parser, plugin: str, share: float, text: str,
                         named: tuple[str, ...]) -> Compiled:
        """As ``compile``, but a text that is not cached is compiled in ``parser``'s process. Raises ApiFailure."""
        found = self.known(text, named)
        if found is None:
            answer = await parser.compile(plugin, share, text, named)
            if answer[0]:
                found = ApiFailure(answer[0], answer[1])
            else:
                statement, parameters, extra, tables, truths, patterns, work, likes, unhashed, reckoned = answer[1:]
                found = Compiled(statement, parameters, [OWNER if value is None else value for value in extra], tables,
                                 truths, patterns, work, likes, unhashed, reckoned)
            self.remember(text, named, found)
        return _given(found)

    def remember(self, text: str, named: tuple[str, ...], found: Compiled | ApiFailure) -> None:
        """Caches the result for ``text``. The least recently used entry is removed."""
        self._remember((text, named), found)

    def _remember(self, key: tuple[str, tuple[str, ...]], found: Compiled | ApiFailure) -> None:
        if key in self._cache:  # two calls had it compiled at the same time
            return
        self._cache[key] = found
        self._cache_bytes += _size(key, found)
        while len(self._cache) > CACHE_ENTRIES_MAX or self._cache_bytes > CACHE_BYTES_MAX:
            self._cache_bytes -= _size(*self._cache.popitem(last=False))

    def compile_anew(self, text: str, named: tuple[str, ...]) -> Compiled | ApiFailure:
        """Compiles ``text`` without the cache. Takes up to 90 ms."""
        try:
            tree = _parse(text)
            writer = Writer(self._backend, self._tables, named, tree)
            statement = writer.finish()
            if len(statement) > STATEMENT_BYTES_MAX:
                raise ApiFailure("too_large", "the query reads too many tables with too many columns")
            growth = Growth(writer.identifier)
            work = growth.of(tree)
            check_work(work, [])
            return Compiled(statement, writer.parameters, writer.extra_values, list(writer.used),
                            writer.truths(), writer.patterns, work, growth.likes, writer.unhashed(), numbers(tree))
        except ApiFailure as failure:
            return failure
        except RecursionError:
            return ApiFailure("sql_forbidden", "the query is nested too deeply")


def _given(found: Compiled | ApiFailure) -> Compiled:
    if isinstance(found, ApiFailure):
        raise ApiFailure(found.code, found.message)
    return found


def _size(key: tuple[str, tuple[str, ...]], found: Compiled | ApiFailure) -> int:
    """The approximate size of one entry, in characters."""
    return len(key[0]) + len(found.text if isinstance(found, Compiled) else found.message)


def _parse(text: str) -> Any:
    """The one statement in ``text``. Raises ApiFailure."""
    try:
        tokens = _POSTGRES.tokenize(text)
        if len(tokens) > TOKENS_MAX:
            raise ApiFailure("too_large", f"a query has at most {TOKENS_MAX} tokens")
        depth = 0
        for token in tokens:
            kind = token.token_type  # not the token's text: a literal may contain a bracket
            if kind in (TokenType.L_BRACKET, TokenType.L_BRACE):  # no rule allows these, and they are slow to parse
                raise ApiFailure("sql_forbidden", f"{token.text} is not allowed here")
            depth += (kind == TokenType.L_PAREN) - (kind == TokenType.R_PAREN)
            if depth > NESTING_MAX:
                raise ApiFailure("sql_forbidden", f"brackets nest at most {NESTING_MAX} deep")
        parser = _Parser(dialect=_POSTGRES, error_level=sqlglot.ErrorLevel.RAISE)
        parser.steps_left = STEPS_PER_TOKEN_MAX * len(tokens) + STEPS_MORE
        trees = parser.parse(tokens, text)
    except _TooManySteps:
        raise ApiFailure("sql_forbidden", "the query is nested in a way that takes too long to read") from None
    except SqlglotError as error:
        first = re.sub(r"\x1b\[\d*m", "", str(error).split("\n")[0])
        raise ApiFailure("sql_syntax", _MISSING.sub("something is missing", first)) from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):  # the parser failed on nonsense
        raise ApiFailure("sql_syntax", "the text cannot be parsed") from None
    if len(trees) != 1 or trees[0] is None:
        raise ApiFailure("sql_forbidden", "a query must be exactly one statement")
    return trees[0]
