"""Writes every login to the plugin's log."""

from typing import Any

from workers import HookContext, Plugin

plugin = Plugin(id="login-audit", version="1.0.0")


@plugin.hook("onAuthSuccess")
def on_auth(context: HookContext, params: dict[str, Any]) -> None:
    """Logs the session; returns nothing."""
    context.log.info("login of %s in session %s", params["userId"], params["sessionId"])
