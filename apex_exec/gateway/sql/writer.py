"""Writes a parsed SELECT anew, node by node, so that it can only see the caller's rows. Pure.

**A node without a rule, or with a part that its rule does not name, is refused**: whatever sqlglot learns to parse
tomorrow is refused until somebody writes a rule for it. This file has the rules for what a query reads from (tables,
CTEs, joins, set operations); the rules for values are in ``expressions``.

- A table reference becomes a subquery over the operator's columns of that table, limited to rows whose owner is the
  caller. It contains ``OFFSET 0``: if a planner moved the plugin's own conditions below the owner's, an error
  (1 / (salary - 1000)) would reveal other users' rows. A reference to a CTE becomes a name that we generate, so that a
  mistake about scopes ends in "no such table" and never in a table.
- Columns get the prefix ``__`` and sources the prefix ``@_``; results and errors lose them again. For PostgreSQL,
  ``t.f`` is also the function f of a row of t, and a bare ``t`` is that row. No function and no hidden column has such
  a name.
- Identifiers are folded as PostgreSQL folds them, and always quoted. Strings outside a plain set of characters become
  parameters. Numbers are matched before they are written. Every operation gets its own brackets, because the two
  databases do not agree about precedence.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from msgspec import Struct
from sqlglot import exp
from sqlglot.errors import ErrorLevel, SqlglotError

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.allowed import FORMS, PAIRS, Form
from apex_exec.gateway.sql.dialect import OPERATOR
from apex_exec.gateway.sql.tables import Table

PARAMETERS_MAX = 100
CONCATENATIONS_MAX = 8
"""The most uses of ||. Each may double a value; one row may grow to 2^8 times a column."""
SUBQUERIES_MAX = 64
SOURCES_MAX = 500
"""The most sources in FROM that a query comes to if each CTE is put in place of its name, as a planner may do: a few
hundred bytes of CTEs that read each other twice come to millions, and neither database looks at the clock while it
plans. A dashboard comes to some 30."""
PATTERN_CHARACTERS_MAX = 1000
"""The most characters of all LIKE patterns in a query. One comparison may cost the text's length times the pattern's,
and neither database checks the clock or a cancellation before it is done."""
CONCATENATIONS_BESIDE_LIKE_MAX = 3
"""The most uses of || outside the patterns of a query with a LIKE, so that the compared text stays small, too."""
COLUMN_PREFIX = "__"
"""The prefix of every column name that a query returns or uses; a plugin's own names may not begin with it."""
SOURCE_PREFIX = "@_"
"""The prefix of every source, so that a source never has the name of a column."""
NAME_BYTES_MAX = 63 - len(COLUMN_PREFIX)

NAMED_CHARACTERS_MAX = 60
SORTS_MAX = 16
"""The most aggregates and windows that sort: each has a sort of its own, which may take PostgreSQL's ``work_mem``."""
GROUPING_SETS_MAX = 64
VALUES_MAX = 1000
SERIES_ROWS_MAX = 10_000
"""The most rows of one ``generate_series``: some 27 years of days. More is an error, at once."""
DEPTH_MAX = 100
"""The most steps of one WITH RECURSIVE: a tree's depth, not its size. One more is an error."""
STEP_BYTES_MAX = 64 * 1024
"""The most bytes of a row that a step of WITH RECURSIVE starts from: a text that doubles would grow without end."""

_WORD = re.compile(r"(?!__)\w[\w $.-]{0,62}")

MEMBERS_BYTES_MAX = 32 * 1024 * 1024
"""The most bytes that a query in IN may return, counting ROW_BYTES extra for each row."""
ROW_BYTES = 64
_PLAIN = (exp.Select, exp.From, exp.Table, exp.TableAlias, exp.Identifier, exp.Column, exp.Alias, exp.Literal,
          exp.Parameter, exp.Where, exp.And, exp.Or, exp.Not, exp.Paren, exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT,
          exp.LTE, exp.Is, exp.Null, exp.Boolean, exp.Between, exp.In, exp.Like, exp.ILike, exp.Limit, exp.Offset,
          exp.Order, exp.Ordered)

_MARKED = re.compile(r"@_|\b__(?=[^\W\d])")

OWNER = object()
"""Marks the position of the caller's id among the extra values."""


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


T = TypeVar("T")


class Rule(Struct, frozen=True):
    """How one kind of node is written, and which parts it may have."""

    write: Callable[[Writer, Any], str]
    parts: tuple[str, ...]


RULES: dict[type, Rule] = {}
SHARED: dict[str, Callable[..., Any]] = {}
"""What a file of rules writes for the writer, too, by the function's name: that file imports this one."""


def rule(kinds: str, parts: str = "") -> Callable[[Callable[[Writer, Any], str]], Callable[[Writer, Any], str]]:
    """Registers how nodes of the named sqlglot classes are written, and which parts they may have."""

    def register(write: Callable[[Writer, Any], str]) -> Callable[[Writer, Any], str]:
        for kind in kinds.split():
            RULES[getattr(exp, kind)] = Rule(write, tuple(parts.split()))
        return write

    return register


def shared(write: Callable[..., T]) -> Callable[..., T]:
    """Registers a function that the writer calls by its name in SHARED."""
    SHARED[write.__name__] = write
    return write


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
STEP = '"step"'
"""The column with the number of the step. No plugin can name it: what plugins name has a prefix."""
_TO_NUMERIC: list[Callable[[Writer, Any], str]] = []
"""How ``expressions`` writes a cast to numeric; the rules register themselves there."""
_INSTEAD = {exp.RegexpLike: "LIKE, ILIKE, starts_with or strpos", exp.SimilarTo: "LIKE or ILIKE",
            exp.RegexpILike: "ILIKE", exp.Glob: "LIKE", exp.If: "CASE WHEN … THEN … ELSE … END",
            exp.CurrentUser: "no condition: all rows are the caller's", exp.CurrentTime: "now()",
            exp.SessionUser: "no condition: all rows are the caller's", exp.Localtime: "LOCALTIMESTAMP",
            exp.Collate: "lower(…), or order the rows in the plugin", exp.Dot: "the function without a schema",
            exp.RawString: "'…' or E'…'", exp.BitString: "a number", exp.HexString: "a parameter with bytes"}


class Writer:
    """Writes one statement. ``_scopes`` are the visible CTEs by folded name, the innermost scope last."""

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
            raise ApiFailure("sql_parameters", "parameters must be $1, $2, … without a gap")

    def kind(self, node: Any) -> str:
        """The type of a value on SQLite, if it is known."""
        return self.kinds.get(id(node), "")

    @staticmethod
    def number(node: Any) -> int:
        """The n of a parameter $n."""
        digits = node.this.this if isinstance(node.this, exp.Literal) and not node.this.is_string else ""
        if not re.fullmatch(r"[1-9]\d{0,2}", str(digits)) or int(digits) > PARAMETERS_MAX:
            raise ApiFailure("sql_parameters", f"parameters are $1 to ${PARAMETERS_MAX}")
        return int(digits)

    def finish(self) -> str:
        """The whole statement. Raises ApiFailure."""
        if not isinstance(self._tree, exp.Select | exp.SetOperation | exp.Subquery | exp.Values):
            raise refuse(f"{self._tree.key.upper() if not isinstance(self._tree, exp.Command) else self._tree.this}",
                         "one SELECT; insert, update and delete are allowed through the calls of these names")
        text = self.query(self._tree)
        if (self.patterns or self._pattern_characters) and self._concatenations > CONCATENATIONS_BESIDE_LIKE_MAX:
            raise refuse(f"more than {CONCATENATIONS_BESIDE_LIKE_MAX} uses of || beside a LIKE")
        return text

    def unhashed(self) -> list[str]:
        """The settings of PostgreSQL to switch off, because its hash tables would use unbounded memory.

        A hash join keeps all rows of one key in memory, and EXCEPT and INTERSECT keep all rows; a sort goes to disk
        instead. One table has at most as many rows as the user has; we allow two of those to be hashed.
        """
        return ["enable_hashjoin"] * (self._joined > 1) + ["enable_hashagg"] * self._compared_whole

    def truths(self) -> list[int]:
        """The result columns that are booleans as far as the text shows: SQLite returns them as 0 and 1."""
        select = self._tree
        while isinstance(select, exp.SetOperation | exp.Subquery):
            select = select.this
        if isinstance(select, exp.Values):
            return []
        items = [item.unalias() for item in select.expressions]
        if any(isinstance(item, exp.Star) or isinstance(item.this, exp.Star) for item in items):
            return []
        return [index for index, item in enumerate(items) if _is_truth(item)]

    # ------------------------------------------------------------------ pieces
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
        return _TO_NUMERIC[0](self, node)

    def only_postgres(self, what: str, node: Any = None) -> ApiFailure:
        """The failure for what SQLite cannot do as PostgreSQL does."""
        return ApiFailure("sql_not_on_sqlite", f"{what} is not available on SQLite{position(node)}: it would not give "
                                               "PostgreSQL's answer; apex_exec/gateway/sql/README.md lists what is")

    def _weigh(self, sources: int, node: Any) -> None:
        """Counts what a source in FROM comes to."""
        self._weighed += sources
        if self._weighed > SOURCES_MAX:
            raise refuse(f"a query that comes to more than {SOURCES_MAX} tables, each WITH put in place of its name,",
                         "fewer references to a WITH", node)

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

    # ------------------------------------------------------------------ queries and what they read from
    def query(self, node: Any) -> str:
        """A SELECT or a set operation, without brackets around it."""
        self._subqueries += 1
        if self._subqueries > SUBQUERIES_MAX:
            raise refuse(f"more than {SUBQUERIES_MAX} subqueries")
        if type(node) is exp.Subquery:
            self.only(node, "this", "order", "limit", "offset")
            tail = self._tail(node)
            if not tail:
                return self.query(node.this)
            return f"SELECT * FROM ({self.query(node.this)}) AS {self.quoted(self.made())}{tail}"
        if type(node) is exp.Values:
            self.only(node, "expressions", "order", "limit", "offset")
            return f"SELECT * FROM {self._values(node, self.made(), [])}{self._tail(node)}"
        opened = len(self._scopes)
        text = self._ctes(node.args.get("with_"))
        if type(node) is exp.Select:
            text += self._select(node)
        elif type(node) in (exp.Union, exp.Except, exp.Intersect):
            text += self._set_operation(node)
        else:
            raise refuse(node_name(node))
        text += self._tail(node)
        del self._scopes[opened:]
        return text

    def _ctes(self, node: Any) -> str:
        if node is None:
            return ""
        if type(node) is not exp.With or node.args.get("search"):
            raise refuse("this WITH", "", node)
        recursive = bool(node.args.get("recursive"))
        bodies = []
        for cte in node.expressions:
            alias = cte.args.get("alias")
            if type(cte) is not exp.CTE or type(alias) is not exp.TableAlias or cte.args.get("key_expressions"):
                raise refuse("this WITH", "", node)
            self.only(cte, "this", "alias", "materialized")
            word, made = self.identifier(alias.this), self.made()
            columns = ", ".join(self.name(column) for column in alias.args.get("columns") or [])
            weighed = self._weighed
            if recursive and _reads(cte.this, alias.this.name.lower()):
                bodies.append(self._recursion(cte, word, made))
                self._weights[made] = self._weighed - weighed
                continue
            body = self.query(cte.this)  # before its name becomes visible: it cannot refer to itself
            self._weights[made] = self._weighed - weighed
            how = {None: "", True: "MATERIALIZED ", False: "NOT MATERIALIZED "}[cte.args.get("materialized")]
            bodies.append(f"{self.quoted(made)}{f'({columns})' if columns else ''} AS {how}({body})")
            self._scopes.append({word: made})
        return f"WITH {'RECURSIVE ' if recursive else ''}{', '.join(bodies)} "

    def _recursion(self, cte: Any, word: str, made: str) -> str:
        """A CTE that reads itself: ``anchor UNION ALL step``.

        The rows get one column more, the number of the step; a step that begins from a row beyond DEPTH_MAX or
        STEP_BYTES_MAX is an error. Others, who read the CTE, do not see that column (``_source``).
        """
        both, alias = cte.this, cte.args["alias"]
        if self.lite:
            raise self.only_postgres("WITH RECURSIVE", cte)
        if type(both) is not exp.Union or both.args.get("distinct"):
            raise refuse("WITH RECURSIVE without UNION ALL", "anchor UNION ALL step", cte)
        self.only(both, "this", "expression", "distinct")
        anchor, step = both.this, both.expression
        if type(step) is not exp.Select or _reads(anchor, word):
            raise refuse("this WITH RECURSIVE", "anchor UNION ALL one SELECT that reads the name once", cte)
        given = [self.identifier(column) for column in alias.args.get("columns") or []]
        names = given or self._named_columns(anchor, cte)
        for part in ("order", "limit", "offset", "distinct", "group", "having", "with_"):
            if step.args.get(part) is not None:
                raise refuse(f"{part.strip('_').upper()} in the step of WITH RECURSIVE", "WHERE", cte)
        columns = [self.quoted(COLUMN_PREFIX + name) for name in names]
        first = self.query(anchor)
        inner = self.source_name(self.made())
        self._recursive.append(Recursion(word, made, tuple(names), len(self._scopes)))
        second = self._select(step, f", {STEP} + 1")
        recursion = self._recursive.pop()
        if recursion.reads != 1:
            raise refuse(f"a step of WITH RECURSIVE that reads {word} {recursion.reads} times in FROM", "one reference",
                         cte)
        self._scopes.append({word: made})
        self._columns_of[made] = tuple(names)
        return (f"{self.quoted(made)}({', '.join([*columns, STEP])}) AS (SELECT {inner}.*, 1 FROM ({first}) AS {inner} "
                f"UNION ALL {second})")

    def _named_columns(self, anchor: Any, cte: Any) -> list[str]:
        while isinstance(anchor, exp.SetOperation | exp.Subquery):
            anchor = anchor.this
        names = []
        for item in anchor.expressions if isinstance(anchor, exp.Select) else ():
            named = item.args["alias"] if isinstance(item, exp.Alias) else item.this
            if not isinstance(item, exp.Alias | exp.Column) or not isinstance(named, exp.Identifier):
                break
            names.append(self.identifier(named))
        else:
            if names:
                return names
        raise refuse("WITH RECURSIVE without names for its columns", "WITH RECURSIVE name(column, …) AS (…)", cte)

    def _select(self, node: Any, more: str = "") -> str:
        """A SELECT without WITH and what comes after HAVING and WINDOW. ``more`` follows its columns."""
        self.only(node, "with_", "expressions", "distinct", "from_", "joins", "where", "group", "having", "windows",
                  "order", "limit", "offset")
        source = node.args.get("from_")
        read = ""
        if source is not None:
            self.only(source, "this")
            self._inside.append(SHARED["inside"](self, node) if self.shapes else {})
            read = f" FROM {self._source(source.this)}"
            read += "".join(self._join(join) for join in node.args.get("joins") or [])
            self._inside.pop()
        elif node.args.get("joins"):
            raise ApiFailure("sql_syntax", "a join needs a table before it")
        items = [self._projection(item, index) for index, item in enumerate(node.expressions)]
        if not items:
            raise ApiFailure("sql_syntax", "a SELECT needs at least one column")
        text = f"SELECT {self._distinct(node.args.get('distinct'))}{', '.join(items)}{more}{read}"
        where, group, having = (node.args.get(part) for part in ("where", "group", "having"))
        if where is not None:
            self.only(where, "this")
            text += f" WHERE {self.write(where.this)}"
        if group is not None:
            text += f" GROUP BY {self._group(group)}"
        if having is not None:
            self.only(having, "this")
            text += f" HAVING {self.write(having.this)}"
        named = node.args.get("windows") or []
        if named:
            text += f" WINDOW {', '.join(map(self._named_window, named))}"
        return text

    def _distinct(self, node: Any) -> str:
        if node is None:
            return ""
        if type(node) is not exp.Distinct:
            raise refuse("this DISTINCT", "", node)
        self.only(node, "on")
        on = node.args.get("on")
        if on is None:
            return "DISTINCT "
        if self.lite:
            raise self.only_postgres("DISTINCT ON", node)
        return f"DISTINCT ON ({self.all(on.expressions if type(on) is exp.Tuple else [on.this])}) "

    def _named_window(self, node: Any) -> str:
        if type(node) is not exp.Window:
            raise refuse("this WINDOW", "", node)
        self.only(node, "this", "partition_by", "order", "spec", "alias")
        self.sorted(node)
        return f"{self.name(node.this)} AS ({SHARED['window'](self, node)})"

    def _group(self, node: Any) -> str:
        self.only(node, "expressions")
        sets = 1
        written = []
        for item in node.expressions:
            more, text = self._grouping(item)
            sets *= more
            written.append(text)
        if sets > GROUPING_SETS_MAX:
            raise refuse(f"more than {GROUPING_SETS_MAX} grouping sets", "fewer columns in CUBE and ROLLUP", node)
        if not written:
            raise ApiFailure("sql_syntax", "a list may not be empty")
        return ", ".join(written)

    def _grouping(self, node: Any) -> tuple[int, str]:
        """(how many grouping sets it makes, the text)."""
        if type(node) not in (exp.GroupingSets, exp.Rollup, exp.Cube):
            return 1, f"({', '.join(map(self.write, node.expressions))})" if type(node) is exp.Tuple else (
                self.write(node))
        if self.lite:
            raise self.only_postgres({exp.GroupingSets: "GROUPING SETS", exp.Rollup: "ROLLUP",
                                      exp.Cube: "CUBE"}[type(node)], node)
        self.only(node, "expressions")
        parts = [self._grouping(item) for item in node.expressions]
        inner = ", ".join(text for _, text in parts)
        if type(node) is exp.GroupingSets:
            return sum(count for count, _ in parts), f"GROUPING SETS ({inner})"
        if any(count > 1 for count, _ in parts) or not parts:
            raise refuse("this ROLLUP or CUBE", "ROLLUP (a, b)", node)
        return (len(parts) + 1, f"ROLLUP ({inner})") if type(node) is exp.Rollup else (
            2 ** min(len(parts), 32), f"CUBE ({inner})")

    def _projection(self, item: Any, index: int) -> str:
        text = self.write(item) if type(item) is not exp.Alias else self._alias(item)
        if type(item) not in (exp.Alias, exp.Column, exp.Star):  # otherwise each database would name it differently
            text += f" AS {self.quoted(COLUMN_PREFIX + (result_name(item) or f'column{index + 1}'))}"
        return text

    def _alias(self, item: Any) -> str:
        self.only(item, "this", "alias")
        if type(item.this) is exp.Star or isinstance(item.this, exp.Column) and type(item.this.this) is exp.Star:
            raise ApiFailure("sql_syntax", "* cannot have an alias")
        return f"{self.write(item.this)} AS {self.name(item.args['alias'])}"

    def _set_operation(self, node: Any) -> str:
        self.only(node, "with_", "this", "expression", "distinct", "order", "limit", "offset")
        word = {exp.Union: "UNION", exp.Except: "EXCEPT", exp.Intersect: "INTERSECT"}[type(node)]
        if not node.args.get("distinct"):
            if word != "UNION":
                raise refuse(f"{word} ALL")
            word = "UNION ALL"
        self._compared_whole = self._compared_whole or word in ("EXCEPT", "INTERSECT")
        chain: tuple[Any, ...] = (exp.Select, exp.Union, exp.Except) if word != "INTERSECT" else (exp.Select,)
        return f"{self._operand(node.this, chain)} {word} {self._operand(node.expression, (exp.Select,))}"

    def _operand(self, node: Any, bare: tuple[Any, ...]) -> str:
        """One side of a set operation, in brackets that SQLite accepts too, unless it is ``bare`` and has no closing
        clause."""
        if type(node) in bare and not any(node.args.get(part) for part in ("with_", "order", "limit", "offset")):
            return self.query(node)
        return f"SELECT * FROM ({self.query(node)}) AS {self.quoted(self.made())}"

    def _tail(self, node: Any) -> str:
        text = ""
        order, limit, offset = (node.args.get(part) for part in ("order", "limit", "offset"))
        if order is not None:
            text += self.order(order)
        if type(limit) is exp.Limit and isinstance(limit.expression, exp.Var) and limit.expression.this == "ALL":
            limit = None
        if type(limit) is exp.Fetch:
            skipped = f" OFFSET {self._bound(offset, exp.Offset)}" if offset is not None else ""
            if not self.lite:
                return text + skipped + self._fetch(limit)
            return text + self._fetch(limit) + skipped
        if limit is not None:
            text += f" LIMIT {self._bound(limit, exp.Limit)}"
        elif offset is not None and self.lite:
            text += " LIMIT -1"
        if offset is not None:
            text += f" OFFSET {self._bound(offset, exp.Offset)}"
        return text

    def _bound(self, node: Any, kind: Any) -> str:
        if type(node) is not kind:
            raise refuse("this LIMIT", "a number or a parameter", node)
        self.only(node, "expression")
        return self._amount(node.expression)

    def _amount(self, node: Any) -> str:
        """A number of rows: literals and parameters, and sums and products of them."""
        for part in node.walk():
            if type(part) not in (exp.Literal, exp.Parameter, exp.Add, exp.Sub, exp.Mul, exp.Paren):
                raise refuse("this LIMIT", "a number or a parameter", node)
        return self.write(node)

    def _fetch(self, node: Any) -> str:
        self.only(node, "direction", "count", "limit_options")
        options, count = node.args.get("limit_options"), node.args.get("count")
        rows = self._amount(count) if count is not None else "1"
        if options is not None and options.args.get("percent"):
            raise refuse("FETCH with PERCENT", "a number of rows", node)
        if options is None or not options.args.get("with_ties"):
            return f" LIMIT {rows}"
        if self.lite:
            raise self.only_postgres("WITH TIES", node)
        return f" FETCH FIRST ({rows}) ROWS WITH TIES"

    def order(self, node: Any) -> str:
        """An ORDER BY clause, of a query or a window."""
        self.only(node, "expressions")
        return f" ORDER BY {self.all(node.expressions)}"

    @staticmethod
    def only(node: Any, *parts: str) -> None:
        """Raises if ``node`` has a part other than ``parts``."""
        for part, value in node.args.items():
            if part not in parts and value not in (None, False, [], ""):
                nodes = [one for one in (value if isinstance(value, list) else [value])
                         if isinstance(one, exp.Expression)]
                raise refuse(", ".join(map(node_name, nodes)) or f"{node.key.upper()} with {part.strip('_')}")

    def _source(self, node: Any) -> str:
        """A source in FROM or JOIN: a table, a CTE, a bracketed query, VALUES or a function."""
        self._weigh(1, node)
        alias = node.args.get("alias")
        given, columns = None, []
        if alias is not None:
            if type(alias) is not exp.TableAlias:
                raise refuse("this alias", "", node)
            self.only(alias, "this", "columns")
            given = self.identifier(alias.this) if alias.this is not None else None
            columns = [self.identifier(column) for column in alias.args.get("columns") or []]
        lateral = type(node) is exp.Lateral
        if lateral:
            self.only(node, "this", "view", "outer", "alias", "ordinality")
            ordinality, inner = node.args.get("ordinality"), node.this
        else:
            ordinality, inner = node.args.get("ordinality"), node
        if type(inner) is exp.Subquery:
            self.only(inner, "this", "alias")
            if lateral and self.lite:
                raise self.only_postgres("LATERAL", node)
            self._joined += 1
            return f"{'LATERAL ' * lateral}({self.query(inner.this)}) AS {self._aliased(given or self.made(), columns)}"
        if type(inner) is exp.Values:
            self.only(inner, "expressions", "alias")
            return self._values(inner, given or self.made(), columns)
        if type(inner) is exp.Unnest:
            self.only(inner, "expressions", "alias", "offset")
            if isinstance(inner.args.get("offset"), exp.Identifier):
                ordinality, columns = True, [*columns, self.identifier(inner.args["offset"])]
            return self._rows(exp.Anonymous(this="unnest", expressions=inner.expressions), given, columns, ordinality)
        if type(inner) is exp.Table and type(inner.this) is exp.Anonymous:
            self.only(inner, "this", "alias", "ordinality")
            return self._rows(inner.this, given, columns, ordinality)
        if type(inner) is exp.Anonymous:
            return self._rows(inner, given, columns, ordinality)
        if type(node) is not exp.Table or lateral:
            raise refuse(f"{node_name(node)} as a table", "a table, a query in brackets, or VALUES", node)
        self.only(node, "this", "alias", "db")
        word = self.identifier(node.this)
        if node.args.get("db") is not None:
            inside = self._inside[-1].get(given or word, Inside())
            return (f"({self._owned(self._in_schema(node, word), inside, dots=1)}) AS "
                    f"{self._aliased(given or word, columns)}")
        for recursion in reversed(self._recursive):
            if recursion.word == word and not any(word in scope for scope in self._scopes[recursion.depth :]):
                return self._recursed(recursion, self._aliased(given or word, columns))
        for scope in reversed(self._scopes):
            if word in scope:
                self._joined += 1
                self._weigh(self._weights.get(scope[word], 0), node)
                name = self.quoted(scope[word])
                if scope[word] in self._columns_of:  # without the number of the step
                    seen = ", ".join(self.quoted(COLUMN_PREFIX + one) for one in self._columns_of[scope[word]])
                    name = f"(SELECT {seen} FROM {name})"
                return f"{name} AS {self._aliased(given or word, columns)}"
        inside = self._inside[-1].get(given or word, Inside())
        return f"({self._owned(word, inside)}) AS {self._aliased(given or word, columns)}"

    def table(self, word: str, schema: str = "") -> Table | None:
        """The table that ``word`` means in FROM; None if it means a CTE, or no table of this plugin."""
        if schema:
            return self._tables.get(f"{schema}.{word}") if f"{schema}.{word}" in self._named else None
        hidden = any(recursion.word == word for recursion in self._recursive)
        if "." in word or hidden or any(word in scope for scope in self._scopes):
            return None
        return self._tables.get(word) if word in self._named else None

    def _aliased(self, word: str, columns: list[str]) -> str:
        if not columns:
            return self.source_name(word)
        if self.lite:
            raise self.only_postgres("an alias with names of columns, other than of WITH and VALUES")
        return f"{self.source_name(word)}({', '.join(self.quoted(COLUMN_PREFIX + name) for name in columns)})"

    def _values(self, node: Any, word: str, columns: list[str]) -> str:
        rows = node.expressions
        width = len(rows[0].expressions) if rows and type(rows[0]) is exp.Tuple else 0
        if not width or any(type(row) is not exp.Tuple or len(row.expressions) != width for row in rows):
            raise ApiFailure("sql_syntax", "the rows of VALUES need the same number of columns")
        if len(rows) > VALUES_MAX:
            raise refuse(f"VALUES with more than {VALUES_MAX} rows", "unnest of a list parameter", node)
        if len(columns) > width:
            raise ApiFailure("sql_syntax", f"VALUES has {width} columns, and the alias names {len(columns)}")
        names = columns + [f"column{number}" for number in range(len(columns) + 1, width + 1)]
        text = f"VALUES {', '.join(f'({self.all(row.expressions)})' for row in rows)}"
        self._joined += 1
        quoted = [self.quoted(COLUMN_PREFIX + name) for name in names]
        if not self.lite:
            return f"({text}) AS {self.source_name(word)}({', '.join(quoted)})"
        renamed = ", ".join(f"`column{number}` AS {name}" for number, name in enumerate(quoted, 1))
        return f"(SELECT {renamed} FROM ({text})) AS {self.source_name(word)}"

    def _rows(self, call: Any, given: str | None, columns: list[str], ordinality: Any) -> str:
        """A function in FROM. A plugin's own function names never get here: only those of the kind ``rows``."""
        self.only(call, "this", "expressions")
        form = form_of(call)
        if form is None or form.kind != "rows":
            raise refuse(f"{node_name(call)} as a table", "a function of the kind that stands in FROM", call,
                         named=True)
        if self.lite:
            raise self.only_postgres(form.name, call)
        word = given or form.name
        names = ["key", "value"] if form.name in PAIRS else [word]
        names = columns[: len(names)] + names[len(columns) :]
        if ordinality:
            names.append(columns[len(names)] if len(columns) > len(names) else "ordinality")
        if len(columns) > len(names):
            raise ApiFailure("sql_syntax", f"{form.name} has {len(names)} columns, and the alias names {len(columns)}")
        quoted = [self.quoted(COLUMN_PREFIX + name) for name in names]
        self._joined += 1
        called = f"{SHARED['qualified'](form)}({SHARED['arguments'](self, form, call)})"
        if form.name != "generate_series":
            return (f"LATERAL {called}{' WITH ORDINALITY' * bool(ordinality)} AS "
                    f"{self.source_name(word)}({', '.join(quoted)})")
        # In FROM, PostgreSQL would make all of it before it counts; in a SELECT it makes one after another.
        made, counted = self.source_name(self.made()), self.source_name(self.made())
        value, number = self.quoted("_value"), self.quoted("_number")
        return (f"LATERAL (SELECT {value} AS {quoted[0]}{f', {number} AS {quoted[1]}' if ordinality else ''} FROM "
                f"(SELECT {value}, row_number() OVER () AS {number} FROM (SELECT {called} AS {value}) AS {made}) AS "
                f"{counted} WHERE CASE WHEN {number} > {SERIES_ROWS_MAX} THEN CAST('generate_series returns more than "
                f"{SERIES_ROWS_MAX} rows; take a larger step: ' || {number} AS BOOLEAN) ELSE TRUE END) AS "
                f"{self.source_name(word)}")

    def _recursed(self, recursion: Recursion, alias: str) -> str:
        """The CTE that is being written, as its own step reads it."""
        recursion.reads += 1
        made = self.quoted(recursion.made)
        columns = [f"{made}.{self.quoted(COLUMN_PREFIX + name)}" for name in recursion.columns]
        step = f"{made}.{STEP}"
        guard = (f"CASE WHEN {step} > {DEPTH_MAX} OR pg_column_size(ROW({', '.join(columns)})) > {STEP_BYTES_MAX} THEN "
                 f"CAST('WITH RECURSIVE takes more than {DEPTH_MAX} steps, or its rows have more than "
                 f"{STEP_BYTES_MAX // 1024} KiB; end it with a condition: ' || {step} AS BOOLEAN) ELSE TRUE END")
        return f"(SELECT {', '.join(columns)}, {step} FROM {made} WHERE {guard} OFFSET 0) AS {alias}"

    def _in_schema(self, node: Any, word: str) -> str:
        """The name of the table ``word`` with the schema that stands before it. Raises ApiFailure."""
        name = f"{self.identifier(node.args['db'])}.{word}"
        if name not in self._tables and word in self._tables and word in self._named:
            raise refuse(f"the schema {node_name(node.args['db'])} before a table", f"{word[:60]} without it", node)
        return name

    def _caller(self, word: str) -> str:
        """The parameter with the caller's id for the table ``word``. Each table has one of its own: PostgreSQL gives a
        parameter one type, and one table may keep the id as a uuid, another as a text."""
        if word not in self._callers:
            self.extra_values.append(OWNER)
            self._callers[word] = f"${self.parameters + len(self.extra_values)}"
        return self._callers[word]

    def _owned(self, word: str, inside: Inside, dots: int = 0) -> str:
        """The caller's rows of a table, with the operator's columns.

        ``dots``: how many ``word`` must have. In quotes, a name without a schema could have one, too. On PostgreSQL, a
        table that has become a view has no tableoid: the statement fails before it reads a row."""
        table = self._tables.get(word) if word.count(".") == dots else None
        if table is None or word not in self._named:
            known = sorted(name for name in self._named if name in self._tables)
            raise ApiFailure("table_not_allowed", f"the table {word!r} is not visible to this plugin; visible: "
                                                  f"{', '.join(known) or 'none (manifest: data.tables)'}")
        self.used[word] = None
        name = table.placed(self.quoted)
        columns = ", ".join(f"{name}.{self.quoted(column)} AS {self.quoted(COLUMN_PREFIX + column)}"
                            for column in table.columns)
        fence = inside.tail or ("LIMIT -1 OFFSET 0" if self.lite else "OFFSET 0")
        more = [f"{name}.{self.quoted('tableoid')} IS NOT NULL"] if inside.where and not self.lite else []
        self.guarded = self.guarded or bool(more)
        conditions = "".join(f" AND {one}" for one in [*more, *inside.where])
        owned = table.condition(lambda: self._caller(word), self.quoted)
        return f"SELECT {columns} FROM {name} WHERE {owned}{conditions} {fence}"

    def _join(self, node: Any) -> str:
        if type(node) is not exp.Join:
            raise refuse(node_name(node), "", node)
        self.only(node, "this", "on", "using", "kind", "side", "method")
        self._joined += 1
        side, kind, method = (str(node.args.get(part) or "") for part in ("side", "kind", "method"))
        if (side not in ("", "LEFT", "RIGHT", "FULL") or kind not in ("", "INNER", "OUTER", "CROSS")
                or method not in ("", "NATURAL")):
            raise refuse(f"a {method} {side} {kind} join")
        on, using = node.args.get("on"), node.args.get("using")
        plain = not (on or using or method)
        if plain and (side or kind in ("INNER", "OUTER")):
            raise ApiFailure("sql_syntax", f"a join needs ON or USING{position(node)}")
        if kind == "CROSS" or plain:
            if not plain:
                raise ApiFailure("sql_syntax", "a cross join cannot have a condition")
            return f" CROSS JOIN {self._source(node.this)}"
        text = f" {method} {side} JOIN {self._source(node.this)}"
        if on is not None:
            text += f" ON {self.write(on)}"
        if using:
            text += f" USING ({', '.join(map(self.name, using))})"
        return text

    def subquery(self, node: Any) -> str:
        """A query as a value or in IN and EXISTS, in brackets."""
        self._joined += 1
        return f"({self.query(node)})"

    def members(self, node: Any) -> str:
        """A query in IN, in brackets.

        If PostgreSQL expects few rows, it may keep all that the query returns in a hash table in memory, however many
        they are. So the SQL adds up their size, and raises an error if it is more than MEMBERS_BYTES_MAX. The UNION
        with nothing limits the query to one column.
        """
        if self.lite or _is_plain(node):
            return self.subquery(node)
        self._joined += 1
        all_, counted = self.source_name(self.made()), self.source_name(self.made())
        value, size = self.quoted("_value"), self.quoted("_size")
        return (f"(SELECT {counted}.{value} FROM (SELECT {all_}.{value}, "
                f"sum(pg_column_size({all_}.{value}) + {ROW_BYTES}) OVER (ROWS UNBOUNDED PRECEDING) AS {size} "
                f"FROM (SELECT * FROM ({self.query(node)}) AS {self.quoted(self.made())} UNION ALL "
                f"SELECT NULL WHERE FALSE) AS {all_}({value})) AS {counted} "
                f"WHERE CASE WHEN {counted}.{size} > {MEMBERS_BYTES_MAX} THEN CAST("
                f"'the query in IN returns more than {MEMBERS_BYTES_MAX // 1024 // 1024} MiB; ' || "
                f"'use EXISTS or a JOIN: ' || {counted}.{size} AS BOOLEAN) ELSE TRUE END)")

    def existing(self, node: Any, *, joined: bool) -> str:
        """A query in EXISTS, in brackets. ``joined``: PostgreSQL turns it into a join, whose memory is bounded.

        Otherwise PostgreSQL may keep all that the query finds in a hash table (see ``members``), unless there is an
        OFFSET.
        """
        if self.lite or joined or _is_plain(node):
            return self.subquery(node)
        self._joined += 1
        return f"(SELECT * FROM ({self.query(node)}) AS {self.quoted(self.made())} OFFSET 0)"

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


def _is_truth(item: Any) -> bool:
    """Whether the value is a boolean, as far as the text shows."""
    plain = item.unnest()
    form = form_of(plain)
    if form is not None:
        return form.cost == "flag"
    return isinstance(plain, exp.Predicate | exp.Connector | exp.Not | exp.Boolean | exp.Exists | exp.NullSafeEQ
                      | exp.NullSafeNEQ) and not isinstance(plain, exp.Anonymous)


def _reads(query: Any, word: str) -> bool:
    """Whether a table of that name stands in the query."""
    return any(table.name.lower() == word and not table.args.get("db") for table in query.find_all(exp.Table))


def _is_cte(table: Any) -> bool:
    """Whether the name may be a CTE's: an enclosing query has one of that name, in upper or lower case."""
    word, around = str(table.name).lower(), table
    while around is not None and not table.args.get("db"):
        with_ = around.args.get("with_")
        if with_ is not None and any(cte.alias.lower() == word for cte in with_.expressions):
            return True
        around = around.parent
    return False


def _is_plain(node: Any) -> bool:
    """Whether a query returns rows of one table unchanged: then it has at most as many rows as the user."""
    source = node.args.get("from_") if isinstance(node, exp.Select) else None
    return (source is not None and isinstance(source.this, exp.Table) and not node.args.get("joins")
            and all(type(part) in _PLAIN for part in node.walk()) and not _is_cte(source.this))


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
