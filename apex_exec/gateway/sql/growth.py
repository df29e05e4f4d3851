"""How much work one row of a statement can be, computed before the statement runs. Pure.

A database checks the clock and frees memory only between rows. A value that a row doubles nine times, or a product of
numbers with 100,000 digits, outlasts any deadline and takes any amount of memory. So every expression has a bound here,
computed from the bounds of its parts: the length of its text, the digits of its number, and the work of evaluating it
once. If a query reads from another one (a CTE, or a query in FROM), each use of a column counts as an evaluation of the
column's expression, because a planner may substitute the expression for the column.

This file walks through the queries of a statement; ``bounds`` adds up, and the rules for values are in ``value_costs``.
**A node without a rule is refused**, as in ``writer``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from sqlglot import exp

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.bounds import SENT_WEIGHT, STEP_BYTES, STORED, Output, Sum, Value, largest_of, plus, read
from apex_exec.gateway.sql.kinds import Kinds
from apex_exec.gateway.sql.sqlite_types import Typer
from apex_exec.gateway.sql.value_costs import RULES, beside

HAS_A_RULE = frozenset({*RULES, exp.Column})
"""Every kind of value that has a rule; a test compares them with the kinds that ``writer`` writes."""


class Source(NamedTuple):
    """A source in FROM: the bounds of its columns by name, and of all others."""

    columns: dict[str, Value]
    rest: Value | None
    """None if every column is in ``columns``."""


class Growth:
    """The bounds of one statement. ``fold`` returns the folded name of an Identifier, as in the writer."""

    def __init__(self, fold: Callable[[Any], str], kinds: Kinds | None = None) -> None:
        self._fold = fold
        self._tables = kinds or {}
        self.typer = Typer() if kinds is not None else None
        """Finds the types of values, for SQLite."""
        self.kinds: list[str] = []
        """The kinds of the statement's columns; empty if they are not known."""
        self._ctes: list[dict[str, Source]] = []
        self._sources: list[dict[str, Source]] = []
        self.likes: list[list[Sum]] = []
        """For each LIKE, the sizes of its text and its pattern."""

    def of(self, tree: Any) -> Sum:
        """The work of one row of the whole statement, including sending it to the plugin. Raises ApiFailure."""
        output = self.query(tree)
        if output.rest is None:
            self.kinds = [value.kind for _, value in output.columns]
        sent = [value.size for _, value in output.columns if not value.stored]
        weighed = ({key: size * (SENT_WEIGHT if key else 1) for key, size in one.items()} for one in sent)
        return plus(output.work, *weighed)

    # ------------------------------------------------------------------ queries
    def query(self, node: Any) -> Output:
        """A SELECT, a set operation, or either of them in brackets."""
        if isinstance(node, exp.Subquery):
            output = self.query(node.this)
            return output._replace(work=plus(output.work, self._ordered(node, {name for name, _ in output.columns})))
        if isinstance(node, exp.Values):
            return self._values(node)
        opened = len(self._ctes)
        with_ = node.args.get("with_")
        before: Sum = {}
        for cte in with_.expressions if with_ is not None else ():
            names = [self._fold(column) for column in cte.args["alias"].args.get("columns") or []]
            word = self._fold(cte.args["alias"].this)
            if with_.args.get("recursive"):  # what a step reads has a bound of its own, which ``writer`` enforces
                self._ctes.append({word: Source({}, Value({0: STEP_BYTES}, {}, STEP_BYTES))})
            output = self.query(cte.this)
            if with_.args.get("recursive"):
                self._ctes.pop()
            before = plus(before, output.work)
            self._ctes.append({word: _renamed(output, names)})
        output = self._select(node) if isinstance(node, exp.Select) else self._set_operation(node)
        del self._ctes[opened:]
        if self.typer is not None and output.rest is None:
            self.typer.outputs[id(node)] = [value.kind for _, value in output.columns]
        return output._replace(work=plus(output.work, before))

    def _values(self, node: Any) -> Output:
        """The columns of VALUES: each is as large as the largest of its rows."""
        rows = [self.all(row.expressions) for row in node.expressions]
        columns = [(f"column{number}", largest_of(column)) for number, column in enumerate(zip(*rows, strict=False), 1)]
        if self.typer is not None:
            cells = list(zip(*(row.expressions for row in node.expressions), strict=False))
            columns = [(name, value._replace(kind=self.typer.alike(node, list(column), "VALUES with")))
                       for (name, value), column in zip(columns, cells, strict=True)]
        return Output(columns, None, plus(*(one.work for row in rows for one in row)))

    def _set_operation(self, node: Any) -> Output:
        left, right = self.query(node.this), self.query(node.expression)
        both = list(zip(left.columns, right.columns, strict=False))
        if left.rest is None and right.rest is None and len(left.columns) == len(right.columns):
            columns = [(name, largest_of((one, other))) for (name, one), (_, other) in both]
            if self.typer is not None:
                kinds = self.typer.columns(node, *([value.kind for _, value in side.columns] for side in (left, right)))
                columns = [(name, value._replace(kind=kind))
                           for (name, value), kind in zip(columns, kinds, strict=True)]
            rest = None
        else:  # we do not know which column is paired with which
            rest = largest_of([*(value for _, value in (*left.columns, *right.columns)),
                               *(one for one in (left.rest, right.rest) if one is not None)])
            columns = [(name, rest) for name, _ in left.columns]
        return Output(columns, rest, plus(left.work, right.work, self._ordered(node, {name for name, _ in columns})))

    def _select(self, node: Any) -> Output:
        sources: dict[str, Source] = {}
        self._sources.append(sources)
        work: Sum = {}
        from_ = node.args.get("from_")
        joins = node.args.get("joins") or []
        for source in ([from_.this] if from_ is not None else []) + [join.this for join in joins]:
            work = plus(work, self._source(source, sources))
        columns: list[tuple[str, Value]] = []
        rest: Value | None = None
        for item in node.expressions:
            plain = item.unalias()
            if isinstance(plain, exp.Star) or isinstance(plain, exp.Column) and isinstance(plain.this, exp.Star):
                only = self._fold(plain.args["table"]) if plain.args.get("table") is not None else None
                for name, found in sources.items():
                    if only in (None, name):
                        columns += found.columns.items()
                        rest = rest if found.rest is None else largest_of([found.rest, *([rest] if rest else [])])
                continue
            value = self.value(plain)
            work = plus(work, value.work)
            columns.append((_name_of(item, self._fold), value))
        conditions = [join.args["on"] for join in joins if join.args.get("on") is not None]
        conditions += [node.args[part].this for part in ("where", "having") if node.args.get(part) is not None]
        keys = _grouped(node.args["group"].expressions) if node.args.get("group") is not None else []
        distinct = node.args.get("distinct")
        keys += _grouped([distinct.args["on"]]) if distinct is not None and distinct.args.get("on") else []
        for window in node.args.get("windows") or []:
            keys += beside(window)
        work = plus(work, *(self.value(one).work for one in (*conditions, *keys)),
                    self._ordered(node, {name for name, _ in columns}))
        self._sources.pop()
        if self.typer is not None:
            for condition in conditions:
                self.typer.condition(condition)
            for key in keys:
                self.typer.sorted(key, self.typer.of(key))
            for _, value in columns if distinct is not None else []:
                self.typer.sorted(node, value.kind)
        return Output(columns, rest, work)

    def _ordered(self, node: Any, given: set[str]) -> Sum:
        """The work of ORDER BY. A column of the query's own result is already computed."""
        order = node.args.get("order")
        work: Sum = {}
        for item in order.expressions if order is not None else ():
            if isinstance(item.this, exp.Column) and item.this.args.get("table") is None and (
                    self._fold(item.this.this) in given):
                continue
            if self._sources or not isinstance(item.this, exp.Column):
                value = self.value(item.this)
                work = plus(work, value.work)
                if self.typer is not None:
                    self.typer.sorted(item.this, value.kind)
        return work

    def _source(self, node: Any, sources: dict[str, Source]) -> Sum:
        alias = node.args.get("alias")
        if isinstance(node, exp.Lateral):
            node = node.this
        names = [self._fold(column) for column in (alias.args.get("columns") or [] if alias is not None else [])]
        given = self._fold(alias.this) if alias is not None and alias.this is not None else f" {len(sources)}"
        if isinstance(node, exp.Subquery | exp.Values):
            output = self.query(node.this if isinstance(node, exp.Subquery) else node)
            sources[given] = _renamed(output, names)
            return output.work
        call = node.this if isinstance(node, exp.Table) else node
        if isinstance(node, exp.Unnest | exp.Anonymous) or isinstance(call, exp.Anonymous):
            parts = self.all(call.expressions)
            value = largest_of(parts)
            sources[given] = Source({}, Value(value.size, {}, value.digits))
            return plus(*(read(part) for part in parts), value.size)
        word = self._fold(node.this)
        if node.args.get("db") is not None:
            found = self._table(f"{self._fold(node.args['db'])}.{word}")
        else:
            found = next((scope[word] for scope in reversed(self._ctes) if word in scope), self._table(word))
        if names:
            found = Source({}, largest_of([*found.columns.values(), *([found.rest] if found.rest is not None else [])]))
        sources[self._fold(alias.this) if alias is not None else word] = found
        return {}

    def _table(self, word: str) -> Source:
        known = self._tables.get(word)
        return Source({}, STORED) if not known else Source(
            {name: STORED._replace(kind=kind) for name, kind in known.items()}, None)

    def _column(self, node: Any) -> Value:
        """The largest of all columns that the name may refer to."""
        word, table = self._fold(node.this), node.args.get("table")
        alias = self._fold(table) if table is not None else None
        found: list[Value] = []
        for sources in reversed(self._sources):
            for name, source in sources.items():
                if alias in (None, name):
                    value = source.columns.get(word, source.rest)
                    if value is not None:
                        found.append(value)
            if found and alias is not None:
                break
        return largest_of(found) if found else STORED

    # ------------------------------------------------------------------ values
    def value(self, node: Any) -> Value:
        """The bound of one expression. Raises ApiFailure if it has no rule."""
        rule = Growth._column if type(node) is exp.Column else RULES.get(type(node))
        if rule is None:
            from apex_exec.gateway.sql.wording import node_name

            raise ApiFailure("sql_forbidden", f"{node_name(node)} is not allowed here")
        value = rule(self, node)
        if self.typer is None:
            return value
        found = value.kind if isinstance(node, exp.Column | exp.Subquery) else ""
        return value._replace(kind=self.typer.see(node, found))

    def all(self, nodes: Iterable[Any]) -> list[Value]:
        """The bounds of several expressions."""
        return [self.value(node) for node in nodes if node is not None]

    def chain(self, node: Any) -> list[Value]:
        """The bounds of a chain of one operator, from the left."""
        kind, parts = type(node), []
        while type(node) is kind:  # a long chain leans to the left; the loop spares us the recursion
            parts.append(node.expression)
            node = node.this
        return self.all([node, *reversed(parts)])


def _renamed(output: Output, names: list[str]) -> Source:
    if not names:
        columns: dict[str, Value] = {}
        for name, value in output.columns:
            columns[name] = largest_of((columns[name], value)) if name in columns else value
        return Source(columns, output.rest)
    if output.rest is None and len(names) <= len(output.columns):
        given = [value for _, value in output.columns]
        return Source(dict(zip(names, given, strict=False)) | dict(output.columns[len(names):]), None)
    every = largest_of([*(value for _, value in output.columns), *([output.rest] if output.rest is not None else [])])
    return Source({}, every)


def _name_of(item: Any, fold: Callable[[Any], str]) -> str:
    from apex_exec.gateway.sql.wording import result_name

    if isinstance(item, exp.Alias):
        return fold(item.args["alias"])
    if isinstance(item, exp.Column):
        return fold(item.this)
    return result_name(item)


def _grouped(nodes: list[Any]) -> list[Any]:
    """The expressions in GROUP BY and DISTINCT ON, without brackets and the words around them."""
    found: list[Any] = []
    for node in nodes:
        if isinstance(node, exp.Tuple | exp.GroupingSets | exp.Rollup | exp.Cube):
            found += _grouped(node.expressions)
        else:
            found.append(node)
    return found
