"""Which looks go on record: what a console asks for every two seconds is one look that lasts, not thirty a minute.

A record of each would say nothing more, cost the loop as much as the answer, and fill the ledger with open pages. So a
person who asks the same question again within ``SECONDS`` is not recorded again; the next record says how many looks
there were since. A question with other arguments, of another person, by another role, or that is refused is recorded at
once, and so is everything that changes something. Pure: the clock is an argument.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

SECONDS = 60.0
KEPT_MAX = 1024
"""Questions that are remembered; one that was forgotten is recorded again."""


class Looks:
    """The latest questions of everybody."""

    def __init__(self) -> None:
        self._seen: OrderedDict[Hashable, list[float]] = OrderedDict()
        """Question -> when it was recorded, and how often it was asked since."""

    def count(self, question: Hashable, now_s: float) -> int:
        """How many looks a record has to stand for, this one included; 0 if none is due yet."""
        kept = self._seen.get(question)
        if kept is not None and 0 <= now_s - kept[0] < SECONDS:
            kept[1] += 1
            return 0
        looks = 1 + (int(kept[1]) if kept is not None else 0)
        self._seen[question] = [now_s, 0]
        self._seen.move_to_end(question)
        while len(self._seen) > KEPT_MAX:
            self._seen.popitem(last=False)
        return looks
