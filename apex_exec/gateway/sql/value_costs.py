"""The costs of operators, literals, casts and whatever else is a value, one rule for each kind of node. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlglot import exp

from apex_exec.gateway.sql.bounds import (
    CASE_WEIGHT,
    DIGIT_PAIRS_PER_BYTE,
    DIGITS,
    DIGITS_MAX,
    ELEMENT_WEIGHT,
    FLAG,
    ROW_BYTES,
    SMALL_BYTES,
    Statement,
    Sum,
    Value,
    largest_of,
    number_of,
    plus,
    read,
    times,
    work_of,
)
from apex_exec.gateway.sql.dialect import OPERATOR
from apex_exec.gateway.sql.function_costs import function


def _literal(_g: Statement, node: Any) -> Value:
    text = str(node.this)
    if node.is_string:
        return Value({0: len(text.encode())}, {})
    return number_of(DIGITS, {})  # 40 digits and an exponent of three digits


def _parameter(_g: Statement, node: Any) -> Value:
    return Value({int(str(node.this.this)): 1}, {})


def _concatenation(g: Statement, node: Any) -> Value:
    parts = g.chain(node)
    size, made = parts[0].size, [read(part) for part in parts]
    for part in parts[1:]:
        size = plus(size, part.size)
        made.append(size)
    return Value(size, plus(*made))


def _logic(g: Statement, node: Any) -> Value:
    return Value(FLAG, plus(*(part.work for part in g.chain(node))), 1)


def _sum(g: Statement, node: Any) -> Value:
    parts = g.chain(node)
    digits = min(DIGITS_MAX, max(part.digits for part in parts) + len(parts))
    return number_of(digits, plus({0: digits * len(parts)}, *(part.work for part in parts)))


def _product(g: Statement, node: Any) -> Value:
    parts = g.chain(node)
    digits, work = parts[0].digits, [part.work for part in parts]
    for part in parts[1:]:
        both = min(DIGITS_MAX, digits + part.digits + (1000 if isinstance(node, exp.Div) else 0))
        work.append({0: max(digits, both if isinstance(node, exp.Div) else 0) * part.digits // DIGIT_PAIRS_PER_BYTE})
        digits = max(digits, part.digits) if isinstance(node, exp.Mod) else both
    return number_of(digits, plus(*work))


def _compared(values: list[Value]) -> Sum:
    """The work of comparing two texts by a locale: at most what the shorter one needs."""
    sizes = [value.size for value in values]
    if any(set(size) <= {0} and size.get(0, 0) <= SMALL_BYTES for size in sizes):
        return {}
    return next((size for size in sizes if not size.get(0)), sizes[0])


def _less(g: Statement, node: Any) -> Value:
    parts = g.chain(node)
    return Value(FLAG, plus(_compared(parts), *(part.work for part in parts)), 1)


def _between(g: Statement, node: Any) -> Value:
    value, low, high = g.all([node.this, node.args["low"], node.args["high"]])
    return Value(FLAG, plus(value.work, value.work, low.work, high.work, _compared([value, low]),
                             _compared([value, high])), 1)


def _flag(g: Statement, node: Any) -> Value:
    return Value(FLAG, plus(*(part.work for part in g.all([node.this]))), 1)


def _in(g: Statement, node: Any) -> Value:
    query = node.args.get("query")
    inner = [g.query(query).work] if query is not None else [one.work for one in g.all(node.expressions)]
    return Value(FLAG, plus(g.value(node.this).work, *inner), 1)


def _exists(g: Statement, node: Any) -> Value:
    return Value(FLAG, g.query(node.this).work, 1)


def _scalar(g: Statement, node: Any) -> Value:
    output = g.query(node.this)
    first = output.columns[0][1] if output.columns and output.rest is None else largest_of(
        [*(value for _, value in output.columns), *([output.rest] if output.rest is not None else [])])
    return Value(first.size, plus(output.work, first.size), first.digits, kind=first.kind)


def _like(g: Statement, node: Any) -> Value:
    value, pattern = g.all([node.this, node.expression])
    g.likes.append([value.size, pattern.size])
    work = plus(read(value), pattern.work)
    if isinstance(node, exp.ILike):  # written as lower(…) LIKE lower(…)
        work = plus(work, times(value.size, CASE_WEIGHT), times(pattern.size, CASE_WEIGHT))
    return Value(FLAG, work, 1)


def _case(g: Statement, node: Any) -> Value:
    tested = g.all([node.this, *(branch.this for branch in node.args["ifs"])])
    given = g.all([*(branch.args["true"] for branch in node.args["ifs"]), node.args.get("default")])
    most = largest_of(given)
    return most._replace(work=plus(most.work, *(one.work for one in tested)))


_T = exp.DataType.Type


def _cast(g: Statement, node: Any) -> Value:
    value, kind = g.value(node.this), node.args["to"].this
    if kind in (_T.TEXT, _T.VARCHAR):  # of a column that is not text: bytes and JSON double in length
        size = times(value.size, 2) if value.stored else value.size
        return Value(size, plus(value.work, size), value.digits)
    if kind in (_T.JSON, _T.JSONB):  # a number of five characters may be 309 digits, but the column bounds them all
        return Value(times(value.size, 2), plus(times(read(value), 4), times(value.size, 2)), value.digits)
    if kind == _T.ARRAY:
        size = times(value.size, ELEMENT_WEIGHT)
        return Value(size, plus(read(value), size), DIGITS)
    if kind == _T.CHAR:  # it is filled up with blanks
        sizes = [int(str(one.this.this)) for one in node.args["to"].expressions]
        return Value({0: 4 * max(sizes, default=1)}, read(value), 400)
    if kind == _T.DECIMAL:  # the value is written, read twice and converted: see ``expressions``
        return number_of(value.digits, plus(times(read(value), 4), value.size))
    return Value({0: 400}, read(value), 400)


def _same(g: Statement, node: Any) -> Value:
    return g.value(node.this)


def beside(window: Any) -> list[Any]:
    """The expressions of a window's PARTITION BY and ORDER BY."""
    order = window.args.get("order")
    return [*(window.args.get("partition_by") or []), *(item.this for item in (order.expressions if order else ()))]


def _row(g: Statement, node: Any) -> Value:
    parts = g.all(node.expressions)
    return Value(plus({0: 8}, *(part.size for part in parts)), plus(*(read(part) for part in parts)))


def _each(g: Statement, node: Any) -> Value:
    """ANY and ALL: every element may be compared."""
    compared = node.this
    while isinstance(compared, exp.Paren):
        compared = compared.this
    if isinstance(compared, exp.Subquery | exp.Select | exp.SetOperation):
        return Value(FLAG, g.query(compared).work, 1)
    value = g.value(compared)
    return Value(value.size, plus(read(value), value.size), value.digits)


def _operator(g: Statement, node: Any) -> Value:
    """The operators of JSON and arrays; those that look for something compare each with each."""
    left, right = g.all(node.expressions)
    work = plus(read(left), read(right), left.size)
    if str(node.this) in ("->", "->>", "#>", "#>>"):
        return Value(left.size, work, left.digits)
    if not str(node.this).startswith("?"):
        g.likes.append([_elements(g, one, value) for one, value in zip(node.expressions, (left, right), strict=True)])
    return Value(FLAG, work, 1)


def _elements(g: Statement, node: Any, value: Value) -> Sum:
    """How much of ``value`` is compared: of ARRAY[…] its elements, without what the server needs beside them."""
    if isinstance(node, exp.Array):
        return plus({0: 4 * len(node.expressions)}, *(part.size for part in g.all(node.expressions)))
    return value.size


def _slice(g: Statement, node: Any) -> Value:
    value, index = g.value(node.this), node.expressions[0]
    parts = [index.this, index.args.get("expression")] if isinstance(index, exp.Slice) else [index]
    return Value(value.size, plus(read(value), value.size, *(part.work for part in g.all(parts))), value.digits)


def _array(g: Statement, node: Any) -> Value:
    parts = g.all(node.expressions)
    size = plus({0: ROW_BYTES * (len(parts) + 1)}, *(part.size for part in parts))
    return Value(size, plus(size, *(read(part) for part in parts)), max((part.digits for part in parts), default=0))


def _pairs(g: Statement, node: Any) -> Value:
    parts = g.all([node.this, node.expression])
    return Value(FLAG, plus(_compared(parts), *(part.work for part in parts)), 1)


def _zone(g: Statement, node: Any) -> Value:
    return Value({0: 64}, plus(*(read(part) for part in g.all([node.this, node.args["zone"]]))), 1)


def _floats(g: Statement, node: Any) -> Value:
    return Value({0: 400}, plus(*(read(part) for part in g.all([node.this, node.expression]))), 400)


def _call(g: Statement, node: Any) -> Value:
    return _operator(g, node) if node.args.get(OPERATOR) else function(g, node)


def _small(_g: Statement, _node: Any) -> Value:
    return Value({0: 20}, {}, 20)


def _filter(g: Statement, node: Any) -> Value:
    value, condition = g.value(node.this), g.value(node.expression.this)
    return value._replace(work=plus(value.work, condition.work))


def _window(g: Statement, node: Any) -> Value:
    sorted_by = g.all(beside(node))
    value = g.value(node.this)
    return value._replace(work=plus(value.work, *(one.work for one in sorted_by)))


def _copy(g: Statement, node: Any) -> Value:
    value = g.value(node.this)
    return Value(value.size, plus(read(value), value.size), value.digits)


def _within(g: Statement, node: Any) -> Value:
    """An aggregate over sorted values: it returns one of them, or one between two of them."""
    values = g.all([item.this for item in node.expression.expressions])
    return largest_of(values)._replace(work=plus(work_of(values), g.value(node.this).work))


RULES: dict[type, Callable[[Statement, Any], Value]] = {
    exp.Literal: _literal, exp.Parameter: _parameter, exp.Null: _small, exp.Boolean: _small,
    exp.Star: _small, exp.Paren: _same, exp.Neg: _copy, exp.Not: _flag, exp.And: _logic, exp.Or: _logic, exp.EQ: _logic,
    exp.NEQ: _logic, exp.GT: _less, exp.GTE: _less, exp.LT: _less, exp.LTE: _less, exp.Add: _sum, exp.Sub: _sum,
    exp.Mul: _product, exp.Div: _product, exp.Mod: _product, exp.DPipe: _concatenation, exp.Is: _flag, exp.In: _in,
    exp.Exists: _exists, exp.Subquery: _scalar, exp.Between: _between, exp.Like: _like, exp.ILike: _like,
    exp.Case: _case, exp.Cast: _cast, exp.Anonymous: _call, exp.Filter: _filter, exp.Window: _window,
    exp.WithinGroup: _within, exp.Ordered: _same, exp.Pow: _floats, exp.NullSafeEQ: _pairs, exp.NullSafeNEQ: _pairs,
    exp.Tuple: _row, exp.Any: _each, exp.All: _each, exp.Array: _array, exp.Bracket: _slice, exp.AtTimeZone: _zone,
    exp.Interval: _small, exp.CurrentDate: _small, exp.CurrentTimestamp: _small, exp.Localtimestamp: _small,
    exp.Escape: _same,
}
"""By the kind of node; a column's cost is its source's (``growth``)."""
