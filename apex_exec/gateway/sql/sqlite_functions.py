"""PostgreSQL's functions that SQLite does not have, or has with other answers, for connections of plugins' queries.

Each takes what PostgreSQL's takes (a text, a whole number, NULL) and refuses everything else by name: SQLite would
convert a number to a text in its own way. Their names begin with ``pg_``: a view may use SQLite's own.
"""

from __future__ import annotations

import hashlib
import math
import re
import sqlite3
from collections import deque
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from apex_exec.gateway.sql import sqlite_moments
from apex_exec.gateway.sql.sqlite_values import EXACT_MAX, RANGES

VALUE_BYTES_MAX = 4 * 1024 * 1024
"""The longest text or blob that a connection handles. SQLite refuses a longer result of a function only when it is
made, and meanwhile the gateway's one interpreter makes nothing else: so whatever can grow is measured before."""


class Refusals:
    """Remembers why a function refused: SQLite itself reports only that one did."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forgets what was remembered. It may quote a row of its caller, and the next statement may be another user's.
        """
        self.reason = "a function met a text that is not UTF-8"  # of which sqlite3 tells none of our functions

    def refuse(self, reason: str) -> ValueError:
        """The exception for SQLite."""
        self.reason = reason
        return ValueError(reason)


def _room(characters: int) -> None:
    """Raises ValueError if a function would make a text of more than VALUE_BYTES_MAX characters."""
    if characters > VALUE_BYTES_MAX:
        raise ValueError(f"a text of more than {VALUE_BYTES_MAX // 1024 // 1024} MiB is not available on SQLite; make "
                         "shorter ones")


def _repeat(text: str, count: int) -> str:
    _room(len(text) * count)
    return text * count


def _replace(text: str, old: str, new: str) -> str:
    if not old:
        return text
    _room(len(text) + text.count(old) * (len(new) - len(old)))
    return text.replace(old, new)


def _split_part(text: str, separator: str, number: int) -> str:
    parts = text.split(separator) if separator else [text]
    if number == 0:
        raise ValueError("split_part counts fields from 1")
    place = number - 1 if number > 0 else len(parts) + number
    return parts[place] if 0 <= place < len(parts) else ""


def _pad(text: str, length: int, fill: str, *, left: bool) -> str:
    if len(text) >= length or not fill:
        return text[:length]
    more = (fill * (length // len(fill) + 1))[: length - len(text)]
    return more + text if left else text + more


def _substr(text: str, start: int, length: int | None = None) -> str:
    if length is not None and length < 0:
        raise ValueError("a negative length in substr")
    end = None if length is None else max(start - 1 + length, 0)
    return text[max(start - 1, 0) : end]


def _mod(a: int, b: int) -> int:
    if b == 0:
        raise ValueError("division by zero")
    return abs(a) % abs(b) * (1 if a >= 0 else -1)


def _lower(text: str) -> str:
    """Character by character, as PostgreSQL: no character becomes two, and a sigma at the end is like others."""
    return "".join(one.lower()[0] for one in text)


def _upper(text: str) -> str:
    return "".join(up if len(up := one.upper()) == 1 else up if len(up := one.title()) == 1 else one for one in text)


def _initcap(text: str) -> str:
    return re.sub(r"[^\W_]+", lambda found: _upper(found[0][0]) + _lower(found[0][1:]), text)


def _div(a: Any, b: Any) -> Any:
    if b == 0:
        raise ValueError("division by zero")
    if isinstance(a, float) or isinstance(b, float):
        return a / b
    return abs(a) // abs(b) * (1 if (a >= 0) == (b >= 0) else -1)


def _round(value: Any, digits: int) -> float:
    """Half away from zero, of the number that its shortest text shows: as a numeric is rounded."""
    number = Decimal(format(value, ".15g") if isinstance(value, float) else value)
    return float(number.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)) if abs(digits) <= 30 else float(number)


def _fit_num(value: Any, scale: int) -> Any:
    if abs(value) * 10**scale >= EXACT_MAX:
        raise ValueError("a numeric of more than 15 digits is not available on SQLite")
    return round(value, scale)


def _fit_float(value: Any) -> Any:
    if not math.isfinite(value):
        raise ValueError("a double precision is out of range")
    return value


def _fit(kind: str) -> Callable[[Any], Any]:
    limit = RANGES[kind]

    def fit(value: Any) -> Any:
        if type(value) is not int or not -limit <= value < limit:
            raise ValueError(f"{'smallint integer bigint'.split()[int(kind[-1]) // 4]} out of range")
        return value

    return fit


class _Sum:
    """The sum of numerics with a number of digits after the point: exact, as a whole number of the last digit."""

    def __init__(self) -> None:
        self._total = 0
        self._count = 0
        self._scale = 0

    def step(self, value: Any, scale: int) -> None:
        """Adds a value."""
        self._add(value, scale, 1)

    def inverse(self, value: Any, scale: int) -> None:
        """Takes a value away, as a frame moves."""
        self._add(value, scale, -1)

    def _add(self, value: Any, scale: int, sign: int) -> None:
        if value is not None:
            self._scale = scale
            self._count += sign
            self._total += sign * round(value * 10**scale)

    def value(self) -> Any:
        """The sum so far; an error if SQLite cannot hold it."""
        if abs(self._total) >= EXACT_MAX:
            raise ValueError("a sum of more than 15 digits")
        return self._total / 10**self._scale if self._count else None

    def finalize(self) -> Any:
        """The sum."""
        return self.value()


class _Average(_Sum):
    def value(self) -> Any:
        """The average so far."""
        return self._total / (10**self._scale * self._count) if self._count else None


class _MovingSum:
    """The sum of a frame's double precisions, added anew when a row leaves it, as PostgreSQL does.

    SQLite subtracts, and after 1e20 has come and gone, nothing is left of the others."""

    def __init__(self) -> None:
        self._values: deque[float] = deque()
        self._total: float | None = 0.0

    def step(self, value: Any) -> None:
        """Adds a value."""
        if value is not None:
            self._values.append(float(value))
            self._total = self._total + float(value) if self._total is not None else None

    def inverse(self, value: Any) -> None:
        """Takes the first value away."""
        if value is not None:
            self._values.popleft()
            self._total = None

    def value(self) -> Any:
        """The sum so far."""
        if self._total is None:
            self._total = 0.0
            for value in self._values:
                self._total += value
        return self._total if self._values else None

    def finalize(self) -> Any:
        """The sum."""
        return self.value()


class _MovingAverage(_MovingSum):
    def value(self) -> Any:
        """The average so far."""
        total = super().value()
        return total / len(self._values) if self._values else None


_WHOLE = re.compile(r"[-+]?\d{1,18}", re.ASCII)
_REAL = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d{1,3})?", re.ASCII)


def _exact(text: str) -> Any:
    return int(text) if _WHOLE.fullmatch(text.strip()) else float(text)


TEXT = str
NUMBER = int
ANY = object
FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[type, ...], int]] = {
    "left": (lambda text, n: text[:n], (TEXT, NUMBER), 2),
    "right": (lambda text, n: text[-n:] if n > 0 else text[-n:] if n else "", (TEXT, NUMBER), 2),
    "reverse": (lambda text: text[::-1], (TEXT,), 1),
    "repeat": (_repeat, (TEXT, NUMBER), 2),
    "lpad": (lambda text, n, fill=" ": _pad(text, n, fill, left=True), (TEXT, NUMBER, TEXT), 2),
    "rpad": (lambda text, n, fill=" ": _pad(text, n, fill, left=False), (TEXT, NUMBER, TEXT), 2),
    "replace": (_replace, (TEXT, TEXT, TEXT), 3),
    "split_part": (_split_part, (TEXT, TEXT, NUMBER), 3),
    "strpos": (lambda text, part: text.find(part) + 1, (TEXT, TEXT), 2),
    "starts_with": (lambda text, part: int(text.startswith(part)), (TEXT, TEXT), 2),
    "substr": (_substr, (TEXT, NUMBER, NUMBER), 2),
    "md5": (lambda text: hashlib.md5(text.encode(), usedforsecurity=False).hexdigest(), (TEXT,), 1),
    "initcap": (_initcap, (TEXT,), 1),
    "mod": (_mod, (NUMBER, NUMBER), 2),
    "date_trunc": (sqlite_moments.date_trunc, (TEXT, TEXT), 2),
    "extract": (sqlite_moments.extract, (TEXT, TEXT), 2),
    "date_part": (sqlite_moments.date_part, (TEXT, TEXT), 2),
    "to_char": (sqlite_moments.to_char, (TEXT, TEXT), 2),
    "date": (sqlite_moments.day, (TEXT,), 1),
    "lower": (_lower, (TEXT,), 1),
    "upper": (_upper, (TEXT,), 1),
    "div": (_div, (ANY, ANY), 2),
    "round": (_round, (ANY, NUMBER), 2),
    "fit_num": (_fit_num, (ANY, NUMBER), 2),
    "fit_float": (_fit_float, (ANY,), 1),
    **{f"fit_{kind}": (_fit(kind), (ANY,), 1) for kind in RANGES},
}
"""By name: the function, the types of its arguments, the fewest arguments. NULL in gives NULL, as in PostgreSQL."""


def _number(refusals: Refusals, name: str, pattern: re.Pattern[str],
            convert: Callable[[Any], Any]) -> Callable[..., Any]:
    """A cast to a number, which takes a text only if all of it is one."""
    def called(value: Any) -> Any:
        if value is None or isinstance(value, int) and name != "float":
            return value
        if isinstance(value, int | float) and name != "int":
            return convert(value) if name == "float" or isinstance(value, int) else float(format(value, ".15g"))
        if not isinstance(value, str):
            raise refusals.refuse("a cast to a whole number of one with a fraction is not available on SQLite; use "
                                  "round(…, 0)" if isinstance(value, float) else "bytes cannot be cast to a number")
        if pattern.fullmatch(value.strip(" ")) is None:
            raise refusals.refuse(f"{value[:20]!r} is not a number of the type that it is cast to")
        return convert(value)

    return called


def register(database: sqlite3.Connection) -> Refusals:
    """Makes the functions known to ``database``."""
    refusals = Refusals()
    # SQLite makes this table when it is first used, which its authorizer would not let a plugin's statement do.
    database.execute("SELECT value FROM json_each('[]')").fetchall()

    def strict(name: str, function: Callable[..., Any], types: tuple[type, ...]) -> Callable[..., Any]:
        def called(*given: Any) -> Any:
            for value, kind in zip(given, types, strict=False):
                if value is not None and type(value) is not kind and kind is not ANY:
                    words = "a text" if kind is TEXT else "a whole number"
                    raise refusals.refuse(f"{name} needs {words} here, and SQLite has {type(value).__name__}; cast it")
            if None in given:
                return None
            try:
                return function(*given)
            except (ValueError, ArithmeticError) as error:
                raise refusals.refuse(str(error)) from None
            except OverflowError:  # SQLite would say that a text is too long
                raise refusals.refuse(f"{name} met a date or a number that is out of range") from None
        return called

    def join(separator: str, given: list[str]) -> str:
        try:
            _room(sum(map(len, given)) + len(separator) * len(given))
        except ValueError as error:
            raise refusals.refuse(str(error)) from None
        return separator.join(given)

    def concat(*given: Any) -> str:
        for value in given:
            if value is not None and type(value) is not str:
                raise refusals.refuse("concat and concat_ws take texts on SQLite; CAST(… AS text)")
        return join("", [value for value in given if value is not None])

    def concat_ws(separator: Any, *given: Any) -> str | None:
        concat(separator, *given)
        return None if separator is None else join(separator, [value for value in given if value is not None])

    def chosen(name: str, choose: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any) -> Any:
            there = [value for value in given if value is not None]
            if any(type(value) not in (int, float) for value in there):
                raise refusals.refuse(f"{name} compares numbers on SQLite, and here it has {type(there[0]).__name__}")
            return choose(there) if there else None
        return called

    database.create_function("pg_int", 1, _number(refusals, "int", _WHOLE, int), deterministic=True)
    database.create_function("pg_float", 1, _number(refusals, "float", _REAL, float), deterministic=True)
    database.create_function("pg_number", 1, _number(refusals, "number", _REAL, _exact), deterministic=True)
    for name, (function, types, least) in FUNCTIONS.items():
        for count in range(least, len(types) + 1):
            database.create_function(f"pg_{name}", count, strict(name, function, types), deterministic=True)
    # a stub of the standard library's types wants its own protocol here
    database.create_window_function("pg_sum", 2, _Sum)  # type: ignore[arg-type]  # see above
    database.create_window_function("pg_avg", 2, _Average)  # type: ignore[arg-type]  # see above
    database.create_window_function("pg_moving_sum", 1, _MovingSum)
    database.create_window_function("pg_moving_avg", 1, _MovingAverage)
    database.create_function("pg_concat", -1, concat, deterministic=True)
    database.create_function("pg_concat_ws", -1, concat_ws, deterministic=True)
    database.create_function("pg_greatest", -1, chosen("greatest", max), deterministic=True)
    database.create_function("pg_least", -1, chosen("least", min), deterministic=True)
    return refusals
