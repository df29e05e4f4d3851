"""How much work one row of a statement can be, computed before the statement runs. Pure.

A database checks the clock and frees memory only between rows. A value that a row doubles nine times, or a product of
numbers with 100,000 digits, outlasts any deadline and takes any amount of memory. So every expression has a bound here,
computed from the bounds of its parts: the length of its text, the digits of its number, and the work of evaluating it
once. If a query reads from another one (a CTE, or a query in FROM), each use of a column counts as an evaluation of the
column's expression, because a planner may substitute the expression for the column.

Work is counted in bytes copied. A bound is a sum: a constant, plus a factor times the length of each parameter, which
is known when the query runs. ``Compiled.values`` computes the sum and refuses more than WORK_BYTES_MAX. A column of a
table counts as COLUMN_BYTES, about as much as one call may write.

**A node without a rule here is refused**, as in ``writer``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from sqlglot import exp

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.allowed import FORMS, Form
from apex_exec.gateway.sql.dialect import OPERATOR
from apex_exec.gateway.sql.kinds import Kinder, Kinds, merged

WORK_BYTES_MAX = 128 * 1024 * 1024
"""The most work of one row: memory that a server's process may take, and at most half a second of one core."""
COLUMN_BYTES = 1024 * 1024
CASE_WEIGHT = 4
"""lower and upper take some 17 ns per byte, and working memory of four times the text."""
SENT_WEIGHT = 8
"""The work of one byte of a parameter that is sent: it is written, sent, received and decoded as part of one row."""
DIGITS = 2000
"""The longest number in a column, a parameter or a text: see ``check_number``, and the cast in ``expressions``."""
DIGITS_MAX = 150_000
"""PostgreSQL's numeric has at most this many digits."""
DIGIT_PAIRS_PER_BYTE = 64
"""A product or quotient costs the digits of one operand times those of the other, some 0.25 ns each."""
HELD_BYTES_MAX = 8 * 1024 * 1024
"""The most bytes that all aggregates of a query keep which keep every value (``string_agg``, ``array_agg``, …)."""
ROW_BYTES = 64
"""What a server needs for a value beside its bytes."""
STEP_BYTES = 64 * 1024
"""The most bytes of a row from which a step of WITH RECURSIVE starts, as ``writer`` enforces it."""
FORMATTED_WEIGHT = 40
"""One character of a format becomes at most that many bytes."""
ELEMENT_WEIGHT = 32
"""One character of a text may be an element of an array of its own."""
ESCAPED_WEIGHT = 6
"""One character of a text may become six in JSON."""
SMALL_BYTES = 4096
PAIRS_MAX = 270_000_000
"""The most characters of texts times characters of patterns that one row compares: about 4 ns each at worst."""
NUMBER_CHARACTERS_MAX = 1000

_SOUNDS_LIKE_A_NUMBER = re.compile(r"\s*[-+]?[\d._]*(?:[eE][-+]?[\d_]+)?\s*")
_LARGE_EXPONENT = re.compile(r"[eE][-+]?[\d_]{4}")

ENDLESS = 1 << 50
"""Sums above this are all treated as equal."""

Sum = dict[int, int]
"""Maps n to the factor for the length of parameter n; a key below 0 is the constant."""


class Value(NamedTuple):
    """An upper bound for one expression."""

    size: Sum
    """The bytes of its text."""
    work: Sum
    """The bytes copied to evaluate it once."""
    digits: int = DIGITS
    stored: bool = False
    """Whether it is a column exactly as in the table: an expression that reads such a value first copies it."""
    kind: str = ""
    """Its kind on SQLite, as far as it is known: see ``kinds``."""


class Source(NamedTuple):
    """A source in FROM: the bounds of its columns by name, and of all others."""

    columns: dict[str, Value]
    rest: Value | None
    """None if every column is in ``columns``."""


class Output(NamedTuple):
    """The result of a query: its columns in order, ``rest`` if it includes a table's star, and all of its work."""

    columns: list[tuple[str, Value]]
    rest: Value | None
    work: Sum


_STORED = Value({0: COLUMN_BYTES}, {}, stored=True)


def plus(*sums: Sum) -> Sum:
    """The sum of all of them."""
    total: Sum = {}
    for one in sums:
        for key, times in one.items():
            total[key] = min(total.get(key, 0) + times, ENDLESS)
    return total


def times(one: Sum, factor: int) -> Sum:
    """``one`` multiplied by ``factor``."""
    return {key: min(value * factor, ENDLESS) for key, value in one.items()}


def larger(*sums: Sum) -> Sum:
    """A sum that is at least as large as each of them."""
    largest: Sum = {}
    for one in sums:
        for key, value in one.items():
            largest[key] = max(largest.get(key, 0), value)
    return largest


def largest_of(values: Iterable[Value]) -> Value:
    """A bound that is at least as large as each of them in every respect."""
    kept = list(values)
    return Value(larger(*(one.size for one in kept)), larger(*(one.work for one in kept)),
                 max((one.digits for one in kept), default=0), any(one.stored for one in kept),
                 merged([one.kind for one in kept]))


def length(value: Any) -> int:
    """The bytes that a parameter has as text, or slightly more."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
    return 2 * len(value) + 2 if isinstance(value, bytes) else 40


def check_work(work: Sum, params: list[Any]) -> None:
    """Raises ApiFailure if a row may cost more than WORK_BYTES_MAX. Without ``params`` they count as empty."""
    total = work.get(0, 0) + sum(count * length(params[number - 1]) for number, count in work.items()
                                 if number and number <= len(params))
    if total > WORK_BYTES_MAX:
        raise ApiFailure("too_large" if params else "sql_forbidden", (
            f"one row of this query may come to {total // 1024 // 1024:,} MiB of texts and numbers; "
            f"{WORK_BYTES_MAX // 1024 // 1024} MiB are allowed (a column counts as {COLUMN_BYTES // 1024 // 1024} MiB, "
            "and again wherever it is used; a number grows with every product): nest ||, lower and upper "
            "less deeply, pass shorter parameters, or cut texts with substr first"))


def check_likes(likes: list[list[Sum]], params: list[Any]) -> None:
    """Raises ApiFailure if the comparisons of a row with their patterns may be more than PAIRS_MAX."""
    pairs = sum(_amount(text, params) * _amount(pattern, params) for text, pattern in likes)
    if pairs > PAIRS_MAX:
        raise ApiFailure("too_large", (
            f"one row's texts times their LIKE patterns may come to {pairs // 1_000_000:,} million characters; "
            f"{PAIRS_MAX // 1_000_000} million are allowed (a column counts as {COLUMN_BYTES // 1024 // 1024} MiB): "
            "use shorter patterns, or cut the texts with substr first"))


def _amount(one: Sum, params: list[Any]) -> int:
    return one.get(0, 0) + sum(count * length(params[number - 1]) for number, count in one.items() if number)


def check_number(text: Any) -> None:
    """Raises ApiFailure if ``text``, which a database may convert to a number, is a number with thousands of digits."""
    if isinstance(text, str) and too_long_a_number(text):
        raise ApiFailure("sql_parameters", f"a number written as text has at most {NUMBER_CHARACTERS_MAX} characters, "
                                           "and an exponent of three digits; write CAST(… AS text) if it is text")


def too_long_a_number(text: str) -> bool:
    """Whether ``text`` is a number that is slow to compute with."""
    return ((len(text) > NUMBER_CHARACTERS_MAX or _LARGE_EXPONENT.search(text) is not None)
            and _SOUNDS_LIKE_A_NUMBER.fullmatch(text) is not None)


_LONG_INSIDE = re.compile(rf"[0-9][0-9_.]{{{NUMBER_CHARACTERS_MAX},}}|[0-9._][eE][+-]?[0-9_]{{4}}")


def has_long_number(text: str) -> bool:
    """Whether ``text``, the text of an array, may contain a number that is slow to compute with."""
    return _LONG_INSIDE.search(text) is not None


LONG_IN_JSON = r'(^|[\[,:[:space:]])-?[0-9.]+[eE][-+]?[0-9]{4}'
"""In a regular expression of PostgreSQL: a number in JSON that has few characters and very many digits."""
_LONG_IN_JSON = re.compile(r"(?:^|[\[,:\s])-?(?:[0-9.]+[eE][-+]?[0-9]{4}|[0-9][0-9.]{1000})")

_TEXTS = (exp.DPipe, exp.Like, exp.ILike, exp.AtTimeZone, exp.Interval, exp.Escape)
_COMPARED = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.In, exp.Between, exp.Limit, exp.Offset, exp.Any,
             exp.All, exp.Fetch, exp.NullSafeEQ, exp.NullSafeNEQ, exp.Tuple)
_WORDS = frozenset("text constant format unit time json bytes".split())
"""The arguments of functions that are no numbers."""


def check_json(text: Any) -> None:
    """Raises ApiFailure if ``text``, which a database reads as JSON, may have a number of thousands of digits."""
    if isinstance(text, str) and _LONG_IN_JSON.search(text) is not None:
        raise ApiFailure("sql_parameters", f"a number in JSON has at most {NUMBER_CHARACTERS_MAX} digits, and an "
                                           "exponent of three digits")


def _is_text(node: Any, parent: Any) -> bool:
    """Whether ``node`` is an argument of a function that takes it as something else than a number."""
    if not isinstance(parent, exp.Anonymous):
        return False
    if parent.args.get(OPERATOR):
        return True
    form = FORMS.get(str(parent.this).lower())
    place = [number for number, one in enumerate(parent.expressions) if one is node]
    return form is not None and bool(place) and form.word(place[0]) in _WORDS


def numbers(tree: Any) -> list[int]:
    """The parameters that a database may convert to a number. Raises ApiFailure for such a literal."""
    found: dict[int, None] = {}
    for node in tree.find_all(exp.Parameter, exp.Literal):
        parent, inner = node.parent, node
        while isinstance(parent, exp.Paren):
            parent, inner = parent.parent, parent
        if isinstance(parent, (*_TEXTS, *_COMPARED, exp.Parameter)) or _is_text(inner, parent):
            if isinstance(parent, exp.Anonymous) and parent.args.get(OPERATOR) and isinstance(node, exp.Literal):
                check_json(str(node.this))
            continue
        if isinstance(parent, exp.Cast):
            kind = parent.args["to"].this
            if kind in (exp.DataType.Type.JSON, exp.DataType.Type.JSONB) and isinstance(node, exp.Literal):
                check_json(str(node.this))
            if kind == exp.DataType.Type.ARRAY and isinstance(node, exp.Literal) and has_long_number(str(node.this)):
                check_number("9" * (NUMBER_CHARACTERS_MAX + 1))
            if kind != exp.DataType.Type.DECIMAL:
                continue
        if isinstance(node, exp.Parameter):
            found[int(str(node.this.this))] = None
        elif node.is_string:
            check_number(str(node.this))
    return list(found)


class Growth:
    """The bounds of one statement. ``fold`` returns the folded name of an Identifier, as in the writer."""

    def __init__(self, fold: Callable[[Any], str], kinds: Kinds | None = None) -> None:
        self._fold = fold
        self._tables = kinds or {}
        self.kinder = Kinder() if kinds is not None else None
        """Finds the kinds of values, for SQLite."""
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
        return output._replace(work=plus(output.work, before))

    def _values(self, node: Any) -> Output:
        """The columns of VALUES: each is as large as the largest of its rows."""
        rows = [self.all(row.expressions) for row in node.expressions]
        columns = [(f"column{number}", largest_of(column)) for number, column in enumerate(zip(*rows, strict=False), 1)]
        return Output(columns, None, plus(*(one.work for row in rows for one in row)))

    def _set_operation(self, node: Any) -> Output:
        left, right = self.query(node.this), self.query(node.expression)
        both = list(zip(left.columns, right.columns, strict=False))
        if left.rest is None and right.rest is None and len(left.columns) == len(right.columns):
            columns = [(name, largest_of((one, other))) for (name, one), (_, other) in both]
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
        conditions += _grouped(node.args["group"].expressions) if node.args.get("group") is not None else []
        distinct = node.args.get("distinct")
        conditions += _grouped([distinct.args["on"]]) if distinct is not None and distinct.args.get("on") else []
        for window in node.args.get("windows") or []:
            conditions += _beside(window)
        work = plus(work, *(self.value(condition).work for condition in conditions),
                    self._ordered(node, {name for name, _ in columns}))
        self._sources.pop()
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
                work = plus(work, self.value(item.this).work)
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
            return plus(*(_read(part) for part in parts), value.size)
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
        return Source({}, _STORED) if not known else Source(
            {name: _STORED._replace(kind=kind) for name, kind in known.items()}, None)

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
        return largest_of(found) if found else _STORED

    # ------------------------------------------------------------------ values
    def value(self, node: Any) -> Value:
        """The bound of one expression. Raises ApiFailure if it has no rule."""
        rule = _RULES.get(type(node))
        if rule is None:
            from apex_exec.gateway.sql.writer import node_name

            raise ApiFailure("sql_forbidden", f"{node_name(node)} is not allowed here")
        value = rule(self, node)
        if self.kinder is None:
            return value
        found = value.kind if isinstance(node, exp.Column | exp.Subquery) else ""
        return value._replace(kind=self.kinder.see(node, found))

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
    from apex_exec.gateway.sql.writer import result_name

    if isinstance(item, exp.Alias):
        return fold(item.args["alias"])
    if isinstance(item, exp.Column):
        return fold(item.this)
    return result_name(item)


def _read(value: Value) -> Sum:
    """The work of evaluating ``value`` and reading it."""
    return plus(value.work, value.size) if value.stored else value.work


_FLAG = {0: 8}


def _number(digits: int, work: Sum) -> Value:
    digits = min(digits, DIGITS_MAX)
    return Value({0: digits + 20}, work, digits)


def _literal(_g: Growth, node: Any) -> Value:
    text = str(node.this)
    if node.is_string:
        return Value({0: len(text.encode())}, {})
    return _number(DIGITS, {})  # 40 digits and an exponent of three digits


def _parameter(_g: Growth, node: Any) -> Value:
    return Value({int(str(node.this.this)): 1}, {})


def _concatenation(g: Growth, node: Any) -> Value:
    parts = g.chain(node)
    size, made = parts[0].size, [_read(part) for part in parts]
    for part in parts[1:]:
        size = plus(size, part.size)
        made.append(size)
    return Value(size, plus(*made))


def _logic(g: Growth, node: Any) -> Value:
    return Value(_FLAG, plus(*(part.work for part in g.chain(node))), 1)


def _sum(g: Growth, node: Any) -> Value:
    parts = g.chain(node)
    digits = min(DIGITS_MAX, max(part.digits for part in parts) + len(parts))
    return _number(digits, plus({0: digits * len(parts)}, *(part.work for part in parts)))


def _product(g: Growth, node: Any) -> Value:
    parts = g.chain(node)
    digits, work = parts[0].digits, [part.work for part in parts]
    for part in parts[1:]:
        both = min(DIGITS_MAX, digits + part.digits + (1000 if isinstance(node, exp.Div) else 0))
        work.append({0: max(digits, both if isinstance(node, exp.Div) else 0) * part.digits // DIGIT_PAIRS_PER_BYTE})
        digits = max(digits, part.digits) if isinstance(node, exp.Mod) else both
    return _number(digits, plus(*work))


def _compared(values: list[Value]) -> Sum:
    """The work of comparing two texts by a locale: at most what the shorter one needs."""
    sizes = [value.size for value in values]
    if any(set(size) <= {0} and size.get(0, 0) <= SMALL_BYTES for size in sizes):
        return {}
    return next((size for size in sizes if not size.get(0)), sizes[0])


def _less(g: Growth, node: Any) -> Value:
    parts = g.chain(node)
    return Value(_FLAG, plus(_compared(parts), *(part.work for part in parts)), 1)


def _between(g: Growth, node: Any) -> Value:
    value, low, high = g.all([node.this, node.args["low"], node.args["high"]])
    return Value(_FLAG, plus(value.work, value.work, low.work, high.work, _compared([value, low]),
                             _compared([value, high])), 1)


def _flag(g: Growth, node: Any) -> Value:
    return Value(_FLAG, plus(*(part.work for part in g.all([node.this]))), 1)


def _in(g: Growth, node: Any) -> Value:
    query = node.args.get("query")
    inner = [g.query(query).work] if query is not None else [one.work for one in g.all(node.expressions)]
    return Value(_FLAG, plus(g.value(node.this).work, *inner), 1)


def _exists(g: Growth, node: Any) -> Value:
    return Value(_FLAG, g.query(node.this).work, 1)


def _scalar(g: Growth, node: Any) -> Value:
    output = g.query(node.this)
    first = output.columns[0][1] if output.columns and output.rest is None else largest_of(
        [*(value for _, value in output.columns), *([output.rest] if output.rest is not None else [])])
    return Value(first.size, plus(output.work, first.size), first.digits, kind=first.kind)


def _like(g: Growth, node: Any) -> Value:
    value, pattern = g.all([node.this, node.expression])
    g.likes.append([value.size, pattern.size])
    work = plus(_read(value), pattern.work)
    if isinstance(node, exp.ILike):  # written as lower(…) LIKE lower(…)
        work = plus(work, times(value.size, CASE_WEIGHT), times(pattern.size, CASE_WEIGHT))
    return Value(_FLAG, work, 1)


def _case(g: Growth, node: Any) -> Value:
    tested = g.all([node.this, *(branch.this for branch in node.args["ifs"])])
    given = g.all([*(branch.args["true"] for branch in node.args["ifs"]), node.args.get("default")])
    most = largest_of(given)
    return most._replace(work=plus(most.work, *(one.work for one in tested)))


_T = exp.DataType.Type


def _cast(g: Growth, node: Any) -> Value:
    value, kind = g.value(node.this), node.args["to"].this
    if kind in (_T.TEXT, _T.VARCHAR):  # of a column that is not text: bytes and JSON double in length
        size = times(value.size, 2) if value.stored else value.size
        return Value(size, plus(value.work, size), value.digits)
    if kind in (_T.JSON, _T.JSONB):  # a number of five characters may be 309 digits, but the column bounds them all
        return Value(times(value.size, 2), plus(times(_read(value), 4), times(value.size, 2)), value.digits)
    if kind == _T.ARRAY:
        size = times(value.size, ELEMENT_WEIGHT)
        return Value(size, plus(_read(value), size), DIGITS)
    if kind == _T.CHAR:  # it is filled up with blanks
        sizes = [int(str(one.this.this)) for one in node.args["to"].expressions]
        return Value({0: 4 * max(sizes, default=1)}, _read(value), 400)
    if kind == _T.DECIMAL:  # the value is written, read twice and converted: see ``expressions``
        return _number(value.digits, plus(times(_read(value), 4), value.size))
    return Value({0: 400}, _read(value), 400)


def _same(g: Growth, node: Any) -> Value:
    return g.value(node.this)


def _beside(window: Any) -> list[Any]:
    """The expressions of a window's PARTITION BY and ORDER BY."""
    order = window.args.get("order")
    return [*(window.args.get("partition_by") or []), *(item.this for item in (order.expressions if order else ()))]


def _grouped(nodes: list[Any]) -> list[Any]:
    """The expressions in GROUP BY and DISTINCT ON, without brackets and the words around them."""
    found: list[Any] = []
    for node in nodes:
        if isinstance(node, exp.Tuple | exp.GroupingSets | exp.Rollup | exp.Cube):
            found += _grouped(node.expressions)
        else:
            found.append(node)
    return found


def _row(g: Growth, node: Any) -> Value:
    parts = g.all(node.expressions)
    return Value(plus({0: 8}, *(part.size for part in parts)), plus(*(_read(part) for part in parts)))


def _each(g: Growth, node: Any) -> Value:
    """ANY and ALL: every element may be compared."""
    compared = node.this
    while isinstance(compared, exp.Paren):
        compared = compared.this
    if isinstance(compared, exp.Subquery | exp.Select | exp.SetOperation):
        return Value(_FLAG, g.query(compared).work, 1)
    value = g.value(compared)
    return Value(value.size, plus(_read(value), value.size), value.digits)


def _operator(g: Growth, node: Any) -> Value:
    """The operators of JSON and arrays; those that look for something compare each with each."""
    left, right = g.all(node.expressions)
    work = plus(_read(left), _read(right), left.size)
    if str(node.this) in ("->", "->>", "#>", "#>>"):
        return Value(left.size, work, left.digits)
    if not str(node.this).startswith("?"):
        g.likes.append([_elements(g, one, value) for one, value in zip(node.expressions, (left, right), strict=True)])
    return Value(_FLAG, work, 1)


def _elements(g: Growth, node: Any, value: Value) -> Sum:
    """How much of ``value`` is compared: of ARRAY[…] its elements, without what the server needs beside them."""
    if isinstance(node, exp.Array):
        return plus({0: 4 * len(node.expressions)}, *(part.size for part in g.all(node.expressions)))
    return value.size


def _slice(g: Growth, node: Any) -> Value:
    value, index = g.value(node.this), node.expressions[0]
    parts = [index.this, index.args.get("expression")] if isinstance(index, exp.Slice) else [index]
    return Value(value.size, plus(_read(value), value.size, *(part.work for part in g.all(parts))), value.digits)


def _array(g: Growth, node: Any) -> Value:
    parts = g.all(node.expressions)
    size = plus({0: ROW_BYTES * (len(parts) + 1)}, *(part.size for part in parts))
    return Value(size, plus(size, *(_read(part) for part in parts)), max((part.digits for part in parts), default=0))


def _pairs(g: Growth, node: Any) -> Value:
    parts = g.all([node.this, node.expression])
    return Value(_FLAG, plus(_compared(parts), *(part.work for part in parts)), 1)


def _zone(g: Growth, node: Any) -> Value:
    return Value({0: 64}, plus(*(_read(part) for part in g.all([node.this, node.args["zone"]]))), 1)


def _floats(g: Growth, node: Any) -> Value:
    return Value({0: 400}, plus(*(_read(part) for part in g.all([node.this, node.expression]))), 400)


# ---------------------------------------------------------------------- functions: the costs that ``allowed`` names
def _literal_number(node: Any) -> int | None:
    while isinstance(node, exp.Paren | exp.Cast):
        node = node.this
    text = str(node.this) if isinstance(node, exp.Literal) and not node.is_string else ""
    return int(text) if text.isdigit() else None


def _work(parts: list[Value]) -> Sum:
    return plus(*(_read(part) for part in parts))


def _cut(parts: list[Value], given: list[Any], form: Form) -> Value:
    size = parts[0].size
    many = _literal_number(given[-1]) if len(given) > 2 or form.name in ("left", "right") else None
    if many is not None:
        size = {0: 4 * many} if set(size) != {0} or 4 * many < size[0] else size
    return Value(size, plus(_work(parts), size))


def _replaced(parts: list[Value], given: list[Any]) -> Value:
    """The result of ``replace``: each character may become the replacement, which is a literal or empty."""
    instead = given[2]
    while isinstance(instead, exp.Paren | exp.Cast):
        instead = instead.this
    if not isinstance(instead, exp.Literal):
        raise ApiFailure("sql_forbidden", "a parameter as the third argument of replace is not allowed here; use a "
                                          "literal")
    size = times(parts[0].size, max(1, len(str(instead.this).encode())))
    return Value(size, plus(_work(parts), size))


def _function(g: Growth, node: Any) -> Value:
    if node.args.get(OPERATOR):
        return _operator(g, node)
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


_Rule = Callable[["Growth", Form, list[Value], list[Any]], Value]
_NO_DIGITS = 20


def _sized(size: Callable[[list[Value]], Sum]) -> _Rule:
    """A cost whose result has the size that ``size`` computes from the arguments; it is copied once."""
    def rule(_g: Growth, _form: Form, parts: list[Value], _given: list[Any]) -> Value:
        made = size(parts)
        return Value(made, plus(_work(parts), made), max((part.digits for part in parts), default=0))
    return rule


def _fixed(size: int, digits: int = _NO_DIGITS) -> _Rule:
    return lambda _g, _form, parts, _given: Value({0: size}, _work(parts), digits)


def _summed(_g: Growth, form: Form, parts: list[Value], _given: list[Any]) -> Value:
    digits = max((part.digits for part in parts), default=0)
    number = _number(digits + 20, plus(_work(parts), {0: digits}))
    return number if form.cost == "sum" else Value({0: 400}, number.work, 400)


def _rounded(_g: Growth, _form: Form, parts: list[Value], _given: list[Any]) -> Value:
    return Value({0: 400}, plus(times(_read(parts[0]), 4), parts[0].size, _work(parts)), 400)


def _multiplied(_g: Growth, _form: Form, parts: list[Value], _given: list[Any]) -> Value:
    digits = max(part.digits for part in parts)
    return _number(digits, plus(_work(parts), {0: digits * digits // DIGIT_PAIRS_PER_BYTE}))


def _chosen(_g: Growth, _form: Form, parts: list[Value], _given: list[Any]) -> Value:
    return largest_of(parts)._replace(work=plus(*(part.work for part in parts)))


def _looked_for(g: Growth, form: Form, parts: list[Value], given: list[Any]) -> Value:
    """A text in which another one is looked for, or whose characters are."""
    work = _work(parts)
    for needle in parts[1:2]:
        g.likes.append([parts[0].size, needle.size])
    if form.cost == "search":
        return Value({0: 20}, work, 10)
    if form.cost == "replace":
        return _replaced(parts, given)
    size = times(parts[0].size, ELEMENT_WEIGHT if form.cost == "split" else 2)
    return Value(size, plus(work, size))


def _repeated(_g: Growth, form: Form, parts: list[Value], given: list[Any]) -> Value:
    many = _literal_number(given[1]) or 0
    size = times(parts[0].size, many) if form.cost == "repeat" else {0: 4 * many}
    return Value(size, plus(_work(parts), size))


def _joined(_g: Growth, form: Form, parts: list[Value], _given: list[Any]) -> Value:
    """A separator between any two elements, each of which may have one character."""
    separator, rest = (parts[1], parts[:1]) if form.name == "array_to_string" else (parts[0], parts[1:])
    if set(separator.size) != {0} or separator.size[0] > ELEMENT_WEIGHT:
        raise ApiFailure("sql_forbidden", f"this separator in {form.name} is not allowed here; use a literal of at "
                                          f"most {ELEMENT_WEIGHT} characters")
    size = plus(times(plus(*(part.size for part in rest)), 1 + separator.size[0]), {0: 1024})
    return Value(size, plus(_work(parts), size))


def _as_json(_g: Growth, _form: Form, parts: list[Value], given: list[Any]) -> Value:
    made = [times(part.size, 1 if _is_json(one) else ESCAPED_WEIGHT) for part, one in zip(parts, given, strict=True)]
    size = plus({0: ROW_BYTES * (len(parts) + 1)}, *made)
    return Value(size, plus(_work(parts), size), max((part.digits for part in parts), default=0))


def _kept(_g: Growth, _form: Form, parts: list[Value], _given: list[Any]) -> Value:
    return Value({0: HELD_BYTES_MAX}, plus(_work(parts), *(part.size for part in parts)),
                 max((part.digits for part in parts), default=0))


def _all_sizes(parts: list[Value]) -> Sum:
    return plus({0: ROW_BYTES * (len(parts) + 1)}, *(times(part.size, 2) for part in parts))


COSTS: dict[str, _Rule] = {
    "small": _fixed(64), "flag": _fixed(64), "float": _fixed(400, 400), "average": _summed, "sum": _summed,
    "round": _rounded, "product": _multiplied, "largest": _chosen, "kept": _kept, "json": _as_json,
    "copy": _sized(lambda parts: parts[0].size if parts else {0: 64}),
    "letters": lambda _g, _f, parts, _given: Value(
        parts[0].size, plus(_work(parts), times(parts[0].size, CASE_WEIGHT))),
    "hash": lambda _g, _f, parts, _given: Value({0: 32}, plus(_work(parts), times(parts[0].size, CASE_WEIGHT))),
    "cut": lambda _g, form, parts, given: _cut(parts, given, form),
    "twice": _sized(lambda parts: times(parts[0].size, 2)),
    "needle": _looked_for, "search": _looked_for, "replace": _looked_for, "split": _looked_for,
    "repeat": _repeated, "pad": _repeated, "joined": _joined,
    "texts": _sized(lambda parts: plus(*(times(part.size, 2) for part in parts))),
    "format": _sized(lambda parts: plus({0: 400}, times(parts[-1].size, FORMATTED_WEIGHT))),
    "array": _sized(_all_sizes),
}
"""The costs that ``allowed`` names; a test compares them with the table."""


def _small(_g: Growth, _node: Any) -> Value:
    return Value({0: 20}, {}, 20)


def _filter(g: Growth, node: Any) -> Value:
    value, condition = g.value(node.this), g.value(node.expression.this)
    return value._replace(work=plus(value.work, condition.work))


def _window(g: Growth, node: Any) -> Value:
    beside = g.all(_beside(node))
    value = g.value(node.this)
    return value._replace(work=plus(value.work, *(one.work for one in beside)))


def _copy(g: Growth, node: Any) -> Value:
    value = g.value(node.this)
    return Value(value.size, plus(_read(value), value.size), value.digits)


def _within(g: Growth, node: Any) -> Value:
    """An aggregate over sorted values: it returns one of them, or one between two of them."""
    values = g.all([item.this for item in node.expression.expressions])
    return largest_of(values)._replace(work=plus(_work(values), g.value(node.this).work))


_RULES: dict[type, Callable[[Growth, Any], Value]] = {
    exp.Column: Growth._column, exp.Literal: _literal, exp.Parameter: _parameter, exp.Null: _small, exp.Boolean: _small,
    exp.Star: _small, exp.Paren: _same, exp.Neg: _copy, exp.Not: _flag, exp.And: _logic, exp.Or: _logic, exp.EQ: _logic,
    exp.NEQ: _logic, exp.GT: _less, exp.GTE: _less, exp.LT: _less, exp.LTE: _less, exp.Add: _sum, exp.Sub: _sum,
    exp.Mul: _product, exp.Div: _product, exp.Mod: _product, exp.DPipe: _concatenation, exp.Is: _flag, exp.In: _in,
    exp.Exists: _exists, exp.Subquery: _scalar, exp.Between: _between, exp.Like: _like, exp.ILike: _like,
    exp.Case: _case, exp.Cast: _cast, exp.Anonymous: _function, exp.Filter: _filter, exp.Window: _window,
    exp.WithinGroup: _within, exp.Ordered: _same, exp.Pow: _floats, exp.NullSafeEQ: _pairs, exp.NullSafeNEQ: _pairs,
    exp.Tuple: _row, exp.Any: _each, exp.All: _each, exp.Array: _array, exp.Bracket: _slice, exp.AtTimeZone: _zone,
    exp.Interval: _small, exp.CurrentDate: _small, exp.CurrentTimestamp: _small, exp.Localtimestamp: _small,
    exp.Escape: _same,
}
HAS_A_RULE = frozenset(_RULES)
"""Every kind of value that has a rule; a test compares them with the kinds that ``writer`` writes."""
