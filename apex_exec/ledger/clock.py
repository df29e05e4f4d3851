"""How far the wall clock is believed when old events are to be removed. A clock that is wrong may not cost the ledger.

A dead real-time clock, a restored snapshot or a bad time server can put the clock years ahead for seconds or for days.
Retention therefore goes by a time of its own, kept in ``<state_dir>/audit.clock``. It follows the wall clock, but from
one look to the next it moves at most twice as far as time has really passed (CLOCK_MONOTONIC), and GAP_NS more at a
start, since how long a daemon was off cannot be known. It never runs back. So a clock that is ahead removes at most
what a week and twice the time that it was wrong would have removed.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from apex_exec.common.files import replace_file

FILE = "audit.clock"
GAP_NS = 7 * 86_400 * 10**9
"""A clock that is further ahead at a start than this is not believed at once, but caught up with at twice the speed."""
WARN_NS = 86_400 * 10**9
"""A clock further ahead than this is warned of."""
CATCH_UP = 2


class RetentionClock:
    """``now_ns`` is what retention goes by. ``latest_event_ns``: the last event's time, if the file is not there."""

    def __init__(self, state_dir: Path, wall_ns: int, monotonic_ns: int, latest_event_ns: int | None) -> None:
        self._path = state_dir / FILE
        self._looked_ns = monotonic_ns
        known = self._read()
        if known is None:
            known = min(wall_ns, latest_event_ns) if latest_event_ns is not None else wall_ns
        self.now_ns = max(known, min(wall_ns, known + GAP_NS))
        self.ahead_ns = wall_ns - self.now_ns

    def look(self, wall_ns: int, monotonic_ns: int) -> int:
        """The time that retention goes by now; kept for the next start. Raises OSError."""
        passed_ns = max(0, monotonic_ns - self._looked_ns)
        self._looked_ns = monotonic_ns
        self.now_ns = max(self.now_ns, min(wall_ns, self.now_ns + CATCH_UP * passed_ns))
        self.ahead_ns = wall_ns - self.now_ns
        replace_file(self._path, f"{self.now_ns}\n".encode(), only_writer=True, sync_folder=False)
        return min(self.now_ns, wall_ns)

    def _read(self) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            return int(self._path.read_text("ascii"))
        return None
