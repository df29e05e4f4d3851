"""The specification's minimal plugin."""

from typing import Any

from workers import HookContext, Plugin

plugin = Plugin(id="hello-world", version="1.0.0", permissions=["ui:render"])


@plugin.hook("onDashboardLoad")
async def on_dashboard_load(context: HookContext, params: dict[str, Any]) -> dict[str, Any]:
    """One widget that greets."""
    widget = {"id": "hello-widget", "component": "HelloWorld", "props": {"message": "Hello from plugin!"}}
    return {"customWidgets": [widget]}
