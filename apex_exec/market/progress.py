"""How far work on the ledger is: a step, and events of how many. One thread counts, others look."""

from __future__ import annotations

from typing import Any

LOOK_EVERY = 4096
"""Events between two counts: a power of two."""


class Progress:
    """Counts the events of one step after another."""

    def __init__(self) -> None:
        self._at: tuple[str, int, int] = ("waiting", 0, 0)

    def begin(self, step: str, events: int) -> None:
        """A step begins, of about so many events."""
        self._at = (step, 0, max(0, events))

    def reached(self, events: int) -> None:
        """So many events of the step are behind; a ledger that grew meanwhile has more than was said."""
        step, before, total = self._at
        events = max(before, events)
        self._at = (step, events, max(total, events))

    def told(self) -> dict[str, Any]:
        """What ``billing.status`` says of it."""
        step, events, total = self._at
        return {"step": step, "events": events, "of": total}
