"""What every part of a statement is written from: names, parameters, counters of what is bounded. Pure.

Columns get the prefix ``__`` and sources the prefix ``@_``; results and errors lose them again. For PostgreSQL, ``t.f``
is also the function f of a row of t, and a bare ``t`` is that row. No function and no hidden column has such a name.
Identifiers are folded as PostgreSQL folds them, and always quoted. Strings outside a plain set of characters become
parameters. Numbers are matched before they are written.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from sqlglot import exp

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.rules import RULES, TO_NUMERIC
from apex_exec.gateway.sql.tables import Table
from apex_exec.gateway.sql.wording import COLUMN_PREFIX, SOURCE_PREFIX, form_of, node_name, position, refuse

PARAMETERS_MAX = 100
CONCATENATIONS_MAX = 8
"""The most uses of ||. Each may double a value; one row may grow to 2^8 times a column."""
PATTERN_CHARACTERS_MAX = 1000
"""The most characters of all LIKE patterns in a query. One comparison may cost the text's length times the pattern's,
and neither database checks the clock or a cancellation before it is done."""
NAME_BYTES_MAX = 63 - len(COLUMN_PREFIX)
SORTS_MAX = 16
"""The most aggregates and windows that sort: each has a sort of its own, which may take PostgreSQL's ``work_mem``."""
_WORD = re.compile(r"(?!__)\w[\w $.-]{0,62}")
OWNER = object()
"""Marks the position of the caller's id among the extra values."""


class Inside(Struct, frozen=True):
    """What stands inside the fence of one table beside the owner's condition: see ``inside``."""

    where: tuple[str, ...] = ()
    tail: str = ""
    """ORDER BY and LIMIT, in place of the OFFSET."""


Shapes = Mapping[str, Mapping[str, str]]
"""Table → column → which values it may be compared with inside the fence: see ``inside``."""


class Recursion:
    """A WITH RECURSIVE whose step is being written."""

    def __init__(self, word: str, made: str, columns: tuple[str, ...], depth: int = 0) -> None:
        self.word = word
        self.made = made
        self.columns = columns
        self.depth = depth
        """How many CTEs were visible before it: one of the same name that is opened later is meant instead."""
        self.reads = 0


PLAIN_TEXT = re.compile(r"[A-Za-z0-9 _.,:@/+%-]{0,200}")
_INSTEAD = {exp.RegexpLike: "LIKE, ILIKE, starts_with or strpos", exp.SimilarTo: "LIKE or ILIKE",
            exp.RegexpILike: "ILIKE", exp.Glob: "LIKE", exp.If: "CASE WHEN … THEN … ELSE … END",
            exp.CurrentUser: "no condition: all rows are the caller's", exp.CurrentTime: "now()",
            exp.SessionUser: "no condition: all rows are the caller's", exp.Localtime: "LOCALTIMESTAMP",
            exp.Collate: "lower(…), or order the rows in the plugin", exp.Dot: "the function without a schema",
            exp.RawString: "'…' or E'…'", exp.BitString: "a number", exp.HexString: "a parameter with bytes"}


class Pieces:
    """What a statement is made of, and what is known of it so far."""

    def __init__(self, backend: str, tables: Mapping[str, Table], named: tuple[str, ...], tree: Any,
                 shapes: Shapes | None = None) -> None:
        self.lite = backend == "sqlite"
        self.shapes = shapes or {}
        self._inside: list[dict[str, Inside]] = []
        """What stands inside the fences of the SELECTs that are being written, the innermost last."""
        self.kinds: Mapping[int, str] = {}
        """The types of values on SQLite, by the id of their nodes: see ``sqlite_types``."""
        self.guarded = False
        """Whether the statement fails if one of its tables is a view by now."""
        self._tables = tables
        self._named = named
        self._tree = tree
        self._quote = "`" if self.lite else '"'  # SQLite treats an unknown "name" as a string, but never a `name`
        self._scopes: list[dict[str, str]] = []
        self._columns_of: dict[str, tuple[str, ...]] = {}
        """The columns of recursive CTEs, by the names that we have made for them."""
        self._made = 0
        self._subqueries = 0
        self._weighed = 0
        """The number of sources so far, each CTE put in place of its name."""
        self._weights: dict[str, int] = {}
        """The number of sources in each CTE, by the name that we have made for it."""
        self._concatenations = 0
        self._in_pattern = False
        self._joined = 0
        """The number of joins, queries in FROM, CTEs that are used, INs and EXISTS."""
        self._compared_whole = False
        """Whether the query has an EXCEPT or INTERSECT."""
        self._pattern_characters = 0
        self._sorts = 0
        self._recursive: list[Recursion] = []
        self.patterns: list[int] = []
        self.lists: set[int] = set()
        """The numbers of the parameters that may be lists."""
        self.structured: set[int] = set()
        """The numbers of the parameters that are JSON."""
        self.formats: list[int] = []
        """The numbers of the parameters that are formats of ``to_char`` and the like."""
        self.used: dict[str, None] = {}
        self.extra_values: list[Any] = []
        self._callers: dict[str, str] = {}
        """The parameters with the caller's id, by table."""
        self.uses = Counter(self.number(node) for node in tree.find_all(exp.Parameter))
        """How often the text uses each parameter."""
        numbers = self.uses.keys()
        self.parameters = max(numbers, default=0)
        if numbers != set(range(1, self.parameters + 1)):
            raise ApiFailure("sql_parameters", "parameters must be numbered $1, $2, … without a gap")

    def kind(self, node: Any) -> str:
        """The type of a value on SQLite, if it is known."""
        return self.kinds.get(id(node), "")

    @staticmethod
    def number(node: Any) -> int:
        """The n of a parameter $n."""
        digits = node.this.this if isinstance(node.this, exp.Literal) and not node.this.is_string else ""
        if not re.fullmatch(r"[1-9]\d{0,2}", str(digits)) or int(digits) > PARAMETERS_MAX:
            raise ApiFailure("sql_parameters", f"a query can have the parameters $1 to ${PARAMETERS_MAX}")
        return int(digits)

    def write(self, node: Any) -> str:
        """``node`` written by its rule. Raises ApiFailure if it has no rule, or a part that its rule does not name."""
        rule = RULES.get(type(node))
        if rule is None:
            instead = _INSTEAD.get(type(node), "")
            raise refuse(node_name(node), instead, node, named=isinstance(node, exp.Func) and not instead)
        self.only(node, *rule.parts)
        return rule.write(self, node)

    def all(self, nodes: list[Any] | None) -> str:
        """A comma-separated list of at least one item."""
        if not nodes:
            raise ApiFailure("sql_syntax", "a list may not be empty")
        return ", ".join(map(self.write, nodes))

    def identifier(self, node: Any) -> str:
        """The folded name of an Identifier."""
        if type(node) is not exp.Identifier or not isinstance(node.this, str):
            raise refuse(f"{node_name(node)} as a name")
        word: str = node.this if node.args.get("quoted") else node.this.lower()
        if not _WORD.fullmatch(word) or len(word.encode()) > NAME_BYTES_MAX:
            raise refuse(f"the name {word[:63]!r}")
        return word

    def quoted(self, word: str) -> str:
        """``word``, already checked, in the database's quotes."""
        return f"{self._quote}{word}{self._quote}"

    def name(self, node: Any) -> str:
        """The Identifier of a column, as the database is to see it."""
        return self.quoted(COLUMN_PREFIX + self.identifier(node))

    def source_name(self, word: str) -> str:
        """The name of a source, folded and checked, as the database is to see it."""
        return self.quoted(SOURCE_PREFIX + word)

    def extra(self, value: Any) -> str:
        """A parameter of ours for ``value``; equal values share one parameter."""
        if value not in self.extra_values:
            self.extra_values.append(value)
        return f"${self.parameters + self.extra_values.index(value) + 1}"

    def text(self, value: str) -> str:
        """``value`` as a literal if its characters are plain, otherwise as a parameter of ours."""
        return f"'{value}'" if PLAIN_TEXT.fullmatch(value) else self.extra(value)

    def numeric(self, node: Any) -> str:
        """``node`` as numeric, whatever it is: see ``expressions``."""
        return TO_NUMERIC[0](self, node)

    def only_postgres(self, what: str, node: Any = None) -> ApiFailure:
        """The failure for what SQLite cannot do as PostgreSQL does."""
        return ApiFailure("sql_not_on_sqlite", f"{what} is not available on SQLite{position(node)}: it would not give "
                                               "PostgreSQL's answer; apex_exec/gateway/sql/README.md lists what is")

    def sorted(self, node: Any) -> None:
        """Counts one more sort."""
        self._sorts += 1
        if self._sorts > SORTS_MAX:
            raise refuse(f"more than {SORTS_MAX} windows, DISTINCT aggregates and ordered aggregates",
                         "fewer of them, or two queries", node)

    def made(self) -> str:
        """A name that no plugin can have chosen: a plugin's names may not begin with two underscores."""
        self._made += 1
        return f"__{self._made}"

    @staticmethod
    def only(node: Any, *parts: str) -> None:
        """Raises if ``node`` has a part other than ``parts``."""
        for part, value in node.args.items():
            if part not in parts and value not in (None, False, [], ""):
                nodes = [one for one in (value if isinstance(value, list) else [value])
                         if isinstance(one, exp.Expression)]
                raise refuse(", ".join(map(node_name, nodes)) or f"{node.key.upper()} with {part.strip('_')}")

    def concatenated(self, count: int) -> None:
        """Counts ``count`` more concatenations. Inside a pattern, the pattern's own bound covers them."""
        if self._in_pattern:
            return
        self._concatenations += count
        if self._concatenations > CONCATENATIONS_MAX:
            raise refuse(f"more than {CONCATENATIONS_MAX} uses of ||", "concat")

    def pattern(self, node: Any) -> str:
        """The pattern of a LIKE: literals and parameters only, because the length of anything else is not known."""
        waiting = [node]
        while waiting:
            part = waiting.pop()
            if isinstance(part, exp.DPipe):
                waiting += [part.this, part.expression]
            elif isinstance(part, exp.Paren | exp.Cast):
                waiting.append(part.this)
            elif isinstance(part, exp.Anonymous) and (form := form_of(part)) and form.cost == "letters":
                waiting += part.expressions
            elif isinstance(part, exp.Literal):
                self._pattern_characters += len(str(part.this))
            elif isinstance(part, exp.Parameter):
                self.patterns.append(self.number(part))
            elif not isinstance(part, exp.Null):
                raise refuse("a LIKE pattern that is not made of literals and parameters")
        if self._pattern_characters > PATTERN_CHARACTERS_MAX:
            raise ApiFailure("too_large", f"a query's LIKE patterns have at most {PATTERN_CHARACTERS_MAX} characters")
        self._in_pattern = True
        text = self.write(node)
        self._in_pattern = False
        return text

    def query(self, node: Any) -> str:
        """A SELECT or a set operation, without brackets around it."""
        raise NotImplementedError
