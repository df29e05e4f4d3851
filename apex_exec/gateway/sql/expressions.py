"""How values are written: columns, literals, operators, functions, casts. One rule for each kind of node. Pure."""

from __future__ import annotations

import re
from typing import Any

from sqlglot import exp

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.allowed import TYPE_NAMES, TYPES
from apex_exec.gateway.sql.long_numbers import LONG_IN_JSON, NUMBER_CHARACTERS_MAX
from apex_exec.gateway.sql.rules import TO_NUMERIC, rule, shared
from apex_exec.gateway.sql.wording import form_of, is_text, node_name, position, refuse
from apex_exec.gateway.sql.writer import Writer

_NUMBER = re.compile(r"\d{1,40}(\.\d{0,40})?([eE][+-]?\d{1,3})?|\.\d{1,40}", re.ASCII)
GUARDED_CHARACTERS_MAX = 2000
"""The longest text that is cast to numeric: the generated SQL repeats it four times."""

_T = exp.DataType.Type
ELEMENTS_MAX = 200
"""The most elements of one ARRAY[…]; a list parameter may have more."""


@rule("Column", "this table db")
def _column(w: Writer, node: Any) -> str:
    if node.args.get("db") is not None:
        raise refuse(node_name(node), f"{node_name(node.args['table'])}.{node_name(node.this)}", node)
    name = _star(w, node.this) if type(node.this) is exp.Star else w.name(node.this)
    table = node.args.get("table")
    return f"{w.source_name(w.identifier(table))}.{name}" if table is not None else name


@rule("Star")
def _star(w: Writer, node: Any) -> str:
    """* is a column of a SELECT, and nowhere a value; count(*) is written by ``functions``."""
    item = node.parent if type(node.parent) is exp.Column else node
    if type(item.parent) is not exp.Select or item.arg_key != "expressions" or any(node.args.values()):
        raise ApiFailure("sql_syntax", f"* cannot be used as a value{position(node)}; name the columns")
    return "*"


@rule("Literal", "this is_string")
def _literal(w: Writer, node: Any) -> str:
    text = str(node.this)
    if node.is_string:
        if "\0" in text:
            raise refuse("a zero byte in a text", "a text without it")
        return w.text(text)
    if not _NUMBER.fullmatch(text):
        raise refuse("this form of number", "digits, with a point or an exponent")
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
    return fitted(w, node, f"(- {w.write(node.this)})") if w.lite else f"(- {w.write(node.this)})"


@rule("Not", "this")
def _not(w: Writer, node: Any) -> str:
    return f"(NOT {w.write(node.this)})"


_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE)
_OPERATORS = {exp.And: "AND", exp.Or: "OR", exp.EQ: "=", exp.NEQ: "<>", exp.GT: ">", exp.GTE: ">=", exp.LT: "<",
              exp.LTE: "<=", exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.Mod: "%", exp.DPipe: "||"}


@rule("And Or EQ NEQ GT GTE LT LTE Add Sub Mul Div Mod DPipe", "this expression typed safe")
def _operation(w: Writer, node: Any) -> str:
    kind: Any = type(node)
    if w.lite and type(node.expression) in (exp.Any, exp.All):
        return _listed(w, node)
    if w.lite and kind in _FITTED:
        return _fitted_chain(w, node)
    left, parts = node, []
    while type(left) is kind:  # a long chain leans to the left; the loop spares us the recursion
        w.only(left, "this", "expression", "typed", "safe")
        if left.this is None or left.expression is None:
            raise ApiFailure("sql_syntax", f"the operator {_OPERATORS[kind]} needs two sides")
        parts.append(w.write(left.expression))
        left = left.this
    parts.append(w.write(left))
    if kind is exp.DPipe:
        w.concatenated(len(parts) - 1)
    return f"({f' {_OPERATORS[kind]} '.join(reversed(parts))})"


_FITTED = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod)


def _fitted_chain(w: Writer, node: Any) -> str:
    """A chain of one arithmetic operator on SQLite: whatever leaves its type's range is an error, as in PostgreSQL."""
    kind, chain, left = type(node), [], node
    while type(left) is kind:
        w.only(left, "this", "expression", "typed", "safe")
        if left.this is None or left.expression is None:
            raise ApiFailure("sql_syntax", f"the operator {_OPERATORS[kind]} needs two sides")
        chain.append(left)
        left = left.this
    text = w.write(left)
    for one in reversed(chain):
        right = w.write(one.expression)
        if kind is exp.Mod and w.kind(one):
            text = f"pg_mod({text}, {right})"
        elif kind is exp.Div:
            text = f"pg_div({text}, {right})"
        else:
            text = f"({text} {_OPERATORS[kind]} {right})"
        text = fitted(w, one, text)
    return text


@shared
def fitted(w: Writer, node: Any, text: str) -> str:
    """``text``, a number on SQLite, if it is in the range of the type that PostgreSQL gives ``node``, or an error."""
    kind = w.kind(node)
    scale = kind.partition(":")[2]
    if scale.isdigit():
        return f"pg_fit_num({text}, {scale})"
    return f"pg_fit_{kind}({text})" if kind in ("int2", "int4", "int8", "float") else text


@rule("Pow", "this expression")
def _power(w: Writer, node: Any) -> str:
    if w.lite:
        raise w.only_postgres("the operator ^", node)
    return (f"pg_catalog.power(CAST({w.write(node.this)} AS DOUBLE PRECISION), "
            f"CAST({w.write(node.expression)} AS DOUBLE PRECISION))")


@rule("NullSafeEQ NullSafeNEQ", "this expression")
def _distinct_from(w: Writer, node: Any) -> str:
    same = type(node) is exp.NullSafeEQ
    word = ("IS" if same else "IS NOT") if w.lite else f"IS {'NOT ' * same}DISTINCT FROM"
    return f"({w.write(node.this)} {word} {w.write(node.expression)})"


@rule("Tuple", "expressions")
def _row(w: Writer, node: Any) -> str:
    """(a, b), which may only be compared with another row of the same width."""
    above, width = node.parent, len(node.expressions)
    beside = ([above.this, above.expression] if isinstance(above, _COMPARISONS) else
              [above.this, *above.expressions] if isinstance(above, exp.In) and above.args.get("query") is None else [])
    if width < 2 or not beside or any(type(one) is not exp.Tuple or len(one.expressions) != width for one in beside):
        raise refuse("a list of values in brackets", "a comparison of two rows, such as (a, b) > ($1, $2)", node)
    return f"({w.all(node.expressions)})"


@rule("Any All", "this")
def _any(w: Writer, node: Any) -> str:
    word, compared = ("ALL" if type(node) is exp.All else "ANY"), node.this
    while type(compared) is exp.Paren:
        compared = compared.this
    return _each(w, node, word, compared)


def _each(w: Writer, node: Any, word: str, compared: Any) -> str:
    """What stands to the right of a comparison: ANY (…) or ALL (…) of a list, an array or a query."""
    above = node.parent
    if not isinstance(above, _COMPARISONS) or above.expression is not node:
        raise refuse(word, f"{word} to the right of a comparison: column = ANY ($1)", node)
    if isinstance(compared, exp.Subquery | exp.Select | exp.SetOperation):
        if w.lite:
            raise w.only_postgres(f"{word} of a query", node)
        return f"{word} {w.members(compared)}"
    if type(compared) is exp.Parameter:
        w.lists.add(w.number(compared))
    if w.lite:
        raise w.only_postgres(f"{word}, except column = ANY ($1) and column <> ALL ($1),", node)
    return f"{word} ({w.write(compared)})"


def _listed(w: Writer, node: Any) -> str:
    """``value = ANY ($1)`` and ``value <> ALL ($1)`` on SQLite, where the list is JSON."""
    value, each = node.this, node.expression
    compared = each.this
    while type(compared) is exp.Paren:
        compared = compared.this
    same = type(node) is exp.EQ and type(each) is exp.Any
    if type(compared) is not exp.Parameter or not (same or type(node) is exp.NEQ and type(each) is exp.All):
        raise w.only_postgres("ANY and ALL, except column = ANY ($1) and column <> ALL ($1),", node)
    w.lists.add(w.number(compared))
    parameter = w.write(compared)
    return (f"(CASE WHEN {parameter} IS NULL THEN NULL ELSE {w.write(value)} {'IN' if same else 'NOT IN'} "
            f"(SELECT `value` FROM json_each({parameter})) END)")


@rule("Array", "expressions value_constructor")
def _array(w: Writer, node: Any) -> str:
    if len(node.expressions) > ELEMENTS_MAX:
        raise refuse(f"ARRAY with more than {ELEMENTS_MAX} elements", "a list parameter", node)
    if w.lite:
        raise w.only_postgres("ARRAY", node)
    if not node.expressions and not isinstance(node.parent, exp.Cast):
        raise refuse("an empty ARRAY without a type", "ARRAY[]::text[]", node)
    return f"ARRAY[{w.all(node.expressions) if node.expressions else ''}]"


@rule("Bracket", "this expressions")
def _element(w: Writer, node: Any) -> str:
    if w.lite:
        raise w.only_postgres("an element of an array", node)
    if len(node.expressions) != 1:
        raise refuse("this subscript", "one index: a[1], or a slice: a[1:2]", node)
    index = node.expressions[0]
    if type(index) is not exp.Slice:
        return f"({w.write(node.this)})[{w.write(index)}]"
    w.only(index, "this", "expression")
    first, last = (w.write(one) if one is not None else "" for one in (index.this, index.args.get("expression")))
    return f"({w.write(node.this)})[{first}:{last}]"


@rule("Is", "this expression negate")
def _is(w: Writer, node: Any) -> str:
    if type(node.expression) not in (exp.Null, exp.Boolean):
        raise refuse("this form of IS", "IS NULL, IS TRUE or IS FALSE")
    word = "IS NOT" if node.args.get("negate") else "IS"
    left = w.write(node.this)
    if is_text(node.this) and not w.lite:
        left = f"CAST({left} AS TEXT)"  # it may be a parameter of ours, whose type nothing else says there
    return f"({left} {word} {w.write(node.expression)})"


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
    return _compared(w, node, "ESCAPE '\\'")


def _compared(w: Writer, node: Any, escape: str) -> str:
    value, pattern = w.write(node.this), w.pattern(node.expression)
    if type(node) is exp.ILike:
        lower = "pg_lower" if w.lite else "pg_catalog.lower"
        value, pattern = f"{lower}({value})", f"{lower}({pattern})"
    word = "NOT LIKE" if node.args.get("negate") else "LIKE"
    return f"({value} {word} {pattern} {escape})"


@rule("Case", "this ifs default")
def _case(w: Writer, node: Any) -> str:
    text = f"CASE {w.write(node.this)}" if node.this is not None else "CASE"
    for branch in node.args["ifs"]:
        w.only(branch, "this", "true")
        text += f" WHEN {w.write(branch.this)} THEN {w.write(branch.args['true'])}"
    default = node.args.get("default")
    return f"{text}{f' ELSE {w.write(default)}' if default is not None else ''} END"


@rule("Cast", "this to")
def _cast(w: Writer, node: Any) -> str:
    kind, value = node.args.get("to"), node.this
    name, is_array = _type(w, kind), kind.args.get("nested") and kind.this == exp.DataType.Type.ARRAY
    plain = value
    while type(plain) is exp.Paren:
        plain = plain.this
    if is_array:
        if type(plain) is exp.Parameter:
            w.lists.add(w.number(plain))
    elif kind.this in (exp.DataType.Type.JSON, exp.DataType.Type.JSONB):
        return _to_json(w, plain, name)
    elif kind.this == exp.DataType.Type.DECIMAL:
        return _to_numeric(w, value, name)
    strict = _STRICT.get("DATE" if kind.this == exp.DataType.Type.DATE else name) if w.lite else None
    if strict is not None:
        text = f"{strict}({w.write(value)})"
        return fitted(w, node, text) if strict == "pg_int" else text
    return f"CAST({w.write(value)} AS {name})"


_STRICT = {"INTEGER": "pg_int", "REAL": "pg_float", "NUMERIC": "pg_number", "DATE": "pg_date"}
"""The casts that SQLite makes of any text, and PostgreSQL of texts that are numbers."""


def _type(w: Writer, kind: Any) -> str:
    """The name of a type, as the database writes it. Raises ApiFailure."""
    if type(kind) is not exp.DataType or type(kind.this) is not exp.DataType.Type:
        raise refuse("a cast to this type", f"one of {TYPE_NAMES}", kind)
    if kind.this == exp.DataType.Type.ARRAY and len(kind.expressions) == 1:
        w.only(kind, "this", "expressions", "nested")
        if w.lite:
            raise w.only_postgres("a cast to an array", kind)
        inner = kind.expressions[0]
        if type(inner) is exp.DataType and inner.this == exp.DataType.Type.ARRAY:
            raise refuse("a cast to an array of arrays", "an array: int[]", kind)
        return f"{_type(w, inner)}[]"
    known = TYPES.get(kind.this.name)
    if known is None or kind.args.get("nested") or len(kind.expressions) > known.sized:
        raise refuse(f"a cast to {node_name(kind).lower()}", f"one of {TYPE_NAMES}", kind)
    w.only(kind, "this", "expressions", "nested")
    if w.lite:
        if not known.sqlite or kind.expressions:
            raise w.only_postgres(f"a cast to {node_name(kind).lower()}", kind.parent)
        return known.sqlite
    sizes = []
    for size in kind.expressions:
        digits = str(size.this.this) if type(size) is exp.DataTypeParam and type(size.this) is exp.Literal else ""
        if not digits.isdigit() or len(digits) > 8 or int(digits) > known.size_max or size.args.get("expression"):
            raise refuse(f"a cast to {node_name(kind).lower()}", f"numbers up to {known.size_max}", kind)
        sizes.append(digits)
    return f"{known.postgres}({', '.join(sizes)})" if sizes else known.postgres


def _to_json(w: Writer, node: Any, name: str) -> str:
    """``node`` as JSON. A number with an exponent of four digits has few characters in JSON and any number of digits in
    memory, so it is an error; parameters and literals are looked at before (``growth``)."""
    if type(node) is exp.Parameter:
        w.structured.add(w.number(node))
    value = w.write(node)
    if type(node) in (exp.Parameter, exp.Literal, exp.Null):
        return f"CAST({value} AS {name})"
    if len(value) > GUARDED_CHARACTERS_MAX:
        raise refuse(f"a cast to {name.lower()} of an expression of more than {GUARDED_CHARACTERS_MAX} characters")
    text = f"CAST({value} AS TEXT)"
    return (f"(CASE WHEN {text} ~ {w.extra(LONG_IN_JSON)} THEN CAST(CAST(CAST(length({text}) || "
            "' characters: a number in JSON has at most an exponent of three digits' AS BOOLEAN) AS TEXT) "
            f"AS {name}) ELSE CAST({value} AS {name}) END)")


_NUMBERS = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.Neg, exp.Pow)
_NUMBER_COSTS = frozenset({"small", "sum", "average", "float", "round", "product"})
_T = exp.DataType.Type
_NUMBER_TYPES = (_T.SMALLINT, _T.INT, _T.BIGINT, _T.DOUBLE, _T.FLOAT, _T.DECIMAL)


def _is_number(node: Any) -> bool:
    """Whether ``node`` is a number whatever the columns are, or a literal or parameter whose length we check."""
    while isinstance(node, exp.Paren):
        node = node.this
    if isinstance(node, exp.Cast):
        return node.args["to"].this in _NUMBER_TYPES
    form = form_of(node)
    if form is not None:
        return form.cost in _NUMBER_COSTS or form.name == "abs"
    return isinstance(node, (*_NUMBERS, exp.Literal, exp.Parameter, exp.Null))


def _to_numeric(w: Writer, node: Any, name: str = "NUMERIC") -> str:
    """``node`` as numeric. PostgreSQL accepts numbers of 131,072 digits, and computes the quotient of two of them for
    seconds without checking the clock. So a text with more than NUMBER_CHARACTERS_MAX characters, or with an exponent
    of four digits, is an error there."""
    value = w.write(node)
    if w.lite:
        return f"pg_number({value})"
    if _is_number(node):
        return f"CAST({value} AS {name})"
    if len(value) > GUARDED_CHARACTERS_MAX:
        raise refuse(f"a cast to numeric of an expression of more than {GUARDED_CHARACTERS_MAX} characters")
    text = f"CAST({value} AS TEXT)"
    return (f"(CASE WHEN length({text}) > {NUMBER_CHARACTERS_MAX} OR {text} ~ '[eE][-+]?[0-9_]{{4}}' "
            f"THEN CAST(substr({text}, 1, 20) || '...: a number has at most {NUMBER_CHARACTERS_MAX} characters and an "
            f"exponent of three digits' AS NUMERIC) ELSE CAST({value} AS {name}) END)")


TO_NUMERIC.append(_to_numeric)


@rule("Escape", "this expression")
def _escape(w: Writer, node: Any) -> str:
    """LIKE … ESCAPE 'c'."""
    like, escape = node.this, node.expression
    if type(like) not in (exp.Like, exp.ILike) or type(escape) is not exp.Literal or len(str(escape.this)) != 1:
        raise refuse("this ESCAPE", "one character as a literal", node)
    w.only(like, "this", "expression", "negate")
    return _compared(w, like, f"ESCAPE {w.text(str(escape.this))}")


@rule("Ordered", "this desc nulls_first")
def _ordered(w: Writer, node: Any) -> str:
    return f"{w.write(node.this)} {direction(node)}"


@shared
def direction(node: Any) -> str:
    """What follows the value in ORDER BY, with the place of NULL: each database has its own default."""
    return f"{'DESC' if node.args.get('desc') else 'ASC'} NULLS {'FIRST' if node.args.get('nulls_first') else 'LAST'}"
