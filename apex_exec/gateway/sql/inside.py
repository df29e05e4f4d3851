"""What of a plugin's conditions may stand inside a fence, so that a query reads what it returns. Pure.

The fence of a table (``writer``) has all of the caller's rows; the plugin's conditions come after it, and a query by
key would read all of them. So a condition stands inside the fence **too** if it cannot fail, whatever other users' rows
hold: a planner may look at it before the owner's, and an error would tell of those rows. It cannot fail if it compares
a column of an ordinary table (a view computes) whose type has comparisons that never fail with a value that is
converted to that type before the first row is read. ``Writer.shapes`` has those columns. Outside, every condition stays
as it was.

LIMIT and ORDER BY stand inside, too, if nothing between the table and them changes the number of rows.

What remains is time: a query by the key of another user's row takes microseconds longer than by the key of none. So it
is with PostgreSQL's own row-level security.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from sqlglot import exp

from apex_exec.gateway.sql.dialect import OPERATOR
from apex_exec.gateway.sql.kinds import ANY_VALUE
from apex_exec.gateway.sql.pieces import PLAIN_TEXT, Inside
from apex_exec.gateway.sql.rules import SHARED, shared
from apex_exec.gateway.sql.tables import Table
from apex_exec.gateway.sql.wording import form_of
from apex_exec.gateway.sql.writer import Writer

MEMBERS_MAX = 100
"""The most values of an IN that stand inside."""
ROWS_MAX = 1_000_000_000
"""What a LIMIT or an OFFSET counts at most: their sum stays a bigint."""

_COMPARED = {exp.EQ: "=", exp.GT: ">", exp.GTE: ">=", exp.LT: "<", exp.LTE: "<="}
_TURNED = {"=": "=", ">": "<", ">=": "<=", "<": ">", "<=": ">="}
_T = exp.DataType.Type
_CASTS = (_T.UUID, _T.DATE, _T.TIMESTAMP, _T.TIMESTAMPTZ, _T.TEXT)
"""The casts of a literal or a parameter that fail before the first row or never, whatever type the parameter has."""
_MANY = (exp.Window, exp.Filter, exp.WithinGroup, exp.Select, exp.SetOperation, exp.Subquery)
"""What makes a result of more or fewer rows than the table's, or may."""


class _Source(Struct, frozen=True):
    """A table in FROM, by the name that the query gives it."""

    alias: str
    table: Table
    shape: dict[str, str]


@shared
def inside(w: Writer, node: Any) -> dict[str, Inside]:
    """What may stand inside the fence of each table that ``node``, a SELECT, reads, by the table's name in it."""
    source, joins = node.args.get("from_"), node.args.get("joins") or []
    if source is None:
        return {}
    given = [source.this, *(join.this for join in joins)]
    found = [one for one in (_source(w, each) for each in given) if one is not None]
    sources = {one.alias: one for one in found}
    if not sources or len(sources) < len(found):
        return {}
    alone = len(given) == 1
    conditions: dict[str, list[str]] = {alias: [] for alias in sources}
    where, whole = node.args.get("where"), True
    waiting = [where.this] if where is not None else []
    while waiting:
        part = waiting.pop()
        if type(part) in (exp.Paren, exp.And):
            waiting += [part.this] + ([part.expression] if type(part) is exp.And else [])
            continue
        written = _condition(w, sources, part, alone=alone)
        whole = whole and written is not None
        if written is not None:
            conditions[written[0]].append(written[1])
    tail = ""
    if alone and whole and type(node) is exp.Select:
        tail = _tail(w, sources, node)
    return {alias: Inside(tuple(texts), tail) for alias, texts in conditions.items() if texts or tail}


def _source(w: Writer, node: Any) -> _Source | None:
    """A table with a shape, or None: for a CTE, a view, a function, a query."""
    if type(node) is not exp.Table or type(node.this) is not exp.Identifier or node.args.get("catalog") is not None:
        return None
    alias = node.args.get("alias")
    if alias is not None and (type(alias) is not exp.TableAlias or alias.args.get("columns")):
        return None
    word, schema = w.identifier(node.this), node.args.get("db")
    table = w.table(word, w.identifier(schema) if schema is not None else "")
    shape = w.shapes.get(table.name) if table is not None else None
    if table is None or not shape:
        return None
    return _Source(w.identifier(alias.this) if alias is not None else word, table, dict(shape))


def _column(w: Writer, sources: dict[str, _Source], node: Any) -> tuple[_Source, str] | None:
    """(the table, the column) that ``node`` names, if it is a column of one of the tables that may be compared."""
    if type(node) is not exp.Column or type(node.this) is not exp.Identifier:
        return None
    named = node.args.get("table")
    if named is None and len(sources) > 1:
        return None
    source = sources.get(w.identifier(named)) if named is not None else next(iter(sources.values()))
    word = w.identifier(node.this)
    if source is None or word not in source.table.columns or word not in source.shape:
        return None
    return source, word


def _named(w: Writer, source: _Source, word: str) -> str:
    return f"{source.table.placed(w.quoted)}.{w.quoted(word)}"


def _condition(w: Writer, sources: dict[str, _Source], node: Any, *, alone: bool) -> tuple[str, str] | None:
    """(the table's name in the query, ``node`` as a condition of its fence), or None if it may not stand there.

    With a join, the name of a column without its table may be another source's, and a row that a join fills with NULL
    must not be missed by IS NULL.
    """
    operands = [node.this]
    kind = type(node)
    if kind in _COMPARED:
        operands = [node.this, node.expression]
    found = [(place, column) for place, one in enumerate(operands)
             if alone or isinstance(one, exp.Column) and one.args.get("table") is not None
             if (column := _column(w, sources, one)) is not None]
    if len(found) != 1:
        return None
    place, (source, word) = found[0]
    name, shape = _named(w, source, word), source.shape[word]
    text = ""
    if kind in _COMPARED:
        other, operator = operands[1 - place], _COMPARED[kind]
        if kind is exp.EQ and not place and type(other) is exp.Any and not w.lite and shape == ANY_VALUE:
            text = _listed(w, name, other)
        elif (value := _value(w, other, shape)) is not None:
            text = f"{name} {operator if not place else _TURNED[operator]} {value}"
    elif kind is exp.Between and not node.args.get("symmetric"):
        low, high = (_value(w, node.args[part], shape) for part in ("low", "high"))
        text = f"{name} BETWEEN {low} AND {high}" if low is not None and high is not None else ""
    elif kind is exp.In and node.args.get("query") is None and 0 < len(node.expressions) <= MEMBERS_MAX:
        values = [_value(w, one, shape) for one in node.expressions]
        text = f"{name} IN ({', '.join(map(str, values))})" if None not in values else ""
    elif kind is exp.Is and alone and type(node.expression) is exp.Null:
        text = f"{name} IS {'NOT ' * bool(node.args.get('negate'))}NULL"
    return (source.alias, f"({text})") if text else None


def _listed(w: Writer, name: str, node: Any) -> str:
    """``= ANY ($1)``: PostgreSQL makes the list an array of the column's type."""
    compared = node.this
    while type(compared) is exp.Paren:
        compared = compared.this
    return f"{name} = ANY ({w.write(compared)})" if _once(w, compared) else ""


def _once(w: Writer, node: Any) -> bool:
    """Whether ``node`` is a parameter that the text uses nowhere else. Its type is then the column's, here as there."""
    return type(node) is exp.Parameter and w.uses[w.number(node)] == 1


def _value(w: Writer, node: Any, shape: str) -> str | None:
    """``node`` written, if a database knows its value before the first row."""
    while type(node) is exp.Paren:
        node = node.this
    if type(node) is exp.Neg and type(node.this) is exp.Literal and not node.this.is_string:
        return w.write(node)
    if type(node) is exp.Cast and not w.lite:
        to, plain = node.args["to"], node.this
        simple = to.this in _CASTS and not to.expressions and not to.args.get("nested")
        return w.write(node) if simple and shape == ANY_VALUE and _value(w, plain, shape) is not None else None
    if type(node) is exp.Literal:
        return w.write(node) if not node.is_string or PLAIN_TEXT.fullmatch(str(node.this)) else None
    return w.write(node) if shape == ANY_VALUE and _once(w, node) else None


def _tail(w: Writer, sources: dict[str, _Source], node: Any) -> str:
    """ORDER BY and LIMIT, if each row of the table that meets the conditions is one row of the result."""
    limit, offset, order = (node.args.get(part) for part in ("limit", "offset", "order"))
    if type(limit) is not exp.Limit or any(node.args.get(part) for part in ("distinct", "group", "having", "windows")):
        return ""
    if any(_changes(part) for item in node.expressions for part in item.walk()):
        return ""
    renamed = {w.identifier(item.args["alias"]) for item in node.expressions
               if type(item) is exp.Alias and type(item.args.get("alias")) is exp.Identifier}
    keys = []
    for key in order.expressions if order is not None else ():
        column = _column(w, sources, key.this) if type(key) is exp.Ordered else None
        if column is None or key.this.args.get("table") is None and column[1] in renamed:  # a column of the result
            return ""
        keys.append(f"{_named(w, *column)} {SHARED['direction'](key)}")
    rows = _rows(w, limit, offset)
    sorted_by = f"ORDER BY {', '.join(keys)} " if keys else ""
    return f"{sorted_by}LIMIT {rows}" if rows else ""


def _changes(node: Any) -> bool:
    """Whether ``node`` may make the result have another number of rows than the table."""
    if isinstance(node, _MANY):
        return True
    if not isinstance(node, exp.Anonymous) or node.args.get(OPERATOR):
        return False
    form = form_of(node)
    return form is None or form.kind != "value"


def _rows(w: Writer, limit: Any, offset: Any) -> str:
    """How many rows suffice: those that are returned, and those that are skipped."""
    parts = [one.expression for one in (limit, offset) if one is not None]
    if any(type(one) is not exp.Literal and (not _once(w, one) or w.lite and offset is not None) for one in parts):
        return ""
    if any(type(one) is exp.Literal and (one.is_string or not str(one.this).isdigit() or int(one.this) > ROWS_MAX)
           for one in parts):
        return ""
    if len(parts) == 1:
        return w.write(parts[0])
    if w.lite:
        return str(sum(int(one.this) for one in parts))
    return " + ".join(f"LEAST(CAST({w.write(one)} AS BIGINT), {ROWS_MAX})" for one in parts)
