"""Where the times of the ledger's events run back. Between two such places it can be searched by time.

Events stand in the order of their commits, and a clock that was wrong and is put right makes their times run back by
seconds or by years. The writer notes each event that is more than SLACK_NS older than the latest before it, and the
first that it writes after a start: a *turn*. From one turn to the next times never run back by more than SLACK_NS, so a
bisection with so much slack misses nothing; across a turn it may miss everything. ``verify`` holds the list to the
events, since a turn that was taken out would hide them from whoever reads by time.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from apex_exec.ledger.records import nanoseconds_of

TABLE = "CREATE TABLE IF NOT EXISTS turns (seq INTEGER PRIMARY KEY)"
SLACK_NS = 3_600 * 10**9
"""Records of other processes come a little late, and after a crash some minutes late; these are no turns."""


class Stretch(NamedTuple):
    """Events from ``first`` up to ``end`` (not included; None: the last). ``sorted``: they may be searched by time."""

    first: int
    end: int | None
    sorted: bool


def stretches(db: sqlite3.Connection) -> list[Stretch]:
    """All stretches in order. What was written before there was a list is one that is not sorted."""
    try:
        turns = [seq for (seq,) in db.execute("SELECT seq FROM turns ORDER BY seq")]
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        turns = []
    ends = [*turns, None]  # of what stands before the first turn, and then of each
    return [Stretch(0, ends[0], False)] + [Stretch(turn, end, True) for turn, end in zip(turns, ends[1:], strict=True)]


class TurnCheck:
    """Follows the events of a walk and says where the list of turns lacks one."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._turns = {stretch.first for stretch in stretches(db)[1:]}
        self._latest = b""  # of the stretch that the walk is in; nothing before the first turn
        self._begun = False

    def begin(self, seq: int) -> None:
        """The walk begins at ``seq``."""
        self._begun = any(turn <= seq for turn in self._turns)

    def lacks(self, seq: int, body: bytes) -> bool:
        """True if ``seq`` is a turn and is not in the list. Raises ValueError on a body that is not ours."""
        at = body.index(b'"timestamp":"', 0, 64) + 13
        time = body[at : at + 30]
        if seq in self._turns:
            self._begun, self._latest = True, time
        elif not self._begun or time >= self._latest:
            self._latest = time
        elif nanoseconds_of(time.decode()) < nanoseconds_of(self._latest.decode()) - SLACK_NS:
            if self._db.execute("SELECT 1 FROM turns WHERE seq = ?", (seq,)).fetchone() is None:
                return True
            self._latest = time  # the running ledger has noted it since the walk began
        return False
