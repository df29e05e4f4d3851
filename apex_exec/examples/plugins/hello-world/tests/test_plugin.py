"""The widget that greets."""

from plugin import plugin
from workers.fake import FakePlatform


def test_it_greets() -> None:
    (widget,) = FakePlatform(plugin).call("onDashboardLoad", {"dashboardId": "main"})["customWidgets"]
    assert widget["component"] == "HelloWorld"
    assert widget["props"] == {"message": "Hello from plugin!"}


def test_it_declares_what_the_manifest_says() -> None:
    assert (plugin.id, plugin.permissions, list(plugin.hooks)) == ("hello-world", ["ui:render"], ["onDashboardLoad"])
