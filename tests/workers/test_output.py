"""What a plugin prints and logs belongs to the call whose code writes it, and to no other."""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar
from typing import Any

from workers import wire
from workers.runtime.output import LINES_PER_CALL_MAX, LogHandler, Outlet, SharedOutlet


def test_lines_of_calls_that_take_turns_carry_their_call() -> None:
    sent: list[wire.Log] = []
    call: ContextVar[int] = ContextVar("call", default=-1)
    made = SharedOutlet(sent.append, call.get)
    out, log = made.streams[0], logging.Logger("plugin")
    log.addHandler(LogHandler(made.line))

    async def late() -> None:
        await asyncio.sleep(0.01)
        out.write("too late\n")

    async def hook(seq: int) -> None:
        call.set(seq)
        made.open(seq)
        out.write(f"{seq} begins ")
        await asyncio.sleep(0)
        log.info("%d is logged", seq)
        left_behind = asyncio.ensure_future(late())
        await asyncio.sleep(0)
        out.write(f"and {seq} ends")
        made.close(seq)
        await left_behind

    async def both() -> None:
        await asyncio.gather(hook(7), hook(8))

    asyncio.run(both())
    assert [(line.seq, line.text) for line in sent] == [
        (7, "7 is logged"), (8, "8 is logged"), (7, "7 begins and 7 ends"), (8, "8 begins and 8 ends")]


def test_one_call_at_a_time_has_its_own_number_of_lines_each_time() -> None:
    sent: list[Any] = []
    made = Outlet(sent.append)
    for seq in (-1, 0, 1):
        made.open(seq)
        for _ in range(LINES_PER_CALL_MAX + 9):
            made.streams[1].write("x\n")
        made.close()
        made.line("info", "between calls")
    assert [line.seq for line in sent] == [seq for seq in (-1, 0, 1) for _ in range(LINES_PER_CALL_MAX)]
    assert sent[-1].text.endswith("the rest is dropped")
