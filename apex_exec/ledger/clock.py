"""How far we trust the wall clock when old events are to be removed: a wrong clock may not cost us the ledger.

A dead real-time clock, a restored snapshot or a bad time server can put the clock years ahead for seconds or days.
Retention therefore uses a time of its own, stored in ``<state_dir>/audit.clock``. It follows the wall clock, but
between two calls it advances at most twice as far as time has really passed (CLOCK_MONOTONIC), and by GAP_NS more at a
start, because we cannot know how long the daemon was off. It never runs backwards. So a clock that is ahead removes at
most what a week and twice the duration of the error would have removed.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from apex_exec.common.files import replace_file

FILE = "audit.clock"
GAP_NS = 7 * 86_400 * 10**9
"""If the clock is further ahead than this at a start, we do not trust it at once but catch up at twice the speed."""
WARN_NS = 86_400 * 10**9
"""We warn about a clock that is further ahead than this."""
CATCH_UP = 2


class RetentionClock:
    """``now_ns`` is the time that retention uses. ``latest_event_ns`` is the last event's time, used if the file is
    missing."""

    def __init__(self, state_dir: Path, wall_ns: int, monotonic_ns: int, latest_event_ns: int | None) -> None:
        self._path = state_dir / FILE
        self._looked_ns = monotonic_ns
        known = self._read()
        if known is None:
            known = min(wall_ns, latest_event_ns) if latest_event_ns is not None else wall_ns
        self.now_ns = max(known, min(wall_ns, known + GAP_NS))
        self.ahead_ns = wall_ns - self.now_ns

    def sample(self, wall_ns: int, monotonic_ns: int) -> int:
        """The time that retention uses now; it is stored for the next start. Raises OSError."""
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
