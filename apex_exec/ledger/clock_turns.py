"""The places where the times of the ledger's events run backwards. Between two of them it can be searched by time.

Events are stored in the order of their commits. If a wrong clock is corrected, their times run backwards, by seconds or
by years. The writer records each event that is more than SLACK_NS older than the latest before it, and the first event
that it writes after a start: a *turn*. Between two turns, times never run backwards by more than SLACK_NS, so a
bisection with that much slack misses nothing; across a turn it could miss everything. ``verify`` compares the list with
the events, because a turn that was removed from it would hide events from everybody who reads by time.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from apex_exec.ledger.records import nanoseconds_of

TABLE = "CREATE TABLE IF NOT EXISTS turns (seq INTEGER PRIMARY KEY)"
SLACK_NS = 3_600 * 10**9
"""Records of other processes arrive slightly late, and after a crash some minutes late; these are not turns."""


class Stretch(NamedTuple):
    """Events from ``first`` to ``end`` (exclusive; None: to the last). ``sorted`` means that they can be searched by
    time."""

    first: int
    end: int | None
    sorted: bool


def stretches(db: sqlite3.Connection) -> list[Stretch]:
    """All stretches in order. Events that are older than the list form one stretch that is not sorted."""
    try:
        turns = [seq for (seq,) in db.execute("SELECT seq FROM turns ORDER BY seq")]
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        turns = []
    ends = [*turns, None]  # the end of the part before the first turn, and then of each stretch
    return [Stretch(0, ends[0], False)] + [Stretch(turn, end, True) for turn, end in zip(turns, ends[1:], strict=True)]


class TurnCheck:
    """Follows the events of a walk and reports turns that are missing from the list."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._turns = {stretch.first for stretch in stretches(db)[1:]}
        self._latest = b""  # the latest time in the current stretch; empty before the first turn
        self._begun = False

    def begin(self, seq: int) -> None:
        """Starts the walk at ``seq``."""
        self._begun = any(turn <= seq for turn in self._turns)

    def lacks(self, seq: int, body: bytes) -> bool:
        """True if ``seq`` is a turn that the list lacks. Raises ValueError for a body that we did not write."""
        at = body.index(b'"timestamp":"', 0, 64) + 13
        time = body[at : at + 30]
        if seq in self._turns:
            self._begun, self._latest = True, time
        elif not self._begun or time >= self._latest:
            self._latest = time
        elif nanoseconds_of(time.decode()) < nanoseconds_of(self._latest.decode()) - SLACK_NS:
            if self._db.execute("SELECT 1 FROM turns WHERE seq = ?", (seq,)).fetchone() is None:
                return True
            self._latest = time  # the running ledger has recorded it since the walk began
        return False
