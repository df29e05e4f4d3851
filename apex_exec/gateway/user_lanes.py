"""The places that one plugin has at the database, shared among its users."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator

from apex_exec.gateway.lock_turns import wait


class UserLanes:
    """At most ``places`` calls at once. A place that becomes free goes to the user who holds the fewest of those that
    wait, and among equals to the one whose turn is longest ago. So a user whose calls queue up keeps another one's
    call waiting for one of them and not for all, and may have every place while nobody else asks."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._turns = 0
        self._latest: dict[str, int] = {}
        """User -> the number of the latest turn, for as long as the user holds a place or waits for one."""

    @property
    def is_idle(self) -> bool:
        """Whether nobody holds a place or waits for one."""
        return not self._held and not self._waiting and not self._latest

    @contextlib.asynccontextmanager
    async def place(self, user_id: str) -> AsyncIterator[None]:
        """Holds a place for the duration of the block."""
        if self._free and not self._waiting:
            self._give(user_id)
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(user_id, deque()).append(turn)
            try:
                await wait(turn, lambda: self._give_back(user_id))
            except asyncio.CancelledError:
                self._forget(user_id, turn)
                raise
        try:
            yield
        finally:
            self._give_back(user_id)

    def _give(self, user_id: str) -> None:
        self._free -= 1
        self._held[user_id] += 1
        self._turns += 1
        self._latest[user_id] = self._turns

    def _give_back(self, user_id: str) -> None:
        self._free += 1
        self._held[user_id] -= 1
        if not self._held[user_id]:
            del self._held[user_id]
        self._tidy(user_id)
        while self._free and self._waiting:
            following = min(self._waiting, key=lambda user: (self._held[user], self._latest.get(user, 0)))
            turn = self._waiting[following].popleft()
            if not self._waiting[following]:
                del self._waiting[following]
            if turn.done():  # the call was cancelled a moment ago
                self._tidy(following)
            else:
                self._give(following)
                turn.set_result(None)

    def _forget(self, user_id: str, turn: asyncio.Future[None]) -> None:
        """The call has ended before its turn came."""
        lane = self._waiting.get(user_id)
        if lane is not None and turn in lane:
            lane.remove(turn)
            if not lane:
                del self._waiting[user_id]
                self._tidy(user_id)

    def _tidy(self, user_id: str) -> None:
        if user_id not in self._held and user_id not in self._waiting:
            self._latest.pop(user_id, None)
