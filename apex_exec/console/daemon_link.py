"""The console's one connection to the daemon: every question and every order names the person, and the daemon decides.

What everybody with the same roles may see, and a page asks for every two seconds, is kept for a second.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import Any

from apex_exec.client.aio import AsyncClient
from apex_exec.client.errors import CallError, ConnectionLost
from apex_exec.console.sessions import Person
from apex_exec.errors import Code

LOOK_MS = 30_000
"""A question. The registrar may be started for it, and a full page of the ledger takes its time."""
PING_MS = 3_000
"""A daemon that has not said anything for a second is asked whether it is there, before anything else is."""
HEARD_SECONDS = 1.0
ACT_MS = 120_000
"""An order: enabling a plugin may load its code in the jail."""
TABLE_SECONDS = 300.0
"""The table of operations changes only with the daemon's version."""
KEPT_SECONDS = 1.0
KEPT_MAX = 64
WAITING_MAX = 64
"""Questions at once, since the daemon takes a hundred of one connection; above it a page says to try again."""


class Away(Exception):
    """The daemon does not answer. ``str()`` says what is known."""


class Refused(Exception):
    """The daemon refused. ``str()`` is its message, ``hint`` what it says to do, ``code`` and ``reason`` its words."""

    def __init__(self, error: CallError) -> None:
        super().__init__(error.message)
        self.code = error.code
        self.reason = str(error.details.get("reason", ""))
        self.hint = str(error.details.get("hint", ""))
        self.needed = str(error.details.get("needed", ""))


class DaemonLink:
    """One connection, which reconnects by itself. Make it in the running loop."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._client = AsyncClient(endpoint, max_message_bytes=64 * 1024 * 1024)
        self._room = asyncio.Semaphore(WAITING_MAX)
        self._kept: OrderedDict[tuple[str, tuple[str, ...]], tuple[float, Any]] = OrderedDict()
        self._heard = float("-inf")
        """When the daemon last answered, by the monotonic clock."""
        self._table: tuple[float, dict[str, str]] = (float("-inf"), {})

    def close(self) -> None:
        """Drops the connection."""
        self._client.close()

    async def look(self, person: Person, op: str, /, **args: Any) -> Any:
        """The answer to a question. Raises Away, Refused."""
        return await self._ask(person, op, args, LOOK_MS)

    async def act(self, person: Person, op: str, /, **args: Any) -> Any:
        """Has the daemon do something in the person's name. Raises Away, Refused."""
        done = await self._ask(person, op, args, ACT_MS)
        self._kept.clear()  # the next page shows what has become of it
        return done

    async def look_kept(self, person: Person, op: str) -> Any:
        """The answer to a question without arguments; one that somebody with the same roles got a moment ago will do.
        """
        key = op, tuple(sorted(person.roles))
        at, answer = self._kept.get(key, (float("-inf"), None))
        if time.monotonic() - at > KEPT_SECONDS:
            answer = await self.look(person, op)
            self._kept[key] = time.monotonic(), answer
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
        return answer

    async def roles_needed(self, person: Person) -> dict[str, str]:
        """Operation -> the role that it needs, as the daemon says: so that a page can say what a person may not do.
        Nothing is decided by it."""
        at, table = self._table
        if time.monotonic() - at > TABLE_SECONDS:
            answer = await self.look(person, "ops")
            table = {row["name"]: row["role"] for row in answer["operations"]}
            self._table = time.monotonic(), table
        return table

    async def _ask(self, person: Person, op: str, args: dict[str, Any], timeout_ms: int) -> Any:
        if self._room.locked():
            raise Away("too many people use the console at once; try again")
        actor = {"name": person.name, "roles": list(person.roles)}
        async with self._room:
            try:
                if time.monotonic() - self._heard > HEARD_SECONDS:
                    await self._client.request({"type": "ping"}, PING_MS)
                reply = await self._client.request(
                    {"type": "admin", "op": op, "args": args, "actor": actor}, timeout_ms)
                self._heard = time.monotonic()
            except ConnectionLost as error:
                self._heard = float("-inf")
                raise Away(str(error)) from None
            except CallError as error:
                self._heard = time.monotonic()
                if error.code == Code.SHUTTING_DOWN:
                    raise Away("the daemon is shutting down") from None
                raise Refused(error) from None
        return reply.get("result")
