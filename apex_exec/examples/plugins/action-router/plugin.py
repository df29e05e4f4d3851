"""Answers the actions it knows and leaves the others to the next plugin."""

from workers import Plugin

plugin = Plugin(id="action-router", version="1.0.0")


@plugin.hook("onActionExecute")
def on_action(params):
    """``echo`` gives its context back."""
    known = params["action"] == "echo"
    return {"result": params["context"] if known else None, "metadata": {"handled": known}}
