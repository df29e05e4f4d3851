"""The progress of work on the ledger: a step, and the number of events of a total. One thread counts, others read."""

from __future__ import annotations

from typing import Any

LOOK_EVERY = 4096
"""How many events pass between two reports: a power of two."""


class Progress:
    """Counts the events of one step after another."""

    def __init__(self) -> None:
        self._at: tuple[str, int, int] = ("waiting", 0, 0)

    def begin(self, step: str, events: int) -> None:
        """Begins a step with about ``events`` events."""
        self._at = (step, 0, max(0, events))

    def reached(self, events: int) -> None:
        """Notes that ``events`` events of the step are done; a ledger that has grown meanwhile has more than announced.
        """
        step, before, total = self._at
        events = max(before, events)
        self._at = (step, events, max(total, events))

    def shown(self) -> dict[str, Any]:
        """What ``billing.status`` shows about it."""
        step, events, total = self._at
        return {"step": step, "events": events, "of": total}
