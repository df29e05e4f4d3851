"""The costs of functions: one rule for each cost that ``allowed`` names. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlglot import exp

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.allowed import FORMS, Form
from apex_exec.gateway.sql.bounds import (
    CASE_WEIGHT,
    DIGIT_PAIRS_PER_BYTE,
    ELEMENT_WEIGHT,
    ESCAPED_WEIGHT,
    FORMATTED_WEIGHT,
    HELD_BYTES_MAX,
    ROW_BYTES,
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


def _literal_number(node: Any) -> int | None:
    while isinstance(node, exp.Paren | exp.Cast):
        node = node.this
    text = str(node.this) if isinstance(node, exp.Literal) and not node.is_string else ""
    return int(text) if text.isdigit() else None


def _cut(parts: list[Value], given: list[Any], form: Form) -> Value:
    size = parts[0].size
    many = _literal_number(given[-1]) if len(given) > 2 or form.name in ("left", "right") else None
    if many is not None:
        size = {0: 4 * many} if set(size) != {0} or 4 * many < size[0] else size
    return Value(size, plus(work_of(parts), size))


def _replaced(parts: list[Value], given: list[Any]) -> Value:
    """The result of ``replace``: each character may become the replacement, which is a literal or empty."""
    instead = given[2]
    while isinstance(instead, exp.Paren | exp.Cast):
        instead = instead.this
    if not isinstance(instead, exp.Literal):
        raise ApiFailure("sql_forbidden", "a parameter as the third argument of replace is not allowed here; use a "
                                          "literal")
    size = times(parts[0].size, max(1, len(str(instead.this).encode())))
    return Value(size, plus(work_of(parts), size))


def function(g: Statement, node: Any) -> Value:
    """The bound of a call of a function that is allowed."""
    name, given = str(node.this.this if isinstance(node.this, exp.Identifier) else node.this), node.expressions
    form = FORMS.get(name.lower())
    assert form is not None, node.this  # ``writer`` has refused it
    ordered = [item.this for one in given if isinstance(one, exp.Order) for item in one.expressions]
    given = [one.this if isinstance(one, exp.Order) else one for one in given]
    given = [one for argument in given for one in (argument.expressions if isinstance(argument, exp.Distinct)
                                                   else [argument])]
    beside = plus(*(one.work for one in g.all(ordered)))
    parts = g.all(given)
    value = COSTS[form.cost](g, form, parts, given)
    return value._replace(work=plus(value.work, beside))


def _is_json(node: Any) -> bool:
    """Whether the value is already JSON, in which nothing is escaped once more."""
    form = FORMS.get(str(node.this).lower()) if isinstance(node, exp.Anonymous) else None
    return form is not None and form.cost == "json"


_Rule = Callable[["Statement", Form, list[Value], list[Any]], Value]
_NO_DIGITS = 20


def _sized(size: Callable[[list[Value]], Sum]) -> _Rule:
    """A cost whose result has the size that ``size`` computes from the arguments; it is copied once."""
    def rule(_g: Statement, _form: Form, parts: list[Value], _given: list[Any]) -> Value:
        made = size(parts)
        return Value(made, plus(work_of(parts), made), max((part.digits for part in parts), default=0))
    return rule


def _fixed(size: int, digits: int = _NO_DIGITS) -> _Rule:
    return lambda _g, _form, parts, _given: Value({0: size}, work_of(parts), digits)


def _summed(_g: Statement, form: Form, parts: list[Value], _given: list[Any]) -> Value:
    digits = max((part.digits for part in parts), default=0)
    number = number_of(digits + 20, plus(work_of(parts), {0: digits}))
    return number if form.cost == "sum" else Value({0: 400}, number.work, 400)


def _rounded(_g: Statement, _form: Form, parts: list[Value], _given: list[Any]) -> Value:
    return Value({0: 400}, plus(times(read(parts[0]), 4), parts[0].size, work_of(parts)), 400)


def _multiplied(_g: Statement, _form: Form, parts: list[Value], _given: list[Any]) -> Value:
    digits = max(part.digits for part in parts)
    return number_of(digits, plus(work_of(parts), {0: digits * digits // DIGIT_PAIRS_PER_BYTE}))


def _chosen(_g: Statement, _form: Form, parts: list[Value], _given: list[Any]) -> Value:
    return largest_of(parts)._replace(work=plus(*(part.work for part in parts)))


def _looked_for(g: Statement, form: Form, parts: list[Value], given: list[Any]) -> Value:
    """A text in which another one is looked for, or whose characters are."""
    work = work_of(parts)
    for needle in parts[1:2]:
        g.likes.append([parts[0].size, needle.size])
    if form.cost == "search":
        return Value({0: 20}, work, 10)
    if form.cost == "replace":
        return _replaced(parts, given)
    size = times(parts[0].size, ELEMENT_WEIGHT if form.cost == "split" else 2)
    return Value(size, plus(work, size))


def _repeated(_g: Statement, form: Form, parts: list[Value], given: list[Any]) -> Value:
    many = _literal_number(given[1]) or 0
    size = times(parts[0].size, many) if form.cost == "repeat" else {0: 4 * many}
    return Value(size, plus(work_of(parts), size))


def _joined(_g: Statement, form: Form, parts: list[Value], _given: list[Any]) -> Value:
    """A separator between any two elements, each of which may have one character."""
    separator, rest = (parts[1], parts[:1]) if form.name == "array_to_string" else (parts[0], parts[1:])
    if set(separator.size) != {0} or separator.size[0] > ELEMENT_WEIGHT:
        raise ApiFailure("sql_forbidden", f"this separator in {form.name} is not allowed here; use a literal of at "
                                          f"most {ELEMENT_WEIGHT} characters")
    size = plus(times(plus(*(part.size for part in rest)), 1 + separator.size[0]), {0: 1024})
    return Value(size, plus(work_of(parts), size))


def _as_json(_g: Statement, _form: Form, parts: list[Value], given: list[Any]) -> Value:
    made = [times(part.size, 1 if _is_json(one) else ESCAPED_WEIGHT) for part, one in zip(parts, given, strict=True)]
    size = plus({0: ROW_BYTES * (len(parts) + 1)}, *made)
    return Value(size, plus(work_of(parts), size), max((part.digits for part in parts), default=0))


def _kept(_g: Statement, _form: Form, parts: list[Value], _given: list[Any]) -> Value:
    return Value({0: HELD_BYTES_MAX}, plus(work_of(parts), *(part.size for part in parts)),
                 max((part.digits for part in parts), default=0))


def _all_sizes(parts: list[Value]) -> Sum:
    return plus({0: ROW_BYTES * (len(parts) + 1)}, *(times(part.size, 2) for part in parts))


COSTS: dict[str, _Rule] = {
    "small": _fixed(64), "flag": _fixed(64), "float": _fixed(400, 400), "average": _summed, "sum": _summed,
    "round": _rounded, "product": _multiplied, "largest": _chosen, "kept": _kept, "json": _as_json,
    "copy": _sized(lambda parts: parts[0].size if parts else {0: 64}),
    "letters": lambda _g, _f, parts, _given: Value(
        parts[0].size, plus(work_of(parts), times(parts[0].size, CASE_WEIGHT))),
    "hash": lambda _g, _f, parts, _given: Value({0: 32}, plus(work_of(parts), times(parts[0].size, CASE_WEIGHT))),
    "cut": lambda _g, form, parts, given: _cut(parts, given, form),
    "twice": _sized(lambda parts: times(parts[0].size, 2)),
    "needle": _looked_for, "search": _looked_for, "replace": _looked_for, "split": _looked_for,
    "repeat": _repeated, "pad": _repeated, "joined": _joined,
    "texts": _sized(lambda parts: plus(*(times(part.size, 2) for part in parts))),
    "format": _sized(lambda parts: plus({0: 400}, times(parts[-1].size, FORMATTED_WEIGHT))),
    "array": _sized(_all_sizes),
}
"""The costs that ``allowed`` names; a test compares them with the table."""
