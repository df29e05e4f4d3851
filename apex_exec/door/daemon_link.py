"""The door's two connections to the daemon: as a host for calls, and at the admin endpoint for tokens and the audit."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from apex_exec.client import protocol
from apex_exec.client.aio import AsyncClient
from apex_exec.client.errors import CallError, ConnectionLost
from apex_exec.door import answers
from apex_exec.door.answers import Problem
from apex_exec.door.callers import Caller, Tokens

ADMIN_MS = 10_000
TOKENS_SECONDS = 5.0
"""How old the list of tokens may be when one is used: a token that was revoked ends within this time."""
TOKENS_UNKNOWN_SECONDS = 1.0
"""The same if a token is not on the list. Its request waits for that, so that a new token counts from its first request
on and a flood of wrong ones asks the daemon no more often."""
FIRST_SECONDS = 2.0
"""How long a request waits for the first connection of all."""
log = logging.getLogger("apex_exec.door")


class DaemonLink:
    """Make it in the running loop. Both clients connect again by themselves."""

    def __init__(self, host: str, admin: str) -> None:
        self.host = AsyncClient(host)
        self._admin = AsyncClient(admin, max_message_bytes=64 * 1024 * 1024)
        self.tokens = Tokens()
        self._tokens_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self.trouble = ""
        """Why the list of tokens could not be had; "" if it could."""

    def close(self) -> None:
        """Drops both connections; the daemon cancels what is pending."""
        self.host.close()
        self._admin.close()

    @property
    def is_there(self) -> bool:
        """Whether the daemon's host endpoint is connected."""
        return self.host.is_connected

    async def hello(self) -> None:
        """Takes over the daemon's message limit. Without a daemon nothing happens."""
        try:
            await self.host.request(protocol.hello(), FIRST_SECONDS * 1000)
        except (CallError, ConnectionLost):
            return

    async def call(self, message: dict[str, Any], timeout_ms: float) -> dict[str, Any]:
        """One request of the host protocol and its reply. Raises Problem."""
        if not self.host.is_connected:
            raise answers.away("the door has no connection to it, since it is starting or has ended")
        try:
            return await self.host.request(message, timeout_ms)
        except CallError as error:
            raise answers.of_call(error) from None
        except ConnectionLost as error:
            raise answers.of_loss(error) from None

    async def audit(self, caller: Caller, after: int, limit: int, filter_: dict[str, Any]) -> dict[str, Any]:
        """A page of the ledger, in the caller's name. Raises Problem."""
        try:
            reply = await self._admin.request({
                "type": "admin", "op": "audit.read", "args": {"afterSeq": after, "limit": limit, "filter": filter_},
                "actor": {"name": caller.name[:200], "roles": ["operator"]}}, ADMIN_MS)
        except CallError as error:
            raise answers.of_call(error) from None
        except ConnectionLost as error:
            raise answers.away(str(error)) from None
        page: dict[str, Any] = reply["result"]
        return page

    async def token(self, secret: str) -> Caller | None:
        """The caller with this token. Raises Problem if the daemon has never given the list."""
        await self._refresh(TOKENS_SECONDS)
        found = self.tokens.find(secret, time.time_ns())
        if found is None:
            await asyncio.sleep(max(0.0, self._tokens_at + TOKENS_UNKNOWN_SECONDS - time.monotonic()))
            await self._refresh(TOKENS_UNKNOWN_SECONDS)
            found = self.tokens.find(secret, time.time_ns())
        if found is None and not self.tokens.revision:
            raise Problem("SHUTTING_DOWN", f"the daemon has not sent its list of tokens yet ({self.trouble}); try "
                                           "again in a second",
                          reason="tokens_unknown", retryable=True, headers={"Retry-After": "1"})
        return found

    async def _refresh(self, seconds: float) -> None:
        """Has the list of tokens be at most ``seconds`` old. While the daemon is away the last list counts: without it
        nothing can be called anyway."""
        if time.monotonic() - self._tokens_at <= seconds or (self.tokens.revision and not self._admin.is_connected):
            return
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask())
        await asyncio.shield(self._asking)

    async def _ask(self) -> None:
        try:
            reply = await self._admin.request(
                {"type": "admin", "op": "door.token.list", "args": {"revision": self.tokens.revision}},
                ADMIN_MS if not self.tokens.revision else FIRST_SECONDS * 1000)
            if reply["result"]["tokens"] is not None:
                self.tokens.replace(reply["result"]["revision"], reply["result"]["tokens"])
            self.trouble = ""
        except (CallError, ConnectionLost) as error:
            if str(error) != self.trouble:
                log.warning("the list of tokens could not be read from the daemon: %s", error)
            self.trouble = str(error)
        self._tokens_at = time.monotonic()
