"""The specification's minimal plugin in its own form: a map with id, version, permissions and hooks."""

from typing import Any


async def on_dashboard_load(context: Any) -> dict[str, Any]:
    """One widget that greets."""
    return {
        "customWidgets": [
            {
                "id": "hello-widget",
                "component": "HelloWorld",
                "props": {"message": "Hello from plugin!"},
            },
        ],
    }


plugin: dict[str, Any] = {
    "id": "hello-world-dict",
    "version": "1.0.0",
    "permissions": ["ui:render"],
    "hooks": {"onDashboardLoad": on_dashboard_load},
}
