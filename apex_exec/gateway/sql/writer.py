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
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct
from sqlglot import exp
from sqlglot.errors import ErrorLevel, SqlglotError

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.tables import Table

PARAMETERS_MAX = 100
CONCATENATIONS_MAX = 8
"""The most uses of ||. Each may double a value; one row may grow to 2^8 times a column."""
SUBQUERIES_MAX = 64
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
FUNCTIONS = ("count sum avg min max lower upper length abs round trim substr coalesce nullif row_number rank "
             "dense_rank")
"""The list in error messages; each function has a rule in ``expressions``."""

_WORD = re.compile(r"(?!__)\w[\w $.-]{0,62}")

MEMBERS_BYTES_MAX = 32 * 1024 * 1024
"""The most bytes that a query in IN may return, counting ROW_BYTES extra for each row."""
ROW_BYTES = 64
_PLAIN = (exp.Select, exp.From, exp.Table, exp.TableAlias, exp.Identifier, exp.Column, exp.Alias, exp.Literal,
          exp.Parameter, exp.Where, exp.And, exp.Or, exp.Not, exp.Paren, exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT,
          exp.LTE, exp.Is, exp.Null, exp.Boolean, exp.Between, exp.In, exp.Like, exp.ILike, exp.Limit, exp.Offset,
          exp.Order, exp.Ordered)

RESULT_NAMES = {exp.Count: "count", exp.Sum: "sum", exp.Avg: "avg", exp.Min: "min", exp.Max: "max",
                 exp.Lower: "lower", exp.Upper: "upper", exp.Length: "length", exp.Coalesce: "coalesce",
                 exp.Round: "round", exp.Abs: "abs", exp.Exists: "exists", exp.Case: "case",
                 exp.RowNumber: "row_number", exp.Rank: "rank", exp.DenseRank: "dense_rank"}
WINDOWED = (exp.RowNumber, exp.Rank, exp.DenseRank, exp.Count, exp.Sum, exp.Avg, exp.Min, exp.Max)

_MARKED = re.compile(r"@_|\b__(?=[^\W\d])")

OWNER = object()
"""Marks the position of the caller's id among the extra values."""


def refuse(what: str, allowed: str = "") -> ApiFailure:
    """The failure for a text that contains ``what``. ``allowed`` lists what may be there instead."""
    return ApiFailure("sql_forbidden", f"{what} is not allowed here{f'; allowed are {allowed}' if allowed else ''}")


def plain_names(text: str) -> str:
    """``text`` from a database (an error, or a column's name) with the plugin's own names restored."""
    return _MARKED.sub("", text)


class Rule(Struct, frozen=True):
    """How one kind of node is written, and which parts it may have."""

    write: Callable[[Writer, Any], str]
    parts: tuple[str, ...]


RULES: dict[type, Rule] = {}


def rule(kinds: str, parts: str = "") -> Callable[[Callable[[Writer, Any], str]], Callable[[Writer, Any], str]]:
    """Registers how nodes of the named sqlglot classes are written, and which parts they may have."""

    def register(write: Callable[[Writer, Any], str]) -> Callable[[Writer, Any], str]:
        for kind in kinds.split():
            RULES[getattr(exp, kind)] = Rule(write, tuple(parts.split()))
        return write

    return register


class Writer:
    """Writes one statement. ``_scopes`` are the visible CTEs by folded name, the innermost scope last."""

    def __init__(self, backend: str, tables: Mapping[str, Table], named: tuple[str, ...], tree: Any) -> None:
        self.lite = backend == "sqlite"
        self._tables = tables
        self._named = named
        self._tree = tree
        self._quote = "`" if self.lite else '"'  # SQLite treats an unknown "name" as a string, but never a `name`
        self._scopes: list[dict[str, str]] = []
        self._made = 0
        self._subqueries = 0
        self._concatenations = 0
        self._in_pattern = False
        self._joined = 0
        """The number of joins, queries in FROM, CTEs that are used, INs and EXISTS."""
        self._compared_whole = False
        """Whether the query has an EXCEPT or INTERSECT."""
        self._pattern_characters = 0
        self.patterns: list[int] = []
        self.used: dict[str, None] = {}
        self.extra_values: list[Any] = []
        numbers = {self.number(node) for node in tree.find_all(exp.Parameter)}
        self.parameters = max(numbers, default=0)
        if numbers != set(range(1, self.parameters + 1)):
            raise ApiFailure("sql_parameters", "parameters must be $1, $2, … without a gap")

    @staticmethod
    def number(node: Any) -> int:
        """The n of a parameter $n."""
        digits = node.this.this if isinstance(node.this, exp.Literal) and not node.this.is_string else ""
        if not re.fullmatch(r"[1-9]\d{0,2}", str(digits)) or int(digits) > PARAMETERS_MAX:
            raise ApiFailure("sql_parameters", f"parameters are $1 to ${PARAMETERS_MAX}")
        return int(digits)

    def finish(self) -> str:
        """The whole statement. Raises ApiFailure."""
        if not isinstance(self._tree, exp.Select | exp.SetOperation | exp.Subquery):
            raise refuse(f"{self._tree.key.upper() if not isinstance(self._tree, exp.Command) else self._tree.this}",
                         "one SELECT, and insert, update and delete through the calls of these names")
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
        items = [item.unalias() for item in select.expressions]
        if any(isinstance(item, exp.Star) or isinstance(item.this, exp.Star) for item in items
               if not isinstance(item, exp.Count)):
            return []
        return [index for index, item in enumerate(items)
                if isinstance(item.unnest(), exp.Predicate | exp.Connector | exp.Not | exp.Boolean | exp.Exists)]

    # ------------------------------------------------------------------ pieces
    def write(self, node: Any) -> str:
        """``node`` written by its rule. Raises ApiFailure if it has no rule, or a part that its rule does not name."""
        rule = RULES.get(type(node))
        if rule is None:
            raise refuse(node_name(node), f"the functions {FUNCTIONS}" if isinstance(node, exp.Func) else "")
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
            self.only(node, "this")
            return self.query(node.this)
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
        if type(node) is not exp.With or node.args.get("recursive") or node.args.get("search"):
            raise refuse("WITH RECURSIVE")
        bodies = []
        for cte in node.expressions:
            alias = cte.args.get("alias")
            if type(cte) is not exp.CTE or type(alias) is not exp.TableAlias or cte.args.get("key_expressions"):
                raise refuse("this WITH")
            word, made = self.identifier(alias.this), self.made()
            columns = ", ".join(self.name(column) for column in alias.args.get("columns") or [])
            body = self.query(cte.this)  # before its name becomes visible: it cannot refer to itself
            bodies.append(f"{self.quoted(made)}{f'({columns})' if columns else ''} AS ({body})")
            self._scopes.append({word: made})
        return f"WITH {', '.join(bodies)} "

    def _select(self, node: Any) -> str:
        self.only(node, "with_", "expressions", "distinct", "from_", "joins", "where", "group", "having", "order",
                  "limit", "offset")
        distinct = node.args.get("distinct")
        if distinct is not None and (type(distinct) is not exp.Distinct or any(distinct.args.values())):
            raise refuse("DISTINCT ON")
        items = [self._projection(item, index) for index, item in enumerate(node.expressions)]
        if not items:
            raise ApiFailure("sql_syntax", "a SELECT needs at least one column")
        text = f"SELECT {'DISTINCT ' if distinct is not None else ''}{', '.join(items)}"
        source = node.args.get("from_")
        if source is not None:
            self.only(source, "this")
            text += f" FROM {self._source(source.this)}"
            text += "".join(self._join(join) for join in node.args.get("joins") or [])
        elif node.args.get("joins"):
            raise ApiFailure("sql_syntax", "a join needs a table before it")
        for part, word in (("where", "WHERE"), ("having", "HAVING")):
            clause = node.args.get(part)
            if part == "having" and node.args.get("group") is not None:
                group = node.args["group"]
                self.only(group, "expressions")
                text += f" GROUP BY {self.all(group.expressions)}"
            if clause is not None:
                self.only(clause, "this")
                text += f" {word} {self.write(clause.this)}"
        return text

    def _projection(self, item: Any, index: int) -> str:
        text = self.write(item) if type(item) is not exp.Alias else self._alias(item)
        if type(item) not in (exp.Alias, exp.Column, exp.Star):  # otherwise each database would name it differently
            kind = type(item.this if isinstance(item, exp.Window | exp.Filter) else item)
            text += f" AS {self.quoted(COLUMN_PREFIX + RESULT_NAMES.get(kind, f'column{index + 1}'))}"
        return text

    def _alias(self, item: Any) -> str:
        self.only(item, "this", "alias")
        return f"{self.write(item.this)} AS {self.name(item.args['alias'])}"

    def _set_operation(self, node: Any) -> str:
        self.only(node, "with_", "this", "expression", "distinct", "order", "limit", "offset")
        word = {exp.Union: "UNION", exp.Except: "EXCEPT", exp.Intersect: "INTERSECT"}[type(node)]
        if not node.args.get("distinct"):
            if word != "UNION":
                raise refuse(f"{word} ALL")
            word = "UNION ALL"
        self._compared_whole = self._compared_whole or word in ("EXCEPT", "INTERSECT")
        chain = (exp.Select, exp.Union, exp.Except) if word != "INTERSECT" else (exp.Select,)
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
        if limit is not None:
            text += f" LIMIT {self._bound(limit, exp.Limit)}"
        elif offset is not None and self.lite:
            text += " LIMIT -1"
        if offset is not None:
            text += f" OFFSET {self._bound(offset, exp.Offset)}"
        return text

    def _bound(self, node: Any, kind: Any) -> str:
        if type(node) is not kind or type(node.expression) not in (exp.Literal, exp.Parameter):
            raise refuse("this LIMIT")
        self.only(node, "expression")
        return self.write(node.expression)

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
        """A source in FROM or JOIN: a table, a CTE or a bracketed query."""
        alias = node.args.get("alias")
        given = None
        if alias is not None:
            if type(alias) is not exp.TableAlias:
                raise refuse("this alias")
            self.only(alias, "this")
            given = self.identifier(alias.this)
        if type(node) is exp.Subquery:
            self.only(node, "this", "alias")
            if given is None:
                given = self.made()
            self._joined += 1
            return f"({self.query(node.this)}) AS {self.source_name(given)}"
        if type(node) is not exp.Table:
            raise refuse(f"{node_name(node)} as a table")
        self.only(node, "this", "alias")
        word = self.identifier(node.this)
        for scope in reversed(self._scopes):
            if word in scope:
                self._joined += 1
                return f"{self.quoted(scope[word])} AS {self.source_name(given or word)}"
        return f"({self._owned(word)}) AS {self.source_name(given or word)}"

    def _owned(self, word: str) -> str:
        """The caller's rows of a table, with the operator's columns."""
        table = self._tables.get(word)
        if table is None or word not in self._named:
            known = sorted(name for name in self._named if name in self._tables)
            raise ApiFailure("table_not_allowed", f"the table {word!r} is not visible to this plugin; visible: "
                                                  f"{', '.join(known) or 'none (manifest: data.tables)'}")
        self.used[word] = None
        name = self.quoted(table.name)
        columns = ", ".join(f"{name}.{self.quoted(column)} AS {self.quoted(COLUMN_PREFIX + column)}"
                            for column in table.columns)
        fence = "LIMIT -1 OFFSET 0" if self.lite else "OFFSET 0"
        return f"SELECT {columns} FROM {name} WHERE {name}.{self.quoted(table.owner)} = {self.extra(OWNER)} {fence}"

    def _join(self, node: Any) -> str:
        if type(node) is not exp.Join:
            raise refuse(node_name(node))
        self.only(node, "this", "on", "using", "kind", "side", "method")
        self._joined += 1
        side, kind, method = (str(node.args.get(part) or "") for part in ("side", "kind", "method"))
        if (side not in ("", "LEFT", "RIGHT", "FULL") or kind not in ("", "INNER", "OUTER", "CROSS")
                or method not in ("", "NATURAL")):
            raise refuse(f"a {method} {side} {kind} join")
        on, using = node.args.get("on"), node.args.get("using")
        plain = not (on or using or method)
        if kind == "CROSS" or (plain and not side):
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
            raise refuse(f"more than {CONCATENATIONS_MAX} uses of ||")


    def pattern(self, node: Any) -> str:
        """The pattern of a LIKE: literals and parameters only, because the length of anything else is not known."""
        waiting = [node]
        while waiting:
            part = waiting.pop()
            if isinstance(part, exp.DPipe):
                waiting += [part.this, part.expression]
            elif isinstance(part, exp.Paren | exp.Lower | exp.Upper | exp.Cast):
                waiting.append(part.this)
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


def _is_cte(table: Any) -> bool:
    """Whether the name may be a CTE's: an enclosing query has one of that name, in upper or lower case."""
    word, around = str(table.name).lower(), table
    while around is not None:
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
    try:
        text = node.sql(dialect="postgres", unsupported_level=ErrorLevel.IGNORE)
    # sqlglot failed to write it
    except (AssertionError, AttributeError, LookupError, TypeError, ValueError, SqlglotError):
        text = node.key.upper()
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= NAMED_CHARACTERS_MAX else f"{text[:NAMED_CHARACTERS_MAX]}…"
