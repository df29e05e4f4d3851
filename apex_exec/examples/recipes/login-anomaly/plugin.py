"""Reports logins that are unusual for a user: a country or a device that was not seen before.

What is usual is kept in the plugin's storage, for each user apart, and goes when the user is erased."""

import asyncio
from typing import Any

from workers import HookContext, Plugin

plugin = Plugin(id="login-anomaly", version="0.1.0", permissions=["data:read", "data:write", "events:emit"])

SESSION = "SELECT country, device FROM sessions WHERE id = $1"
KEY = "seen"
SEEN_MAX = 50


@plugin.hook("onAuthSuccess")
async def look(context: HookContext, params: dict[str, Any]) -> None:
    """Emits "login.anomaly" with the reasons, unless this is the user's first login."""
    rows, seen = await asyncio.gather(context.api.query(SESSION, [params["sessionId"]]),
                                      context.api.storage.get(KEY))
    if not rows:
        context.log.warning("the session is not in the table")
        return
    known = seen or {"country": [], "device": []}
    reasons = [f"new {what}" for what in ("country", "device") if rows[0][what] not in known[what]]
    if not reasons:
        return
    if seen is not None:
        await context.api.emit("login.anomaly", {"sessionId": params["sessionId"], "reasons": reasons})
    for what, values in known.items():
        known[what] = [rows[0][what], *(value for value in values if value != rows[0][what])][:SEEN_MAX]
    await context.api.storage.set(KEY, known)
