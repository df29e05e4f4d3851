"""How values are written: columns, literals, operators, functions, casts. One rule for each kind of node. Pure."""

from __future__ import annotations

import re
from typing import Any

from sqlglot import exp

from apex_exec.gateway.sql.growth import NUMBER_CHARACTERS_MAX
from apex_exec.gateway.sql.writer import WINDOWED, Writer, node_name, refuse, rule

_NUMBER = re.compile(r"\d{1,40}(\.\d{0,40})?([eE][+-]?\d{1,3})?|\.\d{1,40}")
_PLAIN_TEXT = re.compile(r"[A-Za-z0-9 _.,:@/+%-]{0,200}")

GUARDED_CHARACTERS_MAX = 2000
"""The longest text that is cast to numeric: the generated SQL repeats it four times."""

_T = exp.DataType.Type
_CASTS = {_T.SMALLINT: ("SMALLINT", "INTEGER"), _T.INT: ("INTEGER", "INTEGER"), _T.BIGINT: ("BIGINT", "INTEGER"),
          _T.DOUBLE: ("DOUBLE PRECISION", "REAL"), _T.FLOAT: ("REAL", "REAL"), _T.TEXT: ("TEXT", "TEXT"),
          _T.VARCHAR: ("TEXT", "TEXT"), _T.DECIMAL: ("NUMERIC", "NUMERIC"), _T.UUID: ("UUID", "TEXT"),
          _T.DATE: ("DATE", "TEXT"), _T.TIMESTAMPTZ: ("TIMESTAMPTZ", "TEXT"), _T.BOOLEAN: ("BOOLEAN", "INTEGER")}
"""The types to which a value may be cast: (PostgreSQL, SQLite). None of them names an object of the database."""
TYPES = "smallint int bigint double precision real numeric text varchar uuid date timestamptz boolean"
"""The list in error messages."""


@rule("Column", "this table")
def _column(w: Writer, node: Any) -> str:
    name = "*" if type(node.this) is exp.Star and not any(node.this.args.values()) else w.name(node.this)
    table = node.args.get("table")
    return f"{w.source_name(w.identifier(table))}.{name}" if table is not None else name


@rule("Star")
def _star(w: Writer, node: Any) -> str:
    return "*"


@rule("Literal", "this is_string")
def _literal(w: Writer, node: Any) -> str:
    text = str(node.this)
    if node.is_string:
        if "\0" in text:
            raise refuse("a zero byte")
        return f"'{text}'" if _PLAIN_TEXT.fullmatch(text) else w.extra(text)
    if not _NUMBER.fullmatch(text):
        raise refuse("this number")
    return text


@rule("Null")
def _null(w: Writer, node: Any) -> str:
    return "NULL"


@rule("Boolean", "this")
def _boolean(w: Writer, node: Any) -> str:
    return "TRUE" if node.this else "FALSE"


@rule("Parameter", "this")
def _parameter(w: Writer, node: Any) -> str:
    return f"${w.number(node)}"


@rule("Paren", "this")
def _paren(w: Writer, node: Any) -> str:
    return f"({w.write(node.this)})"


@rule("Neg", "this")
def _neg(w: Writer, node: Any) -> str:
    return f"(- {w.write(node.this)})"


@rule("Not", "this")
def _not(w: Writer, node: Any) -> str:
    return f"(NOT {w.write(node.this)})"


_OPERATORS = {exp.And: "AND", exp.Or: "OR", exp.EQ: "=", exp.NEQ: "<>", exp.GT: ">", exp.GTE: ">=", exp.LT: "<",
              exp.LTE: "<=", exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.Mod: "%", exp.DPipe: "||"}


@rule("And Or EQ NEQ GT GTE LT LTE Add Sub Mul Div Mod DPipe", "this expression typed safe")
def _operation(w: Writer, node: Any) -> str:
    kind: Any = type(node)
    left, parts = node, []
    while type(left) is kind:  # a long chain leans to the left; the loop spares us the recursion
        w.only(left, "this", "expression", "typed", "safe")
        parts.append(w.write(left.expression))
        left = left.this
    parts.append(w.write(left))
    if kind is exp.DPipe:
        w.concatenated(len(parts) - 1)
    return f"({f' {_OPERATORS[kind]} '.join(reversed(parts))})"


@rule("Is", "this expression negate")
def _is(w: Writer, node: Any) -> str:
    if type(node.expression) not in (exp.Null, exp.Boolean):
        raise refuse("this IS")
    word = "IS NOT" if node.args.get("negate") else "IS"
    return f"({w.write(node.this)} {word} {w.write(node.expression)})"


@rule("In", "this expressions query")
def _in(w: Writer, node: Any) -> str:
    query = node.args.get("query")
    inner = f"({w.all(node.expressions)})" if query is None else w.members(query)
    return f"({w.write(node.this)} IN {inner})"


@rule("Exists", "this")
def _exists(w: Writer, node: Any) -> str:
    return f"EXISTS {w.existing(node.this, joined=_is_joined(node))}"


def _is_joined(node: Any) -> bool:
    """Whether an EXISTS, or its NOT, is the whole condition of a WHERE, or one of the conditions joined by AND."""
    above = node.parent
    while isinstance(above, exp.Paren):
        above = above.parent
    if isinstance(above, exp.Not):
        above = above.parent
    while isinstance(above, exp.Paren | exp.And):
        above = above.parent
    return isinstance(above, exp.Where)


@rule("Subquery", "this")
def _scalar(w: Writer, node: Any) -> str:
    return w.subquery(node.this)


@rule("Between", "this low high")
def _between(w: Writer, node: Any) -> str:
    low, high = node.args["low"], node.args["high"]
    return f"({w.write(node.this)} BETWEEN {w.write(low)} AND {w.write(high)})"


@rule("Like ILike", "this expression negate")
def _like(w: Writer, node: Any) -> str:
    value, pattern = w.write(node.this), w.pattern(node.expression)
    if type(node) is exp.ILike:
        value, pattern = f"lower({value})", f"lower({pattern})"
    word = "NOT LIKE" if node.args.get("negate") else "LIKE"
    return f"({value} {word} {pattern} ESCAPE '\\')"


@rule("Case", "this ifs default")
def _case(w: Writer, node: Any) -> str:
    text = f"CASE {w.write(node.this)}" if node.this is not None else "CASE"
    for branch in node.args["ifs"]:
        w.only(branch, "this", "true")
        text += f" WHEN {w.write(branch.this)} THEN {w.write(branch.args['true'])}"
    default = node.args.get("default")
    return f"{text}{f' ELSE {w.write(default)}' if default is not None else ''} END"


@rule("Coalesce", "this expressions")
def _coalesce(w: Writer, node: Any) -> str:
    return f"coalesce({w.all([node.this, *node.expressions])})"


@rule("Nullif", "this expression")
def _nullif(w: Writer, node: Any) -> str:
    return f"nullif({w.write(node.this)}, {w.write(node.expression)})"


@rule("Cast", "this to")
def _cast(w: Writer, node: Any) -> str:
    kind = node.args.get("to")
    if type(kind) is not exp.DataType or kind.expressions or kind.args.get("nested"):
        raise refuse("a cast to this type", f"casts to {TYPES}")
    types = _CASTS.get(kind.this)
    if types is None:
        raise refuse(f"a cast to {node_name(kind).lower()}", f"casts to {TYPES}")
    if kind.this == _T.DECIMAL:
        return _to_numeric(w, node.this)
    return f"CAST({w.write(node.this)} AS {types[w.lite]})"


_NUMBERS = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.Neg, exp.Abs, exp.Count, exp.Sum, exp.Avg, exp.Length,
            exp.Round, exp.RowNumber, exp.Rank, exp.DenseRank)
_NUMBER_TYPES = (_T.SMALLINT, _T.INT, _T.BIGINT, _T.DOUBLE, _T.FLOAT, _T.DECIMAL)


def _is_number(node: Any) -> bool:
    """Whether ``node`` is a number whatever the columns are, or a literal or parameter whose length we check."""
    while isinstance(node, exp.Paren | exp.Filter | exp.Window):
        node = node.this
    if isinstance(node, exp.Cast):
        return node.args["to"].this in _NUMBER_TYPES
    return isinstance(node, (*_NUMBERS, exp.Literal, exp.Parameter, exp.Null))


def _to_numeric(w: Writer, node: Any) -> str:
    """``node`` as numeric. PostgreSQL accepts numbers of 131,072 digits, and computes the quotient of two of them for
    seconds without checking the clock. So a text with more than NUMBER_CHARACTERS_MAX characters, or with an exponent
    of four digits, is an error there."""
    value = w.write(node)
    if w.lite or _is_number(node):
        return f"CAST({value} AS NUMERIC)"
    if len(value) > GUARDED_CHARACTERS_MAX:
        raise refuse(f"a cast to numeric of an expression of more than {GUARDED_CHARACTERS_MAX} characters")
    text = f"CAST({value} AS TEXT)"
    return (f"(CASE WHEN length({text}) > {NUMBER_CHARACTERS_MAX} OR {text} ~ '[eE][-+]?[0-9_]{{4}}' "
            f"THEN CAST(substr({text}, 1, 20) || '...: a number has at most {NUMBER_CHARACTERS_MAX} characters and an "
            f"exponent of three digits' AS NUMERIC) ELSE CAST({value} AS NUMERIC) END)")


@rule("Lower Upper Length Abs Trim Min Max Sum", "this")
def _function(w: Writer, node: Any) -> str:
    return f"{type(node).__name__.lower()}({w.write(node.this)})"


@rule("Avg", "this")
def _avg(w: Writer, node: Any) -> str:
    value = f"avg({w.write(node.this)})"  # for integers PostgreSQL returns numeric, SQLite real
    return value if w.lite else f"CAST({value} AS DOUBLE PRECISION)"


@rule("Round", "this decimals")
def _round(w: Writer, node: Any) -> str:
    value = w.write(node.this) if w.lite else _to_numeric(w, node.this)
    decimals = w.write(node.args["decimals"]) if node.args.get("decimals") is not None else "0"
    return f"round({value}, {decimals})" if w.lite else f"CAST(round({value}, {decimals}) AS DOUBLE PRECISION)"


@rule("Substring", "this start length")
def _substring(w: Writer, node: Any) -> str:
    parts = [node.this, node.args.get("start"), node.args.get("length")]
    return f"substr({w.all([part for part in parts if part is not None])})"


@rule("Count", "this big_int")
def _count(w: Writer, node: Any) -> str:
    counted = node.this
    if type(counted) is exp.Distinct:
        w.only(counted, "expressions")
        if len(counted.expressions) != 1:
            raise refuse("count(DISTINCT) of more than one value")
        return f"count(DISTINCT {w.write(counted.expressions[0])})"
    return f"count({w.write(counted)})"


@rule("RowNumber Rank DenseRank")
def _rank(w: Writer, node: Any) -> str:
    return {exp.RowNumber: "row_number", exp.Rank: "rank", exp.DenseRank: "dense_rank"}[type(node)] + "()"


@rule("Filter", "this expression")
def _filter(w: Writer, node: Any) -> str:
    condition = node.expression
    if type(condition) is not exp.Where or type(node.this) not in WINDOWED[3:]:
        raise refuse("this FILTER")
    w.only(condition, "this")
    return f"{w.write(node.this)} FILTER (WHERE {w.write(condition.this)})"


@rule("Window", "this partition_by order over")
def _window(w: Writer, node: Any) -> str:
    function = node.this.this if type(node.this) is exp.Filter else node.this
    if type(function) not in WINDOWED:
        raise refuse(f"{node_name(function)} as a window function")
    if str(node.args.get("over") or "OVER").upper() != "OVER":
        raise refuse("this window")
    parts = []
    if node.args.get("partition_by"):
        parts.append(f"PARTITION BY {w.all(node.args['partition_by'])}")
    if node.args.get("order") is not None:
        parts.append(w.order(node.args["order"]).strip())
    return f"{w.write(node.this)} OVER ({' '.join(parts)})"


@rule("Ordered", "this desc nulls_first")
def _ordered(w: Writer, node: Any) -> str:
    way = "DESC" if node.args.get("desc") else "ASC"
    return f"{w.write(node.this)} {way} NULLS {'FIRST' if node.args.get('nulls_first') else 'LAST'}"
