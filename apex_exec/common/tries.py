"""How often somebody may be wrong: a bucket of wrong tries for each address. Pure: the clock is an argument."""

from __future__ import annotations

from collections import OrderedDict

TRIES_PER_MINUTE = 10.0
"""Wrong tries of one address, a burst of as many; above it the answer is 429."""
ADDRESSES_MAX = 10_000
"""Addresses whose wrong tries are counted; above it the one that was quiet longest is forgotten."""


class Tries:
    """Wrong tries of each address: a bucket that fills again within a minute."""

    def __init__(self, per_minute: float = TRIES_PER_MINUTE) -> None:
        self._per_minute = per_minute
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wrong(self, address: str, now: float) -> float:
        """Counts one wrong try. Returns 0, or how many seconds this address should wait."""
        left, at = self._left.pop(address, (self._per_minute, now))
        left = min(self._per_minute, left + (now - at) * self._per_minute / 60) - 1
        self._left[address] = max(-1.0, left), now
        while len(self._left) > ADDRESSES_MAX:
            self._left.popitem(last=False)
        return 0.0 if left >= 0 else (0 - left) * 60 / self._per_minute
