"""A plugin's places at the database, shared among its users."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from apex_exec.gateway.user_lanes import UserLanes

PLACES = 2


class Play:
    """Calls that hold a place until their ``end`` is set; ``begun`` has the users in the order of their turns."""

    def __init__(self) -> None:
        self.lanes = UserLanes(PLACES)
        self.begun: list[str] = []
        self.open: list[tuple[str, asyncio.Event]] = []
        self.tasks: list[asyncio.Task[None]] = []

    def ask(self, user: str) -> asyncio.Task[None]:
        self.tasks.append(asyncio.ensure_future(self._hold(user)))
        return self.tasks[-1]

    async def _hold(self, user: str) -> None:
        async with self.lanes.place(user):
            self.begun.append(user)
            end = asyncio.Event()
            self.open.append((user, end))
            assert len(self.open) <= PLACES
            try:
                await end.wait()
            finally:
                self.open.remove((user, end))

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def end_one(self) -> None:
        self.open[0][1].set()
        await self.settle()


def test_a_user_who_asks_later_waits_for_one_call_of_another_and_not_for_all() -> None:
    async def play() -> list[str]:
        play = Play()
        for user in ("greedy",) * 20 + ("modest",) * 2:
            play.ask(user)
        await play.settle()
        assert play.begun == ["greedy"] * PLACES, "nobody else had asked"
        for _ in range(22):
            await play.end_one()
        assert play.lanes.is_idle and len(play.begun) == 22
        return play.begun

    begun = asyncio.run(play())
    assert begun[2] == "modest" and begun[3] == "greedy" and begun.index("modest", 3) <= 5


def test_users_with_as_many_places_take_turns() -> None:
    async def play() -> list[str]:
        play = Play()
        for user in ("a", "a", "a", "b", "b", "b", "c", "c", "c"):
            play.ask(user)
        await play.settle()
        while play.open:
            await play.end_one()
        return play.begun

    begun = asyncio.run(play())
    assert Counter(begun) == {"a": 3, "b": 3, "c": 3}
    assert {*begun[2:4]} == {"b", "c"} and {*begun[-2:]} != {"c"}


@pytest.mark.parametrize("seed", range(30))
def test_whatever_ends_or_is_cancelled_no_place_is_lost_or_given_twice(seed: int) -> None:
    rng = random.Random(seed)

    async def play() -> None:
        play = Play()
        for _ in range(200):
            choice = rng.random()
            if choice < 0.5:
                play.ask(rng.choice("abcd"))
            elif choice < 0.8 and play.open:
                rng.choice(play.open)[1].set()
            elif play.tasks:
                rng.choice(play.tasks).cancel()
            if rng.random() < 0.7:
                await asyncio.sleep(0)
        for task in play.tasks:
            task.cancel()
        await asyncio.gather(*play.tasks, return_exceptions=True)
        assert play.lanes.is_idle
        play.open.clear()
        for _ in range(PLACES):
            play.ask("later")
        await play.settle()
        assert len(play.open) == PLACES

    asyncio.run(play())
