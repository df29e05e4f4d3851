"""A case: a named promise of the host protocol, and a function that raises where it is not kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, Literal, NamedTuple, TypeVar

DETAIL_CHARACTERS_MAX = 500
Side = TypeVar("Side")
"""What a case talks to: a connection to a daemon, or a host under a driver."""
Outcome = Literal["kept", "broken", "not tried"]


class NotKept(Exception):
    """The promise is not kept. ``str()`` says what was seen instead."""


class NotTried(Exception):
    """The case cannot be tried here. ``str()`` says what is missing."""


class Case(NamedTuple, Generic[Side]):
    """``name`` is ``group/what``; ``promise`` is one sentence of the protocol."""

    name: str
    promise: str
    try_it: Callable[[Side], None]


class Result(NamedTuple):
    """What came of one case; ``detail`` says why it is broken or was not tried."""

    name: str
    promise: str
    outcome: Outcome
    detail: str
    milliseconds: float


def expect(condition: object, seen: Any) -> None:
    """Raises NotKept with what was seen unless ``condition`` holds."""
    if not condition:
        raise NotKept(f"seen: {seen!r}"[:DETAIL_CHARACTERS_MAX])


def equal(seen: Any, wanted: Any) -> None:
    """Raises NotKept unless both are equal, a boolean and a number never being so."""
    if seen != wanted or isinstance(seen, bool) != isinstance(wanted, bool):
        raise NotKept(f"seen: {seen!r}, wanted: {wanted!r}"[:DETAIL_CHARACTERS_MAX])


def chosen(cases: Iterable[Case[Side]], words: list[str]) -> list[Case[Side]]:
    """The cases whose names hold one of ``words``; all if there are none."""
    return [case for case in cases if not words or any(word in case.name for word in words)]


def run(cases: Iterable[Case[Side]], side: Callable[[], Any]) -> Iterator[Result]:
    """Tries each case with a ``side()`` of its own, which is a context manager, and yields what came of it."""
    for case in cases:
        begun = time.monotonic()
        outcome: Outcome = "kept"
        detail = ""
        try:
            with side() as opened:
                case.try_it(opened)
        except NotTried as error:
            outcome, detail = "not tried", str(error)
        except Exception as error:  # whatever the other end does breaks its own case, and no other
            outcome, detail = "broken", str(error) if isinstance(error, NotKept) else f"{type(error).__name__}: {error}"
        yield Result(case.name, case.promise, outcome, detail[:DETAIL_CHARACTERS_MAX],
                     (time.monotonic() - begun) * 1000)
