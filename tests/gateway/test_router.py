"""The gateway's own places: none is lost by a call that ends early, and no plugin takes those of others."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec

from apex_exec.gateway import messages
from apex_exec.gateway.router import CALLS_MAX, Router

SENT = list[Any]


def router(folder: Path, sent: SENT) -> Router:
    return Router({
        "tables": {}, "data_url": f"sqlite:///{folder}/data.db", "prepared": "auto", "log_ahead": False, "hosts": [],
        "allow_private": False, "internal": {}, "ca_file": "", "origin": "test",
        "storage": {"url": f"sqlite:///{folder}/storage.db", "user_bytes": 1000, "plugin_bytes": 1000}}, sent.append)


def call(number: int, plugin: str, method: str = "fetch") -> messages.Call:
    params = msgspec.msgpack.encode({"url": "https://nowhere.example/"})
    return messages.Call(number, method, plugin, "u", (), (), time.monotonic_ns() + 10**10, params)


def test_a_call_that_is_cancelled_before_its_first_step_is_answered_and_leaves_its_place(tmp_path: Path) -> None:
    """A worker's call and its end come in one read: the task ended without a line of it, and its place was lost."""
    sent: SENT = []

    async def work() -> None:
        made = router(tmp_path, sent)
        for number in range(2 * CALLS_MAX):
            made.handlers[messages.Call](call(number, "hasty"))
            made.handlers[messages.Cancel](messages.Cancel(number))
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        ended = [one for one in sent if isinstance(one, messages.Failed)]
        assert [one.id for one in ended] == list(range(2 * CALLS_MAX))
        assert {one.code for one in ended} == {"cancelled"}, {one.code for one in ended}
        made.handlers[messages.Call](call(10_000, "other"))
        await asyncio.sleep(0.2)
        assert sent[-1].id == 10_000 and sent[-1].code == "host_not_allowed", "another plugin is served"
        await made.close()

    asyncio.run(work())


def test_no_plugin_holds_more_calls_than_are_left_for_all_others(tmp_path: Path) -> None:
    sent: SENT = []

    async def work() -> None:
        made = router(tmp_path, sent)
        for plugin in ("greedy", "also-greedy"):
            for number in range(CALLS_MAX):  # none of them has its first step yet
                made.handlers[messages.Call](call(hash((plugin, number)), plugin))
        full = [one for one in sent if isinstance(one, messages.Failed)]
        assert {one.code for one in full} == {"overloaded"}
        assert len(full) == 2 * CALLS_MAX - CALLS_MAX // 2 - CALLS_MAX // 4
        before = len(sent)
        made.handlers[messages.Call](call(1, "honest"))
        assert len(sent) == before, "there is a place for it"
        await made.close()

    asyncio.run(work())
