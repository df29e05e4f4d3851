"""The widget that greets."""

import asyncio

from plugin import plugin


def test_it_greets() -> None:
    (widget,) = asyncio.run(plugin["hooks"]["onDashboardLoad"](None))["customWidgets"]
    assert widget["props"] == {"message": "Hello from plugin!"}
