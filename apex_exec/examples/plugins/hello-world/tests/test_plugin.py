"""The widget that greets."""

import asyncio

from plugin import on_dashboard_load, plugin


def test_it_greets():
    (widget,) = asyncio.run(on_dashboard_load(None, {"dashboardId": "main"}))["customWidgets"]
    assert widget["component"] == "HelloWorld"
    assert widget["props"] == {"message": "Hello from plugin!"}


def test_it_declares_what_the_manifest_says():
    assert (plugin.id, plugin.permissions, list(plugin.hooks)) == ("hello-world", ["ui:render"], ["onDashboardLoad"])
