"""Calls with an ``Idempotency-Key``: each is sent once, and a caller that sends it again gets the same answer.

Such a call goes on when its caller leaves: the key is there so that the caller can come back for the answer. It ends by
its deadline at the latest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from apex_exec.door import answers
from apex_exec.door.answers import JSON, PROBLEM, Answer, Problem
from apex_exec.door.answers_kept import AnswersKept, Full, Kept, Unusable
from apex_exec.errors import Code

log = logging.getLogger("apex_exec.door")
FULL_SECONDS = 60.0


class KeyedCalls:
    """Sends and remembers, with a store of its own. Make it in the running loop."""

    def __init__(self, store: AnswersKept) -> None:
        self._store = store
        self._running: dict[tuple[str, str], tuple[bytes, asyncio.Task[Answer]]] = {}

    async def answer(self, caller: str, key: str, digest: bytes, call: Callable[[], Any]) -> Answer:
        """The answer to the request with this key: of the call that is made, that runs, or that was made before.
        Raises Problem."""
        at = caller, key
        known, task = self._running.get(at, (digest, None))
        if known != digest:
            raise _another()
        if task is None:
            task = asyncio.get_running_loop().create_task(self._once(at, digest, call))
            self._running[at] = digest, task
            task.add_done_callback(lambda done: self._ended(at, done))
        return await asyncio.shield(task)

    async def settle(self) -> None:
        """Waits until every call that runs has its answer on disk."""
        while self._running:
            await asyncio.wait([task for _, task in self._running.values()])

    def _ended(self, at: tuple[str, str], task: asyncio.Task[Answer]) -> None:
        self._running.pop(at, None)
        if not task.cancelled():
            task.exception()  # its callers may all have left: nobody needs to look at it

    async def _once(self, at: tuple[str, str], digest: bytes, call: Callable[[], Any]) -> Answer:
        try:
            kept = await self._store.begin(*at, digest)
        except Full:
            raise answers.busy("the door has no room to keep more answers, so nothing was run; try again later",
                               "store_full", FULL_SECONDS) from None
        except Unusable as error:
            log.error("an idempotency key could not be stored: %s", error)
            raise answers.busy("the door cannot store the idempotency key, so nothing was run; try again later",
                               "store_unusable") from None
        if kept is not None:
            return self._again(kept, digest)
        try:
            answer: Answer = await call()
        except Problem:  # found before anything left
            with contextlib.suppress(Unusable):
                await self._store.forget(*at)
            raise
        except Exception:  # a fault of the door after the call has left: its outcome is not known
            with contextlib.suppress(Unusable):
                await self._store.leave(at[0])
            raise
        try:
            if answer.has_not_run:
                await self._store.forget(*at)
            elif answer.is_known:
                await self._store.finish(*at, answer.status, answer.body)
            else:
                await self._store.leave(at[0])
        except Unusable as error:  # this caller gets the answer; another attempt hears that the outcome is unknown
            log.error("the answer to a request with an idempotency key could not be stored: %s", error)
        return answer

    def _again(self, kept: Kept, digest: bytes) -> Answer:
        if kept.digest != digest:
            raise _another()
        if kept.status == 0:
            raise Problem(Code.CONFLICT, "a request with this key was sent, and its outcome is not known: check "
                          "whether it took effect before you send it with another key", reason="outcome_unknown",
                          started=True, retryable=False)
        return Answer(kept.status, kept.body, JSON if kept.status == 200 else PROBLEM, {"Idempotency-Replayed": "true"})


def _another() -> Problem:
    return Problem(Code.CONFLICT, "this idempotency key was used for another request; use a new key",
                   reason="key_reused")
