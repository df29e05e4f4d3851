"""A new owner's first minute: when the window of a plugin's network requests is open at this node. Pure.

A window counts in one node's memory, so another node that takes a plugin over does not know what was spent in the last
minute. It opens the window when the previous owner has handed the count over, or, if nobody could, when a minute and
the longest call have passed since then. ``wait`` is that time; 0 opens at once ("afresh"), and then a plugin may spend
its limit twice once. A node that does not own the plugin keeps the window closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from apex_exec.core.deadline import NEVER_NS
from apex_exec.core.owners import SLOTS


class Tenure:
    """When this node may spend for the plugins of each slot."""

    def __init__(self, name: str, wait_ns: int) -> None:
        self._name = name
        self._wait_ns = wait_ns
        self._opens_ns = [NEVER_NS] * SLOTS

    def follow(self, owners: Sequence[str], now_ns: int) -> dict[str, list[int]]:
        """Takes the map that holds now. The slots that this node has just lost, by who owns them now: their windows are
        closed from here on, and what they have counted is to be handed over."""
        lost: dict[str, list[int]] = {}
        opens = self._opens_ns
        for slot in range(SLOTS):
            owner = owners[slot] if owners else ""
            if owner == self._name:
                if opens[slot] == NEVER_NS:
                    opens[slot] = now_ns + self._wait_ns
            elif opens[slot] != NEVER_NS:
                lost.setdefault(owner, []).append(slot)
        return lost

    def close(self, slots: Iterable[int], now_ns: int) -> int:
        """Spends no more for ``slots``, which another node owns. How long that node has to wait all the same: as long
        as this one would have had to."""
        left_ns = 0
        for slot in slots:
            if self._opens_ns[slot] != NEVER_NS:
                left_ns = max(left_ns, self._opens_ns[slot] - now_ns)
                self._opens_ns[slot] = NEVER_NS
        return left_ns

    def handed(self, slots: Iterable[int], left_ns: int, now_ns: int) -> None:
        """The previous owner of ``slots`` has closed its windows and reported what they have counted."""
        for slot in slots:
            if self._opens_ns[slot] != NEVER_NS:
                self._opens_ns[slot] = min(self._opens_ns[slot], now_ns + left_ns)

    def closed_ns(self, slot: int, now_ns: int) -> int:
        """How long the window stays closed; 0 if it is open. Of a plugin that is another node's, the whole wait."""
        opens_ns = self._opens_ns[slot]
        if opens_ns == NEVER_NS:
            return max(self._wait_ns, 1)
        return max(0, opens_ns - now_ns)
