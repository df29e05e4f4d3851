"""What one row of a statement may cost, as sums over the lengths of its parameters. Pure.

A bound is a sum: a constant, plus a factor times the length of each parameter, which is known when the query runs.
``check_work`` computes the sum and refuses more than WORK_BYTES_MAX. Work is counted in bytes copied. A column of a
table counts as COLUMN_BYTES, about as much as one call may write.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from apex_exec.gateway.failure import ApiFailure
from apex_exec.gateway.sql.kinds import merged

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


class Output(NamedTuple):
    """The result of a query: its columns in order, ``rest`` if it includes a table's star, and all of its work."""

    columns: list[tuple[str, Value]]
    rest: Value | None
    work: Sum


class Statement(Protocol):
    """What a rule asks of the statement that its value stands in (``growth.Growth``)."""

    likes: list[list[Sum]]

    def query(self, node: Any) -> Output:
        """The bounds of a query."""

    def value(self, node: Any) -> Value:
        """The bound of one expression."""

    def all(self, nodes: Iterable[Any]) -> list[Value]:
        """The bounds of several expressions."""

    def chain(self, node: Any) -> list[Value]:
        """The bounds of a chain of one operator, from the left."""


STORED = Value({0: COLUMN_BYTES}, {}, stored=True)
"""A column of a table."""


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


def work_with(work: Sum, params: list[Any]) -> int:
    """The most that a row may cost with these parameters; those that are missing count as empty."""
    return work.get(0, 0) + sum(count * length(params[number - 1]) for number, count in work.items()
                                if number and number <= len(params))


def check_work(work: Sum, params: list[Any]) -> None:
    """Raises ApiFailure if a row may cost more than WORK_BYTES_MAX. Without ``params`` they count as empty."""
    total = work_with(work, params)
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


def read(value: Value) -> Sum:
    """The work of evaluating ``value`` and reading it."""
    return plus(value.work, value.size) if value.stored else value.work


FLAG: Sum = {0: 8}
"""The size of a boolean."""


def number_of(digits: int, work: Sum) -> Value:
    """A number with at most ``digits`` digits."""
    digits = min(digits, DIGITS_MAX)
    return Value({0: digits + 20}, work, digits)


def work_of(parts: list[Value]) -> Sum:
    """The work of evaluating all of them and reading them."""
    return plus(*(read(part) for part in parts))
