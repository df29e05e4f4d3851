"""Upgrades that people began at the console, and how far each is: what a page shows live. Pure but for the task.

The daemon says in steps where an upgrade is: the registry has a row of the new version, its state moves on, a worker of
the new version runs beside the one that serves. ``steps`` reads them off two looks, so a page shows what is, and not
what the console believes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any, NamedTuple

KEPT_MAX = 64
STEPS = ("The file is here", "Its manifest and signature are checked", "Its code is scanned, and loaded in the jail",
         "A trial call runs beside the version that serves", "The new version serves")


class Step(NamedTuple):
    """``state``: done, now, waits or failed; ``note`` is what there is to say."""

    text: str
    state: str
    note: str = ""


class Upgrade:
    """One upgrade. ``result`` is the daemon's answer; ``problem`` and ``hint`` why it went no further."""

    def __init__(self, plugin: str, who: str, before: dict[str, Any], size: int, begun: float) -> None:
        self.plugin = plugin
        self.who = who
        self.from_version = str(before["version"])
        self.rows_before = {row["version"]: row["digest"] for row in before["versions"]}
        self.size = size
        self.begun = begun
        self.ended: float | None = None
        self.result: dict[str, Any] | None = None
        self.problem = ""
        self.hint = ""
        self.task: asyncio.Task[None] | None = None
        self.reached = 1
        """The step that it is at; it never goes back, since a row may be replaced between two looks."""
        self.trial = ""

    def seconds(self, now: float) -> float:
        """How long it has taken, or took."""
        return (self.ended if self.ended is not None else now) - self.begun

    def look(self, known: dict[str, Any], live: dict[str, Any] | None) -> None:
        """Takes over what registry and supervisor say at this moment."""
        new = next((row for row in known["versions"] if row["version"] not in self.rows_before
                    or self.rows_before[row["version"]] != row["digest"]), None)
        trial = (live or {}).get("trial")
        if trial:
            self.reached = max(self.reached, 3)
            self.trial = f"version {trial['version']}: its worker is {trial['worker']}"
        elif new is not None:
            self.reached = max(self.reached, {"registered": 2, "validated": 3}.get(new["state"], 2))

    def steps(self) -> list[Step]:
        """Every step, as far as is known."""
        at, state = self.reached, "now"
        note = self.trial if at == 3 else ""
        if self.problem:
            state, note = "failed", self.problem
        elif self.result is not None:
            if self.result["waiting"]:
                at, state, note = 3, "now", "it waits for an approval, and goes on by itself"
            else:
                at, state, note = len(STEPS), "done", ""
        return [Step(text, "done" if number < at else state if number == at else "waits", note if number == at else "")
                for number, text in enumerate(STEPS)]


class Upgrades:
    """The latest upgrade of each plugin, since this console began."""

    def __init__(self) -> None:
        self._latest: OrderedDict[str, Upgrade] = OrderedDict()

    def get(self, plugin: str) -> Upgrade | None:
        """The latest one; None if there was none."""
        return self._latest.get(plugin)

    def add(self, one: Upgrade) -> bool:
        """Keeps one that begins; False if another of the same plugin is under way."""
        before = self._latest.get(one.plugin)
        if before is not None and before.ended is None:
            return False
        self._latest[one.plugin] = one
        self._latest.move_to_end(one.plugin)
        while len(self._latest) > KEPT_MAX:
            oldest = next((name for name, kept in self._latest.items() if kept.ended is not None), None)
            if oldest is None:
                break
            del self._latest[oldest]
        return True
