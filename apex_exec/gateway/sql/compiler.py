"""A plugin's SELECT: bounded, parsed, written anew by ``writer``, and cached.

``dialect`` parses the text; the text itself never reaches a database.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql import expressions, functions, inside  # noqa: F401 - they register their rules
from apex_exec.gateway.sql.allowed import FORMAT_CHARACTERS_MAX
from apex_exec.gateway.sql.bounds import Sum, check_likes, check_work, work_with
from apex_exec.gateway.sql.dialect import parse
from apex_exec.gateway.sql.growth import Growth
from apex_exec.gateway.sql.kinds import Declared, declared
from apex_exec.gateway.sql.long_numbers import check_json, check_number, numbers
from apex_exec.gateway.sql.pieces import OWNER, PATTERN_CHARACTERS_MAX, Shapes
from apex_exec.gateway.sql.sqlite_values import check_output, fitting, fitting_list, limits
from apex_exec.gateway.sql.tables import Table
from apex_exec.gateway.sql.values import as_json, as_list, check_parameter
from apex_exec.gateway.sql.writer import Writer

if TYPE_CHECKING:
    from apex_exec.gateway.sql.parser import Parser

TEXT_BYTES_MAX = 16 * 1024
LIGHT_BYTES_MAX = 2 * 1024 * 1024
"""The most work of one row of a statement that may run where others wait for it: about a millisecond."""
CACHE_ENTRIES_MAX = 1000
CACHE_BYTES_MAX = 16 * 1024 * 1024
ENTRY_BYTES = 2000
"""What an entry takes beside its texts."""
Key = tuple[str, tuple[str, ...], int]
"""The text, the tables that the plugin may see, the version of what the database says of them."""
STATEMENT_BYTES_MAX = 256 * 1024
"""The largest text that is sent to the database: each table reference adds the operator's columns."""


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
    lists: list[int] = []
    """The numbers of the parameters that may be lists."""
    structured: list[int] = []
    """The numbers of the parameters that are JSON: a text, a map or a list."""
    formats: list[int] = []
    """The numbers of the parameters that are formats of ``to_char`` and the like."""
    lite: bool = False
    """Whether it is for SQLite."""
    columns: str = ""
    """The columns of its tables that the plugin may see, for messages."""
    kinds: list[str] = []
    """The types of the result's columns on SQLite: see ``sqlite_types``."""
    needs: dict[int, list[str]] = {}
    """What each parameter has to be on SQLite: see ``sqlite_types``."""
    guarded: bool = False
    """Whether it fails with ``column_not_allowed`` if one of its tables has become a view: see ``inside``."""
    passing: bool = False
    """Whether the types of its columns could not be read now: the text is compiled anew the next time."""
    slow_until_ns: int = 0
    """Until when (CLOCK_MONOTONIC) it is not tried where others wait for it, since it has taken long there."""

    def is_light(self, values: list[Any], now_ns: int) -> bool:
        """Whether it may run where others wait for it, if its time is bounded: no single row takes long."""
        return now_ns >= self.slow_until_ns and not self.likes and work_with(self.work, values) <= LIGHT_BYTES_MAX

    def values(self, params: list[Any], user_id: str) -> list[Any]:
        """The values of $1, $2, …. Raises ApiFailure if the plugin passed too few or too many."""
        if len(params) != self.parameters:
            raise ApiFailure("sql_parameters", f"the query uses {self.parameters} parameters, and {len(params)} were "
                                               "passed")
        if sum(len(str(params[number - 1])) for number in self.patterns) > PATTERN_CHARACTERS_MAX:
            raise ApiFailure("too_large", f"a query's LIKE patterns have at most {PATTERN_CHARACTERS_MAX} characters")
        if any(len(str(params[number - 1])) > FORMAT_CHARACTERS_MAX for number in self.formats):
            raise ApiFailure("too_large", f"a format has at most {FORMAT_CHARACTERS_MAX} characters")
        values = [self._value(number, value) for number, value in enumerate(params, 1)]
        for number in self.numbers:
            check_number(values[number - 1])
        check_work(self.work, values)
        check_likes(self.likes, values)
        return [*values, *(user_id if value is OWNER else value for value in self.extra)]


    def _value(self, number: int, value: Any) -> Any:
        """A parameter as the database is to have it: a list as the text of an array, a map as JSON."""
        if number in self.structured:
            text = as_json(check_parameter(value, structured=True))
            check_json(text)
            return text
        needed = self.needs.get(number, [])
        if isinstance(value, list) and number in self.lists:
            return as_list(fitting_list(number, value, needed), lite=self.lite)
        checked = check_parameter(value, structured=False)
        return fitting(number, checked, needed) if self.lite else checked

    def failure(self, found: ApiFailure) -> ApiFailure:
        """``found``, which the database reported, with the columns that there are if the text names another."""
        if found.code != "column_not_allowed" or not self.columns or self.columns in found.message:
            return found
        return ApiFailure(found.code, f"{found.message}; this plugin's columns: {self.columns}")


class Compiler:
    """Compiles texts for one database (``sqlite``, in the file ``path``, or ``postgres``) and caches the results.

    A plan depends on the text, the dialect, and the tables that a plugin may see: plugins that see the same share it.
    """

    def __init__(self, backend: str, tables: Mapping[str, Table], path: str = "") -> None:
        self._backend = backend
        self._path = path
        self._tables = tables
        self._shapes: Shapes = {}
        self._version = 0
        self._cache_bytes = 0
        self._cache: OrderedDict[Key, Compiled | ApiFailure] = OrderedDict()

    def show(self, version: int, shapes: Shapes) -> bool:
        """Takes what the database says of its tables; whether that is another ``version`` than before.

        Plans that were made for another one are forgotten."""
        if version == self._version:
            return False
        self._version, self._shapes = version, shapes
        self._cache.clear()
        self._cache_bytes = 0
        return True

    def compile(self, text: str, named: tuple[str, ...]) -> Compiled:
        """``text`` as it may run for a plugin whose manifest names the tables ``named``. Raises ApiFailure."""
        key = self._key(text, named)
        found = self._known(key)
        if found is None:
            found = self.compile_anew(text, named, self._shapes)
            self._remember(key, found)
        return _given(found)

    def known(self, text: str, named: tuple[str, ...]) -> Compiled | None:
        """What ``text`` was compiled to; None if it would have to be compiled now, or cannot be. Raises ApiFailure."""
        found = self._known(self._key(text, named))
        return None if isinstance(found, ApiFailure) else found

    async def compile_by(self, parser: Parser, plugin: str, share: float, text: str,
                         named: tuple[str, ...]) -> Compiled:
        """As ``compile``, but a text that is not cached is compiled in ``parser``'s process. Raises ApiFailure."""
        key = self._key(text, named)
        found = self._known(key)
        if found is None:
            shapes = {name: self._shapes[name] for name in key[1] if name in self._shapes}
            answer = await parser.compile(plugin, share, text, key[1], shapes)
            if answer[0]:
                found = ApiFailure(answer[0], answer[1])
            else:
                found = Compiled(*answer[1:])
                found.extra = [OWNER if value is None else value for value in found.extra]
            self._remember(key, found)
        return _given(found)

    def _key(self, text: str, named: tuple[str, ...]) -> Key:
        """Raises ApiFailure: too_large."""
        if len(text) > TEXT_BYTES_MAX or len(text.encode("utf-8", "replace")) > TEXT_BYTES_MAX:
            raise ApiFailure("too_large", f"the query is longer than {TEXT_BYTES_MAX} bytes, which is the limit")
        return text, tuple(sorted(name for name in set(named) if name in self._tables)), self._version

    def _known(self, key: Key) -> Compiled | ApiFailure | None:
        found = self._cache.get(key)
        if found is not None:
            self._cache.move_to_end(key)
        return found

    def _remember(self, key: Key, found: Compiled | ApiFailure) -> None:
        """Caches the result for ``key``. The least recently used entries are removed.

        A result is not kept if the types of its tables could not be read, or if they have changed meanwhile."""
        if isinstance(found, Compiled) and found.passing or key[2] != self._version:
            return
        if key in self._cache:  # two calls had it compiled at the same time
            return
        self._cache[key] = found
        self._cache_bytes += _size(key, found)
        while len(self._cache) > CACHE_ENTRIES_MAX or self._cache_bytes > CACHE_BYTES_MAX:
            self._cache_bytes -= _size(*self._cache.popitem(last=False))

    def compile_anew(self, text: str, named: tuple[str, ...], shapes: Shapes) -> Compiled | ApiFailure:
        """Compiles ``text`` without the cache. Takes up to 90 ms. SQLite's shapes are read from its file."""
        try:
            tree = parse(text)
            lite = self._backend == "sqlite"
            found = declared(self._path, {name: self._tables[name] for name in named if name in self._tables}
                             ) if lite and self._path else Declared({}, {})
            writer = Writer(self._backend, self._tables, named, tree, found.shapes if lite else shapes)
            statement = writer.finish()
            if len(statement) > STATEMENT_BYTES_MAX:
                raise ApiFailure("too_large", "the query reads too many columns of too many tables; split it")
            kinds = self._kinds(found, writer.used) if lite else None
            growth = Growth(writer.identifier, kinds)
            work = growth.of(tree)
            check_work(work, [])
            typer = growth.typer
            if typer is not None:
                check_output(growth.kinds, tree)
                limits(tree, typer.needs)
                writer = Writer(self._backend, self._tables, named, tree, found.shapes)
                writer.kinds = typer.kinds
                statement = writer.finish()
            return Compiled(statement, writer.parameters, writer.extra_values, list(writer.used),
                            writer.truths(), writer.patterns, work, growth.likes, writer.unhashed(), numbers(tree),
                            sorted(writer.lists), sorted(writer.structured), writer.formats,
                            lite, self._columns(writer.used), growth.kinds if typer is not None else [],
                            {number: sorted(kinds) for number, kinds in (typer.needs if typer else {}).items()},
                            writer.guarded,
                            lite and bool(self._path) and not all(map((kinds or {}).get, writer.used)))
        except ApiFailure as failure:
            return failure
        except RecursionError:
            return ApiFailure("sql_forbidden", "the query is nested too deeply")

    def _kinds(self, found: Declared, used: Mapping[str, None]) -> dict[str, dict[str, str]]:
        """The kinds of the columns that a plugin sees, in the operator's order: those of a star."""
        return {name: {column: found.kinds[name].get(column, "") for column in self._tables[name].columns}
                for name in used if found.kinds.get(name)}

    def _columns(self, used: Mapping[str, None]) -> str:
        """``orders(id, item, …), users(…)``."""
        return ", ".join(f"{name}({', '.join(self._tables[name].columns)})" for name in used)


def _given(found: Compiled | ApiFailure) -> Compiled:
    if isinstance(found, ApiFailure):
        raise ApiFailure(found.code, found.message)
    return found


def _size(key: Key, found: Compiled | ApiFailure) -> int:
    """The approximate size of one entry in memory, in bytes."""
    if isinstance(found, ApiFailure):
        return ENTRY_BYTES + len(key[0]) + len(found.message)
    sums = [found.work, *(one for pair in found.likes for one in pair)]
    return (ENTRY_BYTES + len(key[0]) + len(found.text) + len(found.columns) + 200 * sum(map(len, sums))
            + sum(64 + len(str(value)) for value in found.extra))
