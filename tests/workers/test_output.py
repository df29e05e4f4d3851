"""What a plugin prints and logs belongs to the call that the code runs for, and to no other."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from workers import wire
from workers.runtime.output import LINES_PER_CALL_MAX, LOADING, LogHandler, Outlet


def outlet(*, apart: bool) -> tuple[Outlet, list[wire.Log]]:
    sent: list[Any] = []
    made = Outlet(sent.append)
    made.apart = apart
    return made, sent


def test_lines_of_calls_that_take_turns_carry_their_call() -> None:
    made, sent = outlet(apart=True)
    out, log = made.streams[0], logging.Logger("plugin")
    log.addHandler(LogHandler(made.line))

    async def hook(seq: int) -> None:
        lines = made.open(seq)
        out.write(f"{seq} begins ")
        await asyncio.sleep(0)
        log.info("%d is logged", seq)
        await asyncio.sleep(0)
        out.write(f"and {seq} ends")
        made.close(lines)

    async def both() -> None:
        await asyncio.gather(hook(7), hook(8))

    asyncio.run(both())
    assert [(line.seq, line.text) for line in sent] == [
        (7, "7 is logged"), (8, "8 is logged"), (7, "7 begins and 7 ends"), (8, "8 begins and 8 ends")]


def test_what_a_call_left_behind_prints_nothing_in_the_name_of_the_next() -> None:
    made, sent = outlet(apart=True)
    out = made.streams[0]

    async def leftover() -> None:
        while True:
            out.write("late\n")
            await asyncio.sleep(0)

    async def calls() -> None:
        first = made.open(1)
        task = asyncio.ensure_future(leftover())
        await asyncio.sleep(0)
        made.close(first)
        second = made.open(2)
        out.write("mine\n")
        await asyncio.sleep(0)
        made.close(second)
        task.cancel()

    asyncio.run(calls())
    assert [(line.seq, line.text) for line in sent] == [(1, "late"), (2, "mine")]


def test_one_call_at_a_time_has_its_own_number_of_lines_each_time() -> None:
    made, sent = outlet(apart=False)
    for seq in (LOADING, 0, 1):
        lines = made.open(seq)
        for _ in range(LINES_PER_CALL_MAX + 9):
            made.streams[1].write("x\n")
        made.streams[1].write("unfinished")
        made.close(lines)
        made.line("info", "between calls")
    assert [line.seq for line in sent] == [seq for seq in (LOADING, 0, 1) for _ in range(LINES_PER_CALL_MAX)]
    assert sent[-1].text.endswith("the rest is dropped")
