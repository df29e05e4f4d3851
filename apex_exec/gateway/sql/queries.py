"""SELECT and set operations, and queries that stand inside others. Pure."""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.ctes import Ctes
from apex_exec.gateway.sql.rules import SHARED
from apex_exec.gateway.sql.wording import COLUMN_PREFIX, node_name, refuse, result_name

SUBQUERIES_MAX = 64
GROUPING_SETS_MAX = 64
MEMBERS_BYTES_MAX = 32 * 1024 * 1024
"""The most bytes that a query in IN may return, counting ROW_BYTES extra for each row."""
ROW_BYTES = 64
_PLAIN = (exp.Select, exp.From, exp.Table, exp.TableAlias, exp.Identifier, exp.Column, exp.Alias, exp.Literal,
          exp.Parameter, exp.Where, exp.And, exp.Or, exp.Not, exp.Paren, exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT,
          exp.LTE, exp.Is, exp.Null, exp.Boolean, exp.Between, exp.In, exp.Like, exp.ILike, exp.Limit, exp.Offset,
          exp.Order, exp.Ordered)


class Queries(Ctes):
    """Writes queries."""

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
            raise ApiFailure("sql_syntax", "JOIN needs a table before it")
        items = [self._projection(item, index) for index, item in enumerate(node.expressions)]
        if not items:
            raise ApiFailure("sql_syntax", "a SELECT must name at least one column")
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
            raise refuse("this form of DISTINCT", "DISTINCT, or DISTINCT ON (…)", node)
        self.only(node, "on")
        on = node.args.get("on")
        if on is None:
            return "DISTINCT "
        if self.lite:
            raise self.only_postgres("DISTINCT ON", node)
        return f"DISTINCT ON ({self.all(on.expressions if type(on) is exp.Tuple else [on.this])}) "

    def _named_window(self, node: Any) -> str:
        if type(node) is not exp.Window:
            raise refuse("this form of WINDOW", "WINDOW name AS (…)", node)
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
