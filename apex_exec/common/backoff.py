"""Waits that double: how long to leave something alone that has failed. Pure; the caller reads the clock."""

from __future__ import annotations

from typing import Generic, TypeVar

N = TypeVar("N", int, float)


class Backoff(Generic[N]):
    """The first wait is ``shortest``, each further one twice as long, up to ``longest``. Any unit of time will do."""

    __slots__ = ("_longest", "_next", "_shortest")

    def __init__(self, shortest: N, longest: N) -> None:
        self._shortest: N = shortest
        self._longest: N = longest
        self._next: N = shortest

    def take(self) -> N:
        """How long to wait after this failure; the next wait is longer."""
        wait: N = self._next
        self._next = min(wait + wait, self._longest)
        return wait

    def reset(self) -> None:
        """Call this when it has worked, or has worked for long enough: the next wait is the shortest again."""
        self._next = self._shortest
