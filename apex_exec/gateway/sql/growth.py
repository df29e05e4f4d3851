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
                 max((one.digits for one in kept), default=0), any(one.stored for one in kept))


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


_TEXTS = (exp.Lower, exp.Upper, exp.Trim, exp.Length, exp.Substring, exp.DPipe, exp.Like, exp.ILike)
_COMPARED = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.In, exp.Between, exp.Limit, exp.Offset)


def numbers(tree: Any) -> list[int]:
    """The parameters that a database may convert to a number. Raises ApiFailure for such a literal."""
    found: dict[int, None] = {}
    for node in tree.find_all(exp.Parameter, exp.Literal):
        parent = node.parent
        while isinstance(parent, exp.Paren):
            parent = parent.parent
        if isinstance(parent, (*_TEXTS, *_COMPARED, exp.Parameter)):
            continue
        if isinstance(parent, exp.Cast) and parent.args["to"].this != exp.DataType.Type.DECIMAL:
            continue
        if isinstance(node, exp.Parameter):
            found[int(str(node.this.this))] = None
        elif node.is_string:
            check_number(str(node.this))
    return list(found)


class Growth:
    """The bounds of one statement. ``fold`` returns the folded name of an Identifier, as in the writer."""

    def __init__(self, fold: Callable[[Any], str]) -> None:
        self._fold = fold
        self._ctes: list[dict[str, Source]] = []
        self._sources: list[dict[str, Source]] = []
        self.likes: list[list[Sum]] = []
        """For each LIKE, the sizes of its text and its pattern."""

    def of(self, tree: Any) -> Sum:
        """The work of one row of the whole statement, including sending it to the plugin. Raises ApiFailure."""
        output = self.query(tree)
        sent = [value.size for _, value in output.columns if not value.stored]
        weighed = ({key: size * (SENT_WEIGHT if key else 1) for key, size in one.items()} for one in sent)
        return plus(output.work, *weighed)

    # ------------------------------------------------------------------ queries
    def query(self, node: Any) -> Output:
        """A SELECT, a set operation, or either of them in brackets."""
        if isinstance(node, exp.Subquery):
            return self.query(node.this)
        opened = len(self._ctes)
        with_ = node.args.get("with_")
        before: Sum = {}
        for cte in with_.expressions if with_ is not None else ():
            output = self.query(cte.this)
            names = [self._fold(column) for column in cte.args["alias"].args.get("columns") or []]
            before = plus(before, output.work)
            self._ctes.append({self._fold(cte.args["alias"].this): _renamed(output, names)})
        output = self._select(node) if isinstance(node, exp.Select) else self._set_operation(node)
        del self._ctes[opened:]
        return output._replace(work=plus(output.work, before))

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
        conditions += node.args["group"].expressions if node.args.get("group") is not None else []
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
        if isinstance(node, exp.Subquery):
            output = self.query(node.this)
            sources[self._fold(alias.this) if alias is not None else f" {len(sources)}"] = _renamed(output, [])
            return output.work
        word = self._fold(node.this)
        found = next((scope[word] for scope in reversed(self._ctes) if word in scope), Source({}, _STORED))
        sources[self._fold(alias.this) if alias is not None else word] = found
        return {}

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
            raise ApiFailure("sql_forbidden", f"{type(node).__name__.upper()} is not allowed here")
        return rule(self, node)

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
    from apex_exec.gateway.sql.writer import RESULT_NAMES

    if isinstance(item, exp.Alias):
        return fold(item.args["alias"])
    if isinstance(item, exp.Column):
        return fold(item.this)
    kind = type(item.this if isinstance(item, exp.Window | exp.Filter) else item)
    return RESULT_NAMES.get(kind, "")


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
    return Value(first.size, plus(output.work, first.size), first.digits)


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


def _first_of(g: Growth, node: Any) -> Value:
    parts = g.all([node.this, *node.expressions])
    return largest_of(parts)._replace(work=plus(*(part.work for part in parts)))


def _nullif(g: Growth, node: Any) -> Value:
    first, second = g.all([node.this, node.expression])
    return first._replace(work=plus(first.work, second.work))


_T = exp.DataType.Type


def _cast(g: Growth, node: Any) -> Value:
    value, kind = g.value(node.this), node.args["to"].this
    if kind in (_T.TEXT, _T.VARCHAR):  # of a column that is not text: bytes and JSON double in length
        size = times(value.size, 2) if value.stored else value.size
        return Value(size, plus(value.work, size), value.digits)
    if kind == _T.DECIMAL:  # the value is written, read twice and converted: see ``expressions``
        return _number(value.digits, plus(times(_read(value), 4), value.size))
    return Value({0: 400}, _read(value), 400)


def _same(g: Growth, node: Any) -> Value:
    return g.value(node.this)


def _letters(g: Growth, node: Any) -> Value:
    value = g.value(node.this)
    return Value(value.size, plus(_read(value), times(value.size, CASE_WEIGHT)))


def _copy(g: Growth, node: Any) -> Value:
    value = g.value(node.this)
    return Value(value.size, plus(_read(value), value.size), value.digits)


def _length(g: Growth, node: Any) -> Value:
    return Value({0: 20}, _read(g.value(node.this)), 10)


def _aggregate(g: Growth, node: Any) -> Value:
    value = g.value(node.this)
    return _number(value.digits + 20, plus(value.work, {0: value.digits}))


def _average(g: Growth, node: Any) -> Value:
    return Value({0: 400}, _aggregate(g, node).work, 400)


def _round(g: Growth, node: Any) -> Value:
    value, places = g.value(node.this), node.args.get("decimals")
    more = g.value(places).work if places is not None else {}
    return Value({0: 400}, plus(times(_read(value), 4), value.size, more), 400)


def _substring(g: Growth, node: Any) -> Value:
    value, many = g.value(node.this), node.args.get("length")
    size = value.size
    if isinstance(many, exp.Literal) and not many.is_string and str(many.this).isdigit():
        characters = 4 * int(str(many.this))
        size = {0: characters} if set(size) != {0} or characters < size[0] else size
    others = g.all([node.args.get("start"), many])
    return Value(size, plus(_read(value), size, *(one.work for one in others)))


def _count(g: Growth, node: Any) -> Value:
    counted = node.this
    if isinstance(counted, exp.Star):
        return Value({0: 20}, {}, 20)
    parts = g.all(counted.expressions if isinstance(counted, exp.Distinct) else [counted])
    return Value({0: 20}, plus(*(part.work for part in parts)), 20)


def _small(_g: Growth, _node: Any) -> Value:
    return Value({0: 20}, {}, 20)


def _filter(g: Growth, node: Any) -> Value:
    value, condition = g.value(node.this), g.value(node.expression.this)
    return value._replace(work=plus(value.work, condition.work))


def _window(g: Growth, node: Any) -> Value:
    order = node.args.get("order")
    beside = g.all([*(node.args.get("partition_by") or []),
                    *(item.this for item in (order.expressions if order is not None else ()))])
    value = g.value(node.this)
    return value._replace(work=plus(value.work, *(one.work for one in beside)))


_RULES: dict[type, Callable[[Growth, Any], Value]] = {
    exp.Column: Growth._column, exp.Literal: _literal, exp.Parameter: _parameter, exp.Null: _small, exp.Boolean: _small,
    exp.Star: _small, exp.Paren: _same, exp.Neg: _copy, exp.Not: _flag, exp.And: _logic, exp.Or: _logic, exp.EQ: _logic,
    exp.NEQ: _logic, exp.GT: _less, exp.GTE: _less, exp.LT: _less, exp.LTE: _less, exp.Add: _sum, exp.Sub: _sum,
    exp.Mul: _product, exp.Div: _product, exp.Mod: _product, exp.DPipe: _concatenation, exp.Is: _flag, exp.In: _in,
    exp.Exists: _exists, exp.Subquery: _scalar, exp.Between: _between, exp.Like: _like, exp.ILike: _like,
    exp.Case: _case, exp.Coalesce: _first_of, exp.Nullif: _nullif, exp.Cast: _cast, exp.Lower: _letters,
    exp.Upper: _letters, exp.Length: _length, exp.Abs: _copy, exp.Trim: _copy, exp.Min: _copy, exp.Max: _copy,
    exp.Sum: _aggregate, exp.Avg: _average, exp.Round: _round, exp.Substring: _substring, exp.Count: _count,
    exp.RowNumber: _small, exp.Rank: _small, exp.DenseRank: _small, exp.Filter: _filter, exp.Window: _window,
    exp.Ordered: _same,
}
HAS_A_RULE = frozenset(_RULES)
"""Every kind of value that has a rule; a test compares them with the kinds that ``writer`` writes."""
