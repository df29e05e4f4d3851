"""How calls of functions and PostgreSQL's own operators are written, as ``allowed`` says. Pure."""

from __future__ import annotations

import re
from typing import Any

from sqlglot import exp

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.allowed import COUNT_MAX, FORMAT_CHARACTERS_MAX, UNITS, Form, instead_of
from apex_exec.gateway.sql.bounds import HELD_BYTES_MAX, ROW_BYTES
from apex_exec.gateway.sql.dialect import OPERATOR
from apex_exec.gateway.sql.rules import SHARED, rule, shared
from apex_exec.gateway.sql.wording import form_of, is_text, node_name, position, refuse
from apex_exec.gateway.sql.writer import Writer

FRAME_ROWS_MAX = 10_000
"""The longest frame that moves: some aggregates are computed anew for every row of it."""
_ZONE = re.compile(r"(?!.*\.\.)[A-Za-z0-9_+\-/:<>,. ]{1,64}")
_OF_ANYTHING = frozenset({"concat", "concat_ws", "format", "jsonb_build_array", "jsonb_build_object", "num_nonnulls",
                         "num_nulls"})
"""Functions that take a value of any type, so that nothing in a call says which one a parameter has."""
_SYNTAX = frozenset({"coalesce", "nullif", "greatest", "least", "grouping"})
"""What PostgreSQL reads as a part of the language, not as a function."""
_SIDES = ("PRECEDING", "FOLLOWING")
_EXCLUDES = ("CURRENT ROW", "GROUP", "TIES", "NO OTHERS")
_OPERATORS = {"->", "->>", "#>", "#>>", "@>", "<@", "?", "?|", "?&", "&&"}


def _called(node: Any) -> Form:
    """The form of a call. Raises ApiFailure."""
    form = form_of(node)
    if form is not None:
        return form
    name = str(node.this.this if isinstance(node.this, exp.Identifier) else node.this)
    instead = instead_of(name.lower())
    raise refuse(f"the function {name[:60]}", instead, node, named=not instead)


@rule("Anonymous", f"this expressions {OPERATOR}")
def _call(w: Writer, node: Any) -> str:
    if node.args.get(OPERATOR):
        return _operator(w, node)
    form = _called(node)
    if form.kind in ("window", "ordered"):
        needs = "OVER (…)" if form.kind == "window" else "WITHIN GROUP (ORDER BY …)"
        raise refuse(f"{form.name} without {needs}", f"{form.name}(…) {needs}", node)
    if form.kind == "rows":
        raise refuse(f"{form.name} as a value", f"{form.name} in FROM", node)
    if form.kind == "kept":
        return _with_filter(w, node, "")
    return _wrapped(w, form, node, "")


def _wrapped(w: Writer, form: Form, node: Any, suffix: str) -> str:
    """The call, then its FILTER, WITHIN GROUP and OVER, in whatever PostgreSQL needs around it."""
    if w.lite:
        return _on_sqlite(w, form, node, moving=" OVER " in suffix) + suffix
    name = qualified(form)
    if not form.postgres:
        return f"{name}({arguments(w, form, node)}){suffix}"
    if "{call}" in form.postgres:
        return form.postgres.format(call=f"{name}({arguments(w, form, node)}){suffix}")
    parts = _each(w, form, node)
    unit = str(node.expressions[0].this).upper() if form.name == "extract" else ""
    return form.postgres.format(*parts, name=name, unit=unit) + suffix


@shared
def qualified(form: Form) -> str:
    """The function's name in PostgreSQL: its own function, whatever the platform has defined by that name."""
    return form.name if form.name in _SYNTAX else f"pg_catalog.{form.name}"


def _on_sqlite(w: Writer, form: Form, node: Any, *, moving: bool) -> str:
    if not form.sqlite:
        raise w.only_postgres(f"{form.name}", node)
    text = arguments(w, form, node)
    scale = w.kind(node.expressions[0]).partition(":")[2] if form.name in ("sum", "avg") and node.expressions else ""
    if scale.isdigit():
        return f"pg_{form.name}({text}, {scale})"
    if moving and form.name in ("sum", "avg") and w.kind(node.expressions[0]) == "float":
        return f"pg_moving_{form.name}({text})"
    if form.name in ("coalesce", "abs") and len(node.expressions) == 1:
        return f"({text})" if form.name == "coalesce" else SHARED["fitted"](w, node, f"abs({text})")
    return f"{form.sqlite}({text})"


@shared
def arguments(w: Writer, form: Form, node: Any) -> str:
    """The arguments of a call, written."""
    given = node.expressions
    if form.name == "count" and len(given) == 1 and type(given[0]) is exp.Star:
        return "*"
    if form.kind in ("aggregate", "kept") and given and (distinct := _distinct(given)) is not None:
        w.only(distinct, "expressions")
        w.sorted(node)
        order = ""
        if type(given[0]) is exp.Order:
            w.only(given[0], "this", "expressions")
            order = f" ORDER BY {w.all(given[0].expressions)}"
        return f"DISTINCT {', '.join(_each(w, form, node, distinct.expressions))}{order}"
    return ", ".join(_each(w, form, node))


def _distinct(given: list[Any]) -> Any:
    """The DISTINCT before the arguments, if there is one."""
    first = given[0].this if type(given[0]) is exp.Order else given[0]
    return first if type(first) is exp.Distinct else None


def _each(w: Writer, form: Form, node: Any, given: list[Any] | None = None) -> list[str]:
    given = node.expressions if given is None else given
    if not form.least <= len(given) <= form.most:
        raise refuse(f"{form.name} with {len(given)} arguments", form.signature(), node)
    written = []
    for number, argument in enumerate(given):
        order = ""
        if type(argument) is exp.Order and form.kind == "kept" and number == len(given) - 1:
            w.only(argument, "this", "expressions")
            w.sorted(node)
            order, argument = f" ORDER BY {w.all(argument.expressions)}", argument.this
        if argument is None:
            raise _nothing_ordered(form, node)
        _check(w, form, number, argument)
        text = w.numeric(argument) if form.name == "round" and not number and len(given) > 1 else w.write(argument)
        if form.name in _OF_ANYTHING and is_text(argument) and not w.lite:
            text = f"CAST({text} AS TEXT)"  # it may be a parameter of ours, whose type nothing else says there
        written.append(text + order)
    if form.name == "round" and w.lite and len(written) == 1:
        raise w.only_postgres("round with one argument (round(…, 0) is)", node)
    return written


def _check(w: Writer, form: Form, number: int, argument: Any) -> None:
    word, plain = form.word(number), argument
    while isinstance(plain, exp.Paren | exp.Cast) and word != "count":
        plain = plain.this
    literal = type(plain) is exp.Literal
    if word == "count":
        if not literal or plain.is_string or not str(plain.this).isdigit() or int(str(plain.this)) > COUNT_MAX:
            raise refuse(f"this count in {form.name}", f"a whole number up to {COUNT_MAX}", argument)
    elif word in ("constant", "format", "unit"):
        if not literal and type(plain) is not exp.Parameter and not (word == "constant" and type(plain) is exp.Null):
            raise refuse(f"{node_name(argument)} as the {'pattern' if word == 'constant' else word} of {form.name}",
                         "a literal or a parameter", argument)
        if word == "format":
            if literal and len(str(plain.this)) > FORMAT_CHARACTERS_MAX:
                raise refuse(f"a format of more than {FORMAT_CHARACTERS_MAX} characters", "", argument)
            if not literal:
                w.formats.append(w.number(plain))
        if form.name == "extract" and str(plain.this) not in UNITS:
            raise refuse(f"the field {str(plain.this)[:30]} in extract", ", ".join(sorted(UNITS)), argument)


@rule("Filter", "this expression")
def _filter(w: Writer, node: Any) -> str:
    return _with_filter(w, node, "")


@rule("WithinGroup", "this expression")
def _within(w: Writer, node: Any) -> str:
    return _with_filter(w, node, "")


def _with_filter(w: Writer, node: Any, over: str) -> str:
    """A call with FILTER and WITHIN GROUP, and ``over`` after them."""
    call, condition, order = node, "", ""
    if type(call) is exp.Filter:
        w.only(call, "this", "expression")
        where = call.expression
        if type(where) is not exp.Where:
            raise refuse("this FILTER", "FILTER (WHERE …)", node)
        w.only(where, "this")
        condition, call = w.write(where.this), call.this
    if type(call) is exp.WithinGroup:
        w.only(call, "this", "expression")
        if type(call.expression) is not exp.Order:
            raise refuse("this WITHIN GROUP", "WITHIN GROUP (ORDER BY …)", node)
        order, call = f" WITHIN GROUP ({w.order(call.expression).strip()})", call.this
    if type(call) is not exp.Anonymous or call.args.get(OPERATOR):
        raise refuse(node_name(node), "FILTER, WITHIN GROUP and OVER behind an aggregate", node)
    w.only(call, "this", "expressions")
    form = _called(call)
    kinds = ["window"] * bool(over) + ["aggregate"] * (not order) + ["kept"] * (not over and not order) + [
        "ordered"] * bool(order and not over)
    if form.kind not in kinds:
        what = "OVER" if over else "WITHIN GROUP" if order else "FILTER"
        raise refuse(f"{form.name} with {what}", _INSTEAD.get(form.kind, ""), node)
    if order or over:
        w.sorted(node)
    if form.kind == "window" and condition:
        raise refuse(f"{form.name} with FILTER", "FILTER behind an aggregate", node)
    if form.kind == "kept":
        condition = _held(w, form, call, condition)
    suffix = order + (f" FILTER (WHERE {condition})" if condition else "") + over
    return _wrapped(w, form, call, suffix)


_INSTEAD = {"kept": "a subquery that groups", "value": "FILTER and OVER behind an aggregate",
            "ordered": "percentiles in a subquery that groups"}


@rule("Window", "this partition_by order spec over alias")
def _window(w: Writer, node: Any) -> str:
    if str(node.args.get("over") or "OVER").upper() != "OVER":
        raise refuse("this window", "OVER", node)
    named = node.args.get("alias")
    if named is not None and not any(node.args.get(part) for part in ("partition_by", "order", "spec")):
        over = f" OVER {w.name(named)}"
    else:
        over = f" OVER ({window(w, node)})"
    return _with_filter(w, node.this, over)


@shared
def window(w: Writer, node: Any) -> str:
    """What stands in the brackets of OVER, or of a named window."""
    parts = []
    if node.args.get("alias") is not None:
        parts.append(w.name(node.args["alias"]))
    if node.args.get("partition_by"):
        parts.append(f"PARTITION BY {w.all(node.args['partition_by'])}")
    if node.args.get("order") is not None:
        parts.append(w.order(node.args["order"]).strip())
    if node.args.get("spec") is not None:
        parts.append(_frame(w, node.args["spec"]))
    return " ".join(parts)


def _frame(w: Writer, spec: Any) -> str:
    w.only(spec, "kind", "start", "start_side", "end", "end_side", "exclude")
    kind = str(spec.args.get("kind") or "").upper()
    if type(spec) is not exp.WindowSpec or kind not in ("ROWS", "RANGE", "GROUPS"):
        raise refuse("this frame", "ROWS, RANGE and GROUPS", spec)
    start = _edge(w, kind, spec.args.get("start"), spec.args.get("start_side"))
    end = spec.args.get("end")
    text = f"{kind} {start}" if end is None else (
        f"{kind} BETWEEN {start} AND {_edge(w, kind, end, spec.args.get('end_side'))}")
    exclude = spec.args.get("exclude")
    if exclude is not None:
        if str(exclude.this).upper() not in _EXCLUDES:
            raise refuse("this EXCLUDE", ", ".join(_EXCLUDES), spec)
        text += f" EXCLUDE {str(exclude.this).upper()}"
    return text


def _edge(w: Writer, kind: str, value: Any, side: Any) -> str:
    if value == "CURRENT ROW" and not side:
        return "CURRENT ROW"
    side = str(side or "").upper()
    if side not in _SIDES:
        raise refuse("this frame", "n PRECEDING, CURRENT ROW, n FOLLOWING")
    if value == "UNBOUNDED":
        return f"UNBOUNDED {side}"
    if type(value) is exp.Literal and not value.is_string:
        if not str(value.this).isdigit() or int(str(value.this)) > FRAME_ROWS_MAX and kind != "RANGE":
            raise refuse("this frame", f"frames of up to {FRAME_ROWS_MAX} rows, or UNBOUNDED", value)
    elif kind != "RANGE" or type(value) not in (exp.Interval, exp.Cast, exp.Literal):
        raise refuse("this frame", "a number, or in RANGE an interval", value)
    if w.lite and kind == "RANGE":
        raise w.only_postgres("RANGE with a distance", value)
    return f"{w.write(value)} {side}"


def _nothing_ordered(form: Form, node: Any) -> ApiFailure:
    return ApiFailure("sql_syntax", f"{form.name} has no argument before its ORDER BY{position(node)}")


def _held(w: Writer, form: Form, node: Any, condition: str) -> str:
    """The FILTER of an aggregate that keeps every value in the server's memory.

    PostgreSQL bounds such an aggregate at 1 GiB only, and each group has one. So the transaction counts what all of
    them have been given, in a setting of its own, and raises an error beyond HELD_BYTES_MAX.
    """
    if w.lite:
        raise w.only_postgres(form.name, node)
    given = node.expressions
    distinct = _distinct(given) if given else None
    values = distinct.expressions if distinct is not None else given
    if any(type(one) is exp.Order and one.this is None for one in values):
        raise _nothing_ordered(form, node)
    sizes = [f"coalesce(octet_length(CAST({w.write(one.this if type(one) is exp.Order else one)} AS TEXT)), 0)"
             for one in values]
    counted = (f"set_config('apex_exec.held', CAST(coalesce(CAST(nullif(current_setting('apex_exec.held', TRUE), '') "
               f"AS BIGINT), 0) + {ROW_BYTES} + {' + '.join(sizes)} AS TEXT), TRUE)")
    guard = (f"CASE WHEN CAST({counted} AS BIGINT) > {HELD_BYTES_MAX} THEN CAST('the values of {form.name} come to "
             f"more than {HELD_BYTES_MAX // 1024 // 1024} MiB; aggregate fewer rows or shorter texts: ' || "
             "current_setting('apex_exec.held') AS BOOLEAN) ELSE TRUE END")
    return f"CASE WHEN {condition} THEN {guard} ELSE FALSE END" if condition else guard


def _operator(w: Writer, node: Any) -> str:
    symbol = str(node.this)
    if symbol not in _OPERATORS or len(node.expressions) != 2:
        raise refuse(f"the operator {symbol}", "", node)
    if w.lite:
        raise w.only_postgres(f"the operator {symbol}", node)
    left, right = node.expressions
    if left is None or right is None:
        raise ApiFailure("sql_syntax", f"the operator {symbol} needs two sides")
    return f"({w.write(left)} {symbol} {w.write(right)})"


@rule("AtTimeZone", "this zone")
def _at_time_zone(w: Writer, node: Any) -> str:
    zone = node.args["zone"]
    if w.lite:
        raise w.only_postgres("AT TIME ZONE", node)
    if type(zone) is exp.Literal and not _ZONE.fullmatch(str(zone.this)):
        raise refuse(f"the time zone {str(zone.this)[:40]!r}", "a name such as 'Europe/Berlin'", zone)
    return f"pg_catalog.timezone({w.write(zone)}, {w.write(node.this)})"


_NOW = {exp.CurrentDate: "CURRENT_DATE", exp.CurrentTimestamp: "CURRENT_TIMESTAMP",
        exp.Localtimestamp: "LOCALTIMESTAMP"}


@rule("CurrentDate CurrentTimestamp Localtimestamp", "")
def _now(w: Writer, node: Any) -> str:
    if w.lite:
        raise w.only_postgres(_NOW[type(node)], node)
    return _NOW[type(node)]


_SPANS = ("MICROSECOND MILLISECOND SECOND MINUTE HOUR DAY WEEK MONTH QUARTER YEAR DECADE CENTURY").split()


@rule("Interval", "this unit")
def _interval(w: Writer, node: Any) -> str:
    """INTERVAL '1 day', which the parser takes apart."""
    text, unit = node.this, node.args.get("unit")
    if type(text) is not exp.Literal or not text.is_string:
        raise refuse("INTERVAL without a text", "INTERVAL '1 day', or make_interval", node)
    if w.lite:
        raise w.only_postgres("INTERVAL", node)
    whole = str(text.this)
    if unit is not None:
        word = str(unit.this).upper()
        if type(unit) is not exp.Var or word.rstrip("S") not in _SPANS and word not in ("CENTURIES",):
            raise refuse("this INTERVAL", "units from MICROSECOND to CENTURY", node)
        whole = f"{whole} {word}"
    return f"CAST({w.text(whole)} AS INTERVAL)"


