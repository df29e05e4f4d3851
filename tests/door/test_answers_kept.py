"""A key is on disk before its call leaves, gets one answer, and outlives the process."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from apex_exec.client.errors import CONNECTION_LOST
from apex_exec.door import answers_kept
from apex_exec.door.answers import JSON, Answer, Problem, answer_of
from apex_exec.door.answers_kept import AnswersKept, Full, Kept, Unusable
from apex_exec.door.keyed_calls import KeyedCalls

DAY = 86_400.0
GOOD = Answer(200, b'{"n":1}', JSON, {})


def with_store(folder: Path, work: Callable[[AnswersKept], Awaitable[Any]], *, clock: Callable[[], float] = lambda: 1e9,
               bytes_max: int = 2**20) -> Any:
    async def run() -> Any:
        store = AnswersKept(folder, DAY, bytes_max, clock)
        try:
            return await work(store)
        finally:
            store.close()

    return asyncio.run(run())


def test_a_key_is_there_once_and_has_its_answer_after_a_restart(tmp_path: Path) -> None:
    async def first(store: AnswersKept) -> None:
        assert await store.begin("a", "k", b"d") is None
        assert await store.begin("a", "k", b"d") == Kept(b"d", 0, b"")
        assert await store.begin("b", "k", b"d") is None, "another caller's key is another key"
        await store.finish("a", "k", 200, b"{}")
        assert await store.begin("a", "gone", b"d") is None
        await store.forget("a", "gone")

    async def second(store: AnswersKept) -> None:
        assert await store.begin("a", "k", b"d") == Kept(b"d", 200, b"{}")
        assert await store.begin("b", "k", b"d") == Kept(b"d", 0, b""), "sent, and nobody knows what has become of it"
        assert await store.begin("a", "gone", b"d") is None

    with_store(tmp_path, first)
    with_store(tmp_path, second)


def test_a_full_store_says_so_and_has_room_again_once_keys_have_expired(tmp_path: Path) -> None:
    now = [1e9]

    async def work(store: AnswersKept) -> None:
        taken = 0
        with pytest.raises(Full):
            while True:
                await store.begin("a", str(taken), b"d")
                await store.finish("a", str(taken), 200, bytes(20_000))
                taken += 1
        assert 20 < taken < 30, "half of the store is left for others"
        assert await store.begin("a", "0", b"d") is not None, "what is kept is still answered"
        now[0] += DAY + 1
        assert await store.begin("a", "0", b"d") is None

    with_store(tmp_path, work, clock=lambda: now[0])


def test_calls_under_way_are_counted_as_what_they_may_take(tmp_path: Path) -> None:
    async def work(store: AnswersKept) -> None:
        with pytest.raises(Full):
            for number in range(100):
                await store.begin("a", str(number), b"d")
        assert number <= 2**20 // answers_kept.RESERVED_BYTES

    with_store(tmp_path, work)


def test_a_caller_that_fills_the_store_leaves_room_for_others(tmp_path: Path) -> None:
    async def fill(store: AnswersKept, caller: str) -> int:
        with pytest.raises(Full):
            for number in range(1000):
                await store.begin(caller, str(number), b"d")
                await store.finish(caller, str(number), 200, bytes(10_000))
        return number

    async def first(store: AnswersKept) -> None:
        counts = [await fill(store, caller) for caller in ("greedy", "also greedy", "third")]
        assert counts[0] > counts[1] > counts[2] > 5
        assert await store.begin("honest", "k", b"d") is None
        await store.leave("honest")

    async def second(store: AnswersKept) -> None:
        with pytest.raises(Full):
            await store.begin("greedy", "more", b"d")
        assert await store.begin("honest", "k2", b"d") is None, "what each has is known after a restart"

    with_store(tmp_path, first)
    with_store(tmp_path, second)


def test_an_answer_that_cannot_be_written_holds_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_kept, "BUSY_SECONDS", 0.01)

    async def work(store: AnswersKept) -> None:
        for number in range(2 * 2**20 // answers_kept.RESERVED_BYTES):
            assert await store.begin("a", str(number), b"d") is None
            with closing(sqlite3.connect(next(tmp_path.rglob("answers.db")), isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(Unusable):
                    await store.finish("a", str(number), 200, b"x")

    with_store(tmp_path, work)


def test_a_fault_of_the_door_leaves_a_key_whose_outcome_is_unknown(tmp_path: Path) -> None:
    async def fails() -> Answer:
        raise ValueError("a fault")

    async def work(keyed: KeyedCalls) -> None:
        with pytest.raises(ValueError, match="a fault"):
            await keyed.answer("a", "k", b"d", fails)
        with pytest.raises(Problem) as refused:
            await keyed.answer("a", "k", b"d", fails)
        assert refused.value.more["details"]["reason"] == "outcome_unknown"

    calls(tmp_path, work)


def calls(folder: Path, work: Callable[[KeyedCalls], Awaitable[Any]]) -> Any:
    return with_store(folder, lambda store: work(KeyedCalls(store)))


class Counted:
    """A call that counts how often it was made."""

    def __init__(self, *outcomes: Answer) -> None:
        self.outcomes = list(outcomes)
        self.made = 0

    async def __call__(self) -> Answer:
        self.made += 1
        await asyncio.sleep(0.02)
        return self.outcomes.pop(0)


def test_a_hundred_at_once_with_one_key_are_one_call(tmp_path: Path) -> None:
    call = Counted(GOOD)

    async def work(keyed: KeyedCalls) -> None:
        found = await asyncio.gather(*(keyed.answer("a", "k", b"d", call) for _ in range(100)))
        assert {answer.body for answer in found} == {GOOD.body} and call.made == 1
        with pytest.raises(Problem) as refused:
            await keyed.answer("a", "k", b"other", call)
        assert (refused.value.status, refused.value.more["details"]["reason"]) == (409, "key_reused")

    calls(tmp_path, work)


def test_a_caller_that_leaves_finds_the_answer_when_it_comes_back(tmp_path: Path) -> None:
    call = Counted(GOOD)

    async def work(keyed: KeyedCalls) -> None:
        task = asyncio.create_task(keyed.answer("a", "k", b"d", call))
        await asyncio.sleep(0.01)
        task.cancel()
        await keyed.settle()
        answer = await keyed.answer("a", "k", b"d", call)
        assert answer.body == GOOD.body and answer.headers["Idempotency-Replayed"] == "true" and call.made == 1

    calls(tmp_path, work)


def test_what_has_not_run_may_be_sent_again_and_what_is_unknown_may_not(tmp_path: Path) -> None:
    busy = answer_of(Problem("OVERLOADED", "full", retryable=True))
    lost = answer_of(Problem(CONNECTION_LOST, "gone", started=True, retryable=False))
    call = Counted(busy, GOOD, lost)

    async def work(keyed: KeyedCalls) -> None:
        assert (await keyed.answer("a", "k", b"d", call)).status == 503
        assert (await keyed.answer("a", "k", b"d", call)).status == 200
        assert (await keyed.answer("a", "lost", b"d", call)).status == 502
        with pytest.raises(Problem) as refused:
            await keyed.answer("a", "lost", b"d", call)
        assert (refused.value.status, refused.value.more["details"]["reason"]) == (409, "outcome_unknown")
        assert call.made == 3

    calls(tmp_path, work)
